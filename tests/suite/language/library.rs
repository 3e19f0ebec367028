//! Mathematical functions compared with double precision, and synchronisation from CUDA's C++ library.

use crate::language::run::{device, evaluate_columns, random_word, run_kernel};

/// Computes a function of two numbers in double precision.
type ReferenceFunction = fn(f64, f64) -> f64;

#[test]
fn math_functions_stay_within_their_error_bounds() {
    let device = device();
    // The function, the allowed relative error in units of 2^-23, and the reference.
    let cases: &[(&str, f64, ReferenceFunction)] = &[
        ("rsqrtf(fabsf(x))", 2.0, |x, _| 1.0 / x.abs().sqrt()),
        ("cbrtf(x)", 2.0, |x, _| x.cbrt()),
        ("exp10f(x)", 4.0, |x, _| 10f64.powf(x)),
        ("exp2f(x)", 2.0, |x, _| x.exp2()),
        ("hypotf(x, z)", 2.0, f64::hypot),
        ("rhypotf(x, z)", 3.0, |x, z| 1.0 / x.hypot(z)),
        ("norm3df(x, z, 1.0f)", 3.0, |x, z| {
            (x * x + z * z + 1.0).sqrt()
        }),
        ("rnorm3df(x, z, 1.0f)", 4.0, |x, z| {
            1.0 / (x * x + z * z + 1.0).sqrt()
        }),
        ("fdimf(x, z)", 1.0, |x, z| if x > z { x - z } else { 0.0 }),
        ("sinpif(x)", 2.0, |x, _| {
            (std::f64::consts::PI * (x % 2.0)).sin()
        }),
        ("cospif(x)", 2.0, |x, _| {
            (std::f64::consts::PI * (x % 2.0)).cos()
        }),
        ("expf(x)", 2.0, |x, _| x.exp()),
        ("tanhf(x)", 3.0, |x, _| x.tanh()),
        ("log1pf(fabsf(x))", 2.0, |x, _| x.abs().ln_1p()),
        ("fmaf(x, z, 1.0f)", 1.0, |x, z| x.mul_add(z, 1.0)),
        ("__fdividef(x, z)", 2.0, |x, z| x / z),
        ("__expf(x)", 40.0, |x, _| x.exp()),
        ("__exp10f(x)", 80.0, |x, _| 10f64.powf(x)),
        ("__powf(fabsf(x), 2.5f)", 80.0, |x, _| x.abs().powf(2.5)),
        ("__frsqrt_rn(fabsf(x))", 0.51, |x, _| 1.0 / x.abs().sqrt()),
        ("powf(fabsf(x), z)", 4.0, |x, z| x.abs().powf(z)),
        ("max(x, z)", 0.0, f64::max),
        ("__saturatef(x)", 0.0, |x, _| x.clamp(0.0, 1.0)),
        ("copysignf(x, z)", 0.0, f64::copysign),
    ];
    let names: Vec<_> = cases
        .iter()
        .map(|(name, ..)| format!("__float_as_uint({name})"))
        .collect();
    let expressions: Vec<_> = names.iter().map(String::as_str).collect();
    let setup = "const float x = ((int)(bits(0) % 20001u) - 10000) * 0.0009765625f + 0.00001f, z = ((int)(bits(1) % 20001u) - 10000) * 0.00048828125f + 0.00001f;";
    let found = evaluate_columns(&device, "", setup, &expressions, 4000);
    for (column, (name, allowed, exact)) in cases.iter().enumerate() {
        for (i, word) in found[column].iter().enumerate() {
            let x =
                ((random_word(i, 0) % 20_001) as i32 - 10_000) as f32 * 0.000_976_562_5 + 0.000_01;
            let z =
                ((random_word(i, 1) % 20_001) as i32 - 10_000) as f32 * 0.000_488_281_25 + 0.000_01;
            let value = f64::from(f32::from_bits(*word as u32));
            let wanted = exact(f64::from(x), f64::from(z));
            // Near a zero of sine or cosine only the absolute error is small.
            let size = if name.starts_with("sinpi") || name.starts_with("cospi") {
                wanted.abs().max(1e-2)
            } else {
                wanted.abs()
            };
            let error =
                (value - wanted).abs() / size.max(f64::from(f32::MIN_POSITIVE)) * 2f64.powi(23);
            assert!(
                error <= *allowed || value == wanted,
                "`{name}` of {x}, {z}: {value:e}, not {wanted:e} (off by {error:.2})"
            );
        }
    }
}

