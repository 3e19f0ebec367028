/* kforge
launch:
  - kernel: few
    grid: num_seqs * num_v_heads, 16
    block: 192
    when: total_seq_len <= SMALL
    args: q, k, v, state, A_log, a, dt_bias, b, cu_seqlens, scale, output, new_state, total_seq_len, num_seqs
  - kernel: prepare<1>
    grid: total_seq_len // 64 + num_seqs, num_v_heads
    block: 256
    shared: 32768 + 2 * 17408
    when: total_seq_len > SMALL and total_seq_len <= ALONE
    args: q, k, v, A_log, a, dt_bias, b, cu_seqlens, scale, tiles, records, total_seq_len, num_seqs
  - kernel: prepare<2>
    grid: total_seq_len // 64 + num_seqs, num_k_heads
    block: 256
    shared: 32768 + 4 * 17408
    when: total_seq_len > SMALL and total_seq_len > ALONE
    args: q, k, v, A_log, a, dt_bias, b, cu_seqlens, scale, tiles, records, total_seq_len, num_seqs
  - kernel: both<GROUPS_FEW, 1, STAGES_FEW>
    grid: num_seqs * num_v_heads * (16 // GROUPS_FEW)
    block: GROUPS_FEW * 128 + 128
    shared: STAGES_FEW * 27136 + GROUPS_FEW * 16384 + 16 * STAGES_FEW + 32
    when: total_seq_len > SMALL and num_seqs <= FEW
    overlap: true
    args: v, state, cu_seqlens, scale, tiles, records, output, new_state, num_seqs
  - kernel: alone<WARPS_MANY, STAGES_MANY>
    grid: num_seqs * num_v_heads * (8 // WARPS_MANY)
    block: WARPS_MANY * 32
    shared: STAGES_MANY * 53760 + 16 * STAGES_MANY
    when: total_seq_len > SMALL and num_seqs > FEW
    overlap: true
    args: v, state, cu_seqlens, scale, tiles, records, output, new_state, num_seqs
tunables:
  ALONE: [2200, 4000, 0]
  GROUPS_FEW: [2, 4]
  STAGES_FEW: [4, 3, 6]
  WARPS_MANY: [8, 4]
  STAGES_MANY: [4, 2]
  FEW: [7, 3]
  SMALL: [72, 40, 140]
scratch:
  tiles: {dtype: int32, shape: "total_seq_len // 64 + num_seqs, num_k_heads, 8192"}
  records: {dtype: int32, shape: "total_seq_len // 64 + num_seqs, num_v_heads, 5248"}
*/

// Few tokens: `few`, 16 at a time in one launch. More: 64 at a time, on tensor cores.
//   (I + A) U = beta (V - e^G K S^T),  A_ij = beta_i e^(G_i - G_j) (k_i . k_j) for j < i,  G: sums of the log gates in the chunk
//   output = scale (e^G Q S^T + (e^(G_i - G_j) (q_i . k_j), j <= i) U),  S' = e^(G_end) S + sum_j e^(G_end - G_j) u_j k_j^T
// `prepare`, one block per chunk and one or two value heads of a key head: T = (I + A)^-1 beta and the products of queries and keys,
// in the order of the registers of an mma's left operand. `both`: the serial part, with the outputs behind it. Keys and queries are
// exact in float16; for the state S, U and T are pairs of float16 (the second scaled by 2048), 22 bits, so that it has float32-like
// accuracy. Slot of a chunk: start / 64 + sequence + number of the chunk, without
// a scan.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

constexpr int GROUP = NUM_V_HEADS / NUM_K_HEADS;
static_assert(GROUP == 2 && HEAD_SIZE == 128, "two value heads per key head");
constexpr int PITCH = 68;
constexpr int STAGE_BYTES = 27136;   // keys 16384, T 10240, gates 512
constexpr int RECORD = 5248;         // words: T high 1280, T low 1280, gates 128, P high 1280, P low 1280
constexpr float LOW = 2048.0f;

