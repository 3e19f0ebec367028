/* kforge
launch:
  - kernel: gdn_decode
    grid: ceil_div(batch_size * num_v_heads * head_size, 128)
    block: 128
    args: q, k, v, state, A_log, a, dt_bias, b, scale, output, new_state, batch_size
*/

// A direct translation of the definition: one thread per row of a head's state, three passes over the row.

#include <cuda_bf16.h>

__global__ void gdn_decode(const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v, const float* state,
                           const float* A_log, const __nv_bfloat16* a, const float* dt_bias, const __nv_bfloat16* b,
                           float scale, __nv_bfloat16* output, float* new_state, int batch_size) {
    int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= batch_size * NUM_V_HEADS * HEAD_SIZE) return;
    int head = row / HEAD_SIZE;  // over all sequences
    int v_head = head % NUM_V_HEADS;
    int sequence = head / NUM_V_HEADS;
    int qk_head = sequence * NUM_K_HEADS + v_head / (NUM_V_HEADS / NUM_K_HEADS);

    // The gates, the same for all rows of a head.
    float x = __bfloat162float(a[head]) + dt_bias[v_head];
    float softplus = x > 20.0f ? x : log1pf(expf(x));
    float keep = expf(-expf(A_log[v_head]) * softplus);
    float beta = 1.0f / (1.0f + expf(-__bfloat162float(b[head])));
    if (scale == 0.0f) scale = 1.0f / sqrtf((float)HEAD_SIZE);

    // Decay the state, and compute its prediction for this key.
    float predicted = 0.0f;
    for (int i = 0; i < HEAD_SIZE; i++) {
        float old = state == nullptr ? 0.0f : state[row * HEAD_SIZE + i];
        new_state[row * HEAD_SIZE + i] = keep * old;
        predicted += new_state[row * HEAD_SIZE + i] * __bfloat162float(k[qk_head * HEAD_SIZE + i]);
    }

    // Correct it towards the new value.
    float correction = beta * (__bfloat162float(v[row]) - predicted);
    for (int i = 0; i < HEAD_SIZE; i++) {
        new_state[row * HEAD_SIZE + i] += correction * __bfloat162float(k[qk_head * HEAD_SIZE + i]);
    }

    // Read it with the query.
    float sum = 0.0f;
    for (int i = 0; i < HEAD_SIZE; i++) {
        sum += new_state[row * HEAD_SIZE + i] * __bfloat162float(q[qk_head * HEAD_SIZE + i]);
    }
    output[row] = __float2bfloat16(scale * sum);
}
