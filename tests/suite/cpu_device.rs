//! The CPU device with a real compiler and real processes. A kernel's fault is a value, never an error.

use std::time::Duration;

use crate::code_cases;
use crate::header_cases::POINTER_CASES;
use crate::program::slowdown;
use kforge::device::cpu::CpuDevice;
use kforge::device::{
    BoundKernel, BufferContent, Build, Compile, Compiled, Device, Edge, ExpectedValues,
    LaunchOutcome, Opened, PersistentState, Poison, PoisonCount, Purpose, Refusal, code_hash,
};
use kforge::kernel::plan::{
    Argument, ArgumentType, Buffer, BufferRole, EntryPoint, Launch, LaunchPlan, TranslationUnit,
};
use kforge::task::{DType, Distribution, DistributionKind, Tolerance};
use kforge::verdict::Status;

const COUNT: u64 = 1000;
/// Long, because the machine may be busy. A kernel that faults ends earlier.
const DEADLINE: Duration = Duration::from_secs(60);
const CHECK_AT_END: Purpose = Purpose::Check { edge: Edge::End };
const EXACT: Tolerance = Tolerance {
    rtol: 1e-6,
    atol_rms: 1e-6,
};

fn device() -> CpuDevice {
    CpuDevice::new().expect("`cargo test` needs a C++ compiler")
}

/// A kernel with the parameters `(const float* x, float* y, int n)` and one launch.
struct TestKernel {
    source: String,
    expression: &'static str,
    arguments: Vec<ArgumentType>,
    grid: u32,
    block: u32,
    shared: u32,
}

fn kernel(source: &str) -> TestKernel {
    TestKernel {
        source: source.to_owned(),
        expression: "f",
        arguments: vec![
            ArgumentType::Pointer(DType::Float32),
            ArgumentType::Pointer(DType::Float32),
            ArgumentType::I32,
        ],
        grid: 8,
        block: 128,
        shared: 0,
    }
}

/// A kernel with this body.
fn body(body: &str) -> TestKernel {
    kernel(&format!(
        "__global__ void f(const float* x, float* y, int n) {{\n  int i = blockIdx.x * blockDim.x + threadIdx.x;\n{body}\n}}\n"
    ))
}

impl TestKernel {
    fn unit(&self) -> TranslationUnit {
        TranslationUnit {
            source: self.source.clone(),
            constants: vec![("WIDTH".to_owned(), 128)],
            macros: vec![("FACTOR".to_owned(), 3)],
            entry_points: vec![EntryPoint {
                expression: self.expression.to_owned(),
                arguments: self.arguments.clone(),
                argument_names: Vec::new(),
                line: 1,
            }],
            fast_math: false,
            max_registers: None,
            arch: None,
        }
    }

    fn plan(&self) -> LaunchPlan {
        let buffer = |name: &str, role| Buffer {
            name: name.to_owned(),
            role,
            dtype: DType::Float32,
            shape: vec![COUNT],
        };
        LaunchPlan {
            buffers: vec![
                buffer("x", BufferRole::Input),
                buffer("y", BufferRole::Output),
            ],
            launches: vec![Launch {
                entry_point: 0,
                grid: [self.grid, 1, 1],
                block: [self.block, 1, 1],
                shared: self.shared,
                cluster: None,
                cooperative: false,
                overlap: false,
                arguments: vec![
                    Argument::Buffer(0),
                    Argument::Buffer(1),
                    Argument::I32(COUNT as i32),
                ],
            }],
            outputs: vec![1],
            tensor_maps: Vec::new(),
        }
    }

    fn compile_refusal(&self, device: &CpuDevice) -> Refusal {
        match device.compile(&self.unit(), Build::Fast).unwrap() {
            Compiled::Refused(refusal) => refusal,
            Compiled::Ready(_) => panic!("compiled: {}", self.source),
        }
    }

    fn open(&self, device: &CpuDevice) -> Result<Box<dyn BoundKernel>, Box<Refusal>> {
        let program = match device.compile(&self.unit(), Build::Fast).unwrap() {
            Compiled::Ready(program) => program,
            Compiled::Refused(refusal) => panic!("{refusal:?}"),
        };
        match device.open(&program, &self.plan(), CHECK_AT_END).unwrap() {
            Opened::Ready(mut arm) => {
                fill(arm.as_mut());
                Ok(arm)
            }
            Opened::Refused(refusal) => Err(Box::new(refusal)),
        }
    }

