"""Prints what KernelBench problems take and give, one line of JSON for each. Runs their code on the CPU.

Arguments: the precision and the files. A problem has a class `Model`, `get_inputs()` and `get_init_inputs()`. The parameters and buffers of
the model become inputs, after those of `get_inputs()`. Values are described by distributions as `task.yaml` has them.
"""

import inspect
import json
import sys
import traceback

# Elements that a distribution is guessed from.
SAMPLE = 1 << 18
# Names that a kernel cannot give to a parameter, or that mean something else in a task.
TAKEN = set(
    "output run alignas and asm auto bool break case catch char class const continue default delete do double else enum explicit export extern "
    "false float for friend goto half if inline int long mutable namespace new not operator or private protected public register return short "
    "signed sizeof static struct switch template this throw true try typedef typename union unsigned using virtual void volatile while xor".split()
)


class Refused(Exception):
    """The problem cannot be a task."""


def load(path):
    with open(path, encoding="utf-8") as file:
        source = file.read()
    namespace = {"__name__": "problem", "__file__": path}
    exec(compile(source, path, "exec"), namespace)
    for name in ("Model", "get_inputs", "get_init_inputs"):
        if name not in namespace:
            raise Refused(f"there is no `{name}`: a problem has `Model`, `get_inputs` and `get_init_inputs`")
    for name in ("run", "BASELINES"):
        if name in namespace:
            raise Refused(f"it defines `{name}`, which is the name of what kforge adds to the file: rename it")
    return namespace


def plain_name(name, taken):
    """A new name for kernels: letters, digits and `_`."""
    name = "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in name)
    while name in taken or name in TAKEN or name[:1].isdigit() or name.startswith("output_"):
        name = "model_" + name
    taken.add(name)
    return name


def dtype_name(tensor):
    return str(tensor.dtype).removeprefix("torch.")


def sample_of(tensor):
    """Some elements of a tensor, in double precision."""
    import torch

    values = tensor.detach().reshape(-1)
    if values.numel() > SAMPLE:
        values = values[torch.randint(values.numel(), (SAMPLE,))]
    return values.double()


def rounded(value):
    """The value with two digits: a parameter of a distribution, as a person would write it."""
    return float(f"{value:.2g}")


def distance(distribution, values):
    """The largest difference of a quantile from that of the distribution, in standard deviations."""
    import torch

    levels = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    drawn = draw(distribution, torch.empty(1 << 16, dtype=torch.float64))
    difference = torch.quantile(values[: 1 << 16], levels) - torch.quantile(drawn, levels)
    return float(difference.abs().max() / values.std())


class Values:
    """How to draw values like those of a tensor."""

    def __init__(self, name, tensor, is_parameter):
        self.name = name
        self.tensor = tensor
        self.is_parameter = is_parameter
        self.note = None

    def distribution(self):
        import torch

        tensor = self.tensor
        flat = tensor.detach().reshape(-1)
        if bool((flat == flat[0]).all()):
            return self.constant(flat[0].item())
        if tensor.dtype == torch.bool:
            return {"uniform": [0, 1]}
        if not tensor.dtype.is_floating_point:
            return {"uniform": [int(flat.min()), int(flat.max())]}
        values = sample_of(tensor)
        if not bool(torch.isfinite(values).all()):
            raise Refused(f"input `{self.name}` has values that are not finite")
        return self.random(values)

    def constant(self, value):
        """A parameter with one value, as the weights of a normalisation, is drawn near it. Otherwise a kernel could leave it out."""
        if not self.tensor.dtype.is_floating_point:
            return {"value": int(value)}
        if not self.is_parameter:
            return {"value": float(value)}
        drawn = {"normal": rounded(0.1 * abs(value) or 0.1)}
        return {**drawn, "mean": float(value)} if value else drawn

    def random(self, values):
        low, high, deviation, mean = (float(value) for value in (values.min(), values.max(), values.std(), values.mean()))
        ends = [0.0 if abs(low) < 0.02 * (high - low) else rounded(low), rounded(high)]
        if abs(low + high) < 0.02 * (high - low):
            ends[0] = -ends[1]
        uniform = {"uniform": ends}
        plain = float(f"{deviation:.1g}")
        is_plain = abs(plain - deviation) < 2 * deviation / values.numel() ** 0.5
        normal = {"normal": plain if is_plain else rounded(deviation)}
        if abs(mean) > 4 * deviation / values.numel() ** 0.5:
            normal["mean"] = rounded(mean)
        fit, found = min((distance(one, values), index, one) for index, one in enumerate((normal, uniform)))[::2]
        # The second term is the chance of a small sample.
        if self.is_parameter or values.numel() < 32 or fit < 0.05 + 4 / values.numel() ** 0.5:
            return found
        if low >= 0:
            uniform = {"uniform": [0.0, rounded(2 * mean)]}
        self.note = f"the values of `{self.name}` have a distribution that kforge does not know: they are drawn with {json.dumps(uniform)}"
        return uniform


