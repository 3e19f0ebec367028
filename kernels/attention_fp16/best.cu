/* kforge
launch:
  - kernel: attention_large
    grid: min(sm_count, batch_size * num_q_heads * ceil_div(q_len, 64 * WGS))
    block: 128 * WGS + 128
    shared: WGS * 8192 + 2 * STAGES * KEYS * 128 + 2048
    when: group_size * q_len > 16 and batch_size * num_q_heads * ceil_div(q_len, 128) >= 96
    args: q_map, k_map, v_map, causal, scale, output, i32(batch_size * num_q_heads), group_size, q_len, kv_len
  - kernel: tiles::attention
    grid: ceil_div(q_len, 16 * T_WARPS), num_q_heads, batch_size
    block: 32 * T_WARPS
    shared: (16 * T_WARPS + 4 * T_KEYS) * head_size * 2
    when: group_size * q_len > 16 and kv_len <= T_LIMIT and not (batch_size * num_q_heads * ceil_div(q_len, 128) >= 96)
    args: q, k, v, causal, scale, output, num_kv_heads, q_len, kv_len
  - kernel: attention_small
    grid: SPLIT * batch_size * num_q_heads * ceil_div(q_len, 64)
    block: 256
    cluster: SPLIT
    shared: 4 * CHUNK * 128 + if(SPLIT >= 4, 1, 4 // SPLIT) * 2 * SPLIT * (4096 + 128) + 1024
    when: group_size * q_len > 16 and kv_len > T_LIMIT and not (batch_size * num_q_heads * ceil_div(q_len, 128) >= 96)
    args: q, k, v, causal, scale, output, group_size, q_len, kv_len
  - kernel: attention_few
    grid: D_SPLIT * batch_size * num_kv_heads
    block: 32 * D_WARPS
    cluster: D_SPLIT
    when: group_size * q_len <= 16
    args: q, k, v, causal, scale, output, group_size, q_len, kv_len
tunables:
  WGS: [4, 2, 3]
  KEYS: [64, 128, 192]
  STAGES: [4, 2, 3]
  INTRA: [1, 0]
  PINGPONG: [0, 1]
  SPLIT: [2, 1, 4]
  CHUNK: [128, 64]
  D_SPLIT: [8, 4]
  D_WARPS: [4, 2, 8]
  T_WARPS: [2, 4]
  T_KEYS: [32, 64]
  T_LIMIT: [128]
constraints: KEYS * WGS <= 384 or INTRA == 0 and WGS == 3, D_SPLIT * D_WARPS <= 32, WGS * 8192 + 2 * STAGES * KEYS * 128 + 2048 <= max_shared_bytes
tensor_maps:
  q_map: {of: q, dims: "head_size, q_len, batch_size * num_q_heads", strides: "head_size * 2, q_len * head_size * 2", box: "64, 64, 1", swizzle: 128}
  k_map: {of: k, dims: "head_size, kv_len, batch_size * num_kv_heads", strides: "head_size * 2, kv_len * head_size * 2", box: "64, KEYS, 1", swizzle: 128}
  v_map: {of: v, dims: "head_size, kv_len, batch_size * num_kv_heads", strides: "head_size * 2, kv_len * head_size * 2", box: "64, KEYS, 1", swizzle: 128}
compile: {arch: sm_90a}
*/

#include <cuda_fp16.h>

constexpr float NONE = -1e30f;  // below any score
constexpr float LOG2_E = 1.4426950408889634f;
constexpr unsigned FULL = 0xffffffffu;
typedef unsigned long long u64;

__device__ __forceinline__ unsigned shared_address(const void* p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); }

__device__ __forceinline__ float power_of_2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ unsigned pack(float low, float high) {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const unsigned*>(&pair);
}

__device__ __forceinline__ float factor_of(float scale) { return LOG2_E * (scale == 0.0f ? rsqrtf(float(HEAD_SIZE)) : scale); }


// ---- wgmma ----

// A tile of rows of 128 bytes, swizzled in groups of eight rows (1024 bytes).
__device__ __forceinline__ u64 descriptor(unsigned address) {
    return static_cast<u64>((address & 0x3ffff) >> 4) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}

__device__ __forceinline__ void products_start() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int pending>
__device__ __forceinline__ void products_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}
// Keeps the compiler from moving uses of these registers across this point.
template <int n>
__device__ __forceinline__ void pin(float (&x)[n]) {
#pragma unroll
    for (int i = 0; i < n; ++i) asm volatile("" : "+f"(x[i])::"memory");
}


__device__ __forceinline__ void multiply_keys(float (&d)[32], unsigned long long a, unsigned long long b, int add) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "%32, %33, p, 1, 1, 0, 0;\n}"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
        : "l"(a), "l"(b), "r"(add));
}

__device__ __forceinline__ void multiply_keys(float (&d)[64], unsigned long long a, unsigned long long b, int add) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
        "%64, %65, p, 1, 1, 0, 0;\n}"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
          "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
          "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
          "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
          "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
        : "l"(a), "l"(b), "r"(add));
}

__device__ __forceinline__ void multiply_keys(float (&d)[96], unsigned long long a, unsigned long long b, int add) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %98, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n192k16.f32.f16.f16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95}, "
        "%96, %97, p, 1, 1, 0, 0;\n}"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
          "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
          "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
          "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
          "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]),
          "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]),
          "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79]),
          "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87]),
          "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95])
        : "l"(a), "l"(b), "r"(add));
}

__device__ __forceinline__ void multiply_by_keys(float (&d)[32], const unsigned* a, unsigned long long b, int add) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "{%32, %33, %34, %35}, %36, p, 1, 1, 0;\n}"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

