/* kforge
launch:
  - kernel: prepare
    grid: ceil_div(total_seq_len * num_k_heads, 4)
    block: 128
    args: q, k, A_log, a, dt_bias, b, products, gates, total_seq_len
  - kernel: gdn_prefill
    grid: num_seqs * num_v_heads, head_size // (32 * WARPS // LANES * ROWS)
    block: 32 * WARPS
    args: q, k, v, state, cu_seqlens, scale, products, gates, output, new_state, total_seq_len
tunables:
  CHUNK: [8, 4]
  LANES: [8, 16, 4, 32]
  ROWS: [1, 2]
  WARPS: [4, 2, 8]
constraints: CHUNK * head_size % (128 * WARPS) == 0
variants:
  - {when: num_seqs <= 2, LANES: 16, ROWS: 1, WARPS: 4}
scratch:
  products: {dtype: float32, shape: "total_seq_len, num_k_heads, 2 * CHUNK"}
  gates: {dtype: float32, shape: "2 * num_v_heads, total_seq_len"}
*/

// Processes CHUNK tokens at a time. After a chunk the state is a factor times the earlier state S, plus a sum of u_i k_i^T:
//   predicted_j = decay_j (S k_j) + sum over i < j of between_ij (k_i . k_j) u_i,    u_j = beta_j (v_j - predicted_j)
//   output_j    = scale (decay_j (S q_j) + sum over i <= j of between_ij (k_i . q_j) u_i)
// decay_j is the product of the chunk's gates up to j, between_ij the product of the gates after i up to j. All S k_j and S q_j are
// summed over the lanes at once. The products of keys and queries do not depend on the rows. A separate launch computes them, and
// the gates, for each token against the CHUNK - 1 tokens before it, wherever chunks start.

#include <cuda_bf16.h>

constexpr int THREADS = 32 * WARPS;
constexpr int GROUPS = THREADS / LANES;
constexpr int BLOCK_ROWS = GROUPS * ROWS;
constexpr int FOURS = HEAD_SIZE / 4;
constexpr int OWN = FOURS / LANES;
constexpr int LOADS = CHUNK * FOURS / THREADS;
constexpr int VALUES = (CHUNK * BLOCK_ROWS + THREADS - 1) / THREADS;
constexpr int GROUP_HEADS = NUM_V_HEADS / NUM_K_HEADS;
static_assert(FOURS % LANES == 0 && HEAD_SIZE % BLOCK_ROWS == 0, "whole rows and lanes");
static_assert(CHUNK * FOURS % THREADS == 0 && CHUNK * CHUNK <= THREADS, "every thread loads as much");

__device__ __forceinline__ float4 widen(uint2 four) {
    return make_float4(__uint_as_float(four.x << 16), __uint_as_float(four.x & 0xffff0000u),
                       __uint_as_float(four.y << 16), __uint_as_float(four.y & 0xffff0000u));
}

__device__ __forceinline__ float dot(float4 a, float4 b) { return a.x * b.x + a.y * b.y + (a.z * b.z + a.w * b.w); }

// Sums `count` values over the lanes of a warp. Each exchange halves the values per lane. At the end the lanes from
// i * 32 / count on hold the sum of value i.
template <int count>
__device__ __forceinline__ float spread_sums(float (&values)[count], int lane) {
    int offset = 16;
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
    for (int rest = 16 / count; rest > 0; rest /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, rest);
    return sum;
}

