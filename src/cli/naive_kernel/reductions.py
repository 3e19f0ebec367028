

def loop(length, body, kind):
    """Lines that combine the terms of a reduction. `body` gives the term of the variable `k`."""
    if kind == "sum":
        return [
            "float total = 0.0f, part = 0.0f;",
            f"for (index_t k = 0; k < {length}; ++k) {{",
            f"    part += {body};",
            f"    if (k % {PART} == {PART - 1}) {{ total += part; part = 0.0f; }}",
            "}",
            "total += part;",
        ]
    start = {"prod": "1.0f", "amax": "-INFINITY", "amin": "INFINITY", "any": "0.0f", "all": "1.0f"}[kind]
    step = {
        "prod": "total *= {};", "amax": "total = fmaxf(total, {});", "amin": "total = fminf(total, {});",
        "any": "total = total != 0.0f || {};", "all": "total = total != 0.0f && {};",
    }[kind]
    return [f"float total = {start};", f"for (index_t k = 0; k < {length}; ++k) {step.format(body)}"]


class Reductions:
    """Operations that combine elements along dimensions, and normalisations."""

    def reduce(self, meta, one, dims, kind, finish=lambda total, _length: total):
        rank = len(one.shape)
        dims = sorted({dim % rank for dim in dims}) if dims else list(range(rank))
        sizes = [one.shape[dim] for dim in dims]
        length, kept = count_of(sizes), [dim for dim in range(rank) if dim not in dims]
        shape = [one.shape[dim] for dim in kept]

        def term(indices, place):
            own = dict(zip(kept, indices))
            own.update(zip(dims, split(place, sizes)))
            return one.at([own[dim] for dim in range(rank)])

        if length >= LONG and count_of(shape) <= PARTS:
            share = ceil_div(length, PARTS)
            neutral = {"sum": "0.0f", "prod": "1.0f", "amax": "-INFINITY", "amin": "INFINITY", "any": "0.0f", "all": "1.0f"}[kind]

            def first(indices):
                place = f"({indices[-1]} * {share} + k)"
                return loop(share, f"({place} < {length} ? float({term(indices[:-1], place)}) : {neutral})", kind), "total"

            parts = self.writer.compute([*shape, PARTS], "float32", first)
            last = lambda indices: (loop(PARTS, parts.at([*indices, "k"]), kind), finish("total", length))
        else:
            last = lambda indices: (loop(length, f"float({term(indices, 'k')})", kind), finish("total", length))
        return self.writer.compute(shape, dtype_of(meta), last).viewed(list(meta.shape))

    def op_sum(self, meta, one, dims=None, _keep=False, **_options):
        return self.reduce(meta, one, dims, "sum")

    def op_mean(self, meta, one, dims=None, _keep=False, **_options):
        return self.reduce(meta, one, dims, "sum", lambda total, length: f"{total} / {float_text(length)}")

    def op_prod(self, meta, one, dim=None, _keep=False, **_options):
        return self.reduce(meta, one, None if dim is None else [dim], "prod")

    def op_amax(self, meta, one, dims=(), _keep=False):
        return self.reduce(meta, one, dims, "amax")

    def op_amin(self, meta, one, dims=(), _keep=False):
        return self.reduce(meta, one, dims, "amin")

    def op_any(self, meta, one, dims=None, _keep=False):
        return self.reduce(meta, one, [dims] if isinstance(dims, int) else dims, "any", lambda total, _: f"{total} != 0.0f")

    def op_all(self, meta, one, dims=None, _keep=False):
        return self.reduce(meta, one, [dims] if isinstance(dims, int) else dims, "all", lambda total, _: f"{total} != 0.0f")

    def op_var_mean(self, meta, one, dims=None, correction=1, keepdim=False):
        variance, mean = meta
        one = self.writer.store(one)
        rank = len(one.shape)
        dims = sorted({dim % rank for dim in dims}) if dims else list(range(rank))
        kept = [1 if dim in dims else size for dim, size in enumerate(one.shape)]
        means = self.op_mean(variance, one, dims)
        wide = means.viewed(kept)
        squares = Value(one.shape, "float32", lambda indices: f"square({one.at(indices)} - {wide.broadcast(indices)})")
        length = count_of([one.shape[dim] for dim in dims])
        divisor = max(length - (1 if correction is None else correction), 0)
        total = self.reduce(variance, squares, dims, "sum", lambda total, _: f"{total} / {float_text(divisor)}")
        return [total, means.viewed(list(mean.shape))]

    def op_var(self, meta, one, dims=None, correction=1, keepdim=False):
        return self.op_var_mean((meta, meta), one, dims, correction)[0]

    def extreme(self, meta, one, dim, sign, wants_value):
        """The largest or smallest element along a dimension, and its index."""
        one = self.writer.store(one)
        rank = len(one.shape)
        flat = one.viewed([count_of(one.shape)]) if dim is None else one
        dim = 0 if dim is None else dim % rank
        shape = flat.shape[:dim] + flat.shape[dim + 1 :]

        def body(indices):
            at = lambda place: flat.at(indices[:dim] + [place] + indices[dim:])
            lines = ["index_t found = 0;", f"float best = {at('0')};", f"for (index_t k = 1; k < {flat.shape[dim]}; ++k) {{"]
            return [*lines, f"    const float value = {at('k')};", f"    if (value {sign} best) {{ best = value; found = k; }}", "}"]

        def computed(of, dtype, found):
            return self.writer.compute(shape, dtype, lambda indices: (body(indices), found)).viewed(list(of.shape))

        if not wants_value:
            return computed(meta, "int64", "found")
        value = computed(meta[0], dtype_of(meta[0]), "best") if 0 in self.parts_used else None
        return [value, computed(meta[1], "int64", "found") if 1 in self.parts_used else None]

    def op_argmax(self, meta, one, dim=None, _keep=False):
        return self.extreme(meta, one, dim, ">", False)

    def op_argmin(self, meta, one, dim=None, _keep=False):
        return self.extreme(meta, one, dim, "<", False)

    def op_max(self, meta, one, dim=None, _keep=False):
        return self.op_amax(meta, one) if dim is None else self.extreme(meta, one, dim, ">", True)

    def op_min(self, meta, one, dim=None, _keep=False):
        return self.op_amin(meta, one) if dim is None else self.extreme(meta, one, dim, "<", True)

    def scan(self, meta, one, dim, line):
        one = self.writer.store(one)
        dim %= len(one.shape)

        def body(indices):
            value = one.at(indices[:dim] + ["k"] + indices[dim + 1 :])
            start, step = line
            return [f"float total = {start};", f"for (index_t k = 0; k <= {indices[dim]}; ++k) {step.format(value)}"], "total"

        return self.writer.compute(one.shape, dtype_of(meta), body)

    def op_cumsum(self, meta, one, dim, **_options):
        return self.scan(meta, one, dim, ("0.0f", "total += {};"))

    def op_cumprod(self, meta, one, dim, **_options):
        return self.scan(meta, one, dim, ("1.0f", "total *= {};"))

    def op_native_batch_norm(self, meta, one, weight, bias, mean, variance, training, _momentum, eps):
        shape = [1, one.shape[1]] + [1] * (len(one.shape) - 2)
        one = self.writer.store(one)
        if training:
            others = [dim for dim in range(len(one.shape)) if dim != 1]
            variance, mean = self.op_var_mean((meta[1], meta[1]), one, others, 0)
        parts = [self.writer.store(part).viewed(shape) if part is not None else None for part in (mean, variance, weight, bias)]

        def at(indices):
            mean, variance, weight, bias = (part and part.broadcast(indices) for part in parts)
            text = f"(({one.at(indices)} - {mean}) * rsqrtf({variance} + {number(float(eps))})"
            text += f" * {weight}" if weight else ""
            return text + (f" + {bias})" if bias else ")")

        return [Value(one.shape, dtype_of(meta[0]), at)]

    def op_native_batch_norm_legit(self, meta, one, weight, bias, *rest):
        mean, variance, training, momentum, eps = rest if len(rest) == 5 else (None, None, *rest)
        return self.op_native_batch_norm(meta, one, weight, bias, mean, variance, training, momentum, eps)


    def op_native_group_norm(self, meta, one, weight, bias, batch, channels, size, groups, eps):
        one = self.writer.store(one)
        rows = one.viewed([batch, groups, channels // groups * size])
        variance, mean = self.op_var_mean((meta[1], meta[1]), rows, [2], 0)
        weight, bias = (part and self.writer.store(part) for part in (weight, bias))
        group = lambda indices: [indices[0], f"({indices[1]} / {channels // groups})"]

        def at(indices):
            place = group(indices)
            text = f"(({one.at(indices)} - {mean.at(place)}) * rsqrtf({variance.at(place)} + {number(float(eps))})"
            text += f" * {weight.at([indices[1]])}" if weight else ""
            return text + (f" + {bias.at([indices[1]])})" if bias else ")")

        return [Value(one.shape, dtype_of(meta[0]), at)]
