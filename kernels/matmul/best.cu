/* kforge
launch:
  - kernel: tiny
    when: K % 8 != 0 or M * N * K <= TINY_LIMIT
    grid: ceil_div(N, 8), ceil_div(M, 16)
    block: 32 * TINY_WARPS
    args: A, B, C, M, N, K
  - kernel: gemm_direct<64, LOW_N, LOW_STAGES>
    when: K % 8 == 0 and M * N * K > TINY_LIMIT and M * N <= LOW_LIMIT
    grid: ceil_div(N, LOW_N), ceil_div(M, 64)
    block: 128
    shared: LOW_STAGES * (64 + LOW_N) * 128 + 1024
    args: A, B, C, M, N, K
  - kernel: gemm<128, MID_N, MID_STAGES, MID_CM, MID_CN, 4, false>
    when: K % 8 == 0 and M * N * K > TINY_LIMIT and M * N > LOW_LIMIT and (M * N <= MID_LIMIT or N % 8 != 0)
    grid: min(ceil_div(M, 128 * MID_CM) * ceil_div(N, MID_N * MID_CN), sm_count // (MID_CM * MID_CN)) * MID_CM * MID_CN
    block: 384
    cluster: MID_CM * MID_CN
    shared: MID_STAGES * (128 + MID_N) * 128 + 16 * MID_STAGES + 1024
    args: a_mid, b_mid, a_mid, C, M, N, K
  - kernel: gemm<128, 256, BIG_STAGES, BIG_CM, BIG_CN, BIG_GROUP, true>
    when: K % 8 == 0 and M * N * K > TINY_LIMIT and M * N > MID_LIMIT and N % 8 == 0
    grid: min(ceil_div(M, 128 * BIG_CM) * ceil_div(N, 256 * BIG_CN), sm_count // (BIG_CM * BIG_CN)) * BIG_CM * BIG_CN
    block: 384
    cluster: BIG_CM * BIG_CN
    shared: BIG_STAGES * 384 * 128 + 32768 + 16 * BIG_STAGES + 1024
    args: a_big, b_big, c_big, C, M, N, K
tunables:
  TINY_WARPS: [4, 3, 2]
  TINY_LIMIT: [4000000]
  LOW_N: [32, 64]
  LOW_STAGES: [9, 6, 5]
  LOW_LIMIT: [500000]
  MID_N: [64, 128]
  MID_STAGES: [6, 8, 4]
  MID_CM: [1, 2]
  MID_CN: [1, 2, 4]
  MID_LIMIT: [2000000]
  BIG_STAGES: [4, 3]
  BIG_CM: [2, 1]
  BIG_CN: [1, 2]
  BIG_GROUP: [8, 4, 16]
constraints: MID_STAGES * (128 + MID_N) <= 1700
tensor_maps:
  a_mid: {of: A, dims: "if(K % 8 == 0, K, 1), if(K % 8 == 0, M, 1)", strides: "if(K % 8 == 0, K, 8) * 2", box: "64, 128 // MID_CN", swizzle: 128}
  b_mid: {of: B, dims: "if(K % 8 == 0, K, 1), if(K % 8 == 0, N, 1)", strides: "if(K % 8 == 0, K, 8) * 2", box: "64, MID_N // MID_CM", swizzle: 128}
  a_big: {of: A, dims: "if(K % 8 == 0, K, 1), if(K % 8 == 0, M, 1)", strides: "if(K % 8 == 0, K, 8) * 2", box: "64, 128 // BIG_CN", swizzle: 128}
  b_big: {of: B, dims: "if(K % 8 == 0, K, 1), if(K % 8 == 0, N, 1)", strides: "if(K % 8 == 0, K, 8) * 2", box: "64, 256 // BIG_CM", swizzle: 128}
  c_big: {of: C, dims: "if(N % 8 == 0, N, 1), if(N % 8 == 0, M, 1)", strides: "if(N % 8 == 0, N, 8) * 2", box: "64, 64", swizzle: 128}
compile: {arch: sm_90a}
*/