__device__ __forceinline__ void multiply_by_keys(float (&d)[64], const unsigned* a, unsigned long long b, int add) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
        "{%64, %65, %66, %67}, %68, p, 1, 1, 0;\n}"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
          "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
          "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
          "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
          "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

__device__ __forceinline__ void multiply_values(float (&d)[32], const unsigned* a, unsigned long long b, int add) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "{%32, %33, %34, %35}, %36, p, 1, 1, 1;\n}"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

// ---- Barriers and bulk copies ----

__device__ __forceinline__ void barrier_init(unsigned b, unsigned count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(b), "r"(count) : "memory");
}
__device__ __forceinline__ void barrier_expect(unsigned b, unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(b), "r"(bytes) : "memory");
}
__device__ __forceinline__ void barrier_arrive(unsigned b) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(b) : "memory");
}
__device__ __forceinline__ void barrier_wait(unsigned b, unsigned parity) {
    unsigned done = 0;
    while (done == 0) {
        asm volatile(
            "{\n.reg .pred ended;\nmbarrier.try_wait.parity.shared::cta.b64 ended, [%1], %2;\nselp.u32 %0, 1, 0, ended;\n}"
            : "=r"(done)
            : "r"(b), "r"(parity)
            : "memory");
    }
}
__device__ __forceinline__ void fetch(unsigned to, const CUtensorMap* map, int row, int matrix, unsigned b) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(to),
        "l"(map), "r"(0), "r"(row), "r"(matrix), "r"(b)
        : "memory");
}


// ---- Many queries: persistent blocks, one warp copies, WGS warp groups of 64 queries compute ----

constexpr int L_QUERIES = 64 * WGS;
constexpr unsigned TILE_BYTES = KEYS * 128;
constexpr int COPIER = 4 * WGS;  // the warp that copies, first of a group that gives up its registers
constexpr int MORE_REGISTERS = WGS == 2 ? 240 : WGS == 3 ? 160 : 112;

struct Tile {
    int matrix, first, blocks;
};

// Blocks take tiles in turns, every other turn in reverse. With a mask the longest tiles come first.
__device__ __forceinline__ bool tile_of(int turn, int tiles, int rows, int matrices, int causal, int q_len, int kv_len, Tile& tile) {
    const int g = gridDim.x;
    const int t = turn * g + (turn % 2 == 0 ? blockIdx.x : g - 1 - blockIdx.x);
    if (turn * g >= tiles) return false;
    tile.blocks = -1;
    if (t >= tiles) return true;
    int row;
    if (causal) {
        row = rows - 1 - t / matrices;
        tile.matrix = t % matrices;
    } else {
        row = t % rows;
        tile.matrix = t / rows;
    }
    tile.first = row * L_QUERIES;
    const int last = causal ? min(kv_len, min(tile.first + L_QUERIES, q_len) + kv_len - q_len) : kv_len;
    tile.blocks = last > 0 ? (last + KEYS - 1) / KEYS : 0;
    return true;
}

// Turns scores into weights and updates the row's maximum and total. Returns whether the sums must shrink, and by how much.
template <bool masked>
__device__ __forceinline__ bool soften(float (&s)[KEYS / 2], float (&largest)[2], float (&total)[2], float (&shrink)[2], float factor,
                                       int column, int limit0, int limit1) {
    if (masked) {
#pragma unroll
        for (int i = 0; i < KEYS / 2; ++i) {
            if (column + i / 4 * 8 + i % 2 >= (i / 2 % 2 ? limit1 : limit0)) s[i] = NONE;
        }
    }
    float peak[2], other[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        peak[h] = fmaxf(s[2 * h], s[2 * h + 1]);
        other[h] = fmaxf(s[4 + 2 * h], s[4 + 2 * h + 1]);
#pragma unroll
        for (int i = 8; i < KEYS / 2; i += 8) {
            peak[h] = fmaxf(peak[h], fmaxf(s[i + 2 * h], s[i + 2 * h + 1]));
            other[h] = fmaxf(other[h], fmaxf(s[i + 4 + 2 * h], s[i + 4 + 2 * h + 1]));
        }
        peak[h] = fmaxf(peak[h], other[h]);
        peak[h] = fmaxf(peak[h], __shfl_xor_sync(FULL, peak[h], 1));
        peak[h] = fmaxf(peak[h], __shfl_xor_sync(FULL, peak[h], 2));
    }
    // The reference moves only when a score exceeds it by a factor of 2^8: the weights stay far below the largest float16.
    const bool grows = (peak[0] - largest[0]) * factor > 8.0f || (peak[1] - largest[1]) * factor > 8.0f;
    const bool moves = __any_sync(FULL, grows);
    if (moves) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const float level = fmaxf(largest[h], peak[h]);
            shrink[h] = power_of_2((largest[h] - level) * factor);
            largest[h] = level;
            total[h] *= shrink[h];
        }
    }
    float base[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) base[h] = masked && largest[h] == NONE ? 0.0f : -largest[h] * factor;
    float more[2] = {0.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < KEYS / 2; i += 4) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            s[i + 2 * h] = power_of_2(fmaf(s[i + 2 * h], factor, base[h]));
            s[i + 2 * h + 1] = power_of_2(fmaf(s[i + 2 * h + 1], factor, base[h]));
            total[h] += s[i + 2 * h];
            more[h] += s[i + 2 * h + 1];
        }
    }
    total[0] += more[0];
    total[1] += more[1];
    return moves;
}

