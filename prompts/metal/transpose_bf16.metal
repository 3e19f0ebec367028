/* kforge
launch:
  - kernel: transpose
    grid: ceil_div(columns, 32), ceil_div(rows, 32)
    block: 32, STRIP
    args: x, output, rows, columns
tunables:
  STRIP: [8, 4, 16]
*/

// Task: output[c, r] = x[r, c], bfloat16 [rows, columns].
// Through threadgroup memory, so that reads and writes both cover whole rows; one padding column spreads a column over the banks.

#include <metal_stdlib>
using namespace metal;

constant constexpr int TILE = 32;

kernel void transpose(device const bfloat* x [[buffer(0)]], device bfloat* output [[buffer(1)]],
                      constant int& rows [[buffer(2)]], constant int& columns [[buffer(3)]],
                      uint2 group [[threadgroup_position_in_grid]], uint2 thread_place [[thread_position_in_threadgroup]]) {
    threadgroup bfloat tile[TILE][TILE + 1];
    const int column = int(group.x) * TILE + int(thread_place.x);
    for (int i = int(thread_place.y); i < TILE; i += STRIP) {
        const int row = int(group.y) * TILE + i;
        if (row < rows && column < columns) tile[i][thread_place.x] = x[long(row) * columns + column];
    }
    // Outside every condition: all threads of the group reach it.
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const int out_column = int(group.y) * TILE + int(thread_place.x);
    for (int i = int(thread_place.y); i < TILE; i += STRIP) {
        const int out_row = int(group.x) * TILE + i;
        if (out_row < columns && out_column < rows) output[long(out_row) * rows + out_column] = tile[thread_place.x][i];
    }
}
