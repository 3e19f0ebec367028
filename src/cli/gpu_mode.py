

"""Prints what a problem of GPU MODE takes and gives, as one line of JSON. Runs its reference on the CPU.

Argument: JSON with `files` (texts of the Python files by name), `benchmarks` and `tests` (arguments of `generate_input`). What the reference
takes, a tensor or nested tuples and dictionaries, becomes a list of inputs; the answer says how to put them together again.
"""

import inspect
import re

# Arguments of `generate_input` that say nothing about shapes.
NO_SIZES = ("seed",)


class Part:
    """A number or tensor of the data, for each case."""

    def __init__(self, path, values):
        self.path = path
        self.values = values
        words = [word for word in path if isinstance(word, str)]
        self.name = "_".join(words) or ("x" if not path else "input_" + "_".join(map(str, path)))


def structure_of(values, path, parts):
    """The structure of the data of all cases, and its parts."""
    import torch

    first = values[0]
    if any(type(one) is not type(first) for one in values):
        raise Refused("`generate_input` gives data of different types in different cases")
    if isinstance(first, (tuple, list)):
        if any(len(one) != len(first) for one in values):
            raise Refused("`generate_input` gives lists of different lengths in different cases")
        inner = [structure_of([one[place] for one in values], [*path, place], parts) for place in range(len(first))]
        return {"kind": "list" if isinstance(first, list) else "tuple", "parts": inner}
    if isinstance(first, dict):
        if any(list(one) != list(first) for one in values):
            raise Refused("`generate_input` gives dictionaries with different keys in different cases")
        return {"kind": "dict", "parts": {key: structure_of([one[key] for one in values], [*path, str(key)], parts) for key in first}}
    if torch.is_tensor(first) and dtype_name(first) not in DTYPES:
        raise Refused(f"`generate_input` gives a tensor of {dtype_name(first)}: kforge knows {', '.join(DTYPES)}")
    if torch.is_tensor(first) or isinstance(first, (bool, int, float)):
        parts.append(Part(path, values))
        return {"kind": "part", "part": len(parts) - 1}
    if first is None or isinstance(first, str):
        if any(one != first for one in values):
            raise Refused("`generate_input` gives different texts in different cases")
        return {"kind": "value", "value": first}
    raise Refused(f"`generate_input` gives a {type(first).__name__}: kforge knows tensors, numbers, tuples, lists and dictionaries")


def with_tensors(value, change):
    """The data with other tensors in the places of its own."""
    import torch

    if isinstance(value, (tuple, list)):
        inner = [with_tensors(one, change) for one in value]
        return inner if isinstance(value, list) else tuple(inner)
    if isinstance(value, dict):
        return {key: with_tensors(one, change) for key, one in value.items()}
    return change(value) if torch.is_tensor(value) else value


def shape_alone(value):
    """A tensor of the same shape without values. Whole numbers are kept: they may be indices."""
    import torch

    return torch.empty_like(value, device="meta") if value.dtype.is_floating_point else value


def mask_of(tensor):
    """How to draw a tensor of 0 and one other number, like a mask."""
    values = readable(tensor.detach().reshape(-1))
    zeros = values == 0
    others = values[~zeros]
    if not bool(zeros.any()) or others.numel() == 0 or not bool((others == others[0]).all()):
        return None
    return {"value": others[0].item(), "zeros": float(f"{float(zeros.double().mean()):.1g}")}


