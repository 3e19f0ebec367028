//! `llm.lessons`: what earlier runs have found reaches every prompt, and a run keeps its own copy.

use std::path::PathBuf;

use crate::program::{CommandResult, Workspace};

/// A program as the model, whose replies contain no kernel.
const MODEL: &str = "--set=llm.models=[{provider: command, command: [sh, -c, 'cat > /dev/null; echo no'], max_output_tokens: 1000}]";

const SEARCH: [&str; 10] = [
    "evolve",
    "softmax",
    "--backend=cpu",
    "--seed=3",
    "--output=out",
    "--steps=6",
    "--set=eval.precision=0.9",
    "--set=eval.seconds=0.3",
    "--set=search.confirm=1",
    "--set=search.operators={mutate: 0, recombine: 0, autotune: 0}",
];

fn evolve(folder: &Workspace, more: &[&str]) -> CommandResult {
    folder.run(&[&SEARCH, more].concat())
}

fn prompts(folder: &Workspace) -> Vec<PathBuf> {
    let steps = folder.path().join("out/softmax/steps");
    let steps = std::fs::read_dir(steps).unwrap().flatten();
    let prompts = steps.map(|step| step.path().join("ask-1/prompt.md"));
    prompts.filter(|prompt| prompt.exists()).collect()
}

#[test]
fn lessons_reach_every_prompt_of_a_run_and_of_its_resumes() {
    let folder = Workspace::with_small_task();
    folder.write(
        "notes.md",
        "Loads of 16 bytes helped here.\n<!-- a mark -->\n",
    );
    evolve(&folder, &[MODEL, "--set=llm.lessons=[notes.md]"]).assert_run_ended(&[]);
    assert!(
        folder
            .read("out/run.yaml")
            .contains("Loads of 16 bytes helped here.")
    );
    // The run has its own copy.
    std::fs::remove_file(folder.path().join("notes.md")).unwrap();
    let before = prompts(&folder).len();
    folder
        .run(&["resume", "out", "--steps=9"])
        .assert_run_ended(&[]);
    let all = prompts(&folder);
    assert!(
        before > 0 && all.len() > before,
        "{before} of {}",
        all.len()
    );
    for path in all {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("Loads of 16 bytes helped here."), "{text}");
        assert!(!text.contains("a mark"), "{text}");
    }
    let changed = folder.run(&["resume", "out", "--steps=12", "--set=llm.lessons=[]"]);
    changed.assert_exit(2, &["cannot be changed after its start"]);
}

#[test]
fn lessons_that_cannot_be_used_are_named() {
    let folder = Workspace::with_small_task();
    let missing = evolve(&folder, &[MODEL, "--set=llm.lessons=[none.md]"]);
    missing.assert_exit(2, &["llm.lessons", "none.md"]);
    folder.write("long.md", &"It is long.\n".repeat(2000));
    let long = evolve(&folder, &[MODEL, "--set=llm.lessons=[long.md]"]);
    long.assert_exit(2, &["llm.lessons", "16384"]);
    folder.write("notes.md", "Use shuffles.\n");
    let shown = folder.run(&[
        "evolve",
        "softmax",
        "--no-model",
        "--dry-run",
        "--backend=cpu",
        "--set=llm.lessons=[notes.md]",
    ]);
    shown.assert_exit(0, &[]);
    let says = format!("{}{}", shown.stdout, shown.stderr);
    assert!(says.contains("llm.lessons: without effect"), "{says}");
}
