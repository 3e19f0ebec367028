/* kforge
launch:
  - kernel: short_rows
    when: hidden_size % 8 == 0 and hidden_size <= 1024
    grid: ceil_div(num_tokens, SHORT_WARPS)
    block: 32 * SHORT_WARPS
    args: x, weight, eps, output, num_tokens, hidden_size
  - kernel: long_rows<1, LONG_THREADS, LONG_PIECES>
    when: hidden_size % 8 == 0 and hidden_size > 1024 and hidden_size <= 8192
    grid: num_tokens
    block: LONG_THREADS
    args: x, weight, eps, output, hidden_size
  - kernel: long_rows<WIDE_CLUSTER, WIDE_THREADS, WIDE_PIECES>
    when: hidden_size % 8 == 0 and hidden_size > 8192 and hidden_size <= 153600
    grid: num_tokens * WIDE_CLUSTER
    block: WIDE_THREADS
    cluster: WIDE_CLUSTER
    args: x, weight, eps, output, hidden_size
  - kernel: any_rows
    when: hidden_size % 8 != 0 or hidden_size > 153600
    grid: num_tokens
    block: 512
    args: x, weight, eps, output, hidden_size
tunables:
  SHORT_WARPS: [4, 1, 2, 8]
  LONG_THREADS: [512, 128, 256, 1024]
  WIDE_CLUSTER: [8, 4]
  WIDE_THREADS: [480, 320, 608, 800, 1024]
  LOADS: [0, 1]
  STORES: [0, 1]
constraints: WIDE_CLUSTER * WIDE_THREADS >= 2400
*/

// Every token is read once and stays in registers, packed, between the sum and the result: a warp for up to 1024 elements, a block
// for up to 8192, a cluster of WIDE_CLUSTER blocks for more. One barrier per token. The weights come from the cache and are loaded
// before the barrier. Other lengths take a plain loop.

#include <cooperative_groups.h>
#include <cuda_bf16.h>

constexpr int LONG_PIECES = 8192 / 8 / LONG_THREADS;
constexpr int WIDE_PIECES = (153600 / 8 + WIDE_CLUSTER * WIDE_THREADS - 1) / (WIDE_CLUSTER * WIDE_THREADS);

__device__ __forceinline__ uint4 load(const uint4* from) {
#if LOADS
    return __ldcs(from);
#else
    return *from;
#endif
}

__device__ __forceinline__ void store(uint4* to, uint4 value) {
#if STORES
    __stcs(to, value);
#else
    *to = value;
#endif
}

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
}

__device__ __forceinline__ float low(unsigned pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high(unsigned pair) { return __uint_as_float(pair & 0xffff0000u); }

__device__ __forceinline__ float add_squares(float sum, unsigned pair) {
    return fmaf(low(pair), low(pair), fmaf(high(pair), high(pair), sum));
}

__device__ __forceinline__ unsigned scaled(unsigned pair, unsigned by, float factor) {
    const __nv_bfloat162 both = __floats2bfloat162_rn(low(pair) * factor * low(by), high(pair) * factor * high(by));
    return *reinterpret_cast<const unsigned*>(&both);
}

__device__ __forceinline__ uint4 scaled(uint4 v, uint4 by, float factor) {
    return make_uint4(scaled(v.x, by.x, factor), scaled(v.y, by.y, factor), scaled(v.z, by.z, factor),
                      scaled(v.w, by.w, factor));
}

// Loads a thread's pieces of a token and returns the sum of their squares over the warp.
template <int pieces, int step>
__device__ __forceinline__ float squares(const uint4* in, int first, int end, uint4 (&v)[pieces]) {
#pragma unroll
    for (int i = 0; i < pieces; ++i) {
        const int at = first + i * step;
        v[i] = at < end ? load(in + at) : make_uint4(0, 0, 0, 0);
    }
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < pieces; ++i) {
        sum += add_squares(add_squares(0.0f, v[i].x), v[i].y) + add_squares(add_squares(0.0f, v[i].z), v[i].w);
    }
    return warp_sum(sum);
}

