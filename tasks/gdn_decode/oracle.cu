/* kforge
launch:
  - kernel: gdn_decode
    grid: batch_size * num_v_heads
    block: head_size
    args: q, k, v, state, A_log, a, dt_bias, b, scale, output, new_state
*/

// The oracle, in double precision throughout. One block per head of a sequence, one thread per row of its state. A sum is
// made of LANES independent partial sums in a fixed order: the compiler may vectorise it, and the result never varies.

#include <cuda_bf16.h>

constexpr int LANES = 16;
static_assert(HEAD_SIZE % LANES == 0, "a row is summed in whole steps of LANES");

__device__ inline double to_double(__nv_bfloat16 value) { return __bfloat162float(value); }

__device__ inline double total(const double (&partial)[LANES]) {
    double sum = 0.0;
    for (int lane = 0; lane < LANES; ++lane) sum += partial[lane];
    return sum;
}

__global__ void gdn_decode(const __nv_bfloat16* __restrict__ q, const __nv_bfloat16* __restrict__ k,
                           const __nv_bfloat16* __restrict__ v, const float* __restrict__ state,
                           const float* __restrict__ A_log, const __nv_bfloat16* __restrict__ a,
                           const float* __restrict__ dt_bias, const __nv_bfloat16* __restrict__ b, float scale,
                           double* __restrict__ output, double* __restrict__ new_state) {
    const int head = blockIdx.x % NUM_V_HEADS;
    const int sequence = blockIdx.x / NUM_V_HEADS;
    const int group_head = head / (NUM_V_HEADS / NUM_Q_HEADS);

    const double gate = to_double(a[blockIdx.x]) + double(dt_bias[head]);
    const double softplus = gate > 20.0 ? gate : log1p(exp(gate));
    const double keep = exp(-exp(double(A_log[head])) * softplus);
    const double beta = 1.0 / (1.0 + exp(-to_double(b[blockIdx.x])));
    const double factor = scale == 0.0f ? 1.0 / sqrt(double(HEAD_SIZE)) : double(scale);

    const __nv_bfloat16* query = q + (sequence * NUM_Q_HEADS + group_head) * HEAD_SIZE;
    const __nv_bfloat16* key = k + (sequence * NUM_K_HEADS + group_head) * HEAD_SIZE;
    const long long row = static_cast<long long>(blockIdx.x) * HEAD_SIZE + threadIdx.x;
    double* new_row = new_state + row * HEAD_SIZE;

    double partial[LANES] = {};
    for (int start = 0; start < HEAD_SIZE; start += LANES) {
        for (int lane = 0; lane < LANES; ++lane) {
            const int i = start + lane;
            const double decayed = state == nullptr ? 0.0 : keep * double(state[row * HEAD_SIZE + i]);
            new_row[i] = decayed;
            partial[lane] += decayed * to_double(key[i]);
        }
    }
    const double correction = beta * (to_double(v[row]) - total(partial));

    double read[LANES] = {};
    for (int start = 0; start < HEAD_SIZE; start += LANES) {
        for (int lane = 0; lane < LANES; ++lane) {
            const int i = start + lane;
            const double updated = new_row[i] + correction * to_double(key[i]);
            new_row[i] = updated;
            read[lane] += updated * to_double(query[i]);
        }
    }
    output[row] = factor * total(read);
}
