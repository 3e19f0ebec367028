//! Feedback from verdicts, and what it never reveals.

use super::*;
use crate::event::{Failed, FailedReason};
use crate::task::embedded_names;
use crate::verdict::{SERIALIZED_WGMMA, Status, WIDE_FENCES};

#[test]
fn feedback_covers_every_status_except_harness_error() {
    let mut statuses = Vec::new();
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
        statuses.push(verdict.status);
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
                "{}: the prompt contains the seed",
                verdict.kernel
            );
        }
    }
    statuses.sort_unstable();
    statuses.dedup();
    assert_eq!(
        statuses.len(),
        22,
        "every status but `harness_error`: {statuses:?}"
    );
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
        assert!(section_text(&prompt, "parents").contains("not shown"));
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
            // A name that the definition itself uses is not secret.
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
    let mut verdict = verdict("gpu_parent.cu");
    verdict.features.insert(WIDE_FENCES.to_owned(), 2.0);
    let task = task("gdn_decode");
    let device = h200();
    let feedback = Feedback::from_verdict(&verdict, &task).unwrap();
    let text = feedback_text::describe_feedback(&feedback, "", &prompt_input(&task, &device));
    insta::assert_snapshot!(text, @r"
    `passed`: correct and timed. Speedup over the baseline `fla`: 1.03x (3 % faster), 95 % interval 1.027 to 1.035, over all workloads.
    - `b1`: 0.85x (takes 1.18x the baseline's time), median 3.21 us, baseline's median 2.73 us; 7.6 % of the roofline, latency-bound, too little work to fill the device: 329 GB/s of 4.30 TB/s (at least 1.05 MB)
    - `b4`: 1.19x (19 % faster), median 3.25 us, baseline's median 3.86 us; 30 % of the roofline, memory-bound: 1.30 TB/s of 4.30 TB/s (at least 4.22 MB)
    - `b8`: 1.14x (14 % faster), median 4.44 us, baseline's median 5.06 us; 44 % of the roofline, memory-bound: 1.90 TB/s of 4.30 TB/s (at least 8.44 MB)
    - `b64`: 0.98x (takes 1.02x the baseline's time), median 20.4 us, baseline's median 20.0 us; 77 % of the roofline, memory-bound: 3.31 TB/s of 4.30 TB/s (at least 67.5 MB)
    - compiler: 40 registers per thread, 16 bytes spilled per thread, 2048 bytes of shared memory per block, occupancy 75 %
    - instructions that release or fence beyond the block (scope cluster, gpu or sys): 2; each waits for the whole device, so keep them out of loops
    - line 31: global load of 4 bytes per thread touches 32.0 sectors of 32 bytes per warp; 4 would suffice
    - line 40: shared store of 4 bytes per thread takes 4.00x the passes over the banks that it needs
    - counters, `gdn_decode<4>` on `b64`: multiprocessors busy 21 %, memory system 71 %, DRAM 70 %, L1 hits 2 %, L2 hits 33 %, warps resident 62 %, tensor cores 0 %, stalled on global memory 81 %, stalled on shared memory 1 %, stalled at barriers 0 %
    - largest error: 3.0 % of the tolerance
    ");
}

#[test]
fn kernel_far_below_the_roofline_is_not_called_memory_bound() {
    let mut verdict = verdict("gpu_parent.cu");
    let slowest = (verdict.workloads.iter_mut()).find(|workload| workload.id == "b64");
    let slowest = slowest.unwrap();
    slowest.candidate_us.as_mut().unwrap().median = 403.0;
    let task = task("gdn_decode");
    let device = h200();
    let feedback = Feedback::from_verdict(&verdict, &task).unwrap();
    let text = feedback_text::describe_feedback(&feedback, "", &prompt_input(&task, &device));
    let expected = "median 403 us, baseline's median 20.0 us; 3.9 % of the roofline, far below it because of latency, the access \
                    pattern or too little parallelism: 168 GB/s of 4.30 TB/s";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn serialized_products_are_reported() {
    let mut verdict = verdict("gpu_parent.cu");
    let task = task("gdn_decode");
    let device = h200();
    let text_of = |verdict: &Verdict| {
        let feedback = Feedback::from_verdict(verdict, &task).unwrap();
        feedback_text::describe_feedback(&feedback, "", &prompt_input(&task, &device))
    };
    assert!(!text_of(&verdict).contains("wgmma"));
    verdict.features.insert(SERIALIZED_WGMMA.to_owned(), 1.0);
    assert!(text_of(&verdict).contains("- assembler: `wgmma` products run one after the other"));
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
    insta::assert_snapshot!(child.describe_change_from(&parent), @"1.22x the parent's speed (22 % faster), by workload `b1` 1.43x, `b64` 0.94x; now 1.26x the baseline's speed (26 % faster)");
    insta::assert_snapshot!(parent.describe_change_from(&parent), @"no measurable difference (within 0.6 %); now 1.03x the baseline's speed (3 % faster)");
    let race = Feedback::from_verdict(&verdict("race_reused_buffer.cu"), &task).unwrap();
    let wrong = Feedback::from_verdict(&verdict("wrong_output_zeros.cu"), &task).unwrap();
    assert!(
        race.describe_change_from(&parent)
            .starts_with("fails now, `race`: two threads")
    );
    assert!(
        parent
            .describe_change_from(&race)
            .starts_with("passes now (the parent: `race`), ")
    );
    assert!(race.describe_change_from(&race).starts_with("still `race`"));
    assert!(
        race.describe_change_from(&wrong)
            .starts_with("`race`, the parent `wrong_output`: ")
    );
    let failed = |reason, of| Failed {
        code: None,
        seconds: None,
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
        "nothing changed"
    );
}
