

"""The shapes of a problem, and smaller ones to run its code with.

Problems have tensors of many gigabytes. What they take and give is found without values, so without memory. What depends on values is found
with smaller sizes, for which the model is the same. Sizes are the whole numbers that the file gives names to.
"""

import ast

# Elements of the inputs and outputs, and floating-point operations, up to which a problem's code is run as it is.
MAX_ELEMENTS = 1 << 23
MAX_OPERATIONS = 2 << 30
# No size becomes smaller than this.
MIN_SIZE = 4


def names_in(target):
    """The names that a statement gives values to."""
    if isinstance(target, ast.Name):
        return [target.id]
    return [name for part in getattr(target, "elts", []) for name in names_in(part)]


class Shapes:
    """What a call takes and gives, without values."""

    def __init__(self, model, get_inputs, cast):
        from torch.utils.flop_counter import FlopCounterMode

        self.given = [cast(value) for value in get_inputs()]
        with FlopCounterMode(display=False) as counter:
            self.outputs = outputs_of("forward", model(*self.given))
        tensors = [value for value in [*self.given, *self.outputs] if hasattr(value, "numel")]
        elements = sum(tensor.numel() for tensor in tensors)
        # In parts of what is run as it is.
        self.cost = max(elements / MAX_ELEMENTS, counter.get_total_flops() / MAX_OPERATIONS)

    def kinds(self):
        """What stays the same when sizes change."""
        return [(value.dtype, value.dim()) if hasattr(value, "dim") else value for value in [*self.given, *self.outputs]]


class Sizes:
    """The sizes of a problem, and what its inputs are for others."""

    def __init__(self, path, namespace, cast):
        import torch
        from torch._subclasses.fake_tensor import FakeTensorMode

        with open(path, encoding="utf-8") as file:
            self.tree = ast.parse(file.read())
        self.path = path
        self.namespace = namespace
        self.cast = cast
        # Parameters of the model are real where it was built outside the mode.
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        with self.mode, torch.no_grad():
            self.model = namespace["Model"](*namespace["get_init_inputs"]())
            for module in self.model.modules():
                for name, value in module._parameters.items():
                    if value is not None:
                        module._parameters[name] = torch.nn.Parameter(cast(value), requires_grad=False)
                for name, value in module._buffers.items():
                    module._buffers[name] = cast(value)
        self.full = self.shapes(namespace["get_inputs"])

    def shapes(self, get_inputs):
        import torch

        with self.mode, torch.no_grad():
            return Shapes(self.model, get_inputs, self.cast)

    def named(self):
        """The values of all names that are a whole number or a tuple of them."""
        found = {}
        for statement in self.tree.body:
            for name in (name for target in getattr(statement, "targets", []) for name in names_in(target)):
                value = self.namespace.get(name)
                values = value if isinstance(value, tuple) else (value,)
                if values and all(type(one) is int for one in values):
                    found[name] = value
        return found

    def inputs_with(self, sizes):
        """`get_inputs` of the file with other values of these names."""
        body = []
        for statement in self.tree.body:
            body.append(statement)
            for name in (name for target in getattr(statement, "targets", []) for name in names_in(target)):
                if name in sizes:
                    body += ast.parse(f"{name} = {sizes[name]!r}").body
        namespace = {"__name__": "problem", "__file__": self.path}
        exec(compile(ast.Module(body=body, type_ignores=[]), self.path, "exec"), namespace)
        return namespace["get_inputs"]

    def small_inputs(self):
        """`get_inputs` with sizes for which the code runs fast in little memory, or with the smallest that the model takes."""
        sizes, cost, found = self.named(), self.full.cost, self.namespace["get_inputs"]
        fixed = set()
        while cost > 1:
            # Each place is a number by itself, or one of a tuple.
            places = [((name, None), value) for name, value in sizes.items() if type(value) is int]
            places += [((name, index), one) for name, value in sizes.items() if type(value) is tuple for index, one in enumerate(value)]
            places = [place for place in places if place[1] > MIN_SIZE and place[0] not in fixed]
            if not places:
                break
            largest = max(value for _, value in places)
            same = [place for place, value in places if value == largest]
            # Names with the same value often mean the same, as a number of classes and the largest label. Otherwise one after the other.
            for group in [same, *([place] for place in same)] if len(same) > 1 else [same]:
                tried = dict(sizes)
                for name, index in group:
                    half = max(MIN_SIZE, largest // 2)
                    tried[name] = half if index is None else (*tried[name][:index], half, *tried[name][index + 1 :])
                try:
                    get_inputs = self.inputs_with(tried)
                    smaller = self.shapes(get_inputs)
                    fits = smaller.kinds() == self.full.kinds() and smaller.cost < cost
                except Exception:
                    # The model takes no such sizes.
                    fits = False
                if fits:
                    sizes, cost, found = tried, smaller.cost, get_inputs
                    break
                if len(group) == 1:
                    fixed.add(group[0])
        return found
