

# What follows makes baselines of the function. Written by `kforge tasks import torch`.
import torch as _torch

_function = FUNCTION
# The names of arguments that are not passed by their place.
_NAMES = "NAMES"


def _timed(transform):
    # With TF32 the outputs would be outside the tolerance for float32.
    _torch.backends.cudnn.allow_tf32 = False
    _torch.backends.cuda.matmul.allow_tf32 = False
    called = transform(_function)

    def call(*values):
        by_place = [value for value, name in zip(values, _NAMES) if name is None]
        result = called(*by_place, **{name: value for value, name in zip(values, _NAMES) if name is not None})
        results = list(result.values()) if isinstance(result, dict) else result if isinstance(result, (tuple, list)) else [result]
        return tuple(value.reshape(1) if value.dim() == 0 else value for value in results)

    return call


BASELINES = {
    "eager": ("torch", lambda: _timed(lambda function: function)),
    "torch.compile": ("torch", lambda: _timed(lambda function: _torch.compile(function, dynamic=False))),
}
