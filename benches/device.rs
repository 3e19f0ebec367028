//! Times of the CPU device: compiling, opening a kernel, an empty launch, and the judge's work on memory.
//!
//! Run it with `cargo bench --bench device` on an idle machine.

use std::time::{Duration, Instant};

use kforge::device::cpu::CpuDevice;
use kforge::device::{
    BoundKernel, BufferContent, Build, Compile, Compiled, Device, LaunchOutcome, Opened, Poison,
    Purpose, numerics,
};
use kforge::kernel::plan::{
    Argument, ArgumentType, Buffer, BufferRole, EntryPoint, Launch, LaunchPlan, TranslationUnit,
};
use kforge::task::{DType, Distribution, DistributionKind, Norm, Tolerance};

const BYTES: usize = 32 << 20;
const TIMED: Purpose = Purpose::Time {
    copies: 1,
    cache: None,
};

fn main() -> anyhow::Result<()> {
    let started = Instant::now();
    let device = CpuDevice::new()?;
    print_row("device ready", started.elapsed(), "");
    let salt = format!("{:?}", std::time::SystemTime::now());
    let source = "__global__ void f(float* x) {}\n";
    let mut seconds = Vec::new();
    for index in 0..5 {
        seconds.push(compile(&device, &format!("{source}// {salt} {index}\n"))?.1);
    }
    print_row("compile, new to the cache", median(seconds), "");
    let (program, cached) = compile(&device, &format!("{source}// {salt} 0\n"))?;
    print_row("compile, cached", cached, "");
    for elements in [1, BYTES as u64 / 4] {
        let plan = plan(elements);
        let open = || -> anyhow::Result<(Box<dyn BoundKernel>, Duration)> {
            let started = Instant::now();
            match device.open(&program, &plan, TIMED)? {
                Opened::Ready(kernel) => Ok((kernel, started.elapsed())),
                Opened::Refused(refusal) => anyhow::bail!(refusal.reason),
            }
        };
        let mut times = Vec::new();
        for _ in 0..10 {
            times.push(open()?.1);
        }
        print_row(
            "open a kernel",
            median(times),
            &format!("{} bytes", 4 * elements),
        );
        let (mut kernel, _) = open()?;
        bench_launches("an empty launch", kernel.as_mut())?;
    }
    bench_barriers(&device, &salt)?;
    let (mut kernel, _) = match device.open(&program, &plan(BYTES as u64 / 4), TIMED)? {
        Opened::Ready(kernel) => (kernel, ()),
        Opened::Refused(refusal) => anyhow::bail!(refusal.reason),
    };
    let distribution = normal(None);
    for (name, seed) in [("write, new values", 0..4), ("write, cached values", 3..4)] {
        let mut times = Vec::new();
        for seed in seed {
            let distribution = &distribution;
            times.push(timed(|| {
                kernel.write(0, &BufferContent::Random { distribution, seed })
            }));
        }
        print_rate(name, median(times), BYTES);
    }
    print_rate("hash of a kernel's buffer", timed(|| kernel.hash(0)), BYTES);
    bench_memory();
    Ok(())
}

/// The time of a launch by the judge's clock, and the time that the caller waits: it includes restoring the process's memory.
fn bench_launches(name: &str, kernel: &mut dyn BoundKernel) -> anyhow::Result<()> {
    let (mut launches, mut waits) = (Vec::new(), Vec::new());
    for _ in 0..1000 {
        let started = Instant::now();
        match kernel.launch(Duration::from_secs(1))? {
            LaunchOutcome::Finished { time } => launches.push(time),
            LaunchOutcome::Fault(refusal) => anyhow::bail!(refusal.reason),
        }
        waits.push(started.elapsed());
    }
    launches.sort();
    let detail = format!(
        "p10 {:?}, p90 {:?}; with its checks {:?}",
        launches[100],
        launches[900],
        median(waits)
    );
    print_row(name, launches[500], &detail);
    Ok(())
}

/// Launches whose threads all have a stack of their own.
fn bench_barriers(device: &CpuDevice, salt: &str) -> anyhow::Result<()> {
    let source = "__global__ void f(float* x) { __syncthreads(); }\n";
    let (program, _) = compile(device, &format!("{source}// {salt}\n"))?;
    for threads in [32, 256, 1024] {
        let mut plan = plan(1);
        plan.launches[0].block[0] = threads;
        let Opened::Ready(mut kernel) = device.open(&program, &plan, TIMED)? else {
            anyhow::bail!("an empty kernel was refused");
        };
        bench_launches(&format!("a barrier of {threads} threads"), kernel.as_mut())?;
    }
    Ok(())
}