// One warp per token and key head: its key and query times the keys of the last CHUNK tokens, and the gates of its value heads.
__global__ void __launch_bounds__(128)
    prepare(const __nv_bfloat16* __restrict__ q, const __nv_bfloat16* __restrict__ k, const float* __restrict__ A_log,
            const __nv_bfloat16* __restrict__ a, const float* __restrict__ dt_bias,
            const __nv_bfloat16* __restrict__ b, float* __restrict__ products, float* __restrict__ gates, int tokens) {
    const int lane = threadIdx.x % 32;
    const int index = blockIdx.x * 4 + threadIdx.x / 32;  // over tokens and heads
    if (index >= tokens * NUM_K_HEADS) return;
    const int token = index / NUM_K_HEADS;
    const int head = index % NUM_K_HEADS;

    const uint2* keys = reinterpret_cast<const uint2*>(k) + index * FOURS + lane;
    const float4 query = widen(reinterpret_cast<const uint2*>(q)[index * FOURS + lane]);
    float4 key[CHUNK];
#pragma unroll
    for (int back = 0; back < CHUNK; ++back) {
        const uint2 none = make_uint2(0, 0);
        key[back] = widen(back <= token ? keys[-back * NUM_K_HEADS * FOURS] : none);
    }
    float sums[2 * CHUNK];
#pragma unroll
    for (int back = 0; back < CHUNK; ++back) {
        sums[back] = dot(key[0], key[back]);
        sums[CHUNK + back] = dot(query, key[back]);
    }
    const float sum = spread_sums(sums, lane);
    constexpr int PERIOD = 16 / CHUNK;
    if (lane % PERIOD == 0) products[index * 2 * CHUNK + lane / PERIOD] = sum;

    if (lane < GROUP_HEADS) {
        const int v_head = head * GROUP_HEADS + lane;
        const float x = __bfloat162float(a[token * NUM_V_HEADS + v_head]) + dt_bias[v_head];
        const float softplus = x > 20.0f ? x : log1pf(expf(x));
        gates[v_head * tokens + token] = expf(-expf(A_log[v_head]) * softplus);
        gates[(NUM_V_HEADS + v_head) * tokens + token] =
            1.0f / (1.0f + expf(-__bfloat162float(b[token * NUM_V_HEADS + v_head])));
    }
}

// A chunk in shared memory.
struct Chunk {
    float4 keys[CHUNK][FOURS];
    float4 queries[CHUNK][FOURS];
    float values[CHUNK][BLOCK_ROWS];
    float with_keys[CHUNK][CHUNK];     // [j][i]: between_ij (k_i . k_j), 0 unless i < j
    float with_queries[CHUNK][CHUNK];  // [j][i]: between_ij (k_i . q_j), 0 unless i <= j
    float decay[CHUNK];
    float beta[CHUNK];
    float rest[CHUNK];  // the factor of u_i at the chunk's end
};

// The part of the next chunk that this thread has loaded into registers.
struct Load {
    uint2 keys[LOADS];
    uint2 queries[LOADS];
    __nv_bfloat16 values[VALUES];
    float gates[CHUNK];
    float beta;
    float with_key;
    float with_query;
};

