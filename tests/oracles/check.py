"""Compares an oracle's outputs with an independent computation in NumPy, in double precision.

    python3 check.py TASK FOLDER...

Each folder has a case. FOLDER/case.json:
    {"axes": {name: size}, "scalars": {name: value},
     "inputs": {name: {"file", "dtype", "shape"}}, "outputs": {name: {"file", "dtype": "float64", "shape"}}}
The files hold little-endian elements, outermost axis first. Prints the largest |x - r| / rms(r) of each output; exits 1 where
one is over LIMIT, 2 where a case cannot be read. The formulas here follow the definitions' words, not the oracles' code.
"""

import json
import pathlib
import sys

import numpy as np

LIMIT = 1e-9


def read_tensor(folder, entry):
    """A tensor as float64, whatever its type; exact for all of them."""
    data = (folder / entry["file"]).read_bytes()
    dtype = entry["dtype"]
    if dtype == "bfloat16":
        # The upper half of a float32.
        values = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        names = {"float64": "<f8", "float32": "<f4", "float16": "<f2", "int64": "<i8", "int32": "<i4"}
        values = np.frombuffer(data, names[dtype])
    return values.astype(np.float64).reshape(entry["shape"])


def attention(axes, scalars, inputs):
    """One query after the other, over the keys that it sees: the last query sees all, each one before it one fewer."""
    scale = np.float64(np.float32(scalars["scale"])) or axes["head_size"] ** -0.5
    queries, keys = axes["q_len"], axes["kv_len"]
    output = np.zeros_like(inputs["q"])
    for sequence in range(axes["batch_size"]):
        for head in range(axes["num_q_heads"]):
            shared = head * axes["num_kv_heads"] // axes["num_q_heads"]
            for query in range(queries):
                seen = max(0, keys - (queries - 1 - query)) if scalars["causal"] else keys
                if seen == 0:
                    continue
                scores = scale * (inputs["k"][sequence, shared, :seen] @ inputs["q"][sequence, head, query])
                weights = np.exp(scores - np.logaddexp.reduce(scores))
                output[sequence, head, query] = weights @ inputs["v"][sequence, shared, :seen]
    return {"output": output}


def gdn_decode(axes, scalars, inputs):
    """The delta rule as written in papers: remove what the state holds for the key, then store the mixed value."""
    batch, heads, size = axes["batch_size"], axes["num_v_heads"], axes["head_size"]
    query_of = np.arange(heads) * axes["num_q_heads"] // heads
    key_of = np.arange(heads) * axes["num_k_heads"] // heads
    scale = np.float64(np.float32(scalars["scale"])) or size**-0.5

    query = inputs["q"][:, 0, query_of]
    key = inputs["k"][:, 0, key_of]
    value = inputs["v"][:, 0]
    rate = inputs["a"][:, 0] + inputs["dt_bias"]
    decay = np.exp(-np.exp(inputs["A_log"]) * np.logaddexp(0.0, rate))
    beta = 0.5 * (1.0 + np.tanh(0.5 * inputs["b"][:, 0]))

    output = np.empty((batch, 1, heads, size))
    new_state = np.empty((batch, heads, size, size))
    for sequence in range(batch):
        for head in range(heads):
            k, v = key[sequence, head], value[sequence, head]
            # In memory the key axis is last; here a state maps keys to values, [key, value].
            state = inputs["state"][sequence, head].T if "state" in inputs else np.zeros((size, size))
            state = decay[sequence, head] * state
            old = k @ state
            mixed = beta[sequence, head] * v + (1.0 - beta[sequence, head]) * old
            state = state - np.outer(k, old) + np.outer(k, mixed)
            output[sequence, 0, head] = scale * (query[sequence, head] @ state)
            new_state[sequence, head] = state.T
    return {"output": output, "new_state": new_state}


