//! The CUDA device through its interface: its work on memory equals `device::numerics` bit for bit, and forbidden accesses of a kernel
//! are detected. Without a GPU they are ignored.
//!
//! For a machine with a GPU and without cargo: `KFORGE_TEST_BINARY` is the kforge program.

#![expect(clippy::print_stdout, reason = "a child process reports its fault")]

use crate::harness::{Missing, TestResult, exclusive_gpu};
use std::path::PathBuf;
use std::process::Command;
use std::sync::MutexGuard;
use std::time::Duration;

use kforge::device::cuda::{CudaDevice, list_gpus};
use kforge::device::{
    BoundKernel, BufferContent, Build, Cache, Compile, Compiled, Device, Edge, ExpectedValues,
    LaunchOutcome, Opened, OutputComparison, PersistentState, Poison, PoisonCount, Program,
    Purpose, numerics,
};
use kforge::kernel::plan::{
    Argument, ArgumentType, Buffer, BufferRole, EntryPoint, Launch, LaunchPlan, TranslationUnit,
};
use kforge::task::{CumulativeTotal, DType, Distribution, DistributionKind, Norm, Tolerance};
use kforge::verdict::Status;

const DEADLINE: Duration = Duration::from_secs(5);
/// The environment variable that tells a child of a test which fault to cause.
const FAULT_VARIABLE: &str = "KFORGE_TEST_FAULT";

const CHECK_END: Purpose = Purpose::Check { edge: Edge::End };
const CHECK_START: Purpose = Purpose::Check { edge: Edge::Start };
const TIMED: Purpose = Purpose::Time {
    copies: 1,
    cache: None,
};

const DTYPES: [DType; 11] = [
    DType::Float64,
    DType::Float32,
    DType::Float16,
    DType::BFloat16,
    DType::Float8E4M3,
    DType::Float8E5M2,
    DType::Int64,
    DType::Int32,
    DType::Int16,
    DType::Int8,
    DType::Bool,
];

/// Rows and row lengths, around the sizes of pieces and thread blocks.
const SHAPES: [[u64; 2]; 8] = [
    [1, 1],
    [1, 7],
    [63, 65],
    [64, 64],
    [17, 241],
    [3, 43_691],
    [149_797, 7],
    [1, (1 << 20) + 3],
];

fn device() -> Result<(MutexGuard<'static, ()>, CudaDevice), Missing> {
    // A process has one context.
    let guard = exclusive_gpu();
    if !list_gpus().is_ok_and(|gpus| !gpus.is_empty()) {
        return Err(Missing::new("gpu", "no GPU"));
    }
    let program = std::env::var_os("KFORGE_TEST_BINARY");
    let program = PathBuf::from(program.unwrap_or_else(|| env!("CARGO_BIN_EXE_kforge").into()));
    match CudaDevice::open_with_program(program, 0, false) {
        Ok(device) => Ok((guard, device)),
        Err(error) if error.is::<kforge::base::Failure>() => {
            Err(Missing::new("gpu", format!("{error:#}")))
        }
        Err(error) => panic!("{error:#}"),
    }
}

/// Compiles a kernel `f(signed char* y, long long a, long long b)`.
fn program(device: &CudaDevice, source: &str) -> Program {
    let unit = TranslationUnit {
        source: source.to_owned(),
        constants: Vec::new(),
        macros: Vec::new(),
        entry_points: vec![EntryPoint {
            expression: "f".to_owned(),
            arguments: vec![
                ArgumentType::Pointer(DType::Int8),
                ArgumentType::I64,
                ArgumentType::I64,
            ],
            argument_names: Vec::new(),
            line: 1,
        }],
        fast_math: false,
        max_registers: None,
        arch: None,
    };
    match device.compile(&unit, Build::Fast).unwrap() {
        Compiled::Ready(program) => program,
        Compiled::Refused(refusal) => panic!("{refusal:?}"),
    }
}