class Shapes:
    """The axes of tensors, from their sizes in all cases. `timed`: how many of the cases are timed; they are the first."""

    def __init__(self, cases, timed):
        self.timed = timed
        is_number = lambda value: isinstance(value, int) and not isinstance(value, bool)
        names = [name for name in cases[0] if name not in NO_SIZES and all(is_number(case.get(name)) for case in cases)]
        self.numbers = {name: [case[name] for case in cases] for name in names}
        self.axes = {}

    def axis(self, sizes, fallback):
        """The name of the axis that has these sizes, or a number."""
        if len(set(sizes)) == 1:
            return str(sizes[0])
        known = {**self.axes, **{name: (values, None) for name, values in self.numbers.items()}}
        for name, (values, expression) in known.items():
            if values == sizes:
                self.axes.setdefault(name, (values, expression))
                return name
        varying = {name: values for name, values in self.numbers.items() if len(set(values)) > 1}
        for name, values in varying.items():
            for other, more in varying.items():
                if [one * two for one, two in zip(values, more)] == sizes:
                    self.axes.setdefault(name, (values, None))
                    self.axes.setdefault(other, (more, None))
                    self.axes[fallback] = (sizes, f"{name} * {other}")
                    return fallback
        self.axes[fallback] = (sizes, None)
        return fallback

    def request(self):
        """The axes as a user would describe them."""
        return {name: {"expression": text} if text else {"sizes": sizes[: self.timed]} for name, (sizes, text) in self.axes.items()}


def source_of(function):
    """The text of a function. Empty if it has none, for example because it was made by `exec`."""
    try:
        return inspect.getsource(function) if inspect.isfunction(function) else ""
    except OSError:
        return ""


def traced_parameter():
    """A class like `torch.nn.Parameter` that gives a view of its tensor. PyTorch's own is a new tensor, which a trace of the reference takes for
    a constant: a problem may make parameters of its inputs."""
    import torch

    class Parameter(torch.nn.Parameter):
        def __new__(cls, data=None, requires_grad=True):
            if not torch.is_tensor(data):
                return torch.nn.parameter.Parameter(data, requires_grad)
            view = data.view_as(data)
            view._is_param = True
            return view

    return Parameter