    fn launch_fault(&self, device: &CpuDevice) -> Refusal {
        let mut arm = self.open(device).unwrap();
        match arm.launch(DEADLINE).unwrap() {
            LaunchOutcome::Fault(refusal) => refusal,
            LaunchOutcome::Finished { .. } => panic!("finished: {}", self.source),
        }
    }

    /// Launches twice on fresh data and checks that `y` is `expected(x)` each time.
    fn assert_computes(&self, device: &CpuDevice, expected: impl Fn(&[f64]) -> Vec<f64>) {
        let mut arm = self.open(device).unwrap();
        for _ in 0..2 {
            fill(arm.as_mut());
            let launched = arm.launch(DEADLINE).unwrap();
            assert!(
                matches!(launched, LaunchOutcome::Finished { time } if time > Duration::ZERO),
                "{launched:?}"
            );
            let x = arm.values(0).unwrap();
            let expected = ExpectedValues::Host(expected(&x));
            let comparison = arm.compare(1, &[0], &expected, EXACT).unwrap();
            assert_eq!(comparison.failed, 0, "{comparison:?}\n{}", self.source);
            for buffer in 0..2 {
                assert_eq!(arm.guard_damage(buffer).unwrap(), None);
            }
        }
    }
}

fn fill(arm: &mut dyn BoundKernel) {
    let distribution = Distribution::new(DistributionKind::Normal(1.0));
    arm.write(
        0,
        &BufferContent::Random {
            distribution: &distribution,
            seed: 7,
        },
    )
    .unwrap();
    arm.write(1, &BufferContent::Poison(Poison::Nan)).unwrap();
}

/// For every element of `x`, the sum over its block of 128 elements.
fn block_sums(x: &[f64]) -> Vec<f64> {
    x.chunks(128)
        .flat_map(|chunk| vec![chunk.iter().sum::<f64>(); chunk.len()])
        .collect()
}

#[test]
fn honest_kernels_compute_expected_values() {
    let device = device();
    body("  if (i < n) y[i] = x[i] + FACTOR;").assert_computes(&device, |x| {
        x.iter().map(|x| f64::from(*x as f32 + 3.0)).collect()
    });
    let reduction = |declaration: &str| {
        body(&format!(
            "  {declaration}\n  s[threadIdx.x] = i < n ? x[i] : 0;\n  __syncthreads();\n  double sum = 0;\n  for (int j = 0; j < WIDTH; ++j) sum += s[j];\n  if (i < n) y[i] = sum;"
        ))
    };
    reduction("__shared__ float s[WIDTH];").assert_computes(&device, block_sums);
    reduction("__shared__ struct { float kept[WIDTH]; int other, third; } a; float* s = a.kept;")
        .assert_computes(&device, block_sums);
    let mut dynamic = reduction("extern __shared__ float s[];");
    dynamic.shared = 4 * 128;
    dynamic.assert_computes(&device, block_sums);
    let mut template = kernel(
        "template <typename T, int N> __global__ void __launch_bounds__(128) f(const T* __restrict__ x, T* y, int n) {\n  __shared__ T s[N];\n  int i = blockIdx.x * N + threadIdx.x;\n  s[threadIdx.x] = i < n ? x[i] : T(0);\n  __syncthreads();\n  double sum = 0;\n  for (int j = 0; j < N; ++j) sum += s[j];\n  if (i < n) y[i] = T(sum);\n}\n",
    );
    template.expression = "f<float, WIDTH>";
    template.assert_computes(&device, block_sums);
}

/// Variables of a function marked `inline` or `extern "C"` are not at namespace scope.
#[test]
fn shared_memory_works_in_every_kind_of_function() {
    let device = device();
    kernel(
        "namespace { struct Summed { template <int N> static inline __device__ double of(float value) {\n  __shared__ float s[N], t[2];\n  s[threadIdx.x] = value;\n  __syncthreads();\n  double sum = 0;\n  for (int j = 0; j < N; ++j) sum += s[j];\n  return sum;\n} }; }\ninline __device__ double twice(float value) {\n  __shared__ double first[2];\n  if (threadIdx.x == 0) first[1] = value;\n  __syncthreads();\n  return first[1] * 2;\n}\nextern \"C\" __global__ void f(const float* x, float* y, int n) {\n  __shared__ alignas(16) volatile float last;\n  __shared__ alignas(double) unsigned char raw[sizeof(double)];\n  int i = blockIdx.x * WIDTH + threadIdx.x;\n  float value = i < n ? x[i] : 0;\n  double sum = Summed::of<WIDTH>(value);\n  double first = twice(value);\n  if (threadIdx.x == 5) last = *reinterpret_cast<double*>(raw) = first - first;\n  __syncthreads();\n  if (i < n) y[i] = sum + last + *reinterpret_cast<double*>(raw);\n}\n",
    )
    .assert_computes(&device, block_sums);
}

