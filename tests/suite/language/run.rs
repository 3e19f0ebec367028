//! Runs a device program and reads its output.

use std::time::Duration;

use kforge::device::cpu::CpuDevice;
use kforge::device::{
    Build, Compile, Compiled, Device, Edge, LaunchOutcome, Opened, Purpose, Refusal,
};
use kforge::kernel::plan::{
    Argument, ArgumentType, Buffer, BufferRole, EntryPoint, Launch, LaunchPlan, TranslationUnit,
};
use kforge::task::DType;

const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) fn device() -> CpuDevice {
    CpuDevice::new().expect("`cargo test` needs a C++ compiler")
}

/// A source with a kernel `f(long long* y, int n)`, and its launch.
pub(crate) struct TestProgram<'s> {
    pub(crate) source: &'s str,
    pub(crate) grid: u32,
    pub(crate) block: u32,
    /// Elements of `y`.
    pub(crate) count: u64,
}

impl TestProgram<'_> {
    pub(crate) fn compile(&self, device: &CpuDevice) -> Compiled {
        let unit = TranslationUnit {
            source: self.source.to_owned(),
            constants: Vec::new(),
            macros: Vec::new(),
            entry_points: vec![EntryPoint {
                expression: "f".to_owned(),
                arguments: vec![ArgumentType::Pointer(DType::Int64), ArgumentType::I32],
                argument_names: Vec::new(),
                line: 1,
            }],
            fast_math: false,
            max_registers: None,
            arch: None,
        };
        device.compile(&unit, Build::Fast).unwrap()
    }

    pub(crate) fn launch(&self, device: &CpuDevice) -> Result<Vec<i64>, Box<Refusal>> {
        self.launch_within(device, DEADLINE)
    }

    /// With another deadline, for a kernel that never ends.
    pub(crate) fn launch_within(
        &self,
        device: &CpuDevice,
        deadline: Duration,
    ) -> Result<Vec<i64>, Box<Refusal>> {
        let program = match self.compile(device) {
            Compiled::Ready(program) => program,
            Compiled::Refused(refusal) => return Err(Box::new(refusal)),
        };
        let plan = LaunchPlan {
            buffers: vec![Buffer {
                name: "y".to_owned(),
                role: BufferRole::Output,
                dtype: DType::Int64,
                shape: vec![self.count],
            }],
            launches: vec![Launch {
                entry_point: 0,
                grid: [self.grid, 1, 1],
                block: [self.block, 1, 1],
                shared: 0,
                cluster: None,
                cooperative: false,
                overlap: false,
                arguments: vec![Argument::Buffer(0), Argument::I32(self.count as i32)],
            }],
            outputs: vec![0],
            tensor_maps: Vec::new(),
        };
        let mut arm = match device
            .open(&program, &plan, Purpose::Check { edge: Edge::End })
            .unwrap()
        {
            Opened::Ready(arm) => arm,
            Opened::Refused(refusal) => return Err(Box::new(refusal)),
        };
        if let LaunchOutcome::Fault(refusal) = arm.launch(deadline).unwrap() {
            return Err(Box::new(refusal));
        }
        let bytes = arm.bytes(0).unwrap();
        let words = bytes.chunks_exact(8);
        Ok(words
            .map(|word| i64::from_le_bytes(word.try_into().unwrap()))
            .collect())
    }
}

/// Runs a source with at least one thread per element, in blocks of 128 threads.
pub(crate) fn run_kernel(device: &CpuDevice, source: &str, count: usize) -> Vec<i64> {
    let program = TestProgram {
        source,
        grid: count.div_ceil(128) as u32,
        block: 128,
        count: count as u64,
    };
    program
        .launch(device)
        .unwrap_or_else(|refusal| panic!("{refusal:#?}\n{source}"))
}

/// Evaluates `expressions` for every element; each gives one column of integers. They may use `i` and `bits(k)`, the k-th random
/// word of element i (`random_word` here).
pub(crate) fn evaluate_columns(
    device: &CpuDevice,
    head: &str,
    setup: &str,
    expressions: &[&str],
    rows: usize,
) -> Vec<Vec<i64>> {
    let mut body = String::new();
    for (column, expression) in expressions.iter().enumerate() {
        body.push_str(&format!(
            "  y[i * {} + {column}] = (long long)({expression});\n",
            expressions.len()
        ));
    }
    let source = format!(
        "{head}\n{DEVICE_RANDOM_WORD}\n__global__ void f(long long* y, int n) {{\n  const int i = blockIdx.x * blockDim.x + threadIdx.x;\n  if (i >= n / {}) return;\n  auto bits = [i](unsigned k) {{ return word((unsigned)i, k); }};\n  {setup}\n{body}}}\n",
        expressions.len()
    );
    let values = run_kernel(device, &source, rows * expressions.len());
    (0..expressions.len())
        .map(|column| {
            values
                .iter()
                .skip(column)
                .step_by(expressions.len())
                .copied()
                .collect()
        })
        .collect()
}

const DEVICE_RANDOM_WORD: &str = "__device__ inline unsigned word(unsigned i, unsigned k) { unsigned h = i * 2654435761u + k * 40503u; h ^= h >> 15; h *= 2246822519u; h ^= h >> 13; h *= 3266489917u; return h ^ h >> 16; }";

/// A pseudo-random word; the device program computes the same.
pub(crate) fn random_word(i: usize, k: u32) -> u32 {
    let mut h = (i as u32)
        .wrapping_mul(2_654_435_761)
        .wrapping_add(k.wrapping_mul(40_503));
    h ^= h >> 15;
    h = h.wrapping_mul(2_246_822_519);
    h ^= h >> 13;
    h = h.wrapping_mul(3_266_489_917);
    h ^ h >> 16
}

/// Compares every value with `expected(column, row)`.
pub(crate) fn assert_columns(
    expressions: &[&str],
    found: &[Vec<i64>],
    expected: impl Fn(usize, usize) -> i64,
) {
    for (column, values) in found.iter().enumerate() {
        for (row, value) in values.iter().enumerate() {
            let wanted = expected(column, row);
            assert_eq!(
                *value, wanted,
                "`{}` for element {row}: {value:#x}, not {wanted:#x}",
                expressions[column]
            );
        }
    }
}