__global__ void __launch_bounds__(128 * WGS + 128, 1)
    attention_large(const __grid_constant__ CUtensorMap q_map, const __grid_constant__ CUtensorMap k_map,
                    const __grid_constant__ CUtensorMap v_map, int causal, float scale, __half* __restrict__ output, int matrices,
                    int group, int q_len, int kv_len) {
    extern __shared__ unsigned char raw[];
    const unsigned base = (shared_address(raw) + 1023) & ~1023u;
    const unsigned q_tile = base;
    const unsigned k_tiles = q_tile + WGS * 8192;
    const unsigned v_tiles = k_tiles + STAGES * TILE_BYTES;
    const unsigned q_full = v_tiles + STAGES * TILE_BYTES, q_empty = q_full + 8;
    const unsigned k_full = q_empty + 8, k_empty = k_full + 8 * STAGES, v_full = k_empty + 8 * STAGES, v_empty = v_full + 8 * STAGES;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (threadIdx.x == 0) {
        barrier_init(q_full, 1);
        barrier_init(q_empty, 4 * WGS);
        for (int i = 0; i < STAGES; ++i) {
            barrier_init(k_full + 8 * i, 1);
            barrier_init(v_full + 8 * i, 1);
            barrier_init(k_empty + 8 * i, 4 * WGS);
            barrier_init(v_empty + 8 * i, 4 * WGS);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    const int rows = (q_len + L_QUERIES - 1) / L_QUERIES;
    const int tiles = rows * matrices;
    Tile tile;

    if (warp >= COPIER) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;" ::: "memory");
        if (warp != COPIER || lane != 0) return;
        int stage = 0;
        unsigned phase = 0, q_phase = 0;
        for (int turn = 0; tile_of(turn, tiles, rows, matrices, causal, q_len, kv_len, tile); ++turn) {
            if (tile.blocks <= 0) continue;
            barrier_wait(q_empty, q_phase ^ 1);
            q_phase ^= 1;
            barrier_expect(q_full, WGS * 8192);
#pragma unroll
            for (int w = 0; w < WGS; ++w) fetch(q_tile + w * 8192, &q_map, tile.first + 64 * w, tile.matrix, q_full);
            const int kv = tile.matrix / group;
            for (int block = tile.blocks - 1; block >= 0; --block) {
                barrier_wait(k_empty + 8 * stage, phase ^ 1);
                barrier_expect(k_full + 8 * stage, TILE_BYTES);
                fetch(k_tiles + stage * TILE_BYTES, &k_map, block * KEYS, kv, k_full + 8 * stage);
                barrier_wait(v_empty + 8 * stage, phase ^ 1);
                barrier_expect(v_full + 8 * stage, TILE_BYTES);
                fetch(v_tiles + stage * TILE_BYTES, &v_map, block * KEYS, kv, v_full + 8 * stage);
                if (++stage == STAGES) {
                    stage = 0;
                    phase ^= 1;
                }
            }
        }
        return;
    }

    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(MORE_REGISTERS) : "memory");
    const int wg = warp / 4;
    const bool negative = scale < 0.0f;
    const float factor = fabsf(factor_of(scale));
    const int beyond = kv_len - q_len + 1;
    const u64 q_descriptor = descriptor(q_tile + wg * 8192);
    int k_stage = 0, v_stage = 0;
    unsigned k_phase = 0, v_phase = 0, q_phase = 0;
#if PINGPONG
    // Warp groups start their products in turns: a token passes from group to group.
    const auto take_token = [&] { asm volatile("bar.sync %0, 256;" ::"r"(1 + wg) : "memory"); };
    const auto pass_token = [&] { asm volatile("bar.arrive %0, 256;" ::"r"(1 + (wg + 1) % WGS) : "memory"); };
    if (wg == WGS - 1) pass_token();
#else
    const auto take_token = [] {};
    const auto pass_token = [] {};
#endif

    for (int turn = 0; tile_of(turn, tiles, rows, matrices, causal, q_len, kv_len, tile); ++turn) {
        if (tile.blocks < 0) continue;
        const int warp_first = tile.first + warp * 16;
        const int own = warp_first + lane / 4;
        const int limit0 = causal ? min(kv_len, own + beyond) : kv_len;
        const int limit1 = causal ? min(kv_len, own + 8 + beyond) : kv_len;
        const int whole = causal ? min(kv_len, warp_first + beyond) : kv_len;  // all rows of the warp see the keys before it
        float sums[32], s[KEYS / 2], largest[2] = {NONE, NONE}, total[2] = {0.0f, 0.0f}, shrink[2];
        unsigned weights[KEYS / 4];
#pragma unroll
        for (int i = 0; i < 32; ++i) sums[i] = 0.0f;

        const auto start_scores = [&] {
            barrier_wait(k_full + 8 * k_stage, k_phase);
            take_token();
            const u64 keys = descriptor(k_tiles + k_stage * TILE_BYTES);
            products_start();
#pragma unroll
            for (int k = 0; k < 4; ++k) multiply_keys(s, q_descriptor + 2 * k, keys + 2 * k, k > 0);
            products_commit();
        };
        const auto leave_keys = [&] {
            __syncwarp();
            if (lane == 0) barrier_arrive(k_empty + 8 * k_stage);
            if (++k_stage == STAGES) {
                k_stage = 0;
                k_phase ^= 1;
            }
        };
        const auto start_sums = [&] {
            barrier_wait(v_full + 8 * v_stage, v_phase);
            const u64 values = descriptor(v_tiles + v_stage * TILE_BYTES);
            products_start();
#pragma unroll
            for (int c = 0; c < KEYS / 16; ++c) multiply_values(sums, weights + 4 * c, values + 128 * c, 1);
            products_commit();
        };
        const auto leave_values = [&] {
            __syncwarp();
            if (lane == 0) barrier_arrive(v_empty + 8 * v_stage);
            if (++v_stage == STAGES) {
                v_stage = 0;
                v_phase ^= 1;
            }
        };
        const auto weigh = [&](int block) {
            if (negative) {
#pragma unroll
                for (int i = 0; i < KEYS / 2; ++i) s[i] = -s[i];
            }
            const int start = block * KEYS;
            if (start + KEYS <= whole) return soften<false>(s, largest, total, shrink, factor, 0, 0, 0);
            return soften<true>(s, largest, total, shrink, factor, start + lane % 4 * 2, limit0, limit1);
        };
        const auto round_weights = [&] {
#pragma unroll
            for (int i = 0; i < KEYS / 4; ++i) weights[i] = pack(s[2 * i], s[2 * i + 1]);
        };
        const auto shrink_sums = [&] {
#pragma unroll
            for (int i = 0; i < 32; ++i) sums[i] *= shrink[i / 2 % 2];
        };

        if (tile.blocks > 0) {
            barrier_wait(q_full, q_phase);
            q_phase ^= 1;
#if INTRA
            start_scores();
            pass_token();
            products_wait<0>();
            pin(s);
            leave_keys();
            weigh(tile.blocks - 1);
            round_weights();
            for (int block = tile.blocks - 2; block >= 0; --block) {
                start_scores();
                start_sums();
                pass_token();
                products_wait<1>();
                pin(s);
                leave_keys();
                const bool moves = weigh(block);
                products_wait<0>();
                pin(sums);
                leave_values();
                if (moves) shrink_sums();
                round_weights();
            }
            __syncwarp();
            if (lane == 0) barrier_arrive(q_empty);
            start_sums();
            products_wait<0>();
            pin(sums);
            leave_values();
#else
            for (int block = tile.blocks - 1; block >= 0; --block) {
                start_scores();
                products_wait<0>();
                pass_token();
                pin(s);
                leave_keys();
                const bool moves = weigh(block);
                if (moves) shrink_sums();
                round_weights();
                start_sums();
                products_wait<0>();
                pin(sums);
                leave_values();
            }
            __syncwarp();
            if (lane == 0) barrier_arrive(q_empty);
#endif
        }

        __half* const to = output + (static_cast<long long>(tile.matrix) * q_len + own) * HEAD_SIZE + lane % 4 * 2;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            total[h] += __shfl_xor_sync(FULL, total[h], 1);
            total[h] += __shfl_xor_sync(FULL, total[h], 2);
            if (own + 8 * h >= q_len) continue;
            const float share = total[h] > 0.0f ? 1.0f / total[h] : 0.0f;
#pragma unroll
            for (int x = 0; x < 8; ++x) {
                *reinterpret_cast<unsigned*>(to + h * 8 * HEAD_SIZE + 8 * x) =
                    pack(share * sums[4 * x + 2 * h], share * sums[4 * x + 2 * h + 1]);
            }
        }
    }