// Four kernels, chosen by size. Large products: persistent clusters of blocks. A thread of each block copies tiles by TMA, with multicast
// in the cluster, into a ring of stages; warp groups multiply them by `wgmma`; results leave through shared memory and TMA.
// Middle sizes use the same pipeline with smaller tiles and clusters, so that all multiprocessors have work. Tiny or unaligned products:
// 16 x 8 results per block, the depth split among its warps, all loads in flight at once.
// Tensor maps need rows of a multiple of 16 bytes; for other shapes they describe one element and are not used.

#include <cuda_bf16.h>

typedef unsigned u32;
typedef unsigned long long u64;
typedef __nv_bfloat16 bf16;

__device__ __forceinline__ u32 shared_address(const void* pointer) { return static_cast<u32>(__cvta_generic_to_shared(pointer)); }

__device__ __forceinline__ void barrier_init(u32 barrier, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}

__device__ __forceinline__ void barrier_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void barrier_wait(u32 barrier, u32 parity) {
    u32 done = 0;
    while (done == 0) {
        asm volatile(
            "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}\n"
            : "=r"(done)
            : "r"(barrier), "r"(parity)
            : "memory");
    }
}

// Arrives at the barrier of the same address in another block of the cluster.
__device__ __forceinline__ void barrier_arrive(u32 barrier, u32 block) {
    asm volatile(
        "{\n.reg .b32 remote;\nmapa.shared::cluster.u32 remote, %0, %1;\n"
        "mbarrier.arrive.shared::cluster.b64 _, [remote];\n}\n" ::"r"(barrier),
        "r"(block)
        : "memory");
}

// Without the fence of the whole device that `arrive.release` brings: the barriers are made visible by their own fence.
__device__ __forceinline__ void cluster_sync() {
    asm volatile("barrier.cluster.arrive.relaxed;\nbarrier.cluster.wait.acquire;" ::: "memory");
}

__device__ __forceinline__ void load_tile(u32 to, const CUtensorMap* map, int column, int row, u32 barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(to),
        "l"(map), "r"(column), "r"(row), "r"(barrier)
        : "memory");
}

__device__ __forceinline__ void load_tile_to(u32 to, const CUtensorMap* map, int column, int row, u32 barrier, u32 blocks) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3}], "
        "[%4], %5;" ::"r"(to),
        "l"(map), "r"(column), "r"(row), "r"(barrier), "h"(static_cast<unsigned short>(blocks))
        : "memory");
}

__device__ __forceinline__ void store_tile(const CUtensorMap* map, int column, int row, u32 from) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map), "r"(column),
                 "r"(row), "r"(from)
                 : "memory");
}

// A matrix of rows of 128 bytes in shared memory with the swizzle of 128 bytes; groups of eight rows are 1024 bytes apart.
__device__ __forceinline__ u64 descriptor(u32 address) {
    return static_cast<u64>((address & 0x3ffff) >> 4) | (1ull << 16) | (64ull << 32) | (1ull << 62);
}

__device__ __forceinline__ u32 pack(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const u32*>(&pair);
}

template <int N>
struct Wgmma;

template <>
struct Wgmma<32> {
    static __device__ __forceinline__ void run(float (&d)[16], u64 a, u64 b, int add) {
        asm volatile(
            "{\n.reg .pred p;\nsetp.ne.b32 p, %18, 0;\n"
            "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {"
            "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
            "}, %16, %17, p, 1, 1, 0, 0;\n}\n"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
              "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
            : "l"(a), "l"(b), "r"(add));
    }
};

template <>
struct Wgmma<64> {
    static __device__ __forceinline__ void run(float (&d)[32], u64 a, u64 b, int add) {
        asm volatile(
            "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
            "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
            "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
            "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
            "}, %32, %33, p, 1, 1, 0, 0;\n}\n"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
              "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
              "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
              "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
            : "l"(a), "l"(b), "r"(add));
    }
};