/// A plan with an input `x` and an output `y` of the same shape. The kernel gets the buffer `to`.
fn plan(dtype: DType, shape: &[u64], to: usize, [a, b]: [i64; 2]) -> LaunchPlan {
    let buffer = |name: &str, role| Buffer {
        name: name.to_owned(),
        role,
        dtype,
        shape: shape.to_vec(),
    };
    LaunchPlan {
        buffers: vec![
            buffer("x", BufferRole::Input),
            buffer("y", BufferRole::Output),
        ],
        launches: vec![Launch {
            entry_point: 0,
            grid: [64, 1, 1],
            block: [128, 1, 1],
            shared: 0,
            cluster: None,
            cooperative: false,
            overlap: false,
            arguments: vec![Argument::Buffer(to), Argument::I64(a), Argument::I64(b)],
        }],
        outputs: vec![1],
        tensor_maps: Vec::new(),
    }
}

fn open(
    device: &CudaDevice,
    program: &Program,
    plan: &LaunchPlan,
    purpose: Purpose,
) -> Box<dyn BoundKernel> {
    match device.open(program, plan, purpose).unwrap() {
        Opened::Ready(kernel) => kernel,
        Opened::Refused(refusal) => panic!("{refusal:?}"),
    }
}

fn launch(kernel: &mut dyn BoundKernel) {
    let launched = kernel.launch(DEADLINE).unwrap();
    assert!(
        matches!(launched, LaunchOutcome::Finished { .. }),
        "{launched:?}"
    );
}

fn bytes(kernel: &dyn BoundKernel, buffer: usize) -> Vec<u8> {
    kernel.bytes(buffer).unwrap()
}

/// Host memory for some elements, aligned for any dtype.
struct HostBuffer {
    dtype: DType,
    words: Vec<u64>,
    bytes: usize,
}

impl HostBuffer {
    fn new(dtype: DType, elements: u64) -> Self {
        let bytes = (elements * dtype.bytes()) as usize;
        Self {
            dtype,
            words: vec![0; bytes.div_ceil(8)],
            bytes,
        }
    }

    fn memory(&mut self) -> &mut [u8] {
        // SAFETY: the words' memory as bytes.
        unsafe { std::slice::from_raw_parts_mut(self.words.as_mut_ptr().cast::<u8>(), self.bytes) }
    }

    fn filled(mut self, row: u64, distribution: &Distribution, seed: u64) -> Self {
        let dtype = self.dtype;
        numerics::fill(dtype, self.memory(), row, distribution, seed);
        self
    }

    fn poisoned(mut self, pattern: Poison) -> Self {
        let dtype = self.dtype;
        numerics::poison(dtype, self.memory(), pattern);
        self
    }
}

/// Longest row for cumulative distributions: every element costs as much time as its row has elements.
const MAX_CUMULATIVE_ROW: u64 = 300;

/// Every kind of distribution, and every modifier.
fn distributions(row: u64) -> Vec<Distribution> {
    let normal = || Distribution::new(DistributionKind::Normal(1.3));
    let uniform = || Distribution::new(DistributionKind::Uniform([-3.0, 90.0]));
    let cumulative = || Distribution::new(DistributionKind::Cumulative(CumulativeTotal::Size(777)));
    let all = vec![
        normal(),
        uniform(),
        Distribution::new(DistributionKind::Value(1.1)),
        cumulative(),
        Distribution {
            zeros: 0.4,
            ..cumulative()
        },
        Distribution {
            levels: 1,
            ..cumulative()
        },
        Distribution {
            mean: 0.3,
            ..normal()
        },
        Distribution {
            levels: 5,
            ..normal()
        },
        Distribution {
            zeros: 0.5,
            ..uniform()
        },
        Distribution {
            large_rows: 50.0,
            ..normal()
        },
        Distribution {
            one_hot: true,
            ..normal()
        },
        Distribution {
            normalize: Some(Norm::L2),
            ..normal()
        },
        Distribution {
            levels: 9,
            mean: -2.0,
            zeros: 0.2,
            large_rows: 8.0,
            normalize: Some(Norm::L2),
            ..uniform()
        },
    ];
    let is_short = |distribution: &Distribution| {
        row <= MAX_CUMULATIVE_ROW || !matches!(distribution.kind, DistributionKind::Cumulative(_))
    };
    all.into_iter().filter(is_short).collect()
}

