/* kforge
launch:
  - kernel: attention
    grid: ceil_div(batch_size * num_q_heads * q_len, 64)
    block: 64
    args: q, k, v, causal, scale, output, batch_size, num_q_heads, num_kv_heads, q_len, kv_len
*/

// A direct translation of the definition: one thread per query, two passes over the keys.

#include <cuda_bf16.h>

__device__ float score(const __nv_bfloat16* query, const __nv_bfloat16* key) {
    float sum = 0.0f;
    for (int i = 0; i < HEAD_SIZE; i++) {
        sum += __bfloat162float(query[i]) * __bfloat162float(key[i]);
    }
    return sum;
}

__global__ void attention(const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v, int causal, float scale, __nv_bfloat16* output,
                          int batch_size, int num_q_heads, int num_kv_heads, int q_len, int kv_len) {
    long long row = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= (long long)batch_size * num_q_heads * q_len) return;
    int query = (int)(row % q_len);
    int head = (int)(row / q_len) % num_q_heads;
    int batch = (int)(row / q_len) / num_q_heads;
    int kv_head = batch * num_kv_heads + head / (num_q_heads / num_kv_heads);
    const __nv_bfloat16* own = q + row * HEAD_SIZE;
    const __nv_bfloat16* keys = k + (long long)kv_head * kv_len * HEAD_SIZE;
    const __nv_bfloat16* values = v + (long long)kv_head * kv_len * HEAD_SIZE;
    if (scale == 0.0f) scale = 1.0f / sqrtf((float)HEAD_SIZE);

    // With `causal`, a query sees the keys up to its own position, aligned at the end; possibly none.
    int seen = causal ? query + 1 + kv_len - q_len : kv_len;

    float largest = -1e30f;  // below any score
    for (int key = 0; key < seen; key++) {
        largest = fmaxf(largest, scale * score(own, keys + (long long)key * HEAD_SIZE));
    }

    float total = 0.0f;
    float sums[HEAD_SIZE] = {};
    for (int key = 0; key < seen; key++) {
        float weight = expf(scale * score(own, keys + (long long)key * HEAD_SIZE) - largest);
        total += weight;
        for (int i = 0; i < HEAD_SIZE; i++) {
            sums[i] += weight * __bfloat162float(values[(long long)key * HEAD_SIZE + i]);
        }
    }

    for (int i = 0; i < HEAD_SIZE; i++) {
        output[row * HEAD_SIZE + i] = __float2bfloat16(total > 0.0f ? sums[i] / total : 0.0f);
    }
}