#if PINGPONG
    if (wg == 0) take_token();
#endif
}

// ---- Few tiles of queries: 64 queries per cluster, the keys spread over SPLIT blocks of two warp groups ----

constexpr int PARTS = 2 * SPLIT;
constexpr int OWNED = SPLIT >= 4 ? 1 : 4 / SPLIT;  // groups of 16 queries that a block finishes

__device__ __forceinline__ void copy_async(unsigned to, const void* from, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(there ? 16 : 0) : "memory");
}
template <int pending>
__device__ __forceinline__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
__device__ __forceinline__ void group_barrier(int id) {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    asm volatile("bar.sync %0, 128;" ::"r"(id) : "memory");
}
// CHUNK rows of 64 numbers to a swizzled tile.
__device__ __forceinline__ void copy_rows(unsigned to, const __half* from, int start, int end, int thread) {
#pragma unroll
    for (int n = 0; n < CHUNK / 16; ++n) {
        const int i = n * 128 + thread, row = i / 8, piece = i % 8;
        const bool there = start + row < end;
        copy_async(to + row * 128 + ((piece ^ row % 8) << 4), from + (there ? (start + row) * HEAD_SIZE + piece * 8 : 0), there);
    }
}

__global__ void __launch_bounds__(256, 1)
    attention_small(const __half* __restrict__ q, const __half* __restrict__ k, const __half* __restrict__ v, int causal, float scale,
                    __half* __restrict__ output, int group, int q_len, int kv_len) {
    extern __shared__ unsigned char raw[];
    const unsigned base = (shared_address(raw) + 1023) & ~1023u;
    unsigned char* const start_of_memory = raw + (base - shared_address(raw));
    constexpr unsigned BYTES = CHUNK * 128;
    const int thread = threadIdx.x % 128, wg = threadIdx.x / 128, warp = thread / 32, lane = threadIdx.x % 32;
    const unsigned k_tile = base + wg * 2 * BYTES, v_tile = k_tile + BYTES;
    float4* const parts = reinterpret_cast<float4*>(start_of_memory + 4 * BYTES);           // [OWNED][PARTS][8][32]
    float2* const states = reinterpret_cast<float2*>(parts + OWNED * PARTS * 8 * 32);        // [OWNED][PARTS][16]

    const int rank = blockIdx.x % SPLIT;
    const int rows = (q_len + 63) / 64;
    const int t = blockIdx.x / SPLIT;
    const int first = (rows - 1 - t % rows) * 64, matrix = t / rows;
    const int beyond = kv_len - q_len + 1;
    const int last = max(0, causal ? min(kv_len, min(first + 64, q_len) - 1 + beyond) : kv_len);
    const int each = (last + PARTS - 1) / PARTS;
    const int part = rank * 2 + wg;
    const int from = part * each, to = min(from + each, last);
    const __half* const keys = k + static_cast<long long>(matrix / group) * kv_len * HEAD_SIZE;
    const __half* const values = v + static_cast<long long>(matrix / group) * kv_len * HEAD_SIZE;
    const long long q_start = static_cast<long long>(matrix) * q_len * HEAD_SIZE;
    // Counts the bytes of the parts that this block finishes: no fence of the cluster is needed.
    __shared__ u64 arrived;
    if (threadIdx.x == 0) {
        barrier_init(shared_address(&arrived), 1);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        barrier_expect(shared_address(&arrived), OWNED * PARTS * 4224);
    }
    __syncthreads();
    if (SPLIT > 1) asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");

    if (from < to) {
        copy_rows(k_tile, keys, from, to, thread);
        commit_copies();
        copy_rows(v_tile, values, from, to, thread);
        commit_copies();
    }
    const int own = first + warp * 16 + lane / 4;
    unsigned query[16];
#pragma unroll
    for (int i = 0; i < 16; ++i) {
        const int row = own + i % 2 * 8;
        const int column = i / 4 * 16 + i / 2 % 2 * 8 + lane % 4 * 2;
        query[i] = row < q_len ? *reinterpret_cast<const unsigned*>(q + q_start + static_cast<long long>(row) * HEAD_SIZE + column) : 0u;
    }
    // A negative scale turns the signs of the queries.
    const float signed_factor = factor_of(scale);
    const float factor = fabsf(signed_factor);
    if (signed_factor < 0.0f) {
#pragma unroll
        for (int i = 0; i < 16; ++i) query[i] ^= 0x80008000u;
    }
    const int limit0 = min(to, causal ? own + beyond : kv_len), limit1 = min(to, causal ? own + 8 + beyond : kv_len);
    float sums[32], s[CHUNK / 2], largest[2] = {NONE, NONE}, total[2] = {0.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < 32; ++i) sums[i] = 0.0f;

    for (int start = from; start < to; start += CHUNK) {
        if (start > from) {
            group_barrier(1 + wg);
            copy_rows(k_tile, keys, start, to, thread);
            commit_copies();
            copy_rows(v_tile, values, start, to, thread);
            commit_copies();
        }
        wait_for_copies<1>();
        group_barrier(1 + wg);
        products_start();
#pragma unroll
        for (int i = 0; i < 4; ++i) multiply_by_keys(s, query + 4 * i, descriptor(k_tile) + 2 * i, i > 0);
        products_commit();
        products_wait<0>();
        pin(s);
        float peak[2] = {largest[0], largest[1]};
        const int column = start + lane % 4 * 2;
        if (start + CHUNK > min(limit0, limit1)) {
#pragma unroll
            for (int i = 0; i < CHUNK / 2; ++i) {
                if (column + i / 4 * 8 + i % 2 >= (i / 2 % 2 ? limit1 : limit0)) s[i] = NONE;
            }
        }
#pragma unroll
        for (int i = 0; i < CHUNK / 2; ++i) peak[i / 2 % 2] = fmaxf(peak[i / 2 % 2], s[i]);
        float level[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            peak[h] = fmaxf(peak[h], __shfl_xor_sync(FULL, peak[h], 1));
            peak[h] = fmaxf(peak[h], __shfl_xor_sync(FULL, peak[h], 2));
            const float shrink = power_of_2((largest[h] - peak[h]) * factor);
            largest[h] = peak[h];
            level[h] = peak[h] == NONE ? 0.0f : -peak[h] * factor;
            total[h] *= shrink;
            if (start > from) {
#pragma unroll
                for (int i = 0; i < 8; ++i) {
                    sums[4 * i + 2 * h] *= shrink;
                    sums[4 * i + 2 * h + 1] *= shrink;
                }
            }
        }
        unsigned weights[CHUNK / 4];
#pragma unroll
        for (int i = 0; i < CHUNK / 2; i += 2) {
            const int h = i / 2 % 2;
            const float a = power_of_2(fmaf(s[i], factor, level[h])), b = power_of_2(fmaf(s[i + 1], factor, level[h]));
            total[h] += a + b;
            weights[i / 2] = pack(a, b);
        }
        wait_for_copies<0>();
        group_barrier(1 + wg);
        products_start();
#pragma unroll
        for (int c = 0; c < CHUNK / 16; ++c) multiply_values(sums, weights + 4 * c, descriptor(v_tile) + 128 * c, 1);
        products_commit();
        products_wait<0>();
        pin(sums);
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        total[h] += __shfl_xor_sync(FULL, total[h], 1);
        total[h] += __shfl_xor_sync(FULL, total[h], 2);
    }

    // Every warp sends its part of 16 queries to the block that finishes them.
    if (SPLIT > 1) asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
    {
        const unsigned owner = warp % SPLIT;
        const int slot = warp / SPLIT * PARTS + part;
        unsigned part_address = shared_address(parts + slot * 256 + lane), state_address = shared_address(states + slot * 16 + lane / 4);
        unsigned counter = shared_address(&arrived);
        asm("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(part_address) : "r"(owner));
        asm("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(state_address) : "r"(owner));
        asm("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(counter) : "r"(owner));
#pragma unroll
        for (int x = 0; x < 8; ++x) {
            asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
                             part_address + x * 512),
                         "f"(sums[4 * x]), "f"(sums[4 * x + 1]), "f"(sums[4 * x + 2]), "f"(sums[4 * x + 3]), "r"(counter)
                         : "memory");
        }
        if (lane % 4 < 2) {
            asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(
                             state_address + lane % 4 * 64),
                         "f"(lane % 4 ? largest[1] : largest[0]), "f"(lane % 4 ? total[1] : total[0]), "r"(counter)
                         : "memory");
        }
    }
    barrier_wait(shared_address(&arrived), 0);
    if (SPLIT > 4 && rank >= 4) return;
#pragma unroll
    for (int n = 0; n < OWNED; ++n) {
        const int x = threadIdx.x / 32;
        const int warp_row = n * SPLIT + rank;
        float share[2][PARTS];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float2 state[PARTS];
            float peak = NONE, sum = 0.0f;
#pragma unroll
            for (int p = 0; p < PARTS; ++p) {
                state[p] = states[(n * PARTS + p) * 16 + h * 8 + lane / 4];
                peak = fmaxf(peak, state[p].x);
            }
#pragma unroll
            for (int p = 0; p < PARTS; ++p) {
                share[h][p] = power_of_2((state[p].x - peak) * factor);
                sum += share[h][p] * state[p].y;
            }
            const float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
#pragma unroll
            for (int p = 0; p < PARTS; ++p) share[h][p] *= inverse;
        }
        float4 result = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
        for (int p = 0; p < PARTS; ++p) {
            const float4 one = parts[((n * PARTS + p) * 8 + x) * 32 + lane];
            result.x += share[0][p] * one.x;
            result.y += share[0][p] * one.y;
            result.z += share[1][p] * one.z;
            result.w += share[1][p] * one.w;
        }
        const int row = first + warp_row * 16 + lane / 4;
        __half* const target = output + q_start + static_cast<long long>(row) * HEAD_SIZE + x * 8 + lane % 4 * 2;
        if (row < q_len) *reinterpret_cast<unsigned*>(target) = pack(result.x, result.y);
        if (row + 8 < q_len) *reinterpret_cast<unsigned*>(target + 8 * HEAD_SIZE) = pack(result.z, result.w);
    }
}

