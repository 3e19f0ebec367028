/* kforge
launch:
  - kernel: rmsnorm
    grid: ceil_div(num_tokens, BLOCK)
    block: BLOCK
    args: x, weight, eps, output, num_tokens
tunables:
  BLOCK: [64, 16, 32, 128]
  UNROLL: [4, 1, 2, 8]
*/

// One thread per token, as in the naive kernel, with one reciprocal root instead of a division for each element.

#include <cuda_bf16.h>

__global__ void rmsnorm(const __nv_bfloat16* x, const __nv_bfloat16* weight, float eps, __nv_bfloat16* output,
                        int num_tokens) {
    const int token = blockIdx.x * BLOCK + threadIdx.x;
    if (token >= num_tokens) return;
    const __nv_bfloat16* in = x + token * HIDDEN_SIZE;
    __nv_bfloat16* out = output + token * HIDDEN_SIZE;

    float sum = 0.0f;
#pragma unroll UNROLL
    for (int i = 0; i < HIDDEN_SIZE; ++i) {
        const float value = __bfloat162float(in[i]);
        sum += value * value;
    }

    const float factor = rsqrtf(sum / HIDDEN_SIZE + eps);
#pragma unroll UNROLL
    for (int i = 0; i < HIDDEN_SIZE; ++i) {
        out[i] = __float2bfloat16(__bfloat162float(in[i]) * factor * __bfloat162float(weight[i]));
    }
}
