//! What prompts say for each backend and each kind of step, and that their example replies are valid.

use super::*;
use crate::propose::reply::{AppliedEdits, ReplyContent, apply_edits, parse_reply};
use crate::task::Definition;

/// The texts between `<example>` and `</example>`.
fn examples(text: &str) -> Vec<&str> {
    let parts = text.split("<example>\n").skip(1);
    parts
        .map(|part| part.split("</example>").next().unwrap())
        .collect()
}

fn scale_definition() -> Definition {
    let text = r#"{"name": "scale", "op_type": "scale", "axes": {"n": {"type": "var"}},
        "inputs": {"x": {"shape": ["n"], "dtype": "float32"}}, "outputs": {"output": {"shape": ["n"], "dtype": "float32"}},
        "reference": "def run(x):\n    return 2 * x\n"}"#;
    Definition::parse(text, "scale").unwrap()
}

#[test]
fn example_replies_are_read_as_what_they_show() {
    let templates = Templates::embedded().unwrap();
    let task = task("softmax");
    let device = h200();
    for backend in ["cpu", "cuda", "metal"] {
        for max_edits in [1, 2] {
            let input = PromptInput {
                backend,
                max_edits,
                ..prompt_input(&task, &device)
            };
            let prompt = render(&input, &templates).unwrap();
            let examples = examples(section_text(&prompt, "reply"));
            let [new_kernel, edits, no_edit] = examples[..] else {
                panic!("{} example replies", examples.len())
            };
            let read = parse_reply(new_kernel, true);
            let ReplyContent::Code(source) = read.content else {
                panic!("{backend}: {:?}", read.content)
            };
            Kernel::parse(&source, &scale_definition()).unwrap();
            assert!(read.trace.unwrap().expected_percent.is_some());

            let read = parse_reply(edits, true);
            let ReplyContent::Edits(edits) = read.content else {
                panic!("{backend}: {:?}", read.content)
            };
            assert_eq!(edits.len(), max_edits);
            assert!(!read.trace.unwrap().change.is_empty());
            let AppliedEdits::Changed { source, repairs } = apply_edits(&source, &edits, max_edits)
            else {
                panic!("{backend}: the edits do not apply")
            };
            assert!(repairs.is_empty());
            Kernel::parse(&source, &scale_definition()).unwrap();

            let read = parse_reply(no_edit, true);
            assert_eq!(read.content, ReplyContent::NoValidEdit);
            assert!(read.trace.is_some());
        }
    }
}

#[test]
fn cpu_prompts_do_not_mention_gpu_only_features() {
    let templates = Templates::embedded().unwrap();
    let task = task("softmax");
    let cpu = DeviceFacts {
        name: "a CPU".to_owned(),
        cores: Some(8),
        ..DeviceFacts::default()
    };
    let verdict = Verdict {
        backend: "cpu".to_owned(),
        ..verdict("gpu_parent.cu")
    };
    let feedback = Feedback::from_verdict(&verdict, &task).unwrap();
    let parents = [shown_kernel(1, "x", Some(&feedback), KernelLabel::Parent)];
    let cards: Vec<_> = (templates.cards("cpu"))
        .map(|card| card.name.clone())
        .collect();
    assert!(!cards.is_empty());
    for card in &cards {
        let input = PromptInput {
            operator: Operator::Edit,
            backend: "cpu",
            device: &cpu,
            parents: &parents,
            card: Some(card),
            ..prompt_input(&task, &cpu)
        };
        let document = render(&input, &templates).unwrap().document();
        for word in [
            "wgmma",
            "mma.sync",
            "ldmatrix",
            "sectors",
            "coalesced",
            "bank",
            "tf32",
        ] {
            assert!(!document.contains(word), "card {card}: `{word}`");
        }
    }
    for gpu_only in [
        "coalescing",
        "tensor_cores",
        "more_in_flight",
        "overlap_copies",
    ] {
        assert!(!cards.iter().any(|card| card == gpu_only), "{gpu_only}");
        assert!(templates.cards("cuda").any(|card| card.name == gpu_only));
    }
}