class GpuModeProblem:
    """The reference, and the data of all cases, on the CPU."""

    def __init__(self, request):
        import torch

        self.source = request["files"].get("reference.py")
        if self.source is None:
            raise Refused("`files` has no `reference.py`")
        _use_files(request["files"])
        self.timed = len(request["benchmarks"])
        self.cases = [*request["benchmarks"], *request["tests"]]
        torch.nn.Parameter = traced_parameter()
        with _on_cpu():
            reference = _importlib.import_module("reference")
            for name in ("ref_kernel", "generate_input", "check_implementation"):
                if not hasattr(reference, name):
                    raise Refused(f"`reference.py` has no `{name}`")
            data = self.generate(reference.generate_input)
        self.kernel, self.check = reference.ref_kernel, reference.check_implementation
        self.parts = []
        self.structure = structure_of(data, [], self.parts)

    def generate(self, generate_input):
        """The data of all cases. Only the smallest and the largest keep their values: all together may need more memory than there is."""
        data, elements, self.masks = [], [], {}
        for case in self.cases:
            tensors = []
            data.append(with_tensors(generate_input(**case), lambda value: tensors.append(value) or value))
            elements.append(sum(value.numel() for value in tensors))
            for place, value in enumerate(tensors):
                self.masks[place] = self.masks.get(place) or mask_of(value)
            self.smallest = elements.index(min(elements))
            self.largest = elements.index(max(elements))
            for place in range(len(data)):
                if place not in (self.smallest, self.largest):
                    data[place] = with_tensors(data[place], shape_alone)
        return data

    def call(self, parts):
        import torch

        with _on_cpu(), torch.no_grad():
            return self.kernel(_put_together(self.structure, parts))

    def distribution(self, values, place):
        """How to draw the tensor of a place. One that is all ones in the largest case, but a mask in others, is drawn as a mask."""
        import torch

        found = values.distribution()
        tensors = [one for one, part in enumerate(self.parts) if torch.is_tensor(part.values[0])]
        mask = self.masks[tensors.index(place)]
        return mask if mask and found == {"value": mask["value"]} else found

    def scales(self, drawn):
        """The scale of each output: the larger one for drawn inputs and for those of the smallest case, as an absolute tolerance is to
        be at most as wide as the problem's in both."""
        own = outputs_of("ref_kernel", self.call([part.values[self.smallest] for part in self.parts]))
        return [max(_scale(one), _scale(other)) for one, other in zip(drawn, own)]

    def tolerance(self):
        """`rtol` and `atol` of `check_implementation`, as far as they are found."""
        known = dict(getattr(self.check, "keywords", None) or {})
        for cell in getattr(self.check, "__closure__", None) or ():
            if isinstance(cell.cell_contents, dict):
                known.update(cell.cell_contents)
        if not known:
            known = dict(re.findall(r"\b(rtol|atol)\s*=\s*([0-9][0-9.e+-]*)", source_of(self.check)))
        if not known:
            # `make_match_reference` of GPU MODE's `utils.py` calls this with its usual tolerances.
            usual = getattr(_sys.modules.get(getattr(self.check, "__module__", "")), "match_reference", None)
            parameters = inspect.signature(usual).parameters if inspect.isfunction(usual) else {}
            known = {name: parameters[name].default for name in ("rtol", "atol") if isinstance(getattr(parameters.get(name), "default", None), float)}
        return {name: float(known[name]) for name in ("rtol", "atol") if name in known}

    def buffers(self):
        """The places of the tensors that are for outputs: the reference writes its outputs to them, or leaves them alone."""
        import torch

        copied = lambda value: value.clone() if torch.is_tensor(value) else value
        before = [part.values[self.smallest] for part in self.parts]
        given = [copied(value) for value in before]
        results = outputs_of("ref_kernel", self.call(given))
        changed = {place for place, (one, other) in enumerate(zip(given, before)) if torch.is_tensor(one) and differ([one], [other])}
        for place in changed:
            if all(one.data_ptr() != given[place].data_ptr() for one in results):
                raise Refused(f"`ref_kernel` changes its input `{self.parts[place].name}`, which it does not return")
        # What is in a buffer before the call must not matter.
        again = [torch.full_like(value, 3) if place in changed else copied(value) for place, value in enumerate(before)]
        if differ(results, outputs_of("ref_kernel", self.call(again))):
            raise Refused("`ref_kernel` adds to what is in its output, or gives other outputs at each call")
        fits = lambda value: any(value.shape == one.shape and value.dtype == one.dtype for one in results)
        for place, value in enumerate(before):
            contents = [torch.full_like(value, number) for number in (3, -2)] if torch.is_tensor(value) and fits(value) else []
            if contents and not any(self.depends_on(place, content) for content in contents):
                changed.add(place)
        return changed

    def depends_on(self, place, content):
        """Whether the outputs are others with another tensor at a place. A problem may have one for kernels to write to that is never read."""
        import torch

        given = [part.values[self.smallest] for part in self.parts]
        copies = lambda: [value.clone() if torch.is_tensor(value) else value for value in given]
        changed = copies()
        changed[place] = content
        try:
            return differ(outputs_of("ref_kernel", self.call(copies())), outputs_of("ref_kernel", self.call(changed)))
        except Exception:
            return True


