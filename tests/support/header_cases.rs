//! Kernels with headers as people and models write them, for the task `softmax`: those that are accepted, and those that are refused
//! with the same status, message and exit code whatever compiles them.

use kforge::kernel::plan::ArgumentType;
use kforge::kernel::plan::ArgumentType::Pointer;
use kforge::task::DType::{BFloat16, Float8E4M3, Float16, Float32, Int8, Int16};

/// The function of all kernels that are accepted. Every parameter has an effect on the result.
const BODY: &str = "
__global__ void softmax(const float* x, float* output, int columns, float scale, double one, bool use, short step, const int* map) {
    const float* row = x + (size_t)blockIdx.x * columns;
    if (!use || map != nullptr || one != 1.0) return;
    float top = row[0], sum = 0.0f;
    for (int i = 0; i < columns; i += step) top = fmaxf(top, row[i]);
    for (int i = 0; i < columns; i += step) sum += expf(scale * (row[i] - top));
    for (int i = 0; i < columns; i += step) output[(size_t)blockIdx.x * columns + i] = expf(scale * (row[i] - top)) / sum;
}
";

/// Kernel files that pass, by name.
pub(crate) fn accepted() -> Vec<(&'static str, String)> {
    let flow = "/* kforge
launch:
  - kernel: softmax
    grid: [ceil_div(rows, 1), 1]
    block: [WIDTH, 1, 1]
    args: [x, output, columns, 1.0f, 1, true, 1, nullptr]
tunables:
  WIDTH: [1, 1]
*/";
    let block = "\u{feff}/* kforge
launch:
  kernel: softmax
  grid:
    - rows / 1
    - 1
  block:
  - 1
  args:
    - x
    - output
    - i32(columns)
    - 1  # an integer for a float
    - 1e0
    - true
    - 0x1
    - NULL
*/";
    vec![
        ("flow.cu", format!("{flow}{BODY}")),
        ("block.cu", format!("{block}{BODY}").replace('\n', "\r\n")),
    ]
}

/// A kernel file that is refused.
pub(crate) struct RefusedKernel {
    pub(crate) name: &'static str,
    pub(crate) text: String,
    pub(crate) status: &'static str,
    /// The whole reason of the verdict.
    pub(crate) reason: &'static str,
    /// The exit code of a command that judges only this kernel.
    pub(crate) exit: i32,
}

/// Kernel files that are refused.
pub(crate) fn refused() -> Vec<RefusedKernel> {
    let kernel = |args: &str, parameters: &str| {
        format!(
            "/* kforge\nlaunch:\n  - kernel: softmax\n    grid: rows\n    block: 1\n    args: {args}\n*/\n__global__ void softmax({parameters}) {{}}\n__device__ void helper(float* x) {{}}\n"
        )
    };
    let mismatch = |name, args: &str, parameters: &str, reason| RefusedKernel {
        name,
        text: kernel(args, parameters),
        status: "compile_error",
        reason,
        exit: 5,
    };
    let named = |name, function: &str, reason| RefusedKernel {
        name,
        text: kernel("x", "float* x").replace("kernel: softmax", &format!("kernel: {function}")),
        status: "compile_error",
        reason,
        exit: 5,
    };
    let header = |name, from: &str, to: &str, reason| RefusedKernel {
        name,
        text: kernel("x, output", "const float* x, float* output").replace(from, to),
        status: "rejected",
        reason,
        exit: 2,
    };
    vec![
        mismatch(
            "types.cu",
            "x, output, columns, 1.5, nullptr, true, 300",
            "const unsigned short* x, float* output, float* columns, int a, float b, double c, char d",
            "line 3: argument 1 (`x`): the header passes `float*`, the kernel takes `const unsigned short*`; argument 3 (`columns`): the header passes a whole number, the kernel takes `float*`; argument 4 (`1.5`): the header passes a floating-point number, the kernel takes `int`; argument 5 (`nullptr`): the header passes a null pointer, the kernel takes `float`; argument 6 (`true`): the header passes `true` or `false`, the kernel takes `double`; argument 7 (`300`): the header passes a whole number, the kernel takes `char`",
        ),
        mismatch(
            "count.cu",
            "x, output",
            "const float* x, float* output, long columns",
            "line 3: `softmax` takes 3 arguments (`const float*`, `float*`, `long`), the header passes 2 (`x`, `output`)",
        ),
        named(
            "name.cu",
            "softmx",
            "line 3: kernel `softmx` is not in the file (did you mean `softmax`?)",
        ),
        named(
            "device.cu",
            "helper",
            "line 3: kernel `helper` is a `__device__` function, and a launch needs a `__global__` function (there is only `softmax`)",
        ),
        header(
            "nested.cu",
            "grid: rows",
            "grid: [[rows, 1], 1]",
            "header, line 4: `grid`: expected a single value (write it as `grid: ceil_div(rows, 4), 2`)",
        ),
        header(
            "keys.cu",
            "args: x, output",
            "args: {x: x}",
            "header, line 6: `args`: expected a list, found keys with values (list the arguments in the order of the kernel's parameters: `args: x, output, i32(rows)`)",
        ),
        header(
            "offset.cu",
            "args: x, output",
            "args:\n      - output\n      - x + 4",
            "header, line 8: argument `x + 4`: the tensor `x` can only be passed whole (pass its name, and compute the offset in the kernel)",
        ),
    ]
}

/// A kernel `f` and what a header passes to its parameters.
pub(crate) struct PointerCase {
    pub(crate) source: &'static str,
    pub(crate) passed: &'static [ArgumentType],
    /// Why it is refused; `None` if it compiles.
    pub(crate) reason: Option<&'static str>,
}

/// Pointers to integers of the size of a narrow floating-point type may hold its bits, and classes of the file any bytes.
pub(crate) const POINTER_CASES: [PointerCase; 2] = [
    PointerCase {
        source: "struct alignas(8) Pack { unsigned short x[4]; };
            struct bf16 { unsigned short bits; };
            __global__ void f(const unsigned short* a, short* b, const uint16_t* __restrict__ c, unsigned char* d, uint8_t* e,
                              ushort4* g, const uint4* h, const Pack* i, bf16* j, void* k, const unsigned short* l) {}",
        passed: &[
            Pointer(BFloat16),
            Pointer(Float16),
            Pointer(BFloat16),
            Pointer(Float8E4M3),
            Pointer(Int8),
            Pointer(Float16),
            Pointer(BFloat16),
            Pointer(BFloat16),
            Pointer(BFloat16),
            Pointer(Float16),
            Pointer(Int16),
        ],
        reason: None,
    },
    PointerCase {
        source: "struct Odd { unsigned char x[3]; };
            __global__ void f(const int* a, unsigned short* b, float* c, unsigned char* d, unsigned long long* e, Odd* g) {}",
        passed: &[
            Pointer(BFloat16),
            Pointer(Float32),
            Pointer(Float16),
            Pointer(BFloat16),
            Pointer(Float32),
            Pointer(BFloat16),
        ],
        reason: Some(
            "line 1: argument 1: the header passes `__nv_bfloat16*`, the kernel takes `const int*`; argument 2: the header passes `float*`, the kernel takes `unsigned short*`; argument 3: the header passes `__half*`, the kernel takes `float*`; argument 4: the header passes `__nv_bfloat16*`, the kernel takes `unsigned char*`; argument 5: the header passes `float*`, the kernel takes `unsigned long long*`; argument 6: the header passes `__nv_bfloat16*`, the kernel takes `Odd*`",
        ),
    },
];
