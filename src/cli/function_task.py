

"""What a function of tensors takes and gives, for sizes of its axes that vary: its outputs, hidden shapes, regimes and a naive kernel."""

import json

# Inputs of a workload that are larger are not run: their shapes are found without values.
MAX_ELEMENTS = 1 << 24


class Axes:
    """The axes of all shapes: those that vary, those that follow from others, and the sizes of each workload."""

    def __init__(self, request, shapes):
        self.expressions = {name: one["expression"] for name, one in request["axes"].items() if "expression" in one}
        self.constants = {name: one["constant"] for name, one in request["axes"].items() if "constant" in one}
        timed = {name: one["sizes"] for name, one in request["axes"].items() if one.get("sizes")}
        used = dict.fromkeys(axis for shape in shapes for axis in shape or [] if not axis.isdigit())
        missing = [axis for axis in used if not any(axis in one for one in (self.expressions, self.constants, timed))]
        if missing:
            raise Refused(
                f"no sizes for {', '.join(f'`{axis}`' for axis in missing)}: add `--axis {missing[0]}=64,1000,4096` for those that are timed, "
                f"or `--axis {missing[0]}=const:1024`"
            )
        self.timed = timed
        count = max([len(sizes) for sizes in timed.values()], default=1)
        self.cases = [self.complete({axis: sizes[min(index, len(sizes) - 1)] for axis, sizes in timed.items()}) for index in range(count)]

    def complete(self, free):
        sizes = {**self.constants, **free}
        for axis, text in self.expressions.items():
            sizes[axis] = size_from(text, sizes)
        return sizes

    def variable(self):
        return [*self.timed, *self.expressions]

    def smallest(self):
        return {axis: min(sizes) for axis, sizes in self.timed.items()}

    def shape(self, shape, sizes):
        return [int(axis) if axis.isdigit() else sizes[axis] for axis in shape]

    def probes(self):
        """Other sizes: 1 and an odd size of each axis, the others as small as they are timed."""
        smallest = self.smallest()
        return {axis: [self.complete({**smallest, axis: size}) for size in (1, 13)] for axis in self.timed}


class Function:
    """The function with inputs of the sizes of a case."""

    def __init__(self, function, interface, axes, name):
        self.function = function
        self.interface = interface
        self.axes = axes
        self.name = name
        self.given = []
        self.sizes = {}

    def values(self, sizes, is_real=True):
        """Inputs for these sizes: drawn, or without values."""
        import torch

        found = []
        for entry in self.interface.inputs:
            if entry["shape"] is None:
                value = entry["value"]
                found.append(value if "float" in entry["dtype"] else bool(value) if entry["dtype"] == "bool" else int(value))
                continue
            like = torch.empty(self.axes.shape(entry["shape"], sizes) or [1], dtype=getattr(torch, entry["dtype"]))
            found.append(draw(entry["distribution"], like, sizes) if is_real else like)
        return found

    def call(self, values):
        """The names of the outputs, and the outputs."""
        import torch

        positional = [value for value, name in zip(values, self.interface.by_name) if name is None]
        named = {name: value for value, name in zip(values, self.interface.by_name) if name is not None}
        with torch.no_grad():
            result = self.function(*positional, **named)
        if isinstance(result, dict):
            return list(result), outputs_of(self.name, list(result.values()))
        found = outputs_of(self.name, result)
        return (["output"] if len(found) == 1 else [f"output_{index}" for index in range(len(found))]), found

    def run(self, seed, _state, given=None):
        """The outputs for copies of the inputs."""
        import torch

        torch.manual_seed(seed)
        return self.call([value.clone() if torch.is_tensor(value) else value for value in given or self.given])[1]

    def shapes(self, sizes):
        """The shapes of the outputs. Large inputs have no values."""
        import torch
        from torch._subclasses.fake_tensor import FakeTensorMode

        elements = sum(count_of(self.axes.shape(entry["shape"] or [], sizes)) for entry in self.interface.inputs)
        try:
            with FakeTensorMode(allow_non_fake_inputs=True):
                return [list(value.shape) for value in self.call(self.values(sizes, False))[1]]
        except Exception:
            if elements > MAX_ELEMENTS:
                raise
            return [list(value.shape) for value in self.call(self.values(sizes))[1]]

    def takes(self, sizes):
        try:
            return self.shapes(sizes)
        except Exception:
            return None


