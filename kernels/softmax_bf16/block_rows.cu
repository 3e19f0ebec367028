/* kforge
launch:
  - kernel: softmax
    grid: ceil_div(rows, GROUPS)
    block: THREADS, GROUPS
    args: x, output, rows, columns
tunables:
  THREADS: [128, 32, 64, 256]
  GROUPS: [1, 2, 4]
*/

// THREADS threads per row and GROUPS rows per block; adjacent threads read adjacent elements. Each thread keeps a
// running maximum and rescales its running sum when the maximum grows, so that one pass over the row finds both.

#include <cuda_bf16.h>

constexpr int LANES = 32;
constexpr int WARPS = THREADS / LANES;  // for each row

// The sum of exp(x - largest) over the elements seen so far.
struct Running {
    float largest;
    float sum;
};

__device__ __forceinline__ Running merge(Running a, Running b) {
    const float largest = fmaxf(a.largest, b.largest);
    return {largest, a.sum * __expf(a.largest - largest) + b.sum * __expf(b.largest - largest)};
}

__device__ __forceinline__ Running warp_merge(Running own) {
#pragma unroll
    for (int offset = LANES / 2; offset > 0; offset /= 2) {
        const Running other = {__shfl_xor_sync(0xffffffffu, own.largest, offset),
                               __shfl_xor_sync(0xffffffffu, own.sum, offset)};
        own = merge(own, other);
    }
    return own;
}

__global__ void __launch_bounds__(THREADS * GROUPS)
    softmax(const __nv_bfloat16* __restrict__ x, __nv_bfloat16* __restrict__ output, int rows, int columns) {
    __shared__ Running warps[GROUPS][WARPS];
    const int row = blockIdx.x * GROUPS + threadIdx.y;
    const int length = row < rows ? columns : 0;  // no early return: every thread must reach the barrier
    const __nv_bfloat16* in = x + row * columns;
    __nv_bfloat16* out = output + row * columns;

    Running own = {-1e30f, 0.0f};  // below any logit, and finite: inf - inf is NaN
    for (int i = threadIdx.x; i < length; i += THREADS) own = merge(own, {__bfloat162float(in[i]), 1.0f});

    own = warp_merge(own);
    if (threadIdx.x % LANES == 0) warps[threadIdx.y][threadIdx.x / LANES] = own;
    __syncthreads();
    Running total = warps[threadIdx.y][0];
#pragma unroll
    for (int warp = 1; warp < WARPS; ++warp) total = merge(total, warps[threadIdx.y][warp]);

    const float factor = 1.0f / total.sum;
    for (int i = threadIdx.x; i < length; i += THREADS) {
        out[i] = __float2bfloat16(__expf(__bfloat162float(in[i]) - total.largest) * factor);
    }
}
