/* kforge
launch:
  - kernel: decode_step
    when: batch_size <= 20
    grid: batch_size * num_v_heads * (head_size * LANES_ROW // (32 * WARPS * PASSES))
    block: 32 * WARPS
    args: q, k, v, state, A_log, a, dt_bias, b, scale, output, new_state
  - kernel: bulk_step
    when: batch_size > 20
    grid: batch_size * num_v_heads * (head_size // (BULK_WARPS * BULK_ROWS))
    block: 32 * BULK_WARPS
    shared: BULK_WARPS * BULK_ROWS * 512
    args: q, k, v, state, A_log, a, dt_bias, b, scale, output, new_state
tunables:
  BULK_ROWS: [8, 4]
  BULK_WARPS: [2, 4]
  LANES_ROW: [32, 8, 16]
  PASSES: [4, 2]
  WARPS: [8, 4]
  LOADS: [1, 0, 2]
  STORES: [1, 0]
constraints: 32 * WARPS * PASSES <= head_size * LANES_ROW
variants:
  - {when: batch_size <= 2, PASSES: 1, WARPS: 8}
  - {when: batch_size <= 8, PASSES: 1}
*/

// One warp per row for few sequences, so that the chain from the launch to the stores is shortest: one load of 16 bytes per lane.
// More rows per warp (PASSES) for many. Fewer LANES_ROW make a warp hold several rows side by side. All loads come before the first
// use. Consecutive blocks own consecutive memory. With old = state before the decay:
//   correction = beta * (v - keep * (old . k)),  output = scale * (keep * (old . q) + correction * (k . q))

#include <cuda_bf16.h>

constexpr int PIECES = HEAD_SIZE / (4 * LANES_ROW);  // of a row, four elements each, for each lane
constexpr int ROWS_WARP = 32 / LANES_ROW;
constexpr int ROWS_BLOCK = ROWS_WARP * WARPS * PASSES;
constexpr int BLOCKS = HEAD_SIZE / ROWS_BLOCK;  // for each head

__device__ __forceinline__ float4 load(const float4* from) {
#if LOADS == 0
    return *from;
#elif LOADS == 1
    return __ldcs(from);
#else
    float4 r;
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(r.x), "=f"(r.y), "=f"(r.z), "=f"(r.w) : "l"(from));
    return r;
#endif
}

__device__ __forceinline__ void store(float4* to, float4 value) {
#if STORES
    __stcs(to, value);
#else
    *to = value;
#endif
}

__device__ __forceinline__ float4 widen(uint2 bits) {
    return make_float4(__uint_as_float(bits.x << 16), __uint_as_float(bits.x & 0xffff0000u),
                       __uint_as_float(bits.y << 16), __uint_as_float(bits.y & 0xffff0000u));
}

__device__ __forceinline__ float dot(float4 a, float4 b, float sum) {
    return fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, fmaf(a.w, b.w, sum))));
}

__device__ __forceinline__ float row_sum(float value) {
#pragma unroll
    for (int offset = LANES_ROW / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
}

// For many sequences: each warp fetches BULK_ROWS contiguous rows by one bulk copy into its own shared memory, behind a barrier of its own,
// and eight lanes share a row.
__global__ void __launch_bounds__(32 * BULK_WARPS)
    bulk_step(const __nv_bfloat16* __restrict__ q, const __nv_bfloat16* __restrict__ k, const __nv_bfloat16* __restrict__ v,
              const float* __restrict__ state, const float* __restrict__ A_log, const __nv_bfloat16* __restrict__ a,
              const float* __restrict__ dt_bias, const __nv_bfloat16* __restrict__ b, float scale,
              __nv_bfloat16* __restrict__ output, float* __restrict__ new_state) {
    constexpr int SHARE = 8, PARTS = HEAD_SIZE / (4 * SHARE), ROWS_PASS = 32 / SHARE;
    constexpr int PER_HEAD = HEAD_SIZE / (BULK_ROWS * BULK_WARPS);
    extern __shared__ __align__(128) float4 tiles[];
    __shared__ __align__(8) unsigned long long barriers[BULK_WARPS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, part = lane % SHARE;
    const int head = blockIdx.x / PER_HEAD;
    const int v_head = head % NUM_V_HEADS;
    const int qk_head = head / NUM_V_HEADS * NUM_K_HEADS + v_head / (NUM_V_HEADS / NUM_K_HEADS);
    const int first = (blockIdx.x * BULK_WARPS + warp) * BULK_ROWS;
    float4* tile = tiles + warp * (BULK_ROWS * HEAD_SIZE / 4);
    const unsigned barrier = static_cast<unsigned>(__cvta_generic_to_shared(&barriers[warp]));
    if (lane == 0) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barrier) : "memory");
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        if (state != nullptr) {
            asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(BULK_ROWS * HEAD_SIZE * 4)
                         : "memory");
            asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                             static_cast<unsigned>(__cvta_generic_to_shared(tile))), "l"(state + static_cast<size_t>(first) * HEAD_SIZE),
                         "r"(BULK_ROWS * HEAD_SIZE * 4), "r"(barrier) : "memory");
        }
    }
    uint2 keys[PARTS], queries[PARTS];
