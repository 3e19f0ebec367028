

class Views:
    """Operations that choose or move elements."""

    def op_view(self, meta, one, _shape):
        return self.writer.store(one).viewed(list(meta.shape))

    op_reshape = op_unsafe_view = op_view

    def op_unsqueeze(self, meta, one, dim):
        dim %= len(meta.shape)
        return Value(meta.shape, one.dtype, lambda indices: one.at(indices[:dim] + indices[dim + 1 :]))

    def op_squeeze(self, meta, one, *_dims):
        return self.op_view(meta, one, None)

    def op_as_strided(self, meta, one, _shape, strides, offset=0):
        # The place in memory is that of a dense tensor.
        one = self.writer.store(one)
        terms = lambda indices: " + ".join(f"{index} * {stride}" for index, stride in zip(indices, strides))
        return Value(meta.shape, one.dtype, lambda indices: one.load_at(f"{offset or 0} + {terms(indices) or 0}"))

    def op_permute(self, meta, one, dims):
        dims = [dim % len(meta.shape) for dim in dims]
        return Value(meta.shape, one.dtype, lambda indices: one.at([indices[dims.index(dim)] for dim in range(len(dims))]))

    def op_transpose(self, meta, one, first, second):
        dims = list(range(len(meta.shape)))
        dims[first], dims[second] = dims[second], dims[first]
        return self.op_permute(meta, one, dims)

    def op_t(self, meta, one):
        return self.op_permute(meta, one, list(range(len(meta.shape)))[::-1])

    def op_expand(self, meta, one, _shape, **_options):
        return Value(meta.shape, one.dtype, one.broadcast)

    def op_slice(self, meta, one, dim=0, start=None, _end=None, step=1):
        dim, start = dim % len(meta.shape), start or 0
        start = max(start + one.shape[dim], 0) if start < 0 else start
        moved = lambda index: index if (start, step) == (0, 1) else f"({start} + {step} * {index})"
        return Value(meta.shape, one.dtype, lambda indices: one.at([moved(index) if place == dim else index for place, index in enumerate(indices)]))

    def op_select(self, meta, one, dim, index):
        dim %= len(one.shape)
        index %= one.shape[dim]
        return Value(meta.shape, one.dtype, lambda indices: one.at(indices[:dim] + [str(index)] + indices[dim:]))

    def op_flip(self, meta, one, dims):
        dims = [dim % len(meta.shape) for dim in dims]
        turned = lambda place, index: f"({meta.shape[place] - 1} - {index})" if place in dims else index
        return Value(meta.shape, one.dtype, lambda indices: one.at([turned(*pair) for pair in enumerate(indices)]))

    def op_split_with_sizes(self, meta, one, sizes, dim=0):
        starts = [sum(sizes[:place]) for place in range(len(sizes))]
        one = self.writer.store(one)
        return [self.op_slice(part, one, dim, start) for part, start in zip(meta, starts)]

    def op_split(self, meta, one, _size, dim=0):
        dim %= len(one.shape)
        return self.op_split_with_sizes(meta, one, [part.shape[dim] for part in meta], dim)

    def op_cat(self, meta, parts, dim=0):
        dim %= len(meta.shape)
        parts = [part for part in parts if part.shape != [0]]

        def at(indices):
            start, text = 0, None
            pieces = []
            for part in parts:
                own = indices[:dim] + [f"({indices[dim]} - {start})" if start else indices[dim]] + indices[dim + 1 :]
                start += part.shape[dim]
                pieces.append((start, part.at(own)))
            text = pieces[-1][1]
            for end, piece in reversed(pieces[:-1]):
                text = f"({indices[dim]} < {end} ? {piece} : {text})"
            return text

        return Value(meta.shape, parts[0].dtype, at)

    def op_constant_pad_nd(self, meta, one, pads, value=0.0):
        before = [0] * len(one.shape)
        for place in range(len(pads) // 2):
            before[len(one.shape) - 1 - place] = pads[2 * place]

        def at(indices):
            own = [f"({index} - {low})" if low else index for index, low in zip(indices, before)]
            tests = [f"{index} >= 0 && {index} < {size}" for index, size in zip(own, one.shape)]
            return f"({' && '.join(tests)} ? {one.at(own)} : {number(float(value) if one.is_float else value)})"

        return Value(meta.shape, one.dtype, at)

    # Indices.

    def op_embedding(self, meta, weight, index, *_options, **_more):
        weight = self.writer.store(weight)
        count = len(index.shape)
        return Value(meta.shape, weight.dtype, lambda indices: weight.at([index.at(indices[:count]), *indices[count:]]))

    def op_index_select(self, meta, one, dim, index):
        dim %= len(one.shape)
        return Value(meta.shape, one.dtype, lambda indices: one.at(indices[:dim] + [index.at([indices[dim]])] + indices[dim + 1 :]))

    def op_gather(self, meta, one, dim, index, **_options):
        dim %= len(one.shape)
        one = self.writer.store(one)
        return Value(meta.shape, one.dtype, lambda indices: one.at(indices[:dim] + [index.at(indices)] + indices[dim + 1 :]))

    def op_index(self, meta, one, indices):
        """Elements at places that tensors give, along dimensions next to each other."""
        places = [dim for dim, index in enumerate(indices) if index is not None]
        if places != list(range(places[0], places[0] + len(places))) or any(indices[dim].dtype == "bool" for dim in places):
            raise NotTranslated("the operation `index` of this form")
        one = self.writer.store(one)
        first, rank = places[0], max(len(indices[dim].shape) for dim in places)

        def at(wanted):
            chosen = wanted[first : first + rank]
            # A negative place counts from the end.
            found = [f"from_end({indices[dim].broadcast(chosen)}, {one.shape[dim]})" for dim in places]
            return one.at([*wanted[:first], *found, *wanted[first + rank :]])

        return Value(meta.shape, one.dtype, at)
