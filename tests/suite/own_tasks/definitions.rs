//! Definitions as FlashInfer-Bench and its relatives write them, one of each kind of operation: each makes a valid task.

use crate::program::CommandResult;
use crate::program::Workspace;

pub(super) const GEMM: &str = r#"{"name": "gemm_n64_k96", "op_type": "gemm", "tags": ["status:verified"],
 "axes": {"M": {"type": "var"}, "N": {"type": "const", "value": 64}, "K": {"type": "const", "value": 96}},
 "inputs": {"A": {"shape": ["M", "K"], "dtype": "float16"}, "B": {"shape": ["N", "K"], "dtype": "float16"}},
 "outputs": {"C": {"shape": ["M", "N"], "dtype": "float16"}},
 "reference": "import torch\ndef run(A, B):\n    return torch.matmul(A, B.T)\n"}"#;

const GQA_PAGED: &str = r#"{"name": "gqa_paged_decode_h8_kv2_d64_ps16", "op_type": "gqa_paged",
 "axes": {"batch_size": {"type": "var"}, "num_qo_heads": {"type": "const", "value": 8}, "num_kv_heads": {"type": "const", "value": 2},
  "head_dim": {"type": "const", "value": 64}, "num_pages": {"type": "var"}, "page_size": {"type": "const", "value": 16},
  "len_indptr": {"type": "var"}, "num_kv_indices": {"type": "var"}},
 "constraints": ["len_indptr == batch_size + 1", "num_kv_indices == kv_indptr[-1].item()"],
 "inputs": {"q": {"shape": ["batch_size", "num_qo_heads", "head_dim"], "dtype": "bfloat16"},
  "k_cache": {"shape": ["num_pages", "page_size", "num_kv_heads", "head_dim"], "dtype": "bfloat16"},
  "v_cache": {"shape": ["num_pages", "page_size", "num_kv_heads", "head_dim"], "dtype": "bfloat16"},
  "kv_indptr": {"shape": ["len_indptr"], "dtype": "int32"}, "kv_indices": {"shape": ["num_kv_indices"], "dtype": "int32"},
  "sm_scale": {"shape": null, "dtype": "float32"}},
 "outputs": {"output": {"shape": ["batch_size", "num_qo_heads", "head_dim"], "dtype": "bfloat16"},
  "lse": {"shape": ["batch_size", "num_qo_heads"], "dtype": "float32"}},
 "reference": "def run(q, k_cache, v_cache, kv_indptr, kv_indices, sm_scale):\n    ...\n"}"#;

const MLA: &str = r#"{"name": "mla_paged_decode_h16_ckv128_kpe64_ps1", "op_type": "mla_paged",
 "axes": {"batch_size": {"type": "var"}, "num_heads": {"type": "const", "value": 16}, "head_dim_ckv": {"type": "const", "value": 128},
  "head_dim_kpe": {"type": "const", "value": 64}, "page_size": {"type": "const", "value": 1}, "num_pages": {"type": "var"},
  "len_indptr": {"type": "var"}, "num_kv_indices": {"type": "var"}},
 "constraints": ["len_indptr == batch_size + 1", "num_kv_indices == kv_indptr[-1].item()"],
 "inputs": {"q_nope": {"shape": ["batch_size", "num_heads", "head_dim_ckv"], "dtype": "bfloat16"},
  "q_pe": {"shape": ["batch_size", "num_heads", "head_dim_kpe"], "dtype": "bfloat16"},
  "ckv_cache": {"shape": ["num_pages", "page_size", "head_dim_ckv"], "dtype": "bfloat16"},
  "kv_indptr": {"shape": ["len_indptr"], "dtype": "int32"}, "kv_indices": {"shape": ["num_kv_indices"], "dtype": "int32"},
  "sm_scale": {"shape": [], "dtype": "float32"}},
 "outputs": {"output": {"shape": ["batch_size", "num_heads", "head_dim_ckv"], "dtype": "bfloat16"}},
 "reference": ""}"#;