// ---- Few queries for each head of keys: all of them in one tile of 16, the keys spread over a cluster ----

constexpr int SHARES = D_SPLIT * D_WARPS;  // parts of the keys, one for each warp
constexpr int D_OWNED = (16 + D_SPLIT - 1) / D_SPLIT;

__device__ __forceinline__ void multiply_add(float (&d)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ __forceinline__ uint4 load_if(const __half* from, bool there) {
    return there ? __ldg(reinterpret_cast<const uint4*>(from)) : make_uint4(0u, 0u, 0u, 0u);
}
__device__ __forceinline__ unsigned word(const uint4& x, int i) { return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w; }

__global__ void __launch_bounds__(32 * D_WARPS)
    attention_few(const __half* __restrict__ q, const __half* __restrict__ k, const __half* __restrict__ v, int causal, float scale,
                  __half* __restrict__ output, int group, int q_len, int kv_len) {
    __shared__ alignas(16) float parts[D_OWNED][SHARES][HEAD_SIZE];
    __shared__ float2 states[D_OWNED][SHARES];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const int rank = blockIdx.x % D_SPLIT, head = blockIdx.x / D_SPLIT;
    const int rows = group * q_len;
    const int part = rank * D_WARPS + warp;
    const int each = (kv_len + SHARES * 8 - 1) / (SHARES * 8) * 8;
    const int from = part * each, to = min(from + each, kv_len);
    const __half* const keys = k + static_cast<long long>(head) * kv_len * HEAD_SIZE;
    const __half* const values = v + static_cast<long long>(head) * kv_len * HEAD_SIZE;
    const long long q_start = static_cast<long long>(head) * rows * HEAD_SIZE;
    // Counts the bytes of the rows that this block finishes: no fence of the cluster is needed.
    __shared__ u64 arrived;
    const unsigned counter = shared_address(&arrived);
    if (threadIdx.x == 0) {
        const unsigned bytes = (rows + D_SPLIT - 1 - rank) / D_SPLIT * SHARES * (HEAD_SIZE * 4 + 8);
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(counter) : "memory");
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(counter), "r"(bytes) : "memory");
    }
    __syncthreads();
    if (D_SPLIT > 1) asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");

    const float signed_factor = factor_of(scale);
    const float factor = fabsf(signed_factor);
    const int beyond = kv_len - q_len + 1;
    const int limit0 = min(to, causal ? g % q_len + beyond : kv_len), limit1 = min(to, causal ? (g + 8) % q_len + beyond : kv_len);
    float sums[8][4] = {};
    float largest[2] = {NONE, NONE}, total[2] = {0.0f, 0.0f};
    // Products may take their terms in any order: lane t of four holds dims 8 t to 8 t + 7 and 32 + 8 t to 32 + 8 t + 7.
    uint4 query[2][2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            query[h][i] = load_if(q + q_start + (g + 8 * h < rows ? (g + 8 * h) * HEAD_SIZE + 32 * i + 8 * t : 0), g + 8 * h < rows);
        }
    }

    for (int start = from; start < to; start += 32) {
        uint4 key[4][2], value[2][4];
#pragma unroll
        for (int x = 0; x < 4; ++x) {
            const int row = start + 8 * x + g;
#pragma unroll
            for (int i = 0; i < 2; ++i) key[x][i] = load_if(keys + (row < to ? static_cast<long long>(row) * HEAD_SIZE + 32 * i + 8 * t : 0), row < to);
        }
#pragma unroll
        for (int c = 0; c < 2; ++c) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const int row = start + 16 * c + 2 * t + e % 2 + e / 2 * 8;
                value[c][e] = load_if(values + (row < to ? static_cast<long long>(row) * HEAD_SIZE + 8 * g : 0), row < to);
            }
        }
        float s[4][4] = {};
        const unsigned sign = signed_factor < 0.0f ? 0x80008000u : 0u;
