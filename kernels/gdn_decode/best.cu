/* kforge
launch:
  - kernel: gdn_decode<ROWS>
    grid: batch_size * num_v_heads, head_size // (ROWS * WARPS)
    block: 32 * WARPS
    args: q, k, v, state, A_log, a, dt_bias, b, scale, output, new_state
variants:
  - {when: batch_size <= 2, ROWS: 1}
tunables:
  ROWS: [2, 1, 4, 8]
  WARPS: [4, 1, 2, 8]
*/

// One warp for ROWS rows, one row where a device would else be empty. The 2 * ROWS sums of a warp are folded together: at each of the first steps a lane hands over half of its
// values and keeps the other half, so that all sums take 2 * ROWS + 5 exchanges at most and not 10 * ROWS.

#include <cuda_bf16.h>

constexpr int LANES = 32;

__device__ __forceinline__ float4 load_four(const __nv_bfloat16* from) {
    const uint2 bits = *reinterpret_cast<const uint2*>(from);
    const float2 low = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&bits.x));
    const float2 high = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&bits.y));
    return make_float4(low.x, low.y, high.x, high.y);
}

__device__ __forceinline__ float dot(float4 a, float4 b) { return a.x * b.x + a.y * b.y + (a.z * b.z + a.w * b.w); }

// After it a lane has the sum whose number its upper bits say.
template <int count>
__device__ __forceinline__ float fold(float (&values)[count], int lane) {
    int bit = LANES / 2;
#pragma unroll
    for (int half = count / 2; half >= 1; half /= 2) {
        const bool upper = lane & bit;
#pragma unroll
        for (int i = 0; i < half; ++i) {
            const float send = upper ? values[i] : values[i + half];
            const float keep = upper ? values[i + half] : values[i];
            values[i] = keep + __shfl_xor_sync(0xffffffffu, send, bit);
        }
        bit /= 2;
    }
    float sum = values[0];
#pragma unroll
    for (int offset = LANES / 2 / count; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    return sum;
}

template <int rows>
__global__ void __launch_bounds__(LANES * WARPS)
    gdn_decode(const __nv_bfloat16* __restrict__ q, const __nv_bfloat16* __restrict__ k,
               const __nv_bfloat16* __restrict__ v, const float* __restrict__ state, const float* __restrict__ A_log,
               const __nv_bfloat16* __restrict__ a, const float* __restrict__ dt_bias,
               const __nv_bfloat16* __restrict__ b, float scale, __nv_bfloat16* __restrict__ output,
               float* __restrict__ new_state) {
    constexpr int SUMS = 2 * rows;
    constexpr int SHARE = LANES / SUMS;  // lanes that end with the same sum
    const int lane = threadIdx.x % LANES;
    const int warp = threadIdx.x / LANES;
    const int head = blockIdx.x;
    const int v_head = head % NUM_V_HEADS;
    const int qk_head = head / NUM_V_HEADS * NUM_K_HEADS + v_head / (NUM_V_HEADS / NUM_K_HEADS);
    const int first_row = head * HEAD_SIZE + (blockIdx.y * WARPS + warp) * rows;

    float4 old[rows];
#pragma unroll
    for (int r = 0; r < rows; ++r) {
        old[r] = state == nullptr ? make_float4(0.0f, 0.0f, 0.0f, 0.0f)
                                  : __ldcs(reinterpret_cast<const float4*>(state) + (first_row + r) * LANES + lane);
    }
    const float4 query = load_four(q + qk_head * HEAD_SIZE + 4 * lane);
    const float4 key = load_four(k + qk_head * HEAD_SIZE + 4 * lane);
    const float x = __bfloat162float(a[head]) + dt_bias[v_head];
    const float softplus = x > 20.0f ? x : log1pf(__expf(x));
    const float keep = __expf(-__expf(A_log[v_head]) * softplus);
    const float beta = 1.0f / (1.0f + __expf(-__bfloat162float(b[head])));
    const float factor = scale == 0.0f ? rsqrtf(float(HEAD_SIZE)) : scale;

    float sums[SUMS];
#pragma unroll
    for (int r = 0; r < rows; ++r) {
        sums[r] = dot(old[r], key);
        sums[rows + r] = dot(old[r], query);
    }
    float key_query = dot(key, query);
#pragma unroll
    for (int offset = LANES / 2; offset > 0; offset /= 2) key_query += __shfl_xor_sync(0xffffffffu, key_query, offset);
    // Before the exchanges, so that its latency is theirs too.
    float value[rows];
#pragma unroll
    for (int r = 0; r < rows; ++r) value[r] = __bfloat162float(v[first_row + r]);
    const float mine = fold<SUMS>(sums, lane);

    float own = 0.0f;
#pragma unroll
    for (int r = 0; r < rows; ++r) {
        const int row = first_row + r;
        const float predicted = keep * __shfl_sync(0xffffffffu, mine, r * SHARE);
        const float correction = beta * (value[r] - predicted);
        if (lane / SHARE == rows + r) own = correction;
        const float4 updated =
            make_float4(keep * old[r].x + correction * key.x, keep * old[r].y + correction * key.y,
                        keep * old[r].z + correction * key.z, keep * old[r].w + correction * key.w);
        __stcs(reinterpret_cast<float4*>(new_state) + row * LANES + lane, updated);
    }
    if (lane >= LANES / 2 && lane % SHARE == 0) {
        output[first_row + lane / SHARE - rows] = __float2bfloat16(factor * (keep * mine + own * key_query));
    }
}
