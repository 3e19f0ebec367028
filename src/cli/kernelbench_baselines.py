

# What follows makes baselines of the problem above. Written by `kforge tasks import kernelbench`.
import torch as _torch

_STATE = "STATE"
_GIVEN = "GIVEN"
_PRECISION = "PRECISION"


def _timed(transform):
    """A function of the model's inputs and then of its parameters and buffers, which calls what `transform` makes of the model."""
    _torch.manual_seed(42)
    # With TF32 the outputs would be outside the tolerance for float32.
    _torch.backends.cudnn.allow_tf32 = False
    _torch.backends.cuda.matmul.allow_tf32 = False
    model = Model(*get_init_inputs()).to(getattr(_torch, _PRECISION))
    called = transform(model)
    places = []

    def call(*values):
        if not places:
            tensors = [value for value in values if _torch.is_tensor(value)]
            model.to(tensors[0].device if tensors else "cpu")
            known = dict([*model.named_parameters(), *model.named_buffers()])
            places.extend((known[entry["name"]], entry["shape"]) for entry in _STATE)
        # The model uses the memory of the inputs; nothing is copied.
        for (place, shape), value in zip(places, values[_GIVEN:]):
            place.data = value.reshape(shape)
        result = called(*values[:_GIVEN])
        results = result if isinstance(result, (tuple, list)) else [result]
        return tuple(value.reshape(1) if value.dim() == 0 else value for value in results)

    return call


BASELINES = {
    "eager": ("torch", lambda: _timed(lambda model: model)),
    "torch.compile": ("torch", lambda: _timed(lambda model: _torch.compile(model, dynamic=False))),
}
