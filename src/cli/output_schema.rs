//! The keys of `--format json` that scripts may rely on, for every command: the source of `docs/json-output.md` and of
//! `kforge schema COMMAND`.
//!
//! A schema lists keys that are always there. A result may have others, which may change. `tests/suite/cli/json.rs` compares the schemas
//! with what the commands print. Prints nothing.

use serde_json::{Value, json};

/// The result of one command, or of several with the same result.
pub(super) struct OutputSchema {
    /// The name in `kforge schema NAME`.
    pub(super) name: &'static str,
    /// The commands, as they are typed.
    commands: &'static str,
    /// Whether the result is a list of such objects. `--format jsonl` prints each on its own line.
    is_list: bool,
    /// Lines of: key | type | meaning. `tasks[].task` is a key of each object of the list `tasks`.
    keys: &'static str,
}

/// The result of every command that has `--format`.
pub(super) const OUTPUTS: [OutputSchema; 14] = [
    OutputSchema {
        name: "evolve",
        commands: "kforge evolve, kforge tune, kforge resume",
        is_list: false,
        keys: "\
schema | integer | Version of the format.
kforge | text | Version of kforge.
finished | boolean | Whether no step is left to do.
continue | text or null | The command that continues.
spent | map or null | Tokens and dollars; `null` without a model.
tasks[].task | text | The task.
tasks[].steps | integer | Steps that are done.
tasks[].total | integer | Steps that were asked for.
tasks[].stopped | text or null | Why the search stopped.
tasks[].failure | text or null | Why the task could not be searched.
tasks[].judged | integer | Kernels that were judged.
tasks[].passed | integer | Kernels that passed.
tasks[].cells | integer | Cells of the archive that are filled.
tasks[].headline | text | The result in one line.
tasks[].best | map or null | The confirmed best kernel: `step`, `speedup`, `strongest`, `kernel` and more.
tasks[].best_unconfirmed | map or null | The fastest kernel without confirmation, with the reason as `why`.
tasks[].against_start | map or null | The best kernel against the best starting kernel.
tasks[].islands | list | With `search.islands`: steps, elites, fastest kernel, migrants and restarts of each island. Else empty.
tasks[].by_status | map | Number of verdicts by status.
tasks[].by_operator | map | What each operator made.
tasks[].seconds | number or null | Wall time.
tasks[].time | map | What the time was spent on.
",
    },
    OutputSchema {
        name: "eval",
        commands: "kforge eval",
        is_list: true,
        keys: "\
schema | integer | Version of the format.
task | text | The task.
kernel | text | The kernel's file.
backend | text | `cpu` or `cuda`.
status | text | `passed`, `inconclusive`, or why it did not pass.
reason | text or null | The reason in words.
confirmed | boolean | Whether several processes measured it. Always `false` here.
device | map | The device: `name`, `arch` and more.
sandbox | text | What confined the kernel.
tunables | map | The values of its tunables.
seeds | list of texts | Seeds that repeat the judgement.
speedup | map or null | `geomean` and `ci95`, over the baseline.
workloads[].id | text | Id of the workload; others may be in the list.
workloads[].axes | map | The shape.
workloads[].hidden | boolean | Whether the shape is hidden from prompts.
workloads[].status | text | The status on this workload.
workloads[].speedup | number or null | The speedup on this workload.
workloads[].ci95 | list or null | Its 95 % interval.
workloads[].candidate_us | map or null | The kernel's times in microseconds: `median`, `mean`, `std`, `min`, `max`, `n`.
workloads[].baseline_us | map or null | The baseline's times.
features | map | Numbers that describe the kernel.
seconds | map | What the judgement cost.
",
    },
    OutputSchema {
        name: "report",
        commands: "kforge report --to json",
        is_list: false,
        keys: "\
schema | integer | Version of the format.
runs[].directory | text | The run's directory.
runs[].state | text | Whether it is finished, stopped or going on.
runs[].backend | text | `cpu` or `cuda`.
runs[].device | map | The device.
runs[].started | text | Time of the start.
runs[].tokens | integer | Tokens of models.
runs[].dollars | number or null | Their price, if it is known.
runs[].damage | list of texts | What could not be read.
runs[].tasks[].task | text | The task.
runs[].tasks[].answer | map | What was found.
runs[].tasks[].steps_made | integer | Steps that are done.
runs[].tasks[].judged | integer | Kernels that were judged.
runs[].tasks[].passed | integer | Kernels that passed.
runs[].tasks[].steps | list | Every step with its figures.
",
    },
    OutputSchema {
        name: "written",
        commands: "kforge report, kforge man",
        is_list: false,
        keys: "written | list of texts | Paths of the files.\n",
    },
    OutputSchema {
        name: "runs",
        commands: "kforge runs",
        is_list: true,
        keys: "\
run | text | The run's directory.
task | text | One of its tasks.
state | text | Whether it is finished, stopped or going on.
confirmed | number or null | The confirmed speedup of the best kernel.
ci95 | list or null | Its 95 % interval.
provisional | number or null | The best speedup of the search.
device | text | The device.
steps | integer | Steps that are done.
tokens | integer | Tokens of models.
dollars | number or null | Their price, if it is known.
started | text | Time of the start.
age_seconds | number or null | Time since the last event.
",
    },
    OutputSchema {
        name: "compare",
        commands: "kforge compare",
        is_list: true,
        keys: "\
arms | list of texts | The two arms that are compared.
is_shown | boolean | Whether a difference is shown.
task | text | The task.
method | text | How the runs were compared.
runs | list | Number of runs in each arm.
speedups | list | Speedup of each arm.
ratio | number or null | The second over the first.
ci95 | list or null | Its 95 % interval.
p | number or null | Probability of such a difference by chance.
corrected | number or null | The same, corrected for the number of comparisons.
hedges_g | number or null | Effect size.
detectable | number or null | The smallest ratio that the data would show.
warnings | list of texts | What limits the comparison.
",
    },
    OutputSchema {
        name: "baselines",
        commands: "kforge baselines",
        is_list: false,
        keys: "\
schema | integer | Version of the format.
task | text | The task.
backend | text | `cpu` or `cuda`.
device | map | The device: `name`, `arch` and more.
cache | text | State of the caches: `cold`, `hot` or `warm`.
profile | text | The profile that chose the workloads.
baseline | map | The task's baseline: `name`, `kind`, `versions`.
kernel | map | The kernel that was timed against each baseline: `name`, and `source`, its hash.
entries[].name | text | A baseline; the task's own is the first.
entries[].kind | text | `kernel` or `python`.
entries[].versions | map | Versions of the packages; for a kernel `source`, its hash.
entries[].launch | text or null | How Python launches it: `graph`, `launches` or `call`.
entries[].reason | text or null | Why it was not measured.
entries[].kernel_speedup | map or null | `geomean` and `ci95` of the kernel over it.
entries[].speedup | map or null | `geomean` and `ci95` of it over the task's baseline.
entries[].workloads[].id | text | A workload.
entries[].workloads[].baseline_us | number | Median time of the baseline, in microseconds.
entries[].workloads[].kernel_us | number | Median time of the kernel.
entries[].workloads[].kernel_speedup | number | Baseline time / kernel time, in pairs.
entries[].workloads[].ci95 | list | Its 95 % interval.
",
    },
    OutputSchema {
        name: "promote",
        commands: "kforge promote",
        is_list: true,
        keys: "\
task | text | The task.
promoted | boolean | Whether the run's kernel is now the best known one.
why | text | The reason.
run | text | The run's directory.
step | integer or null | The step that made the kernel.
kernel | text or null | The file that holds the best known kernel.
verdict | map or null | The kernel's new verdict.
",
    },
    OutputSchema {
        name: "prompt",
        commands: "kforge prompt",
        is_list: false,
        keys: "\
version | text | Version of the templates.
tokens | integer | Estimated tokens.
bytes | integer | Bytes.
system | text | The system prompt.
sections[].name | text | A part of the prompt.
sections[].text | text | Its text.
sections[].tokens | integer | Its tokens.
sections[].stable | boolean | Whether it is the same in every request.
left_out | list of texts | What did not fit.
",
    },
    OutputSchema {
        name: "cards",
        commands: "kforge prompt --card list",
        is_list: true,
        keys: "name | text | Name of the strategy card.\nwhen | text | When it helps.\n",
    },
    OutputSchema {
        name: "tasks",
        commands: "kforge tasks list, kforge tasks show",
        is_list: true,
        keys: "\
task | text | The task. `tasks list` has `error` in place of the other keys for a task that cannot be read; `tasks show` prints one object.
operation | text | Kind of computation.
definition | text | Name of the definition.
description | text or null | What is computed.
found_in | text | Folder, or `embedded`.
axes | map | The axes, each with `value` (constant) and `description`.
inputs | map | The inputs, each with `shape`, `dtype` and `values`.
outputs | map | The outputs, each with `shape`, `dtype` and `tolerance`.
workloads[].id | text | Id of the workload.
workloads[].axes | map | Its shape.
workloads[].bytes | number or null | Least memory traffic.
workloads[].flops | number or null | Arithmetic.
profiles | map | The profiles.
baseline | text | File of the baseline.
starts | list of texts | Files of the starting kernels.
",
    },
    OutputSchema {
        name: "check",
        commands: "kforge tasks check",
        is_list: true,
        keys: "\
task | text | The task.
admitted | boolean | Whether the task is admitted.
workloads | integer | Workloads that were tested.
regimes | list of texts | Regimes that were tested.
comparisons | integer | Corrupted outputs that were compared.
coverage | map | What judgements and confirmations would expose.
passed | list | Corrupted outputs that passed and must not.
faults[].workload | text or null | Where the task is wrong.
faults[].regime | text or null | Under which regime.
faults[].reason | text | What is wrong.
seed | text | Seed that repeats the check.
seconds | number | Wall time.
",
    },
    OutputSchema {
        name: "init",
        commands: "kforge init, kforge tasks new",
        is_list: false,
        keys: "task | text | The new task.\nfiles | list of texts | Paths of the files that were written.\n",
    },
    OutputSchema {
        name: "doctor",
        commands: "kforge doctor",
        is_list: true,
        keys: "\
name | text | What was looked for.
status | `ok`, `warn`, `fail` | `warn`: kforge works without it. `fail`: nothing can be judged without it.
found | text | What was found.
used_for | text | What kforge does with it.
remedy | text or null | What to do about it.
",
    },
];

