/* kforge
launch:
  - kernel: first
    grid: rows
    block: 32
    args: x, sums, columns
  - kernel: second
    grid: 2 * rows
    block: 128, 2
    shared: 65536
    cluster: 2
    cooperative: true
    overlap: true
    when: rows > 2
    args: map, sums, output, f16(0.5), bf16(1.5), f64(columns), 3, true, nullptr
tensor_maps:
  map: {of: x, dims: "columns, rows", strides: "columns * 4", box: "32, 8", swizzle: 128}
scratch:
  sums: {dtype: float32, shape: "rows, 4", zero: true}
variants:
  - {when: columns > 500, SIZE: 2}
tunables: {SIZE: [1, 2]}
compile: {arch: sm_90a, max_registers: 64, fast_math: true}
*/
// Uses all that a header can ask for. Its result means nothing: `check_without_gpu.py` compiles it.
#include <cstdint>
#include <cuda_fp16.h>
#include <cuda_bf16.h>
#include <cuda.h>
#include <cooperative_groups.h>
__global__ void first(const float* x, float* sums, int columns) { sums[threadIdx.x] = x[0] * SIZE; }
__global__ void second(const __grid_constant__ CUtensorMap map, const float* sums, float* output, __half h, __nv_bfloat16 b, double d, unsigned char n, bool t, const int* none) {
    cooperative_groups::this_grid().sync();
    output[0] = sums[0] + __half2float(h) + __bfloat162float(b) + d + n + t + (none == nullptr) + (float)INT32_MAX;
}
