/* kforge
launch:
  - kernel: naive
    grid: ceil_div(rows, BLOCK)
    block: BLOCK
    args: x, weight, eps, output, rows
tunables:
  BLOCK: [32, 64, 128]
*/

// The baseline, and the kernel that a search starts from: one thread for each row. Outputs have their dtype here.

#include <cuda_fp16.h>

__global__ void naive(const __half* x, const __half* weight, float eps, __half* output, int rows) {
    const int row = blockIdx.x * BLOCK + threadIdx.x;
    if (row >= rows) return;
    const __half* in = x + (size_t)row * COLUMNS;
    __half* out = output + (size_t)row * COLUMNS;

    float sum = 0.0f;
    for (int i = 0; i < COLUMNS; ++i) {
        const float value = __half2float(in[i]);
        sum += value * value;
    }
    const float scale = rsqrtf(sum / COLUMNS + eps);
    for (int i = 0; i < COLUMNS; ++i) out[i] = __float2half(__half2float(in[i]) * scale * __half2float(weight[i]));
}
