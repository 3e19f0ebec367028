//! Warps, cooperative groups, atomics, and language features.

use std::time::Duration;

use kforge::device::Compiled;
use kforge::device::cpu::CpuDevice;
use kforge::verdict::Status;

use crate::language::run::{TestProgram, assert_columns, device, evaluate_columns, run_kernel};

/// Runs a kernel of two blocks of 64 threads, in which each thread writes up to 8 values to `y`; returns them by thread.
fn run_groups(device: &CpuDevice, body: &str) -> Vec<Vec<i64>> {
    let source = format!(
        "#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cooperative_groups/scan.h>
namespace cg = cooperative_groups;
struct Wide {{ double a; int b, c; }};
__global__ void f(long long* y, int n) {{
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  auto block = cg::this_thread_block();
  auto warp = cg::tiled_partition<32>(block);
  auto four = cg::tiled_partition<4>(warp);
  auto thirds = cg::labeled_partition(warp, i % 3);
  auto two = cg::binary_partition(warp, i % 4 == 0);
  y += i * 8;
{body}
}}"
    );
    let program = TestProgram {
        source: &source,
        grid: 2,
        block: 64,
        count: 2 * 64 * 8,
    };
    let values = program.launch(device).unwrap();
    values.chunks(8).map(<[i64]>::to_vec).collect()
}

/// The threads of thread i's warp for which `belongs` holds.
fn warp_members(i: i64, belongs: impl Fn(i64) -> bool) -> Vec<i64> {
    let first = i - i % 32;
    (first..first + 32)
        .filter(|other| belongs(*other))
        .collect()
}

#[test]
fn groups_report_ranks_and_sizes() {
    let device = device();
    let body = "  cg::thread_group sixteen = cg::tiled_partition(block, 16);
  y[0] = block.thread_rank() + 1000 * block.num_threads() + 1000000 * block.group_index().x;
  y[1] = four.thread_rank() + 10 * four.meta_group_rank() + 1000 * four.meta_group_size();
  y[2] = warp.meta_group_rank() + 10 * warp.meta_group_size();
  y[3] = sixteen.thread_rank() + 100 * sixteen.size();
  y[4] = thirds.thread_rank() + 100 * thirds.size() + 10000 * thirds.meta_group_rank() + 100000 * thirds.meta_group_size();
  y[5] = two.size() + 100 * two.meta_group_rank();
  y[6] = -1;
  if (i % 2 == 1) {
    cg::coalesced_group odd = cg::coalesced_threads();
    y[6] = odd.thread_rank() + 100 * odd.size() + 10000 * odd.shfl(i, 3);
  }";
    for (i, values) in (0..).zip(run_groups(&device, body)) {
        let (rank, lane) = (i % 64, i % 32);
        let thirds = warp_members(i, |other| other % 3 == i % 3);
        let before = thirds.iter().filter(|other| **other < i).count() as i64;
        // Labels are ranked by their first lane.
        let label = (0..3).position(|step| (i - lane + step) % 3 == i % 3);
        let is_fourth = i % 4 == 0;
        let two = warp_members(i, |other| (other % 4 == 0) == is_fourth);
        let expected = [
            rank + 64_000 + 1_000_000 * (i / 64),
            i % 4 + 10 * (lane / 4) + 8000,
            rank / 32 + 20,
            i % 16 + 1600,
            before + 100 * thirds.len() as i64 + 10_000 * label.unwrap() as i64 + 300_000,
            two.len() as i64 + 100 * i64::from(is_fourth),
            if i % 2 == 1 {
                lane / 2 + 1600 + 10_000 * (i - lane + 7)
            } else {
                -1
            },
        ];
        assert_eq!(values[..7], expected, "thread {i}");
    }
}

