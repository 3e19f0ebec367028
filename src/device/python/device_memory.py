# Memory of this process on the GPU that kforge maps, for oracles and baselines.
import ctypes
import math


class DeviceMemory:
    """Memory on the GPU that kforge can map, in blocks that are kept from call to call."""

    # The driver gives larger pieces of memory a place of their own.
    GRANULE = 2 << 20
    HANDLE_BYTES = 64
    # CUDA_ERROR_OUT_OF_MEMORY
    OUT_OF_MEMORY = 2
    # With more than this, PyTorch keeps none of the memory that it has freed.
    LARGE = 1 << 30

    class Block:
        """An array of bytes, in the form that PyTorch takes."""

        def __init__(self, address, size):
            self.address = address
            self.size = size
            self.__cuda_array_interface__ = {"shape": (size,), "typestr": "|u1", "data": (address, False), "version": 3}

    def __init__(self, torch):
        self.torch = torch
        self.driver = ctypes.CDLL("libcuda.so.1")
        self.blocks = []
        self.handles = []
        # Makes PyTorch's context the current one.
        torch.zeros(1, device="cuda")

    def call(self, name, *arguments):
        code = getattr(self.driver, name)(*arguments)
        if code == self.OUT_OF_MEMORY:
            raise MemoryError("the GPU has too little free memory for the oracle: end other programs on it, or take smaller workloads")
        if code != 0:
            raise RuntimeError(f"{name} failed with CUDA's error {code}")

    def reserve(self, sizes):
        """Makes the block of each place at least this long. Returns the handles by which kforge maps them."""
        for place, size in enumerate(sizes):
            size = max(1, -(-size // self.GRANULE)) * self.GRANULE
            if place < len(self.blocks) and self.blocks[place].size == size:
                continue
            if place < len(self.blocks):
                self.call("cuMemFree_v2", ctypes.c_uint64(self.blocks[place].address))
                self.blocks[place] = self.Block(0, 0)
                self.torch.cuda.empty_cache()
            address, handle = ctypes.c_uint64(), ctypes.create_string_buffer(self.HANDLE_BYTES)
            self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
            self.call("cuIpcGetMemHandle", handle, address)
            self.blocks[place:] = [self.Block(address.value, size), *self.blocks[place + 1 :]]
            self.handles[place:] = [handle.raw.hex(), *self.handles[place + 1 :]]
        return {"handles": self.handles[: len(sizes)]}

    def tensor(self, entry):
        torch = self.torch
        dtype = getattr(torch, entry["dtype"])
        count = math.prod(entry["shape"])
        bytes_of_block = torch.as_tensor(self.blocks[entry["place"]], device="cuda")
        return bytes_of_block[: count * dtype.itemsize].view(dtype).reshape(entry["shape"])

    def finish(self):
        torch = self.torch
        torch.cuda.synchronize()
        if torch.cuda.memory_reserved() > self.LARGE:
            torch.cuda.empty_cache()


