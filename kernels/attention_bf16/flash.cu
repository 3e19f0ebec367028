/* kforge
launch:
  - kernel: attention
    grid: ceil_div(q_len, 16 * WARPS), num_q_heads, batch_size
    block: 32 * WARPS
    shared: (16 * WARPS + 4 * KEYS) * head_size * 2
    args: q, k, v, causal, scale, output, num_kv_heads, q_len, kv_len
tunables:
  WARPS: [4, 2, 8]
  KEYS: [64, 32, 128]
variants:
  - {when: "batch_size * num_q_heads * ceil_div(q_len, 64) <= 128", WARPS: 2}
*/

// Tensor cores through `mma`. A warp computes 16 queries, KEYS keys at a time. Scores, softmax and sums stay in registers, and the
// weights of one product are the operand of the next without a shuffle. Keys and values are double-buffered in shared memory: the
// next ones load while these are used. The 16-byte pieces of a row are swizzled by the row's number to avoid bank conflicts.

#include <cuda_bf16.h>

constexpr int PIECES = HEAD_SIZE / 8;  // of 16 bytes, in a row
constexpr int QUERIES = 16 * WARPS;
constexpr int THREADS = 32 * WARPS;
constexpr int STEPS = HEAD_SIZE / 16;
constexpr float NONE = -1e30f;  // below any score
constexpr float LOG2_E = 1.4426950408889634f;
static_assert(QUERIES * PIECES % THREADS == 0 && KEYS * PIECES % THREADS == 0, "every thread copies as much");

// ---- PTX instructions without a C++ form ----

__device__ __forceinline__ unsigned shared_address(const void* pointer) {
    return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// Copies 16 bytes to shared memory asynchronously; writes zeros if `there` is false.
__device__ __forceinline__ void copy_async(void* to, const void* from, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(to)), "l"(from), "r"(there ? 16 : 0)
                 : "memory");
}

__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }

// Waits until at most `pending` groups of copies are in flight.
template <int pending>
__device__ __forceinline__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;\n" ::"n"(pending) : "memory");
}

