//! The CUDA compiler through its interface: what compiles, what errors say, and how sources that burden the compiler end. Needs no GPU;
//! without NVRTC the tests are ignored.

#![expect(
    clippy::print_stdout,
    reason = "the time of each compiler bomb is reported"
)]

use crate::code_cases;
use crate::harness::{Missing, TestResult};
use crate::header_cases::{self, POINTER_CASES};
use crate::program::slowdown;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use kforge::device::cuda::compiler::Compiler;
use kforge::device::{Compiled, Program, Refusal, code_hash};
use kforge::kernel::Kernel;
use kforge::kernel::plan::{ArgumentType, EntryPoint, TranslationUnit};
use kforge::task::{DType, TaskFiles, embedded_names};
use kforge::verdict::Status;

fn program() -> PathBuf {
    env!("CARGO_BIN_EXE_kforge").into()
}

fn kforge() -> Command {
    crate::program::kforge([])
}

/// A compiler for sm_90.
fn compiler() -> Result<Compiler, Missing> {
    match Compiler::open_with_program(program(), "sm_90") {
        // A generous limit, so that a busy machine does not cause timeouts.
        Ok(compiler) => Ok(compiler.with_time_limit(Duration::from_secs(300))),
        Err(error) => Err(Missing::new("nvrtc", format!("{error:#}"))),
    }
}

fn unit(source: &str, expression: &str, arguments: &[ArgumentType]) -> TranslationUnit {
    TranslationUnit {
        source: source.to_owned(),
        constants: Vec::new(),
        macros: Vec::new(),
        entry_points: vec![EntryPoint {
            expression: expression.to_owned(),
            arguments: arguments.to_vec(),
            argument_names: Vec::new(),
            line: 1,
        }],
        fast_math: false,
        max_registers: None,
        arch: None,
    }
}

const POINTER: ArgumentType = ArgumentType::Pointer(DType::Float32);

fn ready(compiled: Compiled) -> Program {
    match compiled {
        Compiled::Ready(program) => program,
        Compiled::Refused(refusal) => panic!("refused: {refusal:?}"),
    }
}

fn refused(compiler: &Compiler, source: &str) -> Refusal {
    match compiler.compile(&unit(source, "k", &[POINTER])).unwrap() {
        Compiled::Refused(refusal) => refusal,
        Compiled::Ready(_) => panic!("compiled: {source}"),
    }
}

fn every_shipped_kernel_compiles() -> TestResult {
    let compiler = compiler()?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut compiled = 0;
    for name in embedded_names() {
        let task = TaskFiles::find(name)
            .and_then(|files| files.load())
            .unwrap();
        let kernels = std::fs::read_dir(root.join("kernels").join(name)).unwrap();
        let mut files: Vec<_> = kernels
            .flatten()
            .map(|entry| (entry.path(), false))
            .collect();
        files.push((root.join(format!("tasks/{name}/oracle.cu")), true));
        for (path, is_oracle) in files
            .iter()
            .filter(|(path, _)| path.extension().is_some_and(|end| end == "cu"))
        {
            let text = std::fs::read_to_string(path).unwrap();
            let kernel = Kernel::parse(&text, &task.definition).unwrap();
            let mut variants: Vec<_> = (0..kernel.header.variants.len()).map(Some).collect();
            variants.push(None);
            for variant in variants {
                let unit =
                    kernel.translation_unit(&task, &kernel.tunable_values(variant), *is_oracle);
                let program = match compiler.compile(&unit).unwrap() {
                    Compiled::Ready(program) => program,
                    Compiled::Refused(refusal) => panic!("{}: {refusal:?}", path.display()),
                };
                assert_eq!(program.entries.len(), unit.entry_points.len());
                assert!(
                    program
                        .resources
                        .registers
                        .is_some_and(|count| (1..=255).contains(&count))
                );
                assert!(program.resources.shared_bytes.is_some());
                assert!(
                    program.features["instructions"] > 10.0,
                    "{}",
                    path.display()
                );
                assert!(
                    std::fs::read(&program.image)
                        .unwrap()
                        .starts_with(b"\x7fELF")
                );
                compiled += 1;
            }
        }
    }
    assert!(compiled > 10);
    Ok(())
}

