//! `kforge eval` with headers in all the forms that people and models write, on the CPU.

use crate::header_cases::{accepted, refused};
use crate::program::Workspace;

#[test]
fn headers_of_every_form_are_judged() {
    let folder = Workspace::with_small_task();
    let mut arguments = vec!["eval".to_owned(), "softmax".to_owned()];
    arguments.extend(
        accepted()
            .iter()
            .map(|(name, text)| folder.write(name, text)),
    );
    let rest = "--backend cpu --precision 0.5 --seconds 1 --format json";
    arguments.extend(rest.split(' ').map(str::to_owned));
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let result = folder.run(&arguments);
    let verdicts: Vec<serde_json::Value> = serde_json::from_str(&result.stdout).unwrap();
    for verdict in &verdicts {
        assert_eq!(verdict["status"], "passed", "{verdict}");
    }
    assert_eq!(
        verdicts[0]["notes"][0],
        "line 8: tunable `WIDTH` lists `1` more than once; each value is used once"
    );
    assert!(verdicts[1]["notes"].is_null());
}

#[test]
fn wrong_headers_and_arguments_are_refused_with_types_and_lines() {
    let folder = Workspace::with_small_task();
    let kernels = refused();
    for kernel in &kernels {
        folder.write(kernel.name, &kernel.text);
        // Each fault has its own exit code, and all verdicts are compared below.
        if matches!(kernel.name, "types.cu" | "nested.cu") {
            let result = folder.run(&["eval", "softmax", kernel.name, "--backend", "cpu"]);
            assert_eq!(result.code, kernel.exit, "{}", result.stderr);
        }
    }
    let names = kernels.iter().map(|kernel| kernel.name);
    let arguments = ["eval", "softmax", "--backend", "cpu", "--format", "json"].into_iter();
    let result = folder.run(&arguments.chain(names).collect::<Vec<_>>());
    assert_eq!(result.code, 2, "{}", result.stderr);
    let verdicts: Vec<serde_json::Value> = serde_json::from_str(&result.stdout).unwrap();
    for (kernel, verdict) in kernels.iter().zip(&verdicts) {
        assert_eq!(verdict["status"], kernel.status, "{verdict}");
        assert_eq!(verdict["reason"], kernel.reason, "{}", kernel.name);
    }
}
