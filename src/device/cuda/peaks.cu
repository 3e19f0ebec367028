// Peak rates of a device: memory bandwidth, float32 multiply-adds, and bfloat16 multiply-adds on the tensor cores.

extern "C" __global__ void peak_read(const uint4* from, unsigned long long groups, unsigned* sink) {
    unsigned sum = 0;
    const unsigned long long step = (unsigned long long)gridDim.x * blockDim.x;
#pragma unroll 8
    for (unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x; i < groups; i += step) {
        const uint4 group = from[i];
        sum ^= group.x ^ group.y ^ group.z ^ group.w;
    }
    if (sum == 0x9e3779b9u) *sink = sum;
}

extern "C" __global__ void peak_copy(const uint4* from, uint4* into, unsigned long long groups) {
    const unsigned long long step = (unsigned long long)gridDim.x * blockDim.x;
#pragma unroll 8
    for (unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x; i < groups; i += step) into[i] = from[i];
}

// Each thread does `rounds` times 64 multiply-adds, in eight independent chains.
extern "C" __global__ void peak_float(unsigned rounds, float seed, float* sink) {
    float chain[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) chain[i] = seed + i + threadIdx.x;
    for (unsigned round = 0; round < rounds; ++round) {
#pragma unroll
        for (int step = 0; step < 8; ++step) {
#pragma unroll
            for (int i = 0; i < 8; ++i) chain[i] = fmaf(chain[i], 0.999f, seed);
        }
    }
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; ++i) sum += chain[i];
    if (sum == 12345.678f) *sink = sum;
}

// Each warp does `rounds` times 8 products of a 16x16 and a 16x8 matrix.
extern "C" __global__ void peak_tensor(unsigned rounds, unsigned seed, float* sink) {
    float sums[8][4] = {};
    const unsigned a0 = seed ^ threadIdx.x, a1 = seed + 1, a2 = seed + 2, a3 = seed + 3, b0 = seed ^ 5, b1 = seed ^ 9;
    for (unsigned round = 0; round < rounds; ++round) {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                         : "+f"(sums[i][0]), "+f"(sums[i][1]), "+f"(sums[i][2]), "+f"(sums[i][3])
                         : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
        }
    }
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; ++i) sum += sums[i][0] + sums[i][1] + sums[i][2] + sums[i][3];
    if (sum == 12345.678f) *sink = sum;
}