fn compiled_code_features_are_counted() -> TestResult {
    let compiler = compiler()?;
    let source = "#include <cuda_fp16.h>
__global__ void k(float* a) {
  __shared__ float s[256];
  float4 v = reinterpret_cast<const float4*>(a)[threadIdx.x];
  s[threadIdx.x] = v.x + __shfl_xor_sync(0xffffffffu, v.y, 1);
  __syncthreads();
  double d = s[threadIdx.x ^ 1];
  atomicAdd(a, float(sqrt(d)));
  unsigned address = __cvta_generic_to_shared(s + 4 * threadIdx.x);
  asm volatile(\"cp.async.cg.shared.global [%0], [%1], 16;\" :: \"r\"(address), \"l\"(a + 4 * threadIdx.x));
  asm volatile(\"cp.async.wait_all;\");
  unsigned r[4] = {1, 2, 3, 4};
  float c[4] = {};
  asm volatile(\"mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\"
    : \"+f\"(c[0]), \"+f\"(c[1]), \"+f\"(c[2]), \"+f\"(c[3]) : \"r\"(r[0]), \"r\"(r[1]), \"r\"(r[2]), \"r\"(r[3]), \"r\"(r[0]), \"r\"(r[1]));
  for (int i = 0; i < int(a[1]); ++i) a[i] = c[i & 3] + s[i];
}";
    let program = ready(compiler.compile(&unit(source, "k", &[POINTER])).unwrap());
    for (name, expected) in [
        ("vector_load_bytes", 16.0),
        ("vector_store_bytes", 4.0),
        ("mma", 1.0),
        ("half_mma", 1.0),
        ("tf32_mma", 0.0),
        ("wgmma", 0.0),
        ("async_copies", 1.0),
        ("bulk_copies", 0.0),
        ("block_barriers", 1.0),
        ("shuffles", 1.0),
        ("atomics", 1.0),
        ("spill_bytes", 0.0),
    ] {
        assert_eq!(
            program.features.get(name),
            Some(&expected),
            "{name}: {:?}",
            program.features
        );
    }
    for name in ["double_arithmetic", "loops"] {
        assert!(
            program.features[name] >= 1.0,
            "{name}: {:?}",
            program.features
        );
    }
    assert_eq!(program.resources.shared_bytes, Some(1024));
    Ok(())
}

fn spills_are_counted_and_arch_may_be_extended() -> TestResult {
    let compiler = compiler()?;
    let source = "__global__ void k(float* a) { float v[64];
#pragma unroll
  for (int i = 0; i < 64; ++i) v[i] = a[i * 7 + threadIdx.x];
  for (int j = 0; j < 99; ++j) {
#pragma unroll
    for (int i = 0; i < 64; ++i) v[i] = v[i] * v[(i + 9) % 64] + a[j];
  }
#pragma unroll
  for (int i = 0; i < 64; ++i) a[i * 7 + threadIdx.x] = v[i]; }";
    let mut tight = unit(source, "k", &[POINTER]);
    tight.max_registers = Some(32);
    let program = ready(compiler.compile(&tight).unwrap());
    assert!(program.resources.registers.unwrap() <= 32);
    assert!(program.resources.spill_bytes.unwrap() > 0);
    let source = "__global__ void k(float* a) { asm volatile(\"setmaxnreg.dec.sync.aligned.u32 40;\"); a[0] = 1; }";
    let mut special = unit(source, "k", &[POINTER]);
    assert!(matches!(
        compiler.compile(&special).unwrap(),
        Compiled::Refused(_)
    ));
    special.arch = Some("sm_90a".to_owned());
    ready(compiler.compile(&special).unwrap());
    special.arch = Some("sm_100a".to_owned());
    let Compiled::Refused(refusal) = compiler.compile(&special).unwrap() else {
        panic!("another device's code compiled")
    };
    assert_eq!(refusal.status, Status::Unsupported);
    Ok(())
}

fn errors_show_line_and_caret_and_no_folder() -> TestResult {
    let compiler = compiler()?;
    let refusal = refused(
        &compiler,
        "__global__ void k(float* a) {\n  a[0] = undeclared;\n}\n",
    );
    assert_eq!(refusal.status, Status::CompileError);
    assert_eq!(refusal.evidence.line, Some(2));
    assert_eq!(
        refusal.reason,
        "line 2: identifier \"undeclared\" is undefined"
    );
    let log = refusal.evidence.log.unwrap();
    assert_eq!(
        log,
        "kernel.cu(2): error: identifier \"undeclared\" is undefined\n    a[0] = undeclared;\n           ^\n"
    );
    // An error inside a header names the kernel's line that led there.
    let refusal = refused(
        &compiler,
        "#include <cuda/std/array>\n__global__ void k(float* a) {\n  cuda::std::array<void, 3> x;\n}\n",
    );
    let log = refusal.evidence.log.unwrap();
    assert!(
        !log.contains("/include") && !log.contains("site-packages"),
        "{log}"
    );
    // Errors of the assembler are reported too.
    let refusal = refused(
        &compiler,
        "__global__ void k(float* a) { __shared__ float s[99999]; s[threadIdx.x] = a[0]; __syncthreads(); a[1] = s[threadIdx.x ^ 1]; }",
    );
    assert!(
        refusal.reason.contains("too much shared data"),
        "{refusal:?}"
    );
    // An unclosed brace is reported within the file.
    let refusal = refused(
        &compiler,
        "__global__ void k(float* a) {\n  if (a[0] > 1) {\n  a[0] = 1;\n}\n",
    );
    assert!(refusal.evidence.line.unwrap() <= 4, "{refusal:?}");
    Ok(())
}

fn header_arguments_must_match_kernel_parameters() -> TestResult {
    let compiler = compiler()?;
    let two = "\n#include <cuda_bf16.h>\ntemplate <int N> __global__ void k(const __nv_bfloat16* __restrict__ a, long n) {}\n__device__ void no(float* a) {}";
    let half = ArgumentType::Pointer(DType::BFloat16);
    let fits = unit(two, "k<3>", &[half, ArgumentType::I64]);
    assert!(
        ready(compiler.compile(&fits).unwrap()).entries[0]
            .name
            .starts_with("_Z1k")
    );
    for (expression, arguments, message) in [
        (
            "k<3>",
            vec![POINTER, ArgumentType::I64],
            "argument 1: the header passes `float*`, the kernel takes `const __nv_bfloat16*`",
        ),
        (
            "k<3>",
            vec![half, ArgumentType::I32],
            "argument 2: the header passes `int`, the kernel takes `long`",
        ),
        (
            "k<3>",
            vec![half, half],
            "argument 2: the header passes `__nv_bfloat16*`, the kernel takes `long`",
        ),
        (
            "k<3>",
            vec![half],
            "`k<3>` takes 2 arguments (`const __nv_bfloat16*`, `long`), the header passes 1",
        ),
        (
            "k<3>",
            vec![half, ArgumentType::I64, half],
            "`k<3>` takes 2 arguments (`const __nv_bfloat16*`, `long`), the header passes 3",
        ),
        ("missing", vec![half], "kernel `missing` is not in the file"),
        (
            "no",
            vec![POINTER],
            "kernel `no` is a `__device__` function",
        ),
    ] {
        let Compiled::Refused(refusal) = compiler
            .compile(&unit(two, expression, &arguments))
            .unwrap()
        else {
            panic!("{expression} {arguments:?} compiled")
        };
        assert_eq!(refusal.status, Status::CompileError);
        assert!(refusal.reason.contains(message), "{refusal:?}");
        assert_eq!(refusal.evidence.line, Some(1), "{refusal:?}");
    }
    let map = "#include <cuda.h>\n__global__ void k(const __grid_constant__ CUtensorMap m, float* a) { a[0] = 1; }";
    ready(
        compiler
            .compile(&unit(map, "k", &[ArgumentType::TensorMap, POINTER]))
            .unwrap(),
    );
    let own = map.replace(
        "#include <cuda.h>",
        "struct alignas(64) CUtensorMap { unsigned long long opaque[16]; };",
    );
    ready(
        compiler
            .compile(&unit(&own, "k", &[ArgumentType::TensorMap, POINTER]))
            .unwrap(),
    );
    let map = map.replace("#include <cuda.h>", "");
    ready(
        compiler
            .compile(&unit(&map, "k", &[ArgumentType::TensorMap, POINTER]))
            .unwrap(),
    );
    Ok(())
}

/// Sources that burden the compiler, by the part of it that they burden.
fn bombs() -> Vec<(&'static str, String)> {
    let head = "__global__ void k(float* a) { a[0] = ";
    vec![
        (
            "recursion",
            format!(
                "template <int N, int M> struct F {{ static constexpr long v = F<N - 1, 2 * M>::v + F<N - 1, 2 * M + 1>::v; }};\ntemplate <int M> struct F<0, M> {{ static constexpr long v = M; }};\n{head} F<26, 1>::v; }}"
            ),
        ),
        (
            "evaluation",
            format!(
                "constexpr long f(long n) {{ return n < 2 ? 1 : f(n - 1) + f(n - 2); }}\n{head} (f(20) & 1) ? 1 : 0; static_assert(f(45) > 0, \"\"); }}"
            ),
        ),
        ("macros", {
            let mut text = String::from("#define A0 x x x x x x x x\n");
            for level in 1..10 {
                let before = format!("A{} ", level - 1).repeat(8);
                text += &format!("#define A{level} {before}\n");
            }
            format!("{text}{head} A9; }}")
        }),
        (
            "unrolling",
            format!(
                "{head} 0;\n#pragma unroll\nfor (int i = 0; i < 4000; ++i)\n#pragma unroll\nfor (int j = 0; j < 4000; ++j) a[i * j] = sinf(a[i + j]); }}"
            ),
        ),
        (
            "nesting",
            format!("{head} {}1{}; }}", "(".repeat(200_000), ")".repeat(200_000)),
        ),
        (
            "memory",
            format!(
                "{head} 0; }}\n__device__ int big[] = {{ {} }};",
                "1,".repeat(1_000_000)
            ),
        ),
    ]
}

fn compiler_bombs_end_within_the_limits() -> TestResult {
    let compiler = compiler()?;
    let limit = Duration::from_secs(2);
    let compiler = compiler.with_time_limit(limit);
    for (name, bomb) in bombs() {
        let started = Instant::now();
        let outcome = compiler.compile(&unit(&bomb, "k", &[POINTER])).unwrap();
        let elapsed = started.elapsed();
        let status = match &outcome {
            Compiled::Ready(_) => None,
            Compiled::Refused(refusal) => Some(refusal.status),
        };
        println!("{name}: {status:?} in {elapsed:.2?}");
        // Without the limit, these would run for minutes or for ever.
        let most = (30 * limit).mul_f64(slowdown());
        assert!(elapsed < most, "{name} took {elapsed:?}");
        let acceptable = [
            Status::CompileTimeout,
            Status::LimitExceeded,
            Status::CompileError,
        ];
        assert!(
            status.is_none_or(|status| acceptable.contains(&status)),
            "{name}: {outcome:?}"
        );
        if ["recursion", "macros"].contains(&name) {
            assert!(
                matches!(status, Some(Status::CompileTimeout | Status::LimitExceeded)),
                "{name}: {outcome:?}"
            );
        }
    }
    // The next compilation is not affected.
    ready(
        compiler
            .compile(&unit(
                "__global__ void k(float* a) { a[0] = 7; }",
                "k",
                &[POINTER],
            ))
            .unwrap(),
    );
    Ok(())
}

fn include_paths_outside_the_headers_leak_nothing() -> TestResult {
    let compiler = compiler()?;
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret.h");
    std::fs::write(&secret, "swordfish swordfish").unwrap();
    let secret = secret.display().to_string();
    let body = "__global__ void k(float* a) { a[0] = 1; }";
    for line in [
        format!("#include \"{secret}\""),
        format!("#include <{secret}>"),
        format!("#define NAME \"{secret}\"\n#include NAME"),
        format!("#if __has_include(\"{secret}\")\n#error there\n#endif"),
        format!(
            "#define HAS __has_include\n#define NAME \"{secret}\"\n#if HAS(NAME)\n#error there\n#endif"
        ),
        format!("#include \"../../../../../../../../../..{secret}\""),
    ] {
        let source = format!("{line}\n{body}");
        let outcome = compiler.compile(&unit(&source, "k", &[POINTER])).unwrap();
        match outcome {
            // `__has_include` is harmless if the result is false.
            Compiled::Ready(_) => assert!(line.contains("has_include"), "{line}"),
            Compiled::Refused(refusal) => {
                let message = format!("{refusal:?}");
                assert!(
                    !message.contains("swordfish") && !message.contains("there"),
                    "{message}"
                );
                assert!(
                    refusal.status == Status::Rejected || line.contains("HAS"),
                    "{message}"
                );
            }
        }
    }
    Ok(())
}

/// The source checks are bypassed here: the confined process must refuse the files by itself.
fn compiler_process_reads_only_the_headers() -> TestResult {
    let compiler = compiler()?;
    let support = kforge::device::cpu::sandbox_support();
    if support.landlock.is_none() {
        return Err(Missing::new("landlock", "Landlock is not available"));
    }
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret.h");
    std::fs::write(&secret, "swordfish swordfish").unwrap();
    for (file, is_read) in [
        (secret, false),
        (PathBuf::from("/etc/passwd"), false),
        (PathBuf::from("/proc/self/environ"), false),
    ] {
        let source = format!(
            "#include \"{}\"\n__global__ void k(float* a) {{ }}",
            file.display()
        );
        // The source of harness code is not checked before it is compiled.
        let message = format!(
            "{:#}",
            compiler
                .compile_harness("probe", &source, &[], &["k"])
                .unwrap_err()
        );
        assert!(
            message.contains("could not open source file")
                || message.contains("cannot open source file"),
            "{message}"
        );
        assert!(!message.contains("swordfish") && !message.contains("root:") && !is_read);
    }
    Ok(())
}

fn forbidden_features_are_rejected_with_their_line() -> TestResult {
    let compiler = compiler()?;
    for (source, line) in [
        (
            "__global__ void k(float* a) {\n  float* p = (float*)malloc(16);\n  p[0] = a[0]; a[1] = p[threadIdx.x]; free(p);\n}",
            2,
        ),
        (
            "__global__ void k(float* a) {\n\n  float* p = new float[4];\n  p[threadIdx.x] = a[0]; a[1] = p[2]; delete[] p;\n}",
            3,
        ),
        (
            "\n__managed__ int count;\n__global__ void k(float* a) { a[0] = ++count; }",
            2,
        ),
        (
            "__global__ void j() {}\n__global__ void k(float* a) {\n  j<<<1, 1>>>();\n}",
            3,
        ),
    ] {
        let refusal = refused(&compiler, source);
        assert_eq!(refusal.status, Status::Rejected, "{refusal:?}");
        assert_eq!(refusal.evidence.line, Some(line), "{refusal:?}");
    }
    // `printf` and `assert` are allowed.
    let source = "#include <cstdio>\n#include <cassert>\n__global__ void k(float* a) { assert(a[0] > 0); printf(\"%f\\n\", a[1]); }";
    ready(compiler.compile(&unit(source, "k", &[POINTER])).unwrap());
    Ok(())
}

fn common_headers_are_available() -> TestResult {
    let compiler = compiler()?;
    let has = |name: &str| {
        let mut folders = compiler.toolkit().includes.iter();
        folders.any(|folder| folder.join(name).is_file())
    };
    if !has("crt/mma.h") || !has("cuda/std/algorithm") {
        return Err(Missing::new(
            "cuda-headers",
            "not all headers of CUDA 13 are installed",
        ));
    }
    let source = "#include <cuda_runtime.h>\n#include <stdint.h>\n#include <cstdint>\n#include <cmath>\n#include <math.h>\n#include <float.h>\n#include <climits>\n#include <algorithm>\n#include <type_traits>\n#include <limits>\n#include <cooperative_groups.h>\n#include <cooperative_groups/reduce.h>\n#include <mma.h>\n#include <cuda_fp16.h>\n#include <cuda_fp8.h>\n#include <cuda_pipeline.h>
namespace cg = cooperative_groups;
static_assert(std::is_same<int, int32_t>::value && INT_MAX > 0, \"\");
__global__ void k(float* a) {
  auto warp = cg::tiled_partition<32>(cg::this_thread_block());
  uint32_t n = std::min(3, 4); uint64_t m = n;
  float least = std::numeric_limits<float>::lowest();
  a[m] = cg::reduce(warp, std::sqrt(a[0]), cg::plus<float>()) + INFINITY + FLT_MAX + M_PI + least;
}";
    ready(compiler.compile(&unit(source, "k", &[POINTER])).unwrap());
    Ok(())
}

fn cached_cubin_is_reused_unless_corrupt() -> TestResult {
    let compiler = compiler()?;
    let source = format!(
        "__global__ void k(float* a) {{ a[0] = {}; }}",
        std::process::id()
    );
    let unit = unit(&source, "k", &[POINTER]);
    let first = ready(compiler.compile(&unit).unwrap());
    // Storing a cubin replaces its file, so an unchanged inode shows that the cached one was used.
    let inode = || std::fs::metadata(&first.image).unwrap().ino();
    let before = inode();
    let second = ready(compiler.compile(&unit).unwrap());
    assert_eq!(inode(), before);
    assert_eq!(
        (&first.image, &first.entries, &first.features),
        (&second.image, &second.entries, &second.features)
    );
    assert_eq!(first.resources, second.resources);
    // A damaged file is compiled again.
    let whole = std::fs::read(&first.image).unwrap();
    std::fs::write(&first.image, &whole[..whole.len() / 2]).unwrap();
    let third = ready(compiler.compile(&unit).unwrap());
    assert_eq!(std::fs::read(&third.image).unwrap(), whole);
    // Parallel compilations do not disturb each other.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for number in 0..3 {
                    let source = format!(
                        "__global__ void k(float* a) {{ a[{number}] = {}; }}",
                        std::process::id()
                    );
                    ready(
                        compiler
                            .compile(&self::unit(&source, "k", &[POINTER]))
                            .unwrap(),
                    );
                }
            });
        }
    });
    Ok(())
}