/// Writes zeros to every third element, starting with the second: `a` elements of `b` bytes.
const EVERY_THIRD: &str = "__global__ void f(signed char* y, long long a, long long b) {
    const long long step = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < a; i += step)
        if (i % 3 == 1)
            for (long long j = 0; j < b; ++j) y[i * b + j] = 0;
}
";

fn fill_poison_count_and_hash_match_the_host_bit_for_bit() -> TestResult {
    let (_guard, device) = device()?;
    let program = program(&device, EVERY_THIRD);
    for dtype in DTYPES {
        for (index, [rows, row]) in SHAPES.into_iter().enumerate() {
            let elements = rows * row;
            let plan = plan(
                dtype,
                &[rows, row],
                1,
                [elements as i64, dtype.bytes() as i64],
            );
            let purpose = [CHECK_END, CHECK_START, TIMED][index % 3];
            let mut kernel = open(&device, &program, &plan, purpose);
            let what = format!("{dtype}, {rows} rows of {row}");
            for (seed, distribution) in distributions(row).iter().enumerate() {
                let seed = (seed as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let mut host = HostBuffer::new(dtype, elements).filled(row, distribution, seed);
                let content = BufferContent::Random { distribution, seed };
                kernel.write(0, &content).unwrap();
                assert!(
                    bytes(kernel.as_ref(), 0) == host.memory(),
                    "{what}: {distribution:?}"
                );
                assert_eq!(
                    kernel.hash(0).unwrap(),
                    numerics::hash(host.memory()),
                    "{what}: {distribution:?}"
                );
                let values = kernel.values(0).unwrap();
                let expected = numerics::values(dtype, host.memory());
                assert!(
                    to_bits(&values) == to_bits(&expected),
                    "{what}: {distribution:?}"
                );
            }
            for pattern in [
                Poison::Nan,
                Poison::SecretNan { seed: 76 },
                Poison::Finite { seed: 77 },
            ] {
                let mut host = HostBuffer::new(dtype, elements).poisoned(pattern);
                kernel.write(1, &BufferContent::Poison(pattern)).unwrap();
                assert!(
                    bytes(kernel.as_ref(), 1) == host.memory(),
                    "{what}: {pattern:?}"
                );
                launch(kernel.as_mut());
                let width = dtype.bytes() as usize;
                let elements = host.memory().chunks_exact_mut(width).skip(1).step_by(3);
                elements.for_each(|element| element.fill(0));
                assert!(
                    bytes(kernel.as_ref(), 1) == host.memory(),
                    "{what}: written"
                );
                let expected = numerics::count_unwritten(dtype, host.memory(), pattern);
                assert_eq!(
                    kernel.unwritten(1, pattern).unwrap(),
                    expected,
                    "{what}: {pattern:?}"
                );
            }
        }
    }
    Ok(())
}

fn to_bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn read_expected(kernel: &dyn BoundKernel, buffer: usize) -> (ExpectedValues, Option<u64>) {
    let output = kernel.expected_output(buffer).unwrap();
    (output.values, output.first_not_finite)
}

fn compare_output(
    kernel: &dyn BoundKernel,
    expected: &ExpectedValues,
    tolerance: Tolerance,
) -> OutputComparison {
    kernel.compare(1, &[0], expected, tolerance).unwrap()
}

/// A comparison with all numbers as bits.
fn comparison_bits(comparison: &OutputComparison) -> (u64, u64, Option<[u64; 3]>, [u64; 4]) {
    let first = comparison.first;
    (
        comparison.elements,
        comparison.failed,
        first.map(|first| [first.index, first.expected.to_bits(), first.found.to_bits()]),
        [
            comparison.max_abs_error,
            comparison.max_rel_error,
            comparison.mean_abs_error,
            comparison.worst_ratio,
        ]
        .map(f64::to_bits),
    )
}

fn comparisons_match_the_host_bit_for_bit() -> TestResult {
    let (_guard, device) = device()?;
    let program = program(&device, EVERY_THIRD);
    let loose = Tolerance {
        rtol: 1e-2,
        atol_rms: 1e-2,
    };
    let tight = Tolerance {
        rtol: 1e-7,
        atol_rms: 0.0,
    };
    for dtype in DTYPES {
        for [rows, row] in SHAPES {
            let elements = rows * row;
            let shape = [rows, row];
            let what = format!("{dtype}, {rows} rows of {row}");
            let distribution = Distribution::new(DistributionKind::Uniform([-40.0, 90.0]));
            let mut drawn = HostBuffer::new(dtype, elements).filled(row, &distribution, 5);
            let right = numerics::values(dtype, drawn.memory());
            let mut found = right.clone();
            for (index, value) in found.iter_mut().enumerate() {
                *value *= 1.0 + (index % 7) as f64 * 1e-3;
            }
            let spoilt = elements as usize / 2;
            if dtype.is_float() && elements > 100 {
                found[spoilt] = f64::NAN;
                found[spoilt + 1] = f64::INFINITY;
            }
            let mut stored = HostBuffer::new(dtype, elements);
            numerics::store(dtype, &found, stored.memory());
            let mut kernel = open(&device, &program, &plan(dtype, &shape, 1, [0, 1]), TIMED);
            kernel.write(1, &BufferContent::Values(&found)).unwrap();
            assert!(
                bytes(kernel.as_ref(), 1) == stored.memory(),
                "{what}: stored"
            );

            // An oracle's outputs are doubles; another kernel's have the buffer's dtype.
            let wide = plan(DType::Float64, &shape, 1, [0, 1]);
            let mut oracle = open(&device, &program, &wide, TIMED);
            oracle.write(1, &BufferContent::Values(&right)).unwrap();
            let (of_oracle, not_finite) = read_expected(oracle.as_ref(), 1);
            assert_eq!(not_finite, None, "{what}");
            let mut other = open(&device, &program, &plan(dtype, &shape, 1, [0, 1]), TIMED);
            other.write(1, &BufferContent::Values(&right)).unwrap();
            let (of_other, _) = read_expected(other.as_ref(), 1);
            for tolerance in [loose, tight] {
                let host = numerics::compare(dtype, stored.memory(), &right, tolerance);
                for (name, expected) in [("oracle", &of_oracle), ("other", &of_other)] {
                    let found = compare_output(kernel.as_ref(), expected, tolerance);
                    assert_eq!(
                        comparison_bits(&found),
                        comparison_bits(&host),
                        "{what}, {name}: {found:?} and {host:?}"
                    );
                }
            }
            if elements > 100 {
                let mut bad = right.clone();
                bad[spoilt] = f64::NEG_INFINITY;
                oracle.write(1, &BufferContent::Values(&bad)).unwrap();
                assert_eq!(
                    read_expected(oracle.as_ref(), 1).1,
                    Some(spoilt as u64),
                    "{what}"
                );
            }
        }
    }
    Ok(())
}

fn copies_have_distinct_data_and_launches_stay_in_theirs() -> TestResult {
    let (_guard, device) = device()?;
    let program = program(&device, EVERY_THIRD);
    let plan = plan(DType::Float32, &[1000], 1, [1000, 4]);
    let timed = |copies| Purpose::Time {
        copies,
        cache: Some(Cache::Cold),
    };
    let mut kernel = open(&device, &program, &plan, timed(3));
    let mut one = open(&device, &program, &plan, timed(1));
    let normal = Distribution::new(DistributionKind::Normal(1.0));
    let content = BufferContent::Random {
        distribution: &normal,
        seed: 11,
    };
    kernel.write(0, &content).unwrap();
    let mut hashes = Vec::new();
    for copy in 0..3 {
        one.bind_copies(&[copy]).unwrap();
        one.write(0, &content).unwrap();
        let hash = one.hash(0).unwrap();
        assert_eq!(kernel.hash_copies(0, &[copy]).unwrap(), hash, "copy {copy}");
        assert!(!hashes.contains(&hash), "copy {copy} equals another");
        hashes.push(hash);
    }
    let poison = Poison::Finite { seed: 3 };
    kernel.write(1, &BufferContent::Poison(poison)).unwrap();
    launch(kernel.as_mut());
    assert_eq!(kernel.launched_copies().len(), 1);
    let nothing = PoisonCount {
        count: 0,
        first: None,
    };
    assert_eq!(kernel.written_in_idle_copies(1, poison).unwrap(), nothing);
    let PoisonCount { count, first } = kernel.unwritten(1, poison).unwrap();
    assert_eq!((count, first), (667, Some(0)));
    // Writes to the copies that were not launched are detected.
    let ones = Distribution::new(DistributionKind::Value(1.0));
    let content = BufferContent::Random {
        distribution: &ones,
        seed: 0,
    };
    kernel.write(1, &content).unwrap();
    let touched = PoisonCount {
        count: 2000,
        first: Some(0),
    };
    assert_eq!(
        kernel.written_in_idle_copies(1, Poison::Nan).unwrap(),
        touched
    );
    kernel.write(1, &BufferContent::Poison(poison)).unwrap();
    let launched = kernel.launch_sample(3, DEADLINE).unwrap();
    assert!(
        matches!(launched, LaunchOutcome::Finished { time } if time > Duration::ZERO),
        "{launched:?}"
    );
    let mut ran = kernel.launched_copies().to_vec();
    ran.sort_unstable();
    assert_eq!(ran, [0, 1, 2]);
    let count = kernel.unwritten(1, poison).unwrap().count;
    assert_eq!(count, 3 * 667);
    Ok(())
}

fn two_kernels_swap_their_placement() -> TestResult {
    let (_guard, device) = device()?;
    let program = program(&device, EVERY_THIRD);
    let plan = plan(DType::Int32, &[100], 1, [100, 4]);
    let mut kernels = [(); 2].map(|()| open(&device, &program, &plan, TIMED));
    for (kernel, value) in kernels.iter_mut().zip([1.0, 2.0]) {
        kernel
            .write(1, &BufferContent::Values(&[value; 100]))
            .unwrap();
    }
    let [one, other] = &mut kernels;
    one.swap_placement(other.as_mut()).unwrap();
    for (kernel, value) in kernels.iter_mut().zip([2.0, 1.0]) {
        launch(kernel.as_mut());
        let values = kernel.values(1).unwrap();
        assert_eq!(values[..3], [value, 0.0, value]);
    }
    Ok(())
}

/// Changes one byte, `a` bytes from the start.
const POKE: &str = "__global__ void f(signed char* y, long long a, long long b) {
    if (blockIdx.x == 0 && threadIdx.x == 0) y[a] = ~y[a];
}
";

