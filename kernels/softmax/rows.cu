/* kforge
launch:
  - kernel: softmax
    grid: ceil_div(rows, BLOCK)
    block: BLOCK
    args: x, output, rows, columns
tunables:
  BLOCK: [64, 16, 32, 128]
  UNROLL: [4, 1, 2, 8]
*/

// One thread per row, as in the naive kernel, but the output holds the exponentials until their sum is known: one for
// each element instead of two, and one division for each row.

__global__ void softmax(const float* x, float* output, int rows, int columns) {
    const int row = blockIdx.x * BLOCK + threadIdx.x;
    if (row >= rows) return;
    const float* in = x + row * columns;
    float* out = output + row * columns;

    float largest = in[0];
#pragma unroll UNROLL
    for (int i = 1; i < columns; ++i) {
        largest = fmaxf(largest, in[i]);
    }

    float sum = 0.0f;
#pragma unroll UNROLL
    for (int i = 0; i < columns; ++i) {
        const float weight = expf(in[i] - largest);
        out[i] = weight;
        sum += weight;
    }

    const float factor = 1.0f / sum;
#pragma unroll UNROLL
    for (int i = 0; i < columns; ++i) {
        out[i] *= factor;
    }
}
