/* kforge
launch:
  - kernel: rmsnorm
    grid: ceil_div(num_tokens, 128)
    block: 128
    args: x, weight, eps, output, num_tokens
*/

// A direct translation of the definition: one thread per token, one pass for the mean square and one for the result.

#include <cuda_bf16.h>

__global__ void rmsnorm(const __nv_bfloat16* x, const __nv_bfloat16* weight, float eps, __nv_bfloat16* output,
                        int num_tokens) {
    int token = blockIdx.x * blockDim.x + threadIdx.x;
    if (token >= num_tokens) return;

    float sum = 0.0f;
    for (int i = 0; i < HIDDEN_SIZE; i++) {
        sum += __bfloat162float(x[token * HIDDEN_SIZE + i]) * __bfloat162float(x[token * HIDDEN_SIZE + i]);
    }

    float root = sqrtf(sum / HIDDEN_SIZE + eps);
    for (int i = 0; i < HIDDEN_SIZE; i++) {
        float normalized = __bfloat162float(x[token * HIDDEN_SIZE + i]) / root;
        output[token * HIDDEN_SIZE + i] = __float2bfloat16(normalized * __bfloat162float(weight[i]));
    }
}
