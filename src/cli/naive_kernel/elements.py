

class Elements:
    """Operations on single elements, and tensors with values that are known."""

    def element(self, meta, make, arguments, gives_bool=False):
        shape = list(meta.shape)
        values = [argument for argument in arguments if isinstance(argument, Value)]
        is_float = meta.dtype.is_floating_point or any(value.is_float for value in values)

        def at(indices):
            texts = []
            for argument in arguments:
                if not isinstance(argument, Value):
                    # A number next to floating-point values is one too.
                    texts.append(float_text(argument) if is_float and not isinstance(argument, bool) else number(argument))
                else:
                    text = argument.broadcast(indices)
                    texts.append(f"float({text})" if is_float and not argument.is_float and argument.dtype != "bool" else text)
            return make(*texts)

        return Value(shape, "bool" if gives_bool else dtype_of(meta), at)

    def op_add(self, meta, one, other, alpha=1):
        return self.element(meta, operator("+") if alpha == 1 else lambda a, b: f"({a} + {number(float(alpha))} * {b})", [one, other])

    def op_sub(self, meta, one, other, alpha=1):
        return self.element(meta, operator("-") if alpha == 1 else lambda a, b: f"({a} - {number(float(alpha))} * {b})", [one, other])

    def op_rsub(self, meta, one, other, alpha=1):
        return self.op_sub(meta, other, one, alpha)

    def op_div(self, meta, one, other, rounding_mode=None):
        make = {None: "({} / {})", "floor": "floorf({} / {})", "trunc": "truncf({} / {})"}[rounding_mode]
        if not meta.dtype.is_floating_point:
            if rounding_mode != "floor":
                raise NotTranslated("a division of whole numbers")
            return self.element(meta, function("floor_div"), [one, other])
        return self.element(meta, lambda a, b: make.format(f"float({a})", f"float({b})"), [one, other])

    def op_fmod(self, meta, one, other):
        make = function("fmodf") if meta.dtype.is_floating_point else operator("%")
        return self.element(meta, make, [one, other])

    def op_remainder(self, meta, one, other):
        if meta.dtype.is_floating_point:
            return self.element(meta, lambda a, b: f"({a} - {b} * floorf({a} / {b}))", [one, other])
        return self.element(meta, lambda a, b: f"(({a} % {b} + {b}) % {b})", [one, other])

    def op_pow(self, meta, one, other):
        if not meta.dtype.is_floating_point:
            raise NotTranslated("a power of whole numbers")
        return self.element(meta, function("power"), [one, other])

    def op_gelu(self, meta, one, approximate="none"):
        return self.element(meta, function("gelu" if approximate == "none" else "gelu_tanh"), [one])

    def op_leaky_relu(self, meta, one, slope=0.01):
        return self.element(meta, lambda a: f"({a} > 0.0f ? {a} : {number(float(slope))} * {a})", [one])

    def op_elu(self, meta, one, alpha=1.0, scale=1.0, input_scale=1.0):
        alpha, scale, inner = (number(float(value)) for value in (alpha, scale, input_scale))
        return self.element(meta, lambda a: f"({scale} * ({a} > 0.0f ? {a} : {alpha} * expm1f({inner} * {a})))", [one])

    def op_softplus(self, meta, one, beta=1.0, threshold=20.0):
        beta, threshold = number(float(beta)), number(float(threshold))
        return self.element(meta, lambda a: f"({beta} * {a} > {threshold} ? {a} : log1pf(expf({beta} * {a})) / {beta})", [one])

    def op_clamp(self, meta, one, low=None, high=None):
        def make(text):
            text = text if low is None else f"fmaxf({text}, {number(float(low))})"
            return text if high is None else f"fminf({text}, {number(float(high))})"

        return self.element(meta, make, [one])

    op_hardtanh = op_clamp

    def op_bitwise_not(self, meta, one):
        return self.element(meta, (lambda a: f"(!{a})") if one.dtype == "bool" else (lambda a: f"(~{a})"), [one])

    def op_to_copy(self, meta, one, **_options):
        kind = TYPES.get(dtype_of(meta), "float")
        kind = "float" if kind.startswith("__") else kind
        return Value(one.shape, dtype_of(meta), lambda indices: f"({kind})({one.at(indices)})" if one.dtype != dtype_of(meta) else one.at(indices))

    def op_convert_element_type(self, meta, one, _dtype):
        return self.op_to_copy(meta, one)

    def same(self, _meta, one, *_arguments, **_options):
        return one

    op_clone = op_alias = op_detach = op_lift_fresh = op_lift = same

    def op_copy(self, meta, _target, source, *_arguments):
        return self.element(meta, lambda a: a, [source])

    def op_full(self, meta, _shape, value, **_options):
        value = float(value) if meta.dtype.is_floating_point else value
        return Value(meta.shape, dtype_of(meta), lambda indices: number(value))

    def op_empty(self, meta, *_shape, **_options):
        # What a function reads from it must not matter.
        return self.op_full(meta, [], 0)

    op_empty_strided = op_new_empty = op_empty_like = op_empty

    def op_scalar_tensor(self, meta, value, **_options):
        return self.op_full(meta, [], value)

    def op_full_like(self, meta, _one, value, **_options):
        return self.op_full(meta, [], value)

    def op_zeros_like(self, meta, _one, **_options):
        return self.op_full(meta, [], 0)

    def op_ones_like(self, meta, _one, **_options):
        return self.op_full(meta, [], 1)

    def op_iota(self, meta, _length, start=0, step=1, **_options):
        return Value(meta.shape, dtype_of(meta), lambda indices: f"({start} + {step} * ({indices[0]}))")

    def op_arange(self, meta, *bounds, **_options):
        start = bounds[0] if len(bounds) > 1 else 0
        step = bounds[2] if len(bounds) > 2 else 1
        return self.op_iota(meta, 0, start, step)
