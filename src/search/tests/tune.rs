//! Tests of `tune` with hand-written events: propose once, then edit; repair what does not pass; restart from the best.

use super::*;

/// A tuner with one model. Its steps come one after the other.
struct Tuner {
    search: Search,
    next: u64,
}

impl Tuner {
    fn new(restart_after: u64, starts: &[&str]) -> Self {
        let settings = SearchSettings {
            mode: SearchMode::Tune,
            restart_after,
            features: IndexMap::new(),
            ..SearchSettings::default()
        };
        let starts: Vec<String> = starts.iter().map(|name| (*name).to_owned()).collect();
        let model_pool = ModelPool {
            models: vec![("model".to_owned(), 1.0)],
            cards: Vec::new(),
        };
        Self {
            search: Search::new(&settings, 7, 1, u64::MAX, &starts).with_models(model_pool),
            next: 1,
        }
    }

    /// The operator and the parents of the next brief, as text.
    fn next_brief(&self) -> String {
        let brief = self.search.ask(self.next).unwrap();
        let parents: Vec<_> = brief.parents.iter().map(u64::to_string).collect();
        format!("{} {}", brief.operator.name(), parents.join(","))
            .trim_end()
            .to_owned()
    }

    fn judge_next(&mut self, verdict: Verdict) {
        let step = self.next;
        let brief = self.search.ask(step).unwrap();
        let kernel = Digest::of(format!("kernel {step}"));
        self.search.tell(&Event::Asked(brief.clone()));
        self.search.tell(&Event::Proposed(Proposed {
            form: None,
            edits: Default::default(),
            shingles: None,
            tried: None,
            constraints: Vec::new(),
            expected: None,
            step,
            kernel,
            operator: brief.operator,
            parents: brief.parents,
            detail: String::new(),
            family: kernel,
            point: IndexMap::new(),
            space: IndexMap::new(),
        }));
        self.search.tell(&Event::Judged(Judged { step, verdict }));
        self.next += 1;
    }

    fn pass_next(&mut self, speedup: f64) {
        self.judge_next(verdict(Status::Passed, Some(speedup), 0.001, 64.0));
    }

    fn fail_next(&mut self, status: Status) {
        self.judge_next(verdict(status, None, 0.0, 64.0));
    }

    /// The next step brings no candidate.
    fn miss_next(&mut self, reason: FailedReason) {
        let step = self.next;
        let brief = self.search.ask(step).unwrap();
        self.search.tell(&Event::Asked(brief));
        self.search.tell(&Event::Failed(Failed {
            code: None,
            seconds: None,
            step,
            reason,
            of: (reason == FailedReason::Duplicate).then_some(1),
            detail: None,
            kernel: None,
            edits: Default::default(),
        }));
        self.next += 1;
    }
}

#[test]
fn a_kernel_is_proposed_once_then_the_best_is_edited() {
    let mut tuner = Tuner::new(3, &[]);
    assert_eq!(tuner.next_brief(), "propose");
    assert_eq!(tuner.search.ask(2), None, "one step at a time");
    tuner.pass_next(1.0);
    assert_eq!(tuner.next_brief(), "edit 1");
    tuner.pass_next(1.5);
    assert_eq!(tuner.next_brief(), "edit 2");
    // A slower kernel is not a failure, and is not edited either.
    tuner.pass_next(1.2);
    assert_eq!(tuner.next_brief(), "edit 2");
    tuner.pass_next(2.0);
    assert_eq!(tuner.next_brief(), "edit 4");
    let model = tuner.search.ask(5).unwrap().model.unwrap();
    assert_eq!((model.name.as_str(), model.known), ("model", 4));
}