__device__ __forceinline__ unsigned shared_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void ldm(unsigned (&r)[4], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}
__device__ __forceinline__ void ldm_trans(unsigned (&r)[4], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}
__device__ __forceinline__ void mma(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void mma_bf16(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// A barrier of some warps of a block.
__device__ __forceinline__ void bar_sync(int id, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ void barrier_init(unsigned barrier, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
__device__ __forceinline__ void barrier_arrive(unsigned barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void barrier_expect(unsigned barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ __forceinline__ void barrier_wait(unsigned barrier, unsigned parity) {
    asm volatile(
        "{\n.reg .pred done;\nagain:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@done bra finished;\nbra again;\nfinished:\n}\n" ::"r"(barrier), "r"(parity) : "memory");
}
__device__ __forceinline__ void bulk_copy(unsigned to, const void* from, unsigned bytes, unsigned barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 ::"r"(to), "l"(from), "r"(bytes), "r"(barrier) : "memory");
}
__device__ __forceinline__ void fence_init() { asm volatile("fence.proxy.async;" ::: "memory"); }
__device__ __forceinline__ void launch_dependents() { asm volatile("griddepcontrol.launch_dependents;"); }
__device__ __forceinline__ void wait_previous() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
__device__ __forceinline__ void prefetch_l2(const void* from) { asm volatile("prefetch.global.L2 [%0];" ::"l"(from)); }
// 2^x to a few units in the last place.
__device__ __forceinline__ float power(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// 8 x 8 elements of 16 bits, two neighbouring ones of a row in a lane, transposed.
__device__ __forceinline__ unsigned turn(unsigned x) {
    unsigned y;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}

__device__ __forceinline__ unsigned bits(__half2 h) { return *reinterpret_cast<unsigned*>(&h); }
__device__ __forceinline__ void split(float x, float y, unsigned& high, unsigned& low) {
    const __half2 h = __floats2half2_rn(x, y);
    const float2 back = __half22float2(h);
    high = bits(h);
    low = bits(__floats2half2_rn((x - back.x) * LOW, (y - back.y) * LOW));
}
__device__ __forceinline__ float2 widen(unsigned two) {
    return make_float2(__uint_as_float(two << 16), __uint_as_float(two & 0xffff0000u));
}

// sum += X Y for a warp: X 16 x 16 STEPS, Y 16 STEPS x 8 TILES, float32 in shared memory with PITCH.
template <int STEPS, int TILES>
__device__ __forceinline__ void product(const float* x, const float* y, float (&sum)[TILES][4], int lane) {
    const int r = lane / 4, c = lane % 4 * 2;
    float low[TILES][4];
#pragma unroll
    for (int n = 0; n < TILES; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[n][i] = low[n][i] = 0.0f;
    }
#pragma unroll
    for (int s = 0; s < STEPS; ++s) {
        unsigned ah[4], al[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float2 f = *reinterpret_cast<const float2*>(x + (r + (i & 1) * 8) * PITCH + s * 16 + c + (i >> 1) * 8);
            split(f.x, f.y, ah[i], al[i]);
        }
#pragma unroll
        for (int n = 0; n < TILES; ++n) {
            unsigned bh[2], bl[2];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const float* from = y + (s * 16 + c + i * 8) * PITCH + n * 8 + r;
                split(from[0], from[PITCH], bh[i], bl[i]);
            }
            mma(sum[n], ah, bh[0], bh[1]);
            mma(low[n], ah, bl[0], bl[1]);
            mma(low[n], al, bh[0], bh[1]);
        }
    }
#pragma unroll
    for (int n = 0; n < TILES; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[n][i] += low[n][i] * (1.0f / LOW);
    }
}
template <int TILES>
__device__ __forceinline__ void put(float* to, const float (&sum)[TILES][4], float sign, int lane) {
    const int r = lane / 4, c = lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < TILES; ++n) {
        *reinterpret_cast<float2*>(to + r * PITCH + n * 8 + c) = make_float2(sign * sum[n][0], sign * sum[n][1]);
        *reinterpret_cast<float2*>(to + (r + 8) * PITCH + n * 8 + c) = make_float2(sign * sum[n][2], sign * sum[n][3]);
    }
}

__device__ __forceinline__ float log_gate(float a, float dt, float A) {
    const float x = a + dt;
    const float softplus = x > 20.0f ? x : log1pf(expf(x));
    return -expf(A) * softplus;
}

// HEADS value heads of a chunk. The sums of log gates are in units of log 2.
template <int HEADS>
__global__ void __launch_bounds__(256)
    prepare(const __nv_bfloat16* __restrict__ q, const __nv_bfloat16* __restrict__ k, const __nv_bfloat16* __restrict__ v,
            const float* __restrict__ A_log, const __nv_bfloat16* __restrict__ a, const float* __restrict__ dt_bias, const __nv_bfloat16* __restrict__ b,
            const long long* __restrict__ cu_seqlens, float scale, int* __restrict__ tiles, int* __restrict__ records,
            int tokens, int sequences) {
    extern __shared__ __align__(128) unsigned char memory[];
    __shared__ int place[2];
    __shared__ float2 sums[HEADS][64];   // of log gates, as two floats
    __shared__ float beta[HEADS][64];
    launch_dependents();
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const int slot = blockIdx.x, first_head = blockIdx.y * HEADS, k_head = first_head / GROUP;
    int start = slot * 64, count = tokens - start;
    // Where this chunk begins depends on the lengths. Until they are known, each block brings another part of the inputs to the
    // last-level cache: 64 tokens, a part of their heads.
    {
        const int token = slot * 64 + thread / 4;
        if (token < tokens) {
            const int part = thread % 4;
            if (first_head % GROUP == 0) {
                if (sequences > 1) {
                    const __nv_bfloat16* from = part < 2 ? k : q;
                    prefetch_l2(from + ((size_t)token * NUM_K_HEADS + k_head) * HEAD_SIZE + part % 2 * 64);
                }
                prefetch_l2(v + ((size_t)token * NUM_V_HEADS + k_head * GROUP) * HEAD_SIZE + part * 64);
            }
        }
    }
    if (sequences > 1) {
        if (thread < 2) place[thread] = 0;
        __syncthreads();
        for (int s = thread; s < sequences; s += 256) {
            const int first = (int)cu_seqlens[s], last = (int)cu_seqlens[s + 1];
            const int at = (slot - (first / 64 + s)) * 64;
            if (at >= 0 && at < last - first) {
                place[0] = first + at;
                place[1] = last - first - at;
            }
        }
        __syncthreads();
        start = place[0];
        count = place[1];
    }
    if (count <= 0) return;
    count = min(count, 64);
    if (scale == 0.0f) scale = rsqrtf((float)HEAD_SIZE);

    unsigned char* key_tile = memory;
    unsigned char* query_tile = memory + 16384;
    float* matrices = reinterpret_cast<float*>(memory + 32768);   // A of both heads, T of both heads
    int* tile = tiles + (size_t)(slot * NUM_K_HEADS + k_head) * 8192;
    uint4 loaded[8];
#pragma unroll
    for (int n = 0; n < 4; ++n) {
        const int i = n * 256 + thread;
        const size_t from = (size_t)((start + i / 16) * NUM_K_HEADS + k_head) * 16 + i % 16;
        const uint4 none = make_uint4(0, 0, 0, 0);
        loaded[n] = i / 16 < count ? reinterpret_cast<const uint4*>(k)[from] : none;
        loaded[4 + n] = i / 16 < count ? reinterpret_cast<const uint4*>(q)[from] : none;
    }
    if (warp < HEADS) {
        const int head = first_head + warp;
        const float A = A_log[head], dt = dt_bias[head];
        double own[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int t = lane * 2 + i;
            const bool there = t < count;
            const size_t from = (size_t)(start + (there ? t : 0)) * NUM_V_HEADS + head;
            own[i] = there ? (double)log_gate(__bfloat162float(a[from]), dt, A) * 1.4426950408889634 : 0.0;
            beta[warp][t] = there ? 1.0f / (1.0f + expf(-__bfloat162float(b[from]))) : 0.0f;
        }
        const double both = own[0] + own[1];
        double sum = both;
#pragma unroll
        for (int offset = 1; offset < 32; offset *= 2) {
            const double other = __shfl_up_sync(0xffffffffu, sum, offset);
            if (lane >= offset) sum += other;
        }
        const double end = __shfl_sync(0xffffffffu, sum, 31);
        float* gates = reinterpret_cast<float*>(records + (size_t)(slot * NUM_V_HEADS + head) * RECORD + 2560);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const double at = i == 0 ? sum - both + own[0] : sum;
            const float high = (float)at;
            sums[warp][lane * 2 + i] = make_float2(high, (float)(at - (double)high));
            gates[lane * 2 + i] = exp2f((float)at);
            gates[64 + lane * 2 + i] = exp2f((float)(end - at));
        }
    }
    // T starts as zero.
    for (int i = thread; i < HEADS * 64 * PITCH / 4; i += 256) {
        reinterpret_cast<float4*>(matrices + HEADS * 64 * PITCH)[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
#pragma unroll
    for (int n = 0; n < 8; ++n) {
        const int i = n % 4 * 256 + thread;
        const unsigned words[4] = {loaded[n].x, loaded[n].y, loaded[n].z, loaded[n].w};
        unsigned half[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const float2 f = widen(words[j]);
            half[j] = bits(__floats2half2_rn(f.x, f.y));
        }
        const int offset = i / 16 * 256 + ((i % 16 ^ (i / 16 & 7)) << 4);
        const uint4 four = make_uint4(half[0], half[1], half[2], half[3]);
        if (n < 4) {
            *reinterpret_cast<uint4*>(key_tile + offset) = four;
            if (first_head % GROUP == 0) *reinterpret_cast<uint4*>(reinterpret_cast<unsigned char*>(tile) + offset) = four;
        } else {
            *reinterpret_cast<uint4*>(query_tile + offset) = four;
        }
    }
    __syncthreads();

    // Warps 0 to 3: keys times keys; 4 to 7: queries times keys; 16 tokens each.
    const int m = warp % 4, r = lane / 4, c = lane % 4 * 2;
    {
        float sum[8][4];
#pragma unroll
        for (int n = 0; n < 8; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) sum[n][i] = 0.0f;
        }
        const unsigned left = shared_address(warp < 4 ? key_tile : query_tile) + (m * 16 + lane % 16) * 256;
        const unsigned right = shared_address(key_tile) + (lane / 16 * 8 + lane % 8) * 256;
#pragma unroll
        for (int s = 0; s < 8; ++s) {
            unsigned x[4];
            ldm(x, left + (((s * 2 + lane / 16) ^ (lane & 7)) << 4));
            if (warp >= 4 && first_head % GROUP == 0) {
                reinterpret_cast<uint4*>(tile + 4096)[(m * 8 + s) * 32 + lane] = make_uint4(x[0], x[1], x[2], x[3]);
            }
#pragma unroll
            for (int n = 0; n < 4; ++n) {
                if (n <= m) {
                    unsigned y[4];
                    ldm(y, right + n * 4096 + (((s * 2 + (lane / 8 & 1)) ^ (lane & 7)) << 4));
                    mma(sum[2 * n], x, y[0], y[1]);
                    mma(sum[2 * n + 1], x, y[2], y[3]);
                }
            }
        }
#pragma unroll
        for (int h = 0; h < HEADS; ++h) {
            float2 at[2];
            float strength[2];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                at[i] = sums[h][m * 16 + r + i * 8];
                strength[i] = warp < 4 ? beta[h][m * 16 + r + i * 8] : scale;
            }
            int* record = records + (size_t)(slot * NUM_V_HEADS + first_head + h) * RECORD;
#pragma unroll
            for (int n = 0; n < 4; ++n) {
                if (n <= m) {
                    float value[2][4];
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
#pragma unroll
                        for (int i = 0; i < 4; ++i) {
                            const int row = m * 16 + r + (i >> 1) * 8, column = n * 16 + half * 8 + c + (i & 1);
                            const float2 from = sums[h][column];
                            const float between = (at[i >> 1].x - from.x) + (at[i >> 1].y - from.y);
                            const bool counts = warp < 4 ? column < row : column <= row;
                            value[half][i] = counts ? strength[i >> 1] * power(between) * sum[2 * n + half][i] : 0.0f;
                        }
                    }
                    if (warp < 4) {
#pragma unroll
                        for (int half = 0; half < 2; ++half) {
                            float* to = matrices + h * 64 * PITCH + (m * 16 + r) * PITCH + n * 16 + half * 8 + c;
                            *reinterpret_cast<float2*>(to) = make_float2(value[half][0], value[half][1]);
                            *reinterpret_cast<float2*>(to + 8 * PITCH) = make_float2(value[half][2], value[half][3]);
                        }
                    } else {
                        unsigned high[4], low[4];
#pragma unroll
                        for (int i = 0; i < 4; ++i) {
                            split(value[i >> 1][(i & 1) * 2], value[i >> 1][(i & 1) * 2 + 1], high[i], low[i]);
                        }
                        uint4* to = reinterpret_cast<uint4*>(record + 2688) + (m * (m + 1) / 2 + n) * 32 + lane;
                        to[0] = make_uint4(high[0], high[1], high[2], high[3]);
                        to[320] = make_uint4(low[0], low[1], low[2], low[3]);
                    }
                }
            }
        }
    }
    __syncthreads();

    // T = (I + A)^-1, four warps for each value head.
    const int h = warp / 4;
    if (h >= HEADS) return;
    const float* A = matrices + h * 64 * PITCH;
    float* T = matrices + (HEADS + h) * 64 * PITCH;
    float* between = reinterpret_cast<float*>(memory) + h * 32 * PITCH;
    if (m < 2) {
        const int first = m * 32 + lane / 16 * 16, column = lane % 16;
        float x[16];
#pragma unroll
        for (int i = 0; i < 16; ++i) {
            float sum0 = i == column ? 1.0f : 0.0f, sum1 = 0.0f;
#pragma unroll
            for (int j = 0; j < i; ++j) {
                const float factor = A[(first + i) * PITCH + first + j];
                if (j % 2 == 0) sum0 -= factor * x[j];
                else sum1 -= factor * x[j];
            }
            x[i] = sum0 + sum1;
            T[(first + i) * PITCH + first + column] = x[i];
        }
        __syncwarp();
        float sum[2][4];
        const int corner = m * 32;
        product<1, 2>(A + (corner + 16) * PITCH + corner, T + corner * PITCH + corner, sum, lane);
        put<2>(between + m * 16 * PITCH, sum, 1.0f, lane);
        __syncwarp();
        product<1, 2>(T + (corner + 16) * PITCH + corner + 16, between + m * 16 * PITCH, sum, lane);
        put<2>(T + (corner + 16) * PITCH + corner, sum, -1.0f, lane);
    }
    bar_sync(1 + h, 128);
    {
        const int row = m / 2 * 16, column = m % 2 * 16;
        float sum[2][4];
        product<2, 2>(A + (32 + row) * PITCH, T + column, sum, lane);
        put<2>(between + row * PITCH + column, sum, 1.0f, lane);
        bar_sync(1 + h, 128);
        product<2, 2>(T + (32 + row) * PITCH + 32, between + column, sum, lane);
        put<2>(T + (32 + row) * PITCH + column, sum, -1.0f, lane);
    }
    bar_sync(1 + h, 128);
    uint4* to = reinterpret_cast<uint4*>(records + (size_t)(slot * NUM_V_HEADS + first_head + h) * RECORD);
    for (int i = m; i < 10; i += 4) {
        const int row = i >= 6 ? 3 : i >= 3 ? 2 : i >= 1 ? 1 : 0, column = i - row * (row + 1) / 2;
        unsigned high[4], low[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const int x = column * 16 + c + (j >> 1) * 8;
            const float2 f = *reinterpret_cast<const float2*>(T + (row * 16 + r + (j & 1) * 8) * PITCH + x);
            split(f.x * beta[h][x], f.y * beta[h][x + 1], high[j], low[j]);
        }
        to[i * 32 + lane] = make_uint4(high[0], high[1], high[2], high[3]);
        to[320 + i * 32 + lane] = make_uint4(low[0], low[1], low[2], low[3]);
    }
}

// Lane j of four gets word j of each of the four: word i of the result is from lane i.
__device__ __forceinline__ void transpose4(const unsigned (&x)[4], unsigned (&y)[4], int lane) {
    const bool odd = lane & 1, upper = lane & 2;
    unsigned a[4];
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
        const unsigned other = __shfl_xor_sync(0xffffffffu, odd ? x[i] : x[i + 1], 1);
        a[i] = odd ? other : x[i];
        a[i + 1] = odd ? x[i + 1] : other;
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const unsigned other = __shfl_xor_sync(0xffffffffu, upper ? a[i] : a[i + 2], 2);
        y[i] = upper ? other : a[i];
        y[i + 2] = upper ? a[i + 2] : other;
    }
}

// The serial part and the outputs. NG groups of 4 warps, 8 NT columns of the state (values) each; 4 warps for the outputs of all these
// columns, up to one chunk behind, of which the first copies chunks ahead. A group needs three barriers of its own per chunk, no barrier of
// the block: before K S^T, before T times the right side, before the state's update. Long sequences come first.
template <int NG, int NT, int DEPTH>
__global__ void __launch_bounds__(NG * 128 + 128)
    both(const __nv_bfloat16* __restrict__ v, const float* __restrict__ state, const long long* __restrict__ cu_seqlens,
         float scale, const int* __restrict__ tiles, const int* __restrict__ records, __nv_bfloat16* __restrict__ output,
         float* __restrict__ new_state, int sequences) {
    extern __shared__ __align__(128) unsigned char memory[];
    const int thread = threadIdx.x, lane = thread % 32, w = thread / 32 % 4, group = thread / 128;
    constexpr int TILES = NG * NT, SLICES = 16 / TILES, TILE_BYTES = 16384;   // of 8 columns
    const int head = blockIdx.x / SLICES % NUM_V_HEADS, slice = blockIdx.x % SLICES, k_head = head / GROUP;
    int sequence = blockIdx.x / (SLICES * NUM_V_HEADS);
    if (sequences > 2 && sequences <= 1024) {
        // The block's place among the sequences, by falling length.
        int* lengths = reinterpret_cast<int*>(memory);
        __shared__ int chosen;
        for (int s = thread; s < sequences; s += NG * 128 + 128) lengths[s] = (int)(cu_seqlens[s + 1] - cu_seqlens[s]);
        __syncthreads();
        for (int s = thread; s < sequences; s += NG * 128 + 128) {
            const int own_length = lengths[s];
            int before = 0;
            for (int i = 0; i < sequences; ++i) before += lengths[i] > own_length || (lengths[i] == own_length && i < s) ? 1 : 0;
            if (before == sequence) chosen = s;
        }
        __syncthreads();
        sequence = chosen;
        __syncthreads();
    }
    const int start = (int)cu_seqlens[sequence], end = (int)cu_seqlens[sequence + 1];
    const int chunks = (end - start + 63) / 64, slot = start / 64 + sequence;
    const unsigned full = shared_address(memory + DEPTH * STAGE_BYTES + TILES * TILE_BYTES), empty = full + 8 * DEPTH;
    const unsigned ready = empty + 8 * DEPTH, done = ready + 16;   // of S and U, two buffers
    if (thread == 0) {
#pragma unroll
        for (int i = 0; i < DEPTH; ++i) {
            barrier_init(full + 8 * i, 1);
            barrier_init(empty + 8 * i, NG * 4);
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            barrier_init(ready + 8 * i, NG * 4);
            barrier_init(done + 8 * i, 4);
        }
        fence_init();
    }
    __syncthreads();
    const int r = lane / 4, c = lane % 4 * 2;
    if (group == NG) {   // the outputs: 16 tokens a warp, all columns of the block
        if (scale == 0.0f) scale = rsqrtf((float)HEAD_SIZE);
        wait_previous();
        const auto copy = [&](int chunk) {
            const unsigned to = shared_address(memory) + chunk % DEPTH * STAGE_BYTES, barrier = full + chunk % DEPTH * 8;
            barrier_expect(barrier, STAGE_BYTES);
            bulk_copy(to, tiles + (size_t)((slot + chunk) * NUM_K_HEADS + k_head) * 8192, 16384, barrier);
            bulk_copy(to + 16384, records + (size_t)((slot + chunk) * NUM_V_HEADS + head) * RECORD, 10752, barrier);
        };
        if (w == 0 && lane == 0) {
            for (int chunk = 0; chunk < DEPTH && chunk < chunks; ++chunk) copy(chunk);
        }
        for (int chunk = 0; chunk < chunks; ++chunk) {
            // Values come to the last-level cache some chunks ahead, to registers one chunk ahead.
            const int ahead = start + (chunk + 3) * 64 + w * 16 + lane;
            if (lane < 16 && ahead < end) prefetch_l2(v + ((size_t)ahead * NUM_V_HEADS + head) * HEAD_SIZE + slice * TILES * 8);
            const uint4* from = reinterpret_cast<const uint4*>(tiles + (size_t)((slot + chunk) * NUM_K_HEADS + k_head) * 8192 + 4096);
            const int* record = records + (size_t)((slot + chunk) * NUM_V_HEADS + head) * RECORD;
            uint4 queries[8], weights[8];
#pragma unroll
            for (int s = 0; s < 8; ++s) queries[s] = from[(w * 8 + s) * 32 + lane];
            from = reinterpret_cast<const uint4*>(record + 2688) + w * (w + 1) / 2 * 32 + lane;
#pragma unroll
            for (int s = 0; s < 4; ++s) {
                if (s <= w) {
                    weights[s] = from[s * 32];
                    weights[4 + s] = from[320 + s * 32];
                }
            }
            const float* decay = reinterpret_cast<const float*>(record + 2560);
            const float factors[2] = {scale * decay[w * 16 + r], scale * decay[w * 16 + r + 8]};
            const unsigned buffer = shared_address(memory) + DEPTH * STAGE_BYTES + (chunk & 1) * 6144 + lane * 16;
            float sum[TILES][4], low[TILES][4];
#pragma unroll
            for (int n = 0; n < TILES; ++n) {
#pragma unroll
                for (int i = 0; i < 4; ++i) sum[n][i] = low[n][i] = 0.0f;
            }
            barrier_wait(ready + (chunk & 1) * 8, chunk / 2 & 1);
#pragma unroll
            for (int s = 0; s < 8; s += 2) {
                const unsigned a[4] = {queries[s].x, queries[s].y, queries[s].z, queries[s].w};
                const unsigned b[4] = {queries[s + 1].x, queries[s + 1].y, queries[s + 1].z, queries[s + 1].w};
#pragma unroll
                for (int n = 0; n < TILES; ++n) {
                    unsigned x[4], y[4];
                    ldm_trans(x, buffer + n * TILE_BYTES + s * 256);
                    ldm_trans(y, buffer + n * TILE_BYTES + 2048 + s * 256);
                    mma(sum[n], a, x[0], x[1]);
                    mma(low[n], a, y[0], y[1]);
                    mma(sum[n], b, x[2], x[3]);
                    mma(low[n], b, y[2], y[3]);
                }
            }
#pragma unroll
            for (int n = 0; n < TILES; ++n) {
#pragma unroll
                for (int i = 0; i < 4; ++i) sum[n][i] *= factors[i >> 1], low[n][i] *= factors[i >> 1];
            }
#pragma unroll
            for (int s = 0; s < 4; s += 2) {
                if (s <= w) {
                    const unsigned a[4] = {weights[s].x, weights[s].y, weights[s].z, weights[s].w};
                    const unsigned b[4] = {weights[s + 1].x, weights[s + 1].y, weights[s + 1].z, weights[s + 1].w};
                    const unsigned d[4] = {weights[s + 4].x, weights[s + 4].y, weights[s + 4].z, weights[s + 4].w};
                    const unsigned e[4] = {weights[s + 5].x, weights[s + 5].y, weights[s + 5].z, weights[s + 5].w};
#pragma unroll
                    for (int n = 0; n < TILES; ++n) {
                        unsigned x[4], y[4];
                        ldm_trans(x, buffer + n * TILE_BYTES + 4096 + s * 256);
                        ldm_trans(y, buffer + n * TILE_BYTES + 5120 + s * 256);
                        mma(sum[n], a, x[0], x[1]);
                        mma(low[n], d, x[0], x[1]);
                        mma(low[n], a, y[0], y[1]);
                        if (s + 1 <= w) {
                            mma(sum[n], b, x[2], x[3]);
                            mma(low[n], e, x[2], x[3]);
                            mma(low[n], b, y[2], y[3]);
                        }
                    }
                }
            }
            __syncwarp();
            if (lane == 0) {
                barrier_arrive(done + (chunk & 1) * 8);
                if (w == 0 && chunk > 0 && chunk - 1 + DEPTH < chunks) {
                    // The groups have left the stage of the chunk before: at the latest when they stored the S and U used above.
                    barrier_wait(empty + (chunk - 1) % DEPTH * 8, (chunk - 1) / DEPTH & 1);
                    copy(chunk - 1 + DEPTH);
                }
            }
            __syncwarp();
#pragma unroll
            for (int n = 0; n < TILES; n += 2) {
                // Four lanes hold two rows of 16 columns: each gets 8 columns of a row.
                unsigned words[4], eight_columns[4];
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    const int t = n + (j & 1), i = j & 2;
                    const __nv_bfloat162 two = __floats2bfloat162_rn(sum[t][i] + low[t][i] * (1.0f / LOW), sum[t][i + 1] + low[t][i + 1] * (1.0f / LOW));
                    words[j] = *reinterpret_cast<const unsigned*>(&two);
                }
                transpose4(words, eight_columns, lane);
                const int token = start + chunk * 64 + w * 16 + r + (lane & 2) * 4;
                if (token < end) {
                    *reinterpret_cast<uint4*>(output + ((size_t)token * NUM_V_HEADS + head) * HEAD_SIZE + (slice * TILES + n + (lane & 1)) * 8) =
                        make_uint4(eight_columns[0], eight_columns[1], eight_columns[2], eight_columns[3]);
                }
            }
        }
        return;
    }
    // [row][8] of float16 for each tile: the right operands, read by transposing.
    unsigned char* own = memory + DEPTH * STAGE_BYTES + group * NT * TILE_BYTES;   // first two buffers of S and U, high and low
    unsigned char* right_high = own + 12288;
    unsigned char* right_low = own + 13312;
    unsigned char* u_high = own + 14336;   // times the decay to the chunk's end
    unsigned char* u_low = own + 15360;
    const int first_column = (slice * NG + group) * NT * 8;

    // A warp holds 32 rows of keys of the state, transposed: S[part][tile] has rows 32 w + 16 part + r (+ 8), columns c, c + 1.
    float S[2][NT][4];
    const size_t corner = ((size_t)(sequence * NUM_V_HEADS + head) * HEAD_SIZE + first_column) * HEAD_SIZE;
    const bool given = state != nullptr && start < end;
#pragma unroll
    for (int p = 0; p < 2; ++p) {
#pragma unroll
        for (int n = 0; n < NT; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                S[p][n][i] = given ? state[corner + (n * 8 + c + (i & 1)) * HEAD_SIZE + w * 32 + p * 16 + r + (i >> 1) * 8] : 0.0f;
            }
        }
    }
    const auto store_state = [&](int chunk) {
        unsigned char* state_high = own + (chunk & 1) * 6144;
#pragma unroll
        for (int p = 0; p < 2; ++p) {
#pragma unroll
            for (int n = 0; n < NT; ++n) {
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    const int to = n * TILE_BYTES + (w * 32 + p * 16 + r + i * 8) * 16 + c * 2;
                    unsigned high, low;
                    split(S[p][n][2 * i], S[p][n][2 * i + 1], high, low);
                    *reinterpret_cast<unsigned*>(state_high + to) = high;
                    *reinterpret_cast<unsigned*>(state_high + 2048 + to) = low;
                }
            }
        }
    };
    unsigned values[NT][2];
    const auto load_values = [&](int chunk) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int token = start + chunk * 64 + w * 16 + r + i * 8;
