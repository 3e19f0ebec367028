/* kforge
launch:
  - kernel: softmax
    grid: ceil_div(rows, 16)
    block: 16
    args: x, output, rows, columns
*/

// The oracle, in double precision throughout, one thread per row. The output holds the exponentials until their sum is known.

#include <cuda_bf16.h>

__device__ inline double to_double(__nv_bfloat16 value) { return __bfloat162float(value); }

__global__ void softmax(const __nv_bfloat16* __restrict__ x, double* __restrict__ output, int rows, int columns) {
    const long long row = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    const __nv_bfloat16* in = x + row * columns;
    double* out = output + row * columns;

    double largest = to_double(in[0]);
    for (int i = 1; i < columns; ++i) largest = to_double(in[i]) > largest ? to_double(in[i]) : largest;

    double sum = 0.0;
    for (int i = 0; i < columns; ++i) {
        const double weight = exp(to_double(in[i]) - largest);
        out[i] = weight;
        sum += weight;
    }
    for (int i = 0; i < columns; ++i) out[i] /= sum;
}