#pragma unroll
    for (int i = 0; i < PARTS; ++i) {
        keys[i] = reinterpret_cast<const uint2*>(k)[qk_head * (HEAD_SIZE / 4) + i * SHARE + part];
        queries[i] = reinterpret_cast<const uint2*>(q)[qk_head * (HEAD_SIZE / 4) + i * SHARE + part];
    }
    const float x = __bfloat162float(a[head]) + dt_bias[v_head];
    const float softplus = fmaxf(x, 0.0f) + __logf(1.0f + __expf(-fabsf(x)));
    const float keep = __expf(-__expf(A_log[v_head]) * softplus);
    const float beta = __fdividef(1.0f, 1.0f + __expf(-__bfloat162float(b[head])));
    const float factor = scale == 0.0f ? rsqrtf(float(HEAD_SIZE)) : scale;
    float key_query = 0.0f;
#pragma unroll
    for (int i = 0; i < PARTS; ++i) key_query = dot(widen(keys[i]), widen(queries[i]), key_query);
#pragma unroll
    for (int offset = SHARE / 2; offset > 0; offset /= 2) key_query += __shfl_xor_sync(0xffffffffu, key_query, offset);
    float values[BULK_ROWS / ROWS_PASS];
#pragma unroll
    for (int p = 0; p < BULK_ROWS / ROWS_PASS; ++p) values[p] = __bfloat162float(v[first + p * ROWS_PASS + lane / SHARE]);
    __syncwarp();  // the barrier exists
    if (state != nullptr) {
        asm volatile(
            "{\n.reg .pred done;\nAGAIN:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], 0;\n@done bra READY;\nbra AGAIN;\n"
            "READY:\n}" ::"r"(barrier) : "memory");
    }
#pragma unroll
    for (int p = 0; p < BULK_ROWS / ROWS_PASS; ++p) {
        const int local = p * ROWS_PASS + lane / SHARE;
        const size_t row = first + local;
        float4 old[PARTS];
        float predicted = 0.0f, read = 0.0f;
#pragma unroll
        for (int i = 0; i < PARTS; ++i) {
            old[i] = state == nullptr ? make_float4(0.0f, 0.0f, 0.0f, 0.0f) : tile[local * (HEAD_SIZE / 4) + i * SHARE + part];
            predicted = dot(old[i], widen(keys[i]), predicted);
            read = dot(old[i], widen(queries[i]), read);
        }
#pragma unroll
        for (int offset = SHARE / 2; offset > 0; offset /= 2) {
            predicted += __shfl_xor_sync(0xffffffffu, predicted, offset);
            read += __shfl_xor_sync(0xffffffffu, read, offset);
        }
        const float correction = beta * (values[p] - keep * predicted);
#pragma unroll
        for (int i = 0; i < PARTS; ++i) {
            const float4 key = widen(keys[i]), was = old[i];
            __stcs(reinterpret_cast<float4*>(new_state) + row * (HEAD_SIZE / 4) + i * SHARE + part,
                   make_float4(fmaf(keep, was.x, correction * key.x), fmaf(keep, was.y, correction * key.y),
                               fmaf(keep, was.z, correction * key.z), fmaf(keep, was.w, correction * key.w)));
        }
        if (part == 0) output[row] = __float2bfloat16(factor * fmaf(correction, key_query, keep * read));
    }
}

