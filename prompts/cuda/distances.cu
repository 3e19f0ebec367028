/* kforge
launch:
  - kernel: distances
    grid: ceil_div(n, 32), ceil_div(m, 32)
    block: 256
    args: x, y, output, m, n
*/

// Task: output[i, j] = sum over k of (x[i, k] - y[j, k]) ^ 2, float32, x [m, depth], y [n, depth], depth = 64.
// A block computes 32 x 32 results, a thread 2 x 2 in registers. Slices of both inputs are copied asynchronously, one slice ahead:
// two stages in shared memory. Rows are 20 floats apart: aligned for 16-byte copies, and without conflicts when eight rows are
// read together as float4.

#include <cuda_pipeline.h>

constexpr int TILE = 32;
constexpr int SLICE = 16;
constexpr int SLICES = DEPTH / SLICE;
static_assert(DEPTH % SLICE == 0, "whole slices");

__device__ __forceinline__ float add_square(float sum, float a, float b) { return fmaf(a - b, a - b, sum); }

__device__ __forceinline__ float add_squares(float sum, float4 a, float4 b) {
    return add_square(add_square(add_square(add_square(sum, a.x, b.x), a.y, b.y), a.z, b.z), a.w, b.w);
}

__global__ void __launch_bounds__(256)
    distances(const float* __restrict__ x, const float* __restrict__ y, float* __restrict__ output, int m, int n) {
    __shared__ alignas(16) float tiles[2][2][TILE][SLICE + 4];  // stage, side, row, k
    const int first_row = blockIdx.y * TILE, first_column = blockIdx.x * TILE;

    // One 16-byte piece per thread: the first 128 threads copy from x, the others from y.
    const int side = threadIdx.x / 128, tile_row = threadIdx.x % 128 / 4, piece = threadIdx.x % 4 * 4;
    // Rows past the end copy the last row: nothing is read out of bounds, and their results are not stored.
    const float* from = side == 0 ? x + static_cast<long long>(min(first_row + tile_row, m - 1)) * DEPTH
                                  : y + static_cast<long long>(min(first_column + tile_row, n - 1)) * DEPTH;
    auto fetch = [&](int slice) {
        __pipeline_memcpy_async(&tiles[slice % 2][side][tile_row][piece], from + slice * SLICE + piece, 16);
    };

    const int column = threadIdx.x % 16, row = threadIdx.x / 16;
    float sums[2][2] = {};
    fetch(0);
    __pipeline_commit();
    for (int slice = 0; slice < SLICES; ++slice) {
        if (slice + 1 < SLICES) fetch(slice + 1);
        // An empty group at the end keeps the count right: all groups but the latest have arrived.
        __pipeline_commit();
        __pipeline_wait_prior(1);
        __syncthreads();  // the pieces of all threads have arrived
        const auto& tile = tiles[slice % 2];
#pragma unroll
        for (int k = 0; k < SLICE; k += 4) {
            float4 left[2], right[2];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                left[i] = *reinterpret_cast<const float4*>(&tile[0][row + 16 * i][k]);
                right[i] = *reinterpret_cast<const float4*>(&tile[1][column + 16 * i][k]);
            }
#pragma unroll
            for (int i = 0; i < 2; ++i) {
#pragma unroll
                for (int j = 0; j < 2; ++j) sums[i][j] = add_squares(sums[i][j], left[i], right[j]);
            }
        }
        __syncthreads();  // before the next iteration copies into this stage
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const int r = first_row + row + 16 * i, c = first_column + column + 16 * j;
            if (r < m && c < n) output[static_cast<long long>(r) * n + c] = sums[i][j];
        }
    }
}
