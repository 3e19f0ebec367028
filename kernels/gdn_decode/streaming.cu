/* kforge
launch:
  - kernel: gdn_decode<ROWS>
    grid: batch_size * num_v_heads, head_size // (ROWS * WARPS)
    block: 32 * WARPS
    args: q, k, v, state, A_log, a, dt_bias, b, scale, output, new_state
tunables:
  ROWS: [4, 1, 2, 8]
  WARPS: [4, 1, 2, 8]
  STREAM: [1, 0]
variants:
  - {when: batch_size <= 1, ROWS: 1, WARPS: 8}
  - {when: batch_size <= 4, ROWS: 1}
  - {when: batch_size > 48, ROWS: 2}
*/

// One warp per ROWS rows of a head's state, four elements of each row per lane. A warp issues all of its loads before it waits for
// any: first the rows, which are nearly all of the traffic, then the operands of the gates and the sums. With STREAM the state
// bypasses the caches, because it is read only once. For few sequences a warp takes one row, so that every multiprocessor has
// work; for many it takes more, so that several rows share the keys and the gates. With old = state before the decay:
//   output = scale * (keep * (old . q) + correction * (k . q)),  correction = beta * (v - keep * (old . k))

#include <cuda_bf16.h>

constexpr int LANES = 32;
static_assert(HEAD_SIZE == 4 * LANES, "a warp holds a row, four elements a lane");

__device__ __forceinline__ float4 load_state(const float4* from) {
#if STREAM
    return __ldcs(from);
#else
    return *from;
#endif
}

__device__ __forceinline__ void store_state(float4* to, float4 value) {
#if STREAM
    __stcs(to, value);
#else
    *to = value;
#endif
}

// Four adjacent elements in one load.
__device__ __forceinline__ float4 widen(uint2 four) {
    return make_float4(__uint_as_float(four.x << 16), __uint_as_float(four.x & 0xffff0000u),
                       __uint_as_float(four.y << 16), __uint_as_float(four.y & 0xffff0000u));
}

__device__ __forceinline__ float dot(float4 a, float4 b) { return a.x * b.x + a.y * b.y + (a.z * b.z + a.w * b.w); }

// Sums `count` values over the lanes of a warp. Each exchange halves the values per lane. At the end the lanes from
// i * 32 / count on hold the sum of value i.
template <int count>
__device__ __forceinline__ float spread_sums(float (&values)[count], int lane) {
    int offset = LANES / 2;
#pragma unroll
    for (int half = count / 2; half > 0; half /= 2, offset /= 2) {
        const bool upper = lane & offset;
#pragma unroll
        for (int i = 0; i < half; ++i) {
            const float kept = upper ? values[i + half] : values[i];
            const float given = upper ? values[i] : values[i + half];
            values[i] = kept + __shfl_xor_sync(0xffffffffu, given, offset);
        }
    }
    float sum = values[0];
#pragma unroll
    for (int rest = LANES / 2 / count; rest > 0; rest /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, rest);
    return sum;
}

template <int rows>
__global__ void __launch_bounds__(LANES * WARPS)
    gdn_decode(const __nv_bfloat16* __restrict__ q, const __nv_bfloat16* __restrict__ k,
               const __nv_bfloat16* __restrict__ v, const float* __restrict__ state, const float* __restrict__ A_log,
               const __nv_bfloat16* __restrict__ a, const float* __restrict__ dt_bias,
               const __nv_bfloat16* __restrict__ b, float scale, __nv_bfloat16* __restrict__ output,
               float* __restrict__ new_state) {
    constexpr int PERIOD = LANES / 2 / rows;  // lanes that share a row's sum
    const int lane = threadIdx.x % LANES;
    const int warp = threadIdx.x / LANES;
    const int head = blockIdx.x;  // over all sequences
    const int v_head = head % NUM_V_HEADS;
    const int qk_head = head / NUM_V_HEADS * NUM_K_HEADS + v_head / (NUM_V_HEADS / NUM_K_HEADS);
    const int first_row = head * HEAD_SIZE + (blockIdx.y * WARPS + warp) * rows;
    const int own_row = lane % (LANES / 2) / PERIOD;

    float4 old[rows];
    if (state != nullptr) {
        const float4* from = reinterpret_cast<const float4*>(state) + first_row * LANES + lane;
#pragma unroll
        for (int r = 0; r < rows; ++r) old[r] = load_state(from + r * LANES);
    } else {
#pragma unroll
        for (int r = 0; r < rows; ++r) old[r] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
    const uint2 keys = reinterpret_cast<const uint2*>(k)[qk_head * LANES + lane];
    const uint2 queries = reinterpret_cast<const uint2*>(q)[qk_head * LANES + lane];
    const float x = __bfloat162float(a[head]) + dt_bias[v_head];
    const float rate = A_log[v_head];
    const float mix = __bfloat162float(b[head]);
    const float value = __bfloat162float(v[first_row + own_row]);

    // All loads stay above this line; otherwise the compiler moves them down to save registers.
    __syncwarp();

    // softplus as max(0, x) plus a remainder: no branch, and correct where exp(x) would overflow.
    const float softplus = fmaxf(x, 0.0f) + __logf(1.0f + __expf(-fabsf(x)));
    const float keep = __expf(-__expf(rate) * softplus);
    const float beta = __fdividef(1.0f, 1.0f + __expf(-mix));
    const float factor = scale == 0.0f ? rsqrtf(float(HEAD_SIZE)) : scale;

    const float4 key = widen(keys);
    const float4 query = widen(queries);
    float sums[2 * rows];
#pragma unroll
    for (int r = 0; r < rows; ++r) {
        sums[r] = dot(old[r], key);
        sums[rows + r] = dot(old[r], query);
    }
    // The lower half of the warp holds the rows' predictions for the key, the upper half the sums for the query.
    const float sum = keep * spread_sums(sums, lane);
    float key_query = dot(key, query);
#pragma unroll
    for (int offset = LANES / 2; offset > 0; offset /= 2) key_query += __shfl_xor_sync(0xffffffffu, key_query, offset);
    const float correction = beta * (value - sum);

    float4* to = reinterpret_cast<float4*>(new_state) + first_row * LANES + lane;
#pragma unroll
    for (int r = 0; r < rows; ++r) {
        const float own = __shfl_sync(0xffffffffu, correction, r * PERIOD);
        store_state(to + r * LANES, make_float4(keep * old[r].x + own * key.x, keep * old[r].y + own * key.y,
                                                keep * old[r].z + own * key.z, keep * old[r].w + own * key.w));
    }
    const float corrected = __shfl_xor_sync(0xffffffffu, correction, LANES / 2);
    if (lane >= LANES / 2 && lane % PERIOD == 0) {
        output[first_row + own_row] = __float2bfloat16(factor * (sum + corrected * key_query));
    }
}