// Loads four 8 x 8 matrices; lane l points to row l % 8 of matrix l / 8.
__device__ __forceinline__ void load_matrices(unsigned (&registers)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// The same, each matrix transposed.
__device__ __forceinline__ void load_transposed(unsigned (&registers)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// Adds the product of a 16 x 16 and a 16 x 8 tile to a 16 x 8 tile.
__device__ __forceinline__ void multiply_add(float (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// ---- The kernel ----

__device__ __forceinline__ unsigned pack(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    unsigned bits;
    memcpy(&bits, &pair, sizeof(bits));
    return bits;
}

// The offset of a piece of a row, in elements.
__device__ __forceinline__ int place(int row, int piece) { return row * HEAD_SIZE + (piece ^ row % 8) * 8; }

// Loads `count` rows, from `first` on, of a matrix with `rows` rows; zeros after its end.
template <int count>
__device__ __forceinline__ void load_rows(const __nv_bfloat16* __restrict__ matrix, __nv_bfloat16* to, int first, int rows) {
#pragma unroll
    for (int n = 0; n < count * PIECES / THREADS; ++n) {
        const int i = n * THREADS + threadIdx.x;
        const bool there = first + i / PIECES < rows;
        const __nv_bfloat16* from = matrix + static_cast<long long>(first) * HEAD_SIZE + i * 8;
        copy_async(to + place(i / PIECES, i % PIECES), there ? from : matrix, there);
    }
}

__global__ void __launch_bounds__(THREADS)
    attention(const __nv_bfloat16* __restrict__ q, const __nv_bfloat16* __restrict__ k, const __nv_bfloat16* __restrict__ v, int causal,
              float scale, __nv_bfloat16* __restrict__ output, int num_kv_heads, int q_len, int kv_len) {
    extern __shared__ uint4 memory[];
    __nv_bfloat16* queries = reinterpret_cast<__nv_bfloat16*>(memory);
    const auto keys = [&](int turn) { return queries + (QUERIES + turn * 2 * KEYS) * HEAD_SIZE; };
    const auto values = [&](int turn) { return keys(turn) + KEYS * HEAD_SIZE; };

    // With a causal mask the last queries see the most keys: start them first.
    const int first = static_cast<int>(gridDim.x - 1 - blockIdx.x) * QUERIES;
    const int head = blockIdx.y;
    const int kv_head = head / (gridDim.y / num_kv_heads);
    const long long q_start = (static_cast<long long>(blockIdx.z) * gridDim.y + head) * q_len * HEAD_SIZE;
    const long long kv_start = (static_cast<long long>(blockIdx.z) * num_kv_heads + kv_head) * kv_len * HEAD_SIZE;
    const float factor = LOG2_E * (scale == 0.0f ? rsqrtf(float(HEAD_SIZE)) : scale);
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    // With `causal`, query i sees the keys before i + beyond, possibly none.
    const int beyond = kv_len - q_len + 1;
    const int last = causal ? min(kv_len, min(first + QUERIES, q_len) - 1 + beyond) : kv_len;

    load_rows<QUERIES>(q + q_start, queries, first, q_len);
    if (last > 0) {
        load_rows<KEYS>(k + kv_start, keys(0), 0, kv_len);
        load_rows<KEYS>(v + kv_start, values(0), 0, kv_len);
    }
    commit_copies();
    wait_for_copies<0>();
    __syncthreads();

    unsigned query[STEPS][4];
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
        load_matrices(query[step], queries + place(warp * 16 + lane % 16, step * 2 + lane / 16));
    }
    // For the two rows lane / 4 and lane / 4 + 8. Four lanes share a row.
    const int own_row = first + warp * 16 + lane / 4;
    float sums[HEAD_SIZE / 8][4] = {};
    float largest[2] = {NONE, NONE};
    float total[2] = {0.0f, 0.0f};

    int turn = 0;
    for (int start = 0; start < last; start += KEYS, turn ^= 1) {
        if (start > 0) {
            wait_for_copies<0>();
            __syncthreads();  // this buffer is loaded, and no thread reads the other one any more
        }
        if (start + KEYS < last) {
            load_rows<KEYS>(k + kv_start, keys(turn ^ 1), start + KEYS, kv_len);
            load_rows<KEYS>(v + kv_start, values(turn ^ 1), start + KEYS, kv_len);
            commit_copies();
        }

        float scores[KEYS / 8][4] = {};
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
#pragma unroll
            for (int x = 0; x < KEYS / 16; ++x) {
                unsigned key[4];
                load_matrices(key, keys(turn) + place(x * 16 + lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2));
                multiply_add(scores[2 * x], query[step], key[0], key[1]);
                multiply_add(scores[2 * x + 1], query[step], key[2], key[3]);
            }
        }

        const bool whole = start + KEYS <= kv_len && (!causal || start + KEYS <= first + warp * 16 + beyond);
        float peak[2] = {largest[0], largest[1]};
#pragma unroll
        for (int x = 0; x < KEYS / 8; ++x) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                float score = factor * scores[x][i];
                if (!whole) {
                    const int column = start + x * 8 + lane % 4 * 2 + i % 2;
                    const int limit = causal ? min(kv_len, own_row + i / 2 * 8 + beyond) : kv_len;
                    if (column >= limit) score = NONE;
                }
                scores[x][i] = score;
                peak[i / 2] = fmaxf(peak[i / 2], score);
            }
        }
        float shrink[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            peak[half] = fmaxf(peak[half], __shfl_xor_sync(0xffffffffu, peak[half], 1));
            peak[half] = fmaxf(peak[half], __shfl_xor_sync(0xffffffffu, peak[half], 2));
            // A row that has seen no key yet gives every key the weight 0.
            const float level = peak[half] == NONE ? 0.0f : peak[half];
            shrink[half] = exp2f(largest[half] - level);
            largest[half] = peak[half];
            peak[half] = level;
            total[half] *= shrink[half];
        }
#pragma unroll
        for (int x = 0; x < HEAD_SIZE / 8; ++x) {
#pragma unroll
            for (int i = 0; i < 4; ++i) sums[x][i] *= shrink[i / 2];
        }
#pragma unroll
        for (int x = 0; x < KEYS / 8; ++x) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                scores[x][i] = exp2f(scores[x][i] - peak[i / 2]);
                total[i / 2] += scores[x][i];
            }
        }

#pragma unroll
        for (int x = 0; x < KEYS / 16; ++x) {
            const unsigned weight[4] = {pack(scores[2 * x][0], scores[2 * x][1]), pack(scores[2 * x][2], scores[2 * x][3]),
                                        pack(scores[2 * x + 1][0], scores[2 * x + 1][1]),
                                        pack(scores[2 * x + 1][2], scores[2 * x + 1][3])};
#pragma unroll
            for (int step = 0; step < STEPS; ++step) {
                unsigned value[4];
                load_transposed(value, values(turn) + place(x * 16 + lane % 16, step * 2 + lane / 16));
                multiply_add(sums[2 * step], weight, value[0], value[1]);
                multiply_add(sums[2 * step + 1], weight, value[2], value[3]);
            }
        }
    }

#pragma unroll
    for (int half = 0; half < 2; ++half) {
        total[half] += __shfl_xor_sync(0xffffffffu, total[half], 1);
        total[half] += __shfl_xor_sync(0xffffffffu, total[half], 2);
        const int row = own_row + half * 8;
        if (row >= q_len) continue;
        const float share = total[half] > 0.0f ? 1.0f / total[half] : 0.0f;
        __nv_bfloat16* to = output + q_start + static_cast<long long>(row) * HEAD_SIZE + lane % 4 * 2;
#pragma unroll
        for (int x = 0; x < HEAD_SIZE / 8; ++x) {
            *reinterpret_cast<__nv_bfloat162*>(to + x * 8) = __floats2bfloat162_rn(share * sums[x][half * 2], share * sums[x][half * 2 + 1]);
        }
    }
}