fn guard_zone_damage_is_found_on_both_sides() -> TestResult {
    let (_guard, device) = device()?;
    let program = program(&device, POKE);
    for (purpose, elements, pokes) in [
        (TIMED, 1001, [-1, -256, 1001, 1001 + 255]),
        // The buffer ends at a multiple of 16, so 7 bytes leave 9 after them.
        (CHECK_END, 7, [-1, -4096, 7, 15]),
        (CHECK_START, 7, [7, 8, 4096, 60_000]),
    ] {
        for poke in pokes {
            let plan = plan(DType::Int8, &[elements as u64], 1, [poke, 0]);
            let mut kernel = open(&device, &program, &plan, purpose);
            kernel
                .write(1, &BufferContent::Poison(Poison::Nan))
                .unwrap();
            let guards = |kernel: &dyn BoundKernel, buffer| kernel.guard_damage(buffer).unwrap();
            assert_eq!(guards(kernel.as_ref(), 1), None, "{purpose:?}");
            launch(kernel.as_mut());
            let damage = if poke < 0 { poke } else { poke - elements };
            assert_eq!(
                guards(kernel.as_ref(), 1),
                Some(damage),
                "{purpose:?}, {poke}"
            );
            assert_eq!(guards(kernel.as_ref(), 0), None, "{purpose:?}");
        }
    }
    Ok(())
}

