/* kforge
launch:
  - kernel: gelu
    grid: max(1, ceil_div(rows * columns, 4 * BLOCK * VECTORS))
    block: BLOCK
    args: x, output, i64(rows * columns)
tunables:
  BLOCK: [256, 128, 512]
  VECTORS: [4, 1, 2, 8]
  STREAM: [1, 0]
*/

// Four elements per load and VECTORS loads per thread, all in flight before the first is used; adjacent threads load adjacent data.
// With STREAM the loads bypass the caches: nothing is used twice. The first threads compute the last one to three elements.

__device__ __forceinline__ float gelu_of(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }

__device__ __forceinline__ float4 load(const float4* from) {
#if STREAM
    return __ldcs(from);
#else
    return *from;
#endif
}

__device__ __forceinline__ void store(float4* to, float4 value) {
#if STREAM
    __stcs(to, value);
#else
    *to = value;
#endif
}

__global__ void __launch_bounds__(BLOCK)
    gelu(const float* __restrict__ x, float* __restrict__ output, long long elements) {
    const long long fours = elements / 4;
    const long long first = static_cast<long long>(blockIdx.x) * (BLOCK * VECTORS) + threadIdx.x;
    const float4* in = reinterpret_cast<const float4*>(x);
    float4* out = reinterpret_cast<float4*>(output);

    float4 values[VECTORS];
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        if (first + i * BLOCK < fours) values[i] = load(in + first + i * BLOCK);
    }
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        if (first + i * BLOCK < fours) {
            const float4 value = values[i];
            store(out + first + i * BLOCK,
                  make_float4(gelu_of(value.x), gelu_of(value.y), gelu_of(value.z), gelu_of(value.w)));
        }
    }

    const long long last = 4 * fours + first;
    if (last < elements) output[last] = gelu_of(x[last]);
}