template <>
struct Wgmma<128> {
    static __device__ __forceinline__ void run(float (&d)[64], u64 a, u64 b, int add) {
        asm volatile(
            "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
            "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
            "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
            "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
            "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
            "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
            "}, %64, %65, p, 1, 1, 0, 0;\n}\n"
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
};

template <>
struct Wgmma<256> {
    static __device__ __forceinline__ void run(float (&d)[128], u64 a, u64 b, int add) {
        asm volatile(
            "{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n"
            "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
            "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
            "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
            "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
            "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
            "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
            "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
            "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
            "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
            "}, %128, %129, p, 1, 1, 0, 0;\n}\n"
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
              "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95]),
              "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99]), "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103]),
              "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107]), "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111]),
              "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115]), "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119]),
              "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123]), "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])
            : "l"(a), "l"(b), "r"(add));
    }
};

// Writes the results of a warp group: a thread has two neighbours in each eight columns, and those eight rows below.
template <int BN>
__device__ __forceinline__ void store_results(const float (&sums)[BN / 2], bf16* __restrict__ C, int M, int N, int row, int column) {
    const bool pairs = N % 2 == 0;
#pragma unroll
    for (int e = 0; e < 2; ++e) {
        const int to_row = row + 8 * e;
        if (to_row < M) {
            bf16* to = C + static_cast<long long>(to_row) * N;
#pragma unroll
            for (int j = 0; j < BN / 8; ++j) {
                const int to_column = column + j * 8;
                const float low = sums[4 * j + 2 * e], high = sums[4 * j + 2 * e + 1];
                if (pairs && to_column < N) {
                    *reinterpret_cast<__nv_bfloat162*>(to + to_column) = __floats2bfloat162_rn(low, high);
                } else {
                    if (to_column < N) to[to_column] = __float2bfloat16(low);
                    if (to_column + 1 < N) to[to_column + 1] = __float2bfloat16(high);
                }
            }
        }
    }
}