fn missing_nvrtc_error_names_the_packages() -> TestResult {
    let empty = tempfile::tempdir().unwrap();
    // A toolkit in a usual folder would be found.
    if [
        "/usr/local/cuda",
        "/opt/cuda",
        "/usr/lib/x86_64-linux-gnu/libnvrtc.so.12",
    ]
    .iter()
    .any(|path| Path::new(path).exists())
    {
        return Err(Missing::new("no-toolkit", "the CUDA toolkit is installed"));
    }
    let output = kforge()
        .args([
            "eval",
            "softmax",
            "kernels/softmax/naive.cu",
            "--compile-only",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("KFORGE_PYTHON", "/bin/false")
        .env("KFORGE_CACHE_DIR", empty.path())
        .env("PATH", "/usr/bin:/bin")
        .env_remove("CUDA_HOME")
        .env_remove("CUDA_PATH")
        .env_remove("LD_LIBRARY_PATH")
        .env_remove("VIRTUAL_ENV")
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{message}");
    assert!(
        message.contains("pip install nvidia-cuda-nvrtc"),
        "{message}"
    );
    Ok(())
}

fn compile_only_compiles_every_variant() -> TestResult {
    compiler()?;
    let run = |kernel: &Path, arch: &str| {
        let output = kforge()
            .args([
                "eval",
                "gdn_decode",
                "--compile-only",
                "--format",
                "json",
                "--arch",
                arch,
            ])
            .arg(kernel)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        let message: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code(), message[0].clone())
    };
    let kernel = Path::new("kernels/gdn_decode/warp_rows.cu");
    let (code, message) = run(kernel, "sm_90");
    assert_eq!(code, Some(0), "{message}");
    assert!(
        message["status"].is_null()
            && message["compiled"] == true
            && message["device"]["arch"] == "sm_90"
    );
    assert_eq!(
        message["variants"][0]["features"]["vector_load_bytes"],
        16.0
    );
    assert_eq!(run(kernel, "nonsense").0, Some(2));
    // Only the second variant does not compile.
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(kernel)).unwrap();
    let head = text.find("\n*/").unwrap();
    let (before, after) = text.split_at(head);
    let text = format!(
        "{before}\nvariants:\n  - {{when: batch_size <= 2, ROWS: 2}}\n  - {{when: batch_size <= 4, ROWS: 8}}{after}\nstatic_assert(ROWS != 8, \"too many\");\n"
    );
    let broken = folder.path().join("broken.cu");
    std::fs::write(&broken, &text).unwrap();
    let (code, message) = run(&broken, "sm_90");
    assert_eq!(code, Some(5), "{message}");
    assert_eq!(
        (&message["status"], &message["compiled"]),
        (&"compile_error".into(), &false.into())
    );
    let last = text.lines().count();
    assert_eq!(
        message["reason"],
        format!("variant 1: line {last}: too many")
    );
    assert_eq!(message["evidence"]["line"], last);
    assert_eq!(message["variants"].as_array().map(Vec::len), Some(2));
    Ok(())
}

