/* kforge
launch:
  - kernel: rmsnorm
    grid: num_tokens
    block: THREADS
    args: x, weight, eps, output, hidden_size
tunables:
  THREADS: [128, 32, 64, 256, 512]
*/

// One block per token, read twice: for the sum of squares, then for the result. Adjacent threads read adjacent elements.

#include <cuda_bf16.h>

constexpr int LANES = 32;
constexpr int WARPS = THREADS / LANES;

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int offset = LANES / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
}

__global__ void __launch_bounds__(THREADS)
    rmsnorm(const __nv_bfloat16* __restrict__ x, const __nv_bfloat16* __restrict__ weight, float eps,
            __nv_bfloat16* __restrict__ output, int hidden_size) {
    __shared__ float warp_sums[WARPS];
    const __nv_bfloat16* in = x + static_cast<size_t>(blockIdx.x) * hidden_size;
    __nv_bfloat16* out = output + static_cast<size_t>(blockIdx.x) * hidden_size;

    float sum = 0.0f;
    for (int i = threadIdx.x; i < hidden_size; i += THREADS) {
        const float value = __bfloat162float(in[i]);
        sum += value * value;
    }

    sum = warp_sum(sum);
    if (threadIdx.x % LANES == 0) warp_sums[threadIdx.x / LANES] = sum;
    __syncthreads();
    float total = 0.0f;
#pragma unroll
    for (int warp = 0; warp < WARPS; ++warp) total += warp_sums[warp];

    const float factor = rsqrtf(total / hidden_size + eps);
    for (int i = threadIdx.x; i < hidden_size; i += THREADS) {
        out[i] = __float2bfloat16(__bfloat162float(in[i]) * factor * __bfloat162float(weight[i]));
    }
}