/// The judge's functions on one core, over memory that is already allocated.
fn bench_memory() {
    let mut words = vec![1u64; BYTES / 8];
    // SAFETY: the words' memory as bytes.
    let bytes = unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u8>(), BYTES) };
    for dtype in [
        DType::Float32,
        DType::BFloat16,
        DType::Float16,
        DType::Float64,
        DType::Int32,
    ] {
        let elements = BYTES / dtype.bytes() as usize;
        let name = |function: &str| format!("{function} {dtype}");
        let best = |function: &mut dyn FnMut()| (0..3).map(|_| timed(&mut *function)).min();
        let measured = |function: &str, work: &mut dyn FnMut()| {
            print_rate(&name(function), best(work).unwrap_or_default(), BYTES);
        };
        measured("fill normal", &mut || {
            numerics::fill(dtype, bytes, 128, &normal(None), 5)
        });
        if dtype == DType::Float32 {
            measured("fill normalised", &mut || {
                numerics::fill(dtype, bytes, 128, &normal(Some(Norm::L2)), 5)
            });
            let uniform = Distribution::new(DistributionKind::Uniform([-1.0, 1.0]));
            measured("fill uniform", &mut || {
                numerics::fill(dtype, bytes, 128, &uniform, 5)
            });
        }
        let expected = numerics::values(dtype, bytes);
        assert_eq!(expected.len(), elements);
        let tolerance = Tolerance {
            rtol: 1e-3,
            atol_rms: 1e-3,
        };
        measured("compare", &mut || {
            assert_eq!(
                numerics::compare(dtype, bytes, &expected, tolerance).failed,
                0
            )
        });
        let mut state = 1u64;
        let near = expected.iter().map(|value| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            value * (1.0 + 1e-16 * (state >> 31) as f64)
        });
        let near: Vec<_> = near.collect();
        measured("compare near", &mut || {
            numerics::compare(dtype, bytes, &near, tolerance);
        });
        let finite = Poison::Finite { seed: 1 };
        measured("unwritten", &mut || {
            numerics::count_unwritten(dtype, bytes, finite);
        });
        measured("poison", &mut || numerics::poison(dtype, bytes, finite));
    }
    print_rate(
        "poison NaN",
        timed(|| numerics::poison(DType::Float32, bytes, Poison::Nan)),
        BYTES,
    );
    print_rate("hash", timed(|| numerics::hash(bytes)), BYTES);
}

fn normal(normalize: Option<Norm>) -> Distribution {
    Distribution {
        normalize,
        ..Distribution::new(DistributionKind::Normal(1.0))
    }
}

fn compile(
    device: &CpuDevice,
    source: &str,
) -> anyhow::Result<(kforge::device::Program, Duration)> {
    let unit = TranslationUnit {
        source: source.to_owned(),
        constants: Vec::new(),
        macros: Vec::new(),
        entry_points: vec![EntryPoint {
            expression: "f".to_owned(),
            arguments: vec![ArgumentType::Pointer(DType::Float32)],
            argument_names: Vec::new(),
            line: 1,
        }],
        fast_math: false,
        max_registers: None,
        arch: None,
    };
    let started = Instant::now();
    match device.compile(&unit, Build::Fast)? {
        Compiled::Ready(program) => Ok((program, started.elapsed())),
        Compiled::Refused(refusal) => anyhow::bail!(refusal.reason),
    }
}

fn plan(elements: u64) -> LaunchPlan {
    LaunchPlan {
        buffers: vec![Buffer {
            name: "x".to_owned(),
            role: BufferRole::Input,
            dtype: DType::Float32,
            shape: vec![elements],
        }],
        launches: vec![Launch {
            entry_point: 0,
            grid: [64, 1, 1],
            block: [32, 1, 1],
            shared: 0,
            cluster: None,
            cooperative: false,
            overlap: false,
            arguments: vec![Argument::Buffer(0)],
        }],
        outputs: Vec::new(),
        tensor_maps: Vec::new(),
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let started = Instant::now();
    std::hint::black_box(work());
    started.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn print_rate(name: &str, time: Duration, bytes: usize) {
    let gigabytes = bytes as f64 / time.as_secs_f64() / 1e9;
    print_row(name, time, &format!("{gigabytes:.2} GB/s"));
}

#[expect(clippy::print_stdout, reason = "a benchmark prints its results")]
fn print_row(name: &str, time: Duration, detail: &str) {
    println!("{name:<28} {time:>12.1?}  {detail}");
}
