//! A description of every key of a run config, and the page made from it (`docs/configuration.md`). Compiled for tests only.
//!
//! Names, types and meanings are written here; defaults come from the config structs. The tests fail where a key is missing here, no
//! longer exists, or where the page is out of date.

use serde_json::Value;

use super::Config;

/// Every key of a run config. A line is: key | type | what applies where the default is `null` | meaning.
const CONFIG_KEYS: &str = r#"
tasks | list of names | | Task names, task folders, or task lists (`*.txt`: one task per line, `#` comments).
from | list of names | | Warm starts: kernel files, run directories (their best kernel), or `best` (`kernels/TASK/best.cu`). `evolve` tries them before the task's starting kernels, `tune` instead of them.
steps | integer | | Steps per task, in total; also after a resume.
seed | integer | random, and recorded | Seed of every random choice of the search.
output | path | `outputs/NAME-TIME` | The run's directory.
backend | `auto`, `cpu`, `cuda` | | Device that judges. `auto` is `cuda` if a GPU and NVRTC are found, else `cpu`.
profile | `auto` or a name | | Profile of the task: how much is checked and timed. `auto` is `full` on a GPU and `quick` on the CPU.
eval.in_flight | integer, 1 to 64 | 2 on the CPU, 3 for each GPU | Kernels that are judged at once.
eval.devices | `all` or a list | | GPUs that judge: indices and UUIDs (or the start of a UUID) as `kforge doctor` shows them.
eval.cache | `cold`, `hot` | | What a GPU's cache holds when a launch is timed.
eval.screen | `none`, `cpu` | | `cpu` runs every kernel on the CPU first, with tiny shapes and instrumented builds. For GPU runs.
eval.counters | boolean | | Read `ncu` counters of confirmed kernels. For GPU runs.
eval.device_sanitize | boolean | | Run `compute-sanitizer` on confirmed kernels, at the smallest hidden shapes. For GPU runs.
eval.launch_seconds | number, up to 3600 | | Deadline of one launch, in seconds.
eval.seconds | number | the profile's | Timing budget for each workload, in seconds.
eval.precision | number, below 1 | the profile's | Half width of the speedup's 95 % interval at which timing stops, as a fraction.
eval.racing | boolean | | Stop judging a kernel as soon as it surely cannot reach the best kernel of its kind: its interval is wide, and it is never kept. And time kernels against a fast starting kernel instead of a slow baseline.
eval.require_sandbox | boolean | | Fail unless the full sandbox is available.
search.mode | `evolve`, `tune` | | `evolve` fills an archive of kernels of different kinds; `tune` edits one kernel with a model. `kforge tune` sets it.
search.strategy | `map_elites`, `elite_pool`, `mu_plus_lambda`, `beam`, `random` | | `evolve`: which kernels become parents. `map_elites`: elites of all cells of the archive; `elite_pool`: half the three latest, half by a softmax over the log speedup; `mu_plus_lambda`: the five fastest in turn; `beam`: the five fastest at the start of each generation of 40 steps; `random`: any that passed.
search.window | integer, up to 100000 | `evolve`: twice what runs at once; `tune`: 1 | The maximum number of steps in flight. Steps that ask a model take at most half of it, unless no other operator is used.
search.features | map of lists | | Axes of the archive: a [feature](#features) and the ascending edges of its bins. A value belongs to the bin of the last edge not above it. A new run leaves out axes that its device cannot supply, and says so.
search.operators.autotune | number | | Weight of `autotune`: change the values of tunables. 0 switches an operator off.
search.operators.mutate | number | | Weight of `mutate`: transform the syntax tree.
search.operators.recombine | number | | Weight of `recombine`: combine tunables and device functions of two kernels.
search.operators.propose | number | | Weight of `propose`: a model writes a new kernel. This and the next three apply only if models are asked.
search.operators.edit | number | | Weight of `edit`: a model edits a kernel.
search.operators.crossover | number | | Weight of `crossover`: a model combines two kernels.
search.operators.repair | number | | Weight of `repair`: a model fixes a kernel that did not pass.
search.learning | number, 0 to 1 | | How strongly operators, models and strategy cards are preferred whose children were recently faster than their parents, for what they cost. Transformations of `mutate` follow their gains fully. 0 uses the weights as they are.
search.exploration | number, 0 to 1 | | `map_elites`: share of steps whose parent is an elite that was used less than others, from any cell, instead of one of the fastest.
search.patience | integer | never | Stop after this many steps without a kernel that is faster with 95 % confidence.
search.target_speedup | number | never | Stop once the low end of a kernel's 95 % interval reaches this speedup.
search.targets | map of maps | | Stop once one kernel reaches all of these, at the slow end of its 95 % interval: a workload, and `speedup` (at least), `microseconds` (of its median time, at most), or both: `{b1: {microseconds: 12}}`.
search.target_roofline | number, up to 1 | never | Stop once a kernel reaches this share of the roofline on every timed workload, at the slow end of its interval. For GPU runs with cold caches.
search.target_tasks | map | never | With several tasks: start no further task once fast_p reaches a share: `{speedup: 1.5, share: 0.5}` ends the run when half of its tasks have a kernel confirmed above 1.5x.
search.stop_when_unlikely | number, below 1 | never | Stop once the chance that a later kernel is measurably faster than the best is estimated to be below this, from how close the ten fastest are to each other. Of 50 kernels or more.
search.confirm | integer | | How many of the fastest kernels are measured again at the end.
search.context | integer, up to 1000 | | Maximum number of kernels that a prompt shows in addition to the parents.
search.history | integer, up to 1000 | | Maximum number of earlier steps that a prompt lists.
search.repairs | integer | | `evolve`: how often one kernel that did not pass may be repaired.
search.restart_after | integer | | `tune`: failures in a row after which the best kernel is edited again, or a new one is requested if none has passed.
llm.models | `auto` or a list | | [Models](#models) to ask, as `PROVIDER/MODEL` or as a map. `auto` takes the provider whose key is in the environment; `[]` asks none.
llm.concurrency | integer, 1 to 256 | | Requests in flight at once, mailboxes not counted.
llm.timeout_seconds | number | | Longest time of one request.
llm.idle_seconds | number | | Longest silence of a stream.
llm.retries | integer, up to 1000 | | How often a request that the server rejected for now is sent again.
llm.patience_seconds | number | | Longest total time that a request waits for a server that rejects it.
llm.context_share | number, up to 1 | | Share of a model's context window that a prompt may fill.
llm.wait | boolean | | Wait for replies of a mailbox. `false`: exit with code 6 once nothing else is left to do.
llm.prompts | path | built-in templates | Folder with prompt templates that replace built-in ones of the same name.
llm.lessons | list of paths | | What helped in earlier runs: text files, and run directories (their [`TASK/lessons.md`](run-directory.md#lessons)). Every prompt shows it. A run keeps its own copy.
llm.max_edits | integer, 1 to 64 | | Maximum number of `str_replace` edits in one reply.
llm.max_output_tokens | integer | each model's | Replaces this setting of every model, as do the next five.
llm.temperature | number, 0 to 2 | each model's | Sampling temperature.
llm.top_p | number, 0 to 1 | each model's | Nucleus sampling.
llm.top_k | integer | each model's | Top-k sampling.
llm.effort | text | each model's | Reasoning effort, as the provider names it: `low`, `medium`, `high`, …
llm.thinking_tokens | integer | each model's | Maximum tokens of reasoning.
budget.seconds | number | none | Wall time per task, in seconds: search, confirmation and comparison. The run ends within it, and at most 10 % later.
budget.device_seconds | number | none | Device time per task, in seconds: how long workers hold the device to check and time kernels.
budget.confirm_share | number, 0 to 0.9 | | Share of both for confirmation and comparison at the end; at least what confirming one kernel takes. 0 confirms nothing.
budget.usd | number | none | Dollars for models, over all tasks. Needs a price for every model.
budget.tokens | integer | none | Tokens of prompts and replies, over all tasks, cached ones included.
"#;

/// Every key of a model in `llm.models`. A line is: key | type | default | meaning.
const MODEL_KEYS: &str = r#"
name | text | `PROVIDER/MODEL` | The model's name in this run.
provider | name | required | `anthropic`, `openai`, `responses`, `gemini`, `openrouter`, `deepseek`, `together`, `ollama`, `command`, `mailbox` or `replay`.
model | text | required with a server | The provider's name of the model.
weight | number | 1 | How often it is asked, relative to the other models.
base_url | URL | the provider's | The server, with or without the path that the protocol adds: `http://localhost:8000/v1`.
key_env | text | the provider's; none with `base_url` | Environment variable that holds the key; `""` for none.
context_tokens | integer | 128000; `anthropic`, `mailbox`, `replay`: 200000; `ollama`: 32768 | The context window, in tokens.
max_output_tokens | integer | 16384; `ollama`: 8192; `command`, `mailbox`: 262144 | Maximum tokens of a reply, reasoning included. For `command` and `mailbox` bytes.
temperature | number, 0 to 2 | not sent | Sampling temperature.
top_p | number, 0 to 1 | not sent | Nucleus sampling.
top_k | integer | not sent | Top-k sampling.
effort | text | not sent | Reasoning effort, as the provider names it.
thinking_tokens | integer | not sent | Maximum tokens of reasoning; less than `max_output_tokens`.
seed | integer | not sent | Seed of the model's sampling.
stop | list of texts | none | Sequences at which the model stops.
fields | map | none | Other names of settings in the request, as paths: `{max_output_tokens: max_tokens}`.
stream | boolean | `true` | Read the reply while it is written.
cache | boolean | `true` | `anthropic`: mark which parts of a prompt the provider should cache.
version | text | the current one | `anthropic`: version of the protocol.
headers | map | none | Additional HTTP headers. A value that starts with `$` names an environment variable and is secret.
extra | map | none | Merged into the body of the request; `null` removes a field.
command | list | required with `command` | The program and its arguments.
pass_env | list | none | `command`: environment variables that the program gets although they look like secrets.
from | path | required with `replay` | `replay`: the directory of the earlier run.
price | map | unknown | What tokens cost; see below.
"#;

/// Every key of a model's price. A line is: key | type | default | meaning.
const PRICE_KEYS: &str = r#"
input | number | required | Prompt tokens that are not cached.
cached | number | as `input` | Prompt tokens read from the provider's cache.
cache_write | number | as `input`; `anthropic`: 1.25 times `input` | Prompt tokens written to the cache.
output | number | required | Reply tokens, reasoning included.
"#;

/// Numbers of the judge that can be axes of the archive (`search.features`).
const FEATURE_MEANINGS: &str = r#"
block_threads | Threads per block.
vector_bytes | Widest load or store in the source, in bytes.
shared_bytes | Shared memory per block, in bytes.
launches | Launches per run.
barriers | Barriers in the source.
speedup | Speedup over the baseline.
runtime_variance | Standard deviation of the time over its median.
load_sectors | Sectors of 32 bytes per load request of a warp.
store_sectors | Sectors of 32 bytes per store request of a warp.
coalescing | Least sectors over touched sectors, 0 to 1.
strided_share | Share of strided requests.
bank_conflicts | Passes over the shared memory banks, over the fewest possible; 1 is none.
bytes_ratio | Accessed bytes over the least bytes of the task.
arithmetic_per_byte | Operations of the task per accessed byte.
registers | Registers per thread. This and the following are counted in the code that is compiled for a GPU.
spill_bytes | Bytes of registers that are spilled to memory.
vector_load_bytes | Widest load, in bytes.
vector_store_bytes | Widest store, in bytes.
mma | Instructions of the tensor cores, `wgmma` not counted.
wgmma | `wgmma` instructions.
async_copies | Asynchronous copies (`cp.async`).
bulk_copies | Bulk copies.
shuffles | Shuffles.
atomics | Atomic operations.
"#;

/// One line of a table above.
struct KeyDescription {
    /// The dotted path, such as `search.exploration`.
    key: &'static str,
    /// What may be written there.
    kind: &'static str,
    /// What applies where the default is `null`; empty otherwise.
    unset: &'static str,
    meaning: &'static str,
}

fn descriptions(table: &'static str) -> Vec<KeyDescription> {
    let lines = table.lines().filter(|line| !line.is_empty());
    let parsed = lines.map(|line| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [key, kind, unset, meaning] = cells[..] else {
            panic!("`{line}` does not have four cells");
        };
        KeyDescription {
            key,
            kind,
            unset,
            meaning,
        }
    });
    parsed.collect()
}

fn feature_meanings() -> Vec<(&'static str, &'static str)> {
    let lines = FEATURE_MEANINGS.lines();
    lines.filter_map(|line| line.split_once(" | ")).collect()
}

const INTRODUCTION: &str = "\
# Configuration

A run config is a YAML file. Every key has a default, so a config names only what differs:

```yaml
tasks: [gdn_decode]
steps: 200
search:
  exploration: 0.2
budget:
  seconds: 80
```

A name such as `gdn_decode.yaml` is looked for as given, in `config/` of the working folder, and among the configs built into kforge.
An unknown key is an error that names the nearest key. A flag wins over the environment (`KFORGE_CONFIG`, `KFORGE_OUTPUT`,
`KFORGE_BACKEND`), which wins over the file; `--set KEY=VALUE` wins over all. `--dry-run` prints the resolved config.

The tables of this page are generated from the code.
";

/// The default of a key, as YAML on one line.
fn default_text(description: &KeyDescription, defaults: &Value) -> String {
    let path = description.key.split('.');
    let value = path.fold(defaults, |value, part| &value[part]);
    match value {
        Value::Null => description.unset.to_owned(),
        value => format!("`{}`", inline(value)),
    }
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => {
            let text = number.to_string();
            text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
        }
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(inline).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(map) => {
            let pairs = map
                .iter()
                .map(|(key, value)| format!("{key}: {}", inline(value)));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

fn rows(table: &'static str, default: impl Fn(&KeyDescription) -> String) -> String {
    let row = |description: &KeyDescription| {
        let KeyDescription {
            key, kind, meaning, ..
        } = description;
        format!(
            "| `{key}` | {kind} | {} | {meaning} |\n",
            default(description)
        )
    };
    let head = "| key | type | default | meaning |\n| --- | --- | --- | --- |\n";
    head.to_owned() + &descriptions(table).iter().map(row).collect::<String>()
}

/// The whole of `docs/configuration.md`.
fn page() -> String {
    let defaults = serde_json::to_value(Config::default()).unwrap();
    let config = rows(CONFIG_KEYS, |description| {
        default_text(description, &defaults)
    });
    let unset = |description: &KeyDescription| description.unset.to_owned();
    let features = feature_meanings().into_iter();
    let features = features.map(|(name, meaning)| format!("| `{name}` | {meaning} |\n"));
    format!(
        "{INTRODUCTION}\n## Keys\n\n{config}\n## Models\n\nKeys of a model in `llm.models`. A setting that the provider does not take is an error.\n\n{}\nKeys of `price`, in dollars per million tokens:\n\n{}\n## Features\n\nAxes for `search.features`:\n\n| feature | meaning |\n| --- | --- |\n{}",
        rows(MODEL_KEYS, unset),
        rows(PRICE_KEYS, unset),
        features.collect::<String>()
    )
}

/// The dotted keys of a config, without those that the user names.
fn dotted_keys(prefix: &str, value: &Value, keys: &mut Vec<String>) {
    let Value::Object(map) = value else {
        keys.push(prefix.to_owned());
        return;
    };
    if ["search.features", "search.targets"].contains(&prefix) {
        keys.push(prefix.to_owned());
        return;
    }
    for (name, value) in map {
        let key = if prefix.is_empty() {
            name.clone()
        } else {
            format!("{prefix}.{name}")
        };
        dotted_keys(&key, value, keys);
    }
}

/// The fields that serde lists in its error about an unknown one, which `model` must have.
fn accepted_fields(model: Value) -> Vec<String> {
    let error = serde_json::from_value::<crate::llm::ModelSettings>(model).unwrap_err();
    let message = error.to_string();
    let (_, listed) = message.split_once("expected one of ").unwrap();
    let names = listed.split('`').skip(1).step_by(2);
    names.map(str::to_owned).collect()
}

fn names(table: &'static str) -> Vec<&'static str> {
    let described = descriptions(table).into_iter();
    described.map(|description| description.key).collect()
}

#[test]
fn every_config_key_is_described_once() {
    let mut keys = Vec::new();
    let defaults = serde_json::to_value(Config::default()).unwrap();
    dotted_keys("", &defaults, &mut keys);
    let (mut expected, mut described) = (keys, names(CONFIG_KEYS));
    expected.sort_unstable();
    described.sort_unstable();
    assert_eq!(described, expected);
}

#[test]
fn every_key_of_a_model_and_its_price_is_described() {
    let model = serde_json::json!({"provider": "openai", "unknown": 1});
    assert_eq!(names(MODEL_KEYS), accepted_fields(model));
    let price = serde_json::json!({"input": 1, "output": 1, "unknown": 1});
    let model = serde_json::json!({"provider": "openai", "price": price});
    assert_eq!(names(PRICE_KEYS), accepted_fields(model));
}

#[test]
fn every_feature_is_described() {
    let described: Vec<_> = feature_meanings().iter().map(|(name, _)| *name).collect();
    assert_eq!(described, crate::search::FEATURES);
}

#[test]
fn key_with_a_null_default_says_what_applies() {
    let defaults = serde_json::to_value(Config::default()).unwrap();
    for description in descriptions(CONFIG_KEYS) {
        let default = default_text(&description, &defaults);
        assert!(!default.is_empty(), "`{}` has no default", description.key);
    }
}

/// With `KFORGE_UPDATE_DOCS=1` the page is written instead of compared.
#[test]
fn the_configuration_page_is_up_to_date() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    if std::env::var_os("KFORGE_UPDATE_DOCS").is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page(),
        "docs/configuration.md is not what the code says: run `KFORGE_UPDATE_DOCS=1 cargo test --lib configuration_page`"
    );
}
