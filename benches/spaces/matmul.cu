/* kforge
launch:
  - kernel: matmul
    grid: ceil_div(M, TILE_M) * ceil_div(N, TILE_N)
    block: 32 * WARPS_M * WARPS_N
    shared: STAGES * (TILE_M + TILE_N) * DEPTH * 2
    args: A, B, C, M, N, K
tunables:
  TILE_M: [128, 64, 256]
  TILE_N: [128, 64, 256]
  WARPS_M: [2, 1, 4]
  WARPS_N: [2, 1, 4]
  STAGES: [3, 2, 4, 5]
  DEPTH: [64, 32]
  GROUP: [8, 1, 2, 4]
constraints:
  - TILE_M * TILE_N <= 256 * 32 * WARPS_M * WARPS_N
  - TILE_M // WARPS_M % 16 == 0 and TILE_N // WARPS_N % 16 == 0
  - TILE_M * (DEPTH // 8) % (32 * WARPS_M * WARPS_N) == 0 and TILE_N * (DEPTH // 8) % (32 * WARPS_M * WARPS_N) == 0
*/

// A space to record: 2,592 points, of which 2,032 meet the constraints, of a multiplication with tensor cores, for K that are multiples of 8. A block computes TILE_M x TILE_N
// elements, each of its warps a rectangle. Both matrices are loaded in slabs of DEPTH columns; STAGES slabs are in shared memory, and
// asynchronous copies fill them while earlier ones are multiplied. GROUP rows of tiles reuse the same columns of tiles in the cache. More
// than 256 sums in a thread do not compile, nor slabs that threads cannot share evenly; slabs may not fit into shared memory.

#include <cuda_bf16.h>

constexpr int PIECES = DEPTH / 8;  // of 16 bytes, in a row of a slab
constexpr int THREADS = 32 * WARPS_M * WARPS_N;
constexpr int WARP_M = TILE_M / WARPS_M;
constexpr int WARP_N = TILE_N / WARPS_N;
constexpr int STAGE = (TILE_M + TILE_N) * DEPTH;  // elements
static_assert(TILE_M * TILE_N <= 256 * THREADS, "the sums of a thread fit into registers");
static_assert(WARP_M % 16 == 0 && WARP_N % 16 == 0, "warps take whole instructions");
static_assert(TILE_M * PIECES % THREADS == 0 && TILE_N * PIECES % THREADS == 0, "every thread copies as much");

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

