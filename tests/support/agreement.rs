//! One small kernel for each rule on which the backends must agree, or differ as `docs/trust.md` says, with the expected statuses.

/// A kernel and what each backend says about it.
pub(crate) struct Rule {
    /// The name of its file.
    pub(crate) name: &'static str,
    /// Text before the kernel.
    pub(crate) before: &'static str,
    /// Statements of the kernel, which computes `2 * x + y`. `i` is the element of the thread.
    pub(crate) body: &'static str,
    pub(crate) cpu: &'static str,
    /// The acceptable statuses on a GPU alone; the first one is usual.
    pub(crate) gpu: &'static [&'static str],
    /// On a GPU with `--screen cpu`; `None`: as on a GPU alone.
    pub(crate) screened: Option<&'static str>,
}

impl Rule {
    pub(crate) fn source(&self) -> String {
        let header = "/* kforge\nlaunch:\n  - kernel: scale\n    grid: ceil_div(n, 256)\n    block: 256\n    args: x, y, output, n\n*/\n";
        let Self { before, body, .. } = self;
        format!(
            "{header}{before}\n__global__ void scale(const float* x, const float* y, float* output, int n) {{\n    const int i = blockIdx.x * blockDim.x + threadIdx.x;\n    {body}\n}}\n"
        )
    }
}

const PASSED: &[&str] = &["passed"];
const STORE: &str = "if (i < n) output[i] = 2.0f * x[i] + y[i];";

/// A rule on which all backends agree.
const fn agreed(
    name: &'static str,
    before: &'static str,
    body: &'static str,
    cpu: &'static str,
    gpu: &'static [&'static str],
) -> Rule {
    Rule {
        name,
        before,
        body,
        cpu,
        gpu,
        screened: None,
    }
}

/// A fault that a GPU alone does not see, or sees by its results only.
const fn seen_by_screen(
    name: &'static str,
    body: &'static str,
    status: &'static str,
    gpu: &'static [&'static str],
) -> Rule {
    Rule {
        name,
        before: "",
        body,
        cpu: status,
        gpu,
        screened: Some(status),
    }
}