// BM / 64 warp groups multiply 64 x BN results each; one more copies. A cluster has CM x CN blocks: those of one row of tiles share the
// tile of A, those of one column the tile of B, and each copies its part for all of them.
template <int BM, int BN, int STAGES, int CM, int CN, int GROUP, bool BULK_STORE>
__global__ void __launch_bounds__(128 + 2 * BM, 1)
    gemm(const __grid_constant__ CUtensorMap a_map, const __grid_constant__ CUtensorMap b_map,
         const __grid_constant__ CUtensorMap c_map, bf16* __restrict__ C, int M, int N, int K) {
    constexpr int WORKERS = BM / 64;
    constexpr u32 A_BYTES = BM * 128, STAGE = (BM + BN) * 128;
    constexpr u32 STAGING = BULK_STORE ? BM * 256 : 0;
    extern __shared__ unsigned char memory[];
    const u32 base = (shared_address(memory) + 1023) & ~1023u;
    const u32 staging = base + STAGES * STAGE;
    const u32 full = staging + STAGING, empty = full + 8 * STAGES;

    const int rank = blockIdx.x % (CM * CN);
    const int rank_m = rank % CM, rank_n = rank / CM;
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; ++s) {
            barrier_init(full + 8 * s, 1);
            barrier_init(empty + 8 * s, WORKERS * (CM + CN - 1));
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    if (threadIdx.x == 32) {
        asm volatile("prefetch.tensormap [%0];" ::"l"(&a_map) : "memory");
        asm volatile("prefetch.tensormap [%0];" ::"l"(&b_map) : "memory");
    }
    if (CM * CN > 1) {
        cluster_sync();
    } else {
        __syncthreads();
    }

    const int slabs = (K + 63) / 64;
    const int tiles_m = (M + BM * CM - 1) / (BM * CM), tiles_n = (N + BN * CN - 1) / (BN * CN);
    const int first = blockIdx.x / (CM * CN), step = gridDim.x / (CM * CN), tiles = tiles_m * tiles_n;
    // Groups of GROUP rows of tiles sweep the columns together, so that running blocks share what they read.
    auto place = [&](int tile, int& row, int& column) {
        const int group = tile / (GROUP * tiles_n), within = tile % (GROUP * tiles_n);
        const int rows = min(GROUP, tiles_m - group * GROUP);
        row = ((group * GROUP + within % rows) * CM + rank_m) * BM;
        column = (within / rows * CN + rank_n) * BN;
    };

    int stage = 0;
    u32 phase = 0;
    if (threadIdx.x < 128) {
        if (BN == 256) asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x == 0) {
            u32 same_row = 0, same_column = 0;
            for (int i = 0; i < CN; ++i) same_row |= 1u << (rank_m + CM * i);
            for (int i = 0; i < CM; ++i) same_column |= 1u << (i + CM * rank_n);
            for (int tile = first; tile < tiles; tile += step) {
                int row, column;
                place(tile, row, column);
                for (int slab = 0; slab < slabs; ++slab) {
                    barrier_wait(empty + 8 * stage, phase ^ 1);
                    barrier_expect(full + 8 * stage, STAGE);
                    const u32 to_a = base + stage * STAGE + rank_n * (A_BYTES / CN);
                    const u32 to_b = base + stage * STAGE + A_BYTES + rank_m * (BN * 128 / CM);
                    if (CN > 1) {
                        load_tile_to(to_a, &a_map, slab * 64, row + rank_n * (BM / CN), full + 8 * stage, same_row);
                    } else {
                        load_tile(to_a, &a_map, slab * 64, row, full + 8 * stage);
                    }
                    if (CM > 1) {
                        load_tile_to(to_b, &b_map, slab * 64, column + rank_m * (BN / CM), full + 8 * stage, same_column);
                    } else {
                        load_tile(to_b, &b_map, slab * 64, column, full + 8 * stage);
                    }
                    if (++stage == STAGES) stage = 0, phase ^= 1;
                }
            }
        }
    } else {
        if (BN == 256) asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        const int worker = threadIdx.x / 128 - 1, thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
        // The block to which this thread reports a stage that may be filled again.
        const int reported = thread < CM ? thread + CM * rank_n : rank_m + CM * (thread - CM + (thread - CM >= rank_n));
        // A stage that is not filled again needs no report. So all reports are awaited, and a block may leave when it is done.
        int reports = (tiles - first + step - 1) / step * slabs - STAGES;
        float sums[BN / 2];
        for (int tile = first; tile < tiles; tile += step) {
            int row, column;
            place(tile, row, column);
            int previous = 0;
            for (int slab = 0; slab < slabs; ++slab) {
                barrier_wait(full + 8 * stage, phase);
                asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
                const u32 a = base + stage * STAGE + worker * 8192, b = base + stage * STAGE + A_BYTES;
#pragma unroll
                for (int k = 0; k < 4; ++k) {
                    Wgmma<BN>::run(sums, descriptor(a + 32 * k), descriptor(b + 32 * k), slab > 0 || k > 0);
                }
                asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
                if (slab > 0) {
                    asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
                    if (reports-- > 0 && thread < CM + CN - 1) barrier_arrive(empty + 8 * previous, reported);
                }
                previous = stage;
                if (++stage == STAGES) stage = 0, phase ^= 1;
            }
            asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
            // The compiler must not read results before the wait.
#pragma unroll
            for (int i = 0; i < BN / 2; ++i) asm volatile("" : "+f"(sums[i])::"memory");
            if (reports-- > 0 && thread < CM + CN - 1) barrier_arrive(empty + 8 * previous, reported);

            if (BULK_STORE) {
                const u32 own = staging + worker * 16384;
                // Four 8 x 8 matrices per instruction: rows 0 to 7 and 8 to 15 of eight columns, then of the next eight.
                const int to_row = warp * 16 + lane % 16;
                const u32 to = own + to_row * 128;
#pragma unroll
                for (int half = 0; half < BN / 128; ++half) {
                    if (thread == 0) asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
                    asm volatile("bar.sync %0, 128;" ::"r"(worker + 1) : "memory");
#pragma unroll
                    for (int j = 0; j < 8; ++j) {
                        const float* d = &sums[half * 64 + j * 8];
                        const int piece = j % 4 * 2 + lane / 16;
                        asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                                         to + j / 4 * 8192 + ((piece ^ (to_row & 7)) << 4)),
                                     "r"(pack(d[0], d[1])), "r"(pack(d[2], d[3])), "r"(pack(d[4], d[5])), "r"(pack(d[6], d[7]))
                                     : "memory");
                    }
                    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
                    asm volatile("bar.sync %0, 128;" ::"r"(worker + 1) : "memory");
                    if (thread == 0) {
                        store_tile(&c_map, column + half * 128, row + worker * 64, own);
                        store_tile(&c_map, column + half * 128 + 64, row + worker * 64, own + 8192);
                        asm volatile("cp.async.bulk.commit_group;" ::: "memory");
                    }
                }
            } else {
                store_results<BN>(sums, C, M, N, row + worker * 64 + warp * 16 + lane / 4, column + lane % 4 * 2);
            }
        }
        if (BULK_STORE && thread == 0) asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
    }
}


