/* kforge
launch:
  - kernel: rmsnorm
    grid: ceil_div(num_tokens, TOKENS)
    block: THREADS, TOKENS
    args: x, weight, eps, output, num_tokens
tunables:
  THREADS: [128, 32, 64, 256]
  TOKENS: [1, 2, 4]
*/

// THREADS threads per token and TOKENS tokens per block. The token stays in registers between the sum and the result, so that
// it is read once. Adjacent threads read adjacent pairs.

#include <cuda_bf16.h>

constexpr int LANES = 32;
constexpr int WARPS = THREADS / LANES;                 // for each token
constexpr int PAIRS = HIDDEN_SIZE / 2;                 // in each token
constexpr int PAIRS_PER_THREAD = PAIRS / THREADS;
static_assert(PAIRS % THREADS == 0, "a token is divided evenly among its threads");

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int offset = LANES / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
}

__global__ void __launch_bounds__(THREADS * TOKENS)
    rmsnorm(const __nv_bfloat16* __restrict__ x, const __nv_bfloat16* __restrict__ weight, float eps,
            __nv_bfloat16* __restrict__ output, int num_tokens) {
    __shared__ float warp_sums[TOKENS][WARPS];
    const int token = blockIdx.x * TOKENS + threadIdx.y;
    const bool inside = token < num_tokens;  // no early return: every thread must reach the barrier
    const __nv_bfloat162* in = reinterpret_cast<const __nv_bfloat162*>(x) + token * PAIRS;
    const __nv_bfloat162* factors = reinterpret_cast<const __nv_bfloat162*>(weight);
    __nv_bfloat162* out = reinterpret_cast<__nv_bfloat162*>(output) + token * PAIRS;

    float2 values[PAIRS_PER_THREAD];
    float sum = 0.0f;
#pragma unroll
    for (int p = 0; p < PAIRS_PER_THREAD; ++p) {
        values[p] = inside ? __bfloat1622float2(in[p * THREADS + threadIdx.x]) : make_float2(0.0f, 0.0f);
        sum += values[p].x * values[p].x + values[p].y * values[p].y;
    }

    sum = warp_sum(sum);
    if (threadIdx.x % LANES == 0) warp_sums[threadIdx.y][threadIdx.x / LANES] = sum;
    __syncthreads();
    float total = 0.0f;
#pragma unroll
    for (int warp = 0; warp < WARPS; ++warp) total += warp_sums[threadIdx.y][warp];

    const float factor = rsqrtf(total / HIDDEN_SIZE + eps);
    if (!inside) return;
#pragma unroll
    for (int p = 0; p < PAIRS_PER_THREAD; ++p) {
        const float2 scaled = __bfloat1622float2(factors[p * THREADS + threadIdx.x]);
        out[p * THREADS + threadIdx.x] =
            __floats2bfloat162_rn(values[p].x * factor * scaled.x, values[p].y * factor * scaled.y);
    }
}