def draw(distribution, like):
    """Values of a distribution, in the shape and dtype of a tensor."""
    import torch

    kind = {name: value for name, value in distribution.items() if name in ("value", "uniform", "normal")}
    shape = like.shape
    # Large inputs in double precision would need much memory.
    exact = torch.float64 if like.dtype == torch.float64 else torch.float32
    if "value" in kind:
        values = torch.full(shape, float(kind["value"]), dtype=exact)
    elif "normal" in kind:
        values = torch.randn(shape, dtype=exact) * kind["normal"]
    elif like.dtype.is_floating_point:
        low, high = kind["uniform"]
        values = torch.rand(shape, dtype=exact) * (high - low) + low
    else:
        low, high = kind["uniform"]
        values = torch.randint(int(low), int(high) + 1, shape)
    if "mean" in distribution:
        values += distribution["mean"]
    if "zeros" in distribution:
        values *= torch.rand(shape) >= distribution["zeros"]
    if "large_rows" in distribution:
        rows = shape[:-1] + (1,)
        values *= torch.where(torch.rand(rows) < 0.25, distribution["large_rows"], 1.0)
    return values.to(like.dtype)


def has_structure(tensor):
    """The word for zeros or equal elements that a kernel may rely on and a distribution would not give."""
    if tensor.dim() < 2 or tensor.shape[-1] != tensor.shape[-2] or tensor.shape[-1] < 3:
        return None
    for word, part in (("upper triangular", tensor.tril(-1)), ("lower triangular", tensor.triu(1))):
        if not bool(part.any()) and bool(tensor.any()):
            return word
    if bool((tensor == tensor.reshape(-1)[0]).all()):
        return None
    return "symmetric" if bool((tensor == tensor.transpose(-1, -2)).all()) else None


def described(values, notes):
    tensor = values.tensor
    shape = list(tensor.shape)
    if 0 in shape:
        raise Refused(f"input `{values.name}` is empty")
    entry = {"name": values.name, "dtype": dtype_name(tensor), "shape": shape or [1], "distribution": values.distribution()}
    if values.note:
        notes.append(values.note)
    return entry


def argument(name, value, notes):
    """An input of `forward`."""
    import torch

    if torch.is_tensor(value):
        word = has_structure(value)
        if word:
            raise Refused(f"input `{name}` is {word}, which kforge cannot draw: a kernel may rely on it")
        return described(Values(name, value, False), notes)
    if isinstance(value, bool):
        return {"name": name, "dtype": "bool", "shape": None, "value": float(value)}
    if isinstance(value, int):
        return {"name": name, "dtype": "int32", "shape": None, "value": float(value)}
    if isinstance(value, float):
        return {"name": name, "dtype": "float32", "shape": None, "value": value}
    raise Refused(f"input `{name}` is a {type(value).__name__}: kforge knows tensors and numbers")