def check_calls(function):
    """Fails if the function is random, keeps state, changes its inputs, or gives what is not finite."""
    import torch

    given = [value.clone() if torch.is_tensor(value) else value for value in function.given]
    names, first = function.call(given)
    for entry, value, before in zip(function.interface.inputs, given, function.given):
        if torch.is_tensor(value) and differ([value], [before]):
            raise Refused(f"`{function.name}` changes its input `{entry['name']}`: return a new tensor instead")
    # An output may be a view of an input.
    first = [value.clone() for value in first]
    again = function.run(1, {})
    if any(one.shape != other.shape for one, other in zip(first, again)) or differ(again, function.run(2, {})) or differ(first, again):
        raise Refused(f"`{function.name}` gives other outputs at each call (it is random or keeps state), so there is nothing to compare with")
    for name, value in zip(names, first):
        if not is_finite(value):
            remedy = getattr(function.interface, "remedy", "say how inputs are drawn, with `--draw`")
            raise Refused(f"the output `{name}` has values that are not finite: {remedy}")
        if value.numel() == 0:
            raise Refused(f"the output `{name}` is empty")
    return names, first


def in_double(function, own):
    """Whether the function computes the same in double precision, so that the oracle is exact."""
    import torch

    to_double = lambda value: value.double() if torch.is_tensor(value) and value.dtype.is_floating_point else value
    try:
        exact = function.run(1, {}, [to_double(value) for value in function.given])
    except Exception:
        return False
    for one, other in zip(own, exact):
        if one.dtype.is_floating_point:
            scale = other.double().square().mean().sqrt()
            if other.dtype != torch.float64 or not bool(((one.double() - other).abs() <= 0.05 * other.abs() + 0.05 * scale).all()):
                return False
        elif not torch.equal(one, other):
            return False
    return True


def dimension(sizes, cases, axes):
    """The axis, number or expression of axes that has these sizes in the cases."""
    if len(set(sizes)) == 1:
        return str(sizes[0])
    names = axes.variable()
    of = lambda axis: [case[axis] for case in cases]
    for axis in names:
        if of(axis) == sizes:
            return axis
    for axis in names:
        one = of(axis)
        offset = sizes[0] - one[0]
        texts = [f"{axis} + {offset}" if offset > 0 else f"{axis} - {-offset}"]
        if sizes[0] % one[0] == 0:
            texts.append(f"{axis} * {sizes[0] // one[0]}")
        parts = sorted(range(2, 65), key=lambda part: any(size % part for size in one))
        texts += [f"{axis} // {part}" for part in parts] + [f"ceil_div({axis}, {part})" for part in parts]
        texts += [f"{axis} {symbol} {other}" for other in names for symbol in "*+"]
        # As of a convolution without padding.
        texts += [f"{axis} - {other} + 1" for other in names if other != axis]
        for text in texts:
            if [size_from(text, case) for case in cases] == sizes:
                return text
    return None


def found_outputs(function, names, values, request):
    """The outputs, with shapes of axes. Axes of outputs that no input has are added to the request's."""
    axes = function.axes
    cases, shapes = [], []
    for case in axes.cases:
        cases.append(case)
        shapes.append(function.shapes(case))
    doubled = [axes.complete({**axes.cases[0], axis: 2 * axes.cases[0][axis]}) for axis in axes.timed]
    for case in [probe for probes in axes.probes().values() for probe in probes] + doubled:
        found = function.takes(case)
        if found is not None:
            cases.append(case)
            shapes.append(found)
    outputs, new_axes = [], {}
    for index, (name, value) in enumerate(zip(names, values)):
        if any(len(one[index]) != value.dim() for one in shapes):
            raise Refused(f"the output `{name}` has another number of dimensions for other sizes")
        shape = []
        for place in range(value.dim()):
            text = dimension([one[index][place] for one in shapes], cases, axes)
            if text is None:
                raise Refused(f"the size of dimension {place} of the output `{name}` follows from no axis: give its shape with `--output`")
            if not text.isdigit() and text not in axes.variable():
                known = next((axis for axis, one in new_axes.items() if one == text), None)
                axis = known or f"{name}_size_{place}"
                new_axes[axis] = text
                text = axis
            shape.append(text)
        outputs.append({"name": name, "dtype": dtype_name(value), "shape": shape or ["1"]})
    declared = request["outputs"] or {f"output_{index}" if len(function.interface.returned) > 1 else "output": one for index, one in enumerate(function.interface.returned)}
    return (declared_outputs(declared, outputs, shapes, cases, axes), {}) if declared else (outputs, new_axes)