impl OutputSchema {
    /// The schema with this name.
    pub(super) fn find(name: &str) -> Option<&'static Self> {
        OUTPUTS.iter().find(|output| output.name == name)
    }

    /// The JSON Schema (draft-07).
    pub(super) fn schema(&self) -> Value {
        let mut object = json!({"type": "object", "properties": {}, "required": []});
        for (key, kind, meaning) in self.lines() {
            let mut value = kind_schema(kind);
            value["description"] = meaning.into();
            insert(&mut object, key, value);
        }
        let mut schema = json!({
            "$schema": "http://json-schema.org/draft-07/schema#",
            "title": format!("{} --format json", self.commands),
        });
        if self.is_list {
            schema["type"] = "array".into();
            schema["items"] = object;
        } else if let (Value::Object(schema), Value::Object(object)) = (&mut schema, object) {
            schema.extend(object);
        }
        schema
    }

    /// Key, type and meaning of each line.
    fn lines(&self) -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
        self.keys.lines().filter_map(|line| {
            let mut cells = line.splitn(3, " | ");
            Some((cells.next()?, cells.next()?, cells.next()?))
        })
    }
}

/// Adds a key, and the lists that contain it. Every key is required.
fn insert(object: &mut Value, key: &str, value: Value) {
    let (name, rest) = match key.split_once("[].") {
        Some((name, rest)) => (name, Some(rest)),
        None => (key, None),
    };
    let properties = &mut object["properties"];
    match rest {
        None => properties[name] = value,
        Some(rest) => {
            if properties[name].is_null() {
                let item = json!({"type": "object", "properties": {}, "required": []});
                properties[name] = json!({"type": "array", "items": item});
            }
            insert(&mut properties[name]["items"], rest, value);
        }
    }
    if let Some(required) = object["required"].as_array_mut()
        && !required.iter().any(|known| known == name)
    {
        required.push(name.into());
    }
}