__global__ void __launch_bounds__(32 * WARPS)
    decode_step(const __nv_bfloat16* __restrict__ q, const __nv_bfloat16* __restrict__ k,
                const __nv_bfloat16* __restrict__ v, const float* __restrict__ state, const float* __restrict__ A_log,
                const __nv_bfloat16* __restrict__ a, const float* __restrict__ dt_bias,
                const __nv_bfloat16* __restrict__ b, float scale, __nv_bfloat16* __restrict__ output,
                float* __restrict__ new_state) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int part = lane % LANES_ROW;
    const int head = blockIdx.x / BLOCKS;  // over all sequences
    const int v_head = head % NUM_V_HEADS;
    const int qk_head = head / NUM_V_HEADS * NUM_K_HEADS + v_head / (NUM_V_HEADS / NUM_K_HEADS);
    // Pass p takes row first + p * ROWS_WARP.
    const int first = blockIdx.x * ROWS_BLOCK + warp * (ROWS_WARP * PASSES) + lane / LANES_ROW;

    float4 old[PASSES][PIECES];
#pragma unroll
    for (int p = 0; p < PASSES; ++p) {
#pragma unroll
        for (int i = 0; i < PIECES; ++i) {
            old[p][i] = state == nullptr
                            ? make_float4(0.0f, 0.0f, 0.0f, 0.0f)
                            : load(reinterpret_cast<const float4*>(state) +
                                   static_cast<size_t>(first + p * ROWS_WARP) * (HEAD_SIZE / 4) + i * LANES_ROW + part);
        }
    }
    uint2 keys[PIECES], queries[PIECES];
#pragma unroll
    for (int i = 0; i < PIECES; ++i) {
        keys[i] = reinterpret_cast<const uint2*>(k)[qk_head * (HEAD_SIZE / 4) + i * LANES_ROW + part];
        queries[i] = reinterpret_cast<const uint2*>(q)[qk_head * (HEAD_SIZE / 4) + i * LANES_ROW + part];
    }
    const float x = __bfloat162float(a[head]) + dt_bias[v_head];
    const float rate = A_log[v_head];
    const float mix = __bfloat162float(b[head]);
    float values[PASSES];
#pragma unroll
    for (int p = 0; p < PASSES; ++p) values[p] = __bfloat162float(v[first + p * ROWS_WARP]);
    __syncwarp();  // keeps the loads above

    const float softplus = fmaxf(x, 0.0f) + __logf(1.0f + __expf(-fabsf(x)));
    const float keep = __expf(-__expf(rate) * softplus);
    const float beta = __fdividef(1.0f, 1.0f + __expf(-mix));
    const float factor = scale == 0.0f ? rsqrtf(float(HEAD_SIZE)) : scale;

    float key_query = 0.0f;
#pragma unroll
    for (int i = 0; i < PIECES; ++i) key_query = dot(widen(keys[i]), widen(queries[i]), key_query);
    key_query = row_sum(key_query);
#pragma unroll
    for (int p = 0; p < PASSES; ++p) {
        float predicted = 0.0f, read = 0.0f;
#pragma unroll
        for (int i = 0; i < PIECES; ++i) {
            predicted = dot(old[p][i], widen(keys[i]), predicted);
            read = dot(old[p][i], widen(queries[i]), read);
        }
        predicted = row_sum(predicted);
        read = row_sum(read);
        const float correction = beta * (values[p] - keep * predicted);
        const size_t row = first + p * ROWS_WARP;
#pragma unroll
        for (int i = 0; i < PIECES; ++i) {
            const float4 key = widen(keys[i]), was = old[p][i];
            store(reinterpret_cast<float4*>(new_state) + row * (HEAD_SIZE / 4) + i * LANES_ROW + part,
                  make_float4(fmaf(keep, was.x, correction * key.x), fmaf(keep, was.y, correction * key.y),
                              fmaf(keep, was.z, correction * key.z), fmaf(keep, was.w, correction * key.w)));
        }
        if (part == 0) output[row] = __float2bfloat16(factor * fmaf(correction, key_query, keep * read));
    }
}