/// The same texts are in the test of the CPU.
fn headers_are_accepted_and_refused_as_on_the_cpu() -> TestResult {
    let compiler = compiler()?;
    for case in &POINTER_CASES {
        let compiled = compiler.compile(&unit(case.source, "f", case.passed));
        let reason = match compiled.unwrap() {
            Compiled::Ready(_) => None,
            Compiled::Refused(refusal) => Some(refusal.reason),
        };
        assert_eq!(reason.as_deref(), case.reason);
    }
    let folder = tempfile::tempdir().unwrap();
    let run = |files: &[(&str, &str)]| {
        let mut command = kforge();
        command.args(["eval", "softmax", "--compile-only", "--format", "json"]);
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
            command.arg(name);
        }
        let output = command.current_dir(folder.path()).output().unwrap();
        let results = serde_json::from_slice(&output.stdout);
        let results: Vec<serde_json::Value> =
            results.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        (output.status.code(), results)
    };
    let accepted = header_cases::accepted();
    let files: Vec<_> = (accepted.iter())
        .map(|(name, text)| (*name, text.as_str()))
        .collect();
    let (code, results) = run(&files);
    assert_eq!(code, Some(0), "{results:?}");
    assert!(
        results[0]["notes"][0]
            .as_str()
            .unwrap()
            .starts_with("line 8: tunable `WIDTH`")
    );
    for kernel in header_cases::refused() {
        let (code, results) = run(&[(kernel.name, &kernel.text)]);
        assert_eq!(code, Some(kernel.exit), "{}", kernel.name);
        assert_eq!(results[0]["status"], kernel.status, "{}", kernel.name);
        assert_eq!(results[0]["reason"], kernel.reason, "{}", kernel.name);
    }
    Ok(())
}

