/* kforge
launch:
  - kernel: row_norms
    grid: ceil_div(rows, WARPS)
    block: 32 * WARPS
    args: x, output, rows, columns
tunables:
  WARPS: [4, 1, 2, 8]
  VECTOR: [4, 1]
variants:
  - {when: columns % 4 != 0, VECTOR: 1}
*/

// Task: output[r] = sqrt(sum over c of x[r, c] ^ 2), x float32 [rows, columns].
// One warp per row, summed by shuffles: no shared memory, no barrier. Four sums per lane keep the additions independent.

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
}

__global__ void __launch_bounds__(32 * WARPS)
    row_norms(const float* __restrict__ x, float* __restrict__ output, int rows, int columns) {
    const int lane = threadIdx.x % 32;
    const int row = blockIdx.x * WARPS + threadIdx.x / 32;
    // The whole warp returns or stays: the shuffles need all 32 lanes.
    if (row >= rows) return;
    const float* from = x + static_cast<long long>(row) * columns;
    float4 sums = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#if VECTOR == 4
    for (int i = lane; i < columns / 4; i += 32) {
        const float4 value = reinterpret_cast<const float4*>(from)[i];
        sums.x = fmaf(value.x, value.x, sums.x);
        sums.y = fmaf(value.y, value.y, sums.y);
        sums.z = fmaf(value.z, value.z, sums.z);
        sums.w = fmaf(value.w, value.w, sums.w);
    }
#else
    for (int i = lane; i < columns; i += 32) sums.x = fmaf(from[i], from[i], sums.x);
#endif
    const float sum = warp_sum((sums.x + sums.y) + (sums.z + sums.w));
    if (lane == 0) output[row] = sqrtf(sum);
}
