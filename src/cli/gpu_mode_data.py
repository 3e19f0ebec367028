

# The files of a problem of GPU MODE, and the data that its reference takes, from a list of inputs.
import contextlib as _contextlib
import importlib as _importlib
import importlib.util as _util
import sys as _sys


def _use_files(files):
    """Makes the Python files of a problem modules, by their names without `.py`."""

    class Finder:
        def find_spec(self, name, _path=None, _target=None):
            return _util.spec_from_loader(name, self) if name + ".py" in files else None

        def create_module(self, _spec):
            return None

        def get_source(self, name):
            # For the modules `inspect` and `linecache`.
            return files[name + ".py"]

        def exec_module(self, module):
            name = module.__name__ + ".py"
            exec(compile(files[name], name, "exec"), vars(module))

    _sys.meta_path.insert(0, Finder())


@_contextlib.contextmanager
def _on_cpu():
    """What asks for a GPU gets the CPU."""
    import torch

    def moved(value):
        is_gpu = isinstance(value, str) and value.startswith("cuda") or isinstance(value, torch.device) and value.type == "cuda"
        return torch.device("cpu") if is_gpu else value

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, _types, arguments=(), options=None):
            if getattr(function, "__name__", "") == "cuda":
                return arguments[0]
            options = {name: moved(value) for name, value in (options or {}).items()}
            return function(*[moved(value) for value in arguments], **options)

    module = torch.nn.Module
    kept = torch.Generator, torch.cuda.synchronize, torch.cuda.empty_cache, module.to, module.cuda

    def to(self, *arguments, **options):
        """A module that is only asked to move stays: PyTorch cannot move one whose tensors have no values."""
        wanted = [*arguments, *options.values()]
        if wanted and all(isinstance(one, (str, torch.device)) for one in wanted):
            return self
        options = {name: moved(value) for name, value in options.items()}
        return kept[3](self, *[moved(value) for value in arguments], **options)

    class Generator(torch.Generator):
        # A class, because annotations of modules that are imported later use it as a type.
        def __new__(cls, device="cpu"):
            return super().__new__(cls, device=moved(device))

    torch.Generator = Generator
    torch.cuda.synchronize = torch.cuda.empty_cache = lambda *_arguments: None
    module.to, module.cuda = to, lambda self, *_arguments: self
    try:
        with Mode():
            yield
    finally:
        torch.Generator, torch.cuda.synchronize, torch.cuda.empty_cache, module.to, module.cuda = kept


def _part(plan, inputs):
    """A number or tensor of the data."""
    import torch

    if plan["kind"] == "input":
        value = inputs[plan["input"]]
        return value.reshape(()) if plan["is_single"] else value
    if plan["kind"] == "number":
        return plan["value"]
    size = lambda one: one if isinstance(one, int) else inputs[one[0]].shape[one[1]]
    if plan["kind"] == "size":
        return size(plan["of"])
    like = next(value for value in inputs if torch.is_tensor(value))
    dtype = getattr(torch, plan["dtype"])
    # An oracle in double precision writes its outputs in it.
    dtype = torch.float64 if like.dtype == torch.float64 and dtype.is_floating_point else dtype
    return torch.empty([size(one) for one in plan["shape"]], dtype=dtype, device=like.device)


def _put_together(node, parts):
    """The data from its parts."""
    if node["kind"] == "part":
        return parts[node["part"]]
    if node["kind"] == "value":
        return node["value"]
    if node["kind"] == "dict":
        return {key: _put_together(inner, parts) for key, inner in node["parts"].items()}
    inner = [_put_together(one, parts) for one in node["parts"]]
    return inner if node["kind"] == "list" else tuple(inner)


def _data(structure, plans, inputs):
    return _put_together(structure, [_part(plan, inputs) for plan in plans])
