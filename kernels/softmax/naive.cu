/* kforge
launch:
  - kernel: softmax
    grid: ceil_div(rows, 128)
    block: 128
    args: x, output, rows, columns
*/

// A direct translation of the definition: one thread per row, one pass each for the largest element, the sum and the result.

__global__ void softmax(const float* x, float* output, int rows, int columns) {
    int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;

    float largest = x[row * columns];
    for (int i = 1; i < columns; i++) {
        largest = fmaxf(largest, x[row * columns + i]);
    }

    float sum = 0.0f;
    for (int i = 0; i < columns; i++) {
        sum += expf(x[row * columns + i] - largest);
    }

    for (int i = 0; i < columns; i++) {
        output[row * columns + i] = expf(x[row * columns + i] - largest) / sum;
    }
}
