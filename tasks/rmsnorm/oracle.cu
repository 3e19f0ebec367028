/* kforge
launch:
  - kernel: rmsnorm
    grid: ceil_div(num_tokens, 16)
    block: 16
    args: x, weight, eps, output, num_tokens
*/

// The oracle, in double precision throughout, one thread per token. The sum of squares is made of LANES independent partial
// sums in a fixed order: the compiler may vectorise it, and the result never varies.

#include <cuda_bf16.h>

constexpr int LANES = 16;
static_assert(HIDDEN_SIZE % LANES == 0, "a token is summed in whole steps of LANES");

__device__ inline double to_double(__nv_bfloat16 value) { return __bfloat162float(value); }

__global__ void rmsnorm(const __nv_bfloat16* __restrict__ x, const __nv_bfloat16* __restrict__ weight, float eps,
                        double* __restrict__ output, int num_tokens) {
    const long long token = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (token >= num_tokens) return;
    const __nv_bfloat16* row = x + token * HIDDEN_SIZE;
    double* out = output + token * HIDDEN_SIZE;

    double partial[LANES] = {};
    for (int start = 0; start < HIDDEN_SIZE; start += LANES) {
        for (int lane = 0; lane < LANES; ++lane) {
            const double value = to_double(row[start + lane]);
            partial[lane] += value * value;
        }
    }
    double sum = 0.0;
    for (int lane = 0; lane < LANES; ++lane) sum += partial[lane];

    const double root = sqrt(sum / HIDDEN_SIZE + double(eps));
    for (int i = 0; i < HIDDEN_SIZE; ++i) out[i] = to_double(row[i]) / root * to_double(weight[i]);
}
