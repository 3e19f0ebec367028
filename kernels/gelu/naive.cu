/* kforge
launch:
  - kernel: gelu
    grid: ceil_div(rows * columns, 256)
    block: 256
    args: x, output, i64(rows * columns)
*/

// A direct translation of the definition: one thread per element.

__global__ void gelu(const float* x, float* output, long long elements) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= elements) return;
    output[i] = x[i] * 0.5f * (1.0f + erff(x[i] * 0.70710678f));
}
