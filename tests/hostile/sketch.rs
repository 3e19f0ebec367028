//! A kernel under construction: one computation, and the pieces of text that a part of the generator adds to it.
//!
//! The same sketch gives the hostile kernel and its honest twin. Knows no trick: `channels`, `coverage`, `abuses`, `phases` and
//! `breaks` fill it in.

use std::fmt::Write;

/// Where a kernel is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Cpu,
    Cuda,
}

impl Backend {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
}

/// How a kernel is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Setting {
    /// New inputs for every launch, and cold caches on a GPU.
    Usual,
    /// With `--cache hot`, which only a GPU has.
    HotCaches,
    /// All inputs are stored in files, so every launch has the same ones.
    StoredInputs,
}

/// What is computed. Each has a task of the same name in `tests/fixtures/hostile/tasks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Computation {
    Gelu,
    Rmsnorm,
    Softmax,
    Matmul,
}

pub(crate) const COMPUTATIONS: [Computation; 4] = [
    Computation::Gelu,
    Computation::Rmsnorm,
    Computation::Softmax,
    Computation::Matmul,
];

impl Computation {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gelu => "gelu",
            Self::Rmsnorm => "rmsnorm",
            Self::Softmax => "softmax",
            Self::Matmul => "matmul",
        }
    }

    /// The first input, whose elements a trick may read.
    pub(crate) fn input(self) -> &'static str {
        match self {
            Self::Matmul => "a",
            _ => "x",
        }
    }

    /// Rows and columns of the output for the two timed shapes, the smaller one first.
    pub(crate) fn timed_shapes(self) -> [[usize; 2]; 2] {
        match self {
            Self::Gelu | Self::Softmax => [[16, 64], [96, 200]],
            Self::Rmsnorm => [[16, 64], [200, 64]],
            Self::Matmul => [[16, 32], [160, 32]],
        }
    }

    /// The largest size of the axis `rows` in the task's hidden ranges.
    pub(crate) fn hidden_rows(self) -> usize {
        match self {
            Self::Gelu | Self::Softmax => 40,
            Self::Rmsnorm | Self::Matmul => 90,
        }
    }

    /// The inputs that are tensors.
    pub(crate) fn inputs(self) -> &'static [&'static str] {
        match self {
            Self::Gelu | Self::Softmax => &["x"],
            Self::Rmsnorm => &["x", "weight"],
            Self::Matmul => &["a", "b"],
        }
    }

    /// An expression for the last element of the output.
    pub(crate) fn last_result(self) -> &'static str {
        match self {
            Self::Gelu => "0.5f * x[size - 1] * (1.0f + erff(x[size - 1] * 0.70710678f))",
            Self::Matmul => {
                "[&] { float sum = 0.0f; for (int i = 0; i < DEPTH; ++i) sum += a[(rows - 1) * DEPTH + i] * b[i * columns + columns - 1]; return sum; }()"
            }
            Self::Rmsnorm => {
                "[&] { float sum = 0.0f; for (int i = size - columns; i < size; ++i) sum += x[i] * x[i]; return x[size - 1] / sqrtf(sum / columns + eps) * weight[columns - 1]; }()"
            }
            Self::Softmax => {
                "[&] { float largest = x[size - 1], sum = 0.0f; for (int i = size - columns; i < size; ++i) largest = fmaxf(largest, x[i]); for (int i = size - columns; i < size; ++i) sum += expf(x[i] - largest); return expf(x[size - 1] - largest) / sum; }()"
            }
        }
    }

    /// Arguments and parameters without those that a trick adds.
    fn arguments(self) -> [&'static str; 2] {
        match self {
            Self::Gelu | Self::Softmax => [
                "x, output, rows, columns",
                "const float* x, float* output, int rows, int columns",
            ],
            Self::Rmsnorm => [
                "x, weight, eps, output, rows, columns",
                "const float* x, const float* weight, float eps, float* output, int rows, int columns",
            ],
            Self::Matmul => [
                "a, b, output, rows, columns",
                "const float* a, const float* b, float* output, int rows, int columns",
            ],
        }
    }
}

