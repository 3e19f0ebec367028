/* kforge
launch:
  - kernel: attention
    grid: ceil_div(q_len, THREADS // LANES), num_q_heads, batch_size
    block: THREADS
    args: q, k, v, causal, scale, output, num_kv_heads, q_len, kv_len
tunables:
  LANES: [4, 2, 8]
  THREADS: [128, 64, 256]
  KEYS: [32, 16]
*/

// LANES threads per query, each with a part of its elements. KEYS keys and values at a time are in shared memory, in float32. One
// pass over the keys: when a larger score appears, the earlier sums are rescaled.

#include <cuda_bf16.h>

constexpr int QUERIES = THREADS / LANES;
constexpr int OWN = HEAD_SIZE / LANES;

__global__ void __launch_bounds__(THREADS)
    attention(const __nv_bfloat16* __restrict__ q, const __nv_bfloat16* __restrict__ k, const __nv_bfloat16* __restrict__ v, int causal,
              float scale, __nv_bfloat16* __restrict__ output, int num_kv_heads, int q_len, int kv_len) {
    __shared__ float keys[KEYS][HEAD_SIZE];
    __shared__ float values[KEYS][HEAD_SIZE];

    const int first = blockIdx.x * QUERIES;
    const int head = blockIdx.y;
    const int kv_head = head / (gridDim.y / num_kv_heads);
    const int query = first + threadIdx.x / LANES;
    const int lane = threadIdx.x % LANES;
    const long long q_row = (static_cast<long long>(blockIdx.z) * gridDim.y + head) * q_len + query;
    const long long kv_start = (static_cast<long long>(blockIdx.z) * num_kv_heads + kv_head) * kv_len * HEAD_SIZE;
    const float factor = scale == 0.0f ? rsqrtf(float(HEAD_SIZE)) : scale;
    // With `causal`, a query sees the keys up to its own position, aligned at the end; possibly none.
    const int seen = query < q_len ? (causal ? query + 1 + kv_len - q_len : kv_len) : 0;
    const int last = causal ? min(kv_len, first + QUERIES + kv_len - q_len) : kv_len;

    float own[OWN], sums[OWN];
#pragma unroll
    for (int i = 0; i < OWN; ++i) {
        own[i] = query < q_len ? factor * __bfloat162float(q[q_row * HEAD_SIZE + i * LANES + lane]) : 0.0f;
        sums[i] = 0.0f;
    }
    float largest = -1e30f, total = 0.0f;
    for (int start = 0; start < last; start += KEYS) {
        const int count = min(KEYS, kv_len - start);
        __syncthreads();
        for (int i = threadIdx.x; i < count * HEAD_SIZE; i += THREADS) {
            keys[i / HEAD_SIZE][i % HEAD_SIZE] = __bfloat162float(k[kv_start + static_cast<long long>(start) * HEAD_SIZE + i]);
            values[i / HEAD_SIZE][i % HEAD_SIZE] = __bfloat162float(v[kv_start + static_cast<long long>(start) * HEAD_SIZE + i]);
        }
        __syncthreads();
        for (int key = 0; key < count; ++key) {
            float score = 0.0f;
#pragma unroll
            for (int i = 0; i < OWN; ++i) score += own[i] * keys[key][i * LANES + lane];
#pragma unroll
            for (int offset = LANES / 2; offset > 0; offset /= 2) score += __shfl_xor_sync(0xffffffffu, score, offset);
            if (start + key >= seen) continue;  // true for all lanes of a query; the shuffle is already done
            const float peak = fmaxf(largest, score);
            const float shrink = __expf(largest - peak);
            const float weight = __expf(score - peak);
            largest = peak;
            total = total * shrink + weight;
#pragma unroll
            for (int i = 0; i < OWN; ++i) sums[i] = sums[i] * shrink + weight * values[key][i * LANES + lane];
        }
    }
    if (query >= q_len) return;
    const float share = total > 0.0f ? 1.0f / total : 0.0f;
#pragma unroll
    for (int i = 0; i < OWN; ++i) output[q_row * HEAD_SIZE + i * LANES + lane] = __float2bfloat16(share * sums[i]);
}