def gdn_prefill(axes, scalars, inputs):
    """The decoding step above for every token; a state of its own for every sequence, zeros for an empty one."""
    bounds = inputs["cu_seqlens"].astype(int)
    if bounds[0] != 0 or bounds[-1] != axes["total_seq_len"] or (np.diff(bounds) < 0).any():
        raise ValueError(f"cu_seqlens is {bounds.tolist()}")
    output = np.empty((axes["total_seq_len"], axes["num_v_heads"], axes["head_size"]))
    new_state = np.zeros((axes["num_seqs"], axes["num_v_heads"], axes["head_size"], axes["head_size"]))
    for sequence, (start, end) in enumerate(zip(bounds, bounds[1:])):
        state = inputs["state"][sequence : sequence + 1]
        for token in range(start, end):
            step = {name: inputs[name][None, token : token + 1] for name in ("q", "k", "v", "a", "b")}
            step |= {"state": state, "A_log": inputs["A_log"], "dt_bias": inputs["dt_bias"]}
            result = gdn_decode(axes | {"batch_size": 1}, scalars, step)
            output[token], state = result["output"][0, 0], result["new_state"]
            new_state[sequence] = state[0]
    return {"output": output, "new_state": new_state}


def gelu(axes, scalars, inputs):
    """By the series of the error function near 0, by the continued fraction of its complement elsewhere."""
    x = inputs["x"]
    t = np.abs(x) / np.sqrt(2.0)
    near = np.minimum(t, 2.5)
    term, series = near, near
    for n in range(1, 60):
        term = -term * near * near / n
        series = series + term / (2 * n + 1)
    far = np.maximum(t, 2.5)
    fraction = far
    for n in range(60, 0, -1):
        fraction = far + n / 2.0 / fraction
    tail = np.where(t < 2.5, 1.0 - 2.0 / np.sqrt(np.pi) * series, np.exp(-far * far) / np.sqrt(np.pi) / fraction)
    return {"output": np.where(x > 0.0, x - 0.5 * x * tail, 0.5 * x * tail)}


def matmul(axes, scalars, inputs):
    return {"C": np.einsum("mk,nk->mn", inputs["A"], inputs["B"], optimize=True)}


def rmsnorm(axes, scalars, inputs):
    x = inputs["x"]
    eps = np.float64(np.float32(scalars["eps"]))
    root = np.linalg.norm(x, axis=-1, keepdims=True) / np.sqrt(axes["hidden_size"])
    return {"output": inputs["weight"] * x / np.hypot(root, np.sqrt(eps))}


def softmax(axes, scalars, inputs):
    x = inputs["x"]
    logarithm = np.logaddexp.reduce(x, axis=-1, keepdims=True)
    return {"output": np.exp(x - logarithm)}


TASKS = {
    "attention_bf16": attention,
    "attention_fp16": attention,
    "gdn_decode": gdn_decode,
    "gdn_prefill": gdn_prefill,
    "gelu": gelu,
    "matmul": matmul,
    "rmsnorm": rmsnorm,
    "rmsnorm_wide": rmsnorm,
    "softmax": softmax,
    "softmax_bf16": softmax,
}


def main():
    if len(sys.argv) < 3 or sys.argv[1] not in TASKS:
        print(f"usage: check.py {'|'.join(TASKS)} FOLDER...", file=sys.stderr)
        return 2
    return max(check(sys.argv[1], pathlib.Path(folder)) for folder in sys.argv[2:])


def check(task, folder):
    """The exit code for one case."""
    try:
        case = json.loads((folder / "case.json").read_text())
        inputs = {name: read_tensor(folder, entry) for name, entry in case["inputs"].items()}
        outputs = {name: read_tensor(folder, entry) for name, entry in case["outputs"].items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"{folder}: {error!r}", file=sys.stderr)
        return 2
    expected = TASKS[task](case["axes"], case["scalars"], inputs)
    if expected.keys() != outputs.keys():
        print(f"{folder}: expected the outputs {list(expected)}, found {list(outputs)}", file=sys.stderr)
        return 2
    good = True
    for name, reference in expected.items():
        if reference.shape != outputs[name].shape:
            print(f"{name}: expected the shape {reference.shape}, found {outputs[name].shape}", file=sys.stderr)
            return 2
        error = np.abs(outputs[name] - reference).max() / np.sqrt(np.mean(reference**2))
        print(f"{folder.name}: {name}: {error:.3e}")
        good = good and error <= LIMIT  # false for NaN too
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