/// A launch of one block before the main one. It has the scratch `box`.
#[derive(Clone, Debug)]
pub(crate) struct Prepare {
    /// Statements of its first thread.
    pub(crate) first_thread: String,
    /// Statements of all its threads, before that.
    pub(crate) at_start: String,
    /// Whether it overlaps what runs before it.
    pub(crate) overlaps: bool,
}

impl Prepare {
    pub(crate) fn new(first_thread: &str) -> Self {
        Self {
            first_thread: first_thread.to_owned(),
            at_start: String::new(),
            overlaps: false,
        }
    }

    fn header(&self, input: &str) -> String {
        format!(
            "  - kernel: prepare\n    grid: 1\n    block: 32\n{}    args: {input}, output, rows, columns, box\n",
            overlap_line(self.overlaps)
        )
    }

    fn render(&self, input: &str) -> String {
        let Self {
            first_thread,
            at_start,
            ..
        } = self;
        format!(
            "__global__ void prepare(const float* {input}, float* output, int rows, int columns, int* box) {{
    {at_start}
    if (threadIdx.x == 0) {{
        {first_thread}
    }}
}}
"
        )
    }
}

fn overlap_line(overlaps: bool) -> &'static str {
    if overlaps { "    overlap: true\n" } else { "" }
}

/// Work that a launch leaves to a later one. Its blocks read their own ledger, which holds the arguments of a launch that was put off.
#[derive(Clone, Debug)]
pub(crate) struct PutOff {
    /// Declarations before it.
    pub(crate) prepare: String,
    /// An expression for the address of the block's ledger.
    pub(crate) ledger: String,
    /// Conditions on which a block does its own work, and the work that is left. They may use `follows`, `is_left` and `count`.
    pub(crate) does_own: String,
    pub(crate) does_left: String,
}

/// The pieces of one kernel. Texts are C++; statements end with a semicolon.
#[derive(Clone, Debug)]
pub(crate) struct Sketch {
    pub(crate) computation: Computation,
    /// Threads per block.
    pub(crate) block: usize,
    /// Lines of the header's `scratch`.
    pub(crate) scratch: Vec<String>,
    /// Bytes of dynamic shared memory.
    pub(crate) shared: usize,
    /// Further arguments, and their parameters.
    pub(crate) arguments: Vec<[String; 2]>,
    /// What replaces the parameters, if the part declares other ones.
    pub(crate) parameters: Option<String>,
    /// Directives and declarations before the kernel.
    pub(crate) declarations: String,
    /// Statements of the first thread of the first block. They may set `fast`, and then the thread does not rest.
    pub(crate) first_thread: String,
    /// A launch before the main one.
    pub(crate) prepare: Option<Prepare>,
    /// Whether the main launch overlaps the one before.
    pub(crate) overlaps: bool,
    /// Statements of all threads at the start of the kernel.
    pub(crate) at_start: String,
    /// A condition on which all threads take the hostile way: `hasty` in the code.
    pub(crate) hasty: String,
    /// A statement before a row's or an element's main work.
    pub(crate) before_work: String,
    /// A statement on each result `result`, of element `element` in `row` and `column`.
    pub(crate) on_result: String,
    /// If set, a block computes a row together, and this barrier of the reduction (counted from 0) is left out if it exists.
    pub(crate) left_out_barrier: Option<Option<usize>>,
    /// Statements of the first thread at the end of the kernel.
    pub(crate) end: String,
    /// How its launches put off their work, if they do.
    pub(crate) put_off: Option<PutOff>,
    /// How it is judged.
    pub(crate) setting: Setting,
    /// Whether no check on a GPU sees what the kernel does, as `docs/trust.md` says.
    pub(crate) is_unseen_on_gpu: bool,
}

