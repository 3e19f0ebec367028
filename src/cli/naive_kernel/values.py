"""Writes a naive kernel for a PyTorch function: the operations of its graph, one thread for each element of a result.

Views and operations on single elements are parts of the expressions of what uses them. All other operations are launches, whose results
are scratch buffers. Intermediate results are float32. Whatever is not known here is reported and no kernel is written.
"""

import math
import re

# Threads of a block: the first is used, and a search tries the others.
BLOCKS = [256, 64, 128, 512]
# Terms of a sum that are added up before they are added to the others: the error of a long sum in order would be large.
PART = 512
# A result with few elements is first computed in parts, if it has at least this many terms.
LONG = 1 << 15
PARTS = 1024
# Elements of a constant tensor that are written into the kernel.
MAX_CONSTANTS = 4096

HEADERS = {"float16": "cuda_fp16.h", "bfloat16": "cuda_bf16.h"}
TYPES = {
    "float64": "double",
    "float32": "float",
    "float16": "__half",
    "bfloat16": "__nv_bfloat16",
    "int64": "long long",
    "int32": "int",
    "int16": "short",
    "int8": "signed char",
    "bool": "bool",
}


class NotTranslated(Exception):
    """The function has an operation that is not known here."""


def count_of(shape):
    return math.prod(shape)


def strides_of(shape):
    strides = []
    for size in reversed(shape):
        strides.insert(0, strides[0] * previous if strides else 1)
        previous = size
    return strides


def linear(indices, shape):
    """The place of an element in a dense tensor."""
    terms = [index if stride == 1 else f"{index} * {stride}" for index, stride in zip(indices, strides_of(shape)) if index != "0"]
    return " + ".join(terms) or "0"


def split(place, shape):
    """The indices of an element of a dense tensor."""
    indices = []
    for size, stride in zip(shape, strides_of(shape)):
        above = place if stride == 1 else f"{place} / {stride}"
        is_first = count_of(shape) == size * stride
        indices.append("0" if size == 1 else above if is_first and stride == 1 else f"({above})" if is_first else f"({above} % {size})")
    return indices


class Value:
    """A tensor: a shape, a dtype, and an expression for each element."""

    def __init__(self, shape, dtype, at):
        self.shape = list(shape)
        self.dtype = dtype
        self.at = at

    @property
    def is_float(self):
        return self.dtype.startswith(("float", "bfloat"))

    def broadcast(self, indices):
        """The element that is used for an element of a larger shape."""
        own = indices[len(indices) - len(self.shape) :]
        return self.at(["0" if size == 1 else index for index, size in zip(own, self.shape)])


class Stored(Value):
    """A tensor in a buffer."""

    def __init__(self, name, shape, dtype, uses):
        self.name = name
        self.uses = uses
        super().__init__(shape, dtype, self.load)

    def load(self, indices):
        return self.load_at(linear(indices, self.shape))

    def load_at(self, place):
        self.uses.setdefault(self.name, f"const {TYPES[self.dtype]}*")
        element = f"p_{self.name}[{place}]"
        return {"float16": f"__half2float({element})", "bfloat16": f"__bfloat162float({element})"}.get(self.dtype, element)

    def viewed(self, shape):
        return Stored(self.name, shape, self.dtype, self.uses)


class ByValue(Value):
    """A number that a kernel gets by value."""

    def __init__(self, name, dtype, uses):
        def at(_indices):
            uses.setdefault(name, TYPES[dtype])
            return f"p_{name}"

        super().__init__([], dtype, at)


def number(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value) if abs(value) < 1 << 31 else f"{value}LL"
    if math.isnan(value):
        return "NAN"
    if math.isinf(value):
        return "INFINITY" if value > 0 else "(-INFINITY)"
    text = repr(float(value))
    return f"{text}f" if value >= 0 else f"({text}f)"


def function(name):
    return lambda *values: f"{name}({', '.join(values)})"


def operator(symbol):
    return lambda one, other: f"({one} {symbol} {other})"


# Operations on single elements. A number is an argument like a tensor.
ELEMENTS = {
    "sub": operator("-"), "mul": operator("*"), "maximum": function("fmaxf"), "minimum": function("fminf"),
    "eq": operator("=="), "ne": operator("!="), "lt": operator("<"), "le": operator("<="), "gt": operator(">"), "ge": operator(">="),
    "logical_and": operator("&&"), "logical_or": operator("||"), "bitwise_and": operator("&"), "bitwise_or": operator("|"),
    "bitwise_xor": operator("^"), "logical_not": lambda one: f"(!{one})", "where": lambda test, one, other: f"({test} ? {one} : {other})",
    "atan2": function("atan2f"), "neg": lambda one: f"(-{one})", "abs": function("fabsf"),
    "reciprocal": lambda one: f"(1.0f / {one})", "sigmoid": lambda one: f"(1.0f / (1.0f + expf(-{one})))",
    "relu": function("relu"), "silu": function("silu"), "sign": function("sign"), "round": function("rintf"), "rsqrt": function("rsqrtf"),
    "isnan": function("isnan"), "isinf": function("isinf"),
    **{name: function(name + "f") for name in (
        "exp", "log", "log2", "log10", "log1p", "expm1", "exp2", "sqrt", "sin", "cos", "tan", "tanh", "sinh", "cosh", "asin", "acos", "atan",
        "asinh", "acosh", "atanh", "erf", "erfc", "floor", "ceil", "trunc",
    )},
}
FOR_WHOLE_NUMBERS = {"sub", "mul", "neg", "where", "bitwise_and", "bitwise_or", "bitwise_xor"}
COMPARISONS = {"eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_not", "isnan", "isinf"}
HELPERS = """__device__ inline float relu(float x) { return x < 0.0f ? 0.0f : x; }
__device__ inline float silu(float x) { return x / (1.0f + expf(-x)); }
__device__ inline float sign(float x) { return float(x > 0.0f) - float(x < 0.0f); }
__device__ inline long long floor_div(long long a, long long b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); }
__device__ inline long long from_end(long long place, long long size) { return place < 0 ? place + size : place; }
__device__ inline float square(float x) { return x * x; }
__device__ inline float power(float x, float y) { return y == 2.0f ? x * x : powf(x, y); }
__device__ inline float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678f)); }
__device__ inline float gelu_tanh(float x) { return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x))); }
"""


