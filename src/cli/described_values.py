

"""How the values that foreign code takes and gives are described: names, dtypes, shapes, and distributions as `task.yaml` has them."""

import json
import os
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
# What tensors of a task may have.
DTYPES = "float64 float32 float16 bfloat16 float8_e4m3fn float8_e5m2 int64 int32 int16 int8 bool".split()


class Refused(Exception):
    """The problem cannot be a task."""


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


def size_from(text, sizes):
    """The value of an expression of axes."""
    functions = {"min": min, "max": max, "ceil_div": ceil_div}
    return int(eval(str(text), {"__builtins__": {}, **functions}, sizes))


def offsets(total, shape, empty):
    """Ascending numbers from 0 to the total."""
    import torch

    places = torch.randint(0, total + 1, shape).sort(-1).values
    places[..., 0], places[..., -1] = 0, total
    return torch.where(torch.rand(shape) < empty, places.roll(1, -1), places).cummax(-1).values


def draw(distribution, like, sizes=None):
    """Values of a distribution, in the shape and dtype of a tensor. `sizes`: those of axes that it names."""
    import torch

    if "cumulative" in distribution:
        return offsets(size_from(distribution["cumulative"], sizes), like.shape, distribution.get("zeros", 0.0)).to(like.dtype)
    if isinstance(distribution.get("uniform", [0, 0])[1], str):
        high = size_from(distribution["uniform"][1], sizes) - (not like.dtype.is_floating_point)
        distribution = {**distribution, "uniform": [distribution["uniform"][0], high]}
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
    if distribution.get("one_hot"):
        values *= torch.nn.functional.one_hot(torch.randint(shape[-1], shape[:-1]), shape[-1])
    if distribution.get("normalize") == "l2":
        values = values / values.norm(dim=-1, keepdim=True)
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


def outputs_of(name, result):
    """The tensors that the function `name` returns."""
    import torch

    results = list(result) if isinstance(result, (tuple, list)) else [result]
    for value in results:
        if not torch.is_tensor(value):
            raise Refused(f"`{name}` returns a {type(value).__name__}: kforge knows tensors")
    return results


def readable(tensor):
    """The same values in a type that PyTorch compares. It does little with floating-point numbers of 8 bits."""
    is_small = tensor.dtype.is_floating_point and tensor.dtype.itemsize == 1
    return tensor.float() if is_small else tensor


def is_finite(tensor):
    """Whether all values are finite."""
    import torch

    return bool(torch.isfinite(readable(tensor)).all())


def differ(ones, others):
    """Whether outputs differ. What is no number is equal to what is none."""
    import torch

    def equal(one, other):
        one, other = readable(one), readable(other)
        if torch.equal(one, other):
            return True
        is_comparable = one.shape == other.shape and one.dtype == other.dtype and one.is_floating_point()
        return is_comparable and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)

    return any(not equal(one, other) for one, other in zip(ones, others))


def regimes(problem, inputs, state):
    """Other values of the inputs of `forward`, with which the outputs are finite, as distributions."""
    import torch

    def changed(name, change):
        found = {}
        for entry, value in zip(inputs, problem.given):
            distribution = entry.get("distribution")
            if distribution and "value" not in distribution and (value.dtype.is_floating_point or takes_zeros(name, distribution)):
                found[entry["name"]] = change(distribution)
        return found

    def takes_zeros(name, distribution):
        """Whether whole numbers may be 0 more often."""
        return name == "zeros" and ("cumulative" in distribution or distribution.get("uniform", [1])[0] == 0)

    def scaled(distribution, factor):
        times = lambda value: [one * factor for one in value] if isinstance(value, list) else value * factor
        return {name: times(value) if name in ("normal", "uniform", "mean") else value for name, value in distribution.items()}

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
        regime = changed(name, change)
        given = [draw(regime[entry["name"]], value, getattr(problem, "sizes", None)) if entry["name"] in regime else value for entry, value in zip(inputs, problem.given)]
        if regime and all(is_finite(value) for value in problem.run(1, state, given)):
            found[name] = regime
    return found


def kernel_or_note(write, notes):
    """The naive kernel, or a note about why there is none."""
    try:
        return write()
    except Exception as error:
        traceback.print_exc()
        text = str(error).strip().splitlines() or [""]
        why = text[0] if isinstance(error, NotTranslated) else f"{type(error).__name__}: {text[0]}"
        notes.append(f"naive.cu is to be written: kforge cannot translate {why}")
        return None


def answer_file():
    """Where answers go. What foreign code prints, also from C or in another process, is no answer: it goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return answers


def answer_of(describe, path):
    """What `describe` returns, or why it fails. `path`: the file of the foreign code."""
    try:
        return describe()
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
