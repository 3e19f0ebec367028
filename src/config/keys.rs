//! A description of every key of a run config: the source of `docs/configuration.md` and of the JSON Schema.
//!
//! Names, types and meanings are written here; defaults come from the config structs. Tests in `reference` and `schema` compare the
//! tables with what the parser accepts. Reads no config.

/// Every key of a run config. A line is: key | type | what applies where the default is `null` | meaning.
pub(super) const CONFIG_KEYS: &str = r#"
tasks | list of names | | Task names, task folders, or task lists (`*.txt`: one task per line, `#` comments).
from | list of names | | Warm starts: kernel files, run directories (their best kernel), or `best` (`kernels/TASK/best.cu`). `evolve` tries them before the task's starting kernels, `tune` instead of them.
start | list of names | all of the task's | Names of the starting kernels to begin from: `[naive.cu]` shows what a search finds without the other kernels of a task. With `from`, `[]` leaves only the warm starts. `tune` does not use it.
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
eval.baseline | name | | What `search.target_speedup`, `search.targets` and `search.target_tasks` are over, and what `kforge promote` asks of a kernel: `naive`, the task's baseline; `strongest`, the fastest [baseline](baselines.md) that is known on the device; or the name of one.
eval.racing | boolean | | Stop judging a kernel as soon as it surely cannot reach the best kernel of its kind: its interval is wide, and it is never kept. And time kernels against a fast starting kernel instead of a slow baseline.
eval.require_sandbox | boolean | | Fail unless the full sandbox is available.
search.mode | `evolve`, `tune` | | `evolve` fills an archive of kernels of different kinds; `tune` edits one kernel with a model. `kforge tune` sets it.
search.strategy | `map_elites`, `elite_pool`, `mu_plus_lambda`, `beam`, `random` | | `evolve`: which kernels become parents. `map_elites`: elites of all cells of the archive; `elite_pool`: half the three latest, half by a softmax over the log speedup; `mu_plus_lambda`: the five fastest in turn; `beam`: the five fastest at the start of each generation of 40 steps; `random`: any that passed.
search.window | integer, up to 100000 | `evolve`: twice what runs at once, or just that on the CPU without models; `tune`: 1 | The maximum number of steps in flight. Steps that ask a model take at most half of it, unless no other operator is used.
search.features | map of lists | | Axes of the archive: a [feature](#features) and the ascending edges of its bins. A value belongs to the bin of the last edge not above it. A new run leaves out axes that its device cannot supply, and says so.
search.operators.autotune | number | | Weight of `autotune`: change the values of tunables. 0 switches an operator off.
search.operators.mutate | number | | Weight of `mutate`: transform the syntax tree.
search.operators.recombine | number | | Weight of `recombine`: combine tunables and device functions of two kernels.
search.operators.propose | number | | Weight of `propose`: a model writes a new kernel. This and the next three apply only if models are asked.
search.operators.edit | number | | Weight of `edit`: a model edits a kernel.
search.operators.crossover | number | | Weight of `crossover`: a model combines two kernels.
search.operators.repair | number | | Weight of `repair`: a model fixes a kernel that did not pass.
search.learning | number, 0 to 1 | | How strongly operators, models and strategy cards are preferred whose children were recently faster than their parents, for what they cost. Transformations of `mutate` follow their gains fully. 0 uses the weights as they are.
search.tune_first | integer, up to 64 | 4 on a GPU, 0 on the CPU or with `eval.screen: cpu` | Points of its tunables that a new kernel of a model, of `mutate` or of `recombine` gets besides its own before it is judged: a quick check and a few samples each. The fastest is judged. 0: none.
search.exploration | number, 0 to 1 | | `map_elites`: share of steps whose parent is an elite that was used less than others, from any cell, instead of one of the fastest.
search.islands.count | integer, 1 to 64 | | `map_elites`: parts of the search with parents, context and bars of their own; steps go to each in turn. 1 is none. Simulated searches were slower with islands (`benches/results/search-policy.md`).
search.islands.migrate_every | integer | | The fastest kernel of each island goes to the next one whenever this many steps have brought a kernel that entered its island.
search.islands.restart_after | integer | | An island starts again with the three fastest kernels of a faster one after this many of its steps without a measurably faster kernel.
search.near_copies.action | `keep`, `down_weight`, `refuse` | | What happens to a kernel that has nearly all runs of five tokens in common with another. `keep`: nothing. `down_weight`: `map_elites` draws it less often as a parent than the faster of the two. `refuse`: a model's kernel that is nearly a parent or an elite is not judged.
search.near_copies.similarity | number, up to 1 | | The share of these runs from which a kernel is a near-copy. Comments, white space and values of tunables do not count.
search.patience | integer | never | Stop after this many steps without a kernel that is faster with 95 % confidence.
search.target_speedup | number | never | Stop once the low end of a kernel's 95 % interval reaches this speedup.
search.targets | map of maps | | Stop once one kernel reaches all of these, at the slow end of its 95 % interval: a workload, and `speedup` (at least), `microseconds` (of its median time, at most), or both: `{b1: {microseconds: 12}}`.
search.target_roofline | number, up to 1 | never | Stop once a kernel reaches this share of the roofline on every timed workload, at the slow end of its interval. For GPU runs with cold caches.
search.target_tasks | map | never | With several tasks: start no further task once fast_p reaches a share: `{speedup: 1.5, share: 0.5}` ends the run when half of its tasks have a kernel confirmed above 1.5x.
search.stop_when_unlikely | number, below 1 | never | Stop once the chance that a later kernel is measurably faster than the best is estimated to be below this, from how close the ten fastest are to each other. Of 50 kernels or more. On a CPU with noisy times it ends a search too early.
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
budget.confirm_share | number, 0 to 0.9 | | Share of both for confirmation and comparison at the end; less on a CPU if what may be the best kernel needs less, and at least what confirming one kernel takes. 0 confirms nothing.
budget.usd | number | none | Dollars for models, over all tasks. Needs a price for every model.
budget.tokens | integer | none | Tokens of prompts and replies, over all tasks, cached ones included.
"#;

/// Every key of a model in `llm.models`. A line is: key | type | default | meaning.
pub(super) const MODEL_KEYS: &str = r#"
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
pub(super) const PRICE_KEYS: &str = r#"
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

/// One line of a table.
pub(super) struct KeyDescription {
    /// The dotted path, such as `search.exploration`.
    pub(super) key: &'static str,
    /// What may be written there.
    pub(super) kind: &'static str,
    /// What applies where the default is `null`; empty otherwise.
    pub(super) unset: &'static str,
    pub(super) meaning: &'static str,
}

/// The lines of a table.
pub(super) fn descriptions(table: &'static str) -> Vec<KeyDescription> {
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

/// Every feature with its meaning.
pub(super) fn feature_meanings() -> Vec<(&'static str, &'static str)> {
    let lines = FEATURE_MEANINGS.lines();
    lines.filter_map(|line| line.split_once(" | ")).collect()
}
