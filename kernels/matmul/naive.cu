/* kforge
launch:
  - kernel: matmul
    grid: ceil_div(N, 32), ceil_div(M, 8)
    block: 32, 8
    args: A, B, C, M, N, K
*/

// A direct translation of the definition: one thread per element.

#include <cuda_bf16.h>

__global__ void matmul(const __nv_bfloat16* A, const __nv_bfloat16* B, __nv_bfloat16* C, int M, int N, int K) {
    int column = blockIdx.x * blockDim.x + threadIdx.x;
    int row = blockIdx.y * blockDim.y + threadIdx.y;
    if (row >= M || column >= N) return;
    float sum = 0.0f;
    for (int i = 0; i < K; i++) {
        sum += __bfloat162float(A[(long long)row * K + i]) * __bfloat162float(B[(long long)column * K + i]);
    }
    C[(long long)row * N + column] = __float2bfloat16(sum);
}
