/* kforge
launch:
  - kernel: gdn_decode
    grid: ceil_div(batch_size * num_v_heads * head_size, BLOCK)
    block: BLOCK
    args: q, k, v, state, A_log, a, dt_bias, b, scale, output, new_state, batch_size
tunables:
  BLOCK: [128, 32, 64, 256]
  UNROLL: [4, 1, 2, 8, 16]
*/

// One thread per row of a head's state, as in the naive kernel, but the state is read twice and written once. Both sums use the
// old state, before the correction is known. With old = keep * state:
//   output = scale * (old . q + correction * (k . q)),  correction = beta * (v - old . k)

#include <cuda_bf16.h>

struct Gates {
    float keep;  // decay factor of the state
    float beta;  // strength of the correction
};

__device__ inline Gates gates(float a, float dt_bias, float A_log, float b) {
    const float x = a + dt_bias;
    const float softplus = x > 20.0f ? x : log1pf(expf(x));
    return {expf(-expf(A_log) * softplus), 1.0f / (1.0f + expf(-b))};
}

__global__ void gdn_decode(const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v, const float* state,
                           const float* A_log, const __nv_bfloat16* a, const float* dt_bias, const __nv_bfloat16* b,
                           float scale, __nv_bfloat16* output, float* new_state, int batch_size) {
    const int row = blockIdx.x * BLOCK + threadIdx.x;
    if (row >= batch_size * NUM_V_HEADS * HEAD_SIZE) return;
    const int head = row / HEAD_SIZE;  // over all sequences
    const int v_head = head % NUM_V_HEADS;
    const int sequence = head / NUM_V_HEADS;
    const int qk_head = sequence * NUM_K_HEADS + v_head / (NUM_V_HEADS / NUM_K_HEADS);

    const Gates gate = gates(__bfloat162float(a[head]), dt_bias[v_head], A_log[v_head], __bfloat162float(b[head]));
    const float factor = scale == 0.0f ? rsqrtf(HEAD_SIZE) : scale;
    const __nv_bfloat16* query = q + qk_head * HEAD_SIZE;
    const __nv_bfloat16* key = k + qk_head * HEAD_SIZE;

    float old_key = 0.0f, old_query = 0.0f, key_query = 0.0f;
#pragma unroll UNROLL
    for (int i = 0; i < HEAD_SIZE; ++i) {
        const float old = state == nullptr ? 0.0f : state[row * HEAD_SIZE + i];
        old_key += old * __bfloat162float(key[i]);
        old_query += old * __bfloat162float(query[i]);
        key_query += __bfloat162float(key[i]) * __bfloat162float(query[i]);
    }

    const float correction = gate.beta * (__bfloat162float(v[row]) - gate.keep * old_key);
#pragma unroll UNROLL
    for (int i = 0; i < HEAD_SIZE; ++i) {
        const float old = state == nullptr ? 0.0f : state[row * HEAD_SIZE + i];
        new_state[row * HEAD_SIZE + i] = gate.keep * old + correction * __bfloat162float(key[i]);
    }
    output[row] = __float2bfloat16(factor * (gate.keep * old_query + correction * key_query));
}
