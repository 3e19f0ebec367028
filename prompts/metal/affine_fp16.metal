/* kforge
launch:
  - kernel: affine
    grid: rows
    block: 128
    args: x, weight, bias, output, columns
tunables:
  FOURS: [1, 0]
variants:
  - {when: columns % 4 != 0, FOURS: 0}
*/

// Task: output = x * weight + bias, all half, x [rows, columns], weight and bias [columns].
// Half in memory, float in registers, rounded once. Rows that do not start at a multiple of four elements have a variant.

#include <metal_stdlib>
using namespace metal;

kernel void affine(device const half* x [[buffer(0)]], device const half* weight [[buffer(1)]],
                   device const half* bias [[buffer(2)]], device half* output [[buffer(3)]],
                   constant int& columns [[buffer(4)]], uint group [[threadgroup_position_in_grid]],
                   uint thread_index [[thread_index_in_threadgroup]], uint threads [[threads_per_threadgroup]]) {
    const long row = long(group) * columns;
#if FOURS
    device const half4* in = (device const half4*)(x + row);
    device const half4* scale = (device const half4*)weight;
    device const half4* shift = (device const half4*)bias;
    device half4* out = (device half4*)(output + row);
    for (int i = thread_index; i < columns / 4; i += threads) out[i] = half4(fma(float4(in[i]), float4(scale[i]), float4(shift[i])));
#else
    for (int i = thread_index; i < columns; i += threads) {
        output[row + i] = half(fma(float(x[row + i]), float(weight[i]), float(bias[i])));
    }
#endif
}