#[test]
fn groups_reduce_and_scan() {
    let device = device();
    let body = "  y[0] = cg::reduce(thirds, i, cg::plus<int>());
  y[1] = cg::reduce(four, i, [](int a, int b) { return a * 2 + b * 2; });
  y[2] = cg::inclusive_scan(warp, i % 7);
  y[3] = cg::exclusive_scan(thirds, i % 7, cg::plus<int>());
  y[4] = cg::reduce(two, i, cg::greater<int>()) + 1000 * cg::reduce(warp, i, cg::less<int>());";
    for (i, values) in (0..).zip(run_groups(&device, body)) {
        let thirds = warp_members(i, |other| other % 3 == i % 3);
        let two = warp_members(i, |other| (other % 4 == 0) == (i % 4 == 0));
        let tile = i - i % 4;
        let sum_of_sevenths = |members: &[i64]| members.iter().map(|other| other % 7).sum();
        let expected = [
            thirds.iter().sum(),
            4 * (tile * 4 + 6),
            sum_of_sevenths(&warp_members(i, |other| other <= i)),
            sum_of_sevenths(&warp_members(i, |other| other < i && other % 3 == i % 3)),
            two.iter().max().unwrap() + 1000 * (i - i % 32),
        ];
        assert_eq!(values[..5], expected, "thread {i}");
    }
}

#[test]
fn groups_shuffle_vote_and_match() {
    let device = device();
    let body = "  y[0] = warp.ballot(i % 5 == 0) + ((long long)four.match_any(i % 2) << 32);
  Wide wide = warp.shfl(Wide{i * 0.5, i, -i}, 7);
  y[1] = (long long)(wide.a * 2) + wide.b - wide.c;
  y[2] = four.shfl_down(i, 1) + 1000 * four.shfl_up(i, 2) + 1000000 * four.shfl_xor(i, 3);
  y[3] = warp.any(i == 3) + 2 * warp.all(i < 32) + 4 * four.all(i % 4 < 5);";
    for (i, values) in (0..).zip(run_groups(&device, body)) {
        let fifths = warp_members(i, |other| other % 5 == 0);
        let ballot: i64 = fifths.iter().map(|other| 1 << (other % 32)).sum();
        let same_parity = if i % 2 == 0 { 0b0101 } else { 0b1010 };
        let tile = i - i % 4;
        let expected = [
            ballot + (same_parity << 32),
            3 * (i - i % 32 + 7),
            (if i % 4 < 3 { i + 1 } else { i })
                + 1000 * (if i % 4 >= 2 { i - 2 } else { i })
                + 1_000_000 * (tile + 3 - i % 4),
            i64::from(i < 32) * 3 + 4,
        ];
        assert_eq!(values[..4], expected, "thread {i}");
    }
}

#[test]
fn warps_vote_match_and_reduce() {
    let device = device();
    let expressions = [
        "__reduce_add_sync(~0u, i)",
        "__reduce_max_sync(~0u, (unsigned)(i * 7 % 41))",
        "__reduce_xor_sync(~0u, (unsigned)i)",
        "__match_any_sync(~0u, i % 5)",
        "(long long)__match_all_sync(~0u, i / 32, &same) + (i / 32 >= 0)",
        "__ballot_sync(~0u, i % 3 == 0)",
        "__half_as_ushort(__shfl_sync(~0u, __float2half((float)i), 5))",
        "__low2float(__shfl_xor_sync(~0u, __floats2bfloat162_rn((float)(i % 32), 1.0f), 1))",
        "__shfl_up_sync(~0u, i, 3, 8)",
        "__shfl_down_sync(~0u, (long long)i << 40, 1)",
        "__syncthreads_count(threadIdx.x % 3 == 0)",
        "__syncthreads_and(threadIdx.x < 500) * 2 + __syncthreads_or(threadIdx.x == 77)",
    ];
    let found = evaluate_columns(
        &device,
        "#include <cuda_fp16.h>\n#include <cuda_bf16.h>",
        "int same = 0;",
        &expressions,
        256,
    );
    assert_columns(&expressions, &found, |column, row| {
        let (i, lane) = (row as i64, row as i64 % 32);
        let warp = (0..32).map(|other| i - lane + other);
        match column {
            0 => warp.sum(),
            1 => warp.map(|other| other * 7 % 41).max().unwrap(),
            2 => warp.fold(0, |sum, other| sum ^ other),
            3 => warp
                .filter(|other| other % 5 == i % 5)
                .map(|other| 1 << (other % 32))
                .sum(),
            4 => 0xffff_ffff + 1,
            5 => warp
                .filter(|other| other % 3 == 0)
                .map(|other| 1 << (other % 32))
                .sum(),
            // A half represents integers below 2048 exactly.
            6 => {
                let value = (i - lane + 5) as f64;
                let exponent = value.log2().floor() as i64;
                ((exponent + 15) << 10)
                    + ((value / 2f64.powi(exponent as i32) - 1.0) * 1024.0) as i64
            }
            7 => lane ^ 1,
            8 => {
                if i % 8 >= 3 {
                    i - 3
                } else {
                    i
                }
            }
            9 => (if lane < 31 { i + 1 } else { i }) << 40,
            10 => 43,
            _ => 3,
        }
    });
}

