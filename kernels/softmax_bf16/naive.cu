/* kforge
launch:
  - kernel: softmax
    grid: ceil_div(rows, 128)
    block: 128
    args: x, output, rows, columns
*/

// A direct translation of the definition: one thread per row, one pass each for the largest element, the sum and the result.

#include <cuda_bf16.h>

__global__ void softmax(const __nv_bfloat16* x, __nv_bfloat16* output, int rows, int columns) {
    int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;

    float largest = __bfloat162float(x[row * columns]);
    for (int i = 1; i < columns; i++) {
        largest = fmaxf(largest, __bfloat162float(x[row * columns + i]));
    }

    float sum = 0.0f;
    for (int i = 0; i < columns; i++) {
        sum += expf(__bfloat162float(x[row * columns + i]) - largest);
    }

    for (int i = 0; i < columns; i++) {
        output[row * columns + i] = __float2bfloat16(expf(__bfloat162float(x[row * columns + i]) - largest) / sum);
    }
}