#pragma unroll
            for (int n = 0; n < NT; ++n) {
                values[n][i] = token < end ? *reinterpret_cast<const unsigned*>(
                    v + ((size_t)token * NUM_V_HEADS + head) * HEAD_SIZE + first_column + n * 8 + c) : 0u;
            }
        }
    };
    unsigned left[8][4];
    const auto load_keys = [&](int chunk) {
        const unsigned keys = shared_address(memory) + chunk % DEPTH * STAGE_BYTES;
        barrier_wait(full + chunk % DEPTH * 8, chunk / DEPTH & 1);
#pragma unroll
        for (int s = 0; s < 8; ++s) ldm(left[s], keys + (w * 16 + lane % 16) * 256 + (((s * 2 + lane / 16) ^ (lane & 7)) << 4));
    };
    if (chunks > 0) {
        load_values(0);
        wait_previous();
        store_state(0);
        load_keys(0);
    } else {
        wait_previous();
    }

    for (int chunk = 0; chunk < chunks; ++chunk) {
        const unsigned char* stage = memory + chunk % DEPTH * STAGE_BYTES;
        const unsigned keys = shared_address(stage);
        const uint4* T = reinterpret_cast<const uint4*>(stage + 16384);
        const float* decay = reinterpret_cast<const float*>(stage + 16384 + 10240);
        const float decays[2] = {decay[w * 16 + r], decay[w * 16 + r + 8]};
        const float rests[2] = {decay[64 + w * 16 + r], decay[64 + w * 16 + r + 8]};
        const float left_over = decay[63];
        bar_sync(1 + group, 128);   // the state is in shared memory
        {
            constexpr int PARTS = NT > 1 ? 1 : 2;   // sums of their own for even and odd steps, if there is one tile only
            float high[NT][2][4], low[NT][2][4];
#pragma unroll
            for (int n = 0; n < NT; ++n) {
#pragma unroll
                for (int i = 0; i < 4; ++i) high[n][0][i] = high[n][1][i] = low[n][0][i] = low[n][1][i] = 0.0f;
            }
            unsigned x[2][NT][4], y[2][NT][4];
#pragma unroll
            for (int s = 0; s < 5; ++s) {
                if (s < 4) {
#pragma unroll
                    for (int n = 0; n < NT; ++n) {
                        ldm_trans(x[s & 1][n], shared_address(own) + n * TILE_BYTES + (chunk & 1) * 6144 + (s * 32 + lane) * 16);
                        ldm_trans(y[s & 1][n], shared_address(own) + n * TILE_BYTES + (chunk & 1) * 6144 + 2048 + (s * 32 + lane) * 16);
                    }
                }
                if (s > 0) {
#pragma unroll
                    for (int n = 0; n < NT; ++n) {
                        mma(high[n][0], left[2 * s - 2], x[s & 1 ^ 1][n][0], x[s & 1 ^ 1][n][1]);
                        mma(low[n][0], left[2 * s - 2], y[s & 1 ^ 1][n][0], y[s & 1 ^ 1][n][1]);
                    }
#pragma unroll
                    for (int n = 0; n < NT; ++n) {
                        mma(high[n][PARTS - 1], left[2 * s - 1], x[s & 1 ^ 1][n][2], x[s & 1 ^ 1][n][3]);
                        mma(low[n][PARTS - 1], left[2 * s - 1], y[s & 1 ^ 1][n][2], y[s & 1 ^ 1][n][3]);
                    }
                }
            }
#pragma unroll
            for (int s = 0; s < 4; ++s) {
                if (s <= w) {
                    const uint4 a = T[(w * (w + 1) / 2 + s) * 32 + lane], b = T[320 + (w * (w + 1) / 2 + s) * 32 + lane];
                    left[s][0] = a.x, left[s][1] = a.y, left[s][2] = a.z, left[s][3] = a.w;
                    left[4 + s][0] = b.x, left[4 + s][1] = b.y, left[4 + s][2] = b.z, left[4 + s][3] = b.w;
                }
            }
#pragma unroll
            for (int n = 0; n < NT; ++n) {
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    const float2 value = widen(values[n][i]);
                    float sum[2];
#pragma unroll
                    for (int j = 0; j < 2; ++j) {
                        sum[j] = (high[n][0][2 * i + j] + high[n][1][2 * i + j]) + (low[n][0][2 * i + j] + low[n][1][2 * i + j]) * (1.0f / LOW);
                    }
                    unsigned a, b;
                    split(value.x - decays[i] * sum[0], value.y - decays[i] * sum[1], a, b);
                    const int to = n * TILE_BYTES + (w * 16 + r + i * 8) * 16 + c * 2;
                    *reinterpret_cast<unsigned*>(right_high + to) = a;
                    *reinterpret_cast<unsigned*>(right_low + to) = b;
                }
            }
            if (chunk + 1 < chunks) load_values(chunk + 1);
        }
        bar_sync(1 + group, 128);   // the right side is in shared memory
        {
            float high[NT][4], low[NT][4], low2[NT][4];
#pragma unroll
            for (int n = 0; n < NT; ++n) {
#pragma unroll
                for (int i = 0; i < 4; ++i) high[n][i] = low[n][i] = low2[n][i] = 0.0f;
            }
#pragma unroll
            for (int s = 0; s < 4; s += 2) {
                if (s <= w) {
#pragma unroll
                    for (int n = 0; n < NT; ++n) {
                        unsigned x[4], y[4];
                        ldm_trans(x, shared_address(right_high) + n * TILE_BYTES + (s * 16 + lane) * 16);
                        ldm_trans(y, shared_address(right_low) + n * TILE_BYTES + (s * 16 + lane) * 16);
                        mma(high[n], left[s], x[0], x[1]);
                        mma(low[n], left[s], y[0], y[1]);
                        mma(low2[n], left[4 + s], x[0], x[1]);
                        if (s + 1 <= w) {
                            mma(high[n], left[s + 1], x[2], x[3]);
                            mma(low[n], left[s + 1], y[2], y[3]);
                            mma(low2[n], left[5 + s], x[2], x[3]);
                        }
                    }
                }
            }
#pragma unroll
            for (int p = 0; p < 2; ++p) {
#pragma unroll
                for (int s = 0; s < 4; ++s) {
                    const int token = s * 16 + lane % 8 + lane / 16 * 8, piece = w * 4 + p * 2 + (lane / 8 & 1);
                    ldm_trans(left[p * 4 + s], keys + token * 256 + ((piece ^ (lane & 7)) << 4));
                }
            }
            unsigned char* u_plain = own + (chunk & 1) * 6144 + 4096;
#pragma unroll
            for (int n = 0; n < NT; ++n) {
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    const float first = high[n][2 * i] + (low[n][2 * i] + low2[n][2 * i]) * (1.0f / LOW);
                    const float second = high[n][2 * i + 1] + (low[n][2 * i + 1] + low2[n][2 * i + 1]) * (1.0f / LOW);
                    unsigned a, b, d, e;
                    split(rests[i] * first, rests[i] * second, a, b);
                    split(first, second, d, e);
                    const int to = n * TILE_BYTES + (w * 16 + r + i * 8) * 16 + c * 2;
                    *reinterpret_cast<unsigned*>(u_high + to) = a;
                    *reinterpret_cast<unsigned*>(u_low + to) = b;
                    *reinterpret_cast<unsigned*>(u_plain + to) = d;
                    *reinterpret_cast<unsigned*>(u_plain + 1024 + to) = e;
                }
            }
            __syncwarp();
            if (lane == 0) barrier_arrive(ready + (chunk & 1) * 8);
        }
        bar_sync(1 + group, 128);   // U is in shared memory
        {
            float high[2][NT][4], low[2][NT][4];
#pragma unroll
            for (int n = 0; n < NT; ++n) {
#pragma unroll
                for (int i = 0; i < 4; ++i) low[0][n][i] = low[1][n][i] = high[0][n][i] = high[1][n][i] = 0.0f;
            }
#pragma unroll
            for (int s = 0; s < 4; s += 2) {
#pragma unroll
                for (int n = 0; n < NT; ++n) {
                    unsigned x[4], y[4];
                    ldm_trans(x, shared_address(u_high) + n * TILE_BYTES + (s * 16 + lane) * 16);
                    ldm_trans(y, shared_address(u_low) + n * TILE_BYTES + (s * 16 + lane) * 16);
#pragma unroll
                    for (int p = 0; p < 2; ++p) {
                        mma(high[p][n], left[p * 4 + s], x[0], x[1]);
                        mma(low[p][n], left[p * 4 + s], y[0], y[1]);
                    }
#pragma unroll
                    for (int p = 0; p < 2; ++p) {
                        mma(high[p][n], left[p * 4 + s + 1], x[2], x[3]);
                        mma(low[p][n], left[p * 4 + s + 1], y[2], y[3]);
                    }
                }
            }
            if (lane == 0) barrier_arrive(empty + chunk % DEPTH * 8);   // all lanes have read the stage: their products need it
            if (chunk + 1 < chunks) load_keys(chunk + 1);
#pragma unroll
            for (int p = 0; p < 2; ++p) {
#pragma unroll
                for (int n = 0; n < NT; ++n) {
#pragma unroll
                    for (int i = 0; i < 4; ++i) S[p][n][i] = left_over * S[p][n][i] + (high[p][n][i] + low[p][n][i] * (1.0f / LOW));
                }
            }
            if (chunk + 1 < chunks) {
                if (chunk > 0) barrier_wait(done + (chunk + 1 & 1) * 8, (chunk - 1) / 2 & 1);   // the outputs of chunk - 1
                store_state(chunk + 1);
            }
        }
    }