#[test]
fn failures_are_repaired_until_restart_after_then_the_best_is_edited() {
    let mut tuner = Tuner::new(3, &[]);
    tuner.pass_next(1.0);
    for _ in 0..2 {
        // Three failures in a row: the edit and two repairs.
        let first = tuner.next;
        assert_eq!(tuner.next_brief(), "edit 1");
        tuner.fail_next(Status::WrongOutput);
        assert_eq!(tuner.next_brief(), format!("repair {first}"));
        tuner.fail_next(Status::CompileError);
        assert_eq!(tuner.next_brief(), format!("repair {}", first + 1));
        tuner.fail_next(Status::Race);
    }
    assert_eq!(tuner.next_brief(), "edit 1");
    tuner.fail_next(Status::WrongOutput);
    let broken = tuner.next - 1;
    assert_eq!(tuner.next_brief(), format!("repair {broken}"));
    // A repair that passes resets the count.
    tuner.pass_next(1.1);
    assert_eq!(tuner.next_brief(), format!("edit {}", broken + 1));
    tuner.fail_next(Status::WrongOutput);
    assert_eq!(tuner.next_brief(), format!("repair {}", broken + 2));
}

#[test]
fn a_step_without_a_candidate_counts_as_a_failure_and_keeps_the_broken_kernel() {
    let mut tuner = Tuner::new(3, &[]);
    tuner.pass_next(1.0);
    for reason in [FailedReason::NoOp, FailedReason::EditMissed] {
        tuner.miss_next(reason);
        assert_eq!(tuner.next_brief(), "edit 1");
    }
    // The third failure in a row: its kernel is not repaired.
    tuner.fail_next(Status::WrongOutput);
    assert_eq!(tuner.next_brief(), "edit 1");
    tuner.fail_next(Status::WrongOutput);
    assert_eq!(tuner.next_brief(), "repair 5");
    tuner.miss_next(FailedReason::EditMissed);
    assert_eq!(tuner.next_brief(), "repair 5");
    tuner.miss_next(FailedReason::Duplicate);
    // A broken kernel from before the restart is never repaired.
    assert_eq!(tuner.next_brief(), "edit 1");
    tuner.miss_next(FailedReason::NoReply);
    assert_eq!(tuner.next_brief(), "edit 1");
}

#[test]
fn a_new_kernel_is_proposed_while_nothing_has_passed() {
    let mut tuner = Tuner::new(2, &[]);
    for _ in 0..3 {
        assert_eq!(tuner.next_brief(), "propose");
        tuner.fail_next(Status::CompileError);
        assert_eq!(tuner.next_brief(), format!("repair {}", tuner.next - 1));
        tuner.fail_next(Status::WrongOutput);
    }
    assert_eq!(tuner.next_brief(), "propose");
    tuner.miss_next(FailedReason::Truncated);
    assert_eq!(tuner.next_brief(), "propose");
}

#[test]
fn inconclusive_and_unsupported_kernels_are_not_repaired() {
    for status in [Status::Inconclusive, Status::Unsupported] {
        let mut tuner = Tuner::new(3, &[]);
        tuner.fail_next(status);
        assert_eq!(tuner.next_brief(), "propose", "{status}");
        tuner.pass_next(1.0);
        tuner.fail_next(status);
        assert_eq!(tuner.next_brief(), "edit 2", "{status}");
    }
}

#[test]
fn restart_after_one_failure_repairs_nothing() {
    let mut tuner = Tuner::new(1, &[]);
    tuner.pass_next(1.0);
    tuner.fail_next(Status::WrongOutput);
    assert_eq!(tuner.next_brief(), "edit 1");
}

#[test]
fn a_warm_start_is_edited_or_repaired_first() {
    let mut tuner = Tuner::new(3, &["from best"]);
    let brief = tuner.search.ask(1).unwrap();
    assert_eq!(
        (brief.operator, brief.start.as_deref()),
        (Operator::Start, Some("from best"))
    );
    tuner.pass_next(1.3);
    assert_eq!(tuner.next_brief(), "edit 1");

    let mut tuner = Tuner::new(3, &["from best"]);
    tuner.fail_next(Status::WrongOutput);
    assert_eq!(tuner.next_brief(), "repair 1");
}

#[test]
fn repair_rounds_repeat_while_nothing_passes() {
    let mut tuner = Tuner::new(3, &[]);
    tuner.pass_next(1.0);
    for step in 2..=900 {
        let expected = match step % 3 {
            2 => "edit 1".to_owned(),
            _ => format!("repair {}", step - 1),
        };
        assert_eq!(tuner.next_brief(), expected, "step {step}");
        tuner.fail_next(Status::WrongOutput);
    }
}