#[test]
fn special_functions_have_known_values() {
    let device = device();
    // Values from tables.
    let cases = [
        ("erff(0.5f)", 0.520_499_877_813_046_5),
        ("erfcf(1.5f)", 0.033_894_853_524_689_27),
        ("erfcxf(3.0f)", 0.179_001_151_181_389_97),
        ("erfcxf(50.0f)", 0.011_281_536_265_323_772),
        ("normcdff(1.0f)", 0.841_344_746_068_542_9),
        ("normcdfinvf(0.975f)", 1.959_963_984_540_054),
        ("erfinvf(0.25f)", 0.225_312_055_012_178_1),
        ("tgammaf(4.5f)", 11.631_728_396_567_448),
        ("lgammaf(10.0f)", 12.801_827_480_081_469),
        ("cyl_bessel_i0f(1.0f)", 1.266_065_877_752_008_4),
        ("cyl_bessel_i1f(1.0f)", 0.565_159_103_992_485),
        ("j0f(1.0f)", 0.765_197_686_557_966_6),
        ("rcbrtf(27.0f)", 1.0 / 3.0),
        ("(float)norm4d(1.0, 2.0, 3.0, 4.0)", 5.477_225_575_051_661),
        ("__sinf(1.0f)", 0.841_470_984_807_896_5),
        ("__cosf(1.0f)", 0.540_302_305_868_139_8),
        ("__tanf(1.0f)", 1.557_407_724_654_902_3),
        ("__logf(10.0f)", std::f64::consts::LN_10),
        ("__log2f(10.0f)", std::f64::consts::LOG2_10),
        ("__log10f(2.0f)", std::f64::consts::LOG10_2),
    ];
    let mut source =
        String::from("__global__ void f(long long* y, int n) {\n  if (threadIdx.x != 0) return;\n");
    for (row, (expression, _)) in cases.iter().enumerate() {
        source.push_str(&format!("  y[{row}] = __float_as_uint({expression});\n"));
    }
    source.push_str("}\n");
    for ((expression, wanted), word) in cases.iter().zip(run_kernel(&device, &source, cases.len()))
    {
        let value = f64::from(f32::from_bits(word as u32));
        assert!(
            (value / wanted - 1.0).abs() < 4e-6,
            "`{expression}`: {value}, not {wanted}"
        );
    }
}

/// Products and sums whose names specify the rounding are never fused into one operation.
#[test]
fn explicitly_rounded_operations_are_not_fused() {
    let device = device();
    let source = "__global__ void f(long long* y, int n) {\n  const int i = blockIdx.x * blockDim.x + threadIdx.x;\n  if (i >= n) return;\n  float a = 1.0f + i * 0x1p-23f, sum = 0.0f;\n  for (int j = 0; j < 4; ++j) sum = __fadd_rn(__fmul_rn(a, a), sum);\n  y[i] = __float_as_uint(sum);\n}\n";
    for (i, word) in run_kernel(&device, source, 1000).into_iter().enumerate() {
        let a = 1.0 + i as f32 * 2f32.powi(-23);
        let mut sum = 0.0f32;
        for _ in 0..4 {
            let product = f64::from(a) * f64::from(a);
            sum = (f64::from(product as f32) + f64::from(sum)) as f32;
        }
        assert_eq!(word as u32, sum.to_bits(), "element {i}");
    }
}

#[test]
fn barriers_latches_semaphores_and_pipelines_synchronise() {
    let device = device();
    let source = "#include <cuda/barrier>
#include <cuda/latch>
#include <cuda/semaphore>
#include <cooperative_groups.h>
#include <cooperative_groups/memcpy_async.h>
#include <cuda_pipeline.h>
namespace cg = cooperative_groups;
static_assert(sizeof(cuda::barrier<cuda::thread_scope_block>) == 8, \"\");
__device__ int source_data[128];
__global__ void f(long long* y, int n) {
  __shared__ cuda::barrier<cuda::thread_scope_block> barrier;
  __shared__ cuda::latch<cuda::thread_scope_block> latch;
  __shared__ cuda::binary_semaphore<cuda::thread_scope_block> semaphore;
  __shared__ int order[8], inside, most, copied[128], again[132];
  const int t = threadIdx.x;
  auto block = cg::this_thread_block();
  source_data[t] = t * 3;
  if (t == 0) { init(&barrier, 64); init(&latch, 32); init(&semaphore, 1); inside = most = 0; }
  __syncthreads();
  // In each phase the second warp waits for the first one.
  long long seen = 0;
  if (t < 64) {
    for (int phase = 0; phase < 8; ++phase) {
      if (t < 32) {
        if (t == 0) order[phase] = phase * phase;
        auto token = barrier.arrive();
        barrier.wait(static_cast<cuda::barrier<cuda::thread_scope_block>::arrival_token&&>(token));
      } else {
        barrier.arrive_and_wait();
        seen += *(volatile int*)&order[phase];
      }
    }
  }
  if (t >= 64 && t < 96) latch.count_down();
  if (t >= 96) { latch.wait(); }
  // At most one thread at a time.
  semaphore.acquire();
  int now = atomicAdd(&inside, 1) + 1;
  atomicMax(&most, now);
  atomicSub(&inside, 1);
  semaphore.release();
  cg::memcpy_async(block, copied, source_data, sizeof(int) * 128);
  __pipeline_memcpy_async(&again[t], &source_data[127 - t], 4, t == 5 ? 4 : 0);
  __pipeline_commit();
  cg::wait(block);
  __pipeline_wait_prior(0);
  __syncthreads();
  y[t] = seen * 1000000 + most * 100000 + copied[127 - t] * 100 + (again[t] == (t == 5 ? 0 : (127 - t) * 3));
}";
    for (t, value) in run_kernel(&device, source, 128).into_iter().enumerate() {
        let t = t as i64;
        let seen = if (32..64).contains(&t) { 140 } else { 0 };
        assert_eq!(
            value,
            seen * 1_000_000 + 100_000 + (127 - t) * 300 + 1,
            "thread {t}"
        );
    }
}
