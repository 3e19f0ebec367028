

"""Prints what a PyTorch function takes and gives, as one line of JSON. Runs the function on the CPU.

Argument: JSON with `file` or `module`, `function`, and what the user says about inputs, outputs, axes and distributions. Shapes are lists of
names of axes and numbers. The axes of each workload have sizes; the axes that the user describes by an expression follow from them.
"""

import importlib
import inspect
import textwrap


def load_function(request):
    """The function, and the file whose text has it."""
    name = request["function"]
    if request["file"]:
        path = request["file"]
        with open(path, encoding="utf-8") as file:
            source = file.read()
        known = {"__name__": "function", "__file__": path}
        exec(compile(source, path, "exec"), known)
    else:
        sys.path.insert(0, "")
        path = request["module"]
        try:
            known = vars(importlib.import_module(path))
        except ModuleNotFoundError as error:
            if error.name and (path == error.name or path.startswith(error.name + ".")):
                raise Refused(f"there is no module `{path}`: name a file as FILE.py, or a module that Python finds from this folder")
            raise
        path = known.get("__file__") or path
    if name not in known:
        functions = [other for other, value in known.items() if inspect.isfunction(value) and value.__module__ == known["__name__"]]
        raise Refused(f"there is no function `{name}`; there are: {', '.join(functions) or 'none'}")
    if not callable(known[name]):
        raise Refused(f"`{name}` is of type {type(known[name]).__name__}, and not a function")
    if isinstance(known[name], type):
        raise Refused(f"`{name}` is a class: write a function that calls it. A problem of KernelBench is imported as `kforge tasks import kernelbench`")
    if request["file"]:
        for other in ("run", "BASELINES"):
            if other in known and other != name:
                raise Refused(f"the file defines `{other}`, which is the name of what kforge adds to it: rename it")
    return known[name], path


def annotations(function):
    """The tensors that annotations describe: by parameter, and a list of what is returned."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return {}, []
    found = next((node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)), None)
    if found is None:
        return {}, []
    arguments = found.args
    parameters = arguments.posonlyargs + arguments.args + arguments.kwonlyargs
    inputs = {one.arg: tensor(one.annotation) for one in parameters}
    outputs = [tensor(node) for node in results(found.returns)]
    return {name: one for name, one in inputs.items() if one}, outputs if all(one and one["shape"] is not None for one in outputs) else []


def scalar_of(name, value):
    """An input from the default value of a parameter."""
    dtype = {bool: "bool", int: "int32", float: "float32"}.get(type(value))
    return dtype and {"name": name, "dtype": dtype, "shape": None, "value": float(value)}


class Interface:
    """What the function takes: its inputs in order, and how it is called with them."""

    def __init__(self, function, request, notes):
        self.given = request["inputs"]
        self.annotated, self.returned = annotations(function)
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):
            # A function of PyTorch's C++ code: its inputs are those that the user names, in their order.
            parameters = None
        self.inputs, self.by_name = [], []
        if parameters is None:
            self.inputs = [{"name": name, **one} for name, one in self.given.items()]
            self.by_name = [None] * len(self.inputs)
        else:
            self.read(function, parameters, request["function"], notes)
        if not self.inputs:
            raise Refused(f"nothing says what `{request['function']}` takes: add `--input 'x:float16[rows,columns]'`")

    def read(self, function, parameters, name, notes):
        kinds = inspect.Parameter
        if any(one.kind in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD) for one in parameters):
            parameters = [one for one in parameters if one.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)]
            if not parameters:
                raise Refused(f"`{name}` takes any number of arguments: write a function that names each one")
        known = [one.name for one in parameters]
        for other in self.given:
            if other not in known:
                raise Refused(f"`{name}` has no parameter `{other}`; it has {', '.join(known) or 'none'}")
        missing, is_gap = [], False
        for one in parameters:
            entry = self.entry(one)
            if entry is None and one.default is kinds.empty:
                missing.append(one.name)
            elif entry is None:
                is_gap = True
                notes.append(f"`{one.name}` keeps its default, {one.default!r:.40}")
            else:
                self.inputs.append(entry)
                must_be_named = is_gap or one.kind is kinds.KEYWORD_ONLY
                self.by_name.append(one.name if must_be_named else None)
        if missing:
            first = missing[0]
            raise Refused(
                f"nothing gives the shape of {', '.join(f'`{one}`' for one in missing)}: add `--input '{first}:float16[rows,columns]'`, "
                f"`--scalar {first}:float32=1.0`, or the annotation `{first}: \"float16[rows, columns]\"`"
            )

    def entry(self, parameter):
        name, default = parameter.name, parameter.default
        entry = self.given.get(name) or self.annotated.get(name)
        if entry is None:
            return scalar_of(name, default)
        entry = {"name": name, "value": None, **entry}
        if entry["shape"] is None and entry["value"] is None:
            usual = scalar_of(name, default)
            if usual is None:
                raise Refused(f"nothing gives the value of `{name}`: add `--scalar {name}:{entry['dtype']}=1.0`")
            entry["value"] = usual["value"]
        return entry


def default_distribution(entry):
    dtype, name = entry["dtype"], entry["name"]
    if dtype == "bool":
        return {"uniform": [0, 1]}
    if "float" in dtype:
        return {"normal": 1.0}
    raise Refused(
        f"input `{name}` has whole numbers: say which, for example `--draw '{name}={{uniform: [0, 9]}}'`, or below the size of an axis with "
        f"`[0, AXIS]`"
    )


def add_distributions(interface, drawn):
    import torch

    tensors = [entry["name"] for entry in interface.inputs if entry["shape"] is not None]
    for name in drawn:
        if name not in tensors:
            raise Refused(f"`--draw {name}=…`: the function has no tensor `{name}`; it has {', '.join(tensors)}")
    taken = set()
    for entry in interface.inputs:
        name = entry["name"]
        if plain_name(name, taken) != name:
            raise Refused(f"the name `{name}` has a meaning in C++ or for kforge: rename the parameter")
        if not isinstance(getattr(torch, entry["dtype"], None), torch.dtype):
            raise Refused(f"input `{name}`: unknown dtype `{entry['dtype']}`")
        if entry["shape"] is not None:
            entry["distribution"] = drawn.get(name) or default_distribution(entry)


def description(request):
    # PyTorch is missing more often than a module of the function's.
    import torch  # noqa: F401

    notes = []
    called, path = load_function(request)
    interface = Interface(called, request, notes)
    add_distributions(interface, request["draw"])
    axes = Axes(request, [one["shape"] for one in [*interface.inputs, *request["outputs"].values(), *interface.returned]])
    function = Function(called, interface, axes, request["function"])
    function.sizes = min(axes.cases, key=lambda case: sum(case.values()))
    function.given = function.values(function.sizes)
    return described_function(function, request, notes)


def main():
    answers = answer_file()
    request = json.loads(sys.argv[1])
    print(json.dumps(answer_of(lambda: description(request), request["file"])), file=answers, flush=True)


main()
