/* kforge
launch:
  - kernel: matmul
    grid: ceil_div(N, 8 * SIDE), ceil_div(M, 8 * SIDE)
    block: 64
    args: A, B, C, M, N, K
tunables:
  SIDE: [8, 4, 2]
  DEPTH: [16, 8, 32]
*/

// A block computes a square with sides of 8 * SIDE elements, a thread SIDE x SIDE of them: every eighth in both directions. DEPTH
// columns of both matrices at a time are in shared memory, in float32.

#include <cuda_bf16.h>

constexpr int TILE = 8 * SIDE;

__global__ void __launch_bounds__(64)
    matmul(const __nv_bfloat16* __restrict__ A, const __nv_bfloat16* __restrict__ B, __nv_bfloat16* __restrict__ C, int M,
           int N, int K) {
    __shared__ float left[DEPTH][TILE + 1];
    __shared__ float right[DEPTH][TILE + 1];

    const int first_row = blockIdx.y * TILE;
    const int first_column = blockIdx.x * TILE;
    const int row = threadIdx.x / 8;
    const int column = threadIdx.x % 8;

    float sums[SIDE][SIDE] = {};
    for (int start = 0; start < K; start += DEPTH) {
#pragma unroll 4
        for (int i = threadIdx.x; i < TILE * DEPTH; i += 64) {
            const int line = i / DEPTH;
            const int depth = start + i % DEPTH;
            const bool in_left = depth < K && first_row + line < M;
            const bool in_right = depth < K && first_column + line < N;
            left[i % DEPTH][line] =
                in_left ? __bfloat162float(A[static_cast<long long>(first_row + line) * K + depth]) : 0.0f;
            right[i % DEPTH][line] =
                in_right ? __bfloat162float(B[static_cast<long long>(first_column + line) * K + depth]) : 0.0f;
        }
        __syncthreads();
#pragma unroll 4
        for (int i = 0; i < DEPTH; ++i) {
            float a[SIDE], b[SIDE];
#pragma unroll
            for (int n = 0; n < SIDE; ++n) {
                a[n] = left[i][row + 8 * n];
                b[n] = right[i][column + 8 * n];
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
            const int to_row = first_row + row + 8 * y;
            const int to_column = first_column + column + 8 * x;
            if (to_row < M && to_column < N) {
                C[static_cast<long long>(to_row) * N + to_column] = __float2bfloat16(sums[y][x]);
            }
        }
    }
}