#[test]
fn atomics_of_every_width_add_up() {
    let device = device();
    let source = "#include <cuda_fp16.h>
#include <cuda_bf16.h>
#include <cuda/atomic>
#include <cuda/std/atomic>
__device__ int i32[8]; __device__ unsigned u32[8]; __device__ unsigned long long u64[8]; __device__ long long i64[2];
__device__ float f32; __device__ double f64; __device__ __half f16; __device__ __nv_bfloat16 b16; __device__ __half2 h2; __device__ __nv_bfloat162 b2;
__device__ unsigned short locked, under_lock; __device__ float4 four; struct alignas(16) Pair { long long a, b; }; __device__ Pair pair;
__device__ int ticket; __device__ float ref_max;
__global__ void f(long long* y, int n) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x;
  atomicAdd(&i32[0], t); atomicSub(&i32[1], t); atomicMax(&i32[2], t - 5); atomicMin_system(&i32[3], -t); atomicXor(&i32[4], t);
  atomicOr_block(&u32[0], 1u << t % 32); atomicInc(&u32[1], 9u); atomicDec(&u32[2], 9u); atomicMax(&u32[3], (unsigned)t);
  atomicAdd(&u64[0], 1ull << 33); atomicMax(&u64[1], (unsigned long long)t << 35); atomicXor(&u64[2], (unsigned long long)t << 40);
  atomicMin(&i64[0], -(long long)t << 35); atomicMax(&i64[1], (long long)t << 35);
  atomicAdd(&f32, 0.5f); atomicAdd(&f64, 0.25); atomicAdd(&f16, __float2half(1.0f)); atomicAdd(&b16, __float2bfloat16(t % 2 ? 1.0f : -1.0f));
  atomicAdd(&h2, __floats2half2_rn(1.0f, 2.0f)); atomicAdd(&b2, __floats2bfloat162_rn(t % 2 ? 2.0f : -2.0f, 0.0f));
  atomicAdd(&four, make_float4(1.0f, 2.0f, 3.0f, 4.0f));
  while (atomicCAS(&locked, (unsigned short)0, (unsigned short)1) != 0) {}
  __threadfence();
  under_lock = under_lock + 1;
  __threadfence();
  atomicCAS(&locked, (unsigned short)1, (unsigned short)0);
  Pair seen = {0, 0}, assumed;
  do { assumed = seen; seen = atomicCAS(&pair, assumed, Pair{assumed.a + 1, assumed.b - 2}); } while (seen.a != assumed.a || seen.b != assumed.b);
  cuda::atomic_ref<float, cuda::thread_scope_device> largest(ref_max);
  largest.fetch_max((float)(t * 37 % 256));
  cuda::atomic_ref<int, cuda::thread_scope_device> counter(ticket);
  counter.fetch_add(1, cuda::memory_order_acq_rel);
  if (t != 255) return;
  while (counter.load(cuda::std::memory_order_acquire) != 256) {}
  long long values[] = {i32[0], i32[1], i32[2], i32[3], i32[4], u32[0], u32[1], u32[2], u32[3], (long long)u64[0], (long long)u64[1], (long long)u64[2], i64[0], i64[1], (long long)f32, (long long)f64,
    (long long)__half2float(f16), (long long)__bfloat162float(b16), (long long)__low2float(h2) + (long long)__high2float(h2), (long long)__low2float(b2), (long long)four.w, under_lock, pair.a, pair.b, (long long)ref_max};
  for (int k = 0; k < 25; ++k) y[k] = values[k];
}";
    let values = TestProgram {
        source,
        grid: 4,
        block: 64,
        count: 32,
    }
    .launch(&device);
    let values = values.unwrap();
    let sum: i64 = (0..256).sum();
    let expected = [
        sum,
        -sum,
        250,
        -255,
        0,
        0xffff_ffff,
        // 256 steps of counters that wrap after ten values.
        6,
        4,
        255,
        256 << 33,
        255 << 35,
        0,
        -255 << 35,
        255 << 35,
        128,
        64,
        256,
        0,
        256 + 512,
        0,
        1024,
        256,
        256,
        -512,
        255,
    ];
    assert_eq!(values[..25], expected);
}