const MOE: &str = r#"{"name": "moe_fp8_block_scale_e8_h256_i128", "op_type": "moe",
 "axes": {"seq_len": {"type": "var"}, "num_experts": {"type": "const", "value": 8}, "hidden_size": {"type": "const", "value": 256},
  "intermediate_size": {"type": "const", "value": 128}, "gemm1_out_size": {"type": "expr", "expression": "2 * intermediate_size"},
  "num_hidden_blocks": {"type": "expr", "expression": "hidden_size // 128"}, "padded_len": {"type": "expr", "expression": "(seq_len + 63) // 64 * 64"}},
 "inputs": {"routing_logits": {"shape": ["seq_len", "num_experts"], "dtype": "float32"}, "routing_bias": {"shape": ["num_experts"], "dtype": "bfloat16"},
  "hidden_states": {"shape": ["seq_len", "hidden_size"], "dtype": "float8_e4m3fn"},
  "hidden_states_scale": {"shape": ["num_hidden_blocks", "seq_len"], "dtype": "float32"},
  "gemm1_weights": {"shape": ["num_experts", "gemm1_out_size", "hidden_size"], "dtype": "float8_e4m3fn"},
  "workspace": {"shape": ["padded_len"], "dtype": "int64"},
  "local_expert_offset": {"shape": null, "dtype": "int32"}, "routed_scaling_factor": {"shape": null, "dtype": "float32"}},
 "outputs": {"output": {"shape": ["seq_len", "hidden_size"], "dtype": "bfloat16"}},
 "reference": "def run(*args): \\\n    pass\n"}"#;

const RMSNORM: &str = r#"{"name": "fused_add_rmsnorm_h256", "op_type": "rmsnorm",
 "axes": {"batch_size": {"type": "var"}, "hidden_size": {"type": "const", "value": 256}},
 "inputs": {"hidden_states": {"shape": ["batch_size", "hidden_size"], "dtype": "bfloat16"},
  "residual": {"shape": ["batch_size", "hidden_size"], "dtype": "bfloat16"}, "weight": {"shape": ["hidden_size"], "dtype": "bfloat16"}},
 "outputs": {"output": {"shape": ["batch_size", "hidden_size"], "dtype": "bfloat16"}}, "reference": "import torch\n"}"#;

const ROPE: &str = r#"{"name": "rope_with_cos_sin_cache_d64", "op_type": "rope",
 "axes": {"nnz": {"type": "var"}, "num_heads": {"type": "const", "value": 4}, "head_size": {"type": "const", "value": 64},
  "max_seq_len": {"type": "var"}, "half": {"type": "expr", "expression": "head_size // 2"}},
 "inputs": {"positions": {"shape": ["nnz"], "dtype": "int64"}, "query": {"shape": ["nnz", "num_heads", "head_size"], "dtype": "float16"},
  "cos_cache": {"shape": ["max_seq_len", "half"], "dtype": "float32"}, "interleave": {"shape": null, "dtype": "bool"}},
 "outputs": {"query_out": {"shape": ["nnz", "num_heads", "head_size"], "dtype": "float16"}}, "reference": "import torch\n"}"#;

const SAMPLING: &str = r#"{"name": "top_k_top_p_sampling_from_probs_v1024", "op_type": "sampling",
 "axes": {"batch_size": {"type": "var"}, "vocab_size": {"type": "const", "value": 1024}},
 "inputs": {"probs": {"shape": ["batch_size", "vocab_size"], "dtype": "float32"}, "top_k": {"shape": ["batch_size"], "dtype": "int32"},
  "top_p": {"shape": ["batch_size"], "dtype": "float32"}},
 "outputs": {"samples": {"shape": ["batch_size"], "dtype": "int64"}, "total": {"shape": [], "dtype": "float32"}}, "reference": "import torch\n"}"#;

/// Makes a draft from a definition.
fn draft(definition: &str) -> Workspace {
    let workspace = Workspace::new();
    workspace.write("definition.json", definition);
    workspace
        .run(&["tasks", "new", "definition.json", "--name", "mine"])
        .assert_exit(0, &[]);
    workspace
}