fn hash_of_code_ignores_names_and_lines() -> TestResult {
    let compiler = compiler()?;
    let arguments = [POINTER, POINTER, ArgumentType::I32];
    let hash = |source: &str, factor: i64| {
        let mut unit = unit(source, "f", &arguments);
        unit.macros.push(("FACTOR".to_owned(), factor));
        code_hash(&ready(compiler.compile(&unit).unwrap())).unwrap()
    };
    let expected = hash(code_cases::KERNEL, 3);
    for (old, new) in code_cases::SAME {
        let changed = code_cases::KERNEL.replace(old, new);
        assert_ne!(changed, code_cases::KERNEL);
        assert_eq!(hash(&changed, 3), expected, "{old} became {new}");
    }
    for (old, new) in code_cases::DIFFERENT {
        let changed = code_cases::KERNEL.replace(old, new);
        assert_ne!(hash(&changed, 3), expected, "{old} became {new}");
    }
    assert_ne!(hash(code_cases::KERNEL, 4), expected);
    Ok(())
}

fn shipped_kernels_have_the_same_code_on_other_lines() -> TestResult {
    let compiler = compiler()?;
    let mut hashes = BTreeMap::new();
    for task_name in embedded_names() {
        let task = TaskFiles::find(task_name).unwrap().load().unwrap();
        for (name, text) in &task.kernels {
            let hash = |text: &str| {
                let kernel = Kernel::parse(text, &task.definition).unwrap();
                let unit = kernel.translation_unit(&task, &kernel.tunable_values(None), false);
                code_hash(&ready(compiler.compile(&unit).unwrap())).unwrap()
            };
            let code = hash(text);
            let moved = text.replacen("*/", "*/\n\n// Another line.\n", 1);
            assert_eq!(hash(&moved), code, "{task_name}/{name}");
            let earlier = hashes.insert(code, (task_name, name.clone()));
            assert_eq!(earlier, None, "{task_name}/{name} has the code of another");
        }
    }
    assert!(hashes.len() > 15);
    Ok(())
}

crate::harness::tests!(
    hash_of_code_ignores_names_and_lines,
    shipped_kernels_have_the_same_code_on_other_lines,
    every_shipped_kernel_compiles,
    compiled_code_features_are_counted,
    spills_are_counted_and_arch_may_be_extended,
    errors_show_line_and_caret_and_no_folder,
    header_arguments_must_match_kernel_parameters,
    headers_are_accepted_and_refused_as_on_the_cpu,
    compiler_bombs_end_within_the_limits,
    include_paths_outside_the_headers_leak_nothing,
    compiler_process_reads_only_the_headers,
    forbidden_features_are_rejected_with_their_line,
    common_headers_are_available,
    cached_cubin_is_reused_unless_corrupt,
    missing_nvrtc_error_names_the_packages,
    compile_only_compiles_every_variant,
);