#[test]
fn language_features_compile_and_run() {
    let device = device();
    let source = "#include <cuda_runtime.h>
#include <cuda/std/array>
#include <cuda/std/tuple>
#include <cuda/std/complex>
#include <cuda/std/optional>
#include <cuda/cmath>
constexpr int fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }
static_assert(fibonacci(10) == 55, \"\");
static_assert(__CUDA_ARCH__ >= 800, \"\");
static_assert(sizeof(float3) == 12 && alignof(float4) == 16 && sizeof(dim3) == 12, \"\");
__constant__ int table[4] = {1, 10, 100, 1000};
__device__ int counter = 5;
namespace outer { namespace inner { enum class Kind : unsigned char { first = 3, second }; } }
using outer::inner::Kind;
template <typename T, int N> struct Chosen { static constexpr int value = 1; };
template <typename T, int N> struct Chosen<T*, N> { static constexpr int value = 2; };
template <typename T> struct Chosen<T, 7> { static constexpr int value = 3; };
struct __align__(8) Flags { unsigned low : 3; unsigned high : 5; union { int whole; float part; }; };
struct Vector { float x, y; __device__ __forceinline__ Vector operator+(const Vector& other) const { return {x + other.x, y + other.y}; } };
inline __device__ float2 operator*(float2 a, float s) { return make_float2(a.x * s, a.y * s); }
template <typename... Parts> __device__ int total(Parts... parts) { return (0 + ... + parts); }
template <int N> __device__ __noinline__ int through_shared(int value) {
  __shared__ int kept[N];
  kept[threadIdx.x % N] = value;
  __syncthreads();
  int result = kept[(threadIdx.x + 1) % N];
  __syncthreads();
  return result;
}
extern \"C\" __global__ void __launch_bounds__(128, 2) f(long long* __restrict__ y, const __grid_constant__ int n) {
  const int t = threadIdx.x;
  __shared__ alignas(16) Vector vectors[128];
  vectors[t] = Vector{1.0f * t, 2.0f};
  auto doubled = [=] __device__ (int value) -> int { return value * 2; };
  Flags flags; flags.low = 5; flags.high = 17; flags.whole = t;
  __syncthreads();
  Vector v = vectors[127 - t] + vectors[t];
  cuda::std::array<int, 3> parts = {t, 2, 3};
  int sum = 0;
#pragma unroll
  for (int part : parts) sum += part;
  auto [a, b] = cuda::std::make_tuple(t + 1, 2.5f);
  dim3 shape(4, 5); shape.z += 2;
  cuda::std::complex<float> z(0.0f, 1.0f);
  cuda::std::optional<int> maybe = t % 2 ? cuda::std::optional<int>(t) : cuda::std::nullopt;
  __builtin_assume(n > 0);
  int kind = static_cast<int>(t % 2 ? Kind::first : Kind::second);
  switch (kind) { case 3: case 4: break; default: __builtin_unreachable(); }
  long long value = 0;
  value += table[t % 4];
  value += 10000LL * total(counter, doubled(t), Chosen<int, 1>::value, Chosen<int*, 7 - 1>::value, Chosen<int, 7>::value);
  value += sum + a + (int)b + (int)v.x + (int)v.y + shape.x * shape.y * shape.z + flags.low + flags.high + flags.whole;
  value += (int)(z * z).real() + maybe.value_or(-1) + kind + (int)(make_float2(1.0f, 2.0f) * 3.0f).y + cuda::ceil_div(t, 4) + warpSize;
  y[t] = value * 1000 + through_shared<128>(t) + (through_shared<64>(t) >= 0);
}";
    let values = run_kernel(&device, source, 128);
    for (t, value) in values.iter().enumerate() {
        let t = t as i64;
        let mut wanted = [1, 10, 100, 1000][t as usize % 4];
        wanted += 10_000 * (5 + 2 * t + 1 + 2 + 3);
        wanted += t + 5 + t + 1 + 2 + 127 + 4 + 4 * 5 * 3 + 5 + 17 + t;
        wanted += -1
            + (if t % 2 == 1 { t } else { -1 })
            + (if t % 2 == 1 { 3 } else { 4 })
            + 6
            + (t + 3) / 4
            + 32;
        assert_eq!(*value, wanted * 1000 + (t + 1) % 128 + 1, "thread {t}");
    }
}

#[test]
fn printf_output_and_failed_assertions_are_reported() {
    let device = device();
    let source = "#include <assert.h>\n__global__ void f(long long* y, int n) {\n  if (threadIdx.x == 3) printf(\"value %d of %s\\n\", 42, \"three\");\n  __syncthreads();\n  assert(threadIdx.x < 7 && \"too many\");\n  y[threadIdx.x] = 0;\n}\n";
    let refusal = TestProgram {
        source,
        grid: 1,
        block: 32,
        count: 32,
    }
    .launch(&device)
    .unwrap_err();
    assert_eq!(refusal.status, Status::Crashed, "{refusal:?}");
    assert!(
        refusal.reason.contains("kernel.cu:5") && refusal.reason.contains("threadIdx.x < 7"),
        "{refusal:?}"
    );
    assert_eq!(refusal.evidence.log.as_deref(), Some("value 42 of three\n"));
    // Also for a kernel that never ends.
    let source = "__global__ void f(long long* y, int n) {\n  printf(\"on the way\\n\");\n  for (;;) __nanosleep(1000);\n}\n";
    let refusal = TestProgram {
        source,
        grid: 1,
        block: 1,
        count: 1,
    }
    .launch_within(&device, Duration::from_secs(3))
    .unwrap_err();
    assert_eq!(refusal.status, Status::TimedOut);
    assert_eq!(refusal.evidence.log.as_deref(), Some("on the way\n"));
}

/// A kernel with this text before it.
fn after(text: &str) -> String {
    format!("// a comment: asm\n{text}\n__global__ void f(long long* y, int n) {{ y[0] = 0; }}\n")
}

fn one_thread(source: &str) -> TestProgram<'_> {
    TestProgram {
        source,
        grid: 1,
        block: 1,
        count: 1,
    }
}

