/* kforge
launch:
  - kernel: rmsnorm
    grid: ceil_div(num_tokens, 16)
    block: 16
    args: x, weight, eps, output, num_tokens, hidden_size
*/

// The oracle, in double precision throughout, one thread per token. The sum of squares is made of LANES independent partial
// sums in a fixed order: the compiler may vectorise it, and the result never varies.

#include <cuda_bf16.h>

constexpr int LANES = 16;

__device__ inline double to_double(__nv_bfloat16 value) { return __bfloat162float(value); }

__global__ void rmsnorm(const __nv_bfloat16* __restrict__ x, const __nv_bfloat16* __restrict__ weight, float eps,
                        double* __restrict__ output, int num_tokens, int hidden_size) {
    const long long token = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (token >= num_tokens) return;
    const __nv_bfloat16* row = x + token * hidden_size;
    double* out = output + token * hidden_size;

    double partial[LANES] = {};
    int start = 0;
    for (; start + LANES <= hidden_size; start += LANES) {
        for (int lane = 0; lane < LANES; ++lane) {
            const double value = to_double(row[start + lane]);
            partial[lane] += value * value;
        }
    }
    double sum = 0.0;
    for (; start < hidden_size; ++start) sum += to_double(row[start]) * to_double(row[start]);
    for (int lane = 0; lane < LANES; ++lane) sum += partial[lane];

    const double root = sqrt(sum / hidden_size + double(eps));
    for (int i = 0; i < hidden_size; ++i) out[i] = to_double(row[i]) / root * to_double(weight[i]);
}