__global__ void __launch_bounds__(THREADS)
    gdn_prefill(const __nv_bfloat16* __restrict__ q, const __nv_bfloat16* __restrict__ k,
                const __nv_bfloat16* __restrict__ v, const float* __restrict__ state,
                const long long* __restrict__ cu_seqlens, float scale, const float* __restrict__ products,
                const float* __restrict__ gates, __nv_bfloat16* __restrict__ output, float* __restrict__ new_state,
                int tokens) {
    __shared__ Chunk chunks[2];

    const int v_head = blockIdx.x % NUM_V_HEADS;
    const int sequence = blockIdx.x / NUM_V_HEADS;
    const int qk_head = v_head / GROUP_HEADS;
    const int lane = threadIdx.x % LANES;
    const int group = threadIdx.x / LANES;
    const int first_row = blockIdx.y * BLOCK_ROWS;
    const int start = static_cast<int>(cu_seqlens[sequence]);
    const int end = static_cast<int>(cu_seqlens[sequence + 1]);
    const float factor = scale == 0.0f ? rsqrtf(float(HEAD_SIZE)) : scale;
    // The pair of tokens, j after i, that this thread handles; the last threads may have none.
    const int later = threadIdx.x / CHUNK;
    const int earlier = threadIdx.x % CHUNK;

    // Tokens after the end are zero: they neither decay nor correct the state.
    const auto load = [&](int first, Load& next) {
        const int count = end - first;
#pragma unroll
        for (int n = 0; n < LOADS; ++n) {
            const int i = n * THREADS + threadIdx.x;
            const int from = ((first + i / FOURS) * NUM_K_HEADS + qk_head) * FOURS + i % FOURS;
            const bool there = i / FOURS < count;
            next.keys[n] = there ? reinterpret_cast<const uint2*>(k)[from] : make_uint2(0, 0);
            next.queries[n] = there ? reinterpret_cast<const uint2*>(q)[from] : make_uint2(0, 0);
        }
#pragma unroll
        for (int n = 0; n < VALUES; ++n) {
            const int i = n * THREADS + threadIdx.x;
            const int from = ((first + i / BLOCK_ROWS) * NUM_V_HEADS + v_head) * HEAD_SIZE + first_row + i % BLOCK_ROWS;
            next.values[n] = i / BLOCK_ROWS < min(count, CHUNK) ? v[from] : __float2bfloat16(0.0f);
        }
        next.beta = next.with_key = next.with_query = 0.0f;
        if (threadIdx.x < CHUNK * CHUNK) {
#pragma unroll
            for (int i = 0; i < CHUNK; ++i) next.gates[i] = i < count ? gates[v_head * tokens + first + i] : 1.0f;
            if (later < count) {
                const float* from = products + ((first + later) * NUM_K_HEADS + qk_head) * 2 * CHUNK;
                if (earlier < later) next.with_key = from[later - earlier];
                if (earlier <= later) next.with_query = from[CHUNK + later - earlier];
                next.beta = gates[(NUM_V_HEADS + v_head) * tokens + first + later];
            }
        }
    };
    const auto place = [&](const Load& next, Chunk& chunk) {
#pragma unroll
        for (int n = 0; n < LOADS; ++n) {
            const int i = n * THREADS + threadIdx.x;
            chunk.keys[i / FOURS][i % FOURS] = widen(next.keys[n]);
            chunk.queries[i / FOURS][i % FOURS] = widen(next.queries[n]);
        }
#pragma unroll
        for (int n = 0; n < VALUES; ++n) {
            const int i = n * THREADS + threadIdx.x;
            if (i < CHUNK * BLOCK_ROWS) chunk.values[i / BLOCK_ROWS][i % BLOCK_ROWS] = __bfloat162float(next.values[n]);
        }
        if (threadIdx.x < CHUNK * CHUNK) {
            float between = 1.0f, decay = 1.0f, rest = 1.0f;
#pragma unroll
            for (int i = 0; i < CHUNK; ++i) {
                if (i > earlier && i <= later) between *= next.gates[i];
                if (i <= later) decay *= next.gates[i];
                if (i > later) rest *= next.gates[i];
            }
            chunk.with_keys[later][earlier] = between * next.with_key;
            chunk.with_queries[later][earlier] = between * next.with_query;
            if (earlier == 0) {
                chunk.decay[later] = decay;
                chunk.beta[later] = next.beta;
                chunk.rest[later] = rest;
            }
        }
    };

    float4 own[ROWS][OWN];
    long long places[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        const int row = first_row + r * GROUPS + group;
        places[r] = (static_cast<long long>(blockIdx.x) * HEAD_SIZE + row) * FOURS + lane;
#pragma unroll
        for (int i = 0; i < OWN; ++i) {
            own[r][i] = state == nullptr || start == end ? make_float4(0.0f, 0.0f, 0.0f, 0.0f)
                                                         : reinterpret_cast<const float4*>(state)[places[r] + i * LANES];
        }
    }

    Load next;
    if (start < end) {
        load(start, next);
        place(next, chunks[0]);
    }
    __syncthreads();
    int turn = 0;
    for (int first = start; first < end; first += CHUNK, turn ^= 1) {
        const Chunk& chunk = chunks[turn];
        const bool more = first + CHUNK < end;
        if (more) load(first + CHUNK, next);

        // The state before the chunk times all keys and all queries.
        float predicted[ROWS][CHUNK], read[ROWS][CHUNK];
#pragma unroll
        for (int j = 0; j < CHUNK; ++j) {
#pragma unroll
            for (int r = 0; r < ROWS; ++r) predicted[r][j] = read[r][j] = 0.0f;
#pragma unroll
            for (int i = 0; i < OWN; ++i) {
                const float4 key = chunk.keys[j][i * LANES + lane];
                const float4 query = chunk.queries[j][i * LANES + lane];
#pragma unroll
                for (int r = 0; r < ROWS; ++r) {
                    predicted[r][j] += dot(own[r][i], key);
                    read[r][j] += dot(own[r][i], query);
                }
            }
        }
#pragma unroll
        for (int offset = LANES / 2; offset > 0; offset /= 2) {
#pragma unroll
            for (int j = 0; j < CHUNK; ++j) {
#pragma unroll
                for (int r = 0; r < ROWS; ++r) {
                    predicted[r][j] += __shfl_xor_sync(0xffffffffu, predicted[r][j], offset);
                    read[r][j] += __shfl_xor_sync(0xffffffffu, read[r][j], offset);
                }
            }
        }

        // Token by token: its correction, and what the correction adds to all later tokens.
        float result[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; ++r) result[r] = 0.0f;
#pragma unroll
        for (int j = 0; j < CHUNK; ++j) {
#pragma unroll
            for (int r = 0; r < ROWS; ++r) {
                predicted[r][j] *= chunk.decay[j];
                read[r][j] *= chunk.decay[j];
            }
        }
#pragma unroll
        for (int j = 0; j < CHUNK; ++j) {
#pragma unroll
            for (int r = 0; r < ROWS; ++r) {
                const float correction = chunk.beta[j] * (chunk.values[j][r * GROUPS + group] - predicted[r][j]);
#pragma unroll
                for (int behind = j; behind < CHUNK; ++behind) {
                    if (behind > j) predicted[r][behind] += chunk.with_keys[behind][j] * correction;
                    read[r][behind] += chunk.with_queries[behind][j] * correction;
                }
                if (j % LANES == lane) result[r] = read[r][j];
                predicted[r][j] = chunk.rest[j] * correction;
                if (LANES < CHUNK && j % LANES == lane && first + j < end) {
                    const int to = ((first + j) * NUM_V_HEADS + v_head) * HEAD_SIZE + first_row + r * GROUPS + group;
                    output[to] = __float2bfloat16(factor * result[r]);
                }
            }
        }
        if (LANES >= CHUNK && lane < CHUNK && first + lane < end) {
#pragma unroll
            for (int r = 0; r < ROWS; ++r) {
                const int to = ((first + lane) * NUM_V_HEADS + v_head) * HEAD_SIZE + first_row + r * GROUPS + group;
                output[to] = __float2bfloat16(factor * result[r]);
            }
        }

        // The state after the chunk.
        const float left = chunk.decay[CHUNK - 1];
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
#pragma unroll
            for (int i = 0; i < OWN; ++i) {
                own[r][i] = make_float4(left * own[r][i].x, left * own[r][i].y, left * own[r][i].z, left * own[r][i].w);
            }
        }
#pragma unroll
        for (int j = 0; j < CHUNK; ++j) {
#pragma unroll
            for (int i = 0; i < OWN; ++i) {
                const float4 key = chunk.keys[j][i * LANES + lane];
#pragma unroll
                for (int r = 0; r < ROWS; ++r) {
                    own[r][i].x += predicted[r][j] * key.x;
                    own[r][i].y += predicted[r][j] * key.y;
                    own[r][i].z += predicted[r][j] * key.z;
                    own[r][i].w += predicted[r][j] * key.w;
                }
            }
        }
        if (more) place(next, chunks[turn ^ 1]);
        __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
#pragma unroll
        for (int i = 0; i < OWN; ++i) reinterpret_cast<float4*>(new_state)[places[r] + i * LANES] = own[r][i];
    }
}
