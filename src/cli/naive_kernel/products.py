

class Products:
    """Products of matrices, convolutions and poolings."""

    def product(self, meta, one, other, finish=lambda total, indices: total):
        one, other = self.writer.store(one), self.writer.store(other) if len(other.shape) == 1 else other
        depth = one.shape[-1]

        def body(indices):
            row = indices[:-1] if len(other.shape) > 1 else indices
            right = [*indices[:-2], "k", indices[-1]] if len(other.shape) > 1 else ["k"]
            term = f"float({one.at([*row, 'k'])}) * float({other.at(right)})"
            return loop(depth, term, "sum"), finish("total", indices)

        return self.writer.compute(list(meta.shape), dtype_of(meta), body)

    def op_mm(self, meta, one, other):
        return self.product(meta, one, other)

    op_bmm = op_mv = op_dot = op_mm

    def op_addmm(self, meta, bias, one, other, beta=1, alpha=1):
        factor = "" if alpha == 1 else f"{number(float(alpha))} * "
        share = "" if beta == 1 else f"{number(float(beta))} * "
        return self.product(meta, one, other, lambda total, indices: f"{factor}{total} + {share}{bias.broadcast(indices)}")

    def op_convolution(self, meta, one, weight, bias, stride, padding, dilation, transposed, _output_padding, groups):
        one, weight = self.writer.store(one), self.writer.store(weight)
        rank = len(one.shape) - 2
        stride, padding, dilation = ([*value] * rank if len(value) == 1 else value for value in (stride, padding, dilation))
        kernel = weight.shape[2:]
        channels_in, channels_out = one.shape[1] // groups, meta.shape[1] // groups

        def body(indices):
            batch, channel, places = indices[0], indices[1], indices[2:]
            group = f"({channel} / {channels_out})" if groups > 1 else "0"
            steps = split("k", [channels_in, *kernel])
            source, lines, tests = [f"{group} * {channels_in} + {steps[0]}"], [], []
            for axis in range(rank):
                at = f"p{axis}"
                if transposed:
                    lines.append(f"    const index_t s{axis} = {places[axis]} + {padding[axis]} - {steps[axis + 1]} * {dilation[axis]};")
                    lines.append(f"    const index_t {at} = s{axis} / {stride[axis]};")
                    tests.append(f"s{axis} >= 0 && s{axis} % {stride[axis]} == 0")
                else:
                    lines.append(
                        f"    const index_t {at} = {places[axis]} * {stride[axis]} - {padding[axis]} + {steps[axis + 1]} * {dilation[axis]};"
                    )
                tests.append(f"{at} >= 0 && {at} < {one.shape[axis + 2]}")
                source.append(at)
            if transposed:
                own = f"({channel} % {channels_out})" if groups > 1 else channel
                weights = [f"({source[0]})", own, *steps[1:]]
            else:
                weights = [channel, *steps]
            term = f"float({one.at([batch, f'({source[0]})', *source[1:]])}) * float({weight.at(weights)})"
            length = channels_in * count_of(kernel)
            code = ["float total = 0.0f;", f"for (index_t k = 0; k < {length}; ++k) {{", *lines, f"    if ({' && '.join(tests)}) total += {term};", "}"]
            return code, "total" if bias is None else f"total + float({bias.at([channel])})"

        return self.writer.compute(list(meta.shape), dtype_of(meta), body)

    def window(self, meta, one, settings, kind):
        """`settings`: kernel, stride, padding, dilation."""
        one = self.writer.store(one)
        rank = len(settings[0])
        kernel, stride, padding, dilation = settings
        sizes = one.shape[-rank:]

        def body(indices):
            outer, places = indices[: len(indices) - rank], indices[len(indices) - rank :]
            steps = split("k", kernel)
            lines, tests = [], []
            for axis in range(rank):
                lines.append(f"    const index_t p{axis} = {places[axis]} * {stride[axis]} - {padding[axis]} + {steps[axis]} * {dilation[axis]};")
                tests.append(f"p{axis} >= 0 && p{axis} < {sizes[axis]}")
            value = f"float({one.at([*outer, *(f'p{axis}' for axis in range(rank))])})"
            start, step = ("-INFINITY", f"total = fmaxf(total, {value});") if kind == "max" else ("0.0f", f"total += {value}, count += 1;")
            loop_lines = [f"for (index_t k = 0; k < {count_of(kernel)}; ++k) {{", *lines, f"    if ({' && '.join(tests)}) {{ {step} }}", "}"]
            return [f"float total = {start};", "int count = 0;", *loop_lines, "(void)count;"], {"max": "total", "mean": "total / count"}.get(
                kind, f"total / {kind}.0f"
            )

        return self.writer.compute(list(meta.shape), dtype_of(meta), body)

    def settings(self, rank, kernel, stride, padding, dilation=(1,)):
        wide = lambda values: list(values) * rank if len(values) == 1 else list(values)
        kernel = wide(kernel)
        return kernel, wide(stride) if stride else kernel, wide(padding), wide(dilation)

    def max_pool(self, rank, meta, one, kernel, stride=(), padding=(0,), dilation=(1,), ceil_mode=False):
        return [self.window(meta[0], one, self.settings(rank, kernel, stride, padding, dilation), "max")]

    def op_max_pool2d_with_indices(self, *arguments):
        return self.max_pool(2, *arguments)

    def op_max_pool3d_with_indices(self, *arguments):
        return self.max_pool(3, *arguments)

    def avg_pool(self, rank, meta, one, kernel, stride=(), padding=(0,), ceil_mode=False, count_include_pad=True, divisor_override=None):
        settings = self.settings(rank, kernel, stride, padding)
        if ceil_mode:
            raise NotTranslated("an average pooling with `ceil_mode`")
        divisor = divisor_override or (count_of(settings[0]) if count_include_pad else "mean")
        return self.window(meta, one, settings, divisor)

    def op_avg_pool1d(self, *arguments):
        return self.avg_pool(1, *arguments)

    def op_avg_pool2d(self, *arguments):
        return self.avg_pool(2, *arguments)

    def op_avg_pool3d(self, *arguments):
        return self.avg_pool(3, *arguments)
