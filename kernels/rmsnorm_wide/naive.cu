/* kforge
launch:
  - kernel: rmsnorm
    grid: ceil_div(num_tokens, 128)
    block: 128
    args: x, weight, eps, output, num_tokens, hidden_size
*/

// A direct translation of the definition: one thread per token, one pass for the mean square and one for the result.

#include <cuda_bf16.h>

__global__ void rmsnorm(const __nv_bfloat16* x, const __nv_bfloat16* weight, float eps, __nv_bfloat16* output,
                        int num_tokens, int hidden_size) {
    int token = blockIdx.x * blockDim.x + threadIdx.x;
    if (token >= num_tokens) return;

    float sum = 0.0f;
    for (int i = 0; i < hidden_size; i++) {
        sum += __bfloat162float(x[token * hidden_size + i]) * __bfloat162float(x[token * hidden_size + i]);
    }

    float root = sqrtf(sum / hidden_size + eps);
    for (int i = 0; i < hidden_size; i++) {
        float normalized = __bfloat162float(x[token * hidden_size + i]) / root;
        output[token * hidden_size + i] = __float2bfloat16(normalized * __bfloat162float(weight[i]));
    }
}