#[test]
fn memory_faults_name_the_buffer() {
    let device = device();
    let far = body("  if (i == 0) y[n + 100000] = 1;").launch_fault(&device);
    assert_eq!(far.status, Status::OutOfBounds, "{far:?}");
    assert!(
        far.reason.contains("400000 bytes past the end of `y`"),
        "{far:?}"
    );
    let before = body("  if (i == 0) y[1] = x[-100000];").launch_fault(&device);
    assert_eq!(before.status, Status::OutOfBounds, "{before:?}");
    assert!(
        before
            .reason
            .contains("400000 bytes before the start of `x`"),
        "{before:?}"
    );
    let shared = body("  __shared__ float s[4];\n  extern __shared__ float d[];\n  d[i] = s[3];\n  d[1000000 + i] = 1; y[i] = d[5];").launch_fault(&device);
    assert!(
        matches!(shared.status, Status::OutOfBounds | Status::Crashed),
        "{shared:?}"
    );
}

#[test]
fn write_past_a_buffer_damages_its_guard_zone() {
    let device = device();
    for (body_text, damage) in [
        ("  if (i <= n) y[i] = 0;", 0),
        ("  if (i == 0) y[-2] = 0;", -5),
    ] {
        let mut arm = body(body_text).open(&device).unwrap();
        assert!(matches!(
            arm.launch(DEADLINE).unwrap(),
            LaunchOutcome::Finished { .. }
        ));
        assert_eq!(arm.guard_damage(1).unwrap(), Some(damage));
        assert_eq!(arm.guard_damage(0).unwrap(), None);
        fill(arm.as_mut());
        assert_eq!(arm.guard_damage(1).unwrap(), None);
    }
}

#[test]
fn each_fault_has_its_own_status() {
    let device = device();
    for (text, status, words) in [
        (
            "  *(volatile int*)nullptr = 1; y[0] = 0;",
            Status::Crashed,
            "segmentation fault",
        ),
        (
            "  volatile int zero = n - n; y[0] = n / zero;",
            Status::Crashed,
            "arithmetic fault",
        ),
        ("  __trap();", Status::Crashed, "signal"),
        (
            "  if (threadIdx.x < 16) __syncthreads(); else { __syncwarp(); __syncthreads(); }\n  if (i < n) y[i] = 0;",
            Status::SyncError,
            "",
        ),
    ] {
        let refusal = body(text).launch_fault(&device);
        assert_eq!(refusal.status, status, "{refusal:?}");
        assert!(refusal.reason.contains(words), "{refusal:?}");
    }
    let printing = body("  for (int j = 0; j < 100000; ++j) printf(\"a line of words %d\\n\", j);")
        .launch_fault(&device);
    assert_eq!(printing.status, Status::LimitExceeded, "{printing:?}");
    assert!(
        printing
            .evidence
            .log
            .is_some_and(|log| log.len() < 4000 && log.contains("a line"))
    );
}

