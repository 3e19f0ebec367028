//! Collects everything that is wrong with the files of a task, so that one message shows all of it.
//!
//! `definition`, `workload`, `settings_reader` and `check` add problems; `files` turns them into one failure. Reads no files.

use crate::base::value_reader::ValueProblem;
use crate::base::{Failure, yaml};

/// The most problems that one message lists. A wrong name in a definition may affect every workload.
const MAX_LISTED: usize = 20;

/// A file of a task: its text, and its name in messages.
#[derive(Clone, Copy)]
pub(super) struct TaskFile<'t> {
    /// Its path, or the path of the embedded copy.
    pub(super) origin: &'t str,
    pub(super) text: &'t str,
}

impl<'t> TaskFile<'t> {
    /// The text without a byte order mark.
    pub(super) fn new(origin: &'t str, text: &'t str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Self { origin, text }
    }

    /// A problem with a key, which may be empty. The message gets the file, the line and the key.
    pub(super) fn problem(&self, key: &str, message: impl AsRef<str>) -> Failure {
        let message = message.as_ref();
        let place = match yaml::line_of(self.text, key) {
            Some(line) => format!("{}:{line}", self.origin),
            None => self.origin.to_owned(),
        };
        if key.is_empty() || message.starts_with(&format!("unknown key `{key}`")) {
            return Failure::usage(format!("{place}: {message}"));
        }
        Failure::usage(format!("{place}: {key}: {message}"))
    }
}

/// The problems of one task.
#[derive(Default)]
pub(super) struct Problems {
    list: Vec<Failure>,
}

impl Problems {
    pub(super) fn push(&mut self, problem: Failure) {
        let is_known = |known: &Failure| known.message == problem.message;
        if !self.list.iter().any(is_known) {
            self.list.push(problem);
        }
    }

    /// Adds the problems that were found while values of a file were read.
    pub(super) fn extend(&mut self, file: &TaskFile<'_>, problems: Vec<ValueProblem>) {
        for ValueProblem { key, message, hint } in problems {
            let problem = file.problem(&key, message);
            self.push(match hint {
                Some(hint) => problem.hint(hint),
                None => problem,
            });
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn count(&self) -> usize {
        self.list.len()
    }

    /// Merges problems that differ in nothing but the line: a wrong name is on every line of a file.
    fn merge_lines(&mut self) {
        let mut merged: Vec<(String, Failure, usize)> = Vec::new();
        for problem in self.list.drain(..) {
            let kind = without_line(&problem.message);
            match merged.iter_mut().find(|(known, ..)| *known == kind) {
                Some((_, _, others)) => *others += 1,
                None => merged.push((kind, problem, 0)),
            }
        }
        let joined = merged.into_iter().map(|(_, problem, others)| {
            let message = match others {
                0 => return problem,
                1 => format!("{} (and on 1 more line)", problem.message),
                _ => format!("{} (and on {others} more lines)", problem.message),
            };
            Failure { message, ..problem }
        });
        self.list = joined.collect();
    }

    /// One failure for all problems; `None` if there is none. `task`: the task's name.
    pub(super) fn into_failure(mut self, task: &str) -> Option<Failure> {
        self.merge_lines();
        if self.list.len() < 2 {
            return self.list.pop();
        }
        let count = self.list.len();
        let mut text = format!("{count} problems in task `{task}`\n");
        for problem in self.list.iter().take(MAX_LISTED) {
            text += &format!("\n  {}", problem.message.replace('\n', "\n  "));
            if let Some(hint) = &problem.hint {
                text += &format!("\n      hint: {}", hint.replace('\n', "\n      "));
            }
        }
        if count > MAX_LISTED {
            text += &format!("\n  … and {} more", count - MAX_LISTED);
        }
        let failure = Failure::usage(text);
        let is_missing = |problem: &&Failure| problem.message.ends_with("` is missing");
        Some(if self.list.iter().filter(is_missing).count() > 1 {
            failure.hint(
                "`kforge tasks new DEFINITION.json` writes all files of a task, with every key",
            )
        } else {
            failure
        })
    }
}

/// A message without the line in its `FILE:LINE: `.
fn without_line(message: &str) -> String {
    let Some((place, rest)) = message.split_once(": ") else {
        return message.to_owned();
    };
    match place.rsplit_once(':') {
        Some((file, line)) if line.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("{file}: {rest}")
        }
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_problem_is_shown_as_it_is_and_several_as_a_list() {
        let file = TaskFile::new("t/task.yaml", "\u{feff}a: 1\nb:\n  c: 2\n");
        let mut problems = Problems::default();
        problems.push(file.problem("b.c", "too large").hint("make it smaller"));
        problems.push(file.problem("b.c", "too large"));
        let one = problems.into_failure("t").unwrap();
        assert_eq!(
            one.to_string(),
            "t/task.yaml:3: b.c: too large\n\nhint: make it smaller"
        );
        let mut problems = Problems::default();
        problems.push(file.problem("b.c", "too large").hint("make it smaller"));
        problems.push(file.problem("", "empty"));
        for count in 0..30 {
            problems.push(file.problem("a", format!("problem {count}")));
        }
        let text = problems.into_failure("t").unwrap().to_string();
        assert!(
            text.starts_with("32 problems in task `t`\n\n  t/task.yaml:3: b.c: too large\n      hint: make it smaller\n  t/task.yaml: empty\n  t/task.yaml:1: a: problem 0\n"),
            "{text}"
        );
        assert!(text.ends_with("\n  … and 12 more"), "{text}");
        assert!(Problems::default().into_failure("t").is_none());
        let mut problems = Problems::default();
        for line in 1..=3 {
            problems.push(Failure::usage(format!(
                "t/w.jsonl:{line}: unknown axis `a`"
            )));
        }
        let text = problems.into_failure("t").unwrap().to_string();
        assert_eq!(text, "t/w.jsonl:1: unknown axis `a` (and on 2 more lines)");
    }
}
