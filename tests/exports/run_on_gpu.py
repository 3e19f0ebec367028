#!/usr/bin/env python3
"""Runs every form of `kforge export` on a GPU, by the tool that it is for.

For each kernel: export it in every form, draw inputs for one workload, compute the task's Python reference in the definition, run the
export, compare the outputs under the task's tolerances, and time it. The times of `kforge eval` stand beside them. What a machine lacks is
reported as `missing`, what kforge refuses as `refused`; neither fails. Exit code 1: an output differs or a tool failed.

    python3 tests/exports/run_on_gpu.py --kforge target/release/kforge kernels/gdn_decode/best.cu kernels/softmax/rows.cu

Needs a GPU and PyTorch; nvcc for `c` and `standalone`; flashinfer_bench (0.1.2) for `flashinfer`; a checkout of KernelBench in
`--kernelbench` (without one, `ModelNew` is run directly); cupy; cuda.core. `hf-kernels` is built as its `build.toml` says, with PyTorch's
builder in the place of kernel-builder. `rust` needs cargo, or the programs that `--build-rust DIR` has made elsewhere, in `--rust DIR`:

    python3 tests/exports/run_on_gpu.py --kforge target/release/kforge --build-rust rust-programs kernels/gdn_decode/best.cu

`--alone FILE`: see `alone.py`.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import alone

ROOT = pathlib.Path(__file__).resolve().parents[2]
FORMS = ["c", "standalone", "torch", "flashinfer-torch", "flashinfer-tvm-ffi", "kernelbench", "hf-kernels", "cupy", "cuda-core", "rust"]


class Missing(Exception):
    """The machine lacks something."""


class Refused(Exception):
    """kforge does not export the kernel in this form."""


class Task:
    """A task folder, and the workload that is run."""

    def __init__(self, name, workload):
        try:
            import yaml
        except ImportError:
            raise Missing("PyYAML")
        folder = ROOT / "tasks" / name
        self.name = name
        self.definition = json.loads((folder / "definition.json").read_text())
        self.settings = yaml.safe_load((folder / "task.yaml").read_text())
        lines = (folder / "workloads.jsonl").read_text().splitlines()
        workloads = [json.loads(line) for line in lines if line.strip()]
        workloads = [line.get("workload", line) for line in workloads]
        known = {line["uuid"]: line for line in workloads}
        if workload and workload not in known:
            raise SystemExit(f"{name}: no workload {workload}; there are {', '.join(known)}")
        self.workload = known[workload] if workload else workloads[-1]
        self.axes = dict(self.workload["axes"])
        for axis, value in self.definition["axes"].items():
            if value["type"] == "const":
                self.axes[axis] = value["value"]

    def inputs(self, torch):
        """Tensors and scalars in the definition's order."""
        generator = torch.Generator(device="cuda").manual_seed(1)
        return {name: self.draw(torch, generator, name, tensor) for name, tensor in self.definition["inputs"].items()}

    def draw(self, torch, generator, name, tensor):
        given = self.workload.get("inputs", {}).get(name, {})
        usual = self.settings.get("inputs", {}).get(name, {})
        if tensor["shape"] is None:
            value = given.get("value", usual.get("value", 0))
            return float(value) if tensor["dtype"].startswith(("float", "bfloat")) else int(value)
        shape = [self.axes[axis] for axis in tensor["shape"]]
        dtype = getattr(torch, tensor["dtype"])
        if "cumulative" in usual:
            total = self.axes.get(usual["cumulative"], usual["cumulative"])
            cuts = torch.randint(0, total + 1, (shape[0] - 2,), generator=generator, device="cuda").sort().values
            ends = [torch.tensor([0], device="cuda"), cuts, torch.tensor([total], device="cuda")]
            return torch.cat(ends).to(dtype)
        if "value" in usual or not dtype.is_floating_point:
            return torch.full(shape, usual.get("value", 0), device="cuda").to(dtype)
        values = torch.randn(shape, generator=generator, device="cuda", dtype=torch.float64)
        if "uniform" in usual:
            low, high = usual["uniform"]
            values = low + (high - low) * torch.rand(shape, generator=generator, device="cuda", dtype=torch.float64)
        else:
            values = values * usual.get("normal", 1.0)
        values = values + usual.get("mean", 0.0)
        if usual.get("normalize") == "l2":
            values = values / values.norm(dim=-1, keepdim=True)
        return values.to(dtype)

    def reference(self, inputs):
        """The outputs of the definition's `run`, by name."""
        names = {}
        exec(self.definition["reference"], names)  # The repository's own text.
        outputs = names["run"](**inputs)
        outputs = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
        return dict(zip(self.definition["outputs"], outputs))

    def empty_outputs(self, torch):
        return {
            name: torch.full([self.axes[axis] for axis in tensor["shape"] or []], float("nan"), device="cuda").to(getattr(torch, tensor["dtype"]))
            for name, tensor in self.definition["outputs"].items()
        }

    def worst(self, found, expected):
        """The largest share of the tolerance that an element uses; above 1 it fails."""
        worst = 0.0
        for name, reference in expected.items():
            reference, value = reference.double(), found[name].double().to(reference.device)
            tolerance = self.settings["tolerance"][name]
            # As the judge: zeros do not count.
            rms = (reference.square().sum() / (reference != 0).sum().clamp_min(1)).sqrt()
            limit = tolerance["atol_rms"] * rms + tolerance["rtol"] * reference.abs()
            share = ((value - reference).abs() / limit.clamp_min(1e-300)).nan_to_num(float("inf"))
            worst = max(worst, float(share.max()))
        return worst