fn changed_device_variable_is_reported_and_restored() -> TestResult {
    let (_guard, device) = device()?;
    for (declaration, name) in [
        ("__device__ int kept = 3;", Some("kept")),
        (
            "namespace { __device__ int hidden = 3; }\n#define kept hidden",
            Some("hidden"),
        ),
        (
            "struct S { int a, b; };\n__device__ S both = {3, 0};\n#define kept both.a",
            Some("both"),
        ),
        ("__device__ int kept = 3;\n#define RESTORE kept = 3;", None),
    ] {
        let source = format!(
            "{declaration}
#ifndef RESTORE
#define RESTORE
#endif
__global__ void f(signed char* y, long long a, long long b) {{
    if (blockIdx.x != 0 || threadIdx.x != 0) return;
    y[0] = (signed char)kept;
    kept = 9;
    __threadfence();
    y[1] = (signed char)kept;
    RESTORE
}}
"
        );
        let program = program(&device, &source);
        let plan = plan(DType::Int8, &[2], 1, [0, 0]);
        let mut kernel = open(&device, &program, &plan, CHECK_END);
        for _ in 0..2 {
            launch(kernel.as_mut());
            // Each launch finds the original value.
            assert_eq!(bytes(kernel.as_ref(), 1), [3, 9], "{declaration}");
        }
        let expected = match name {
            Some(name) => PersistentState::Changed {
                variable: format!("`{name}`"),
                launch: 1,
            },
            None => PersistentState::Unchanged,
        };
        assert_eq!(kernel.persistent_state(), expected, "{declaration}");
    }
    Ok(())
}