class Writer:
    """The launches and the code of a kernel file."""

    def __init__(self):
        self.launches = []
        self.scratch = []
        self.functions = []
        self.constants = {}
        self.headers = set()
        self.uses = {}
        self.most_elements = 0
        # Names of variable axes.
        self.axes = set()

    def stored(self, name, shape, dtype):
        self.most_elements = max(self.most_elements, int(count_of(shape)))
        if dtype not in TYPES:
            raise NotTranslated(f"dtype {dtype}")
        return Stored(name, shape, dtype, self.uses)

    def constant(self, tensor):
        shape = list(tensor.shape)

        def at(indices):
            return f"{self.constant_name(tensor)}[{linear(indices, shape)}]"

        return Value(shape, dtype_of(tensor), at)

    def constant_name(self, tensor):
        """The name of an array with these values, which is written if a kernel uses it."""
        if id(tensor) in self.constants:
            return self.constants[id(tensor)][0]
        if tensor.numel() > MAX_CONSTANTS:
            raise NotTranslated("a constant tensor that is large")
        name = f"constant_{len(self.constants)}"
        dtype = dtype_of(tensor)
        kind = "float" if dtype in HEADERS else TYPES[dtype]
        values = ", ".join(number(value) for value in tensor.reshape(-1).tolist())
        self.constants[id(tensor)] = (name, f"__device__ const {kind} {name}[] = {{{values}}};\n")
        return name

    def compute(self, shape, dtype, body, name=None):
        """A launch that computes every element of a result. `body` gets the indices and returns lines and the value."""
        out = name or f"result_{len(self.launches)}"
        kept = dtype if name else {"float16": "float32", "bfloat16": "float32", "bool": "int8"}.get(dtype, dtype)
        if name is None:
            sizes = ", ".join(map(in_header, shape)) or "1"
            self.scratch.append(f'  {out}: {{dtype: {kept}, shape: "{sizes}"}}\n')
        self.uses.clear()
        lines, value = body(split("element", shape))
        total = count_of(shape)
        stores = {"float16": f"__float2half({value})", "bfloat16": f"__float2bfloat16({value})"}
        text = "".join(f"    {line}\n" for line in [f"if (element >= {total}) return;", *lines, f"p_{out}[element] = {stores.get(kept, value)};"])
        axes = [axis for axis in dict.fromkeys(re.findall(r"\bn_(\w+)", text)) if axis in self.axes]
        parameters = [f"{kind} p_{buffer}" for buffer, kind in self.uses.items()] + [f"{TYPES[kept]}* p_{out}"]
        parameters += [f"index_t n_{axis}" for axis in axes]
        arguments = [*self.uses, out, *axes]
        self.headers.update(header for kind, header in HEADERS.items() if any(TYPES[kind] in parameter for parameter in parameters))
        kernel = f"step_{len(self.launches)}"
        self.launches.append(
            f"  - kernel: {kernel}\n    grid: ceil_div({in_header(total)}, BLOCK)\n    block: BLOCK\n    args: {', '.join(arguments)}\n"
        )
        self.functions.append(
            f"__global__ void {kernel}({', '.join(parameters)}) {{\n"
            f"    const index_t element = (index_t)blockIdx.x * BLOCK + threadIdx.x;\n"
            f"{text}}}\n"
        )
        return self.stored(out, shape, kept)

    def store(self, value):
        """The value in a buffer."""
        if isinstance(value, Stored):
            return value
        return self.compute(value.shape, value.dtype, lambda indices: ([], value.at(indices)))

    def becomes_output(self, value, dtype, name):
        """Renames a scratch buffer that only the last launch has, so that its values need not be copied to the output."""
        is_last = self.launches and value.name == f"result_{len(self.launches) - 1}"
        if not is_last or value.dtype != dtype:
            return False
        self.scratch = [line for line in self.scratch if not line.startswith(f"  {value.name}:")]
        for texts in (self.launches, self.functions):
            texts[-1] = re.sub(rf"\b(p_)?{value.name}\b", lambda found: (found[1] or "") + name, texts[-1])
        return True

    def index_type(self):
        return "int" if self.most_elements < 1 << 30 else "long long"

    def text(self, origin):
        scratch = "scratch:\n" + "".join(self.scratch) if self.scratch else ""
        includes = "".join(f"#include <{header}>\n" for header in sorted(self.headers))
        return (
            f"/* kforge\nlaunch:\n{''.join(self.launches)}tunables:\n  BLOCK: {BLOCKS}\n{scratch}*/\n\n// {origin}\n\n"
            + includes + f"typedef {self.index_type()} index_t;\n" + "\n".join(["", HELPERS, *(text for _, text in self.constants.values()), *self.functions])
        )


def dtype_of(tensor):
    return str(tensor.dtype).removeprefix("torch.")