#[test]
fn two_kernels_open_at_the_same_time() {
    let device = device();
    let sum = body("  if (i < n) y[i] = x[i] + FACTOR;");
    let product = body("  if (i < n) y[i] = x[i] * FACTOR;");
    let program = |kernel: &TestKernel| match device.compile(&kernel.unit(), Build::Fast).unwrap() {
        Compiled::Ready(program) => program,
        Compiled::Refused(refusal) => panic!("{refusal:?}"),
    };
    let (sum, product) = (program(&sum), program(&product));
    let plan = body("").plan();
    let mut with_clusters = plan.clone();
    with_clusters.launches[0].cluster = Some([2, 1, 1]);
    let open = |pair| device.open_pair(pair, CHECK_AT_END).unwrap();
    let computes = |opened: Opened, expected: fn(f64) -> f64| {
        let Opened::Ready(mut kernel) = opened else {
            panic!("an honest kernel was refused");
        };
        fill(kernel.as_mut());
        let outcome = kernel.launch(DEADLINE).unwrap();
        assert!(matches!(outcome, LaunchOutcome::Finished { .. }));
        let x = kernel.values(0).unwrap();
        let expected = ExpectedValues::Host(x.into_iter().map(expected).collect());
        let comparison = kernel.compare(1, &[0], &expected, EXACT).unwrap();
        assert_eq!(comparison.failed, 0, "{comparison:?}");
    };
    let [one, other] = open([(&sum, &plan), (&product, &plan)]);
    computes(one, |x| x + 3.0);
    computes(other, |x| x * 3.0);
    let [refused, one] = open([(&product, &with_clusters), (&sum, &plan)]);
    computes(one, |x| x + 3.0);
    let [other, refused_again] = open([(&product, &plan), (&sum, &with_clusters)]);
    computes(other, |x| x * 3.0);
    for refused in [refused, refused_again] {
        let Opened::Refused(refusal) = refused else {
            panic!("a kernel with clusters was opened");
        };
        assert_eq!(refusal.status, Status::Unsupported, "{refusal:?}");
    }
}

#[test]
fn hang_ends_at_its_deadline() {
    let device = device();
    for text in [
        "  while (*(volatile const float*)x != 77.5f) {} y[0] = 1;",
        "  if (i == 0) while (atomicAdd((int*)&y[1], 0) != 12345) __nanosleep(100);",
    ] {
        let mut arm = body(text).open(&device).unwrap();
        let begun = std::time::Instant::now();
        let deadline = Duration::from_millis(300);
        let launched = arm.launch(deadline).unwrap();
        let late = begun.elapsed().saturating_sub(deadline);
        assert!(
            matches!(&launched, LaunchOutcome::Fault(refusal) if refusal.status == Status::TimedOut),
            "{launched:?}"
        );
        let most = Duration::from_secs(2).mul_f64(slowdown());
        assert!(late < most, "{late:?} late");
        assert!(arm.launch(deadline).is_err(), "a dead arm launches no more");
    }
    // Nothing of a kernel runs before its first launch.
    let early = kernel(
        "__device__ int spin() { volatile int x = 0; while (x == 0) {} return x; }\n__device__ int never = spin();\n__global__ void f(const float* x, float* y, int n) { y[0] = never; }\n",
    );
    let refusal = early.compile_refusal(&device);
    assert_eq!(refusal.status, Status::CompileError, "{refusal:?}");
}

/// The processor time of each thread of the processes that run this program, in ticks of the system (10 ms), most first.
fn thread_times(image: &std::path::Path) -> Vec<u64> {
    let folders =
        |path: std::path::PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten();
    let mut times: Vec<u64> = Vec::new();
    for process in folders("/proc".into()) {
        let runs_it = std::fs::read_link(process.path().join("exe"));
        if runs_it.is_ok_and(|executable| executable == image) {
            for thread in folders(process.path().join("task")) {
                let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
                let fields = stat.rsplit(')').next().unwrap_or_default();
                // The 12th and 13th field after the name: in the program and in the system.
                let fields = fields.split_whitespace().skip(11).take(2);
                times.push(fields.map(|ticks| ticks.parse::<u64>().unwrap()).sum());
            }
        }
    }
    times.sort_unstable_by(|one, other| other.cmp(one));
    times
}

