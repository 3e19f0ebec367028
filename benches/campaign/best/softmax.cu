/* kforge
launch:
  - kernel: short_rows
    when: columns % 4 == 0 and columns <= 1024
    grid: ceil_div(rows, SHORT_WARPS)
    block: 32 * SHORT_WARPS
    args: x, output, rows, columns
  - kernel: long_rows<1, LONG_THREADS, LONG_FOURS>
    when: columns % 4 == 0 and columns > 1024 and columns <= 8192
    grid: rows
    block: LONG_THREADS
    args: x, output, columns
  - kernel: long_rows<WIDE_CLUSTER, WIDE_THREADS, WIDE_FOURS>
    when: columns % 4 == 0 and columns > 8192 and columns <= 51200
    grid: rows * WIDE_CLUSTER
    block: WIDE_THREADS
    cluster: WIDE_CLUSTER
    args: x, output, columns
  - kernel: any_rows
    when: columns % 4 != 0 or columns > 51200
    grid: rows
    block: 512
    args: x, output, columns
tunables:
  SHORT_WARPS: [4, 1, 2, 8]
  LONG_THREADS: [512, 256, 1024]
  WIDE_CLUSTER: [4, 2, 8]
  WIDE_THREADS: [448, 320, 640, 800, 1024]
  LOADS: [0, 1]
  STORES: [0, 1]
constraints: WIDE_CLUSTER * WIDE_THREADS >= 1600
*/

// Every row is read once and stays in registers: a warp for a row of up to 1024 elements, a block for up to 8192, a cluster of
// WIDE_CLUSTER blocks for up to 51200. Each warp takes exponentials relative to its own maximum, so that one exchange of
// (maximum, sum) pairs is enough: one barrier per row. Other lengths take a plain loop.

#include <cooperative_groups.h>

constexpr int LONG_FOURS = 8192 / 4 / LONG_THREADS;
constexpr int WIDE_FOURS = (51200 / 4 + WIDE_CLUSTER * WIDE_THREADS - 1) / (WIDE_CLUSTER * WIDE_THREADS);

__device__ __forceinline__ float4 load(const float4* from) {
#if LOADS
    return __ldcs(from);
#else
    return *from;
#endif
}

__device__ __forceinline__ void store(float4* to, float4 value) {
#if STORES
    __stcs(to, value);
#else
    *to = value;
#endif
}

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, offset));
    return value;
}

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
}

// Loads a row's share of a warp, and replaces it by exponentials relative to the warp's maximum. Returns (maximum, sum).
template <int fours, int step>
__device__ __forceinline__ float2 exponentials(const float4* in, int first, int end, float4 (&v)[fours]) {
#pragma unroll
    for (int i = 0; i < fours; ++i) {
        const int at = first + i * step;
        v[i] = at < end ? load(in + at) : make_float4(-INFINITY, -INFINITY, -INFINITY, -INFINITY);
    }
    float largest = -3.0e38f;  // finite, so that a warp without elements makes no NaN
#pragma unroll
    for (int i = 0; i < fours; ++i) largest = fmaxf(largest, fmaxf(fmaxf(v[i].x, v[i].y), fmaxf(v[i].z, v[i].w)));
    largest = warp_max(largest);
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < fours; ++i) {
        v[i] = make_float4(__expf(v[i].x - largest), __expf(v[i].y - largest), __expf(v[i].z - largest),
                           __expf(v[i].w - largest));
        sum += (v[i].x + v[i].y) + (v[i].z + v[i].w);
    }
    return make_float2(largest, warp_sum(sum));
}

template <int fours, int step>
__device__ __forceinline__ void scale_and_store(float4* out, int first, int end, const float4 (&v)[fours], float factor) {
#pragma unroll
    for (int i = 0; i < fours; ++i) {
        const int at = first + i * step;
        if (at < end) {
            store(out + at, make_float4(v[i].x * factor, v[i].y * factor, v[i].z * factor, v[i].w * factor));
        }
    }
}

__global__ void __launch_bounds__(32 * SHORT_WARPS)
    short_rows(const float* __restrict__ x, float* __restrict__ output, int rows, int columns) {
    const int row = blockIdx.x * SHORT_WARPS + threadIdx.x / 32;
    if (row >= rows) return;  // whole warps
    const size_t offset = static_cast<size_t>(row) * columns;
    float4 v[8];
    const int lane = threadIdx.x % 32;
    const float2 own = exponentials<8, 32>(reinterpret_cast<const float4*>(x + offset), lane, columns / 4, v);
    scale_and_store<8, 32>(reinterpret_cast<float4*>(output + offset), lane, columns / 4, v, 1.0f / own.y);
}

template <int cluster, int threads, int fours>
__global__ void __launch_bounds__(threads) long_rows(const float* __restrict__ x, float* __restrict__ output, int columns) {
    constexpr int WARPS = threads / 32, PAIRS = cluster * WARPS;
    __shared__ float2 pairs[PAIRS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int rank = blockIdx.x % cluster;
    const size_t offset = static_cast<size_t>(blockIdx.x / cluster) * columns;
    if constexpr (cluster > 1) asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");

    float4 v[fours];
    const int first = rank * threads + threadIdx.x;
    const float2 own =
        exponentials<fours, cluster * threads>(reinterpret_cast<const float4*>(x + offset), first, columns / 4, v);
    if constexpr (cluster > 1) {
        asm volatile("barrier.cluster.wait.aligned;" ::: "memory");  // all blocks of the cluster run
        if (lane < cluster) {
            cooperative_groups::cluster_group group = cooperative_groups::this_cluster();
            *group.map_shared_rank(&pairs[rank * WARPS + warp], lane) = own;
        }
        asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
        asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
    } else {
        if (lane == 0) pairs[warp] = own;
        __syncthreads();
    }
    float largest = -3.0e38f;
#pragma unroll
    for (int i = 0; i < PAIRS; i += 32) {
        if (i + lane < PAIRS) largest = fmaxf(largest, pairs[i + lane].x);
    }
    largest = warp_max(largest);
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < PAIRS; i += 32) {
        if (i + lane < PAIRS) sum += pairs[i + lane].y * __expf(pairs[i + lane].x - largest);
    }
    sum = warp_sum(sum);
    scale_and_store<fours, cluster * threads>(reinterpret_cast<float4*>(output + offset), first, columns / 4, v,
                                              __expf(own.x - largest) / sum);
}

__global__ void __launch_bounds__(512) any_rows(const float* __restrict__ x, float* __restrict__ output, int columns) {
    __shared__ float2 pairs[16];
    const size_t offset = static_cast<size_t>(blockIdx.x) * columns;
    const int lane = threadIdx.x % 32;
    float largest = -3.0e38f, sum = 0.0f;
    for (int i = threadIdx.x; i < columns; i += 512) {
        const float value = x[offset + i];
        const float larger = fmaxf(largest, value);
        sum = sum * __expf(largest - larger) + __expf(value - larger);
        largest = larger;
    }
    const float of_warp = warp_max(largest);
    sum = warp_sum(sum * __expf(largest - of_warp));
    if (lane == 0) pairs[threadIdx.x / 32] = make_float2(of_warp, sum);
    __syncthreads();
    largest = warp_max(pairs[lane % 16].x);
    sum = warp_sum(lane < 16 ? pairs[lane].y * __expf(pairs[lane].x - largest) : 0.0f);
    const float factor = 1.0f / sum;
    for (int i = threadIdx.x; i < columns; i += 512) output[offset + i] = __expf(x[offset + i] - largest) * factor;
}