/// Reads one byte, `a` bytes from the start.
const PEEK: &str = "__global__ void f(signed char* y, long long a, long long b) {
    if (blockIdx.x == 0 && threadIdx.x == 0 && ((volatile signed char*)y)[a] == 77) y[0] = 1;
}
";

/// After a fault a process has no context, so each fault happens in a child process, which runs this same test.
fn accesses_outside_the_buffers_fault() -> TestResult {
    let faults = ["write to an input", "read behind", "read before"];
    if let Ok(fault) = std::env::var(FAULT_VARIABLE) {
        return run_fault(&fault);
    }
    drop(device()?);
    for fault in faults {
        let child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "cuda_device::accesses_outside_the_buffers_fault",
                "--nocapture",
            ])
            .env(FAULT_VARIABLE, fault)
            .output()
            .unwrap();
        let [out, err] = [&child.stdout, &child.stderr].map(|text| String::from_utf8_lossy(text));
        assert!(
            child.status.success() && out.contains("faulted as expected"),
            "{fault}:\n{out}\n{err}"
        );
    }
    Ok(())
}

fn run_fault(fault: &str) -> TestResult {
    let (_guard, device) = device()?;
    // Mapped memory comes in units of 2 MiB on every supported GPU.
    let elements = 2 << 20;
    let (source, buffer, at, purpose) = match fault {
        "write to an input" => (POKE, 0, 5, CHECK_END),
        "read behind" => (PEEK, 1, elements, CHECK_END),
        "read before" => (PEEK, 1, -1, CHECK_START),
        other => panic!("no such fault: {other}"),
    };
    let program = program(&device, source);
    let plan = plan(DType::Int8, &[elements as u64], buffer, [at, 0]);
    let mut kernel = open(&device, &program, &plan, purpose);
    kernel
        .write(1, &BufferContent::Poison(Poison::Nan))
        .unwrap();
    match kernel.launch(DEADLINE).unwrap() {
        LaunchOutcome::Fault(refusal) => {
            assert_eq!(refusal.status, Status::OutOfBounds, "{refusal:?}")
        }
        finished => panic!("{fault}: {finished:?}"),
    }
    assert!(device.is_broken());
    assert!(
        kernel.launch(DEADLINE).is_err(),
        "a broken device must refuse to launch"
    );
    println!("faulted as expected");
    Ok(())
}

crate::harness::tests!(
    fill_poison_count_and_hash_match_the_host_bit_for_bit,
    comparisons_match_the_host_bit_for_bit,
    copies_have_distinct_data_and_launches_stay_in_theirs,
    two_kernels_swap_their_placement,
    guard_zone_damage_is_found_on_both_sides,
    changed_device_variable_is_reported_and_restored,
    accesses_outside_the_buffers_fault,
);