#pragma unroll
    for (int p = 0; p < 2; ++p) {
#pragma unroll
        for (int n = 0; n < NT; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                new_state[corner + (n * 8 + c + (i & 1)) * HEAD_SIZE + w * 32 + p * 16 + r + (i >> 1) * 8] = S[p][n][i];
            }
        }
    }
}

// The serial part and the outputs for many sequences. A warp holds 16 columns of the state (values) in registers, transposed, as the
// left operand of all products, so that warps exchange nothing: no barriers, only the shared chunks, which the first warp copies
// ahead. Long sequences come first.
template <int WARPS, int DEPTH>
__global__ void __launch_bounds__(WARPS * 32)
    alone(const __nv_bfloat16* __restrict__ v, const float* __restrict__ state, const long long* __restrict__ cu_seqlens,
          float scale, const int* __restrict__ tiles, const int* __restrict__ records, __nv_bfloat16* __restrict__ output,
          float* __restrict__ new_state, int sequences) {
    extern __shared__ __align__(128) unsigned char memory[];
    constexpr int SLICES = 8 / WARPS, LAG = DEPTH > 3 ? 2 : 1;
    constexpr int BYTES = 53760;   // keys 16384, record 20992, queries 16384
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const int head = blockIdx.x / SLICES % NUM_V_HEADS, slice = blockIdx.x % SLICES, k_head = head / GROUP;
    int sequence = blockIdx.x / (SLICES * NUM_V_HEADS);
    if (sequences > 2 && sequences <= 1024) {
        // The block's place among the sequences, by falling length.
        int* lengths = reinterpret_cast<int*>(memory);
        __shared__ int chosen;
        for (int s = thread; s < sequences; s += WARPS * 32) lengths[s] = (int)(cu_seqlens[s + 1] - cu_seqlens[s]);
        __syncthreads();
        for (int s = thread; s < sequences; s += WARPS * 32) {
            const int own_length = lengths[s];
            int before = 0;
            for (int i = 0; i < sequences; ++i) before += lengths[i] > own_length || (lengths[i] == own_length && i < s) ? 1 : 0;
            if (before == sequence) chosen = s;
        }
        __syncthreads();
        sequence = chosen;
        __syncthreads();
    }
    const int start = (int)cu_seqlens[sequence], end = (int)cu_seqlens[sequence + 1];
    const int chunks = (end - start + 63) / 64, slot = start / 64 + sequence;
    const unsigned full = shared_address(memory + DEPTH * BYTES), empty = full + 8 * DEPTH;
    if (scale == 0.0f) scale = rsqrtf((float)HEAD_SIZE);
    if (thread == 0) {
#pragma unroll
        for (int i = 0; i < DEPTH; ++i) {
            barrier_init(full + 8 * i, 1);
            barrier_init(empty + 8 * i, WARPS);
        }
        fence_init();
    }
    __syncthreads();
    const int r = lane / 4, c = lane % 4 * 2;
    const int first_column = (slice * WARPS + warp) * 16;
    // S[tile]: value r (+ 8), keys 8 tile + c, + 1.
    float S[16][4];
    const size_t corner = ((size_t)(sequence * NUM_V_HEADS + head) * HEAD_SIZE + first_column) * HEAD_SIZE;
    const bool given = state != nullptr && start < end;
#pragma unroll
    for (int t = 0; t < 16; ++t) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const float2 two = given ? *reinterpret_cast<const float2*>(state + corner + (r + i * 8) * HEAD_SIZE + t * 8 + c) : make_float2(0.0f, 0.0f);
            S[t][2 * i] = two.x;
            S[t][2 * i + 1] = two.y;
        }
    }
    unsigned values[8][2];   // token 8 n + r, columns 8 half + c, + 1
    const auto load_values = [&](int chunk) {
#pragma unroll
        for (int n = 0; n < 8; ++n) {
            const int token = start + chunk * 64 + n * 8 + r;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                values[n][half] = token < end ? *reinterpret_cast<const unsigned*>(
                    v + ((size_t)token * NUM_V_HEADS + head) * HEAD_SIZE + first_column + half * 8 + c) : 0u;
            }
        }
    };
    if (chunks > 0) load_values(0);
    wait_previous();
    const auto copy = [&](int chunk) {
        const unsigned to = shared_address(memory) + chunk % DEPTH * BYTES, barrier = full + chunk % DEPTH * 8;
        const int* tile = tiles + (size_t)((slot + chunk) * NUM_K_HEADS + k_head) * 8192;
        barrier_expect(barrier, BYTES);
        bulk_copy(to, tile, 16384, barrier);
        bulk_copy(to + 16384, records + (size_t)((slot + chunk) * NUM_V_HEADS + head) * RECORD, 20992, barrier);
        bulk_copy(to + 37376, tile + 4096, 16384, barrier);
    };
    if (thread == 0) {
        for (int chunk = 0; chunk < DEPTH && chunk < chunks; ++chunk) copy(chunk);
    }
    const auto pair = [&](int s, unsigned (&a)[4], unsigned (&b)[4]) {
#pragma unroll
        for (int i = 0; i < 4; ++i) split(S[2 * s + i / 2][i % 2 * 2], S[2 * s + i / 2][i % 2 * 2 + 1], a[i], b[i]);
    };

    for (int chunk = 0; chunk < chunks; ++chunk) {
        const int done = chunk - LAG;   // by this warp; the others are at most a chunk behind, or are waited for
        if (thread == 0 && done >= 0 && done + DEPTH < chunks) {
            barrier_wait(empty + done % DEPTH * 8, done / DEPTH & 1);
            copy(done + DEPTH);
        }
        __syncwarp();
        const unsigned char* stage = memory + chunk % DEPTH * BYTES;
        const unsigned keys = shared_address(stage);
        const uint4* T = reinterpret_cast<const uint4*>(stage + 16384);
        const float* decay = reinterpret_cast<const float*>(stage + 26624);
        const uint4* P = reinterpret_cast<const uint4*>(stage + 27136);
        const uint4* queries = reinterpret_cast<const uint4*>(stage + 37376);
        barrier_wait(full + chunk % DEPTH * 8, chunk / DEPTH & 1);

        // V - e^G K S^T, transposed, as pairs: the left operand of 16 tokens each.
        unsigned high[4][4], low[4][4];
#pragma unroll
        for (int part = 0; part < 2; ++part) {   // 32 tokens
            float sum[4][4], sum_low[4][4];
#pragma unroll
            for (int n = 0; n < 4; ++n) {
#pragma unroll
                for (int i = 0; i < 4; ++i) sum[n][i] = sum_low[n][i] = 0.0f;
            }
#pragma unroll
            for (int s = 0; s < 8; ++s) {
                unsigned a[4], b[4];
                pair(s, a, b);
#pragma unroll
                for (int m = 0; m < 2; ++m) {
                    unsigned x[4];
                    ldm(x, keys + (part * 32 + m * 16 + lane % 16) * 256 + (((s * 2 + lane / 16) ^ (lane & 7)) << 4));
                    mma(sum[2 * m], a, x[0], x[2]);
                    mma(sum[2 * m + 1], a, x[1], x[3]);
                    mma(sum_low[2 * m], b, x[0], x[2]);
                    mma(sum_low[2 * m + 1], b, x[1], x[3]);
                }
            }
#pragma unroll
            for (int n = 0; n < 4; ++n) {
                const float2 factor = *reinterpret_cast<const float2*>(decay + part * 32 + n * 8 + c);
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const float2 value = widen(turn(values[part * 4 + n][half]));
                    split(value.x - factor.x * (sum[n][2 * half] + sum_low[n][2 * half] * (1.0f / LOW)),
                          value.y - factor.y * (sum[n][2 * half + 1] + sum_low[n][2 * half + 1] * (1.0f / LOW)),
                          high[part * 2 + n / 2][n % 2 * 2 + half], low[part * 2 + n / 2][n % 2 * 2 + half]);
                }
            }
        }
        if (chunk + 1 < chunks) load_values(chunk + 1);

        // U, 16 tokens at a time, the last first: it replaces the right side.