def argument_names(model, count):
    """The names of `forward`; numbers where it takes any number of arguments."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(model.forward).parameters.values()
    names = [parameter.name for parameter in parameters if parameter.kind in kinds][:count]
    return names + [f"input_{index}" for index in range(len(names), count)]


def outputs_of(result):
    import torch

    results = list(result) if isinstance(result, (tuple, list)) else [result]
    for value in results:
        if not torch.is_tensor(value):
            raise Refused(f"`forward` returns a {type(value).__name__}: kforge knows tensors")
    return results


def differ(ones, others):
    import torch

    return any(not torch.equal(one, other) for one, other in zip(ones, others))


class Problem:
    """A model on the CPU, and its inputs."""

    def __init__(self, path, precision):
        import torch

        self.namespace = load(path)
        self.dtype = getattr(torch, precision)
        self.model = self.new_model(42)
        self.given = [self.cast(value) for value in self.namespace["get_inputs"]()]

    def new_model(self, seed):
        import torch

        torch.manual_seed(seed)
        return self.namespace["Model"](*self.namespace["get_init_inputs"]()).to(self.dtype)

    def cast(self, value):
        import torch

        return value.to(self.dtype) if torch.is_tensor(value) and value.dtype.is_floating_point else value

    def run(self, seed, state, given=None):
        """The outputs of a call that changes neither the model nor the inputs. `state` replaces parameters and buffers."""
        import torch

        torch.manual_seed(seed)
        kept = {name: value.clone() for name, value in self.model.named_buffers()}
        arguments = tuple(value.clone() if torch.is_tensor(value) else value for value in given or self.given)
        with torch.no_grad():
            return outputs_of(torch.func.functional_call(self.model, {**kept, **state}, arguments))

    def changes_outputs(self, names):
        """Whether the outputs depend on some of these buffers. Counts and running means of a model that is trained are only written."""
        import torch

        buffers = dict(self.model.named_buffers())
        changed = {name: ~buffers[name] if buffers[name].dtype == torch.bool else buffers[name] + 1 for name in names}
        try:
            return differ(self.run(1, {}), self.run(1, changed))
        except (IndexError, RuntimeError):
            # For example an index that is too large: it is read.
            return True

    def used_buffers(self):
        """The buffers that the outputs depend on and whose values a kernel cannot know. What has structure and is the same in every model,
        as a causal mask, is part of the problem."""
        import torch

        buffers = dict(self.model.named_buffers())
        if not buffers or not self.changes_outputs(list(buffers)):
            return {}
        again = dict(self.new_model(43).named_buffers())
        used = {}
        for name, value in buffers.items():
            is_known = torch.equal(value, again[name]) and (has_structure(value) or not value.dtype.is_floating_point)
            if not is_known and self.changes_outputs([name]):
                used[name] = value
        return used


def regimes(problem, inputs, state):
    """Other values of the inputs of `forward`, with which the outputs are finite, as distributions."""
    import torch

    def changed(change):
        found = {}
        for entry, value in zip(inputs, problem.given):
            distribution = entry.get("distribution")
            if distribution and "value" not in distribution and value.dtype.is_floating_point:
                found[entry["name"]] = change(distribution)
        return found

    def scaled(distribution, factor):
        times = lambda value: [one * factor for one in value] if isinstance(value, list) else value * factor
        return {name: times(value) for name, value in distribution.items()}

    def shifted(distribution):
        low, high = distribution.get("uniform", (0.0, 4 * distribution.get("normal", 0.0)))
        return {**distribution, "mean": distribution.get("mean", 0.0) + (high - low) / 4}

    kinds = {
        "scaled_up": lambda one: scaled(one, 4.0),
        "scaled_down": lambda one: scaled(one, 0.25),
        "shifted": shifted,
        "ties": lambda one: {**one, "levels": 4},
        "zeros": lambda one: {**one, "zeros": 0.5},
        "large_rows": lambda one: {**one, "large_rows": 8.0},
    }
    found = {}
    for name, change in kinds.items():
        regime = changed(change)
        given = [draw(regime[entry["name"]], value) if entry["name"] in regime else value for entry, value in zip(inputs, problem.given)]
        if regime and all(bool(torch.isfinite(value).all()) for value in problem.run(1, state, given)):
            found[name] = regime
    return found


def kernel_of(problem, inputs, state, values, outputs):
    """A naive kernel for the problem."""
    import torch

    count = len(problem.given)
    names = ["output"] if outputs == 1 else [f"output_{index}" for index in range(outputs)]
    kept = dict(problem.model.named_buffers())

    def function(*values):
        known = {**{name: value.clone() for name, value in kept.items()}, **dict(zip(state, values[count:]))}
        return tuple(outputs_of(torch.func.functional_call(problem.model, known, values[:count])))

    origin = "The operations of the problem one after the other, one thread for each element. Written by kforge."
    return naive_kernel(function, values, [entry["name"] for entry in inputs], names, origin)


def describe(path, precision):
    problem = Problem(path, precision)
    import torch

    notes, taken = [], set()
    given = problem.given
    names = [plain_name(name, taken) for name in argument_names(problem.model, len(given))]
    inputs = [argument(name, value, notes) for name, value in zip(names, given)]
    if differ(problem.run(1, {}), problem.run(2, {})):
        raise Refused("two calls give different outputs (dropout?), so there is nothing to compare with")
    state, drawn = [], {}
    for name, value in [*problem.model.named_parameters(), *problem.used_buffers().items()]:
        plain = plain_name(name, taken)
        inputs.append(described(Values(plain, value, True), notes))
        state.append({"input": plain, "name": name, "shape": list(value.shape)})
        drawn[name] = draw(inputs[-1]["distribution"], value)
    usual = [draw(entry["distribution"], value) if torch.is_tensor(value) else value for entry, value in zip(inputs, given)]
    results = problem.run(1, drawn, usual)
    own = problem.run(1, {})
    for index, (value, expected) in enumerate(zip(results, own)):
        if not bool(torch.isfinite(value).all()):
            of = "its own inputs" if not bool(torch.isfinite(expected).all()) else f"inputs drawn as {json.dumps(inputs)[:200]}"
            raise Refused(f"output {index + 1} has values that are not finite, with {of}")
    outputs = [{"dtype": dtype_name(value), "shape": list(value.shape) or [1]} for value in results]
    kernel = None
    try:
        kernel = kernel_of(problem, inputs, [entry["name"] for entry in state], [*usual, *drawn.values()], len(outputs))
    except Exception as error:
        traceback.print_exc()
        text = str(error).strip().splitlines() or [""]
        why = text[0] if isinstance(error, NotTranslated) else f"{type(error).__name__}: {text[0]}"
        notes.append(f"naive.cu is to be written: kforge cannot translate {why}")
    return {
        "kernel": kernel,
        "inputs": inputs,
        "given": len(given),
        "state": state,
        "outputs": outputs,
        "regimes": regimes(problem, inputs, drawn),
        "notes": notes,
    }


def answer_for(path, precision):
    try:
        return describe(path, precision)
    except Refused as error:
        return {"error": str(error)}
    except ModuleNotFoundError as error:
        return {"error": str(error), "missing_module": error.name}
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        place = f"line {lines[-1]}: " if lines else ""
        text = str(error).strip().splitlines() or [""]
        return {"error": f"{place}{type(error).__name__}: {text[0]}"}


def main():
    # What a problem prints is no answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    precision, *paths = sys.argv[1:]
    for path in paths:
        print(json.dumps(answer_for(path, precision)), file=answers, flush=True)


main()