#[test]
fn every_kind_of_definition_makes_a_valid_task() {
    for (definition, words) in [
        (GEMM, &["hidden"][..]),
        (
            GQA_PAGED,
            &[
                "cumulative, up to `num_kv_indices`",
                "integers from 0 to below `num_pages`",
            ],
        ),
        (
            MLA,
            &[
                "sm_scale       float32    scalar",
                "integers from 0 to below `num_pages`",
            ],
        ),
        (
            MOE,
            &[
                "gemm1_out_size 256",
                "padded_len     (seq_len + 63) // 64 * 64",
            ],
        ),
        (RMSNORM, &["residual"]),
        (
            ROPE,
            &[
                "integers from 0 to below `max_seq_len`",
                "half           32",
            ],
        ),
        (
            SAMPLING,
            &["uniform in [0, 1)", "total          float32    []"],
        ),
    ] {
        let workspace = draft(definition);
        let result = workspace.run(&["tasks", "show", "mine"]).exits_with(0);
        let text = format!(
            "{}{}",
            result.stdout,
            workspace.read("tasks/mine/task.yaml")
        );
        for word in words {
            assert!(text.contains(word), "`{word}` is missing:\n{text}");
        }
        // Its headers fit the definition: nothing but the draft is a fault.
        let result = workspace.check();
        assert_eq!(result.code, 4, "{}", result.stderr);
        assert!(!result.stdout.contains("header"), "{}", result.stdout);
    }
}

#[test]
fn drafts_of_several_dtypes_compile() {
    let workspace = draft(MOE);
    for file in ["oracle.cu", "naive.cu"] {
        workspace.change(file, "// kforge: draft.", "//");
    }
    let result = workspace.check();
    assert_eq!(result.code, 4, "{}{}", result.stdout, result.stderr);
    // It runs, and zeros are not accepted as an oracle.
    assert!(
        !result.stdout.contains("does not work"),
        "{}",
        result.stdout
    );
    result.shows(&["passes but must not", "zeros"]);
}

/// A gather over a page table: an `expr` axis, an empty shape as a scalar, indices below a variable axis, and a kernel next to
/// `task.yaml`. A bare workload line, as other tools write it.
#[test]
fn page_tables_stay_below_their_axis() {
    let workspace = Workspace::new();
    workspace.write("tasks/mine/definition.json", r#"{"name": "gather", "axes": {"tokens": {"type": "var"}, "pages": {"type": "var"}, "width": {"type": "const", "value": 32},
 "half": {"type": "expr", "expression": "width // 2"}, "wide": {"type": "expr", "expression": "pages * 2"}},
 "inputs": {"table": {"shape": ["tokens"], "dtype": "int32"}, "data": {"shape": ["pages", "half"], "dtype": "float32"}, "bias": {"shape": ["wide"], "dtype": "float32"},
  "scale": {"shape": [], "dtype": "float32"}},
 "outputs": {"y": {"shape": ["tokens", "half"], "dtype": "float32"}}, "reference": ""}"#);
    workspace.write("tasks/mine/workloads.jsonl", "{\"uuid\": \"a\", \"axes\": {\"tokens\": 40, \"pages\": 3}, \"inputs\": {\"scale\": {\"type\": \"scalar\", \"value\": 0.5}}}\n{\"uuid\": \"b\", \"axes\": {\"tokens\": 5, \"pages\": 90}, \"inputs\": {\"scale\": {\"type\": \"scalar\", \"value\": 0.5}}}\n");
    workspace.write("tasks/mine/task.yaml", "definition: definition.json\nworkloads: workloads.jsonl\noracle: oracle.cu\nbaselines: {naive: naive.cu}\nstart: naive.cu\ntolerance: {y: {rtol: 1.0e-6, atol_rms: 1.0e-7}}\ninputs: {table: {uniform: [0, pages]}}\nhidden: {tokens: [1, 9], pages: [1, 7]}\n");
    let kernel = |name: &str, output: &str| {
        format!(
            "/* kforge\nlaunch:\n  - kernel: {name}\n    grid: tokens\n    block: half\n    args: table, data, bias, scale, y, pages, wide\n*/\n__global__ void {name}(const int* table, const float* data, const float* bias, float scale, {output}* y, int pages, int wide) {{\n    const int page = table[blockIdx.x];\n    if (page < 0 || page >= pages || wide != 2 * pages) __trap();\n    y[blockIdx.x * HALF + threadIdx.x] = {output}(data[page * HALF + threadIdx.x]) * scale + bias[2 * page + 1];\n}}\n"
        )
    };
    workspace.write("tasks/mine/oracle.cu", &kernel("oracle", "double"));
    workspace.write("tasks/mine/naive.cu", &kernel("naive", "float"));
    let result: CommandResult = workspace.check();
    assert_eq!(result.code, 0, "{}{}", result.stdout, result.stderr);
    result.shows(&["mine: admitted"]);
}
