//! `kforge log` from outside: what an entry has, that existing text stays, that nothing is added twice, and what a longer run adds.

use crate::program::Workspace;

/// The sections of an entry, in order.
const SECTIONS: [&str; 7] = [
    "\n### Goal\n",
    "\n### Hypothesis\n",
    "\n### Reasoning\n",
    "\n### Action\n",
    "\n### Outcome\n",
    "\n### Breakthrough / Insight\n",
    "\n### Next Step\n",
];

fn search(folder: &Workspace, output: &str, kernel: Option<&str>) {
    let output = format!("--output={output}");
    let mut arguments = vec![
        "evolve",
        "softmax",
        "--backend=cpu",
        "--no-model",
        "--seed=3",
        "--steps=2",
        "--set=eval.precision=0.9",
        "--set=eval.seconds=0.3",
        "--set=budget.confirm_share=0",
        &output,
    ];
    let from = kernel.map(|kernel| format!("--from={kernel}"));
    arguments.extend(from.as_deref());
    folder.run(&arguments).comes_to_its_end();
}

#[test]
fn log_grows_by_entries_and_never_changes() {
    let folder = Workspace::with_small_task();
    search(&folder, "out", None);
    let log = |arguments: &[&str]| {
        let arguments = [&["log"], arguments].concat();
        folder.run(&arguments).exits_with(0).stdout
    };
    assert_eq!(log(&["out"]), "experiment-log.md: 1 entry appended\n");
    let first = folder.read("experiment-log.md");
    assert!(first.starts_with("# Experiment Log\n\n## 20"), "{first}");
    let places = SECTIONS.map(|section| first.find(section).unwrap_or_else(|| panic!("{first}")));
    assert!(places.is_sorted(), "{first}");
    for text in [
        "softmax: run out",
        "- Made 2 steps in ",
        "- Starting kernels: `naive",
        "all steps were made. `kforge resume out --steps N` goes on.",
        "`<what you learned, and what it changes>`",
        "2 candidates judged",
    ] {
        assert!(first.contains(text), "`{text}` is missing:\n{first}");
    }

    // The same state adds nothing, also after the user has filled in a blank or a resume did nothing.
    let edited = first.replace("`<why this run might help>`", "Wide loads help.") + "my own words";
    folder.write("experiment-log.md", &edited);
    folder.run(&["resume", "out"]).comes_to_its_end();
    for _ in 0..2 {
        assert_eq!(log(&["out"]), "experiment-log.md: nothing new\n");
        assert_eq!(folder.read("experiment-log.md"), edited);
    }

    // A run that has gone on gets another entry, below everything that was there.
    folder
        .run(&["resume", "out", "--steps=3"])
        .comes_to_its_end();
    assert_eq!(log(&["out"]), "experiment-log.md: 1 entry appended\n");
    let grown = folder.read("experiment-log.md");
    let added = grown.strip_prefix(&edited).unwrap();
    assert!(added.starts_with("\n\n## 20"), "{added}");
    assert!(
        added.contains("The run has gone on since the last entry"),
        "{added}"
    );
    assert!(added.contains("- Made 3 steps in "), "{added}");

    // Another file, and standard output.
    assert_eq!(
        log(&["out", "--to=notes/gdn.md"]),
        "notes/gdn.md: 1 entry appended\n"
    );
    let printed = log(&["out", "--to=-"]);
    assert_eq!(
        folder.read("notes/gdn.md"),
        format!("# Experiment Log\n\n{printed}")
    );
    folder
        .run(&["log", "out", "--to=notes"])
        .exits_with(2)
        .shows(&["is a folder"]);
    folder
        .run(&["log", "notes"])
        .exits_with(2)
        .shows(&["is not a run directory"]);
}

#[test]
fn text_of_others_is_no_markup_of_the_log() {
    let folder = Workspace::with_small_task();
    // The name of a warm start is part of the entry. It imitates a blank, a heading and the line that marks an entry.
    let kernel = folder.write(
        "a`b <!-- kforge log: x --> # c.cu",
        crate::program::SOFTMAX_KERNEL,
    );
    search(&folder, "out", Some(&kernel));
    folder.run(&["log", "out"]).exits_with(0);
    let text = folder.read("experiment-log.md");
    assert!(
        text.contains("from a b <!-- kforge log: x --> # c.cu`"),
        "{text}"
    );
    let marks = text
        .lines()
        .filter(|line| line.starts_with("<!-- kforge log: "));
    assert_eq!(marks.count(), 1, "{text}");
    let headings = text.lines().filter(|line| line.starts_with('#'));
    assert_eq!(headings.count(), 2 + SECTIONS.len(), "{text}");
}