pub(crate) const RULES: &[Rule] = &[
    agreed("plain", "", STORE, "passed", PASSED),
    // Memory that two threads write.
    agreed(
        "same_value_from_two_blocks",
        "",
        "if (i < n) output[i] = 2.0f * x[i] + y[i];\n    if (threadIdx.x == 0) output[0] = 2.0f * x[0] + y[0];",
        "passed",
        PASSED,
    ),
    seen_by_screen(
        "two_values_from_two_blocks",
        "if (threadIdx.x == 7) output[n - 1] = i;\n    if (i < n) output[i] = 2.0f * x[i] + y[i];",
        "race",
        &["passed", "wrong_output", "nondeterministic"],
    ),
    agreed(
        "system_atomics",
        "",
        "if (i < n) {\n        output[i] = 0.0f;\n        atomicAdd_system(&output[i], 2.0f * x[i] + y[i]);\n    }",
        "passed",
        PASSED,
    ),
    // The heap and the stack.
    agreed(
        "malloc",
        "",
        "float* kept = (float*)malloc(4);\n    if (kept == nullptr) return;\n    *kept = i < n ? 2.0f * x[i] + y[i] : 0.0f;\n    if (i < n) output[i] = *kept;\n    free(kept);",
        "rejected",
        &["rejected"],
    ),
    agreed(
        "new_that_no_thread_reaches",
        "",
        "if (n < 0) *(float**)output = new float(1.0f);\n    if (i < n) output[i] = 2.0f * x[i] + y[i];",
        "rejected",
        &["rejected"],
    ),
    agreed(
        "malloc_that_nothing_calls",
        "__device__ void* unused(int n) { return malloc(n); }",
        STORE,
        "passed",
        PASSED,
    ),
    // Functions.
    agreed(
        "recursion",
        "__device__ __noinline__ float sum(const float* x, int n) { return n == 0 ? 0.0f : x[0] + sum(x + 1, n - 1); }",
        "float both[3];\n    if (i < n) both[0] = both[1] = x[i], both[2] = y[i], output[i] = sum(both, 3);",
        "passed",
        PASSED,
    ),
    agreed(
        "function_pointer",
        "__device__ float twice(float x) { return 2.0f * x; }\n__device__ float same(float x) { return x; }",
        "float (*const chosen)(float) = n > 0 ? twice : same;\n    if (i < n) output[i] = chosen(x[i]) + y[i];",
        "passed",
        PASSED,
    ),
    agreed(
        "virtual_function",
        "struct Base { __device__ virtual float of(float x) const { return x; } };\nstruct Twice : Base { __device__ float of(float x) const override { return 2.0f * x; } };",
        "Base plain;\n    Twice twice;\n    const Base& chosen = n > 0 ? static_cast<const Base&>(twice) : plain;\n    if (i < n) output[i] = chosen.of(x[i]) + y[i];",
        "passed",
        PASSED,
    ),
    // Output, clocks and traps.
    agreed(
        "printf",
        "",
        "if (i == 0) printf(\"%d elements\\n\", n);\n    if (i < n) output[i] = 2.0f * x[i] + y[i];",
        "passed",
        PASSED,
    ),
    agreed(
        "assertion_that_fails",
        "#include <assert.h>",
        "assert(i != 5);\n    if (i < n) output[i] = 2.0f * x[i] + y[i];",
        "crashed",
        &["crashed"],
    ),
    agreed(
        "trap",
        "",
        "if (i == 5) __trap();\n    if (i < n) output[i] = 2.0f * x[i] + y[i];",
        "crashed",
        &["crashed"],
    ),
    agreed(
        "clock_and_sleep",
        "",
        "const long long start = clock64();\n    __nanosleep(10);\n    if (i < n && clock64() >= start) output[i] = 2.0f * x[i] + y[i];",
        "passed",
        PASSED,
    ),
    // State.
    agreed(
        "device_variable",
        "__device__ int launches;",
        "if (i == 0) ++launches;\n    if (i < n) output[i] = 2.0f * x[i] + y[i];",
        "stateful",
        &["stateful"],
    ),
    agreed(
        "static_local",
        "",
        "static int launches;\n    if (i == 0) ++launches;\n    if (i < n) output[i] = 2.0f * x[i] + y[i];",
        "stateful",
        &["stateful"],
    ),
    agreed(
        "value_computed_at_start",
        "__device__ long long started = clock64();",
        "if (i < n) output[i] = started == 0 ? 0.0f : 2.0f * x[i] + y[i];",
        "compile_error",
        &["compile_error"],
    ),
    agreed(
        "thread_local",
        "",
        "thread_local int launches;\n    ++launches;\n    if (i < n) output[i] = 2.0f * x[i] + y[i];",
        "rejected",
        &["rejected"],
    ),
    // What a kernel may not contain.
    agreed(
        "nested_launch",
        "__global__ void other() {}",
        "if (i == 0) other<<<1, 1>>>();\n    if (i < n) output[i] = 2.0f * x[i] + y[i];",
        "rejected",
        &["rejected"],
    ),
    agreed(
        "managed_variable",
        "__managed__ int shared_with_host;",
        "shared_with_host = 1;\n    if (i < n) output[i] = 2.0f * x[i] + y[i];",
        "rejected",
        &["rejected"],
    ),
    Rule {
        name: "inline_ptx",
        before: "",
        body: "float twice;\n    if (i >= n) return;\n    asm(\"add.f32 %0, %1, %1;\" : \"=f\"(twice) : \"f\"(x[i]));\n    output[i] = twice + y[i];",
        cpu: "unsupported",
        gpu: PASSED,
        screened: Some("passed"),
    },
    // Memory faults.
    agreed(
        "write_past_the_end",
        "",
        "if (i <= n) output[i] = i < n ? 2.0f * x[i] + y[i] : 0.0f;",
        "out_of_bounds",
        &["out_of_bounds"],
    ),
    Rule {
        name: "write_of_an_input",
        before: "",
        body: "if (i < n) output[i] = 2.0f * x[i] + y[i];\n    if (i == 0) const_cast<float*>(x)[0] = 0.0f;",
        cpu: "input_mutated",
        // Where a GPU maps inputs read-only, a store to them is a fault like any other. Elsewhere their hashes differ.
        gpu: &["out_of_bounds", "input_mutated"],
        screened: Some("input_mutated"),
    },
    agreed(
        "misaligned_vector",
        "",
        "if (i == 0 && n > 8 && *(const volatile double*)(y + 1) == 77.0) return;\n    if (i < n) output[i] = 2.0f * x[i] + y[i];",
        "misaligned",
        &["misaligned"],
    ),
    seen_by_screen(
        "shared_memory_out_of_bounds",
        "__shared__ volatile float few[4];\n    few[(threadIdx.x & 3) + (n > 0 ? 8 : 0)] = 1.0f;\n    if (i < n) output[i] = 2.0f * x[i] + y[i];",
        "out_of_bounds",
        &["passed", "out_of_bounds"],
    ),
    seen_by_screen(
        "shared_memory_uninitialised",
        "__shared__ volatile int few[256];\n    if (few[threadIdx.x] == 77 && n < 0) return;\n    if (i < n) output[i] = 2.0f * x[i] + y[i];",
        "uninitialized_read",
        PASSED,
    ),
    // Undefined behaviour.
    seen_by_screen(
        "division_by_zero",
        "volatile int zero = n - n;\n    if (i == 0 && n / zero == 77) return;\n    if (i < n) output[i] = 2.0f * x[i] + y[i];",
        "undefined_behavior",
        PASSED,
    ),
    seen_by_screen(
        "signed_overflow",
        "volatile int most = 2147483647;\n    if (i == 0 && most + n == 77) return;\n    if (i < n) output[i] = 2.0f * x[i] + y[i];",
        "undefined_behavior",
        PASSED,
    ),
    seen_by_screen(
        "shuffle_from_exited_lane",
        "if (threadIdx.x % 32 == 31) {\n        if (i < n) output[i] = 2.0f * x[i] + y[i];\n        return;\n    }\n    const float next = __shfl_down_sync(0xffffffffu, 1.0f, 1);\n    if (i < n) output[i] = (next == 1.0f || threadIdx.x % 32 != 30 ? 2.0f : next) * x[i] + y[i];",
        "undefined_behavior",
        &["passed", "wrong_output", "nondeterministic"],
    ),
    agreed(
        "shuffle_that_drops_exited_lanes",
        "",
        "if (threadIdx.x % 32 == 31) {\n        if (i < n) output[i] = 2.0f * x[i] + y[i];\n        return;\n    }\n    const float next = __shfl_down_sync(0xffffffffu, 2.0f, 1);\n    if (i < n) output[i] = (threadIdx.x % 32 == 30 ? 2.0f : next) * x[i] + y[i];",
        "passed",
        PASSED,
    ),
    seen_by_screen(
        "barrier_in_branch",
        "if (threadIdx.x < 16) __syncthreads();\n    else { __syncwarp(); __syncthreads(); }\n    if (i < n) output[i] = 2.0f * x[i] + y[i];",
        "sync_error",
        &["passed", "timed_out"],
    ),
    // Results.
    agreed(
        "nothing_written",
        "",
        "if (i < 0) output[i] = x[i] + y[i];",
        "output_unwritten",
        &["output_unwritten"],
    ),
    agreed(
        "not_a_number_of_ones",
        "",
        "if (i < n) output[i] = x[i] < 1e30f ? __int_as_float(-1) : y[i];",
        "wrong_output",
        &["wrong_output"],
    ),
    // CUDA assumes that every thread makes progress, so a compiler may remove a loop without effects.
    Rule {
        name: "endless_loop_without_effects",
        before: "",
        body: "for (volatile int zero = n - n; zero == 0;) {\n    }\n    if (i < n) output[i] = 2.0f * x[i] + y[i];",
        cpu: "timed_out",
        gpu: &["passed", "timed_out"],
        // A kernel that does not end on the CPU goes on to the GPU.
        screened: None,
    },
    agreed(
        "endless_loop",
        "",
        "if (i < n) output[i] = 2.0f * x[i] + y[i];\n    while (i < n && atomicAdd((unsigned*)output + i, 0u) != 0x7f812345u) {\n    }",
        "timed_out",
        &["timed_out"],
    ),
];