// Tiles copied by `cp.async`, without tensor maps, whose first fetch takes time: for products that last a few microseconds. All threads
// copy, and each warp group multiplies 64 x BN results.
template <int BM, int BN, int STAGES>
__global__ void __launch_bounds__(2 * BM)
    gemm_direct(const bf16* __restrict__ A, const bf16* __restrict__ B, bf16* __restrict__ C, int M, int N, int K) {
    constexpr int THREADS = 2 * BM;
    constexpr u32 A_BYTES = BM * 128, STAGE = (BM + BN) * 128;
    static_assert(BM * 8 % THREADS == 0 && BN * 8 % THREADS == 0, "every thread copies as much");
    extern __shared__ unsigned char memory[];
    const u32 base = (shared_address(memory) + 1023) & ~1023u;
    const int row = blockIdx.y * BM, column = blockIdx.x * BN;
    const int piece = threadIdx.x % 8, first = threadIdx.x / 8;
    // Row r and piece p of a tile lie at 128 r + 16 (p ^ r % 8): the swizzle of 128 bytes.
    const u32 to = base + first * 128 + ((piece ^ (first & 7)) << 4);
    const int slabs = (K + 63) / 64;
    auto load = [&](int slab) {
        if (slab < slabs) {
            const int at = slab * 64 + piece * 8;
            const u32 stage = to + slab % STAGES * STAGE;
#pragma unroll
            for (int i = 0; i < BM * 8 / THREADS; ++i) {
                const int r = row + first + i * (THREADS / 8);
                const bool there = r < M && at < K;
                asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(stage + i * (THREADS / 8) * 128),
                             "l"(there ? A + static_cast<long long>(r) * K + at : A), "r"(there ? 16 : 0)
                             : "memory");
            }
#pragma unroll
            for (int i = 0; i < BN * 8 / THREADS; ++i) {
                const int r = column + first + i * (THREADS / 8);
                const bool there = r < N && at < K;
                asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(stage + A_BYTES + i * (THREADS / 8) * 128),
                             "l"(there ? B + static_cast<long long>(r) * K + at : B), "r"(there ? 16 : 0)
                             : "memory");
            }
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
    };
