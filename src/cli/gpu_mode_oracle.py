

# What follows makes an oracle of the problem. Written by `kforge tasks import gpu-mode`.
import torch as _torch

_use_files("FILES")
_IN_DOUBLE = "DOUBLE"
_reference = None


@_torch.no_grad()
def run(*values):
    """The reference's outputs, in double precision if it computes in that of its inputs."""
    global _reference
    _torch.backends.cudnn.allow_tf32 = False
    _torch.backends.cuda.matmul.allow_tf32 = False
    if _IN_DOUBLE:
        values = [value.double() if value.dtype.is_floating_point else value for value in values]
    with _contextlib.nullcontext() if values[0].is_cuda else _on_cpu():
        if _reference is None:
            _reference = _importlib.import_module("reference").ref_kernel
        result = _reference(_data("STRUCTURE", "PLANS", [value.clone() for value in values]))
    return result if _torch.is_tensor(result) else tuple(result)
