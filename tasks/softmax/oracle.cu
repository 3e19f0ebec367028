/* kforge
launch:
  - kernel: softmax
    grid: ceil_div(rows, 16)
    block: 16
    args: x, output, rows, columns
*/

// The oracle, in double precision throughout, one thread per row. The output holds the exponentials until their sum is known.

__global__ void softmax(const float* __restrict__ x, double* __restrict__ output, int rows, int columns) {
    const long long row = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    const float* in = x + row * columns;
    double* out = output + row * columns;

    float largest = in[0];
    for (int i = 1; i < columns; ++i) largest = in[i] > largest ? in[i] : largest;

    double sum = 0.0;
    for (int i = 0; i < columns; ++i) {
        const double weight = exp(double(in[i]) - double(largest));
        out[i] = weight;
        sum += weight;
    }
    for (int i = 0; i < columns; ++i) out[i] /= sum;
}