#pragma unroll
    for (int slab = 0; slab < STAGES - 1; ++slab) load(slab);

    const int worker = threadIdx.x / 128, warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32;
    float sums[BN / 2];
    for (int slab = 0; slab < slabs; ++slab) {
        // A stage that is filled again must have been multiplied; otherwise the products follow each other without a wait.
        const bool again = slab > 0 && slab + STAGES - 1 < slabs;
        asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
        if (again) asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
        // What threads have copied becomes visible to the tensor cores.
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        __syncthreads();
        load(slab + STAGES - 1);
        const u32 a = base + slab % STAGES * STAGE + worker * 8192, b = base + slab % STAGES * STAGE + A_BYTES;
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int k = 0; k < 4; ++k) Wgmma<BN>::run(sums, descriptor(a + 32 * k), descriptor(b + 32 * k), slab > 0 || k > 0);
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    }
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    // The compiler must not read results before the wait.
#pragma unroll
    for (int i = 0; i < BN / 2; ++i) asm volatile("" : "+f"(sums[i])::"memory");
    store_results<BN>(sums, C, M, N, row + worker * 64 + warp * 16 + lane / 4, column + lane % 4 * 2);
}

// Eight elements of a row from `column` on; zeros past its end and for a missing row.
__device__ __forceinline__ uint4 load_eight(const bf16* row, int column, int K, bool there) {
    uint4 words = make_uint4(0, 0, 0, 0);
    if (!there) return words;
    if (K % 8 == 0) {
        if (column < K) words = *reinterpret_cast<const uint4*>(row + column);
    } else {
        unsigned short* e = reinterpret_cast<unsigned short*>(&words);
#pragma unroll
        for (int i = 0; i < 8; ++i) e[i] = column + i < K ? reinterpret_cast<const unsigned short*>(row)[column + i] : 0;
    }
    return words;
}

__device__ __forceinline__ void multiply(float (&sum)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// 16 x 8 results per block. A lane loads eight neighbours of a row; the order of the depth within 32 does not matter to the sum, as long
// as it is the same for A and B.
__global__ void __launch_bounds__(32 * TINY_WARPS)
    tiny(const bf16* __restrict__ A, const bf16* __restrict__ B, bf16* __restrict__ C, int M, int N, int K) {
    __shared__ float parts[TINY_WARPS][128];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int row = blockIdx.y * 16 + lane / 4, column = blockIdx.x * 8 + lane / 4;
    const bf16* a_low = A + static_cast<long long>(row) * K;
    const bf16* a_high = a_low + static_cast<long long>(8) * K;
    const bf16* b_row = B + static_cast<long long>(column) * K;
    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 2
    for (int k = warp * 32; k < K; k += 32 * TINY_WARPS) {
        const int at = k + lane % 4 * 8;
        const uint4 low = load_eight(a_low, at, K, row < M), high = load_eight(a_high, at, K, row + 8 < M);
        const uint4 b = load_eight(b_row, at, K, column < N);
        multiply(sum, low.x, high.x, low.y, high.y, b.x, b.y);
        multiply(sum, low.z, high.z, low.w, high.w, b.z, b.w);
    }
    // Rows of eight results.
    parts[warp][lane / 4 * 8 + lane % 4 * 2] = sum[0];
    parts[warp][lane / 4 * 8 + lane % 4 * 2 + 1] = sum[1];
    parts[warp][(lane / 4 + 8) * 8 + lane % 4 * 2] = sum[2];
    parts[warp][(lane / 4 + 8) * 8 + lane % 4 * 2 + 1] = sum[3];
    __syncthreads();
    for (int i = threadIdx.x; i < 128; i += 32 * TINY_WARPS) {
        float all = 0.0f;
#pragma unroll
        for (int w = 0; w < TINY_WARPS; ++w) all += parts[w][i];
        const int to_row = blockIdx.y * 16 + i / 8, to_column = blockIdx.x * 8 + i % 8;
        if (to_row < M && to_column < N) C[static_cast<long long>(to_row) * N + to_column] = __float2bfloat16(all);
    }
}
