/* kforge
launch:
  - kernel: silu_mul
    grid: ceil_div(rows * columns, 8 * BLOCK)
    block: BLOCK
    args: gate, up, output, i64(rows * columns)
tunables:
  BLOCK: [256, 128, 512]
*/

// Task: output = silu(gate) * up, all bfloat16 [rows, columns], any size.
// Eight bfloat16 per 16-byte load, float32 arithmetic, and the elements after the last eight one by one. Both loads are issued
// before either is used.

#include <cuda_bf16.h>

// Two bfloat16 in 32 bits, the first in the low half: widening is a shift.
__device__ __forceinline__ float2 widen(unsigned pair) {
    return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
}

__device__ __forceinline__ unsigned narrow(float2 pair) {
    const __nv_bfloat162 rounded = __float22bfloat162_rn(pair);
    return *reinterpret_cast<const unsigned*>(&rounded);
}

__device__ __forceinline__ float silu_mul_of(float gate, float up) { return gate / (1.0f + __expf(-gate)) * up; }

__device__ __forceinline__ unsigned pair_of(unsigned gate, unsigned up) {
    const float2 g = widen(gate), u = widen(up);
    return narrow(make_float2(silu_mul_of(g.x, u.x), silu_mul_of(g.y, u.y)));
}

__global__ void __launch_bounds__(BLOCK)
    silu_mul(const __nv_bfloat16* __restrict__ gate, const __nv_bfloat16* __restrict__ up,
             __nv_bfloat16* __restrict__ output, long long elements) {
    const long long i = static_cast<long long>(blockIdx.x) * BLOCK + threadIdx.x;
    const long long eights = elements / 8;
    if (i < eights) {
        const uint4 g = reinterpret_cast<const uint4*>(gate)[i];
        const uint4 u = reinterpret_cast<const uint4*>(up)[i];
        reinterpret_cast<uint4*>(output)[i] =
            make_uint4(pair_of(g.x, u.x), pair_of(g.y, u.y), pair_of(g.z, u.z), pair_of(g.w, u.w));
    }
    const long long rest = eights * 8 + i;
    if (rest < elements) {
        output[rest] = __float2bfloat16(silu_mul_of(__bfloat162float(gate[rest]), __bfloat162float(up[rest])));
    }
}
