"""Runs and times a task's baselines in Python, for kforge. Started as `python3 -c TEXT DESCRIPTOR`.

Reads one JSON object per line from standard input and answers each with one line: first the source, then requests about one baseline at a
time. The tensors are in a shared memory file, whose descriptor is the argument. What a baseline prints goes to standard error.

A sample is `runs` calls, each on another copy of the inputs, which kforge has filled just before: in the shared memory, or on the GPU by its
own kernels. On a GPU the calls are captured in a CUDA
graph. Before the clock starts, twice the size of the cache is written and read. On a CPU a sample is timed by `time.perf_counter`.
"""

import contextlib
import ctypes
import fcntl
import importlib.metadata
import json
import mmap
import os
import random
import sys
import time
import traceback

# The GPU waits this many clock cycles before a sample, so that the host has queued all of it when it begins.
QUEUE_CYCLES = 2_000_000


def import_torch():
    import torch

    return torch


class Clock:
    """Times samples on a CPU: single calls, on one copy of the inputs, in host memory that kforge fills."""

    def __init__(self, torch):
        self.torch = torch

    def versions(self):
        return {"threads": str(self.torch.get_num_threads())}

    def tensor(self, memory, dtype, shape, offset, position):
        count = 1
        for size in shape:
            count *= size
        return self.torch.frombuffer(memory, dtype=dtype, count=count, offset=offset).reshape(shape)

    def refresh(self, copies, changed, fills):
        pass

    def warm_up(self, function, copies):
        for arguments in copies:
            for _ in range(3):
                function(*arguments)

    def sample(self, function, copies, order):
        # The memory of the last results is free before the next call, as it is in a program.
        results = None
        total = 0.0
        for copy in order:
            arguments = copies[copy]
            results = None
            begin = time.perf_counter()
            results = function(*arguments)
            total += time.perf_counter() - begin
        return total, results