#[test]
fn gpu_prompts_keep_the_gpu_ladder_and_access_counts() {
    let templates = Templates::embedded().unwrap();
    let task = task("gdn_decode");
    let device = h200();
    let feedback = Feedback::from_verdict(&verdict("gpu_parent.cu"), &task).unwrap();
    let parents = [shown_kernel(1, "x", Some(&feedback), KernelLabel::Parent)];
    let input = PromptInput {
        operator: Operator::Edit,
        parents: &parents,
        ..prompt_input(&task, &device)
    };
    let prompt = render(&input, &templates).unwrap();
    assert!(section_text(&prompt, "ladder").contains("wgmma"));
    assert!(section_text(&prompt, "parents").contains("sectors of 32 bytes per warp"));
}

#[test]
fn examples_match_the_element_types_of_the_task() {
    let templates = Templates::embedded().unwrap();
    let device = h200();
    for (name, shown, hidden) in [
        ("softmax", vec![], vec!["cuda_bf16.h", "cuda_fp16.h"]),
        ("gdn_decode", vec!["cuda_bf16.h"], vec!["cuda_fp16.h"]),
    ] {
        let task = task(name);
        let prompt = render(&prompt_input(&task, &device), &templates).unwrap();
        let examples = section_text(&prompt, "examples");
        assert!(examples.contains("__global__"), "{name}");
        for include in shown {
            assert!(
                examples.contains(include),
                "{name}: no example with {include}"
            );
        }
        for include in hidden {
            assert!(
                !examples.contains(include),
                "{name}: an example with {include}"
            );
        }
    }
}

#[test]
fn speedups_and_times_are_named_for_what_they_are() {
    let templates = Templates::embedded().unwrap();
    let task = task("gdn_decode");
    let device = h200();
    let input = prompt_input(&task, &device);
    let mut feedback = Feedback::from_verdict(&verdict("gpu_parent.cu"), &task).unwrap();
    // The paired speedup and the ratio of the medians disagree.
    (feedback.workloads[0].speedup, feedback.workloads[0].us) = (1.14, 3372.0);
    feedback.workloads[0].baseline_us = 3441.0;
    let text = feedback_text::describe_feedback(&feedback, "", &input);
    assert!(
        text.contains("1.14x (14 % faster), median 3372 us, baseline's median 3441 us"),
        "{text}"
    );
    let system = render(&input, &templates).unwrap().system;
    assert!(
        system.contains("Speedups come from paired timings; times in us are medians"),
        "{system}"
    );
}

