//! `tune`, told by hand: write once, then edit; mend what does not pass, and give that up for the best.

use super::*;

/// A tuner with one model, whose steps are told one after the other.
struct Tuner {
    search: Search,
    next: u64,
}

impl Tuner {
    fn new(back_after: u64, starts: &[&str]) -> Self {
        let settings = Settings {
            mode: Mode::Tune,
            back_after,
            features: IndexMap::new(),
            ..Settings::default()
        };
        let starts: Vec<String> = starts.iter().map(|name| (*name).to_owned()).collect();
        let askable = Askable {
            models: vec![("model".to_owned(), 1.0)],
            cards: Vec::new(),
        };
        Self {
            search: Search::asking(&settings, 7, 1, u64::MAX, &starts, askable),
            next: 1,
        }
    }

    /// What the next step is asked, in a few letters.
    fn asked(&self) -> String {
        let brief = self.search.ask(self.next).unwrap();
        let parents: Vec<_> = brief.parents.iter().map(u64::to_string).collect();
        format!("{} {}", brief.operator.name(), parents.join(","))
            .trim_end()
            .to_owned()
    }

    fn answer(&mut self, verdict: Verdict) {
        let step = self.next;
        let brief = self.search.ask(step).unwrap();
        let kernel = Digest::of(format!("kernel {step}"));
        self.search.tell(&Event::Asked(brief.clone()));
        self.search.tell(&Event::Proposed(Proposed {
            edits: Default::default(),
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

    fn passes(&mut self, speedup: f64) {
        self.answer(verdict(Status::Passed, Some(speedup), 0.001, 64.0));
    }

    fn fails(&mut self, status: Status) {
        self.answer(verdict(status, None, 0.0, 64.0));
    }

    /// No candidate came of it.
    fn misses(&mut self, reason: FailedReason) {
        let step = self.next;
        let brief = self.search.ask(step).unwrap();
        self.search.tell(&Event::Asked(brief));
        self.search.tell(&Event::Failed(Failed {
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
fn a_kernel_is_written_once_and_the_best_is_edited_from_then_on() {
    let mut tuner = Tuner::new(3, &[]);
    assert_eq!(tuner.asked(), "propose");
    assert_eq!(tuner.search.ask(2), None, "one step at a time");
    tuner.passes(1.0);
    assert_eq!(tuner.asked(), "edit 1");
    tuner.passes(1.5);
    assert_eq!(tuner.asked(), "edit 2");
    // Slower is no failure, and no way on either.
    tuner.passes(1.2);
    assert_eq!(tuner.asked(), "edit 2");
    tuner.passes(2.0);
    assert_eq!(tuner.asked(), "edit 4");
    let model = tuner.search.ask(5).unwrap().model.unwrap();
    assert_eq!((model.name.as_str(), model.known), ("model", 4));
}

#[test]
fn what_does_not_pass_is_mended_and_after_so_many_failures_the_best_is_taken_up_again() {
    let mut tuner = Tuner::new(3, &[]);
    tuner.passes(1.0);
    for _ in 0..2 {
        // Three failures in a row: the edit, and two rounds of mending.
        let first = tuner.next;
        assert_eq!(tuner.asked(), "edit 1");
        tuner.fails(Status::WrongOutput);
        assert_eq!(tuner.asked(), format!("repair {first}"));
        tuner.fails(Status::CompileError);
        assert_eq!(tuner.asked(), format!("repair {}", first + 1));
        tuner.fails(Status::Race);
    }
    assert_eq!(tuner.asked(), "edit 1");
    tuner.fails(Status::WrongOutput);
    let broken = tuner.next - 1;
    assert_eq!(tuner.asked(), format!("repair {broken}"));
    // Mended: the count begins anew.
    tuner.passes(1.1);
    assert_eq!(tuner.asked(), format!("edit {}", broken + 1));
    tuner.fails(Status::WrongOutput);
    assert_eq!(tuner.asked(), format!("repair {}", broken + 2));
}

#[test]
fn a_step_without_a_candidate_is_a_failure_too_and_leaves_what_is_broken_to_be_mended() {
    let mut tuner = Tuner::new(3, &[]);
    tuner.passes(1.0);
    for reason in [FailedReason::NoOp, FailedReason::EditMissed] {
        tuner.misses(reason);
        assert_eq!(tuner.asked(), "edit 1");
    }
    // The third in a row: what it leaves is not mended.
    tuner.fails(Status::WrongOutput);
    assert_eq!(tuner.asked(), "edit 1");
    tuner.fails(Status::WrongOutput);
    assert_eq!(tuner.asked(), "repair 5");
    tuner.misses(FailedReason::EditMissed);
    assert_eq!(tuner.asked(), "repair 5");
    tuner.misses(FailedReason::Duplicate);
    // A kernel from before the turn is never gone back to.
    assert_eq!(tuner.asked(), "edit 1");
    tuner.misses(FailedReason::NoReply);
    assert_eq!(tuner.asked(), "edit 1");
}

#[test]
fn another_is_written_where_nothing_has_ever_passed() {
    let mut tuner = Tuner::new(2, &[]);
    for _ in 0..3 {
        assert_eq!(tuner.asked(), "propose");
        tuner.fails(Status::CompileError);
        assert_eq!(tuner.asked(), format!("repair {}", tuner.next - 1));
        tuner.fails(Status::WrongOutput);
    }
    assert_eq!(tuner.asked(), "propose");
    tuner.misses(FailedReason::Truncated);
    assert_eq!(tuner.asked(), "propose");
}

#[test]
fn what_no_model_can_mend_is_not_given_to_one() {
    for status in [Status::Inconclusive, Status::Unsupported] {
        let mut tuner = Tuner::new(3, &[]);
        tuner.fails(status);
        assert_eq!(tuner.asked(), "propose", "{status}");
        tuner.passes(1.0);
        tuner.fails(status);
        assert_eq!(tuner.asked(), "edit 2", "{status}");
    }
}

#[test]
fn with_one_failure_in_a_row_nothing_is_mended() {
    let mut tuner = Tuner::new(1, &[]);
    tuner.passes(1.0);
    tuner.fails(Status::WrongOutput);
    assert_eq!(tuner.asked(), "edit 1");
}

#[test]
fn a_warm_start_is_edited_at_once_or_mended() {
    let mut tuner = Tuner::new(3, &["from best"]);
    let brief = tuner.search.ask(1).unwrap();
    assert_eq!(
        (brief.operator, brief.start.as_deref()),
        (Operator::Start, Some("from best"))
    );
    tuner.passes(1.3);
    assert_eq!(tuner.asked(), "edit 1");

    let mut tuner = Tuner::new(3, &["from best"]);
    tuner.fails(Status::WrongOutput);
    assert_eq!(tuner.asked(), "repair 1");
}

#[test]
fn however_long_nothing_passes_the_rounds_go_on() {
    let mut tuner = Tuner::new(3, &[]);
    tuner.passes(1.0);
    for step in 2..=900 {
        let expected = match step % 3 {
            2 => "edit 1".to_owned(),
            _ => format!("repair {}", step - 1),
        };
        assert_eq!(tuner.asked(), expected, "step {step}");
        tuner.fails(Status::WrongOutput);
    }
}
