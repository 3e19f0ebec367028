/* kforge
launch:
  - kernel: matmul
    grid: ceil_div(N, 64), ceil_div(M, 64)
    block: 64
    args: A, B, C, M, N, K
*/

// The oracle, in double precision throughout. A block computes 64 x 64 elements, a thread 8 x 8 of them: every eighth in
// both directions. 16 columns of both matrices at a time are in shared memory.

#include <cuda_bf16.h>

constexpr int TILE = 64;
constexpr int DEPTH = 16;
constexpr int SIDE = 8;

__global__ void matmul(const __nv_bfloat16* __restrict__ A, const __nv_bfloat16* __restrict__ B, double* __restrict__ C,
                       int M, int N, int K) {
    __shared__ double left[DEPTH][TILE];
    __shared__ double right[DEPTH][TILE];

    const int first_row = blockIdx.y * TILE;
    const int first_column = blockIdx.x * TILE;
    const int row = threadIdx.x / SIDE;
    const int column = threadIdx.x % SIDE;
    // The row of each tile that this thread loads.
    const int own_row = first_row + threadIdx.x;
    const int own_column = first_column + threadIdx.x;
    const __nv_bfloat16* from_left = A + static_cast<long long>(own_row) * K;
    const __nv_bfloat16* from_right = B + static_cast<long long>(own_column) * K;

    double sums[SIDE][SIDE] = {};
    for (int start = 0; start < K; start += DEPTH) {
#pragma unroll
        for (int i = 0; i < DEPTH; ++i) {
            const bool inside = start + i < K;
            left[i][threadIdx.x] = inside && own_row < M ? double(__bfloat162float(from_left[start + i])) : 0.0;
            right[i][threadIdx.x] = inside && own_column < N ? double(__bfloat162float(from_right[start + i])) : 0.0;
        }
        __syncthreads();
#pragma unroll 2
        for (int i = 0; i < DEPTH; ++i) {
            double a[SIDE], b[SIDE];
#pragma unroll
            for (int n = 0; n < SIDE; ++n) {
                a[n] = left[i][row + SIDE * n];
                b[n] = right[i][column + SIDE * n];
            }
#pragma unroll
            for (int y = 0; y < SIDE; ++y) {
#pragma unroll
                for (int x = 0; x < SIDE; ++x) sums[y][x] += a[y] * b[x];
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int y = 0; y < SIDE; ++y) {
#pragma unroll
        for (int x = 0; x < SIDE; ++x) {
            const int to_row = first_row + row + SIDE * y;
            const int to_column = first_column + column + SIDE * x;
            if (to_row < M && to_column < N) C[static_cast<long long>(to_row) * N + to_column] = sums[y][x];
        }
    }
}