#pragma unroll
        for (int step = 0; step < 4; ++step) {
            const int i = step / 2, w = step % 2 * 2;
#pragma unroll
            for (int x = 0; x < 4; ++x) {
                multiply_add(s[x], word(query[0][i], w) ^ sign, word(query[1][i], w) ^ sign, word(query[0][i], w + 1) ^ sign,
                             word(query[1][i], w + 1) ^ sign, word(key[x][i], w), word(key[x][i], w + 1));
            }
        }
        float peak[2] = {largest[0], largest[1]};
#pragma unroll
        for (int x = 0; x < 4; ++x) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                if (start + 8 * x + 2 * t + i % 2 >= (i / 2 ? limit1 : limit0)) s[x][i] = NONE;
                peak[i / 2] = fmaxf(peak[i / 2], s[x][i]);
            }
        }
        float level[2], shrink[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            peak[h] = fmaxf(peak[h], __shfl_xor_sync(FULL, peak[h], 1));
            peak[h] = fmaxf(peak[h], __shfl_xor_sync(FULL, peak[h], 2));
            shrink[h] = power_of_2((largest[h] - peak[h]) * factor);
            largest[h] = peak[h];
            level[h] = peak[h] == NONE ? 0.0f : -peak[h] * factor;
            total[h] *= shrink[h];
        }
