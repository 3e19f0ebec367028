

# What follows makes an oracle of the function. Written by `kforge tasks import torch`.
import torch as _torch

_function = FUNCTION
# The names of arguments that are not passed by their place.
_NAMES = "NAMES"
_IN_DOUBLE = "DOUBLE"


def _converted(value):
    if _IN_DOUBLE and _torch.is_tensor(value) and value.dtype.is_floating_point:
        return value.double()
    return value


@_torch.no_grad()
def run(*values):
    """The function's outputs, in double precision if it computes in that of its inputs."""
    _torch.backends.cudnn.allow_tf32 = False
    _torch.backends.cuda.matmul.allow_tf32 = False
    values = [_converted(value) for value in values]
    by_place = [value for value, name in zip(values, _NAMES) if name is None]
    result = _function(*by_place, **{name: value for value, name in zip(values, _NAMES) if name is not None})
    if isinstance(result, dict):
        result = result.values()
    return result if _torch.is_tensor(result) else tuple(result)