#[test]
fn uneven_lengths_are_announced() {
    let device = h200();
    let announced = |name| {
        let task = task(name);
        let prompt = render(
            &prompt_input(&task, &device),
            &Templates::embedded().unwrap(),
        )
        .unwrap();
        let text = section_text(&prompt, "task").to_owned();
        text.lines()
            .filter(|line| line.contains("distances between neighbours differ widely"))
            .map(|line| line.split(':').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(announced("gdn_prefill"), ["- cu_seqlens"]);
    assert!(announced("gdn_decode").is_empty());
}

#[test]
fn slowdowns_are_given_as_time() {
    for (speedup, expected) in [
        (0.54, "takes 1.85x the baseline's time"),
        (1.14, "14 % faster"),
        (1.002, "equally fast"),
    ] {
        assert_eq!(
            numbers::describe_speedup(speedup, "the baseline's"),
            expected
        );
    }
}

#[test]
fn duplicates_keep_their_change_in_the_history() {
    let templates = Templates::embedded().unwrap();
    let task = task("gelu");
    let device = h200();
    let entry = |step, detail: &str, result: &str| HistoryEntry {
        step,
        operator: Operator::Edit,
        parents: vec![3],
        detail: detail.to_owned(),
        expected: None,
        result: result.to_owned(),
    };
    let history = [
        entry(5, "unroll by 4", "the same code as step 2"),
        entry(6, "", "no reply"),
    ];
    let input = PromptInput {
        history: &history,
        ..prompt_input(&task, &device)
    };
    let prompt = render(&input, &templates).unwrap();
    let text = section_text(&prompt, "history");
    assert!(
        text.contains("- step 5, edit of 3: `unroll by 4`: the same code as step 2\n"),
        "{text}"
    );
    assert!(text.contains("- step 6, edit of 3: no reply\n"), "{text}");
}

#[test]
fn repairs_ask_for_the_cause_and_the_parser_accepts_it() {
    let templates = Templates::embedded().unwrap();
    let task = task("softmax");
    let device = h200();
    let race = Feedback::of_status(crate::verdict::Status::Race);
    let passed = Feedback::of_status(crate::verdict::Status::Passed);
    for (operator, feedback, asks_for_cause) in [
        (Operator::Repair, &race, true),
        (Operator::Edit, &race, true),
        (Operator::Edit, &passed, false),
        (Operator::Propose, &race, false),
    ] {
        let parents = [shown_kernel(4, "x", Some(feedback), KernelLabel::Parent)];
        let input = PromptInput {
            operator,
            parents: &parents,
            ..prompt_input(&task, &device)
        };
        let prompt = render(&input, &templates).unwrap();
        let instruction = section_text(&prompt, "instruction");
        assert_eq!(
            instruction.contains("`cause`"),
            asks_for_cause,
            "{instruction}"
        );
    }
    let text = "```json\n{\"cause\": \"no barrier\", \"change\": \"add one\", \"risk\": \"none\"}\n```\n<NO_VALID_EDIT/>";
    let trace = parse_reply(text, true).trace.unwrap();
    assert_eq!(
        (trace.bottleneck.as_str(), trace.change.as_str()),
        ("no barrier", "add one")
    );
}

#[test]
fn prompts_without_measurements_refer_to_none() {
    let templates = Templates::embedded().unwrap();
    let task = task("softmax");
    let device = h200();
    let parents = [shown_kernel(1, "x", None, KernelLabel::Parent)];
    for (operator, parents) in [
        (Operator::Propose, &parents[..0]),
        (Operator::Propose, &parents[..]),
        (Operator::Edit, &parents[..]),
        (Operator::Crossover, &parents[..]),
    ] {
        let input = PromptInput {
            operator,
            parents,
            ..prompt_input(&task, &device)
        };
        let prompt = render(&input, &templates).unwrap();
        let document = prompt.document();
        assert!(!document.contains("numbers above"));
        let step = prompt.changing_text();
        assert!(!step.contains("measurements"), "{step}");
    }
}

#[test]
fn instruction_starts_and_closing_line_ends_the_changing_part() {
    let templates = Templates::embedded().unwrap();
    let task = task("softmax");
    let device = h200();
    let parents = [
        shown_kernel(1, "x", None, KernelLabel::Parent),
        shown_kernel(2, "y", None, KernelLabel::Parent),
    ];
    for operator in [
        Operator::Propose,
        Operator::Edit,
        Operator::Crossover,
        Operator::Repair,
    ] {
        let input = PromptInput {
            operator,
            parents: &parents,
            context: &parents,
            ..prompt_input(&task, &device)
        };
        let prompt = render(&input, &templates).unwrap();
        let changing = prompt.changing_text();
        assert!(changing.starts_with("# This step: "), "{changing}");
        let last = changing.trim_end().lines().last().unwrap();
        assert!(last.starts_with("Reply now: "), "{last}");
    }
}

#[test]
fn only_prompts_for_hopper_explain_warp_group_products() {
    let templates = Templates::embedded().unwrap();
    let task = task("gdn_decode");
    let explains = |arch: &str| {
        let device = DeviceFacts {
            arch: arch.to_owned(),
            ..h200()
        };
        let prompt = render(&prompt_input(&task, &device), &templates).unwrap();
        prompt.stable_text().contains("- **`wgmma`.**")
    };
    assert!(explains("sm_90"));
    assert!(!explains("sm_80"));
    assert!(!explains("sm_100"));
}

#[test]
fn prompts_stay_within_their_size() {
    let templates = Templates::embedded().unwrap();
    let cpu = DeviceFacts {
        name: "a CPU".to_owned(),
        arch: "x86_64".to_owned(),
        cores: Some(16),
        cache_bytes: Some(32 << 20),
        bytes_a_second: Some(2e10),
        float_a_second: Some(1e11),
        ..DeviceFacts::default()
    };
    for (name, backend, device, profile, max) in [
        ("softmax", "cpu", &cpu, "quick", 7400),
        ("gdn_decode", "cuda", &h200(), "full", 10_600),
    ] {
        let task = task(name);
        let input = PromptInput {
            backend,
            profile,
            device,
            ..prompt_input(&task, device)
        };
        let prompt = render(&input, &templates).unwrap();
        let tokens = prompt.estimated_tokens();
        assert!(tokens <= max, "{name}: {tokens} tokens of {max}");
        let examples = prompt
            .sections
            .iter()
            .find(|section| section.name == "examples");
        let share = examples.unwrap().tokens * 100 / tokens;
        assert!(
            share <= 43,
            "{name}: the examples are {share} % of the prompt"
        );
    }
}
