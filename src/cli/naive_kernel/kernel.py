

def base_of(operation):
    """`add` of `aten.add.Tensor`."""
    parts = str(operation).split(".")
    return parts[min(len(parts) - 1, 1)].removesuffix("_copy").lstrip("_")


def is_known(base):
    return hasattr(Translator, "op_" + base) or base in ELEMENTS


class Translator(Elements, Views, Reductions, Products):
    """Translates the nodes of a graph, in order."""

    def __init__(self, graph, symbols=None):
        self.graph = graph
        self.symbols = symbols
        self.inputs = []
        self.writer = Writer()
        self.values = {}
        # Which results of the node that is translated are used.
        self.parts_used = set()

    def run(self, output_names):
        nodes = self.needed()
        places = [node for node in self.graph.graph.nodes if node.op == "placeholder"]
        for node, value in zip(places, self.inputs):
            self.values[node] = value
        for node in nodes:
            if node.op == "get_attr":
                self.values[node] = self.writer.constant(getattr(self.graph, node.target))
            elif node.op == "call_function":
                self.values[node] = self.translate(node)
        results = next(node for node in self.graph.graph.nodes if node.op == "output").args[0]
        results = results if isinstance(results, (tuple, list)) else [results]
        for node, name in zip(results, output_names):
            value = self.values[node]
            dtype = dtype_of(node.meta["val"])
            is_alone = len(results) == 1 and isinstance(value, Stored)
            if is_alone and self.writer.becomes_output(value, dtype, name):
                continue
            self.writer.compute(value.shape or [1], dtype, lambda indices, value=value: ([], value.at(indices[: len(value.shape)])), name)

    def needed(self):
        """The nodes that the outputs depend on."""
        found = set()
        todo = [node for node in self.graph.graph.nodes if node.op == "output"]
        while todo:
            node = todo.pop()
            if node not in found:
                found.add(node)
                todo.extend(node.all_input_nodes)
        return [node for node in self.graph.graph.nodes if node in found]

    def translate(self, node):
        if getattr(node.target, "__name__", "") == "getitem":
            parts = self.values[node.args[0]]
            return parts[node.args[1]]
        base = base_of(node.target)
        self.parts_used = {user.args[1] for user in node.users if getattr(user.target, "__name__", "") == "getitem"}
        meta = self.meta_of(node.meta.get("val"))
        if isinstance(meta, int):
            return meta
        method = getattr(self, "op_" + base, None)
        arguments = [self.read(argument) for argument in node.args]
        options = {key: self.read(value) for key, value in node.kwargs.items()}
        if method is not None:
            if base == "as_strided" and not node.args[0].meta["val"].is_contiguous():
                raise NotTranslated("a view of a tensor that is not dense")
            value = method(meta, *arguments, **options)
        elif base in ELEMENTS:
            if not (meta.dtype.is_floating_point or base in FOR_WHOLE_NUMBERS or base in COMPARISONS):
                raise NotTranslated(f"the operation `{base}` of whole numbers")
            value = self.element(meta, ELEMENTS[base], arguments, base in COMPARISONS)
        else:
            raise NotTranslated(f"the operation `{base}`")
        # What is used more than once is computed once.
        if isinstance(value, Value) and not isinstance(value, Stored) and len(node.users) > 1 and base not in ("full", "scalar_tensor"):
            return self.writer.store(value)
        return value

    def meta_of(self, value):
        import torch

        if isinstance(value, (list, tuple)):
            return [self.meta_of(part) for part in value]
        if torch.is_tensor(value):
            return Meta([self.size_of(size) for size in value.shape], value.dtype)
        if isinstance(value, (torch.SymFloat, torch.SymBool)):
            raise NotTranslated("a number that depends on the size of an axis")
        return self.size_of(value)

    def size_of(self, value):
        import torch

        return self.symbols.size(value) if isinstance(value, torch.SymInt) else value

    def read(self, argument):
        import torch

        if isinstance(argument, torch.fx.Node):
            return self.values[argument]
        if isinstance(argument, (list, tuple)):
            return [self.read(one) for one in argument]
        return argument


def graph_of(called, tensors, mode):
    """The graph of a function, without views and changes in place. `mode`: that of tensors without values."""
    import contextlib
    import numbers

    import torch
    import torch._decomp
    from torch._dispatch.python import enable_python_dispatcher
    from torch.fx.experimental.proxy_tensor import make_fx

    # Modules such as LayerNorm ask whether their size is a whole number.
    numbers.Integral.register(torch.SymInt)
    known = torch._decomp.decomposition_table.items()
    table = {overload: make for overload, make in known if not is_known(base_of(overload))}
    with torch.no_grad(), mode or contextlib.nullcontext(), enable_python_dispatcher() if mode else contextlib.nullcontext():
        return make_fx(torch.func.functionalize(called, remove="mutations_and_views"), decomposition_table=table)(*tensors)


def naive_kernel(function, values, names, output_names, origin, symbols=None, shapes=None, mode=None):
    """The text of a kernel file that computes the function. `names`: those of the values; a number is an argument by value. With variable
    axes: `symbols`, and `shapes` with names of axes for tensors, whose values are not used. `mode`: that of tensors without values."""
    import torch

    # A number by value is a tensor of no dimensions while the function is traced.
    given = [torch.tensor(value) if isinstance(value, float) else value for value in values]
    if symbols:
        with_axes = lambda value, shape: symbols.tensor(shape or [], value.dtype) if torch.is_tensor(value) else value
        given = [with_axes(value, shape) for value, shape in zip(given, shapes)]
    tensors = [value for value in given if torch.is_tensor(value)]

    def called(*tensors):
        left = iter(tensors)
        return function(*[next(left) if torch.is_tensor(value) else value for value in given])

    translator = Translator(graph_of(called, tensors, symbols.mode if symbols else mode), symbols)
    writer = translator.writer
    writer.axes = set(symbols.sizes) if symbols else set()
    for name, value, original in zip(names, given, values):
        if isinstance(original, float):
            translator.inputs.append(ByValue(name, "float32", writer.uses))
        elif torch.is_tensor(value):
            translator.inputs.append(writer.stored(name, [translator.size_of(size) for size in value.shape], dtype_of(value)))
    translator.run(output_names)
    return writer.text(origin)
