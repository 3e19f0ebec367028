#!/usr/bin/env python3
"""What makes every launch of a process longer on a GPU: python3 benches/launch_gap.py

Times a graph of 128 small kernels with cold caches, again and again, while something else is done before each sample: work on the same
stream, on another one, copies, changes of page access, new modules, a reset of persisting cache lines. Prints the microseconds of a launch
in parts of 0.2 s, first with and then without the disturbance. Between two of them another process uses the GPU for a moment, which ends
the effect. Needs PyTorch with CUDA and `cuda-bindings`. Results are in benches/results/search-gpu.md.
"""
import ctypes
import statistics
import subprocess
import sys
import time

import torch
from cuda.bindings import driver

KERNELS = 128
OTHER_PROCESS = """
import sys, time, torch
x = torch.zeros(8, device='cuda')
torch.cuda.synchronize()
print('up', flush=True)
for line in sys.stdin:
    for _ in range(200):
        x.add_(1)
        torch.cuda.synchronize()
        time.sleep(0.001)
    print('done', flush=True)
"""


class Sampler:
    def __init__(self):
        self.stream = torch.cuda.Stream()
        torch.cuda.set_stream(self.stream)
        self.inputs = [torch.ones(16, 1024, device="cuda") for _ in range(KERNELS)]
        self.outputs = [torch.empty_like(one) for one in self.inputs]
        elements = 2 * torch.cuda.get_device_properties(0).L2_cache_size // 4
        self.flushed = [torch.zeros(elements, device="cuda") for _ in range(2)]
        self.begin, self.end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.multiply()
        torch.cuda.synchronize()
        self.graph = self.capture()

    def multiply(self):
        for source, target in zip(self.inputs, self.outputs):
            torch.mul(source, 2.0, out=target)

    def capture(self):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            self.multiply()
        return graph

    def sample(self, before):
        """Microseconds of a launch."""
        before()
        torch.cuda.synchronize()
        torch.cuda._sleep(2_000_000)
        self.flushed[0].fill_(1.0)
        self.flushed[1].sum()
        self.begin.record()
        self.graph.replay()
        self.end.record()
        self.end.synchronize()
        return self.begin.elapsed_time(self.end) * 1e3 / KERNELS

    def series(self, seconds, before=lambda: None):
        start, parts = time.time(), {}
        while (passed := time.time() - start) < seconds:
            parts.setdefault(int(passed / 0.2), []).append(self.sample(before))
        return " ".join(f"{statistics.median(part):.2f}" for part in parts.values())


def check(result):
    if result[0] != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(str(result[0]))
    return result[1] if len(result) == 2 else result[1:]


class PageAccess:
    """Memory whose access can be changed, as kforge hides the memory of one kernel from another."""

    def __init__(self):
        self.properties = driver.CUmemAllocationProp()
        self.properties.type = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        self.properties.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        self.bytes = 2 << 20
        handle = check(driver.cuMemCreate(self.bytes, self.properties, 0))
        self.start = check(driver.cuMemAddressReserve(self.bytes, 0, 0, 0))
        check(driver.cuMemMap(self.start, self.bytes, 0, handle, 0))

    def change(self):
        for flags in ("READWRITE", "NONE"):
            access = driver.CUmemAccessDesc()
            access.location = self.properties.location
            access.flags = getattr(driver.CUmemAccess_flags, f"CU_MEM_ACCESS_FLAGS_PROT_{flags}")
            check(driver.cuMemSetAccess(self.start, self.bytes, [access], 1))


def main():
    sampler, pages = Sampler(), PageAccess()
    small = torch.zeros(1, device="cuda")
    host = (ctypes.c_char * 4096)()
    stream = sampler.stream.cuda_stream
    other = torch.cuda.Stream()

    def on_other_stream():
        with torch.cuda.stream(other):
            small.add_(1)

    disturbances = {
        "nothing": lambda: None,
        "128 launches, same stream": sampler.multiply,
        "copy to the host, same stream": lambda: driver.cuMemcpyDtoHAsync(ctypes.addressof(host), small.data_ptr(), 4, stream),
        "copy to the GPU, same stream": lambda: driver.cuMemcpyHtoDAsync(small.data_ptr(), ctypes.addressof(host), 4, stream),
        "memset, same stream": lambda: driver.cuMemsetD8Async(small.data_ptr(), 0, 4, stream),
        "change of page access": pages.change,
        "capture of a graph": sampler.capture,
        "allocation": lambda: driver.cuMemFree(check(driver.cuMemAlloc(64 << 20))),
        "one launch, another stream": on_other_stream,
        "reset of persisting lines": driver.cuCtxResetPersistingL2Cache,
    }
    process = subprocess.Popen([sys.executable, "-c", OTHER_PROCESS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    for name, disturb in disturbances.items():
        process.stdin.write("use the GPU\n")
        process.stdin.flush()
        sampler.series(0.3)
        process.stdout.readline()
        print(f"{name:32s} {sampler.series(0.8, disturb)}   then nothing: {sampler.series(0.8)}", flush=True)
    process.kill()


if __name__ == "__main__":
    main()
