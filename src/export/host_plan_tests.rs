//! The launch plans of exported Python and Rust against those of the judge: every launch of every workload, argument by argument.

use std::fmt::Write;
use std::process::Command;

use super::tests::exported;
use super::*;
use crate::kernel::plan::{Argument, LaunchPlan};
use crate::kernel::{DeviceLimits, Kernel, LaunchTarget, Scalars};
use crate::task::{DType, InputSource, Task, TaskFiles, Workload};

const LIMITS: DeviceLimits = DeviceLimits {
    sm_count: 132,
    max_shared_bytes: 232_448,
};

/// A kernel that uses what shipped kernels do not.
const EVERYTHING: &str = "/* kforge
launch:
  - {kernel: first, grid: [min(rows, 7), 1, 2], block: \"32, 4\", args: \"x, sums, 3, -2.5, true, nullptr, rows * columns, i64(rows // 3)\"}
  - kernel: second<SIZE>
    grid: 4 * sm_count
    block: SIZE
    shared: max_shared_bytes - 65536
    cluster: \"2\"
    cooperative: true
    overlap: true
    when: rows > 100 or columns % 2 == 0
    args: \"sums, output, f64(0.1), f16(1e-7), bf16(-5.3), u32(columns), i32(-rows), f32(next_pow2(columns)), 0.5\"
tunables: {SIZE: [64, 128]}
variants: [{when: \"columns > 500 and not rows == 3\", SIZE: 128}]
scratch:
  gaps: {dtype: bfloat16, shape: \"rows, 3\", zero: true}
  sums: {dtype: float32, shape: \"ceil_div(columns, SIZE), rows\"}
*/
__global__ void first(const float* x, float* sums, int count, float f, bool b, const int* n, int size, long long third) {}
template <int N>
__global__ void second(const float* sums, float* output, double a, __half h, __nv_bfloat16 g, unsigned c, int r, float p, double half) {}
";

fn scalars(task: &Task, workload: &Workload) -> Scalars {
    let inputs = task.definition.inputs.iter();
    let scalars = inputs.filter(|(_, tensor)| tensor.shape.is_none());
    let value = |name: &String| match workload.inputs.get(name) {
        Some(InputSource::Scalar(value)) => *value,
        _ => task.usual_value(name).unwrap_or(0.0),
    };
    scalars
        .map(|(name, _)| (name.clone(), value(name)))
        .collect()
}

/// Where a tensor is, in both texts: the first at 4096, and so on, in the order of inputs and outputs.
fn address(task: &Task, name: &str) -> Option<i64> {
    let definition = &task.definition;
    let mut names = definition.inputs.keys().chain(definition.outputs.keys());
    let place = names.position(|known| known == name)?;
    Some(4096 * (place as i64 + 1))
}

/// Where scratch starts.
const SCRATCH: i64 = 1 << 40;

/// What the judge launches, a line for each launch. Floating-point numbers are shown with `f` by their bits.
fn judged(kernel: &Kernel, task: &Task, workload: &Workload) -> String {
    let variant = kernel.variant_for(&workload.binding, &LIMITS).unwrap();
    let values = kernel.tunable_values(variant);
    let scalars = scalars(task, workload);
    let plan = kernel
        .launch_plan(
            &LaunchTarget {
                task,
                binding: &workload.binding,
                scalars: &scalars,
                limits: &LIMITS,
                is_oracle: false,
            },
            &values,
        )
        .unwrap();
    let mut text = String::new();
    for launch in &plan.launches {
        let cluster = launch.cluster.unwrap_or([0; 3]);
        let sizes = [launch.grid, launch.block, cluster].concat();
        let sizes: Vec<_> = sizes.iter().map(u32::to_string).collect();
        let flags = [launch.cooperative, launch.overlap].map(u8::from);
        let arguments: Vec<_> = (launch.arguments.iter())
            .map(|argument| show(argument, &plan, kernel, task))
            .collect();
        let _ = writeln!(
            text,
            "{} {} {} {} {} {}",
            launch.entry_point,
            sizes.join(" "),
            launch.shared,
            flags[0],
            flags[1],
            arguments.join(" ")
        );
    }
    text
}

fn show(argument: &Argument, plan: &LaunchPlan, kernel: &Kernel, task: &Task) -> String {
    let value = match *argument {
        Argument::Buffer(index) => {
            let name = plan.buffers[index].name.as_str();
            address(task, name).unwrap_or_else(|| {
                let scratch = kernel.header.scratch.keys();
                let before = scratch.take_while(|known| known.as_str() != name);
                let bytes = before.map(|known| {
                    let mut buffers = plan.buffers.iter();
                    buffers.find(|one| &one.name == known).unwrap().bytes()
                });
                SCRATCH + bytes.map(|bytes| bytes.div_ceil(256) * 256).sum::<u64>() as i64
            })
        }
        Argument::Null => 0,
        Argument::Scalar(dtype, value) if dtype.is_float() => {
            return format!("{dtype}:{}", bits(dtype, value));
        }
        Argument::Scalar(_, value) => value as i64,
        Argument::I32(value) => value.into(),
        Argument::U32(value) => value.into(),
        Argument::I64(value) | Argument::Integer(value) => value,
        // The second kernel of `EVERYTHING` takes a `double`.
        Argument::Float(0.5) => return format!("float64:{}", bits(DType::Float64, 0.5)),
        Argument::Float(value) => return format!("float32:{}", bits(DType::Float32, value)),
        Argument::TensorMap(_) => unreachable!("no kernel here has a tensor map"),
    };
    value.to_string()
}

/// The bits of a number in its type. The small ones here were worked out by hand.
fn bits(dtype: DType, value: f64) -> i64 {
    match (dtype, value) {
        (DType::Float64, value) => value.to_bits() as i64,
        (DType::Float16, 1e-7) => 2,
        (DType::BFloat16, -5.3) => 0xc0aa,
        (_, value) => i64::from((value as f32).to_bits()),
    }
}

/// The kernels that are compared: source, task, and a name.
fn kernels() -> Vec<(String, Task, String)> {
    let root = env!("CARGO_MANIFEST_DIR");
    let shipped = [
        ("gdn_prefill", "chunks"),
        ("gdn_decode", "streaming"),
        ("attention_bf16", "flash"),
        ("matmul", "tensor_cores"),
        ("rmsnorm", "rows"),
    ];
    let shipped = shipped.map(|(task, name)| {
        let path = format!("{root}/kernels/{task}/{name}.cu");
        (std::fs::read_to_string(path).unwrap(), task)
    });
    let all = shipped
        .into_iter()
        .chain([(EVERYTHING.to_owned(), "softmax")]);
    all.enumerate()
        .map(|(index, (source, task))| {
            let task = TaskFiles::find(task).unwrap().load().unwrap();
            (source, task, format!("k{index}"))
        })
        .collect()
}

/// The sizes of the axes that a caller gives.
fn given(task: &Task, workload: &Workload) -> Vec<(String, i64)> {
    let axes = task.definition.axes.iter();
    let given = axes.filter(|(_, axis)| axis.value.is_none());
    given
        .map(|(name, _)| (name.clone(), workload.binding.axes[name]))
        .collect()
}

/// What a launch gets for each input and output that has a place of its own.
fn arguments(task: &Task, workload: &Workload) -> Vec<(String, String)> {
    let scalars = scalars(task, workload);
    let definition = &task.definition;
    let names = definition.inputs.keys().chain(definition.outputs.keys());
    names
        .map(|name| {
            let value = match scalars.get(name) {
                Some(value) if definition.inputs[name].dtype.is_float() => format!("{value:?}"),
                Some(value) => value.to_string(),
                None => address(task, name).unwrap().to_string(),
            };
            (name.clone(), value)
        })
        .collect()
}

const PYTHON: &str = r#"
import struct, sys, types

class Number:
    def __init__(self, kind, letter, value, of="<q"):
        self.kind, self.bits = kind, value if letter is None else struct.unpack(of, struct.pack(letter, value))[0]
    def view(self, _):
        return self.bits
    def __str__(self):
        return f"{self.kind}:{self.bits}"

numpy = types.ModuleType("numpy")
for name in ("int8", "int16", "int32", "int64", "uint32", "uint64", "bool_"):
    setattr(numpy, name, int)
numpy.float64 = lambda value: Number("float64", "<d", value)
numpy.float32 = lambda value: Number("float32", "<f", value, "<I")
numpy.float16 = lambda value: Number("float16", "<e", value, "<H")
numpy.uint16 = lambda bits: Number("bfloat16", None, bits)
sys.modules["numpy"] = numpy
pathfinder = types.ModuleType("cuda.pathfinder")
pathfinder.find_nvidia_header_directory = lambda name: None
cupy = types.ModuleType("cupy")
cupy.cuda = sys.modules["cupy.cuda"] = types.ModuleType("cupy.cuda")
cupy.cuda.nvrtc = cupy.cuda.runtime = None
sys.modules |= {"cupy": cupy, "cuda": types.ModuleType("cuda"), "cuda.pathfinder": pathfinder}

def show(module, given, arguments):
    plan = module["_Plan"](given, types.SimpleNamespace(sm_count=132, max_shared_bytes=232448))
    buffers, total = plan.scratch()
    for launch in plan.launches(types.SimpleNamespace(**arguments), [(1 << 40) + offset for offset, _, _ in buffers]):
        sizes = [*launch.grid, *launch.block, *(launch.cluster or [0, 0, 0]), launch.shared]
        flags = [int(launch.cooperative), int(launch.overlap)]
        print(launch.index, *sizes, *flags, *launch.arguments)
"#;

#[test]
fn python_launches_what_the_judge_launches() {
    let mut script = PYTHON.to_owned();
    let mut expected = String::new();
    let folder = tempfile::tempdir().unwrap();
    for (source, task, name) in kernels() {
        let kernel = Kernel::parse(&source, &task.definition).unwrap();
        // Both forms have the same host code; `cuda-core` refuses less.
        let form = ExportFormat::CudaCore;
        let files = exported(&task.name, &source, form).unwrap();
        let text = files.values().next().unwrap();
        let text = text
            .replace("from cuda.core", "# ")
            .replace("from cuda.bindings", "# ");
        std::fs::write(folder.path().join(format!("{name}.py")), text).unwrap();
        let _ = writeln!(script, "module = vars(__import__({name:?}))");
        for workload in &task.workloads {
            let pairs = |list: Vec<(String, String)>| {
                let items = list
                    .into_iter()
                    .map(|(name, value)| format!("{name:?}: {value}"));
                items.collect::<Vec<_>>().join(", ")
            };
            let sizes = given(&task, workload).into_iter();
            let sizes = sizes.map(|(name, size)| (name, size.to_string())).collect();
            let _ = writeln!(
                script,
                "show(module, {{{}}}, {{{}}})",
                pairs(sizes),
                pairs(arguments(&task, workload))
            );
            expected += &judged(&kernel, &task, workload);
        }
    }
    let output = Command::new("python3")
        .args(["-c", &script])
        .env("PYTHONPATH", folder.path())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    assert!(expected.lines().count() > 60, "{expected}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}

/// The rest of a crate around the host code of one kernel.
const AROUND: &str = "pub struct Error(pub String);
pub fn show(given: Shape, a: host::Pointers) {
    let device = host::Device { sm_count: 132, max_shared_bytes: 232448 };
    let launches = host::Plan::new(&given, &device).and_then(|plan| plan.launches(&a, 1 << 40));
    for launch in launches.unwrap_or_else(|Error(text)| panic!(\"{text}\")) {
        print!(\"{}\", launch.index);
        let cluster = launch.cluster.unwrap_or([0; 3]);
        for size in [launch.grid, launch.block, cluster].concat() { print!(\" {size}\"); }
        print!(\" {} {} {}\", launch.shared, u8::from(launch.cooperative), u8::from(launch.overlap));
        for argument in &launch.arguments {
            let host::Value::Number(bytes) = argument else { unreachable!() };
            print!(\" {}\", i64::from_ne_bytes(*bytes));
        }
        println!();
    }
}
";

#[test]
fn rust_launches_what_the_judge_launches() {
    let mut program = "#![allow(non_snake_case)]\nmod cudarc { pub mod driver { pub mod sys { #[derive(Clone, Copy)] pub struct CUtensorMap; } } }\n".to_owned();
    let mut body = String::new();
    let mut expected = String::new();
    for (source, task, name) in kernels() {
        let kernel = Kernel::parse(&source, &task.definition).unwrap();
        let files = exported(&task.name, &source, ExportFormat::Rust).unwrap();
        let host = files["src/host.rs"].replace("use crate::{", "use super::{");
        let host = host.replace("use cudarc::", "use crate::cudarc::");
        let fields = |list: &[(String, String)]| {
            let items = list.iter().map(|(name, value)| format!("{name}: {value}"));
            items.collect::<Vec<_>>().join(", ")
        };
        let sizes = |workload: &Workload| -> Vec<_> {
            let given = given(&task, workload).into_iter();
            given.map(|(name, size)| (name, size.to_string())).collect()
        };
        let types = sizes(&task.workloads[0]).into_iter();
        let types: Vec<_> = types
            .map(|(name, _)| (format!("pub {name}"), "i64".to_owned()))
            .collect();
        let _ = write!(
            program,
            "mod {name} {{\n{AROUND}pub struct Shape {{ {} }}\npub mod host {{\n{host}}}\n}}\n",
            fields(&types)
        );
        for workload in &task.workloads {
            let _ = writeln!(
                body,
                "    {name}::show({name}::Shape {{ {} }}, {name}::host::Pointers {{ {} }});",
                fields(&sizes(workload)),
                fields(&arguments(&task, workload))
            );
            expected += &judged(&kernel, &task, workload);
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let [source, binary] = ["all.rs", "all"].map(|name| folder.path().join(name));
    std::fs::write(&source, format!("{program}fn main() {{\n{body}}}\n")).unwrap();
    let mut compiler = Command::new("rustc");
    compiler.args(["--edition=2024", "-Cdebuginfo=0", "-o"]);
    let compiled = compiler.arg(&binary).arg(&source).output().unwrap();
    let log = String::from_utf8_lossy(&compiled.stderr);
    assert!(compiled.status.success(), "{log}");
    let output = Command::new(&binary).output().unwrap();
    let found = String::from_utf8(output.stdout).unwrap();
    // Here only the bits are known.
    let bits = |word: &str| word.rsplit(':').next().unwrap_or_default().to_owned();
    let expected = expected
        .lines()
        .map(|line| line.split(' ').map(bits).collect::<Vec<_>>().join(" "));
    assert_eq!(
        found.lines().collect::<Vec<_>>(),
        expected.collect::<Vec<_>>()
    );
}
