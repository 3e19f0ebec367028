/* kforge
launch:
  - kernel: gdn_decode<ROWS>
    grid: batch_size * num_v_heads, head_size // (ROWS * WARPS)
    block: 32 * WARPS
    args: q, k, v, state, A_log, a, dt_bias, b, scale, output, new_state
tunables:
  ROWS: [4, 1, 2, 8]
  WARPS: [4, 1, 2, 8]
*/

// One warp per ROWS rows of a head's state. Each lane holds four adjacent elements of a row, so that a row is one coalesced
// load of 512 bytes, and all rows are in flight before the first is used. The state is read once and written once. With
// old = keep * state, both sums of a row use the old state, before the correction is known:
//   output = scale * (old . q + correction * (k . q)),  correction = beta * (v - old . k)

#include <cuda_bf16.h>

constexpr int LANES = 32;
static_assert(HEAD_SIZE == 4 * LANES, "a warp holds a row, four elements a lane");

__device__ __forceinline__ float4 load_four(const __nv_bfloat16* from) {
    const __nv_bfloat162* pairs = reinterpret_cast<const __nv_bfloat162*>(from);
    const float2 low = __bfloat1622float2(pairs[0]);
    const float2 high = __bfloat1622float2(pairs[1]);
    return make_float4(low.x, low.y, high.x, high.y);
}

__device__ __forceinline__ float dot(float4 a, float4 b) { return a.x * b.x + a.y * b.y + (a.z * b.z + a.w * b.w); }

// The sum over a warp, in every lane.
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int offset = LANES / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
}

template <int rows>
__global__ void __launch_bounds__(LANES * WARPS)
    gdn_decode(const __nv_bfloat16* __restrict__ q, const __nv_bfloat16* __restrict__ k,
               const __nv_bfloat16* __restrict__ v, const float* __restrict__ state, const float* __restrict__ A_log,
               const __nv_bfloat16* __restrict__ a, const float* __restrict__ dt_bias,
               const __nv_bfloat16* __restrict__ b, float scale, __nv_bfloat16* __restrict__ output,
               float* __restrict__ new_state) {
    const int lane = threadIdx.x % LANES;
    const int warp = threadIdx.x / LANES;
    const int head = blockIdx.x;  // over all sequences
    const int v_head = head % NUM_V_HEADS;
    const int qk_head = head / NUM_V_HEADS * NUM_K_HEADS + v_head / (NUM_V_HEADS / NUM_K_HEADS);
    const int first_row = head * HEAD_SIZE + (blockIdx.y * WARPS + warp) * rows;

    float4 old[rows];
#pragma unroll
    for (int r = 0; r < rows; ++r) {
        old[r] = state == nullptr ? make_float4(0.0f, 0.0f, 0.0f, 0.0f)
                                  : reinterpret_cast<const float4*>(state)[(first_row + r) * LANES + lane];
    }
    const float4 query = load_four(q + qk_head * HEAD_SIZE + 4 * lane);
    const float4 key = load_four(k + qk_head * HEAD_SIZE + 4 * lane);

    const float x = __bfloat162float(a[head]) + dt_bias[v_head];
    const float softplus = x > 20.0f ? x : log1pf(__expf(x));
    const float keep = __expf(-__expf(A_log[v_head]) * softplus);
    const float beta = 1.0f / (1.0f + __expf(-__bfloat162float(b[head])));
    const float factor = scale == 0.0f ? rsqrtf(float(HEAD_SIZE)) : scale;
    const float key_query = warp_sum(dot(key, query));

#pragma unroll
    for (int r = 0; r < rows; ++r) {
        const int row = first_row + r;
        const float predicted = keep * warp_sum(dot(old[r], key));
        const float read = keep * warp_sum(dot(old[r], query));
        const float correction = beta * (__bfloat162float(v[row]) - predicted);
        const float4 updated =
            make_float4(keep * old[r].x + correction * key.x, keep * old[r].y + correction * key.y,
                        keep * old[r].z + correction * key.z, keep * old[r].w + correction * key.w);
        reinterpret_cast<float4*>(new_state)[row * LANES + lane] = updated;
        if (lane == 0) output[row] = __float2bfloat16(factor * (read + correction * key_query));
    }
}