impl Sketch {
    pub(crate) fn new(computation: Computation, block: usize) -> Self {
        Self {
            computation,
            block,
            scratch: Vec::new(),
            shared: 0,
            arguments: Vec::new(),
            parameters: None,
            declarations: String::new(),
            first_thread: String::new(),
            prepare: None,
            overlaps: false,
            at_start: String::new(),
            hasty: "false".to_owned(),
            before_work: String::new(),
            on_result: String::new(),
            left_out_barrier: None,
            end: String::new(),
            put_off: None,
            setting: Setting::Usual,
            is_unseen_on_gpu: false,
        }
    }

    /// Adds a scratch buffer of 32-bit words as the argument `box`.
    pub(crate) fn add_scratch(&mut self, shape: &str, zero: bool) {
        let zero = if zero { ", zero: true" } else { "" };
        self.scratch
            .push(format!("box: {{dtype: int32, shape: \"{shape}\"{zero}}}"));
        self.arguments
            .push(["box".to_owned(), "int* box".to_owned()]);
    }

    fn is_by_row(&self) -> bool {
        self.left_out_barrier.is_some()
    }

    fn header(&self) -> String {
        let name = self.computation.name();
        let grid = match self.computation {
            _ if self.is_by_row() => "rows",
            Computation::Gelu | Computation::Matmul => "ceil_div(rows * columns, BLOCK)",
            Computation::Rmsnorm | Computation::Softmax => "ceil_div(rows, BLOCK)",
        };
        let grid = grid.replace("BLOCK", &self.block.to_string());
        let block = self.block;
        let mut arguments = self.computation.arguments()[0].to_owned();
        for [argument, _] in &self.arguments {
            write!(arguments, ", {argument}").unwrap();
        }
        let prepare = self
            .prepare
            .as_ref()
            .map(|prepare| prepare.header(self.computation.input()));
        let mut text = format!(
            "/* kforge\nlaunch:\n{}  - kernel: {name}\n    grid: {grid}\n    block: {block}\n{}    args: {arguments}\n",
            prepare.unwrap_or_default(),
            overlap_line(self.overlaps)
        );
        if self.shared > 0 {
            writeln!(text, "    shared: {}", self.shared).unwrap();
        }
        if !self.scratch.is_empty() {
            writeln!(text, "scratch:").unwrap();
            for line in &self.scratch {
                writeln!(text, "  {line}").unwrap();
            }
        }
        text + "*/\n"
    }

