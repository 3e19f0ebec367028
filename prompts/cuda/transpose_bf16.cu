/* kforge
launch:
  - kernel: transpose
    grid: ceil_div(columns, 32), ceil_div(rows, 32)
    block: 32, STRIP
    args: x, output, rows, columns
tunables:
  STRIP: [8, 4, 16]
*/

// Task: output[c, r] = x[r, c], bfloat16 [rows, columns].
// Through shared memory, so that reads and writes both cover whole rows. One padding column puts a column's elements into different
// banks.

#include <cuda_bf16.h>

constexpr int TILE = 32;

__global__ void transpose(const __nv_bfloat16* __restrict__ x, __nv_bfloat16* __restrict__ output, int rows, int columns) {
    __shared__ __nv_bfloat16 tile[TILE][TILE + 1];
    const int column = blockIdx.x * TILE + threadIdx.x;
#pragma unroll
    for (int i = threadIdx.y; i < TILE; i += STRIP) {
        const int row = blockIdx.y * TILE + i;
        if (row < rows && column < columns) tile[i][threadIdx.x] = x[static_cast<long long>(row) * columns + column];
    }
    // Outside every condition: all threads of the block reach it.
    __syncthreads();
    const int out_column = blockIdx.y * TILE + threadIdx.x;
#pragma unroll
    for (int i = threadIdx.y; i < TILE; i += STRIP) {
        const int out_row = blockIdx.x * TILE + i;
        if (out_row < columns && out_column < rows) {
            output[static_cast<long long>(out_row) * rows + out_column] = tile[threadIdx.x][i];
        }
    }
}
