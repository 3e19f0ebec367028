/* kforge
launch:
  - kernel: oracle
    grid: ceil_div(rows, 32)
    block: 32
    args: x, weight, eps, output, rows
*/

// The reference that results are judged by: one thread for each row, in double precision. The outputs of an oracle are `double*`
// whatever their dtype is in definition.json. Constant axes are known in upper case; variable axes are arguments.

#include <cuda_fp16.h>

__global__ void oracle(const __half* x, const __half* weight, float eps, double* output, int rows) {
    const int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    const __half* in = x + (size_t)row * COLUMNS;
    double* out = output + (size_t)row * COLUMNS;

    double sum = 0.0;
    for (int i = 0; i < COLUMNS; ++i) {
        const double value = __half2float(in[i]);
        sum += value * value;
    }
    const double root = sqrt(sum / COLUMNS + double(eps));
    for (int i = 0; i < COLUMNS; ++i) out[i] = double(__half2float(in[i])) / root * double(__half2float(weight[i]));
}