#[test]
fn idle_thread_of_an_oracle_leaves_its_core_to_others() {
    let device = device();
    // One block, which never ends: the other threads of the process have nothing to do.
    let mut endless = body("  while (*(volatile const float*)x != 77.5f) {} y[0] = 1;");
    endless.grid = 1;
    let Compiled::Ready(program) = device.compile(&endless.unit(), Build::Fast).unwrap() else {
        panic!()
    };
    let image = std::fs::canonicalize(&program.image).unwrap();
    let purpose = Purpose::Expect { copies: 1 };
    let Opened::Ready(mut arm) = device.open(&program, &endless.plan(), purpose).unwrap() else {
        panic!()
    };
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let is_running = || !is_over.load(std::sync::atomic::Ordering::Relaxed);
    let mut times = Vec::new();
    std::thread::scope(|scope| {
        // Others want every core.
        for _ in 0..std::thread::available_parallelism().unwrap().get() {
            scope.spawn(|| while is_running() {});
        }
        scope.spawn(|| {
            while is_running() {
                let now = thread_times(&image);
                // The process ends before its last launch is reported.
                if !now.is_empty() {
                    times = now;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        arm.launch(Duration::from_millis(1500)).unwrap();
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    for idle in &times[1..] {
        assert!(idle * 4 <= times[0] + 12, "{times:?}");
    }
}

#[test]
fn unwritten_elements_are_counted() {
    let device = device();
    let half = body("  if (i < n / 2) y[i] = x[i];");
    let mut arm = half.open(&device).unwrap();
    for poison in [
        Poison::Nan,
        Poison::SecretNan { seed: 3 },
        Poison::Finite { seed: 3 },
    ] {
        arm.write(1, &BufferContent::Poison(poison)).unwrap();
        arm.launch(DEADLINE).unwrap();
        assert_eq!(
            arm.unwritten(1, poison).unwrap(),
            PoisonCount {
                count: COUNT / 2,
                first: Some(COUNT / 2)
            }
        );
    }
}

#[test]
fn same_seed_fills_every_bound_kernel_alike() {
    let device = device();
    let kernel = body("  if (i < n) y[i] = 0;");
    let (one, other) = (kernel.open(&device).unwrap(), kernel.open(&device).unwrap());
    assert_eq!(one.hash(0).unwrap(), other.hash(0).unwrap());
    assert_ne!(one.hash(0).unwrap(), one.hash(1).unwrap());
}

#[test]
fn dropped_bound_kernel_leaves_no_process() {
    let device = device();
    let kernel = body("  if (i < n) y[i] = 41;");
    let Compiled::Ready(program) = device.compile(&kernel.unit(), Build::Fast).unwrap() else {
        panic!()
    };
    let image = std::fs::canonicalize(&program.image).unwrap();
    let running = || {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        processes
            .filter(|process| {
                std::fs::read_link(process.path().join("exe"))
                    .is_ok_and(|executable| executable == image)
            })
            .count()
    };
    let mut arm = kernel.open(&device).unwrap();
    arm.launch(DEADLINE).unwrap();
    assert_eq!(running(), 1);
    drop(arm);
    assert_eq!(running(), 0);
}

#[test]
fn hash_of_code_ignores_names_and_lines() {
    let device = device();
    let hash = |source: &str, factor: i64| {
        let mut unit = kernel(source).unit();
        unit.macros = vec![("FACTOR".to_owned(), factor)];
        match device.compile(&unit, Build::Fast).unwrap() {
            Compiled::Ready(program) => code_hash(&program).unwrap(),
            Compiled::Refused(refusal) => panic!("{refusal:?}"),
        }
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
}

#[test]
fn compile_error_names_the_line_of_the_kernel_file() {
    let device = device();
    let broken =
        body("  __shared__ float\n    s[4];\n  s[0] = undeclared;").compile_refusal(&device);
    assert_eq!(broken.status, Status::CompileError);
    assert_eq!(broken.evidence.line, Some(5), "{broken:?}");
    let log = broken.evidence.log.unwrap();
    assert!(
        log.contains("kernel.cu:5:") && log.contains("undeclared") && !log.contains('/'),
        "{log}"
    );
    assert!(log.len() < 5000);
}

#[test]
fn wrong_argument_types_name_the_argument() {
    let device = device();
    let mut wrong = kernel("\n\n__global__ void f(const float* x, double* y, int n) {}\n");
    let refusal = wrong.compile_refusal(&device);
    assert_eq!(refusal.status, Status::CompileError);
    assert_eq!(
        refusal.reason,
        "line 1: argument 2: the header passes `float*`, the kernel takes `double*`"
    );
    assert_eq!(refusal.evidence.line, Some(1), "{refusal:?}");
    let log = refusal.evidence.log.unwrap();
    assert!(!log.contains("/runtime-"), "{log}");
    wrong.arguments.pop();
    let refusal = wrong.compile_refusal(&device);
    assert!(
        refusal
            .reason
            .contains("takes 3 arguments (`const float*`, `double*`, `int`), the header passes 2"),
        "{refusal:?}"
    );
    wrong.expression = "no_such_kernel";
    let refusal = wrong.compile_refusal(&device);
    assert!(refusal.reason.contains("no_such_kernel"), "{refusal:?}");
    assert_eq!(refusal.evidence.line, Some(1), "{refusal:?}");
}

#[test]
fn pointers_may_be_taken_as_other_types_of_the_same_size() {
    let device = device();
    for case in &POINTER_CASES {
        let mut kernel = kernel(case.source);
        kernel.arguments = case.passed.to_vec();
        let reason = match device.compile(&kernel.unit(), Build::Fast).unwrap() {
            Compiled::Ready(_) => None,
            Compiled::Refused(refusal) => Some(refusal.reason),
        };
        assert_eq!(reason.as_deref(), case.reason);
    }
}

#[test]
fn unsupported_features_are_refused_with_their_line() {
    let device = device();
    for (text, status) in [
        ("  nvcuda::wmma::fragment<int> a;", Status::Unsupported),
        ("  f<<<1, 1>>>(x, y, n);", Status::Rejected),
    ] {
        let refusal = body(&format!("\n{text}")).compile_refusal(&device);
        assert_eq!(
            (refusal.status, refusal.evidence.line),
            (status, Some(4)),
            "{refusal:?}"
        );
    }
    let refusal = body("\n  asm volatile(\"cp.async.wait_all;\");").launch_fault(&device);
    assert_eq!(
        (refusal.status, refusal.evidence.line),
        (Status::Unsupported, Some(4)),
        "{refusal:?}"
    );
    let mut plan = body("").plan();
    plan.launches[0].cluster = Some([2, 1, 1]);
    let Compiled::Ready(program) = device.compile(&body("").unit(), Build::Fast).unwrap() else {
        panic!()
    };
    let Opened::Refused(refusal) = device.open(&program, &plan, CHECK_AT_END).unwrap() else {
        panic!()
    };
    assert_eq!(refusal.status, Status::Unsupported);
}

/// Memory in which a kernel tries to leave a mark for its next launch.
struct Hideout {
    declarations: &'static str,
    /// Statements that declare `mark`, a volatile variable of 4 bytes in that memory.
    mark: &'static str,
    expected: Hidden,
}

/// What the judge does about a mark.
#[derive(Debug, PartialEq)]
enum Hidden {
    /// It is erased, and no finding: the memory also changes without the kernel's doing.
    Erased,
    /// It is erased, and a finding with this name.
    Named(&'static str),
    /// The launch ends with this status.
    Refused(Status),
}

/// A source cannot name the runtime's variables, but it can search for the one that points to the control page.
const FIND_CONTROL_PAGE: &str = "extern \"C\" char __bss_start[], _end[]; __device__ size_t control_page() { for (size_t* at = (size_t*)__bss_start; at < (size_t*)_end; ++at) if (*at > (1ull << 40) && *at % 4096 == 0 && *(volatile unsigned*)*at == 0x6b666f72u) return *at; return 0; }";

const HIDEOUTS: &[Hideout] = &[
    Hideout {
        declarations: "__device__ int kept;",
        mark: "volatile int& mark = kept;",
        expected: Hidden::Named("`kept`"),
    },
    Hideout {
        declarations: "",
        mark: "static volatile int seen; volatile int& mark = seen;",
        expected: Hidden::Named("`seen`"),
    },
    Hideout {
        declarations: "__device__ __align__(64) char one = 1, other = 1;",
        mark: "volatile int& mark = *(volatile int*)((&one < &other ? &one : &other) + 8); y[1] = one + other;",
        expected: Hidden::Named("memory between its variables"),
    },
    Hideout {
        declarations: "__device__ int last; extern \"C\" char _end;",
        mark: "volatile int& mark = *(volatile int*)(((size_t)&_end | 4095) - 3); y[1] = last;",
        expected: Hidden::Named("memory behind its variables"),
    },
    Hideout {
        declarations: FIND_CONTROL_PAGE,
        mark: "volatile int& mark = *(volatile int*)((char*)control_page() + 3000);",
        expected: Hidden::Named("the control page"),
    },
    Hideout {
        declarations: FIND_CONTROL_PAGE,
        mark: "volatile int& mark = *(volatile int*)((control_page() + 37800 | 4095) - 3);",
        expected: Hidden::Named("the control page"),
    },
    Hideout {
        declarations: "extern \"C\" char** environ;",
        mark: "volatile int& mark = *(volatile int*)&environ;",
        expected: Hidden::Erased,
    },
    Hideout {
        declarations: "extern \"C\" int* __errno_location();",
        mark: "volatile int& mark = *(volatile int*)__errno_location();",
        expected: Hidden::Erased,
    },
    Hideout {
        declarations: "",
        mark: "volatile int& mark = *(volatile int*)((char*)__builtin_frame_address(0) - 3000);",
        expected: Hidden::Erased,
    },
    Hideout {
        declarations: "",
        mark: "volatile int& mark = *(volatile int*)((char*)__builtin_frame_address(0) - 30000);",
        expected: Hidden::Erased,
    },
    Hideout {
        declarations: "",
        mark: "__shared__ int used[4]; volatile int& mark = ((volatile int*)used)[1000];",
        expected: Hidden::Erased,
    },
    Hideout {
        declarations: "",
        mark: "volatile int& mark = ((volatile int*)&gridDim)[3];",
        expected: Hidden::Erased,
    },
    Hideout {
        declarations: "extern \"C\" void* sbrk(long);",
        mark: "volatile int& mark = *(volatile int*)((char*)sbrk(0) - 64);",
        expected: Hidden::Erased,
    },
    Hideout {
        declarations: "extern \"C\" char** environ;",
        mark: "volatile int& mark = *(volatile int*)environ[-2];",
        expected: Hidden::Erased,
    },
    Hideout {
        declarations: "",
        mark: "volatile int& mark = ((volatile int*)y)[n + 3];",
        expected: Hidden::Erased,
    },
    Hideout {
        declarations: "extern \"C\" char** environ;",
        mark: "volatile int& mark = *(volatile int*)((char*)environ - (600 << 10));",
        expected: Hidden::Refused(Status::Stateful),
    },
    Hideout {
        declarations: "extern \"C\" int raise(int);",
        mark: "volatile int none = 0; volatile int& mark = none; raise(19);",
        expected: Hidden::Refused(Status::Stateful),
    },
    Hideout {
        declarations: "extern \"C\" void* mmap(void*, size_t, int, int, int, long);",
        mark: "void* made = mmap((void*)0x700000000000, 4096, 3, 0x100022, -1, 0); volatile int none = 0; volatile int& mark = made == (void*)-1 ? none : *(volatile int*)made;",
        expected: Hidden::Erased,
    },
    Hideout {
        declarations: "extern \"C\" int mprotect(void*, size_t, int); __constant__ int table = 7; const char* text = \"letters\";",
        mark: "char* page = (char*)((size_t)text & ~(size_t)4095); mprotect(page, 4096, 3); volatile int& mark = *(volatile int*)page; y[1] = table;",
        expected: Hidden::Refused(Status::Crashed),
    },
    Hideout {
        declarations: "extern \"C\" int sigprocmask(int, const void*, void*);",
        mark: "unsigned long mask[16] = {}; sigprocmask(0, nullptr, mask); volatile int& mark = *(volatile int*)mask;",
        expected: Hidden::Refused(Status::Crashed),
    },
    Hideout {
        declarations: "extern \"C\" int sigaltstack(const void*, void*);",
        mark: "void* stack[3] = {}; sigaltstack(nullptr, stack); volatile int& mark = *(volatile int*)stack;",
        expected: Hidden::Refused(Status::Crashed),
    },
    #[cfg(target_arch = "x86_64")]
    Hideout {
        declarations: "struct Control { operator int() const { return (__builtin_ia32_stmxcsr() >> 15 & 1) ? 0x5eed : 0; } void operator=(int) { __builtin_ia32_ldmxcsr(0x9f80); } };",
        mark: "Control mark;",
        expected: Hidden::Erased,
    },
    #[cfg(target_arch = "x86_64")]
    Hideout {
        declarations: SEGMENT_BASE,
        mark: "Segment mark;",
        expected: Hidden::Erased,
    },
];

/// A register that programs can write where the processor has `fsgsbase`.
#[cfg(target_arch = "x86_64")]
const SEGMENT_BASE: &str = "struct Segment { __attribute__((target(\"fsgsbase\"))) operator int() const { return (int)__builtin_ia32_rdgsbase64(); } __attribute__((target(\"fsgsbase\"))) void operator=(int mark) { __builtin_ia32_wrgsbase64(mark); } };";

/// Launches three times on one block of one thread. `y[0]` says whether a launch found the mark of an earlier one.
fn look_for_mark(device: &CpuDevice, hideout: &Hideout) -> Hidden {
    let mut kernel = kernel(&format!(
        "{}\n__global__ void f(const float* x, float* y, int n) {{\n{}\nconst int MARK = 0x5eed;\ny[0] = mark == MARK ? 1 : 0;\nmark = MARK;\n}}\n",
        hideout.declarations, hideout.mark
    ));
    (kernel.grid, kernel.block) = (1, 1);
    let mut arm = kernel.open(device).unwrap();
    for launch in 0..3 {
        fill(arm.as_mut());
        if let LaunchOutcome::Fault(refusal) = arm.launch(DEADLINE).unwrap() {
            return Hidden::Refused(refusal.status);
        }
        let found = arm.values(1).unwrap()[0];
        assert_eq!(found, 0.0, "launch {launch}: {}", hideout.mark);
    }
    match arm.persistent_state() {
        PersistentState::Changed { variable, launch } => {
            assert_eq!(launch, 1, "{}", hideout.mark);
            let names = HIDEOUTS.iter().map(|other| &other.expected);
            let mut names = names.filter_map(|expected| match expected {
                Hidden::Named(name) => Some(*name),
                _ => None,
            });
            Hidden::Named(names.find(|name| *name == variable).unwrap_or("other"))
        }
        PersistentState::Unchanged => Hidden::Erased,
    }
}

#[test]
fn no_mark_survives_a_launch() {
    let device = device();
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    for hideout in HIDEOUTS {
        if hideout.declarations.contains("fsgsbase") && !processor.contains("fsgsbase") {
            continue;
        }
        let found = look_for_mark(&device, hideout);
        assert_eq!(found, hideout.expected, "{}", hideout.mark);
    }
}

#[test]
fn launches_on_all_threads_begin_alike() {
    let device = device();
    // Every thread waits at barriers, so it has a stack of its own. The mark is in the part of it that the kernel does not use.
    let marked = kernel(
        "__global__ void f(const float* x, float* y, int n) {\n  int i = blockIdx.x * blockDim.x + threadIdx.x;\n  volatile int* mark = (volatile int*)((char*)__builtin_frame_address(0) - 2000);\n  __syncthreads();\n  if (i < n) y[i] = *mark == 0x5eed ? 1 : x[i];\n  *mark = 0x5eed;\n  __syncthreads();\n}\n",
    );
    let mut one_block = marked;
    one_block.grid = 1;
    let mut arm = one_block.open(&device).unwrap();
    for _ in 0..3 {
        fill(arm.as_mut());
        arm.launch(DEADLINE).unwrap();
        assert_eq!(arm.values(1).unwrap()[..128], arm.values(0).unwrap()[..128]);
        assert_eq!(arm.persistent_state(), PersistentState::Unchanged);
    }
}

#[test]
fn honest_kernels_leave_nothing_behind() {
    let device = device();
    for text in [
        "  if (i < n) { y[i] = lgammaf(fabsf(x[i]) + 1); if (i < 3) printf(\"%d %.3f\\n\", i, x[i]); }",
        "  __shared__ float s[32]; float v = i < n ? x[i] : 0; for (int o = 16; o > 0; o /= 2) v += __shfl_xor_sync(~0u, v, o); if (threadIdx.x % 32 == 0) s[threadIdx.x / 32] = v; __syncthreads(); if (i < n) y[i] = s[0];",
        "  static const float table[4] = {1, 2, 3, 4}; if (i < n) y[i] = table[i % 4] * x[i]; assert(n > 0);",
    ] {
        let mut arm = body(text).open(&device).unwrap();
        for _ in 0..3 {
            fill(arm.as_mut());
            let launched = arm.launch(DEADLINE).unwrap();
            assert!(
                matches!(launched, LaunchOutcome::Finished { .. }),
                "{launched:?}"
            );
            assert_eq!(arm.persistent_state(), PersistentState::Unchanged, "{text}");
        }
    }
}

#[test]
fn device_heap_is_refused_where_a_kernel_reaches_it() {
    let device = device();
    let words =
        "line 3: memory from the device's heap is not accepted: use `scratch` in the header";
    for text in [
        "  float* p = (float*)malloc(4); *p = 1; y[0] = *p; free(p);",
        "  if (n < 0) *(float**)y = new float(1);",
        "  struct Base { virtual ~Base() {} }; delete (Base*)y;",
        "  free(calloc(4, 4));",
    ] {
        let refusal = body(text).compile_refusal(&device);
        assert_eq!(refusal.status, Status::Rejected, "{text}: {refusal:?}");
        assert_eq!(refusal.reason, words, "{text}");
    }
    let uncalled = "float* make(int n) { return n > 3 ? (float*)malloc(n) : new float[n]; }\n__global__ void f(const float* x, float* y, int n) { y[0] = 1; }\n";
    kernel(uncalled).open(&device).unwrap();
}
