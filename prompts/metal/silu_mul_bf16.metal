/* kforge
launch:
  - kernel: silu_mul
    grid: ceil_div(rows * columns, 4 * BLOCK)
    block: BLOCK
    args: gate, up, output, i64(rows * columns)
tunables:
  BLOCK: [256, 128, 512]
*/

// Task: output = silu(gate) * up, all bfloat16 [rows, columns], any size.
// Four bfloat16 per load, float arithmetic, and the elements after the last four one by one.

#include <metal_stdlib>
using namespace metal;

static inline float4 silu_mul_of(float4 gate, float4 up) { return gate / (1.0f + exp(-gate)) * up; }

kernel void silu_mul(device const bfloat* gate [[buffer(0)]], device const bfloat* up [[buffer(1)]],
                     device bfloat* output [[buffer(2)]], constant long& elements [[buffer(3)]],
                     uint position [[thread_position_in_grid]]) {
    const long i = position;
    const long fours = elements / 4;
    if (i < fours) {
        const float4 g = float4(((device const bfloat4*)gate)[i]);
        const float4 u = float4(((device const bfloat4*)up)[i]);
        ((device bfloat4*)output)[i] = bfloat4(silu_mul_of(g, u));
    }
    const long rest = fours * 4 + i;
    if (rest < elements) output[rest] = bfloat(silu_mul_of(float4(float(gate[rest])), float4(float(up[rest]))).x);
}
