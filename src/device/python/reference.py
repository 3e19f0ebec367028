"""Computes the outputs of a task by its Python reference, for kforge. Started as `python3 -c TEXT DESCRIPTOR`.

Reads one JSON object per line from standard input and answers each with one line: first the source, then one request for each call. The
tensors are in a shared memory file, whose descriptor is the argument, or in memory on the GPU that kforge maps. What the reference prints goes to standard error.
"""

import json
import math
import mmap
import os
import sys
import time
import traceback

# A first call that takes longer, or has larger inputs, is not repeated.
MAX_FIRST_SECONDS = 0.5
MAX_FIRST_BYTES = 1 << 26
# How many elements of results on a GPU are compared at once.
PART_ELEMENTS = 1 << 26


def decode_float8(numpy, bits, exponent_bits):
    """The values of 8-bit floats. With 4 exponent bits there are no infinities, and all ones are NaN."""
    codes = numpy.arange(256)
    mantissa_bits = 7 - exponent_bits
    bias = 2 ** (exponent_bits - 1) - 1
    exponent = (codes >> mantissa_bits) & (2**exponent_bits - 1)
    mantissa = (codes & (2**mantissa_bits - 1)) / 2**mantissa_bits
    values = numpy.where(exponent == 0, mantissa * 2.0 ** (1 - bias), (1 + mantissa) * 2.0 ** (exponent - bias))
    if exponent_bits == 4:
        values = numpy.where(codes & 0x7F == 0x7F, numpy.nan, values)
    else:
        values = numpy.where(codes & 0x7F == 0x7C, numpy.inf, values)
        values = numpy.where(codes & 0x7F > 0x7C, numpy.nan, values)
    return numpy.where(codes & 0x80, -values, values)[bits]


class NumPyTensors:
    """Floating-point inputs are float64, so that sums are in double precision."""

    def __init__(self):
        import numpy

        self.numpy = numpy

    def input(self, memory, dtype, shape):
        numpy = self.numpy
        if dtype == "bfloat16":
            bits = numpy.frombuffer(memory, dtype=numpy.uint16).astype(numpy.uint32) << 16
            values = bits.view(numpy.float32).astype(numpy.float64)
        elif dtype.startswith("float8"):
            bits = numpy.frombuffer(memory, dtype=numpy.uint8)
            values = decode_float8(numpy, bits, 4 if "e4m3" in dtype else 5)
        else:
            values = numpy.frombuffer(memory, dtype=dtype)
            values = values.astype(numpy.float64 if dtype.startswith("float") else dtype)
        return values.reshape(shape)

    def output(self, value):
        return self.numpy.ascontiguousarray(value, dtype=self.numpy.float64)

    def are_far_apart(self, one, other):
        """Whether two results differ by more than another order of additions explains."""
        return are_far_apart(self.output(one), self.output(other))


class TorchTensors(NumPyTensors):
    """Inputs have the dtype of the definition, as PyTorch code expects."""

    def __init__(self, device):
        super().__init__()
        import torch

        self.torch = torch
        self.device = device if torch.cuda.is_available() else "cpu"

    def input(self, memory, dtype, shape):
        values = self.torch.frombuffer(bytearray(memory), dtype=getattr(self.torch, dtype))
        return values.reshape(shape).to(self.device)

    def output(self, value):
        if self.torch.is_tensor(value):
            value = value.detach().to(device="cpu", dtype=self.torch.float64).numpy()
        return super().output(value)

    def are_far_apart(self, one, other):
        """Where the results are: a billion elements take a second on a GPU, and many on the host."""
        torch = self.torch
        if not torch.is_tensor(one) or not torch.is_tensor(other) or not one.is_cuda:
            return super().are_far_apart(one, other)
        if one.shape != other.shape:
            return True
        if one.numel() == 0:
            return False
        # A part at a time, because there may be little memory.
        differences, largest = [], []
        for parts in zip(one.detach().reshape(-1).split(PART_ELEMENTS), other.detach().reshape(-1).split(PART_ELEMENTS)):
            first, second = (part.double() for part in parts)
            differences.append((first - second).abs().max())
            largest.append(first.abs().max())
        return bool(torch.stack(differences).max() > 1e-2 * torch.stack(largest).max())


