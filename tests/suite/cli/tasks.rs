//! Task lists and `kforge tasks`.

use crate::program::Workspace;

#[test]
fn task_list_errors_name_the_line() {
    let folder = Workspace::new();
    let run = |list: &str| {
        folder.write("list.txt", list);
        folder.run(&[
            "evolve",
            "--config",
            "all.yaml",
            "--dry-run",
            "--set",
            "tasks=[list.txt]",
        ])
    };
    let result = run("# two\nsoftmax   # the first\n\nrmsnorm\n");
    assert!(
        result.code == 0 && result.stdout.contains("softmax, rmsnorm: "),
        "{}",
        result.stderr
    );
    run("softmax\nrmsnrom\n").assert_exit(2, &["list.txt:2: unknown task `rmsnrom`", "`rmsnorm`"]);
    run("softmax\nsoftmax\n").assert_exit(2, &["list.txt:2: duplicate task `softmax`"]);
    run("# nothing\n").assert_exit(2, &["no task is named"]);
    let result = folder.run(&["evolve", "--config", "all.yaml", "--dry-run"]);
    assert!(
        result.stdout.contains(
            "gdn_decode, gdn_prefill, gelu, matmul, rmsnorm, rmsnorm_wide, softmax, softmax_bf16: "
        ),
        "{}",
        result.stderr
    );
}

#[test]
fn tasks_list_and_show_print_text_and_json() {
    let folder = Workspace::new();
    let result = folder.run(&["tasks", "list"]);
    assert!(
        result.code == 0 && result.stdout.contains("gdn_decode_qk4_v8_d128_k_last"),
        "{}",
        result.stderr
    );
    let result = folder.run(&["tasks", "show", "gdn_decode", "--format", "json"]);
    let facts: serde_json::Value = serde_json::from_str(&result.stdout).unwrap();
    assert_eq!(facts["workloads"].as_array().unwrap().len(), 7);
    assert_eq!(facts["inputs"]["q"]["dtype"], "bfloat16");
    assert!(
        facts["outputs"]["output"]["tolerance"]["rtol"].is_f64(),
        "{facts}"
    );
}
