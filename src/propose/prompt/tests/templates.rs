//! The embedded templates, and a user's folder that overrides them.

use std::collections::BTreeSet;
use std::path::Path;

use super::*;
use crate::task::Definition;

/// Writes a file of a user's folder.
fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// The error of reading a user's folder.
fn refused(folder: &Path) -> String {
    let templates = Templates::with_folder(folder);
    templates.map(|_| ()).unwrap_err().to_string()
}

const CARD: &str = "---\nstage: memory\nwhen: always\nbackends: [cuda]\n---\nDo.\n";

#[test]
fn a_card_is_offered_only_to_tasks_that_have_what_it_needs() {
    let templates = Templates::embedded().unwrap();
    let is_offered = |card: &str, name: &str| {
        let task = task(name);
        templates
            .cards_for("cuda", &task)
            .any(|one| one.name == card)
    };
    for (card, name, expected) in [
        ("wide_loads", "gelu", true),
        ("parallel_scan", "gelu", false),
        ("parallel_scan", "softmax", true),
        ("parallel_scan", "gdn_prefill", true),
        ("tensor_cores", "gelu", false),
        ("tensor_cores", "softmax", false),
        ("tensor_cores", "attention_bf16", true),
    ] {
        assert_eq!(is_offered(card, name), expected, "{card} for {name}");
    }
}

#[test]
fn cards_and_examples_exist_for_each_backend() {
    let templates = Templates::embedded().unwrap();
    for backend in ["cpu", "cuda", "metal"] {
        let stages: BTreeSet<_> = templates.cards(backend).map(|card| card.stage).collect();
        assert!(templates.cards(backend).count() >= 8, "{backend}");
        assert_eq!(
            stages.len(),
            6,
            "{backend} has a card for every stage: {stages:?}"
        );
    }
    for language in [Language::Cuda, Language::Metal] {
        assert!(templates.examples(language).count() >= 5);
    }
    // The CUDA examples are judged in `tests/machine/prompts.rs`.
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
        let definition = Definition::parse(&text, name).unwrap();
        Kernel::parse(&example.source, &definition).unwrap();
    }
    assert_eq!(templates.version().len(), 12);
}

#[test]
fn user_folder_overrides_templates_and_adds_cards() {
    let folder = tempfile::tempdir().unwrap();
    let read = || Templates::with_folder(folder.path()).unwrap();
    write(folder.path(), "README.md", "{{ nothing");
    let embedded = Templates::embedded().unwrap();
    assert_eq!(read().version(), embedded.version());
    write(
        folder.path(),
        "system.md",
        "You fix kernels for {{ arch }}.",
    );
    write(folder.path(), "cards/mine.md", CARD);
    let templates = read();
    assert_ne!(templates.version(), embedded.version());
    let is_offered = |backend| templates.cards(backend).any(|card| card.name == "mine");
    assert!(is_offered("cuda") && !is_offered("cpu"));
    let (task, device) = (task("gelu"), h200());
    let input = PromptInput {
        card: Some("mine"),
        ..prompt_input(&task, &device)
    };
    let prompt = render(&input, &templates).unwrap();
    assert_eq!(prompt.system.trim(), "You fix kernels for sm_90.");
    assert!(section_text(&prompt, "card").contains("Do."));
}

#[test]
fn unknown_cards_and_operators_without_a_prompt_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "cards/mine.md", CARD);
    let templates = Templates::with_folder(folder.path()).unwrap();
    let (task, device) = (task("gelu"), h200());
    let unknown = PromptInput {
        card: Some("mime"),
        ..prompt_input(&task, &device)
    };
    let error = render(&unknown, &templates).unwrap_err().to_string();
    assert!(error.contains("did you mean `mine`?"), "{error}");
    let mutate = PromptInput {
        operator: Operator::Mutate,
        ..prompt_input(&task, &device)
    };
    let error = render(&mutate, &templates).unwrap_err().to_string();
    assert!(error.contains("`mutate` sends no prompt"), "{error}");
}

#[test]
fn mistakes_in_a_user_folder_name_the_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write(path, "edit.md", "line\n{{ no_such_name }}\n");
    let error = refused(path);
    assert!(
        error.contains("edit.md:2`") && error.contains("undefined value"),
        "{error}"
    );
    write(path, "edit.md", "{% if %}");
    assert!(refused(path).contains("edit.md:1`"), "{}", refused(path));
    write(path, "edit.md", "x");
    write(path, "propse.md", "x");
    assert!(
        refused(path).contains("did you mean `propose.md`?"),
        "{}",
        refused(path)
    );
    std::fs::remove_file(path.join("propse.md")).unwrap();
    write(path, "cards/mine.md", "no header");
    assert!(
        refused(path).contains("expected a header between two `---` lines"),
        "{}",
        refused(path)
    );
    assert!(refused(&path.join("gone")).contains("gone`"));
}
