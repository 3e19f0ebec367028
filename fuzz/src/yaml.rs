//! Checks YAML that users write: run configs, `--set` assignments, `task.yaml`, and the record of a run.

use std::sync::OnceLock;

use kforge::base::yaml::{read, read_inline};
use kforge::config::{Config, apply_overrides, resolve};
use kforge::llm::{ModelList, ModelSettings, ProviderName};
use kforge::run::RunRecord;
use kforge::task::TaskFiles;

/// At most this many assignments are tried.
const MAX_ASSIGNMENTS: usize = 4;

pub fn yaml(input: &[u8]) {
    let text = super::lossy_text(input);
    check_config_text(&text);
    check_assignments(&text);
    check_task(&text);
    if let Err(failure) = read::<RunRecord>(&text, "run.yaml") {
        super::assert_location(&failure.message, "run.yaml", &text);
    }
}

fn check_config_text(text: &str) {
    let config = match read::<Config>(text, "run.yaml") {
        Ok(config) => config,
        Err(failure) => return super::assert_location(&failure.message, "run.yaml", text),
    };
    check_config(config);
}

/// A config that passes its check can be written, read back equal, and resolved.
fn check_config(mut config: Config) {
    if config.check().is_err() {
        return;
    }
    let recorded = serde_json::to_string(&config).expect("a checked config can be written");
    let again: Config = read_inline(&recorded, "record").expect("and read back");
    assert_eq!(again, config);
    // A run also needs a task, a model and a starting kernel, whatever the text has.
    config.tasks = vec!["softmax".to_owned()];
    config.llm.models = ModelList::Listed(vec![ModelSettings::new(ProviderName::Mailbox, "")]);
    config.budget.usd = None;
    config.from.clear();
    let resolved = resolve(&config, "name", "time").expect("a checked config can be resolved");
    assert!((1..=64).contains(&resolved.in_flight) && resolved.window > 0);
}

fn check_assignments(text: &str) {
    for line in text
        .lines()
        .filter(|line| line.contains('='))
        .take(MAX_ASSIGNMENTS)
    {
        match apply_overrides(&Config::default(), &[line.to_owned()]) {
            Ok(config) => check_config(config),
            Err(failure) => assert!(failure.message.starts_with("`--set "), "{failure}"),
        }
    }
}

/// A message about one or several problems names the file of each; a line of `task.yaml` exists.
fn check_problems(message: &str, task: &str, text: &str) {
    let origin = format!("{task}/");
    let yaml = format!("{origin}task.yaml:");
    let is_list = message.contains(" problems in task `");
    let problems: Vec<&str> = if is_list {
        let listed = message.lines().filter_map(|line| line.strip_prefix("  "));
        listed.filter(|line| line.starts_with(&origin)).collect()
    } else {
        vec![message]
    };
    assert!(problems.len() > usize::from(is_list), "{message}");
    for problem in problems {
        assert!(problem.starts_with(&origin), "{message}");
        if problem.starts_with(&yaml) {
            super::assert_location(problem, yaml.trim_end_matches(':'), text);
        }
    }
}

fn check_task(text: &str) {
    static FILES: OnceLock<TaskFiles> = OnceLock::new();
    let mut files = FILES
        .get_or_init(|| TaskFiles::find("softmax").expect("`softmax` is shipped"))
        .clone();
    files.files.insert("task.yaml".to_owned(), text.to_owned());
    let task = match files.load() {
        Ok(task) => task,
        Err(failure) => {
            check_problems(&failure.message, &files.origin, text);
            return;
        }
    };
    for profile in task.settings.profiles.values() {
        let selected = task.selected_workloads(profile);
        assert!(selected.iter().all(|workload| !workload.id.is_empty()));
        assert!(profile.rounds > 0 && profile.seconds > 0.0 && profile.precision > 0.0);
    }
    for workload in &task.workloads {
        let axis = |name: &str| workload.binding.axes.get(name).copied();
        let _ = (task.bytes.evaluate(&axis), task.flops.evaluate(&axis));
    }
    assert!(!task.baseline().0.is_empty());
}