// Adds the product of a 16 x 16 and a 16 x 8 tile to a 16 x 8 tile.
__device__ __forceinline__ void multiply_add(float (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// ---- The kernel ----

// The offset of a piece of a row in its slab, in elements. Eight rows that follow one another have the same piece in different banks.
__device__ __forceinline__ int place(int row, int piece) {
    return row * DEPTH + (piece ^ row * PIECES / 8 % PIECES) * 8;
}

// Loads rows `first_row` to `first_row + tile` of a matrix, columns from `start`, into a slab; zeros outside the matrix.
template <int tile>
__device__ __forceinline__ void load_slab(const __nv_bfloat16* __restrict__ matrix, __nv_bfloat16* slab, int first_row,
                                          int rows, int start, int columns) {
#pragma unroll
    for (int n = 0; n < tile * PIECES / THREADS; ++n) {
        const int i = n * THREADS + threadIdx.x;
        const int row = i / PIECES;
        const int column = start + i % PIECES * 8;
        __nv_bfloat16* to = slab + place(row, i % PIECES);
        const bool in_rows = first_row + row < rows;
        const __nv_bfloat16* from = matrix + static_cast<long long>(first_row + row) * columns + column;
        const bool there = in_rows && column < columns;
        copy_async(to, there ? from : matrix, there);
    }
}

__global__ void __launch_bounds__(THREADS)
    matmul(const __nv_bfloat16* __restrict__ A, const __nv_bfloat16* __restrict__ B, __nv_bfloat16* __restrict__ C, int M,
           int N, int K) {
    extern __shared__ uint4 memory[];

    // Order of tiles: groups of GROUP rows, column by column within a group.
    const int tiles_m = (M + TILE_M - 1) / TILE_M;
    const int tiles_n = (N + TILE_N - 1) / TILE_N;
    const int group = static_cast<int>(blockIdx.x) / (GROUP * tiles_n);
    const int group_rows = min(GROUP, tiles_m - group * GROUP);
    const int within = static_cast<int>(blockIdx.x) % (GROUP * tiles_n);
    const int first_row = (group * GROUP + within % group_rows) * TILE_M;
    const int first_column = within / group_rows * TILE_N;

    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    const int warp_row = warp / WARPS_N * WARP_M;
    const int warp_column = warp % WARPS_N * WARP_N;

    const auto left = [&](int stage) { return reinterpret_cast<__nv_bfloat16*>(memory) + stage * STAGE; };
    const auto right = [&](int stage) { return left(stage) + TILE_M * DEPTH; };
    const int slabs = (K + DEPTH - 1) / DEPTH;
    const auto load = [&](int slab) {
        if (slab < slabs) {
            const int stage = slab % STAGES;
            load_slab<TILE_M>(A, left(stage), first_row, M, slab * DEPTH, K);
            load_slab<TILE_N>(B, right(stage), first_column, N, slab * DEPTH, K);
        }
        commit_copies();  // also if the group is empty: `wait_for_copies` counts groups
    };

    float sums[WARP_M / 16][WARP_N / 8][4] = {};
#pragma unroll
    for (int slab = 0; slab < STAGES - 1; ++slab) load(slab);
    for (int slab = 0; slab < slabs; ++slab) {
        wait_for_copies<STAGES - 2>();
        __syncthreads();  // the slab is loaded, and no thread reads the previous one any more
        load(slab + STAGES - 1);

        const __nv_bfloat16* a_slab = left(slab % STAGES);
        const __nv_bfloat16* b_slab = right(slab % STAGES);
#pragma unroll
        for (int step = 0; step < DEPTH / 16; ++step) {
            unsigned a[WARP_M / 16][4], b[WARP_N / 16][4];
#pragma unroll
            for (int y = 0; y < WARP_M / 16; ++y) {
                load_matrices(a[y], a_slab + place(warp_row + y * 16 + lane % 16, step * 2 + lane / 16));
            }
#pragma unroll
            for (int x = 0; x < WARP_N / 16; ++x) {
                const int row = warp_column + x * 16 + lane / 16 * 8 + lane % 8;
                load_matrices(b[x], b_slab + place(row, step * 2 + lane / 8 % 2));
            }
#pragma unroll
            for (int y = 0; y < WARP_M / 16; ++y) {
#pragma unroll
                for (int x = 0; x < WARP_N / 8; ++x) {
                    multiply_add(sums[y][x], a[y], b[x / 2][x % 2 * 2], b[x / 2][x % 2 * 2 + 1]);
                }
            }
        }
    }

    // A lane holds two adjacent elements in each of two rows of a 16 x 8 tile.
    const bool pairs = N % 2 == 0;
#pragma unroll
    for (int y = 0; y < WARP_M / 16; ++y) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = first_row + warp_row + y * 16 + half * 8 + lane / 4;
            if (row >= M) continue;
            __nv_bfloat16* to = C + static_cast<long long>(row) * N;
#pragma unroll
            for (int x = 0; x < WARP_N / 8; ++x) {
                const int column = first_column + warp_column + x * 8 + lane % 4 * 2;
                const float low = sums[y][x][half * 2], high = sums[y][x][half * 2 + 1];
                if (pairs && column < N) {
                    *reinterpret_cast<__nv_bfloat162*>(to + column) = __floats2bfloat162_rn(low, high);
                } else {
                    if (column < N) to[column] = __float2bfloat16(low);
                    if (column + 1 < N) to[column + 1] = __float2bfloat16(high);
                }
            }
        }
    }
}
