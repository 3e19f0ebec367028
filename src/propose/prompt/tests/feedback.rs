//! What verdicts become, and what is never told.

use super::*;
use crate::event::{Failed, FailedReason};
use crate::task::embedded_names;
use crate::verdict::Status;

#[test]
fn feedback_covers_every_status_except_harness_error() {
    let mut told = Vec::new();
    let templates = Templates::embedded().unwrap();
    let device = h200();
    let source: String = (1..60)
        .map(|line| format!("// this is line {line}\n"))
        .collect();
    for verdict in verdicts() {
        let task = task(&verdict.task);
        let Some(feedback) = Feedback::from_verdict(&verdict, &task) else {
            assert_eq!(verdict.status, Status::HarnessError);
            continue;
        };
        assert_ne!(verdict.status, Status::HarnessError);
        told.push(verdict.status);
        let kept = serde_json::to_string(&feedback).unwrap();
        assert!(
            kept.len() <= 2048,
            "{}: {} bytes",
            verdict.kernel,
            kept.len()
        );
        assert_eq!(
            serde_json::from_str::<Feedback>(&kept).unwrap(),
            feedback,
            "{kept}"
        );
        let parents = [shown_kernel(
            7,
            &source,
            Some(&feedback),
            KernelLabel::Parent,
        )];
        let asked = PromptInput {
            operator: Operator::Repair,
            parents: &parents,
            ..prompt_input(&task, &device)
        };
        let prompt = render(&asked, &templates).unwrap();
        let text = section_text(&prompt, "parents");
        assert!(text.contains(&format!("`{}`: ", verdict.status)), "{text}");
        if let Some(line) = verdict.evidence.as_ref().and_then(|evidence| evidence.line) {
            assert!(
                text.contains(&format!("{line}: // this is line {line}\n")),
                "{text}"
            );
        }
        for seed in verdict.seeds.iter().chain(
            verdict
                .evidence
                .as_ref()
                .and_then(|found| found.seed.as_ref()),
        ) {
            assert!(
                !prompt.document().contains(&seed.to_string()),
                "{}: the seed is told",
                verdict.kernel
            );
        }
    }
    told.dedup();
    let mut all = told.clone();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 22, "every status but `harness_error`: {all:?}");
}

#[test]
fn hidden_shapes_and_regimes_are_never_named() {
    let templates = Templates::embedded().unwrap();
    let device = h200();
    for kernel in ["hidden_regime.cu", "hidden_shape.cu"] {
        let verdict = verdict(kernel);
        let task = task(&verdict.task);
        let feedback = Feedback::from_verdict(&verdict, &task).unwrap();
        let parents = [shown_kernel(1, "x", Some(&feedback), KernelLabel::Parent)];
        let asked = PromptInput {
            operator: Operator::Edit,
            parents: &parents,
            ..prompt_input(&task, &device)
        };
        let prompt = render(&asked, &templates).unwrap();
        for secret in [
            "large_rows",
            "hidden-",
            "131",
            "697",
            "91403",
            "91307",
            "5120",
            "74859",
            "987654321987",
        ] {
            assert!(
                !section_text(&prompt, "parents").contains(secret),
                "{secret}: {}",
                section_text(&prompt, "parents")
            );
            assert!(
                !serde_json::to_string(&feedback).unwrap().contains(secret),
                "{secret}"
            );
        }
        assert!(section_text(&prompt, "parents").contains("not told"));
    }
    for name in embedded_names() {
        let task = task(name);
        let prompt = render(&prompt_input(&task, &device), &templates)
            .unwrap()
            .document();
        for regime in task
            .settings
            .regimes
            .iter()
            .flat_map(|regimes| regimes.keys())
        {
            // What the definition itself calls so is no secret.
            if task.definition.inputs.contains_key(regime)
                || task.definition.reference.contains(regime.as_str())
            {
                continue;
            }
            let code = format!("`{regime}`");
            assert!(
                !prompt.contains(&code) && !prompt.contains(&format!("{regime}:")),
                "{name}: {regime}"
            );
        }
        for [low, high] in task.settings.hidden.values() {
            assert!(!prompt.contains(&format!("[{low}, {high}]")), "{name}");
        }
    }
}

