/* kforge
launch:
  - kernel: distances
    grid: ceil_div(n, 32), ceil_div(m, 32)
    block: 256
    args: x, y, output, m, n
*/

// Task: output[i, j] = sum over k of (x[i, k] - y[j, k]) ^ 2, float32, x [m, depth], y [n, depth], depth = 64.
// A group computes 32 x 32 results, a thread 2 x 2 in registers. The next slice is loaded into registers while this one is
// computed, and then stored to the other half of threadgroup memory: one barrier per slice.

#include <metal_stdlib>
using namespace metal;

constant constexpr int TILE = 32;
constant constexpr int SLICE = 16;
constant constexpr int SLICES = DEPTH / SLICE;
constant constexpr int STRIDE = SLICE / 4 + 1;  // of float4: rows are padded

static inline float add_squares(float sum, float4 a, float4 b) { return sum + dot(a - b, a - b); }

kernel void distances(device const float* x [[buffer(0)]], device const float* y [[buffer(1)]],
                      device float* output [[buffer(2)]], constant int& m [[buffer(3)]], constant int& n [[buffer(4)]],
                      uint2 group [[threadgroup_position_in_grid]], uint2 place [[thread_position_in_threadgroup]]) {
    threadgroup float4 tiles[2][2][TILE * STRIDE];  // stage, side, row and k
    const int index = int(place.x);
    const int first_row = int(group.y) * TILE, first_column = int(group.x) * TILE;
    // One float4 per thread: the first 128 threads load from x, the others from y. Rows past the end copy the last row.
    const int side = index / 128, tile_row = index % 128 / 4, piece = index % 4;
    device const float4* from = side == 0 ? (device const float4*)(x + long(min(first_row + tile_row, m - 1)) * DEPTH)
                                          : (device const float4*)(y + long(min(first_column + tile_row, n - 1)) * DEPTH);

    const int column = index % 16, row = index / 16;
    float sums[2][2] = {{0.0f, 0.0f}, {0.0f, 0.0f}};
    float4 next = from[piece];
    for (int slice = 0; slice < SLICES; ++slice) {
        // Slower threads may still read the other half; all threads have left this half before the previous iteration's barrier.
        tiles[slice % 2][side][tile_row * STRIDE + piece] = next;
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (slice + 1 < SLICES) next = from[(slice + 1) * (SLICE / 4) + piece];
        for (int k = 0; k < SLICE / 4; ++k) {
            for (int i = 0; i < 2; ++i) {
                const float4 left = tiles[slice % 2][0][(row + 16 * i) * STRIDE + k];
                for (int j = 0; j < 2; ++j) {
                    sums[i][j] = add_squares(sums[i][j], left, tiles[slice % 2][1][(column + 16 * j) * STRIDE + k]);
                }
            }
        }
    }
    for (int i = 0; i < 2; ++i) {
        for (int j = 0; j < 2; ++j) {
            const int r = first_row + row + 16 * i, c = first_column + column + 16 * j;
            if (r < m && c < n) output[long(r) * n + c] = sums[i][j];
        }
    }
}