#pragma unroll
        for (int x = 0; x < 8; ++x) {
#pragma unroll
            for (int i = 0; i < 4; ++i) sums[x][i] *= shrink[i / 2];
        }
#pragma unroll
        for (int x = 0; x < 4; ++x) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                s[x][i] = power_of_2(fmaf(s[x][i], factor, level[i / 2]));
                total[i / 2] += s[x][i];
            }
        }
#pragma unroll
        for (int c = 0; c < 2; ++c) {
            const unsigned a0 = pack(s[2 * c][0], s[2 * c][1]), a1 = pack(s[2 * c][2], s[2 * c][3]);
            const unsigned a2 = pack(s[2 * c + 1][0], s[2 * c + 1][1]), a3 = pack(s[2 * c + 1][2], s[2 * c + 1][3]);
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                const unsigned pick = j % 2 ? 0x7632u : 0x5410u;
                multiply_add(sums[j], a0, a1, a2, a3, __byte_perm(word(value[c][0], j / 2), word(value[c][1], j / 2), pick),
                             __byte_perm(word(value[c][2], j / 2), word(value[c][3], j / 2), pick));
            }
        }
    }
    // Column c of product j is dim 8 c + j: this lane has dims 16 t to 16 t + 15.
    __syncwarp();
    if (D_SPLIT > 1) asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        total[h] += __shfl_xor_sync(FULL, total[h], 1);
        total[h] += __shfl_xor_sync(FULL, total[h], 2);
        const int row = g + 8 * h;
        if (row < rows) {
            unsigned to_part = shared_address(&parts[row / D_SPLIT][part][16 * t]), to_state = shared_address(&states[row / D_SPLIT][part]);
            unsigned to_counter = counter;
            asm("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(to_part) : "r"(row % D_SPLIT));
            asm("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(to_state) : "r"(row % D_SPLIT));
            asm("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(to_counter) : "r"(row % D_SPLIT));
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int j = i % 2 * 4, e = 2 * h + i / 2;
                asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
                                 to_part + 16 * i),
                             "f"(sums[j][e]), "f"(sums[j + 1][e]), "f"(sums[j + 2][e]), "f"(sums[j + 3][e]), "r"(to_counter)
                             : "memory");
            }
            if (t == 0) {
                asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(to_state),
                             "f"(largest[h]), "f"(total[h]), "r"(to_counter)
                             : "memory");
            }
        }
    }
    for (unsigned done = 0; done == 0;) {
        asm volatile(
            "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], 0;\nselp.u32 %0, 1, 0, p;\n}\n"
            : "=r"(done)
            : "r"(counter)
            : "memory");
    }
    // One warp finishes a row: lane p weighs part p.
    static_assert(SHARES <= 32, "a lane for each part");
    for (int n = warp; n * D_SPLIT + rank < rows; n += D_WARPS) {
        const float2 state = lane < SHARES ? states[n][lane] : make_float2(NONE, 0.0f);
        float peak = state.x;
#pragma unroll
        for (int o = 16; o > 0; o /= 2) peak = fmaxf(peak, __shfl_xor_sync(FULL, peak, o));
        float share = power_of_2((state.x - peak) * factor);
        float sum = share * state.y;
#pragma unroll
        for (int o = 16; o > 0; o /= 2) sum += __shfl_xor_sync(FULL, sum, o);
        share *= sum > 0.0f ? 1.0f / sum : 0.0f;
        float2 result = make_float2(0.0f, 0.0f);
#pragma unroll
        for (int p = 0; p < SHARES; ++p) {
            const float weight = __shfl_sync(FULL, share, p);
            const float2 one = *reinterpret_cast<const float2*>(&parts[n][p][2 * lane]);
            result.x += weight * one.x;
            result.y += weight * one.y;
        }
        *reinterpret_cast<unsigned*>(output + q_start + (n * D_SPLIT + rank) * HEAD_SIZE + 2 * lane) = pack(result.x, result.y);
    }
}

// ---- Few keys: a warp computes 16 queries by `mma`; a small kernel starts fastest with cold caches ----

