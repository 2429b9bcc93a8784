// symmetric_product: out = Y Y^T (Gram) or Y^T Y (covariance), half the multiplications of a GEMM.
//
//     C[i, j] = sum_k y(i, k) y(j, k),   0 <= j <= i < n,   then C[j, i] = C[i, j]
//
// Layout. Items (rows of Y for the Gram, columns for the covariance) are packed, a depth block of
// block_depth at a time, into panels of kPanel items, depth-major (pack.h). One packing serves both
// factors: a column panel is read as kColumns vectors a depth step, a row panel as kRows
// broadcast scalars. C is contiguous (n x n).
//
// Blocking. A tile (I, J), J <= I, is kPanel x kPanel; the microkernel keeps kRows x kPanel of it
// in registers and adds it to C once per depth block:
//   registers  kRows * kColumns accumulators, kColumns column vectors, one broadcast
//   L1         column panel J, reused by the kPanel / kRows row slices of the tile
//   L2         row panel I, reused along the tiles of its row
//   L2 / L3    two packed steps, each of as many depth blocks as fit kStep entries (at least one):
//              while one is multiplied the next is packed, so a step costs one barrier
//
// Threads take tiles from a queue. Which thread computes a tile does not change its bits: the sum
// over k runs in one order, within a block and over blocks. So the result is bitwise the same for
// every thread count, and exactly symmetric, since the upper triangle is a copy.
//
// Error. Running sums are one block long, block sums depth / block long, instead of one of `depth`.
#pragma once

#include "pack.h"

