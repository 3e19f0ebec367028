

# What follows makes an oracle of the problem above. Written by `kforge tasks import kernelbench`.
import torch as _torch

_STATE = "STATE"
_GIVEN = "GIVEN"
_PRECISION = "PRECISION"
# What `kforge export --to kernelbench` needs besides: the shapes of the outputs, and whether they differ between training and evaluation.
_SHAPES = "SHAPES"
_MODES_DIFFER = "MODES"
# And what builds a model with the same parameters.
_CONSTRUCTOR = "CONSTRUCTOR"
_model = None


@_torch.no_grad()
def run(*values):
    """The model's outputs: first its inputs, then the parameters and buffers that its outputs depend on."""
    global _model
    if _model is None:
        _torch.manual_seed(42)
        # The oracle is as exact as the precision allows.
        _torch.backends.cudnn.allow_tf32 = False
        _torch.backends.cuda.matmul.allow_tf32 = False
        _model = Model(*get_init_inputs()).to(getattr(_torch, _PRECISION))
    tensors = [value for value in values if _torch.is_tensor(value)]
    if tensors:
        _model.to(tensors[0].device)
    # A call may change buffers, such as running means. The next one begins with the same.
    state = {name: value.clone() for name, value in _model.named_buffers()}
    for entry, value in zip(_STATE, values[_GIVEN:]):
        state[entry["name"]] = value.reshape(entry["shape"])
    result = _torch.func.functional_call(_model, state, tuple(values[:_GIVEN]))
    return tuple(result) if isinstance(result, list) else result
