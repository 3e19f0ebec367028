/* kforge
launch:
  - kernel: row_norms
    grid: ceil_div(rows, SIMDS)
    block: 32 * SIMDS
    args: x, output, rows, columns
tunables:
  SIMDS: [4, 1, 2, 8]
*/

// Task: output[r] = sqrt(sum over c of x[r, c] ^ 2), x float32 [rows, columns].
// One SIMD group per row: no threadgroup memory, no barrier. Four sums per lane keep the additions independent.

#include <metal_stdlib>
using namespace metal;

kernel void row_norms(device const float* x [[buffer(0)]], device float* output [[buffer(1)]],
                      constant int& rows [[buffer(2)]], constant int& columns [[buffer(3)]],
                      uint group [[threadgroup_position_in_grid]], uint simd [[simdgroup_index_in_threadgroup]],
                      uint lane [[thread_index_in_simdgroup]]) {
    const int row = int(group) * SIMDS + int(simd);
    // The whole SIMD group returns or stays: the sum needs all 32 lanes.
    if (row >= rows) return;
    device const float* from = x + long(row) * columns;
    float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    int i = int(lane);
    for (; i + 96 < columns; i += 128) {
        for (int j = 0; j < 4; ++j) sums[j] = fma(from[i + 32 * j], from[i + 32 * j], sums[j]);
    }
    for (; i < columns; i += 32) sums[0] = fma(from[i], from[i], sums[0]);
    const float sum = simd_sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
    if (lane == 0) output[row] = sqrt(sum);
}