#[test]
fn gpu_feedback_reports_speed_and_bound() {
    let verdict = verdict("gpu_parent.cu");
    let task = task("gdn_decode");
    let device = h200();
    let feedback = Feedback::from_verdict(&verdict, &task).unwrap();
    let text = feedback_text::describe_feedback(&feedback, "", &prompt_input(&task, &device));
    insta::assert_snapshot!(text, @r"
    `passed`: it is correct, and was measured. 1.03x (3 % faster) of the baseline `fla` over all workloads (95 % interval 1.027 to 1.035).
    - `b1`: 0.85x (15 % slower), 3.21 us against 2.73 us; 7.6 % of the roofline: latency-bound, too little work to fill the device; 329 GB/s of 4.30 TB/s (1.05 MB at least)
    - `b4`: 1.19x (19 % faster), 3.25 us against 3.86 us; 30 % of the roofline, memory-bound: 1.30 TB/s of 4.30 TB/s (4.22 MB at least)
    - `b8`: 1.14x (14 % faster), 4.44 us against 5.06 us; 44 % of the roofline, memory-bound: 1.90 TB/s of 4.30 TB/s (8.44 MB at least)
    - `b64`: 0.98x (2 % slower), 20.4 us against 20.0 us; 77 % of the roofline, memory-bound: 3.31 TB/s of 4.30 TB/s (67.5 MB at least)
    - compiler: 40 registers a thread, 16 bytes spilled a thread, 2048 bytes of shared memory a block, occupancy 75 %
    - line 31: global load of 4 bytes a thread touches 32.0 sectors of 32 bytes a warp, where 4 would do
    - line 40: shared store of 4 bytes a thread takes 4.00 times the passes over the banks that it needs
    - counters, `gdn_decode<4>` on `b64`: multiprocessors busy 21 %, memory system 71 %, DRAM 70 %, L1 hits 2 %, L2 hits 33 %, warps resident 62 %, tensor cores 0 %, stalled on global memory 81 %, stalled on shared memory 1 %, stalled at barriers 0 %
    - error: at most 3.0 % of the tolerance
    ");
}

#[test]
fn wrong_element_is_reported_by_its_index() {
    let verdict = verdict("nondeterministic.cu");
    let task = task("softmax");
    let feedback = Feedback::from_verdict(&verdict, &task).unwrap();
    let device = h200();
    let text = feedback_text::describe_feedback(&feedback, "", &prompt_input(&task, &device));
    assert!(
        text.contains(
            "- first wrong element: `output`[1, 43]: expected 1.698368e-3, found 0.00179\n"
        ),
        "{text}"
    );
}

#[test]
fn change_from_parent_is_described() {
    let task = task("gdn_decode");
    let of = |kernel| Feedback::from_verdict(&verdict(kernel), &task).unwrap();
    let (parent, child) = (of("gpu_parent.cu"), of("gpu_child.cu"));
    insta::assert_snapshot!(child.describe_change_from(&parent), @"1.22x (22 % faster) of the parent's speed, speed on `b1` +43 %, on `b64` -6 %; now 1.26x (26 % faster) of the baseline");
    insta::assert_snapshot!(parent.describe_change_from(&parent), @"no difference that could be measured (within 0.6 %); now 1.03x (3 % faster) of the baseline");
    let race = Feedback::from_verdict(&verdict("race_reused_buffer.cu"), &task).unwrap();
    let wrong = Feedback::from_verdict(&verdict("wrong_output_zeros.cu"), &task).unwrap();
    assert!(
        race.describe_change_from(&parent)
            .starts_with("broke it, `race`: two threads")
    );
    assert!(
        parent
            .describe_change_from(&race)
            .starts_with("passes now (the parent: `race`), ")
    );
    assert!(race.describe_change_from(&race).starts_with("still `race`"));
    assert!(
        race.describe_change_from(&wrong)
            .starts_with("`race` where the parent was `wrong_output`")
    );
    let failed = |reason, of| Failed {
        step: 3,
        reason,
        of,
        detail: None,
        kernel: None,
        edits: crate::event::EditCounts::default(),
    };
    assert_eq!(
        describe_failed_step(&failed(FailedReason::Duplicate, Some(2))),
        "the same code as step 2"
    );
    assert_eq!(
        describe_failed_step(&failed(FailedReason::NoOp, None)),
        "nothing was changed"
    );
}