fn kind_schema(kind: &str) -> Value {
    let (kind, is_optional) = match kind.strip_suffix(" or null") {
        Some(kind) => (kind, true),
        None => (kind, false),
    };
    let name = match kind {
        "text" => "string",
        "map" => "object",
        "list" => "array",
        "list of texts" => return json!({"type": "array", "items": {"type": "string"}}),
        "integer" | "number" | "boolean" => kind,
        choices => {
            let names = choices.split(", ").map(|name| name.trim_matches('`'));
            return json!({"enum": names.collect::<Vec<_>>()});
        }
    };
    if is_optional {
        json!({"type": [name, "null"]})
    } else {
        json!({"type": name})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTRODUCTION: &str = "\
# JSON output

Every command that prints a result takes `--format json` (one document at the end) and `--format jsonl` (one line for each object of a list, as
soon as it is known). `kforge evolve`, `tune` and `resume` print each event as a line with `jsonl` ([Run directory](run-directory.md)). Progress
and errors go to standard error; `--quiet` leaves out everything there but errors. The exit codes are those of [Exit codes](exit-codes.md).
`kforge schema` and `kforge completions` print a JSON Schema and a script, and have no other form.

The tables name the keys that are always there. A result may have more keys, which may change. `kforge schema NAME` prints a table as
JSON Schema (draft-07).

The tables of this page are generated from the code.
";

    fn page() -> String {
        let mut text = INTRODUCTION.to_owned();
        for output in &OUTPUTS {
            let commands = output.commands.split(", ").map(|name| format!("`{name}`"));
            let form = if output.is_list {
                "A list of objects"
            } else {
                "One object"
            };
            text += &format!(
                "\n## {}\n\n{form}. Schema: `kforge schema {}`.\n\n| key | type | meaning |\n| --- | --- | --- |\n",
                commands.collect::<Vec<_>>().join(", "),
                output.name
            );
            for (key, kind, meaning) in output.lines() {
                text += &format!("| `{key}` | {kind} | {meaning} |\n");
            }
        }
        text
    }

    /// With `KFORGE_UPDATE_DOCS=1` the page is written instead of compared.
    #[test]
    fn the_page_about_json_output_is_up_to_date() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/json-output.md");
        if std::env::var_os("KFORGE_UPDATE_DOCS").is_some() {
            std::fs::write(&path, page()).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == page(),
            "docs/json-output.md is not what the code says: run `KFORGE_UPDATE_DOCS=1 cargo test --lib json_output`"
        );
    }

    #[test]
    fn every_line_has_a_key_a_type_and_a_meaning() {
        for output in &OUTPUTS {
            assert_eq!(output.lines().count(), output.keys.lines().count());
            for (key, kind, _) in output.lines() {
                assert!(!kind_schema(kind).is_null(), "{key}");
            }
        }
    }
}
