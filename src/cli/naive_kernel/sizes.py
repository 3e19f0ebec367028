

class Size(int):
    """A size that depends on axes: a number while the graph is translated, and an expression in the code, where the axis `rows` is `n_rows`."""

    def __new__(cls, value, text):
        size = super().__new__(cls, value)
        size.text = text
        return size

    def __str__(self):
        return self.text

    __repr__ = __str__

    def __format__(self, _form):
        return self.text

    def __float__(self):
        raise NotTranslated("a number that depends on the size of an axis")

    def __add__(self, other):
        return self if is_plain(other, 0) else Size(int(self) + int(other), f"({self} + {other})")

    def __radd__(self, other):
        return self if is_plain(other, 0) else Size(int(other) + int(self), f"({other} + {self})")

    def __sub__(self, other):
        return self if is_plain(other, 0) else Size(int(self) - int(other), f"({self} - {other})")

    def __rsub__(self, other):
        return Size(int(other) - int(self), f"({other} - {self})")

    def __mul__(self, other):
        return self if is_plain(other, 1) else Size(int(self) * int(other), f"({self} * {other})")

    def __rmul__(self, other):
        return self if is_plain(other, 1) else Size(int(other) * int(self), f"({other} * {self})")

    def __floordiv__(self, other):
        return self if is_plain(other, 1) else Size(int(self) // int(other), f"({self} / {other})")

    def __rfloordiv__(self, other):
        return Size(int(other) // int(self), f"({other} / {self})")

    def __mod__(self, other):
        return Size(int(self) % int(other), f"({self} % {other})")

    def __rmod__(self, other):
        # A place, counted from the end if it is negative.
        return self + other if other < 0 else other


def is_plain(value, number):
    return not isinstance(value, Size) and value == number


def ceil_div(one, other):
    return (one + other - 1) // other if isinstance(one, Size) or isinstance(other, Size) else -(-one // other)


def float_text(value):
    """A number as a float in the code."""
    return f"float({value})" if isinstance(value, Size) else number(float(value))


def in_header(size):
    """A size as the header of a kernel file has it."""
    text = re.sub(r"\bn_(\w+)", r"\1", str(size))
    return text[1:-1] if text.startswith("(") else text


class Meta:
    """The shape and dtype of a result."""

    def __init__(self, shape, dtype):
        self.shape = shape
        self.dtype = dtype


class Symbols:
    """The variable axes of a graph, as symbols of PyTorch. `sizes`: a size of each, for decisions that depend on it; at least 2."""

    def __init__(self, sizes):
        from torch._subclasses.fake_tensor import FakeTensorMode
        from torch.fx.experimental.symbolic_shapes import ShapeEnv

        self.sizes = sizes
        self.environment = ShapeEnv()
        self.mode = FakeTensorMode(shape_env=self.environment, allow_non_fake_inputs=True)
        self.axes = {}
        self.symints = {axis: self.new_symbol(axis, size) for axis, size in sizes.items()}

    def new_symbol(self, axis, size):
        from torch._dynamo.source import ConstantSource
        from torch.fx.experimental.symbolic_shapes import DimDynamic

        source = ConstantSource(f"axis_{axis}")
        symbol = self.environment.create_symbol(size, source, dynamic_dim=DimDynamic.DYNAMIC, constraint_dim=None)
        self.axes[symbol] = axis
        return self.environment.create_symintnode(symbol, hint=size, source=source)

    def tensor(self, shape, dtype):
        """A tensor without values. `shape`: numbers and names of axes."""
        import torch

        with self.mode:
            return torch.empty([self.symints.get(size, size) for size in shape], dtype=dtype, device="cpu")

    def size(self, symint):
        expression = symint.node.expr
        if expression.is_number:
            return int(expression)
        known = {symbol: self.sizes[axis] for symbol, axis in self.axes.items()}
        return Size(int(expression.subs(known)), self.code(expression))

    def code(self, expression):
        if expression in self.axes:
            return f"n_{self.axes[expression]}"
        if expression.is_Integer:
            return str(expression)
        kind = type(expression).__name__
        symbol = {"Add": " + ", "Mul": " * ", "FloorDiv": " / ", "CleanDiv": " / ", "Mod": " % ", "PythonMod": " % "}.get(kind)
        if kind == "Pow" and expression.exp.is_Integer and 1 < expression.exp < 5:
            return "(" + " * ".join([self.code(expression.base)] * int(expression.exp)) + ")"
        if symbol is None:
            raise NotTranslated(f"the size `{self.named(expression)}`")
        return "(" + symbol.join(self.code(part) for part in expression.args) + ")"

    def named(self, expression):
        """The text of an expression with the names of the axes."""
        text = str(expression)
        for symbol, axis in self.axes.items():
            text = re.sub(rf"\b{symbol}\b", axis, text)
        return text

    def check(self, cases):
        """Fails if the graph is another one for some sizes of the axes. PyTorch assumes sizes of at least 2; the kernel needs no more than 1."""
        for guard in self.environment.guards:
            for sizes in cases:
                if min(sizes[axis] for axis in self.sizes) < 2:
                    continue
                holds = guard.expr.subs({symbol: sizes[axis] for symbol, axis in self.axes.items()})
                if holds == False:  # noqa: E712 (a value of SymPy)
                    shown = ", ".join(f"{axis} = {size}" for axis, size in sizes.items())
                    raise NotTranslated(f"a function that does something else unless `{self.named(guard.expr)}`, as for {shown}")