#pragma unroll
        for (int m = 3; m >= 0; --m) {
            float sum[2][4], sum_low[2][4];
#pragma unroll
            for (int n = 0; n < 2; ++n) {
#pragma unroll
                for (int i = 0; i < 4; ++i) sum[n][i] = sum_low[n][i] = 0.0f;
            }
#pragma unroll
            for (int s = 0; s <= m; ++s) {
                const uint4 x = T[(m * (m + 1) / 2 + s) * 32 + lane], y = T[320 + (m * (m + 1) / 2 + s) * 32 + lane];
                mma(sum[0], high[s], x.x, x.z);
                mma(sum[1], high[s], x.y, x.w);
                mma(sum_low[0], low[s], x.x, x.z);
                mma(sum_low[1], low[s], x.y, x.w);
                mma(sum_low[0], high[s], y.x, y.z);
                mma(sum_low[1], high[s], y.y, y.w);
            }
#pragma unroll
            for (int n = 0; n < 2; ++n) {
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const float first = sum[n][2 * half] + sum_low[n][2 * half] * (1.0f / LOW);
                    const float second = sum[n][2 * half + 1] + sum_low[n][2 * half + 1] * (1.0f / LOW);
                    split(first, second, high[m][n * 2 + half], low[m][n * 2 + half]);
                }
            }
        }

        // The outputs, from the state before the chunk.