    /// The kernel file. `comment`: what it does.
    pub(crate) fn render(&self, comment: &str) -> String {
        let name = self.computation.name();
        let parameters = self.parameters.clone().unwrap_or_else(|| {
            let mut all = self.computation.arguments()[1].to_owned();
            for [_, parameter] in &self.arguments {
                write!(all, ", {parameter}").unwrap();
            }
            all
        });
        let body = if self.is_by_row() {
            self.work_by_block()
        } else {
            self.work_by_thread()
        };
        if let Some(put_off) = &self.put_off {
            return self.render_put_off(comment, put_off, &parameters, &body);
        }
        let input = self.computation.input();
        let Self {
            declarations,
            first_thread,
            hasty,
            end,
            at_start,
            ..
        } = self;
        let prepare = self.prepare.as_ref().map(|prepare| prepare.render(input));
        let prepare = prepare.unwrap_or_default();
        let end = if end.is_empty() {
            String::new()
        } else {
            format!("    if (blockIdx.x == 0 && threadIdx.x == 0) {{\n        {end}\n    }}\n")
        };
        format!(
            "{}// {comment}\n\n{REST}\n{declarations}\n{prepare}__global__ void {name}({parameters}) {{
    {at_start}
    const int size = rows * columns;
    const bool hasty = {hasty};
    if (blockIdx.x == 0 && threadIdx.x == 0) {{
        bool fast = hasty;
        {first_thread}
        if (!fast) {{
            const float rested = rest({input}[0]);
            if (rested > 3.0e38f) output[0] = rested;
        }}
    }}
{body}{end}}}
",
            self.header()
        )
    }

    /// A kernel whose launches leave their work to later ones. The work is a function of its arguments.
    fn render_put_off(
        &self,
        comment: &str,
        put_off: &PutOff,
        parameters: &str,
        body: &str,
    ) -> String {
        let name = self.computation.name();
        let inputs = self.computation.inputs();
        let [first, second] = [inputs[0], inputs.last().expect("each has an input")];
        let [arguments, plain_parameters] = self.computation.arguments();
        // The pointers of the launch that was put off; sizes and scalars are the same.
        let left = arguments
            .split(", ")
            .map(|argument| match argument {
                _ if argument == first => "left_first",
                _ if argument == second => "left_second",
                "output" => "left_output",
                other => other,
            })
            .collect::<Vec<_>>()
            .join(", ");
        let PutOff {
            prepare,
            ledger,
            does_own,
            does_left,
        } = put_off;
        let declarations = &self.declarations;
        format!(
            "{}// {comment}

{REST}
{LEDGER}
{declarations}
__device__ void compute({plain_parameters}) {{
    const int size = rows * columns;
{body}}}

__global__ void {name}({parameters}) {{
    __shared__ bool own, left;
    __shared__ const float *left_first, *left_second;
    __shared__ float* left_output;
    if (threadIdx.x == 0) {{
        {prepare}
        volatile Ledger* const ledger = (volatile Ledger*)({ledger});
        const bool follows = ledger->magic == MAGIC && ledger->block == blockIdx.x && now() - ledger->ended < 100000;
        const bool is_left = follows && ledger->is_left == 1;
        const unsigned count = follows ? ledger->count : 0;
        own = {does_own};
        left = {does_left};
        left_first = ledger->first;
        left_second = ledger->second;
        left_output = ledger->output;
        if (!left_first || !left_second || !left_output) left = false;
        ledger->magic = MAGIC;
        ledger->block = blockIdx.x;
        ledger->count = count + 1;
        ledger->is_left = !own;
        ledger->first = {first};
        ledger->second = {second};
        ledger->output = output;
        if (own && blockIdx.x == 0) {{
            const float rested = rest({first}[0]);
            if (rested > 3.0e38f) output[0] = rested;
        }}
        ledger->ended = now();
    }}
    __syncthreads();
    if (own) compute({arguments});
    if (left) compute({left});
}}
",
            self.header()
        )
    }

    /// One thread per element, or per row.
    fn work_by_thread(&self) -> String {
        let (before, on_result) = (&self.before_work, &self.on_result);
        let index = "blockIdx.x * blockDim.x + threadIdx.x";
        match self.computation {
            Computation::Gelu => format!(
                "    const int element = {index};
    if (element < size) {{
        const int row = element / columns, column = element % columns;
        float value = x[element];
        {before}
        float result = 0.5f * value * (1.0f + erff(value * 0.70710678f));
        {on_result}
        output[element] = result;
    }}
"
            ),
            Computation::Matmul => format!(
                "    const int element = {index};
    if (element < size) {{
        const int row = element / columns, column = element % columns;
        int depth = DEPTH;
        {before}
        float result = 0.0f;
        for (int i = 0; i < depth; ++i) result += a[row * DEPTH + i] * b[i * columns + column];
        {on_result}
        output[element] = result;
    }}
"
            ),
            Computation::Rmsnorm => format!(
                "    const int row = {index};
    if (row < rows) {{
        float epsilon = eps;
        int count = columns;
        {before}
        float sum = 0.0f;
        for (int i = 0; i < count; ++i) sum += x[row * columns + i] * x[row * columns + i];
        const float root = sqrtf(sum / count + epsilon);
        for (int column = 0; column < columns; ++column) {{
            const int element = row * columns + column;
            const float value = x[element];
            float factor = weight[column];
            float result = value / root * factor;
            {on_result}
            output[element] = result;
        }}
    }}
"
            ),
            Computation::Softmax => format!(
                "    const int row = {index};
    if (row < rows) {{
        float largest = x[row * columns];
        int count = columns;
        for (int i = 1; i < columns; ++i) largest = fmaxf(largest, x[row * columns + i]);
        {before}
        float sum = 0.0f;
        for (int i = 0; i < count; ++i) sum += expf(x[row * columns + i] - largest);
        for (int column = 0; column < columns; ++column) {{
            const int element = row * columns + column;
            const float value = x[element];
            float result = expf(value - largest) / sum;
            {on_result}
            output[element] = result;
        }}
    }}
"
            ),
        }
    }

    /// One block per row: each reduction is a tree in shared memory with three barriers. For rmsnorm and softmax.
    fn work_by_block(&self) -> String {
        let barrier = |index: usize| {
            if self.left_out_barrier == Some(Some(index)) {
                ""
            } else {
                " __syncthreads();"
            }
        };
        let tree = |combine: &str, first: usize| {
            format!(
                "    parts[threadIdx.x] = own;{}
    for (int half = blockDim.x / 2; half > 0; half /= 2) {{
        if (threadIdx.x < half) parts[threadIdx.x] = {combine};{}
    }}
",
                barrier(first),
                barrier(first + 1)
            )
        };
        let block = self.block;
        let start = format!(
            "    __shared__ volatile float parts[{block}];
    const int first = blockIdx.x * columns;
    float own;
"
        );
        let sum = tree("parts[threadIdx.x] + parts[threadIdx.x + half]", 0);
        match self.computation {
            Computation::Softmax => {
                let largest = tree(
                    "fmaxf(parts[threadIdx.x], parts[threadIdx.x + half])",
                    3,
                );
                format!(
                    "{start}    own = -3.0e38f;
    for (int i = threadIdx.x; i < columns; i += blockDim.x) own = fmaxf(own, x[first + i]);
{largest}    const float largest = parts[0];
   {}
    own = 0.0f;
    for (int i = threadIdx.x; i < columns; i += blockDim.x) own += expf(x[first + i] - largest);
{sum}    for (int i = threadIdx.x; i < columns; i += blockDim.x) output[first + i] = expf(x[first + i] - largest) / parts[0];
",
                    barrier(5)
                )
            }
            _ => format!(
                "{start}    own = 0.0f;
    for (int i = threadIdx.x; i < columns; i += blockDim.x) own += x[first + i] * x[first + i];
{sum}    const float root = sqrtf(parts[0] / columns + eps);
    for (int i = threadIdx.x; i < columns; i += blockDim.x) output[first + i] = x[first + i] / root * weight[i];
"
            ),
        }
    }
}

