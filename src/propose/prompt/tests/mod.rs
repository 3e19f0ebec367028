//! Prompts from questions, and what must never be in one.

use super::*;
use crate::kernel::Kernel;
use crate::task::TaskFiles;
use crate::verdict::Verdict;

mod feedback;
mod filling;
mod quoting;

fn task(name: &str) -> Task {
    TaskFiles::find(name)
        .and_then(|files| files.load())
        .unwrap()
}

/// One of every status, what a GPU gives, and what was found where no prompt looks.
fn verdicts() -> Vec<Verdict> {
    let lines = include_str!("../../../../tests/fixtures/prompts/verdicts.jsonl").lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn verdict(kernel: &str) -> Verdict {
    let found = verdicts()
        .into_iter()
        .find(|verdict| verdict.kernel == kernel);
    found.unwrap_or_else(|| panic!("no verdict of {kernel}"))
}

fn h200() -> DeviceFacts {
    DeviceFacts {
        name: "NVIDIA H200".to_owned(),
        multiprocessors: Some(132),
        cache_bytes: Some(50 << 20),
        bytes_a_second: Some(4.3e12),
        float_a_second: Some(6.0e13),
        tensor_a_second: Some(6.5e14),
        ..DeviceFacts::for_device(&crate::verdict::DeviceIdentity {
            arch: "sm_90".to_owned(),
            ..crate::verdict::DeviceIdentity::default()
        })
    }
}

fn prompt_input<'a>(task: &'a Task, device: &'a DeviceFacts) -> PromptInput<'a> {
    PromptInput {
        operator: Operator::Propose,
        task,
        profile: "full",
        backend: "cuda",
        device,
        baseline: "fla",
        parents: &[],
        context: &[],
        history: &[],
        card: None,
        max_edits: 2,
        budget_tokens: 100_000,
        missed: None,
    }
}

fn shown_kernel<'a>(
    step: u64,
    source: &'a str,
    feedback: Option<&'a Feedback>,
    label: KernelLabel,
) -> ShownKernel<'a> {
    ShownKernel {
        step,
        operator: Operator::Propose,
        source,
        feedback,
        label,
    }
}

fn section_text<'p>(prompt: &'p Prompt, name: &str) -> &'p str {
    let found = prompt.sections.iter().find(|section| section.name == name);
    found.map_or("", |section| section.text.as_str())
}

#[test]
fn cards_and_examples_exist_for_each_language() {
    let templates = Templates::embedded().unwrap();
    for language in [Language::Cuda, Language::Metal] {
        assert!(templates.cards(language).count() >= 8);
        assert!(templates.examples(language).count() >= 5);
    }
    let stages: std::collections::BTreeSet<_> = templates
        .cards(Language::Cuda)
        .map(|card| card.stage)
        .collect();
    assert_eq!(stages.len(), 6, "a card for every stage: {stages:?}");
    // A header is read for its task: see the tests that judge the examples.
    for example in templates.examples(Language::Metal) {
        let name = example
            .name
            .trim_start_matches("metal/")
            .trim_end_matches(".metal");
        let path = format!(
            "{}/tests/fixtures/examples/tasks/{name}/definition.json",
            env!("CARGO_MANIFEST_DIR")
        );
        let text = std::fs::read_to_string(path).unwrap();
        let definition = crate::task::Definition::parse(&text, name).unwrap();
        Kernel::parse(&example.source, &definition).unwrap();
    }
    assert_eq!(templates.version().len(), 12);
}

#[test]
fn user_folder_overrides_templates_and_reports_mistakes() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let read = || Templates::with_folder(folder.path());
    let refused = || read().map(|_| ()).unwrap_err().to_string();
    write("README.md", "{{ nothing");
    let own = Templates::embedded().unwrap();
    assert_eq!(read().unwrap().version(), own.version());
    write("system.md", "You mend kernels for {{ arch }}.");
    write(
        "cards/mine.md",
        "---\nstage: memory\nwhen: always\nlanguages: [cuda]\n---\nDo.\n",
    );
    let templates = read().unwrap();
    assert_ne!(templates.version(), own.version());
    assert!(
        templates
            .cards(Language::Cuda)
            .any(|card| card.name == "mine")
    );
    let task = task("gelu");
    let device = h200();
    let asked = PromptInput {
        card: Some("mine"),
        ..prompt_input(&task, &device)
    };
    let prompt = render(&asked, &templates).unwrap();
    assert_eq!(prompt.system.trim(), "You mend kernels for sm_90.");
    assert!(section_text(&prompt, "card").contains("Do."));
    let unknown = PromptInput {
        card: Some("mime"),
        ..asked
    };
    let error = render(&unknown, &templates).unwrap_err().to_string();
    assert!(error.contains("did you mean `mine`?"), "{error}");
    let start = PromptInput {
        operator: Operator::Mutate,
        ..asked
    };
    assert!(render(&start, &templates).is_err());
    write("edit.md", "line\n{{ no_such_name }}\n");
    let error = refused();
    assert!(
        error.contains("edit.md:2`") && error.contains("undefined value"),
        "{error}"
    );
    write("edit.md", "{% if %}");
    assert!(refused().contains("edit.md:1`"), "{}", refused());
    write("edit.md", "x");
    write("propse.md", "x");
    assert!(
        refused().contains("did you mean `propose.md`?"),
        "{}",
        refused()
    );
    std::fs::remove_file(folder.path().join("propse.md")).unwrap();
    write("cards/mine.md", "no head");
    assert!(
        refused().contains("a card begins with `---`"),
        "{}",
        refused()
    );
    let gone = Templates::with_folder(&folder.path().join("gone"));
    assert!(gone.map(|_| ()).unwrap_err().to_string().contains("gone`"));
}