#pragma unroll
        for (int part = 0; part < 2; ++part) {
            float sum[4][4], sum_low[4][4];
#pragma unroll
            for (int n = 0; n < 4; ++n) {
#pragma unroll
                for (int i = 0; i < 4; ++i) sum[n][i] = sum_low[n][i] = 0.0f;
            }
#pragma unroll
            for (int s = 0; s < 8; ++s) {
                unsigned a[4], b[4];
                pair(s, a, b);
#pragma unroll
                for (int m = 0; m < 2; ++m) {
                    const uint4 x = queries[((part * 2 + m) * 8 + s) * 32 + lane];
                    mma(sum[2 * m], a, x.x, x.z);
                    mma(sum[2 * m + 1], a, x.y, x.w);
                    mma(sum_low[2 * m], b, x.x, x.z);
                    mma(sum_low[2 * m + 1], b, x.y, x.w);
                }
            }
#pragma unroll
            for (int n = 0; n < 4; ++n) {
                const float2 factor = *reinterpret_cast<const float2*>(decay + part * 32 + n * 8 + c);
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const float times = scale * (i % 2 == 0 ? factor.x : factor.y);
                    sum[n][i] *= times;
                    sum_low[n][i] *= times;
                }
            }
#pragma unroll
            for (int m = 0; m < 2; ++m) {
                const int row = part * 2 + m;
#pragma unroll
                for (int s = 0; s <= row; ++s) {
                    const uint4 x = P[(row * (row + 1) / 2 + s) * 32 + lane], y = P[320 + (row * (row + 1) / 2 + s) * 32 + lane];
                    mma(sum[2 * m], high[s], x.x, x.z);
                    mma(sum[2 * m + 1], high[s], x.y, x.w);
                    mma(sum_low[2 * m], high[s], y.x, y.z);
                    mma(sum_low[2 * m + 1], high[s], y.y, y.w);
                    mma(sum_low[2 * m], low[s], x.x, x.z);
                    mma(sum_low[2 * m + 1], low[s], x.y, x.w);
                }
#pragma unroll
                for (int n = 0; n < 2; ++n) {
                    const int token = start + chunk * 64 + row * 16 + n * 8 + r;
                    unsigned words[2];
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
                        const __nv_bfloat162 two = __floats2bfloat162_rn(sum[2 * m + n][2 * half] + sum_low[2 * m + n][2 * half] * (1.0f / LOW),
                                                                         sum[2 * m + n][2 * half + 1] + sum_low[2 * m + n][2 * half + 1] * (1.0f / LOW));
                        words[half] = turn(*reinterpret_cast<const unsigned*>(&two));
                    }
                    if (token < end) {
                        unsigned* to = reinterpret_cast<unsigned*>(output + ((size_t)token * NUM_V_HEADS + head) * HEAD_SIZE + first_column + c);
                        to[0] = words[0];
                        to[4] = words[1];
                    }
                }
            }
        }

        // The state after the chunk, 16 keys at a time.
        const float left_over = decay[63];