namespace wssl {
namespace {

// 32 vector registers (AVX-512): 8 x 2 accumulators. 16 registers (AVX2): 4 x 3 accumulators hide
// the latency of two fused multiply-adds a cycle and leave 4 for operands. Baseline: 4 x 2.
constexpr int kRows = WSSL_VECTOR_BYTES == 64 ? 8 : 4;
constexpr int kColumns = WSSL_VECTOR_BYTES == 32 ? 3 : 2;
template <class T>
inline constexpr int kPanel = kColumns * lanes<T>;

// Entries packed between two barriers, if one depth block does not already exceed it.
constexpr int64_t kStep = int64_t{1} << 18;
// Multiplications below which a team's start and barriers cost more than they save.
constexpr int64_t kSerial = int64_t{1} << 18;

// c[kRows x Columns * lanes] (+)= a b: `a` points at a slice of kRows items of a row panel, `b`
// at the first column of a column panel. Rows and columns past the edge of C are not stored.
template <int Columns, class T>
WSSL_INLINE void microkernel(int kc, const T* __restrict a, const T* __restrict b, T* __restrict c,
                             int64_t c_stride, bool accumulate, int rows, int cols) {
    constexpr int n = lanes<T>;
    Vec<T> acc[kRows][Columns] = {};
    for (int k = 0; k < kc; ++k) {
        Vec<T> column[Columns];
#pragma GCC unroll 4
        for (int v = 0; v < Columns; ++v) column[v] = load(b + v * n);
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
            for (int v = 0; v < Columns; ++v) acc[i][v] += a[i] * column[v];
        a += kPanel<T>;
        b += kPanel<T>;
    }
    if (rows >= kRows && cols >= Columns * n) {
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
            for (int v = 0; v < Columns; ++v) {
                T* entry = c + i * c_stride + v * n;
                store(entry, accumulate ? load(entry) + acc[i][v] : acc[i][v]);
            }
        return;
    }
    alignas(64) T edge[kRows][Columns * n];
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < Columns; ++v) store(&edge[i][v * n], acc[i][v]);
    for (int i = 0; i < (rows < kRows ? rows : kRows); ++i)
        for (int j = 0; j < (cols < Columns * n ? cols : Columns * n); ++j)
            c[i * c_stride + j] = accumulate ? c[i * c_stride + j] + edge[i][j] : edge[i][j];
}

// Adds one depth block to tile (I, J). On the diagonal a row slice needs only the columns up to
// its last row, rounded up to whole vectors.
template <class T>
void multiply_tile(int64_t I, int64_t J, int kc, const T* row_panel, const T* column_panel, T* out,
                   int64_t n, bool accumulate) {
    constexpr int panel = kPanel<T>;
    const int cols = static_cast<int>(n - J * panel < panel ? n - J * panel : panel);
    for (int slice = 0; slice < panel; slice += kRows) {
        const int64_t row = I * panel + slice;
        if (row >= n) return;
        const int rows = static_cast<int>(n - row < kRows ? n - row : kRows);
        T* c = out + row * n + J * panel;
        const int needed = I == J ? (slice + kRows + lanes<T> - 1) / lanes<T> : kColumns;
        if (needed >= kColumns)
            microkernel<kColumns>(kc, row_panel + slice, column_panel, c, n, accumulate, rows,
                                  cols);
        else if (needed == 1)
            microkernel<1>(kc, row_panel + slice, column_panel, c, n, accumulate, rows, cols);
        else
            microkernel<2>(kc, row_panel + slice, column_panel, c, n, accumulate, rows, cols);
    }
}

// Row of the tile with number t when the lower triangle is counted row by row.
WSSL_INLINE int64_t triangle_row(int64_t t) {
    int64_t row =
        static_cast<int64_t>((__builtin_sqrt(8.0 * static_cast<double>(t) + 1.0) - 1.0) / 2);
    while (row * (row + 1) / 2 > t) --row;
    while ((row + 1) * (row + 2) / 2 <= t) ++row;
    return row;
}

template <class T>
void mirror_tile(int64_t I, int64_t J, T* out, int64_t n) {
    constexpr int64_t panel = kPanel<T>;
    const int64_t row_end = (I + 1) * panel < n ? (I + 1) * panel : n;
    const int64_t col_end = (J + 1) * panel < n ? (J + 1) * panel : n;
    for (int64_t j = J * panel; j < col_end; ++j)
        for (int64_t i = I == J ? j + 1 : I * panel; i < row_end; ++i)
            out[j * n + i] = out[i * n + j];
}

template <class S, class T>
void symmetric_product(const Operand<S>& y, T* out, int threads) {
    constexpr int panel = kPanel<T>;
    const int64_t block_length = block_depth(y.depth);
    const int64_t panel_size = block_length * panel;
    const int64_t n = y.items;
    const int64_t panels = (n + panel - 1) / panel;
    const int64_t tiles = panels * (panels + 1) / 2;
    const int64_t blocks = (y.depth + block_length - 1) / block_length;  // depth blocks
    const int64_t block_size = panels * panel_size;
    // Few items: several depth blocks between two barriers, up to kStep entries.
    int64_t step = kStep / block_size < 1 ? 1 : kStep / block_size;
    if (step > blocks) step = blocks;
    const Buffer<T> packed(2 * step * block_size);  // [2][step][panels][block_length][panel]
    if (n * n / 2 * y.depth < kSerial) threads = 1;

    const auto depth_of = [&](int64_t block) {
        const int64_t rest = y.depth - block * block_length;
        return static_cast<int>(rest < block_length ? rest : block_length);
    };
    const auto pack = [&](int64_t task, int64_t first) {
        const int64_t block = first + task / panels, p = task % panels;
        T* half = packed.data + first / step % 2 * step * block_size;
        pack_panel<panel>(y, p * panel, block * block_length, depth_of(block),
                          half + task * panel_size);
    };
    const auto multiply = [&](int64_t t, int64_t first, int64_t count) {
        const int64_t I = triangle_row(t), J = t - I * (I + 1) / 2;
        const T* block = packed.data + first / step % 2 * step * block_size;
        for (int64_t b = first; b < first + count; ++b, block += block_size)
            multiply_tile(I, J, depth_of(b), block + I * panel_size, block + J * panel_size, out, n,
                          b > 0);
    };
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < panels * step; ++task) pack(task, 0);

        for (int64_t first = 0; first < blocks; first += step) {
            const int64_t next = first + step;
            const int64_t count = blocks - first < step ? blocks - first : step;
            const int64_t next_count = blocks - next < step ? blocks - next : step;
#pragma omp for schedule(dynamic) nowait
            for (int64_t task = 0; task < panels * next_count; ++task) pack(task, next);
#pragma omp for schedule(dynamic)
            for (int64_t t = 0; t < tiles; ++t) multiply(t, first, count);
        }
#pragma omp for schedule(dynamic)
        for (int64_t t = 0; t < tiles; ++t) {
            const int64_t I = triangle_row(t);
            mirror_tile(I, t - I * (I + 1) / 2, out, n);
        }
    }
}

}  // namespace
}  // namespace wssl