def index_bound(part, shapes):
    """The axis that whole numbers are below in all cases, if their largest is close to its size."""
    highest = [int(value.max()) for value in part.values]
    for name, (sizes, _) in shapes.axes.items():
        if all(size // 2 <= high < size for high, size in zip(highest, sizes)) and all(int(value.min()) >= 0 for value in part.values):
            return name
    return None


def read_parts(problem, shapes, notes):
    """The inputs of the task, and how each part of the data is made from them."""
    import torch

    buffers = problem.buffers()
    inputs, plans, taken = [], [], set()
    places = {}
    for place, part in enumerate(problem.parts):
        if not torch.is_tensor(part.values[0]) or place in buffers:
            continue
        name = plain_name(part.name, taken)
        shape = []
        for dim in range(part.values[0].dim()):
            sizes = [value.shape[dim] for value in part.values]
            places.setdefault(tuple(sizes), [len(inputs), dim])
            shape.append(shapes.axis(sizes, f"{name}_size_{dim}"))
        part.input = len(inputs)
        inputs.append({"name": name, "dtype": dtype_name(part.values[0]), "shape": shape or ["1"], "value": None})
    for place, part in enumerate(problem.parts):
        first = part.values[0]
        place_of = lambda sizes: sizes[0] if len(set(sizes)) == 1 else places.get(tuple(sizes))
        if torch.is_tensor(first) and place not in buffers:
            plans.append({"kind": "input", "input": part.input, "is_single": first.dim() == 0})
            sample = part.values[problem.largest]
            word = has_structure(sample)
            if word:
                raise Refused(f"input `{inputs[part.input]['name']}` is {word}, which kforge cannot draw: a kernel may rely on it")
            values = Values(inputs[part.input]["name"], sample, False)
            bound = None if first.dtype.is_floating_point or first.dtype == torch.bool else index_bound(part, shapes)
            inputs[part.input]["distribution"] = {"uniform": [0, bound]} if bound else problem.distribution(values, place)
            notes.extend([values.note] if values.note else [])
        elif torch.is_tensor(first):
            shape = [place_of([value.shape[dim] for value in part.values]) for dim in range(first.dim())]
            if None in shape and not problem.depends_on(place, first.new_zeros([1] * first.dim())):
                # The reference does not even look at its shape.
                shape = [1] * first.dim()
            if None in shape:
                raise Refused(f"the output `{part.name}` has a size that no input has")
            plans.append({"kind": "buffer", "shape": shape, "dtype": dtype_name(first)})
        elif all(value == first for value in part.values):
            plans.append({"kind": "number", "value": first})
        elif places.get(tuple(part.values)):
            plans.append({"kind": "size", "of": places[tuple(part.values)]})
        else:
            raise Refused(f"the number `{part.name}` differs between cases, and is the size of no input")
    return inputs, plans


class GpuModeInterface:
    def __init__(self, inputs):
        self.inputs = inputs
        self.by_name = [None] * len(inputs)
        self.returned = []
        self.remedy = "kforge draws other inputs than `generate_input`"


def description(request):
    import torch

    notes = []
    problem = GpuModeProblem(request)
    shapes = Shapes(problem.cases, problem.timed)
    inputs, plans = read_parts(problem, shapes, notes)
    if not inputs:
        raise Refused("`generate_input` gives no tensor that the reference reads")
    described = {"axes": shapes.request(), "outputs": {}}
    axes = Axes(described, [one["shape"] for one in inputs])
    call = lambda *values: problem.call([_part(plan, values) for plan in plans])
    function = Function(call, GpuModeInterface(inputs), axes, "ref_kernel")
    function.sizes = min(axes.cases, key=lambda case: sum(case.values()))
    function.given = function.values(function.sizes)
    answer = described_function(function, described, notes)
    found = problem.tolerance()
    if not found:
        notes.append("`check_implementation` shows no tolerance: the usual ones are used")
    return {
        **answer,
        **found,
        "scales": problem.scales(function.run(1, {})),
        "given_axes": described["axes"],
        # The files come last, so that nothing is replaced in them.
        "texts": {"STRUCTURE": repr(problem.structure), "PLANS": repr(plans), "DOUBLE": repr(answer["is_exact"]), "FILES": repr(request["files"])},
    }


def _scale(value):
    """What `atol_rms` is a share of: the root mean square of the elements that are not 0."""
    value = value.double()
    return float((value.square().sum() / (value != 0).sum().clamp_min(1)).sqrt())


def main():
    answers = answer_file()
    request = json.loads(sys.argv[1])
    print(json.dumps(answer_of(lambda: description(request), "reference.py")), file=answers, flush=True)


main()
