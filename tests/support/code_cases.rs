//! Kernels that compile to the same code as another, and kernels that do not: what the hash of compiled code must say.

/// Parameters `(const float* x, float* y, int n)`, 128 threads in a block.
pub(crate) const KERNEL: &str = "__device__ float square(float value) { return value * value; }
__device__ float table[4] = {1.0f, 2.0f, 3.0f, 4.0f};

__global__ void f(const float* x, float* y, int n) {
    __shared__ float part[128];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    part[threadIdx.x] = i < n ? expf(x[i]) : 0.0f;
    __syncthreads();
    float sum = 0.0f;
    for (int k = 0; k < 128; k++) sum += square(part[k]) * table[k % 4];
    if (i < n) y[i] = sum / FACTOR;
}
";

/// Changes to `KERNEL` that leave the code as it is: all places of the first text become the second.
pub(crate) const SAME: [(&str, &str); 9] = [
    (
        "    float sum",
        "    // The sum.\n    /* Of all\n       parts. */\n    float sum",
    ),
    ("__global__ void f", "\n\n\n__global__ void f"),
    ("sum", "total"),
    ("part", "a_much_longer_name"),
    ("square", "second_power"),
    ("table", "weights"),
    ("value", "argument"),
    ("float sum = 0.0f;", "float sum = 0.0f, unused = 1.0f;"),
    ("k < 128; k++", "k < (64 + 64); ++k"),
];

/// Changes that give other code.
pub(crate) const DIFFERENT: [(&str, &str); 8] = [
    ("expf", "logf"),
    ("3.0f", "5.0f"),
    ("i < n ?", "i <= n ?"),
    ("value * value", "value + value"),
    ("__syncthreads();", "__syncthreads(); __syncthreads();"),
    ("part[128]", "part[256]"),
    ("FACTOR", "(FACTOR + 1)"),
    ("k % 4", "k % 2"),
];
