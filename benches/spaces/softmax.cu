/* kforge
launch:
  - kernel: softmax
    grid: ceil_div(rows, GROUPS)
    block: THREADS, GROUPS
    args: x, output, rows, columns
tunables:
  THREADS: [128, 32, 64, 256, 512, 1024]
  GROUPS: [1, 2, 4]
  VECTOR: [4, 1, 2]
  HELD: [4, 0, 1, 2, 8]
  UNROLL: [1, 4]
  ONLINE: [0, 1]
  STREAM: [0, 1]
constraints: HELD * VECTOR <= 16, THREADS * GROUPS <= 1024
*/

// A space to record: 2,160 points, of which 1,680 meet the constraints. THREADS threads share a row, GROUPS rows share a block. A thread loads VECTOR elements at once, keeps
// its first HELD loads in registers, and reads the others again. ONLINE finds maximum and sum in one pass, else in two. STREAM marks loads
// and stores as used once. Blocks of more than 1024 threads cannot be launched, and more than 16 elements in registers would not compile.

constexpr int LANES = 32;
constexpr int WARPS = THREADS / LANES;  // for each row
constexpr float LOWEST = -1e30f;        // below any logit, and finite: inf - inf is NaN
static_assert(HELD * VECTOR <= 16, "a thread holds 16 elements at most");

template <int width>
struct alignas(4 * width) Piece {
    float values[width];
};

template <int width>
__device__ __forceinline__ Piece<width> load(const float* row, int index) {
    Piece<width> piece;
    const float* from = row + index * width;
#if STREAM
    if constexpr (width == 4) {
        const float4 four = __ldcs(reinterpret_cast<const float4*>(from));
        piece.values[0] = four.x;
        piece.values[1] = four.y;
        piece.values[2] = four.z;
        piece.values[3] = four.w;
    } else if constexpr (width == 2) {
        const float2 two = __ldcs(reinterpret_cast<const float2*>(from));
        piece.values[0] = two.x;
        piece.values[1] = two.y;
    } else {
        piece.values[0] = __ldcs(from);
    }
#else
    piece = *reinterpret_cast<const Piece<width>*>(from);
#endif
    return piece;
}

template <int width>
__device__ __forceinline__ void store(float* row, int index, const Piece<width>& piece) {
    float* to = row + index * width;
#if STREAM
    if constexpr (width == 4) {
        __stcs(reinterpret_cast<float4*>(to), make_float4(piece.values[0], piece.values[1], piece.values[2], piece.values[3]));
    } else if constexpr (width == 2) {
        __stcs(reinterpret_cast<float2*>(to), make_float2(piece.values[0], piece.values[1]));
    } else {
        __stcs(to, piece.values[0]);
    }
#else
    *reinterpret_cast<Piece<width>*>(to) = piece;
#endif
}

// The largest logit and the sum of exp(x - largest) over the elements seen so far.
struct Running {
    float largest;
    float sum;

    template <int width>
    __device__ __forceinline__ void find_largest(const Piece<width>& piece) {
#pragma unroll
        for (int i = 0; i < width; ++i) largest = fmaxf(largest, piece.values[i]);
    }

    template <int width>
    __device__ __forceinline__ void add(const Piece<width>& piece) {
#pragma unroll
        for (int i = 0; i < width; ++i) sum += __expf(piece.values[i] - largest);
    }

    template <int width>
    __device__ __forceinline__ void add_online(const Piece<width>& piece) {
        const float before = largest;
        find_largest(piece);
        sum *= __expf(before - largest);
        add(piece);
    }
};

__device__ __forceinline__ Running merge(Running a, Running b) {
    const float largest = fmaxf(a.largest, b.largest);
    return {largest, a.sum * __expf(a.largest - largest) + b.sum * __expf(b.largest - largest)};
}

// Merges what the threads of a row have found. Every thread of the block must call it.
__device__ __forceinline__ Running merge_row(Running own, Running (*warps)[WARPS]) {
#pragma unroll
    for (int offset = LANES / 2; offset > 0; offset /= 2) {
        const Running other = {__shfl_xor_sync(0xffffffffu, own.largest, offset),
                               __shfl_xor_sync(0xffffffffu, own.sum, offset)};
        own = merge(own, other);
    }
    if constexpr (WARPS > 1) {
        if (threadIdx.x % LANES == 0) warps[threadIdx.y][threadIdx.x / LANES] = own;
        __syncthreads();
        own = warps[threadIdx.y][0];
        for (int warp = 1; warp < WARPS; ++warp) own = merge(own, warps[threadIdx.y][warp]);
    }
    return own;
}

template <int width>
__device__ __forceinline__ void softmax_row(const float* in, float* out, int columns, Running (*found)[GROUPS][WARPS]) {
    const int pieces = columns / width;
    const int first = HELD * THREADS + threadIdx.x;  // of the pieces that are read again
    Piece<width> held[HELD > 0 ? HELD : 1];
#pragma unroll
    for (int h = 0; h < HELD; ++h) {
        const int index = h * THREADS + threadIdx.x;
#pragma unroll
        for (int i = 0; i < width; ++i) held[h].values[i] = LOWEST;
        if (index < pieces) held[h] = load<width>(in, index);
    }

    Running own = {LOWEST, 0.0f};
#if ONLINE
#pragma unroll
    for (int h = 0; h < HELD; ++h) own.add_online(held[h]);
#pragma unroll UNROLL
    for (int index = first; index < pieces; index += THREADS) own.add_online(load<width>(in, index));
    // A piece that is not there has added to the sum of a thread that has seen nothing else.
    if (own.largest == LOWEST) own.sum = 0.0f;
    const Running total = merge_row(own, found[0]);
#else
#pragma unroll
    for (int h = 0; h < HELD; ++h) own.find_largest(held[h]);
#pragma unroll UNROLL
    for (int index = first; index < pieces; index += THREADS) own.find_largest(load<width>(in, index));
    own.largest = merge_row(own, found[0]).largest;
#pragma unroll
    for (int h = 0; h < HELD; ++h) own.add(held[h]);
#pragma unroll UNROLL
    for (int index = first; index < pieces; index += THREADS) own.add(load<width>(in, index));
    const Running total = merge_row(own, found[1]);
#endif

    const float factor = 1.0f / total.sum;
    const auto weights = [&](Piece<width> piece) {
#pragma unroll
        for (int i = 0; i < width; ++i) piece.values[i] = __expf(piece.values[i] - total.largest) * factor;
        return piece;
    };
#pragma unroll
    for (int h = 0; h < HELD; ++h) {
        const int index = h * THREADS + threadIdx.x;
        if (index < pieces) store<width>(out, index, weights(held[h]));
    }
#pragma unroll UNROLL
    for (int index = first; index < pieces; index += THREADS) store<width>(out, index, weights(load<width>(in, index)));
}

__global__ void __launch_bounds__(THREADS * GROUPS)
    softmax(const float* __restrict__ x, float* __restrict__ output, int rows, int columns) {
    // One for each of the two reductions, so that no barrier is needed between them.
    __shared__ Running found[2][GROUPS][WARPS];
    const int row = blockIdx.x * GROUPS + threadIdx.y;
    const int length = row < rows ? columns : 0;  // no early return: every thread must reach the barriers
    const float* in = x + row * columns;
    float* out = output + row * columns;
    // Rows of other lengths do not start where a wide load may.
    if (columns % VECTOR == 0) {
        softmax_row<VECTOR>(in, out, length, found);
    } else {
        softmax_row<1>(in, out, length, found);
    }
}
