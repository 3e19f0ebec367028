/* kforge
launch:
  - kernel: similarities
    grid: ceil_div(n, 64), ceil_div(m, 64)
    block: 128
    args: x, y, output, m, n
*/

// Task: output[i, j] = sum over k of x[i, k] * y[j, k], x and y bfloat16 [m, depth] and [n, depth], depth = 128, output float32.
// Tensor cores with `mma.sync`: four warps, each with 32 x 32 float32 results in registers. `cp.async` copies both inputs to shared
// memory in two stages. 16-byte pieces are swizzled by the row number, so that neither copies nor `ldmatrix` cause bank conflicts.

#include <cuda_bf16.h>

constexpr int TILE = 64;
constexpr int SLICE = 64;  // columns per stage: eight 16-byte pieces per row
constexpr int SLICES = DEPTH / SLICE;
static_assert(DEPTH % SLICE == 0, "whole slices");

__device__ __forceinline__ unsigned address_of(const __nv_bfloat16* pointer) {
    return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

__device__ __forceinline__ int place(int row, int piece) { return row * SLICE + (piece ^ (row % 8)) * 8; }

// Four 8 x 8 matrices: lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void load_matrices(unsigned (&to)[4], const __nv_bfloat16* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address_of(row))
                 : "memory");
}

// sums += a * b: 16 x 16 by 16 x 8.
__device__ __forceinline__ void multiply(float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__global__ void __launch_bounds__(128)
    similarities(const __nv_bfloat16* __restrict__ x, const __nv_bfloat16* __restrict__ y, float* __restrict__ output, int m,
                 int n) {
    __shared__ alignas(128) __nv_bfloat16 tiles[2][2][TILE * SLICE];  // stage, input
    const int first_row = blockIdx.y * TILE, first_column = blockIdx.x * TILE;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int warp_row = warp / 2 * 32, warp_column = warp % 2 * 32;

    auto fetch = [&](int slice) {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            const int piece = threadIdx.x + 128 * i;  // of 1024: 512 per input
            const int side = piece / 512, row = piece % 512 / 8, column = piece % 8;
            const int wanted = (side == 0 ? first_row : first_column) + row;
            const bool is_there = wanted < (side == 0 ? m : n);
            const __nv_bfloat16* from =
                (side == 0 ? x : y) + static_cast<long long>(is_there ? wanted : 0) * DEPTH + slice * SLICE + column * 8;
            // Zeros for rows past the end.
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                         :
                         : "r"(address_of(&tiles[slice % 2][side][place(row, column)])), "l"(from), "r"(is_there ? 16 : 0)
                         : "memory");
        }
    };
    auto commit = [] { asm volatile("cp.async.commit_group;" : : : "memory"); };

    float sums[2][4][4] = {};
    fetch(0);
    commit();
    for (int slice = 0; slice < SLICES; ++slice) {
        if (slice + 1 < SLICES) fetch(slice + 1);
        commit();
        asm volatile("cp.async.wait_group 1;" : : : "memory");
        __syncthreads();
        const __nv_bfloat16* left = tiles[slice % 2][0];
        const __nv_bfloat16* right = tiles[slice % 2][1];
#pragma unroll
        for (int k = 0; k < SLICE / 16; ++k) {
            unsigned a[2][4], b[2][4];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                // a: rows 0 to 15 of the first eight columns, then of the next eight.
                load_matrices(a[i], left + place(warp_row + 16 * i + lane % 16, 2 * k + lane / 16));
                // b: both halves of the columns for rows 0 to 7, then for rows 8 to 15.
                load_matrices(b[i], right + place(warp_column + 16 * i + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
            }
#pragma unroll
            for (int i = 0; i < 2; ++i) {
#pragma unroll
                for (int j = 0; j < 4; ++j) multiply(sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
            }
        }
        __syncthreads();
    }
    // Lane l holds columns 2 * (l % 4) and the next one, of rows l / 4 and l / 4 + 8.
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const int row = first_row + warp_row + 16 * i + lane / 4 + e / 2 * 8;
                const int column = first_column + warp_column + 8 * j + lane % 4 * 2 + e % 2;
                if (row < m && column < n) output[static_cast<long long>(row) * n + column] = sums[i][j][e];
            }
        }
    }
}
