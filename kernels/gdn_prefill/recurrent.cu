/* kforge
launch:
  - kernel: gdn_prefill
    grid: num_seqs * num_v_heads, head_size // (32 * WARPS // LANES)
    block: 32 * WARPS
    args: q, k, v, state, A_log, a, dt_bias, b, cu_seqlens, scale, output, new_state
tunables:
  LANES: [16, 8, 32, 4]
  WARPS: [4, 2, 1]
  PIECE: [16, 8, 32]
*/

// Token by token, with the state in registers: LANES threads hold a row of it, so that a warp holds several rows. Keys, queries,
// values and gates of PIECE tokens are in shared memory. With old = state before the decay, both sums of a row use the old state,
// before the correction is known:
//   output = scale * (keep * (old . q) + correction * (k . q)),  correction = beta * (v - keep * (old . k))

#include <cuda_bf16.h>

constexpr int THREADS = 32 * WARPS;
constexpr int ROWS = THREADS / LANES;
constexpr int FOURS = HEAD_SIZE / 4;
constexpr int OWN = FOURS / LANES;
static_assert(FOURS % LANES == 0 && HEAD_SIZE % ROWS == 0, "whole rows and lanes");

__device__ __forceinline__ float4 widen(uint2 four) {
    return make_float4(__uint_as_float(four.x << 16), __uint_as_float(four.x & 0xffff0000u),
                       __uint_as_float(four.y << 16), __uint_as_float(four.y & 0xffff0000u));
}

__device__ __forceinline__ float dot(float4 a, float4 b) { return a.x * b.x + a.y * b.y + (a.z * b.z + a.w * b.w); }

__global__ void __launch_bounds__(THREADS)
    gdn_prefill(const __nv_bfloat16* __restrict__ q, const __nv_bfloat16* __restrict__ k,
                const __nv_bfloat16* __restrict__ v, const float* __restrict__ state, const float* __restrict__ A_log,
                const __nv_bfloat16* __restrict__ a, const float* __restrict__ dt_bias,
                const __nv_bfloat16* __restrict__ b, const long long* __restrict__ cu_seqlens, float scale,
                __nv_bfloat16* __restrict__ output, float* __restrict__ new_state) {
    __shared__ float4 keys[PIECE][FOURS];
    __shared__ float4 queries[PIECE][FOURS];
    __shared__ float values[PIECE][ROWS];
    __shared__ float2 gates[PIECE];  // decay factor of the state, and strength of its correction

    const int v_head = blockIdx.x % NUM_V_HEADS;
    const int sequence = blockIdx.x / NUM_V_HEADS;
    const int qk_head = v_head / (NUM_V_HEADS / NUM_K_HEADS);
    const int lane = threadIdx.x % LANES;
    const int group = threadIdx.x / LANES;
    const int start = static_cast<int>(cu_seqlens[sequence]);
    const int end = static_cast<int>(cu_seqlens[sequence + 1]);
    const long long place = (static_cast<long long>(blockIdx.x) * HEAD_SIZE + blockIdx.y * ROWS + group) * FOURS + lane;
    const float factor = scale == 0.0f ? rsqrtf(float(HEAD_SIZE)) : scale;

    float4 own[OWN];
#pragma unroll
    for (int i = 0; i < OWN; ++i) {
        own[i] = state == nullptr || start == end ? make_float4(0.0f, 0.0f, 0.0f, 0.0f)
                                                  : reinterpret_cast<const float4*>(state)[place + i * LANES];
    }
    for (int first = start; first < end; first += PIECE) {
        const int count = min(PIECE, end - first);
        __syncthreads();
        for (int i = threadIdx.x; i < count * FOURS; i += THREADS) {
            const int from = ((first + i / FOURS) * NUM_K_HEADS + qk_head) * FOURS + i % FOURS;
            keys[i / FOURS][i % FOURS] = widen(reinterpret_cast<const uint2*>(k)[from]);
            queries[i / FOURS][i % FOURS] = widen(reinterpret_cast<const uint2*>(q)[from]);
        }
        for (int i = threadIdx.x; i < count * ROWS; i += THREADS) {
            const int from = ((first + i / ROWS) * NUM_V_HEADS + v_head) * HEAD_SIZE + blockIdx.y * ROWS + i % ROWS;
            values[i / ROWS][i % ROWS] = __bfloat162float(v[from]);
        }
        for (int i = threadIdx.x; i < count; i += THREADS) {
            const int from = (first + i) * NUM_V_HEADS + v_head;
            const float x = __bfloat162float(a[from]) + dt_bias[v_head];
            const float softplus = x > 20.0f ? x : log1pf(expf(x));
            gates[i] = make_float2(expf(-expf(A_log[v_head]) * softplus),
                                   1.0f / (1.0f + expf(-__bfloat162float(b[from]))));
        }
        __syncthreads();
        for (int token = 0; token < count; ++token) {
            float predicted = 0.0f, read = 0.0f, key_query = 0.0f;
#pragma unroll
            for (int i = 0; i < OWN; ++i) {
                const float4 key = keys[token][i * LANES + lane];
                const float4 query = queries[token][i * LANES + lane];
                predicted += dot(own[i], key);
                read += dot(own[i], query);
                key_query += dot(key, query);
            }
#pragma unroll
            for (int offset = LANES / 2; offset > 0; offset /= 2) {
                predicted += __shfl_xor_sync(0xffffffffu, predicted, offset);
                read += __shfl_xor_sync(0xffffffffu, read, offset);
                key_query += __shfl_xor_sync(0xffffffffu, key_query, offset);
            }
            const float keep = gates[token].x;
            const float correction = gates[token].y * (values[token][group] - keep * predicted);
#pragma unroll
            for (int i = 0; i < OWN; ++i) {
                const float4 key = keys[token][i * LANES + lane];
                own[i] = make_float4(keep * own[i].x + correction * key.x, keep * own[i].y + correction * key.y,
                                     keep * own[i].z + correction * key.z, keep * own[i].w + correction * key.w);
            }
            if (lane == 0) {
                const int to = ((first + token) * NUM_V_HEADS + v_head) * HEAD_SIZE + blockIdx.y * ROWS + group;
                output[to] = __float2bfloat16(factor * (keep * read + correction * key_query));
            }
        }
    }
#pragma unroll
    for (int i = 0; i < OWN; ++i) reinterpret_cast<float4*>(new_state)[place + i * LANES] = own[i];
}
