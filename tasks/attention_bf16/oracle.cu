/* kforge
launch:
  - kernel: attention
    grid: ceil_div(q_len, 64), num_q_heads, batch_size
    block: 128
    shared: (head_size * (65 + 33 + 32) + 32 * 65) * 8
    args: q, k, v, causal, scale, output, num_kv_heads, q_len, kv_len
*/

// The oracle, in double precision throughout. A block computes 64 queries of a head, 32 keys at a time, all in shared memory. A
// thread computes every 16th row and every 8th column of each 64 x 32 or 64 x HEAD_SIZE product: eight threads share a row.

#include <cuda_bf16.h>

constexpr int QUERIES = 64;
constexpr int KEYS = 32;
constexpr int THREADS = 128;
constexpr int ROWS = 4;
constexpr int COLUMNS = KEYS / 8;
constexpr int PARTS = HEAD_SIZE / 8;
constexpr double NONE = -1e300;  // below any score

__device__ inline double to_double(__nv_bfloat16 value) { return __bfloat162float(value); }

__global__ void attention(const __nv_bfloat16* __restrict__ q, const __nv_bfloat16* __restrict__ k, const __nv_bfloat16* __restrict__ v,
                          int causal, float scale, double* __restrict__ output, int num_kv_heads, int q_len,
                          int kv_len) {
    extern __shared__ uint4 memory[];
    double(*queries)[QUERIES + 1] = reinterpret_cast<double(*)[QUERIES + 1]>(memory);  // [element][query]
    double(*keys)[KEYS + 1] = reinterpret_cast<double(*)[KEYS + 1]>(queries + HEAD_SIZE);  // [element][key]
    double(*values)[HEAD_SIZE] = reinterpret_cast<double(*)[HEAD_SIZE]>(keys + HEAD_SIZE);  // [key][element]
    double(*weights)[QUERIES + 1] = reinterpret_cast<double(*)[QUERIES + 1]>(values + KEYS);  // [key][query]

    const int first = blockIdx.x * QUERIES;
    const int head = blockIdx.y;
    const int kv_head = head / (gridDim.y / num_kv_heads);
    const long long q_row = (static_cast<long long>(blockIdx.z) * gridDim.y + head) * q_len + first;
    const long long kv_row = (static_cast<long long>(blockIdx.z) * num_kv_heads + kv_head) * kv_len;
    const int row = threadIdx.x / 8;
    const int column = threadIdx.x % 8;
    const double factor = scale == 0.0f ? 1.0 / sqrt(double(HEAD_SIZE)) : double(scale);
    // With `causal`, a query sees the keys up to its own position, aligned at the end of both sequences.
    const int beyond = causal ? kv_len - q_len + 1 : kv_len;
    const int last = causal ? min(kv_len, first + QUERIES - 1 + beyond) : kv_len;

    for (int i = threadIdx.x; i < QUERIES * HEAD_SIZE; i += THREADS) {
        const int query = i / HEAD_SIZE, element = i % HEAD_SIZE;
        const bool inside = first + query < q_len;
        queries[element][query] = inside ? factor * to_double(q[(q_row + query) * HEAD_SIZE + element]) : 0.0;
    }

    double sums[ROWS][PARTS] = {};
    double largest[ROWS], total[ROWS];
#pragma unroll
    for (int y = 0; y < ROWS; ++y) {
        largest[y] = NONE;
        total[y] = 0.0;
    }
    for (int start = 0; start < last; start += KEYS) {
        __syncthreads();
        for (int i = threadIdx.x; i < KEYS * HEAD_SIZE; i += THREADS) {
            const int key = i / HEAD_SIZE, element = i % HEAD_SIZE;
            const bool inside = start + key < kv_len;
            const long long from = (kv_row + start + key) * HEAD_SIZE + element;
            keys[element][key] = inside ? to_double(k[from]) : 0.0;
            values[key][element] = inside ? to_double(v[from]) : 0.0;
        }
        __syncthreads();

        double scores[ROWS][COLUMNS] = {};
#pragma unroll 4
        for (int i = 0; i < HEAD_SIZE; ++i) {
            double a[ROWS], b[COLUMNS];
#pragma unroll
            for (int y = 0; y < ROWS; ++y) a[y] = queries[i][row + 16 * y];
#pragma unroll
            for (int x = 0; x < COLUMNS; ++x) b[x] = keys[i][column + 8 * x];
#pragma unroll
            for (int y = 0; y < ROWS; ++y) {
#pragma unroll
                for (int x = 0; x < COLUMNS; ++x) scores[y][x] += a[y] * b[x];
            }
        }
#pragma unroll
        for (int y = 0; y < ROWS; ++y) {
            const int query = first + row + 16 * y;
            const int seen = min(kv_len, causal ? query + beyond : kv_len) - start;
            double peak = largest[y];
#pragma unroll
            for (int x = 0; x < COLUMNS; ++x) {
                if (column + 8 * x < seen) peak = fmax(peak, scores[y][x]);
            }
            for (int offset = 4; offset > 0; offset /= 2) peak = fmax(peak, __shfl_xor_sync(0xffffffffu, peak, offset));
            const double shrink = exp(largest[y] - peak);
            largest[y] = peak;
            total[y] *= shrink;
#pragma unroll
            for (int x = 0; x < COLUMNS; ++x) {
                const double weight = column + 8 * x < seen ? exp(scores[y][x] - peak) : 0.0;
                weights[column + 8 * x][row + 16 * y] = weight;
                total[y] += weight;
            }
#pragma unroll
            for (int x = 0; x < PARTS; ++x) sums[y][x] *= shrink;
        }
        __syncthreads();

#pragma unroll 2
        for (int i = 0; i < KEYS; ++i) {
            double a[ROWS];
#pragma unroll
            for (int y = 0; y < ROWS; ++y) a[y] = weights[i][row + 16 * y];
#pragma unroll
            for (int x = 0; x < PARTS; ++x) {
                const double b = values[i][column + 8 * x];
#pragma unroll
                for (int y = 0; y < ROWS; ++y) sums[y][x] += a[y] * b;
            }
        }
    }
#pragma unroll
    for (int y = 0; y < ROWS; ++y) {
        for (int offset = 4; offset > 0; offset /= 2) total[y] += __shfl_xor_sync(0xffffffffu, total[y], offset);
        const int query = row + 16 * y;
        if (first + query >= q_len) continue;
#pragma unroll
        for (int x = 0; x < PARTS; ++x) {
            // The output of a query that sees no key is 0.
            output[(q_row + query) * HEAD_SIZE + column + 8 * x] = total[y] > 0.0 ? sums[y][x] / total[y] : 0.0;
        }
    }
}