def declared_outputs(declared, found, shapes, cases, axes):
    """The outputs as the user describes them, if the function gives those."""
    if len(declared) != len(found):
        raise Refused(f"the function returns {len(found)} tensors, and {len(declared)} are described")
    outputs = []
    for index, ((name, one), actual) in enumerate(zip(declared.items(), found)):
        if one["dtype"] != actual["dtype"]:
            raise Refused(f"the output `{name}` is {actual['dtype']}, and is described as {one['dtype']}")
        for sizes, shape in zip(cases, shapes):
            expected = axes.shape(one["shape"], sizes)
            if (expected or [1]) != (shape[index] or [1]):
                shown = ", ".join(f"{axis} = {sizes[axis]}" for axis in axes.variable())
                raise Refused(f"the output `{name}` has the shape {shape[index]} for {shown}, and is described as {one['shape']}")
        outputs.append({"name": name, "dtype": one["dtype"], "shape": one["shape"] or ["1"]})
    return outputs


def hidden_ranges(function, notes):
    """For each axis that varies the sizes of hidden shapes: from 1 to the middle of those that are timed."""
    ranges, fixed = {}, []
    for axis, probes in function.axes.probes().items():
        if all(function.takes(probe) is not None for probe in probes):
            sizes = sorted(function.axes.timed[axis])
            ranges[axis] = [1, sizes[len(sizes) // 2]]
        else:
            fixed.append(axis)
    if fixed:
        names = ", ".join(f"`{axis}`" for axis in fixed)
        notes.append(
            f"the function does not take every size of {names}, so there are no hidden shapes: describe the axis by one that may have any size, as in "
            f"`--axis '{fixed[0]}=2 * half' --axis half=32,500` for a function, or add `hidden` to task.yaml"
        )
        return {}
    return ranges


def kernel_for(function, outputs):
    """A naive kernel for the function, for all sizes of its axes."""
    axes, interface = function.axes, function.interface
    largest = axes.complete({axis: max(sizes) for axis, sizes in axes.timed.items()})
    symbols = Symbols({axis: max(2, largest[axis]) for axis in axes.variable()}) if axes.timed else None
    shapes = [None if one["shape"] is None else [int(axis) if axis.isdigit() else axes.constants.get(axis, axis) for axis in one["shape"]] for one in interface.inputs]
    values = function.values(axes.cases[0], False)
    names = [one["name"] for one in outputs]
    origin = f"The operations of `{function.name}` one after the other, one thread for each element. Written by kforge."
    text = naive_kernel(lambda *given: tuple(function.call(list(given))[1]), values, [one["name"] for one in interface.inputs], names, origin, symbols, shapes)
    if symbols:
        probes = [probe for probes in axes.probes().values() for probe in probes if function.takes(probe) is not None]
        # Hidden shapes may be one larger than a timed one.
        larger = [axes.complete({axis: case[axis] + 1 for axis in axes.timed}) for case in axes.cases]
        symbols.check([*axes.cases, *probes, *(case for case in larger if function.takes(case) is not None)])
    return text


def described_function(function, request, notes):
    """What kforge needs to know about the function, whose inputs are described and drawn."""
    names, own = check_calls(function)
    outputs, new_axes = found_outputs(function, names, own, request)
    is_exact = in_double(function, own)
    if not is_exact:
        notes.append("the function does not run in double precision, so the oracle is as exact as its dtypes, and the tolerances are doubled")
    kernel = kernel_or_note(lambda: kernel_for(function, outputs), notes)
    return {
        "inputs": function.interface.inputs,
        "by_name": function.interface.by_name,
        "outputs": outputs,
        "axes": new_axes,
        "hidden": hidden_ranges(function, notes),
        "regimes": regimes(function, function.interface.inputs, {}),
        "is_exact": is_exact,
        "kernel": kernel,
        "notes": notes,
    }