namespace tiles {

constexpr int T_PIECES = HEAD_SIZE / 8;  // of 16 bytes, in a row
constexpr int T_QUERIES = 16 * T_WARPS;
constexpr int T_THREADS = 32 * T_WARPS;
constexpr int T_STEPS = HEAD_SIZE / 16;
static_assert(T_QUERIES * T_PIECES % T_THREADS == 0 && T_KEYS * T_PIECES % T_THREADS == 0, "every thread copies as much");

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
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// ---- The kernel ----

__device__ __forceinline__ unsigned pack(float low, float high) {
    const __half2 pair = __floats2half2_rn(low, high);
    unsigned bits;
    memcpy(&bits, &pair, sizeof(bits));
    return bits;
}

// The offset of a piece of a row, in elements.
__device__ __forceinline__ int place(int row, int piece) { return row * HEAD_SIZE + (piece ^ row % 8) * 8; }

// Loads `count` rows, from `first` on, of a matrix with `rows` rows; zeros after its end.
template <int count>
__device__ __forceinline__ void load_rows(const __half* __restrict__ matrix, __half* to, int first, int rows) {
#pragma unroll
    for (int n = 0; n < count * T_PIECES / T_THREADS; ++n) {
        const int i = n * T_THREADS + threadIdx.x;
        const bool there = first + i / T_PIECES < rows;
        const __half* from = matrix + static_cast<long long>(first) * HEAD_SIZE + i * 8;
        copy_async(to + place(i / T_PIECES, i % T_PIECES), there ? from : matrix, there);
    }
}

__global__ void __launch_bounds__(T_THREADS)
    attention(const __half* __restrict__ q, const __half* __restrict__ k, const __half* __restrict__ v, int causal,
              float scale, __half* __restrict__ output, int num_kv_heads, int q_len, int kv_len) {
    extern __shared__ uint4 memory[];
    __half* queries = reinterpret_cast<__half*>(memory);
    const auto keys = [&](int turn) { return queries + (T_QUERIES + turn * 2 * T_KEYS) * HEAD_SIZE; };
    const auto values = [&](int turn) { return keys(turn) + T_KEYS * HEAD_SIZE; };

    // With a causal mask the last queries see the most keys: start them first.
    const int first = static_cast<int>(gridDim.x - 1 - blockIdx.x) * T_QUERIES;
    const int head = blockIdx.y;
    const int kv_head = head / (gridDim.y / num_kv_heads);
    const long long q_start = (static_cast<long long>(blockIdx.z) * gridDim.y + head) * q_len * HEAD_SIZE;
    const long long kv_start = (static_cast<long long>(blockIdx.z) * num_kv_heads + kv_head) * kv_len * HEAD_SIZE;
    const float factor = LOG2_E * (scale == 0.0f ? rsqrtf(float(HEAD_SIZE)) : scale);
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    // With `causal`, query i sees the keys before i + beyond, possibly none.
    const int beyond = kv_len - q_len + 1;
    const int last = causal ? min(kv_len, min(first + T_QUERIES, q_len) - 1 + beyond) : kv_len;

    load_rows<T_QUERIES>(q + q_start, queries, first, q_len);
    if (last > 0) {
        load_rows<T_KEYS>(k + kv_start, keys(0), 0, kv_len);
        load_rows<T_KEYS>(v + kv_start, values(0), 0, kv_len);
    }
    commit_copies();
    wait_for_copies<0>();
    __syncthreads();

    unsigned query[T_STEPS][4];
#pragma unroll
    for (int step = 0; step < T_STEPS; ++step) {
        load_matrices(query[step], queries + place(warp * 16 + lane % 16, step * 2 + lane / 16));
    }
    // For the two rows lane / 4 and lane / 4 + 8. Four lanes share a row.
    const int own_row = first + warp * 16 + lane / 4;
    float sums[HEAD_SIZE / 8][4] = {};
    float largest[2] = {NONE, NONE};
    float total[2] = {0.0f, 0.0f};

    int turn = 0;
    for (int start = 0; start < last; start += T_KEYS, turn ^= 1) {
        if (start > 0) {
            wait_for_copies<0>();
            __syncthreads();  // this buffer is loaded, and no thread reads the other one any more
        }
        if (start + T_KEYS < last) {
            load_rows<T_KEYS>(k + kv_start, keys(turn ^ 1), start + T_KEYS, kv_len);
            load_rows<T_KEYS>(v + kv_start, values(turn ^ 1), start + T_KEYS, kv_len);
            commit_copies();
        }

        float scores[T_KEYS / 8][4] = {};
#pragma unroll
        for (int step = 0; step < T_STEPS; ++step) {
#pragma unroll
            for (int x = 0; x < T_KEYS / 16; ++x) {
                unsigned key[4];
                load_matrices(key, keys(turn) + place(x * 16 + lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2));
                multiply_add(scores[2 * x], query[step], key[0], key[1]);
                multiply_add(scores[2 * x + 1], query[step], key[2], key[3]);
            }
        }

        const bool whole = start + T_KEYS <= kv_len && (!causal || start + T_KEYS <= first + warp * 16 + beyond);
        float peak[2] = {largest[0], largest[1]};
#pragma unroll
        for (int x = 0; x < T_KEYS / 8; ++x) {
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
            asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(shrink[half]) : "f"(largest[half] - level));
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
        for (int x = 0; x < T_KEYS / 8; ++x) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(scores[x][i]) : "f"(scores[x][i] - peak[i / 2]));
                total[i / 2] += scores[x][i];
            }
        }

#pragma unroll
        for (int x = 0; x < T_KEYS / 16; ++x) {
            const unsigned weight[4] = {pack(scores[2 * x][0], scores[2 * x][1]), pack(scores[2 * x][2], scores[2 * x][3]),
                                        pack(scores[2 * x + 1][0], scores[2 * x + 1][1]),
                                        pack(scores[2 * x + 1][2], scores[2 * x + 1][3])};
#pragma unroll
            for (int step = 0; step < T_STEPS; ++step) {
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
        __half* to = output + q_start + static_cast<long long>(row) * HEAD_SIZE + lane % 4 * 2;
#pragma unroll
        for (int x = 0; x < HEAD_SIZE / 8; ++x) {
            *reinterpret_cast<__half2*>(to + x * 8) = __floats2half2_rn(share * sums[x][half * 2], share * sums[x][half * 2 + 1]);
        }
    }
}

}  // namespace tiles
