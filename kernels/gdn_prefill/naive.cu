/* kforge
launch:
  - kernel: gdn_prefill
    grid: ceil_div(num_seqs * num_v_heads * head_size, 128)
    block: 128
    args: q, k, v, state, A_log, a, dt_bias, b, cu_seqlens, scale, output, new_state, num_seqs
*/

// A direct translation of the definition: one thread per row of a head's state. The output holds the state between tokens.

#include <cuda_bf16.h>

__global__ void gdn_prefill(const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v, const float* state,
                            const float* A_log, const __nv_bfloat16* a, const float* dt_bias, const __nv_bfloat16* b,
                            const long long* cu_seqlens, float scale, __nv_bfloat16* output, float* new_state,
                            int num_seqs) {
    int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= num_seqs * NUM_V_HEADS * HEAD_SIZE) return;
    int sequence = row / (NUM_V_HEADS * HEAD_SIZE);
    int v_head = row / HEAD_SIZE % NUM_V_HEADS;
    int qk_head = v_head / (NUM_V_HEADS / NUM_K_HEADS);
    int start = (int)cu_seqlens[sequence];
    int end = (int)cu_seqlens[sequence + 1];
    if (scale == 0.0f) scale = 1.0f / sqrtf((float)HEAD_SIZE);

    float* own = new_state + (long long)row * HEAD_SIZE;
    for (int i = 0; i < HEAD_SIZE; i++) {
        own[i] = state == nullptr || start == end ? 0.0f : state[(long long)row * HEAD_SIZE + i];
    }

    for (int token = start; token < end; token++) {
        int gate = token * NUM_V_HEADS + v_head;
        const __nv_bfloat16* key = k + (token * NUM_K_HEADS + qk_head) * HEAD_SIZE;
        const __nv_bfloat16* query = q + (token * NUM_Q_HEADS + qk_head) * HEAD_SIZE;
        float x = __bfloat162float(a[gate]) + dt_bias[v_head];
        float softplus = x > 20.0f ? x : log1pf(expf(x));
        float keep = expf(-expf(A_log[v_head]) * softplus);
        float beta = 1.0f / (1.0f + expf(-__bfloat162float(b[gate])));

        // Decay the state, and compute its prediction for this key.
        float predicted = 0.0f;
        for (int i = 0; i < HEAD_SIZE; i++) {
            own[i] = keep * own[i];
            predicted += own[i] * __bfloat162float(key[i]);
        }

        // Correct it towards the new value, and read it with the query.
        float value = __bfloat162float(v[gate * HEAD_SIZE + row % HEAD_SIZE]);
        float correction = beta * (value - predicted);
        float sum = 0.0f;
        for (int i = 0; i < HEAD_SIZE; i++) {
            own[i] += correction * __bfloat162float(key[i]);
            sum += own[i] * __bfloat162float(query[i]);
        }
        output[gate * HEAD_SIZE + row % HEAD_SIZE] = __float2bfloat16(scale * sum);
    }
}
