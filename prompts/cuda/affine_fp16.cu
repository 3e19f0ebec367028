/* kforge
launch:
  - kernel: affine
    grid: rows
    block: 128
    args: x, weight, bias, output, columns
tunables:
  PAIRS: [1, 0]
variants:
  - {when: columns % 2 != 0, PAIRS: 0}
*/

// Task: output = x * weight + bias, all half, x [rows, columns], weight and bias [columns].
// Half in memory, float32 in registers, rounded once. Rows of odd length do not start at a pair: for them a variant sets PAIRS to 0,
// and the file is compiled a second time.

#include <cuda_fp16.h>

__global__ void affine(const __half* __restrict__ x, const __half* __restrict__ weight, const __half* __restrict__ bias,
                       __half* __restrict__ output, int columns) {
    const long long row = static_cast<long long>(blockIdx.x) * columns;
#if PAIRS
    const __half2* in = reinterpret_cast<const __half2*>(x + row);
    const __half2* scale = reinterpret_cast<const __half2*>(weight);
    const __half2* shift = reinterpret_cast<const __half2*>(bias);
    __half2* out = reinterpret_cast<__half2*>(output + row);
    for (int i = threadIdx.x; i < columns / 2; i += blockDim.x) {
        const float2 a = __half22float2(in[i]), w = __half22float2(scale[i]), b = __half22float2(shift[i]);
        out[i] = __float22half2_rn(make_float2(fmaf(a.x, w.x, b.x), fmaf(a.y, w.y, b.y)));
    }
#else
    for (int i = threadIdx.x; i < columns; i += blockDim.x) {
        output[row + i] = __float2half(fmaf(__half2float(x[row + i]), __half2float(weight[i]), __half2float(bias[i])));
    }
#endif
}