__global__ void __launch_bounds__(32 * SHORT_WARPS)
    short_rows(const __nv_bfloat16* __restrict__ x, const __nv_bfloat16* __restrict__ weight, float eps,
               __nv_bfloat16* __restrict__ output, int num_tokens, int hidden_size) {
    const int token = blockIdx.x * SHORT_WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (token >= num_tokens) return;  // whole warps
    const size_t offset = static_cast<size_t>(token) * hidden_size;
    const int end = hidden_size / 8;
    const uint4* factors = reinterpret_cast<const uint4*>(weight);
    uint4 v[4], w[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) w[i] = lane + 32 * i < end ? __ldg(factors + lane + 32 * i) : make_uint4(0, 0, 0, 0);
    const float sum = squares<4, 32>(reinterpret_cast<const uint4*>(x + offset), lane, end, v);
    const float factor = rsqrtf(sum / hidden_size + eps);
    uint4* out = reinterpret_cast<uint4*>(output + offset);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if (lane + 32 * i < end) store(out + lane + 32 * i, scaled(v[i], w[i], factor));
    }
}

template <int cluster, int threads, int pieces>
__global__ void __launch_bounds__(threads)
    long_rows(const __nv_bfloat16* __restrict__ x, const __nv_bfloat16* __restrict__ weight, float eps,
              __nv_bfloat16* __restrict__ output, int hidden_size) {
    constexpr int WARPS = threads / 32, PARTS = cluster * WARPS, STEP = cluster * threads;
    __shared__ float parts[PARTS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int rank = blockIdx.x % cluster;
    const size_t offset = static_cast<size_t>(blockIdx.x / cluster) * hidden_size;
    const int first = rank * threads + threadIdx.x, end = hidden_size / 8;
    if constexpr (cluster > 1) asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");

    uint4 v[pieces], w[pieces];
    const float own = squares<pieces, STEP>(reinterpret_cast<const uint4*>(x + offset), first, end, v);
    const uint4* factors = reinterpret_cast<const uint4*>(weight);
#pragma unroll
    for (int i = 0; i < pieces; ++i) {
        w[i] = first + i * STEP < end ? __ldg(factors + first + i * STEP) : make_uint4(0, 0, 0, 0);
    }
    if constexpr (cluster > 1) {
        asm volatile("barrier.cluster.wait.aligned;" ::: "memory");  // all blocks of the cluster run
        if (lane < cluster) {
            cooperative_groups::cluster_group group = cooperative_groups::this_cluster();
            *group.map_shared_rank(&parts[rank * WARPS + warp], lane) = own;
        }
        asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
        asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
    } else {
        if (lane == 0) parts[warp] = own;
        __syncthreads();
    }
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < PARTS; i += 32) {
        if (i + lane < PARTS) sum += parts[i + lane];
    }
    const float factor = rsqrtf(warp_sum(sum) / hidden_size + eps);
    uint4* out = reinterpret_cast<uint4*>(output + offset);
#pragma unroll
    for (int i = 0; i < pieces; ++i) {
        if (first + i * STEP < end) store(out + first + i * STEP, scaled(v[i], w[i], factor));
    }
}

__global__ void __launch_bounds__(512)
    any_rows(const __nv_bfloat16* __restrict__ x, const __nv_bfloat16* __restrict__ weight, float eps,
             __nv_bfloat16* __restrict__ output, int hidden_size) {
    __shared__ float parts[16];
    const size_t offset = static_cast<size_t>(blockIdx.x) * hidden_size;
    const int lane = threadIdx.x % 32;
    float sum = 0.0f;
    for (int i = threadIdx.x; i < hidden_size; i += 512) {
        const float value = __bfloat162float(x[offset + i]);
        sum = fmaf(value, value, sum);
    }
    sum = warp_sum(sum);
    if (lane == 0) parts[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = warp_sum(lane < 16 ? parts[lane] : 0.0f);
    const float factor = rsqrtf(sum / hidden_size + eps);
    for (int i = threadIdx.x; i < hidden_size; i += 512) {
        output[offset + i] = __float2bfloat16(__bfloat162float(x[offset + i]) * factor * __bfloat162float(weight[i]));
    }
}