class FillKernels:
    """kforge's own kernels, which fill all copies of an input on the GPU: with the values that the buffers of a kernel get."""

    THREADS = 256
    # Lengths of `Addresses` and `Copies` in `numerics.cu`.
    ADDRESSES = 257
    NUMBERED_COPIES = 16

    def __init__(self, torch):
        self.torch = torch
        self.driver = ctypes.CDLL("libcuda.so.1")
        self.blocks = 16 * torch.cuda.get_device_properties(0).multi_processor_count
        self.functions = {}

    def call(self, name, *arguments):
        code = getattr(self.driver, name)(*arguments)
        if code != 0:
            raise RuntimeError(f"{name} failed with CUDA's error {code}")

    def function(self, image, entry):
        if (image, entry) not in self.functions:
            with open(image, "rb") as file:
                code = file.read()
            module, function = ctypes.c_void_p(), ctypes.c_void_p()
            self.call("cuModuleLoadData", ctypes.byref(module), code)
            self.call("cuModuleGetFunction", ctypes.byref(function), module, entry.encode())
            self.functions[(image, entry)] = function
        return self.functions[(image, entry)]

    def fill(self, request, tensors):
        """Queues the launches that fill the tensors of all copies."""
        function = self.function(request["image"], request["entry"])
        elements = request["elements"]
        distribution = (ctypes.c_uint64 * 8)(*request["distribution"])
        size, seed = ctypes.c_uint64(elements), ctypes.c_uint64(request["seed"])
        numbers = request["numbers"]
        stream = ctypes.c_void_p(self.torch.cuda.current_stream().cuda_stream)
        for first in range(0, len(tensors), self.NUMBERED_COPIES):
            part = tensors[first : first + self.NUMBERED_COPIES]
            addresses = (ctypes.c_uint64 * self.ADDRESSES)(*[tensor.data_ptr() for tensor in part])
            copies = (ctypes.c_uint32 * (1 + self.NUMBERED_COPIES))(len(part), *numbers[first : first + len(part)])
            arguments = [addresses, size, distribution, seed, copies]
            pointers = (ctypes.c_void_p * len(arguments))(*[ctypes.addressof(one) for one in arguments])
            blocks = max(1, min(-(-elements // self.THREADS), self.blocks // len(part)))
            self.call("cuLaunchKernel", function, blocks, len(part), 1, self.THREADS, 1, 1, 0, stream, pointers, None)


class CudaClock:
    """Times samples on a GPU, by events around a CUDA graph or, if the function cannot be captured, around its launches.

    All work is on one stream, which is PyTorch's current one: on an H200 each launch takes 0.36 us longer once two streams were used.
    """

    def __init__(self, torch, stream, fill_kernels, is_cold, use_graph):
        self.torch = torch
        self.stream = stream
        self.fill_kernels = fill_kernels
        self.is_cold = is_cold
        self.use_graph = use_graph
        self.begin = torch.cuda.Event(enable_timing=True)
        self.end = torch.cuda.Event(enable_timing=True)
        self.staged = []
        self.graph = None
        self.kept = None
        self.flushed = None
        if is_cold:
            elements = 2 * torch.cuda.get_device_properties(0).L2_cache_size // 4
            self.flushed = [torch.zeros(max(elements, 1), dtype=torch.float32, device="cuda") for _ in range(2)]

    def versions(self):
        torch = self.torch
        found = {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
        return {name: str(version) for name, version in found.items() if version is not None}

    def tensor(self, memory, dtype, shape, offset, position):
        count = 1
        for size in shape:
            count *= size
        source = self.torch.frombuffer(memory, dtype=dtype, count=count, offset=offset).reshape(shape)
        target = self.torch.empty(shape, dtype=dtype, device="cuda")
        self.staged.append((position, source, target))
        return target

    def refresh(self, copies, changed, fills):
        """Copies or fills inputs (`changed`: places of those to copy). The tensors are new objects: no cache of a library knows them."""
        for position, source, target in self.staged:
            if position in changed:
                target.copy_(source)
        for fill in fills:
            self.fill_kernels.fill(fill, [arguments[fill["input"]] for arguments in copies])
        for arguments in copies:
            for place, value in enumerate(arguments):
                if self.torch.is_tensor(value):
                    arguments[place] = value.detach()
        self.torch.cuda.synchronize()

    def warm_up(self, function, copies):
        torch = self.torch
        with torch.cuda.stream(self.stream):
            for _ in range(2):
                for arguments in copies:
                    function(*arguments)
        torch.cuda.synchronize()

    def capture(self, function, copies, order):
        torch = self.torch
        self.kept = None
        graph = torch.cuda.CUDAGraph()
        results = []
        with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
            for copy in order:
                results.append(function(*copies[copy]))
        self.graph = graph
        self.kept = results

    def sample(self, function, copies, order):
        torch = self.torch
        if self.use_graph:
            # Whatever a function computes on the host from its inputs, it does here, outside the clock.
            with torch.cuda.stream(self.stream):
                for copy in sorted(set(order)):
                    function(*copies[copy])
            torch.cuda.synchronize()
            self.capture(function, copies, order)
        with torch.cuda.stream(self.stream):
            if self.use_graph:
                # The first launch of a graph also moves it to the GPU.
                self.graph.replay()
            torch.cuda.synchronize()
            torch.cuda._sleep(QUEUE_CYCLES)
            if self.is_cold:
                written, read = self.flushed
                written.fill_(1.0)
                read.sum()
            else:
                self.read_inputs(copies, order)
            self.begin.record()
            if self.use_graph:
                self.graph.replay()
            else:
                self.kept = self.run(function, copies, order)
            self.end.record()
        self.end.synchronize()
        return self.begin.elapsed_time(self.end) / 1e3, self.kept[-1]

    def read_inputs(self, copies, order):
        """Reads the inputs of these copies, so that the cache holds them, as kforge does for kernels."""
        for copy in order:
            for value in copies[copy]:
                if self.torch.is_tensor(value) and value.numel() > 0:
                    value.reshape(-1).view(self.torch.uint8).max()

    def run(self, function, copies, order):
        return [function(*copies[copy]) for copy in order]


class SharedTimingLock:
    """kforge's timing lock, held with others: meanwhile nothing is timed on this GPU. `eval/timing_lock.rs` says how it is taken."""

    PAUSE = 0.001
    # After this many seconds of waiting, no further timing begins first.
    PATIENCE = 1.0

    def __init__(self, torch, path):
        self.torch = torch
        self.lock, self.gate, self.overdue = (open(path + end, "rb") for end in ("", ".gate", ".overdue"))

    def acquire(self):
        begin = time.monotonic()
        while not self.try_acquire():
            if time.monotonic() - begin >= self.PATIENCE:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(self.overdue, fcntl.LOCK_SH | fcntl.LOCK_NB)
            time.sleep(self.PAUSE)
        fcntl.flock(self.overdue, fcntl.LOCK_UN)

    def try_acquire(self):
        try:
            fcntl.flock(self.gate, fcntl.LOCK_SH | fcntl.LOCK_NB)
            try:
                fcntl.flock(self.lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            finally:
                fcntl.flock(self.gate, fcntl.LOCK_UN)
        except BlockingIOError:
            return False
        return True

    def release(self):
        """Gives the lock back once everything that was launched has ended."""
        if self.torch.cuda.is_initialized():
            self.torch.cuda.synchronize()
        fcntl.flock(self.lock, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def held_except_while_compiling(self):
        """Holds the lock. TorchDynamo compiles without it: that takes long, and launches little."""
        active = True
        dynamo = sys.modules.get("torch._dynamo")
        if dynamo is not None:
            dynamo.on_compile_start(lambda *_: active and self.release())
            dynamo.on_compile_end(lambda *_: active and self.acquire())
        self.acquire()
        try:
            yield
        finally:
            active = False
            self.release()


class Baselines:
    def __init__(self, request):
        self.torch = import_torch()
        self.torch.set_grad_enabled(False)
        if "torch.compile" in request["source"]:
            # Takes seconds, for which nothing on the GPU has to wait here.
            importlib.import_module("torch._dynamo")
        namespace = {"__name__": "baselines", "__file__": request["file"]}
        exec(compile(request["source"], request["file"], "exec"), namespace)
        self.entries = namespace.get("BASELINES")
        if not isinstance(self.entries, dict) or not self.entries:
            raise LookupError("the source has no dictionary `BASELINES`")
        for name, entry in self.entries.items():
            if not (isinstance(entry, tuple) and len(entry) == 2 and callable(entry[1])):
                raise TypeError(f"`BASELINES[{name!r}]`: expected (name of the package, function that makes the baseline)")
        self.on_gpu = request["device"] == "cuda"
        if self.on_gpu and not self.torch.cuda.is_available():
            raise ModuleNotFoundError("PyTorch finds no GPU here", name="torch with CUDA")
        self.functions = {}
        self.stream = None
        self.fill_kernels = None
        self.memory = None
        self.result = None
        self.package = None
        self.device_memory = None

    def names(self):
        return list(self.entries)

    def function(self, name, key):
        """The function of a baseline. A compiled one is made once for all tensors of the same shapes."""
        if (name, key) not in self.functions:
            dynamo = sys.modules.get("torch._dynamo")
            if dynamo is not None:
                dynamo.reset()
            self.functions = {(name, key): self.entries[name][1]()}
        return self.functions[(name, key)]

    def open(self, request):
        torch = self.torch
        name = request["open"]
        self.close()
        self.use_memory(request["length"])
        is_cold = request["cache"] == "cold"
        if self.on_gpu:
            if self.fill_kernels is None:
                self.stream = torch.cuda.Stream()
                torch.cuda.set_stream(self.stream)
                self.fill_kernels = FillKernels(torch)
            self.clock = CudaClock(torch, self.stream, self.fill_kernels, is_cold, request["graph"])
        else:
            self.clock = Clock(torch)
        self.copies = []
        for copy in range(request["copies"]):
            self.copies.append([self.argument(entry, place, copy) for place, entry in enumerate(request["inputs"])])
        self.outputs = request["outputs"]
        key = json.dumps([[entry.get("shape"), entry.get("dtype"), entry.get("scalar")] for entry in request["inputs"]])
        self.call = self.function(name, key)
        self.package = self.entries[name][0]
        return {"versions": self.versions(self.package)}

    def close(self):
        self.clock = None
        self.copies = []
        self.call = None
        self.result = None
        if self.on_gpu:
            self.torch.cuda.empty_cache()

    def use_memory(self, length):
        if self.memory is None or len(self.memory) != length:
            self.memory = mmap.mmap(int(sys.argv[1]), length)

    def argument(self, entry, place, copy):
        if "scalar" in entry:
            return entry["scalar"]
        if "offsets" not in entry:
            return None
        dtype = getattr(self.torch, entry["dtype"])
        return self.clock.tensor(self.memory, dtype, entry["shape"], entry["offsets"][copy], place)

    def prepare(self, request):
        """Calls the function on the first inputs, so that everything is compiled, and captures it once to see whether that works.

        With `lock`, other kernels may be timed meanwhile: what is launched holds that lock with others.
        """
        if request["lock"] is None:
            return self.prepare_now(request)
        if self.package != "torch":
            raise RuntimeError("a library may launch kernels while it compiles")
        with SharedTimingLock(self.torch, request["lock"]).held_except_while_compiling():
            return self.prepare_now(request)

    def prepare_now(self, request):
        self.clock.refresh(self.copies, request["changed"], request["fills"])
        self.clock.warm_up(self.call, self.copies)
        if not self.on_gpu:
            return {"launch": "call"}
        if not self.clock.use_graph:
            return {"launch": "launches"}
        try:
            self.clock.capture(self.call, self.copies, [0])
            self.torch.cuda.synchronize()
        except Exception as error:
            # The process may not be able to use the GPU any more: kforge starts another one.
            return {"no_graph": describe(error)["error"]}
        return {"launch": "graph"}

    def sample(self, request):
        if request["changed"] or request["fills"]:
            self.clock.refresh(self.copies, request["changed"], request["fills"])
        runs = request["sample"]
        order = list(range(len(self.copies)))
        random.shuffle(order)
        order = [order[run % len(order)] for run in range(runs)]
        seconds, self.result = self.clock.sample(self.call, self.copies, order)
        return {"seconds": seconds, "copies": sorted(set(order))}

    def checked_outputs(self):
        """The outputs of the last call with their descriptions."""
        torch = self.torch
        result = self.result
        names = [entry["name"] for entry in self.outputs]
        if isinstance(result, dict):
            result = [result.get(name) for name in names]
        elif not isinstance(result, (tuple, list)):
            result = [result]
        if len(result) != len(names):
            raise ValueError(f"it returns {len(result)} values, the definition has {len(names)} outputs")
        for entry, value in zip(self.outputs, result):
            found = [list(value.shape), str(value.dtype).removeprefix("torch.")] if torch.is_tensor(value) else [type(value).__name__]
            expected = [entry["shape"], entry["dtype"]]
            if found != expected:
                raise ValueError(f"output `{entry['name']}`: expected {expected}, found {found}")
        return list(zip(self.outputs, result))

    def collect(self):
        """Writes the outputs of the last call as double precision."""
        for entry, value in self.checked_outputs():
            data = value.to(device="cpu", dtype=self.torch.float64).contiguous().numpy()
            start = entry["offset"]
            self.memory[start : start + data.nbytes] = data.tobytes()
        return {}

    def share(self):
        """Copies the outputs of the last call to memory that kforge maps."""
        outputs = self.checked_outputs()
        if self.device_memory is None:
            self.device_memory = DeviceMemory(self.torch)
        answer = self.device_memory.reserve([value.numel() * value.element_size() for _, value in outputs])
        for place, (entry, value) in enumerate(outputs):
            self.device_memory.tensor({**entry, "place": place}).copy_(value)
        self.device_memory.finish()
        return answer

    def versions(self, package):
        known = {"python": ".".join(map(str, sys.version_info[:3])), "torch": str(self.torch.__version__)}
        if package != "torch":
            known[package] = package_version(package)
        if "triton" in sys.modules:
            known["triton"] = package_version("triton")
        return {**known, **self.clock.versions()}


def package_version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return getattr(sys.modules.get(package.replace("-", "_")), "__version__", "of unknown version")


def describe(error):
    """The error in one line, and the module that is missing, if it is that."""
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename not in ("<string>", __file__)]
    if frames:
        text += f" ({frames[-1].filename}, line {frames[-1].lineno})"
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    return {"error": text, "missing_module": missing}


def answer_to(baselines, request):
    if "open" in request:
        return baselines.open(request)
    if "prepare" in request:
        return baselines.prepare(request)
    if "sample" in request:
        return baselines.sample(request)
    if "check" in request:
        baselines.checked_outputs()
        return {}
    if "share" in request:
        return baselines.share()
    return baselines.collect()


def main():
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    baselines = None
    for line in sys.stdin:
        try:
            request = json.loads(line)
            if baselines is None:
                baselines = Baselines(request)
                answer = {"names": baselines.names()}
            else:
                answer = answer_to(baselines, request)
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            answer = describe(error)
        print(json.dumps(answer), file=answers, flush=True)


__file__ = "<kforge>"
main()
