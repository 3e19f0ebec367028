

"""Prints what KernelBench problems take and give, one line of JSON for each. Runs their code on the CPU.

Arguments: the precision and the files. A problem has a class `Model`, `get_inputs()` and `get_init_inputs()`. The parameters and buffers of
the model become inputs, after those of `get_inputs()`. Values are described by distributions as `task.yaml` has them.
"""

import copy
import inspect
import math
import sys
import traceback


# The relative tolerance of a dtype: `import_kernelbench.rs` has the same.
RTOL = {"float32": 1e-4}


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


def argument_names(model, count):
    """The names of `forward`; numbers where it takes any number of arguments."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(model.forward).parameters.values()
    names = [parameter.name for parameter in parameters if parameter.kind in kinds][:count]
    return names + [f"input_{index}" for index in range(len(names), count)]


class Problem:
    """A model on the CPU, and its inputs. Where these are large, the model is run with smaller ones."""

    def __init__(self, path, precision):
        import torch

        self.namespace = load(path)
        self.dtype = getattr(torch, precision)
        self.sizes = self.find_sizes(path)
        self.model = self.new_model(42)
        get_inputs = self.sizes.small_inputs() if self.sizes else self.namespace["get_inputs"]
        self.given = [self.cast(value) for value in get_inputs()]

    def find_sizes(self, path):
        """The sizes of the problem; `None` if the code cannot be run without values."""
        try:
            return Sizes(path, self.namespace, self.cast)
        except (Exception, SystemExit):
            return None

    def full_shapes(self):
        """What `forward` takes and gives, in the problem's own sizes."""
        if self.sizes:
            return self.sizes.full.given, self.sizes.full.outputs
        return self.given, self.run(1, {})

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
            return outputs_of("forward", torch.func.functional_call(self.model, {**kept, **state}, arguments))

    def roundings(self, state, given, results):
        """How far the problem's own code is from double precision, for each output: see `rounding`. Normalisations over a batch, one
        after the other, make large differences of small ones. 0: not known."""
        import torch

        def exact(value):
            return value.double() if torch.is_tensor(value) and value.dtype.is_floating_point else value

        model = self.model
        try:
            self.model = copy.deepcopy(model).double()
            expected = self.run(1, {name: exact(value) for name, value in state.items()}, [exact(value) for value in given])
        except (Exception, SystemExit):
            # For example code that makes tensors of its own precision.
            return [0.0] * len(results)
        finally:
            self.model = model
        return [rounding(value, other) for value, other in zip(results, expected)]

    def modes_differ(self, state, given):
        """Whether the outputs in training differ from those in evaluation, as with a normalisation over the batch."""
        modes = {module: module.training for module in self.model.modules()}
        usual = self.run(1, state, given)
        try:
            self.model.train(not self.model.training)
            return differ(usual, self.run(1, state, given))
        except (Exception, SystemExit):
            return True
        finally:
            for module, mode in modes.items():
                module.training = mode

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


def rounding(value, expected):
    """The largest difference beyond the relative tolerance, over the root mean square of what is expected; 0 if there is no such number."""
    if not value.dtype.is_floating_point or value.numel() == 0 or value.shape != expected.shape:
        return 0.0
    relative = RTOL.get(dtype_name(value), 1e-2)
    value, expected = value.double(), expected.double()
    beyond = ((value - expected).abs() - relative * expected.abs()).clamp(min=0)
    found = (beyond.max() / expected.square().mean().sqrt()).item()
    return found if math.isfinite(found) else 0.0


def kernel_of(problem, inputs, state, values, outputs):
    """A naive kernel for the problem."""
    import torch

    count = len(problem.given)
    names = ["output"] if outputs == 1 else [f"output_{index}" for index in range(outputs)]
    kept = dict(problem.model.named_buffers())

    def function(*values):
        known = {**{name: value.clone() for name, value in kept.items()}, **dict(zip(state, values[count:]))}
        return tuple(outputs_of("forward", torch.func.functional_call(problem.model, known, values[:count])))

    origin = "The operations of the problem one after the other, one thread for each element. Written by kforge."
    mode = problem.sizes and problem.sizes.mode
    if mode:
        with mode:
            values = [torch.empty(value.shape, dtype=value.dtype) if torch.is_tensor(value) else value for value in values]
    return naive_kernel(function, values, [entry["name"] for entry in inputs], names, origin, mode=mode)


def describe(path, precision):
    problem = Problem(path, precision)
    import torch

    notes, taken = [], set()
    given = problem.given
    names = [plain_name(name, taken) for name in argument_names(problem.model, len(given))]
    inputs = [argument(name, value, notes) for name, value in zip(names, given)]
    full_inputs, full_outputs = problem.full_shapes()
    for entry, value in zip(inputs, full_inputs):
        if entry["shape"] is not None:
            entry["shape"] = list(value.shape) or [1]
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
        if not is_finite(value):
            of = "its own inputs" if not is_finite(expected) else f"inputs drawn as {json.dumps(inputs)[:200]}"
            raise Refused(f"output {index + 1} has values that are not finite, with {of}")
    roundings = problem.roundings(drawn, usual, results)
    outputs = [
        {"dtype": dtype_name(value), "shape": list(full.shape) or [1], "rounding": largest}
        for value, full, largest in zip(results, full_outputs, roundings)
    ]
    values = [*full_inputs, *drawn.values()]
    kernel = kernel_or_note(lambda: kernel_of(problem, inputs, [entry["name"] for entry in state], values, len(outputs)), notes)
    return {
        "kernel": kernel,
        "inputs": inputs,
        "given": len(given),
        "state": state,
        "outputs": outputs,
        "shapes": [list(full.shape) for full in full_outputs],
        "constructor": checked_constructor(path, problem) if state else None,
        "modes_differ": problem.modes_differ(drawn, usual),
        "regimes": regimes(problem, inputs, drawn),
        "notes": notes,
    }


def main():
    answers = answer_file()
    precision, *paths = sys.argv[1:]
    for path in paths:
        print(json.dumps(answer_of(lambda: describe(path, precision), path)), file=answers, flush=True)


main()
