//! The CPU's statuses of the rules on which the backends agree or differ (`support/agreement.rs`).

use serde_json::Value;

use crate::agreement_rules::RULES;
use crate::program::{Workspace, json, root};

/// Judges the rules whose number leaves `rest` when divided by two, in one command.
fn judge_half(rest: usize) {
    let workspace = Workspace::new();
    let rules: Vec<_> = RULES.iter().skip(rest).step_by(2).collect();
    let files = rules
        .iter()
        .map(|rule| workspace.write(&format!("{}.cu", rule.name), &rule.source()));
    let task = root().join("tests/fixtures/gpu/tasks/scale");
    let output = workspace
        .command(&["eval", &task.display().to_string()])
        .args(["--format", "json", "--profile", "quick"])
        .args(["--launch-seconds", "1", "--precision", "0.5"])
        .args(files)
        .output()
        .unwrap();
    let verdicts: Vec<Value> = json(&output);
    let mut wrong = Vec::new();
    for (rule, verdict) in rules.iter().zip(&verdicts) {
        let status = &verdict["status"];
        // A correct kernel on a machine that is too busy to time it.
        if status != rule.cpu && !(rule.cpu == "passed" && status == "inconclusive") {
            wrong.push(format!(
                "{}: expected {}, found {status}: {}",
                rule.name, rule.cpu, verdict["reason"]
            ));
        }
    }
    assert_eq!(verdicts.len(), rules.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn cpu_gives_the_status_of_each_rule_1() {
    judge_half(0);
}

#[test]
fn cpu_gives_the_status_of_each_rule_2() {
    judge_half(1);
}

/// `docs/trust.md` names every rule with its statuses.
#[test]
fn trust_page_lists_every_rule() {
    let page = std::fs::read_to_string(root().join("docs/trust.md")).unwrap();
    for rule in RULES {
        let name = rule.name.replace('_', " ");
        let screened = rule.screened.unwrap_or(rule.gpu[0]);
        let row = format!(
            "| {name} | `{}` | {} | `{screened}` |",
            rule.cpu,
            rule.gpu
                .iter()
                .map(|status| format!("`{status}`"))
                .collect::<Vec<_>>()
                .join(", ")
        );
        assert!(page.contains(&row), "missing in docs/trust.md: {row}");
    }
}
