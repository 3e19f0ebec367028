/* kforge
launch:
  - kernel: gdn_decode
    grid: batch_size * num_v_heads, head_size // (ROWS * WARPS * (32 // SHARE))
    block: 32 * WARPS
    args: q, k, v, state, A_log, a, dt_bias, b, scale, output, new_state
tunables:
  ROWS: [4, 1, 2, 8]
  WARPS: [4, 1, 2, 8, 16]
  SHARE: [32, 16, 8]
  BATCH: [1, 2]
  STREAM: [0, 1, 2, 3]
  PAIRED: [0, 1]
  RESIDENT: [1, 4]
constraints: ROWS % BATCH == 0, ROWS * WARPS * (32 // SHARE) <= head_size
*/

// A space to record: 1,920 points, of which 1,552 meet the constraints. SHARE lanes share a row of the state and have ROWS rows in turn,
// BATCH of them in flight. STREAM marks loads (1), stores (2) or both (3) as used once. PAIRED reduces the two sums of a row together: half
// of the lanes end with the one, half with the other. RESIDENT blocks must fit on a multiprocessor, which limits registers. A batch that
// does not divide ROWS would not compile; more rows in a block than a head has could not be launched.

#include <cuda_bf16.h>

constexpr int VECTORS = HEAD_SIZE / 4 / SHARE;  // of four elements of a row, in a lane
constexpr int GROUPS = 32 / SHARE * WARPS;      // in a block
static_assert(ROWS % BATCH == 0, "batches are complete");

__device__ __forceinline__ float4 load_four(const __nv_bfloat16* from) {
    const __nv_bfloat162* pairs = reinterpret_cast<const __nv_bfloat162*>(from);
    const float2 low = __bfloat1622float2(pairs[0]);
    const float2 high = __bfloat1622float2(pairs[1]);
    return make_float4(low.x, low.y, high.x, high.y);
}

__device__ __forceinline__ float dot(float4 a, float4 b) { return a.x * b.x + a.y * b.y + (a.z * b.z + a.w * b.w); }

// The sum over the lanes of a row, in every lane.
__device__ __forceinline__ float row_sum(float value) {
#pragma unroll
    for (int offset = SHARE / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
}

// Two sums over the lanes of a row, in every lane.
__device__ __forceinline__ float2 row_sums(float one, float other, int lane) {
#if PAIRED
    const bool upper = lane & (SHARE / 2);
    float mine = (upper ? other : one) + __shfl_xor_sync(0xffffffffu, upper ? one : other, SHARE / 2);
#pragma unroll
    for (int offset = SHARE / 4; offset > 0; offset /= 2) mine += __shfl_xor_sync(0xffffffffu, mine, offset);
    return make_float2(__shfl_sync(0xffffffffu, mine, 0, SHARE), __shfl_sync(0xffffffffu, mine, SHARE / 2, SHARE));
#else
    return make_float2(row_sum(one), row_sum(other));
#endif
}

__device__ __forceinline__ float4 load_state(const float* state, int index) {
    const float4* from = reinterpret_cast<const float4*>(state) + index;
#if STREAM & 1
    return __ldcs(from);
#else
    return *from;
#endif
}

__device__ __forceinline__ void store_state(float* state, int index, float4 value) {
    float4* to = reinterpret_cast<float4*>(state) + index;
#if STREAM & 2
    __stcs(to, value);
#else
    *to = value;
#endif
}

__global__ void __launch_bounds__(32 * WARPS, RESIDENT)
    gdn_decode(const __nv_bfloat16* __restrict__ q, const __nv_bfloat16* __restrict__ k,
               const __nv_bfloat16* __restrict__ v, const float* __restrict__ state, const float* __restrict__ A_log,
               const __nv_bfloat16* __restrict__ a, const float* __restrict__ dt_bias,
               const __nv_bfloat16* __restrict__ b, float scale, __nv_bfloat16* __restrict__ output,
               float* __restrict__ new_state) {
    const int lane = threadIdx.x % SHARE;
    const int head = blockIdx.x;  // over all sequences
    const int v_head = head % NUM_V_HEADS;
    const int qk_head = head / NUM_V_HEADS * NUM_K_HEADS + v_head / (NUM_V_HEADS / NUM_K_HEADS);
    const int first_row = head * HEAD_SIZE + (blockIdx.y * GROUPS + threadIdx.x / SHARE) * ROWS;

    float4 query[VECTORS], key[VECTORS];
    float key_query = 0.0f;
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        query[i] = load_four(q + qk_head * HEAD_SIZE + 4 * (i * SHARE + lane));
        key[i] = load_four(k + qk_head * HEAD_SIZE + 4 * (i * SHARE + lane));
        key_query += dot(key[i], query[i]);
    }
    key_query = row_sum(key_query);

    const float x = __bfloat162float(a[head]) + dt_bias[v_head];
    const float softplus = x > 20.0f ? x : log1pf(__expf(x));
    const float keep = __expf(-__expf(A_log[v_head]) * softplus);
    const float beta = 1.0f / (1.0f + __expf(-__bfloat162float(b[head])));
    const float factor = scale == 0.0f ? rsqrtf(float(HEAD_SIZE)) : scale;

#pragma unroll 1
    for (int batch = 0; batch < ROWS; batch += BATCH) {
        float4 old[BATCH][VECTORS];
#pragma unroll
        for (int r = 0; r < BATCH; ++r) {
#pragma unroll
            for (int i = 0; i < VECTORS; ++i) {
                const int index = (first_row + batch + r) * (HEAD_SIZE / 4) + i * SHARE + lane;
                old[r][i] = state == nullptr ? make_float4(0.0f, 0.0f, 0.0f, 0.0f) : load_state(state, index);
            }
        }
#pragma unroll
        for (int r = 0; r < BATCH; ++r) {
            const int row = first_row + batch + r;
            float predicted = 0.0f, read = 0.0f;
#pragma unroll
            for (int i = 0; i < VECTORS; ++i) {
                predicted += dot(old[r][i], key[i]);
                read += dot(old[r][i], query[i]);
            }
            const float2 sums = row_sums(predicted, read, lane);
            const float correction = beta * (__bfloat162float(v[row]) - keep * sums.x);
#pragma unroll
            for (int i = 0; i < VECTORS; ++i) {
                const float4 value = old[r][i];
                store_state(new_state, row * (HEAD_SIZE / 4) + i * SHARE + lane,
                            make_float4(keep * value.x + correction * key[i].x, keep * value.y + correction * key[i].y,
                                        keep * value.z + correction * key[i].z, keep * value.w + correction * key[i].w));
            }
            if (lane == 0) output[row] = __float2bfloat16(factor * (keep * sums.y + correction * key_query));
        }
    }
}