#pragma unroll
        for (int s = 0; s < 4; ++s) {   // U times the decay to the chunk's end
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float2 rest = *reinterpret_cast<const float2*>(decay + 64 + s * 16 + i / 2 * 8 + c);
                const float2 x = __half22float2(*reinterpret_cast<const __half2*>(&high[s][i]));
                const float2 y = __half22float2(*reinterpret_cast<const __half2*>(&low[s][i]));
                split(rest.x * (x.x + y.x * (1.0f / LOW)), rest.y * (x.y + y.y * (1.0f / LOW)), high[s][i], low[s][i]);
            }
        }
#pragma unroll
        for (int t = 0; t < 8; ++t) {
            float sum[2][4], sum_low[2][4];
#pragma unroll
            for (int n = 0; n < 2; ++n) {
#pragma unroll
                for (int i = 0; i < 4; ++i) sum[n][i] = sum_low[n][i] = 0.0f;
            }
#pragma unroll
            for (int s = 0; s < 4; ++s) {
                unsigned x[4];
                ldm_trans(x, keys + (s * 16 + lane % 16) * 256 + (((t * 2 + lane / 16) ^ (lane & 7)) << 4));
                mma(sum[0], high[s], x[0], x[1]);
                mma(sum[1], high[s], x[2], x[3]);
                mma(sum_low[0], low[s], x[0], x[1]);
                mma(sum_low[1], low[s], x[2], x[3]);
            }
#pragma unroll
            for (int n = 0; n < 2; ++n) {
#pragma unroll
                for (int i = 0; i < 4; ++i) S[2 * t + n][i] = left_over * S[2 * t + n][i] + (sum[n][i] + sum_low[n][i] * (1.0f / LOW));
            }
        }
        __syncwarp();
        if (lane == 0) barrier_arrive(empty + chunk % DEPTH * 8);
    }
#pragma unroll
    for (int t = 0; t < 16; ++t) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            *reinterpret_cast<float2*>(new_state + corner + (r + i * 8) * HEAD_SIZE + t * 8 + c) = make_float2(S[t][2 * i], S[t][2 * i + 1]);
        }
    }
}

