/* kforge
launch:
  - kernel: add_parts
    grid: ceil_div(columns, BLOCK), PARTS
    block: BLOCK
    args: x, partial, rows, columns
  - kernel: finish
    grid: ceil_div(columns, BLOCK)
    block: BLOCK
    args: partial, output, columns
tunables:
  BLOCK: [128, 64, 256]
  PARTS: [16, 4, 64]
variants:
  - {when: rows <= 64, PARTS: 4}
scratch:
  partial: {dtype: float32, shape: "PARTS, columns"}
*/

// Task: output[c] = sum over r of x[r, c], float32 [rows, columns].
// One block per column would leave most of the device idle: the rows are split into PARTS, each with its own block, and a second
// launch adds the parts. Scratch starts as garbage: every element of `partial` is written before it is read.

__global__ void __launch_bounds__(BLOCK)
    add_parts(const float* __restrict__ x, float* __restrict__ partial, int rows, int columns) {
    const int column = blockIdx.x * BLOCK + threadIdx.x;
    if (column >= columns) return;
    const int rows_a_part = (rows + PARTS - 1) / PARTS;
    const int first = blockIdx.y * rows_a_part, last = min(rows, first + rows_a_part);
    float sum = 0.0f;
#pragma unroll 4
    for (int row = first; row < last; ++row) sum += x[static_cast<long long>(row) * columns + column];
    partial[blockIdx.y * columns + column] = sum;
}

__global__ void __launch_bounds__(BLOCK)
    finish(const float* __restrict__ partial, float* __restrict__ output, int columns) {
    const int column = blockIdx.x * BLOCK + threadIdx.x;
    if (column >= columns) return;
    float sum = 0.0f;
#pragma unroll
    for (int part = 0; part < PARTS; ++part) sum += partial[part * columns + column];
    output[column] = sum;
}