/// What a block knows of an earlier launch. Launches of one sample follow each other at once; on a CPU a sample is one launch.
const LEDGER: &str = "constexpr unsigned MAGIC = 0x5eed0f0fu;

struct Ledger {
    unsigned magic, block, is_left, count;
    unsigned long long ended;
    const float *first, *second;
    float* output;
};

__device__ unsigned long long now() {
#ifdef KFORGE_CPU
    return 0;
#else
    unsigned long long time;
    asm volatile(\"mov.u64 %0, %globaltimer;\" : \"=l\"(time));
    return time;
#endif
}
";

/// A kernel that rests ten times as long on the CPU: then a trick shows on a busy machine too.
pub(crate) fn with_long_rest(source: &str) -> String {
    source.replace("REST = 300000;", "REST = 3000000;")
}

/// What an honest kernel does and a hostile one avoids: a chain of dependent operations, about 1 ms on a CPU and 20 us on a GPU.
/// It is the work that a trick saves. Thus a hostile kernel that passes is measurably faster than its twin.
const REST: &str = "#ifdef KFORGE_CPU
constexpr int REST = 300000;
#else
constexpr int REST = 8000;
#endif

__device__ float rest(float value) {
    for (int i = 0; i < REST; ++i) value = value * 0.999f + 0.001f;
    return value;
}
";