// Few tokens: 16 at a time in one launch. 16 lanes hold a row of the state, 8 rows in a block. All S k_j and S q_j are summed over the
// lanes at once, so that lane j gets those of token j. Two more warps have no rows: one makes the gates and inverts the 16 x 16 triangle meanwhile, one multiplies
// queries and keys.
__device__ __forceinline__ void eight(uint4 x, float (&y)[8]) {
    const float2 a = widen(x.x), b = widen(x.y), c = widen(x.z), d = widen(x.w);
    y[0] = a.x, y[1] = a.y, y[2] = b.x, y[3] = b.y, y[4] = c.x, y[5] = c.y, y[6] = d.x, y[7] = d.y;
}
template <int HALF>
__device__ __forceinline__ void halve(float (&values)[16], int lane) {
    const bool upper = lane & HALF;
#pragma unroll
    for (int i = 0; i < HALF; ++i) {
        const float kept = upper ? values[i + HALF] : values[i];
        const float given = upper ? values[i] : values[i + HALF];
        values[i] = kept + __shfl_xor_sync(0xffffffffu, given, HALF);
    }
}
// Lane j of 16 gets the sum of values[j] over the 16 lanes.
__device__ __forceinline__ float spread(float (&values)[16], int lane) {
    halve<8>(values, lane);
    halve<4>(values, lane);
    halve<2>(values, lane);
    halve<1>(values, lane);
    return values[0];
}
__global__ void __launch_bounds__(192)
    few(const __nv_bfloat16* __restrict__ q, const __nv_bfloat16* __restrict__ k, const __nv_bfloat16* __restrict__ v,
        const float* __restrict__ state, const float* __restrict__ A_log, const __nv_bfloat16* __restrict__ a,
        const float* __restrict__ dt_bias, const __nv_bfloat16* __restrict__ b, const long long* __restrict__ cu_seqlens,
        float scale, __nv_bfloat16* __restrict__ output, float* __restrict__ new_state, int tokens, int sequences) {
    __shared__ uint4 key_tile[256], query_tile[256];
    __shared__ float4 inverse4[16][5], weights4[16][5];   // [later][earlier], rows padded
    __shared__ float4 triangle[16][5];
    __shared__ float values[16][8];
    __shared__ float2 sums[2][16];
    __shared__ float decay[16], rest[16], beta[2][16];
    const int thread = threadIdx.x, lane = thread % 16, warp = thread / 32, group = thread / 16, warp_lane = thread % 32;
    const int head = blockIdx.x % NUM_V_HEADS, sequence = blockIdx.x / NUM_V_HEADS, k_head = head / GROUP;
    const int first_row = blockIdx.y * 8;
    const size_t place = ((size_t)blockIdx.x * HEAD_SIZE + first_row + group) * HEAD_SIZE + lane * 8;
    const bool helps = warp >= 4;
    float own[8];
    if (!helps) {
        float4 x = make_float4(0.0f, 0.0f, 0.0f, 0.0f), y = x;
        if (state != nullptr) {
            x = *reinterpret_cast<const float4*>(state + place);
            y = *reinterpret_cast<const float4*>(state + place + 4);
        }
        own[0] = x.x, own[1] = x.y, own[2] = x.z, own[3] = x.w, own[4] = y.x, own[5] = y.y, own[6] = y.z, own[7] = y.w;
    }
    const float A = A_log[head], dt = dt_bias[head];
    int start = 0, end = tokens;   // of a single sequence
    if (sequences > 1) {
        // All tokens come to the last-level cache until the bounds are known.
        for (int i = thread; i < tokens * 2; i += 192) {
            const size_t from = (size_t)(i / 2 * NUM_K_HEADS + k_head) * HEAD_SIZE + i % 2 * 64;
            prefetch_l2(k + from);
            prefetch_l2(q + from);
            if (i % 2 == 0) prefetch_l2(v + (size_t)(i / 2 * NUM_V_HEADS + head) * HEAD_SIZE + first_row);
        }
        start = (int)cu_seqlens[sequence];
        end = (int)cu_seqlens[sequence + 1];
    }
    if (scale == 0.0f) scale = rsqrtf((float)HEAD_SIZE);
    if (start == end) {
#pragma unroll
        for (int i = 0; i < 8; ++i) own[i] = 0.0f;
    }
    uint4 loaded[4];
    __nv_bfloat16 loaded_value, loaded_a, loaded_b;
    const auto load = [&](int first) {
        if (helps) {
            const size_t from = (size_t)min(first + lane, end - 1) * NUM_V_HEADS + head;
            loaded_a = a[from];
            loaded_b = b[from];
            return;
        }
        const uint4 none = make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int n = 0; n < 2; ++n) {
            const int token = first + n * 8 + thread / 16;
            const size_t from = ((size_t)token * NUM_K_HEADS + k_head) * 16 + lane;
            loaded[n] = token < end ? reinterpret_cast<const uint4*>(k)[from] : none;
            loaded[2 + n] = token < end ? reinterpret_cast<const uint4*>(q)[from] : none;
        }
        const int token = first + thread / 8;
        loaded_value = token < end ? v[((size_t)token * NUM_V_HEADS + head) * HEAD_SIZE + first_row + thread % 8] : __float2bfloat16(0.0f);
    };
    if (start < end) load(start);
    for (int first = start; first < end; first += 16) {
        if (first > start) __syncthreads();   // the previous 16 tokens are done
        if (!helps) {
#pragma unroll
            for (int n = 0; n < 2; ++n) {
                const int to = (n * 8 + thread / 16) * 16 + (lane ^ (thread / 16 & 7));
                key_tile[to] = loaded[n];
                query_tile[to] = loaded[2 + n];
            }
            values[thread / 8][thread % 8] = __bfloat162float(loaded_value);
        }
        __syncthreads();
        const bool more = first + 8 < end;   // than eight tokens
        if (helps) {
            const int which = warp - 4;
            const int r = warp_lane / 4, c = warp_lane % 4 * 2;
            float sum[2][4] = {{0.0f, 0.0f, 0.0f, 0.0f}, {0.0f, 0.0f, 0.0f, 0.0f}};
            const unsigned left = shared_address(which == 0 ? key_tile : query_tile) + warp_lane % 16 * 256;
            const unsigned right = shared_address(key_tile) + (warp_lane / 16 * 8 + warp_lane % 8) * 256;
#pragma unroll
            for (int s = 0; s < 8; ++s) {
                unsigned x[4], y[4];
                ldm(x, left + (((s * 2 + warp_lane / 16) ^ (warp_lane & 7)) << 4));
                ldm(y, right + (((s * 2 + (warp_lane / 8 & 1)) ^ (warp_lane & 7)) << 4));
                mma_bf16(sum[0], x, y[0], y[1]);
                mma_bf16(sum[1], x, y[2], y[3]);
            }
            // The gates; both halves of the warp do the same.
            const bool there = first + lane < end;
            double total = there ? (double)log_gate(__bfloat162float(loaded_a), dt, A) : 0.0;
#pragma unroll
            for (int offset = 1; offset < 16; offset *= 2) {
                const double other = __shfl_up_sync(0xffffffffu, total, offset, 16);
                if (lane >= offset) total += other;
            }
            const double last = __shfl_sync(0xffffffffu, total, 15, 16);
            const float own_beta = there ? 1.0f / (1.0f + expf(-__bfloat162float(loaded_b))) : 0.0f;
            if (first + 16 < end) load(first + 16);
            if (warp_lane < 16) {
                const float high = (float)total;
                sums[which][lane] = make_float2(high, (float)(total - (double)high));
                beta[which][lane] = own_beta;
                if (which == 0) {
                    decay[lane] = expf(high);
                    rest[lane] = expf((float)(last - total));
                }
            }
            __syncwarp();
#pragma unroll
            for (int n = 0; n < 2; ++n) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int later = r + (i >> 1) * 8, earlier = n * 8 + c + (i & 1);
                    const float2 x = sums[which][later], y = sums[which][earlier];
                    const float between = (x.x - y.x) + (x.y - y.y);
                    if (which == 0) {
                        reinterpret_cast<float*>(triangle[later])[earlier] =
                            earlier < later ? beta[0][later] * expf(between) * sum[n][i] : 0.0f;
                    } else {
                        reinterpret_cast<float*>(weights4[later])[earlier] = earlier <= later ? expf(between) * sum[n][i] : 0.0f;
                    }
                }
            }
            if (which == 0) {
                __syncwarp();
                // Lane i holds column i of the inverse.
                float x[16];
#pragma unroll
                for (int i = 0; i < 16; ++i) {
                    float sum0 = i == lane ? 1.0f : 0.0f, sum1 = 0.0f;
#pragma unroll
                    for (int j = 0; j < i; j += 4) {
                        const float4 factor = triangle[i][j / 4];   // 0 on and above the diagonal
                        sum0 -= factor.x * x[j];
                        if (j + 1 < i) sum1 -= factor.y * x[j + 1];
                        if (j + 2 < i) sum0 -= factor.z * x[j + 2];
                        if (j + 3 < i) sum1 -= factor.w * x[j + 3];
                    }
                    x[i] = sum0 + sum1;
                }
                if (warp_lane < 16) {
#pragma unroll
                    for (int i = 0; i < 16; ++i) reinterpret_cast<float*>(inverse4[i])[lane] = x[i] * own_beta;
                }
            }
            __syncthreads();
            continue;
        }
        if (first + 16 < end) load(first + 16);
        float predicted[16], read[16];
#pragma unroll
        for (int j = 0; j < 16; ++j) {
            predicted[j] = read[j] = 0.0f;
            if (j >= 8 && !more) continue;
            float x[8], y[8];
            eight(key_tile[j * 16 + (lane ^ (j & 7))], x);
            eight(query_tile[j * 16 + (lane ^ (j & 7))], y);
            predicted[j] = own[0] * x[0], read[j] = own[0] * y[0];
#pragma unroll
            for (int i = 1; i < 8; ++i) {
                predicted[j] += own[i] * x[i];
                read[j] += own[i] * y[i];
            }
        }
        const float with_key = spread(predicted, lane), with_query = spread(read, lane);
        __syncthreads();
        const float right_side = values[lane][group] - decay[lane] * with_key;
        float u = 0.0f;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float4 x = inverse4[lane][i];
            u += x.x * __shfl_sync(0xffffffffu, right_side, 4 * i, 16);
            u += x.y * __shfl_sync(0xffffffffu, right_side, 4 * i + 1, 16);
            u += x.z * __shfl_sync(0xffffffffu, right_side, 4 * i + 2, 16);
            u += x.w * __shfl_sync(0xffffffffu, right_side, 4 * i + 3, 16);
        }
        const float left_over = decay[15];
        float result = decay[lane] * with_query;
        const float rest_u = rest[lane] * u;
#pragma unroll
        for (int i = 0; i < 8; ++i) own[i] *= left_over;
#pragma unroll
        for (int j = 0; j < 16; ++j) {
            if (j >= 8 && !more) continue;
            result += reinterpret_cast<const float*>(weights4[lane])[j] * __shfl_sync(0xffffffffu, u, j, 16);
            const float factor = __shfl_sync(0xffffffffu, rest_u, j, 16);
            float x[8];
            eight(key_tile[j * 16 + (lane ^ (j & 7))], x);
#pragma unroll
            for (int i = 0; i < 8; ++i) own[i] += factor * x[i];
        }
        if (first + lane < end) {
            output[((size_t)(first + lane) * NUM_V_HEADS + head) * HEAD_SIZE + first_row + group] = __float2bfloat16(scale * result);
        }
    }
    if (helps) return;
    *reinterpret_cast<float4*>(new_state + place) = make_float4(own[0], own[1], own[2], own[3]);
    *reinterpret_cast<float4*>(new_state + place + 4) = make_float4(own[4], own[5], own[6], own[7]);
}