def run_command(command, **options):
    ended = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if ended.returncode != 0:
        raise RuntimeError(f"{command[0]}: {(ended.stderr or ended.stdout).strip()[-2000:]}")
    return ended.stdout


def export(kforge, kernel, task, form, folder):
    """With a name of its own: one process registers each PyTorch operator once."""
    form, binding = form.split("-", 1) if form.startswith("flashinfer-") else (form, "")
    command = [kforge, "export", kernel, "--task", task.name, "--to", form, "--name", task.exported, "--output", folder]
    command += ["--binding", binding] if binding else []
    ended = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if ended.returncode == 2:
        raise Refused(ended.stderr.strip().splitlines()[0])
    if ended.returncode != 0:
        raise RuntimeError(ended.stderr)


def load(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def time_us(torch, call):
    """Median of single calls with a cold cache, by events. Launching takes part of it."""
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    times = []
    with alone.alone():
        for sample in range(53):
            flush.zero_()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            end.synchronize()
            if sample >= 3:
                times.append(start.elapsed_time(end) * 1e3)
    return sorted(times)[len(times) // 2]


def nvcc():
    home = os.environ.get("CUDA_HOME")
    found = shutil.which("nvcc", path=f"{home}/bin" if home else None) or shutil.which("nvcc")
    if not found:
        raise Missing("nvcc")
    return found


def nvcc_options(source):
    """The options at the top of the file."""
    return re.search(r"^// Compile with: nvcc (.*)$", source.read_text(), re.M).group(1).split()


def run_program(torch, task, folder, inputs, command):
    """A program that reads inputs from one folder and writes outputs to another: `command` makes its arguments from the two."""
    given, made = folder / "inputs", folder / "outputs"
    given.mkdir(), made.mkdir()
    for name, value in inputs.items():
        if hasattr(value, "contiguous"):
            (given / f"{name}.bin").write_bytes(value.contiguous().view(torch.uint8).cpu().numpy().tobytes())
    with alone.alone():
        text = run_command(command(given, made))
    found = {}
    for name, output in task.empty_outputs(torch).items():
        data = bytearray((made / f"{name}.bin").read_bytes())
        found[name] = torch.frombuffer(data, dtype=output.dtype).view(output.shape).cuda()
    return found, float(re.search(r"([0-9.]+) us median", text).group(1))


def run_standalone(torch, task, folder, inputs):
    source = folder / f"{task.exported}.cu"
    program = folder / "program"
    run_command([nvcc(), *nvcc_options(source), source, "-o", program])
    workload = task.workload["uuid"]
    return run_program(torch, task, folder, inputs, lambda given, made: [program, "--workload", workload, "--inputs", given, "--outputs", made])


def build_rust(folder, target):
    """The program of an exported crate. `target`: where cargo keeps what all crates share."""
    if not shutil.which("cargo"):
        raise Missing("cargo, or programs in --rust")
    run_command(["cargo", "build", "--release", "--example", "run", "--target-dir", target], cwd=folder)
    return pathlib.Path(target) / "release/examples/run"


def run_rust(torch, task, folder, inputs, programs=None):
    program = pathlib.Path(programs).resolve() / task.exported if programs else build_rust(folder, folder / "target")
    if not program.exists():
        raise Missing(f"{program}")
    numbers = dict(task.axes) | {name: value for name, value in inputs.items() if not hasattr(value, "shape")}
    numbers = [f"{name}={value}" for name, value in numbers.items()]
    return run_program(torch, task, folder, inputs, lambda given, made: [program, given, made, *numbers])


def run_c(torch, task, folder, inputs):
    """The C functions through ctypes, with the structures read from the header."""
    import ctypes

    source, header = folder / f"{task.exported}.cu", (folder / f"{task.exported}.h").read_text()
    library = folder / "kernel.so"
    run_command([nvcc(), *nvcc_options(source), "-shared", "-Xcompiler", "-fPIC", source, "-o", library])
    types = {"float": ctypes.c_float, "double": ctypes.c_double}
    types |= {f"int{bits}_t": getattr(ctypes, f"c_int{bits}") for bits in (8, 16, 32, 64)}
    types |= {"uint8_t": ctypes.c_uint8, "uint16_t": ctypes.c_uint16, "char": ctypes.c_char}

    def structure(name):
        body = re.search(rf"typedef struct {name} {{\n(.*?)}}", header, re.S).group(1)
        fields = []
        for kind, star, field in re.findall(r"^\s+(?:const )?(\w+)(\*?) (\w+);", body, re.M):
            fields.append((field, ctypes.c_void_p if star else types[kind]))
        return type(name, (ctypes.Structure,), {"_fields_": fields})

    shape = structure(f"{task.exported}_shape")()
    for field, _ in shape._fields_:
        if field != "none":
            setattr(shape, field, task.axes[field])
    outputs = task.empty_outputs(torch)
    arguments = structure(f"{task.exported}_arguments")()
    for field, kind in arguments._fields_:
        name = field if field in inputs or field in outputs else field.removesuffix("_")
        value = inputs.get(name, outputs.get(name))
        setattr(arguments, field, value.data_ptr() if kind is ctypes.c_void_p else value)
    functions = ctypes.CDLL(str(library))
    launch, sizes, error = (getattr(functions, f"{task.exported}_{name}") for name in ("launch", "scratch_bytes", "error"))
    error.restype = ctypes.c_char_p
    launch.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    count = ctypes.c_size_t()
    if sizes(ctypes.byref(shape), ctypes.byref(count)):
        raise RuntimeError(error().decode())
    scratch = torch.empty(max(1, count.value), dtype=torch.uint8, device="cuda")

    def call():
        stream = torch.cuda.current_stream().cuda_stream
        if launch(ctypes.byref(shape), ctypes.byref(arguments), scratch.data_ptr(), count.value, stream):
            raise RuntimeError(error().decode())

    call()
    torch.cuda.synchronize()
    return outputs, time_us(torch, call)


def named(task, result):
    result = result if isinstance(result, (tuple, list)) else (result,)
    return dict(zip(task.definition["outputs"], result))


def run_torch(torch, task, folder, inputs):
    nvcc()
    package = next(folder.glob("kforge_*"))
    module = load(package / "__init__.py", package.name)
    values = list(inputs.values())
    found = named(task, module.run(*values))
    fake = torch._subclasses.FakeTensorMode()
    with fake:
        shapes = named(task, module.run(*[fake.from_tensor(value) if hasattr(value, "device") else value for value in values]))
    for name, value in shapes.items():
        if value.shape != found[name].shape or value.dtype != found[name].dtype:
            raise RuntimeError(f"the rule for shapes is wrong for {name}: {value.shape}, {value.dtype}")
    operator = getattr(torch.ops, package.name).run
    torch.library.opcheck(operator, tuple(values), test_utils=("test_schema", "test_faketensor"))
    compiled = torch.compile(module.run, fullgraph=True)(*values)
    for name, value in named(task, compiled).items():
        if not torch.equal(value, found[name]):
            raise RuntimeError(f"torch.compile gives another {name}")
    return found, time_us(torch, lambda: module.run(*values))


def run_hf_kernels(torch, task, folder, inputs):
    """Builds the extension that `build.toml` names, with PyTorch's builder, and gives the package what kernel-builder generates."""
    nvcc()
    import tomllib
    from torch.utils.cpp_extension import load as load_extension

    build = tomllib.loads((folder / "build.toml").read_text())
    module, torch_part = build["general"]["name"].replace("-", "_"), build["torch"]
    parts = [torch_part, *build["kernel"].values()]
    sources = [str(folder / source) for part in parts for source in part["src"] if not source.endswith(".h")]
    includes = [str(folder / include) for part in parts for include in part["include"]]
    generated = folder / "generated"
    generated.mkdir()
    (generated / "registration.h").write_text(
        "#include <Python.h>\n#define TORCH_LIBRARY_EXPAND(name, module) TORCH_LIBRARY(name, module)\n#define REGISTER_EXTENSION(name)\n"
    )
    operators = f"_{module}_built"
    flags = [flag for part in parts for flag in part.get("cuda-flags", [])]
    load_extension(name=operators, sources=sources, extra_include_paths=[str(generated), *includes], extra_cuda_cflags=flags, is_python_module=False)
    package = folder / "torch-ext" / module
    (package / "_ops.py").write_text(
        f"import torch\nops = torch.ops.{operators}\ndef add_op_namespace_prefix(name):\n    return f'{operators}::{{name}}'\n"
    )
    kernel = load(package / "__init__.py", module)
    values = list(inputs.values())
    torch.library.opcheck(getattr(torch.ops, operators).run, tuple(values), test_utils=("test_schema", "test_faketensor"))
    return named(task, kernel.run(*values)), time_us(torch, lambda: kernel.run(*values))


def as_integers(torch, value):
    """A tensor of a type that NumPy lacks as integers of its size."""
    sizes = {torch.bfloat16: torch.int16, torch.float8_e4m3fn: torch.uint8, torch.float8_e5m2: torch.uint8}
    return value.view(sizes[value.dtype]) if getattr(value, "dtype", None) in sizes else value


def run_cupy(torch, task, folder, inputs):
    try:
        import cupy
    except ImportError as error:
        raise Missing(f"cupy ({error})")
    module = load(next(folder.glob("*.py")), f"cupy_{task.exported}")
    tensors = [as_integers(torch, value) for value in inputs.values()]
    values = [cupy.from_dlpack(value) if hasattr(value, "shape") else value for value in tensors]
    # Both tools use the default stream here.
    results = named(task, module.run(*values))
    outputs = task.empty_outputs(torch)
    # As bytes: PyTorch does not take every unsigned type.
    found = {name: torch.from_dlpack(value.view("uint8")).view(outputs[name].dtype).view(outputs[name].shape) for name, value in results.items()}
    return found, time_us(torch, lambda: module.run(*values))


def run_cuda_core(torch, task, folder, inputs):
    try:
        import cuda.core
    except ImportError as error:
        raise Missing(f"cuda.core ({error})")
    module = load(next(folder.glob("*.py")), f"cuda_core_{task.exported}")
    outputs = task.empty_outputs(torch)
    values = [as_integers(torch, value) for value in [*inputs.values(), *outputs.values()]]
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()) as _:
        device = cuda.core.Device()
        device.set_current()
        pointer = torch.cuda.current_stream().cuda_stream
        stream = cuda.core.Stream.from_handle(pointer)
        call = lambda: module.run(stream, *values)
        call()
        torch.cuda.synchronize()
        return outputs, time_us(torch, call)


def run_flashinfer(torch, task, folder, inputs):
    nvcc()
    try:
        from flashinfer_bench.compile import BuilderRegistry
        from flashinfer_bench.data import Definition, Solution
    except ImportError as error:
        raise Missing(f"flashinfer_bench ({error})")
    definition = Definition.model_validate(task.definition)
    solution = Solution.model_validate_json(next(folder.glob("*.json")).read_text())
    runnable = BuilderRegistry.get_instance().build(definition, solution)
    values, outputs = list(inputs.values()), task.empty_outputs(torch)
    call = lambda: runnable.call_destination_passing(*values, *outputs.values())
    call()
    torch.cuda.synchronize()
    return outputs, time_us(torch, call)


def run_kernelbench(torch, task, folder, inputs, checkout=None):
    nvcc()
    path = next(folder.glob("*.py"))
    if checkout:
        return run_kernelbench_evaluator(torch, task, path, inputs, checkout)
    model = load(path, f"kernelbench_{task.exported}").ModelNew().cuda()
    values = list(inputs.values())
    return named(task, model(*values)), time_us(torch, lambda: model(*values))


def run_kernelbench_evaluator(torch, task, path, inputs, checkout):
    """KernelBench's own evaluator, on a problem made from the definition."""
    sys.path.insert(0, str(pathlib.Path(checkout) / "src"))
    try:
        from kernelbench.eval import eval_kernel_against_ref
    except ImportError as error:
        raise Missing(f"KernelBench ({error})")
    makers = [
        f"torch.randn({list(value.shape)}) * {task.settings.get('inputs', {}).get(name, {}).get('normal', 1.0)}"
        if hasattr(value, "shape")
        else repr(value)
        for name, value in inputs.items()
    ]
    problem = (
        f"import torch\n{task.definition['reference']}\n\nclass Model(torch.nn.Module):\n    def forward(self, *inputs):\n"
        f"        result = run(*inputs)\n        return result[0] if isinstance(result, tuple) else result\n\n"
        f"def get_inputs():\n    return [{', '.join(makers)}]\n\ndef get_init_inputs():\n    return []\n"
    )
    precision = next(value.dtype for value in inputs.values() if hasattr(value, "dtype"))
    alone.alone_in_kernelbench()
    result = eval_kernel_against_ref(problem, path.read_text(), measure_performance=True, backend="cuda", precision=precision, num_correct_trials=3)
    if result is None or not result.correctness:
        raise RuntimeError(f"KernelBench: {result}")
    return None, float(result.runtime) * 1e3


RUNNERS = {
    "c": run_c,
    "standalone": run_standalone,
    "torch": run_torch,
    "kernelbench": run_kernelbench,
    "hf-kernels": run_hf_kernels,
    "cupy": run_cupy,
    "cuda-core": run_cuda_core,
    "rust": run_rust,
}


def kforge_time(kforge, task, kernel):
    """What `kforge eval` measures on the workload, in microseconds."""
    command = [kforge, "eval", task.name, kernel, "--profile", "full", "--backend", "cuda", "--format", "json"]
    ended = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    verdicts = json.loads(ended.stdout or "[]")
    verdicts = verdicts if isinstance(verdicts, list) else [verdicts]
    for verdict in verdicts:
        for case in verdict["workloads"]:
            if case["id"] == task.workload["uuid"] and case.get("candidate_us"):
                return case["candidate_us"]["median"]
    return None


def task_of(arguments, kernel):
    task = Task(arguments.task or pathlib.Path(kernel).resolve().parent.name, arguments.workload)
    task.exported = re.sub(r"\W", "_", f"{task.name}_{pathlib.Path(kernel).stem}")
    return task


def build_rust_programs(arguments):
    """Builds the program of each kernel's crate, for a machine without cargo."""
    programs = pathlib.Path(arguments.build_rust)
    programs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        for kernel in arguments.kernels:
            task, folder = task_of(arguments, kernel), pathlib.Path(name) / kernel.replace("/", "-")
            export(arguments.kforge, kernel, task, "rust", folder)
            shutil.copy(build_rust(folder, pathlib.Path(name) / "target"), programs / task.exported)
            print(programs / task.exported)


def check_kernel(torch, arguments, kernel):
    """Runs one kernel in every form. Returns whether nothing failed."""
    task = task_of(arguments, kernel)
    inputs = task.inputs(torch)
    expected = task.reference(inputs)
    judged = None if arguments.no_eval else kforge_time(arguments.kforge, task, kernel)
    own = "not measured" if judged is None else f"{judged:.2f} us"
    print(f"{kernel} on {task.workload['uuid']}: kforge eval {own}")
    fine = True
    for form in arguments.forms:
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            try:
                export(arguments.kforge, kernel, task, form, folder)
                options = {"kernelbench": {"checkout": arguments.kernelbench}, "rust": {"programs": arguments.rust}}.get(form, {})
                runner = RUNNERS.get(form, run_flashinfer)
                found, microseconds = runner(torch, task, folder, inputs, **options)
                worst = 0.0 if found is None else task.worst(found, expected)
                state = "ok" if worst <= 1.0 else "WRONG"
                fine = fine and worst <= 1.0
                print(f"  {form:20} {state:8} {microseconds:10.2f} us   {worst:.3f} of the tolerance", flush=True)
            except Missing as missing:
                print(f"  {form:20} missing  {missing}", flush=True)
            except Refused as refused:
                print(f"  {form:20} refused  {refused}", flush=True)
            except Exception as error:  # A tool failed: the others still run.
                fine = False
                print(f"  {form:20} FAILED   {type(error).__name__}: {error}", flush=True)
    return fine


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernels", nargs="+")
    parser.add_argument("--kforge", default=str(ROOT / "target/release/kforge"))
    parser.add_argument("--task")
    parser.add_argument("--workload", help="default: the task's last")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--kernelbench", metavar="DIR", help="a checkout of KernelBench")
    parser.add_argument("--rust", metavar="DIR", help="programs that --build-rust has made")
    parser.add_argument("--build-rust", metavar="DIR", help="build the programs of `rust` into a folder, and run nothing; needs no GPU")
    parser.add_argument("--no-eval", action="store_true", help="do not run `kforge eval`")
    alone.add_argument(parser)
    arguments = parser.parse_args()
    alone.use(arguments)
    if arguments.build_rust:
        return build_rust_programs(arguments)
    try:
        import torch
    except ImportError:
        raise SystemExit("missing: PyTorch")
    if not torch.cuda.is_available():
        raise SystemExit("missing: a GPU")
    results = []
    for kernel in arguments.kernels:
        try:
            results.append(check_kernel(torch, arguments, kernel))
        except Missing as missing:
            raise SystemExit(f"missing: {missing}")
    raise SystemExit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