#[test]
fn unsupported_features_are_named() {
    let device = device();
    for text in [
        "#include <cub/cub.cuh>\n__device__ void g() { cub::BlockReduce<int, 1> a; }",
        "#include <cute/tensor.hpp>\n__device__ void g() { cute::Tensor<int> a; }",
        "#include <cuda/ptx>\n__device__ void g() { cuda::ptx::get_sreg_laneid(); }",
        "#include <curand_kernel.h>\n__device__ void g() { curandState a; }",
        "__device__ void g() { auto grid = cooperative_groups::this_grid(); }",
        "__device__ void g() { nvcuda::wmma::fragment<int> a; }",
        "__cluster_dims__(2, 1, 1) __global__ void g() {}",
    ] {
        match one_thread(&after(text)).compile(&device) {
            Compiled::Refused(refusal) => assert_eq!(
                (refusal.status, refusal.evidence.line),
                (Status::Unsupported, Some(2)),
                "{refusal:?}"
            ),
            Compiled::Ready(_) => panic!("compiled: {text}"),
        }
    }
    let reached = "__device__ void g() { asm volatile(\"membar.gl;\"); }\n\
        __global__ void f(long long* y, int n) { g(); }\n";
    let refusal = one_thread(reached).launch(&device).unwrap_err();
    assert_eq!(
        (refusal.status, refusal.evidence.line),
        (Status::Unsupported, Some(1)),
        "{refusal:?}"
    );
}

#[test]
fn unused_unsupported_features_do_not_count() {
    let unused = "#include <mma.h>\n#include <cub/cub.cuh>\n#include <cute/tensor.hpp>\n#include <cuda/ptx>\n\
        #include <curand_kernel.h>\n__device__ void g() { asm volatile(\"membar.gl;\"); }";
    let values = one_thread(&after(unused)).launch(&device()).unwrap();
    assert_eq!(values, [0]);
}
