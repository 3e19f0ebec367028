/* kforge
launch:
  - kernel: gelu
    grid: max(1, ceil_div(rows * columns, 4 * THREADS * FOURS))
    block: THREADS
    args: x, output, i64(rows * columns)
tunables:
  THREADS: [256, 128, 512, 1024]
  FOURS: [1, 2, 3]
  LOADS: [2, 0, 1]
  STORES: [0, 1, 2]
*/

// Plain float4 accesses, few per thread: the blocks in flight then cover a short stretch of memory, which moves through both tensors in
// order, and the memory finds neighbouring reads and writes together. LOADS 1: 256-byte reads into L2. LOADS 2: past L1. STORES 1: past
// L1. STORES 2: write-through.
// gelu(x) = max(x, 0) - |x| / 2 * erfc(|x| / sqrt(2)); erfc as a polynomial of t = 1 / (1 + p |x| / sqrt(2)) times exp(-x^2 / 2)
// (Abramowitz and Stegun 7.1.26, within 1.5e-7).

__device__ __forceinline__ float gelu_of(float x) {
    const float a = fabsf(x);
    float t;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(t) : "f"(fmaf(0.3275911f * 0.70710678f, a, 1.0f)));
    float e;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(x * x * -0.72134752f));
    float p = fmaf(t, 0.5f * 1.061405429f, 0.5f * -1.453152027f);
    p = fmaf(p, t, 0.5f * 1.421413741f);
    p = fmaf(p, t, 0.5f * -0.284496736f);
    p = fmaf(p, t, 0.5f * 0.254829592f);
    return fmaf(-a * t * p, e, fmaxf(x, 0.0f));
}

__device__ __forceinline__ float4 load(const float4* from) {
#if LOADS == 0
    return *from;
#elif LOADS == 1
    float4 v;
    asm volatile("ld.global.L2::256B.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "l"(from));
    return v;
#else
    return __ldcg(from);
#endif
}

__device__ __forceinline__ void store(float4* to, float4 v) {
#if STORES == 0
    *to = v;
#elif STORES == 1
    __stcg(to, v);
#else
    __stwt(to, v);
#endif
}

__global__ void __launch_bounds__(THREADS)
    gelu(const float* __restrict__ x, float* __restrict__ output, long long elements) {
    const long long base = static_cast<long long>(blockIdx.x) * (THREADS * FOURS);
    if (4 * (base + THREADS * FOURS) <= elements) {
        const float4* in = reinterpret_cast<const float4*>(x) + base + threadIdx.x;
        float4* out = reinterpret_cast<float4*>(output) + base + threadIdx.x;
        float4 v[FOURS];
#pragma unroll
        for (int i = 0; i < FOURS; ++i) v[i] = load(in + i * THREADS);
#pragma unroll
        for (int i = 0; i < FOURS; ++i) {
            store(out + i * THREADS, make_float4(gelu_of(v[i].x), gelu_of(v[i].y), gelu_of(v[i].z), gelu_of(v[i].w)));
        }
    } else {
        for (long long i = 4 * base + threadIdx.x; i < elements; i += THREADS) output[i] = gelu_of(x[i]);
    }
}