class Reference:
    def __init__(self, request):
        namespace = {"__name__": "reference", "__file__": request["file"]}
        exec(compile(request["source"], request["file"], "exec"), namespace)
        self.run = namespace.get("run")
        if not callable(self.run):
            raise LookupError("the source has no function `run`")
        uses_torch = "torch" in sys.modules
        self.tensors = TorchTensors(request["device"]) if uses_torch else NumPyTensors()
        self.memory = None
        self.device_memory = None
        self.is_checked = False

    def on_gpu(self):
        return getattr(self.tensors, "device", "cpu") != "cpu"

    def reserve(self, sizes):
        if self.device_memory is None:
            self.device_memory = DeviceMemory(self.tensors.torch)
        return self.device_memory.reserve(sizes)

    def versions(self):
        known = {name: getattr(sys.modules[name], "__version__", "") for name in ("numpy", "torch") if name in sys.modules}
        return {"python": ".".join(map(str, sys.version_info[:3])), **known}

    def call(self, request):
        length = request["length"]
        if self.memory is None or len(self.memory) != length:
            self.memory = mmap.mmap(int(sys.argv[1]), length)
        arguments = [self.argument(entry) for entry in request["inputs"]]
        for entry, value in self.results(request, arguments):
            array = self.tensors.output(value)
            self.check_shape(entry, array.shape)
            start = entry["offset"]
            self.memory[start : start + array.nbytes] = array.tobytes()

    def call_on_device(self, request):
        """Like `call`, with tensors in memory on the GPU."""
        torch, memory = self.tensors.torch, self.device_memory
        arguments = [memory.tensor(entry) if "place" in entry else entry.get("scalar") for entry in request["inputs"]]
        with torch.no_grad():
            for entry, value in self.results(request, arguments):
                value = torch.as_tensor(value)
                self.check_shape(entry, tuple(value.shape))
                memory.tensor(entry).copy_(value.reshape(entry["shape"]))
        memory.finish()

    def results(self, request, arguments):
        """Calls `run`. Returns each output's entry with its value. The first call is made twice if it is short: a random reference is none."""
        kept = None if self.is_checked else copies_of(arguments)
        self.is_checked = True
        started = time.monotonic()
        results = self.named_results(request, arguments)
        if kept is not None and time.monotonic() - started < MAX_FIRST_SECONDS:
            for (entry, one), (_, other) in zip(results, self.named_results(request, kept)):
                if self.tensors.are_far_apart(one, other):
                    raise ValueError(
                        f"output `{entry['name']}`: two calls of `run` with the same inputs give different values: it is random or keeps state, so "
                        "there is nothing to compare with"
                    )
        return results

    def named_results(self, request, arguments):
        result = self.run(*arguments)
        names = [entry["name"] for entry in request["outputs"]]
        if isinstance(result, dict):
            missing = [name for name in names if name not in result]
            if missing:
                raise ValueError(f"`run` returns no `{missing[0]}`: its keys are {sorted(result)}")
            result = [result[name] for name in names]
        elif not isinstance(result, tuple) and not (isinstance(result, list) and len(names) > 1):
            result = [result]
        if len(result) != len(names):
            raise ValueError(f"`run` returns {len(result)} values, the definition has {len(names)} outputs")
        for entry, value in zip(request["outputs"], result):
            if value is None:
                raise ValueError(f"`run` returns None for the output `{entry['name']}`: return it, or delete it from the definition")
        return list(zip(request["outputs"], result))

    def check_shape(self, entry, found):
        shape = tuple(entry["shape"])
        if tuple(found) != shape and not (math.prod(found) == 1 and shape in ((), (1,))):
            raise ValueError(f"output `{entry['name']}`: expected the shape {list(shape)}, found {list(found)}")

    def argument(self, entry):
        if "scalar" in entry:
            return entry["scalar"]
        if "offset" not in entry:
            return None
        start = entry["offset"]
        memory = self.memory[start : start + entry["bytes"]]
        return self.tensors.input(memory, entry["dtype"], entry["shape"])


def copies_of(arguments):
    """Copies, because a reference may change its inputs; `None` if they are large."""
    arrays = [value for value in arguments if hasattr(value, "nbytes")]
    if sum(value.nbytes for value in arrays) > MAX_FIRST_BYTES:
        return None
    return [value.clone() if hasattr(value, "clone") else value.copy() if hasattr(value, "nbytes") else value for value in arguments]


def are_far_apart(one, other):
    if one.shape != other.shape:
        return True
    return bool(one.size and abs(one - other).max() > 1e-2 * abs(one).max())


def describe(error):
    """The error in one line, and the module that is missing, if it is that."""
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename not in ("<string>", __file__)]
    if frames:
        text += f" ({frames[0].filename}, line {frames[0].lineno})"
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    return {"error": text, "missing_module": missing}


def main():
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    reference = None
    for line in sys.stdin:
        try:
            request = json.loads(line)
            if reference is None:
                reference = Reference(request)
                answer = {"versions": reference.versions(), "on_gpu": reference.on_gpu()}
            elif "reserve" in request:
                answer = reference.reserve(request["reserve"])
            elif "on_device" in request:
                reference.call_on_device(request)
                answer = {}
            else:
                reference.call(request)
                answer = {}
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            answer = describe(error)
        print(json.dumps(answer), file=answers, flush=True)


__file__ = "<kforge>"
main()
