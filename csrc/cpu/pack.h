// Packing: from a strided matrix of any element type to the panels of symmetric_product.h, with
// scaling, centring and conversion on the way, so that Y = diag(scale) x - 1 mean^T never exists.
//
// y(i, k) = scale * x - mean is evaluated in double and rounded once to the panel's type T: where
// the mean dominates, the error is relative to the small difference and not to the mean.
//
// An Operand is x seen by the product: `items` are the rows (Gram) or the columns (covariance),
// `depth` is the dimension summed over. A panel holds kPanel items, depth-major:
//
//     panel[k * kPanel + i] = y(item0 + i, k0 + k),   0 <= k < kc,   items past the end are 0.
#pragma once

#include "vec.h"

namespace wssl {
namespace {

// Most items summed in one packed block. A panel is then kMaxDepth * kPanel * sizeof(T) = 32 KiB
// with 64-byte vectors, one L1.
constexpr int kMaxDepth = 256;

// Depth of a block: the length of a running sum. Cloned rows round alike in every step, so that
// their error grows with the length of sums and not with its root: blocks near the root of the
// whole depth keep both sums, within and over blocks, short.
WSSL_INLINE int block_depth(int64_t depth) {
    return depth <= 4096 ? 64 : depth <= 16384 ? 128 : kMaxDepth;
}

// y(item, k) = item_scale[item] x - k_mean[k] (Gram) or k_scale[k] x - item_mean[item]
// (covariance); `scale` and `mean` are indexed accordingly and may be null.
template <class S>
struct Operand {
    const S* data;
    int64_t items, depth;
    int64_t item_stride, depth_stride;
    const double* scale;
    const double* mean;
    bool covariance;
};

template <class S>
Operand<S> operand(const S* data, const Matrix& x, bool covariance, const double* scale,
                   const double* mean) {
    if (covariance) return {data, x.cols, x.rows, x.col_stride, x.row_stride, scale, mean, true};
    return {data, x.rows, x.cols, x.row_stride, x.col_stride, scale, mean, false};
}

// A line is a run of x along one of its rows or columns. Along a row of x the scale is one number
// and the mean a vector; along a column the other way round.
template <class S, class T>
WSSL_INLINE void line_plain(const S* src, int64_t stride, int count, T* dst) {
    for (int l = 0; l < count; ++l) dst[l] = static_cast<T>(widen(src[l * stride]));
}
template <class S, class T>
WSSL_INLINE void line_scaled(const S* src, int64_t stride, int count, double scale, T* dst) {
    for (int l = 0; l < count; ++l) dst[l] = static_cast<T>(widen(src[l * stride]) * scale);
}
template <class S, class T>
WSSL_INLINE void line_along_row(const S* src, int64_t stride, int count, double scale,
                                const double* mean, T* dst) {
    for (int l = 0; l < count; ++l)
        dst[l] = static_cast<T>(widen(src[l * stride]) * scale - mean[l]);
}
template <class S, class T>
WSSL_INLINE void line_along_column(const S* src, int64_t stride, int count, const double* scale,
                                   double mean, T* dst) {
    for (int l = 0; l < count; ++l)
        dst[l] = static_cast<T>(widen(src[l * stride]) * scale[l] - mean);
}
template <class S, class T>
WSSL_INLINE void line_centred(const S* src, int64_t stride, int count, double mean, T* dst) {
    for (int l = 0; l < count; ++l) dst[l] = static_cast<T>(widen(src[l * stride]) - mean);
}

// Line of x starting at (row, col) of the matrix that x really is, `count` entries long.
template <bool AlongRow, class S, class T>
WSSL_INLINE void convert(const S* src, int64_t stride, int64_t row, int64_t col, int count,
                         const double* scale, const double* mean, T* dst) {
    if (scale == nullptr && mean == nullptr) {
        line_plain(src, stride, count, dst);
    } else if constexpr (AlongRow) {
        const double s = scale == nullptr ? 1.0 : scale[row];
        if (mean == nullptr)
            line_scaled(src, stride, count, s, dst);
        else
            line_along_row(src, stride, count, s, mean + col, dst);
    } else {
        const double m = mean == nullptr ? 0.0 : mean[col];
        if (scale == nullptr)
            line_centred(src, stride, count, m, dst);
        else
            line_along_column(src, stride, count, scale + row, m, dst);
    }
}

// Panel of items that lie side by side in memory: one line of `width` items a depth step. A full
// line's length reaches the vectoriser as a constant.
template <int Panel, bool AlongRow, class S, class T>
void pack_lines(const Operand<S>& y, int64_t item0, int width, int64_t k0, int kc, T* panel) {
    for (int k = 0; k < kc; ++k) {
        const S* src = y.data + item0 + (k0 + k) * y.depth_stride;
        const int64_t row = AlongRow ? k0 + k : item0, col = AlongRow ? item0 : k0 + k;
        T* dst = panel + int64_t{k} * Panel;
        if (width == Panel) {
            convert<AlongRow>(src, 1, row, col, Panel, y.scale, y.mean, dst);
        } else {
            convert<AlongRow>(src, 1, row, col, width, y.scale, y.mean, dst);
            for (int i = width; i < Panel; ++i) dst[i] = T(0);
        }
    }
}

// Panel of items that each run along the depth: lanes<T> items are converted line by line into
// `strip` (16 KiB at most, so it stays in L1 whatever the row stride of x), then transposed.
template <int Panel, bool AlongRow, class S, class T>
void pack_transposed(const Operand<S>& y, int64_t item0, int width, int64_t k0, int kc, T* panel) {
    constexpr int n = lanes<T>;
    alignas(64) T strip[n * kMaxDepth];
    for (int group = 0; group < Panel; group += n) {
        for (int i = 0; i < n; ++i) {
            T* line = strip + i * kMaxDepth;
            const int64_t item = item0 + group + i;
            const S* src = y.data + item * y.item_stride + k0 * y.depth_stride;
            const int64_t row = AlongRow ? item : k0, col = AlongRow ? k0 : item;
            if (group + i >= width)
                for (int k = 0; k < kc; ++k) line[k] = T(0);
            else if (y.depth_stride == 1 && kc == kMaxDepth)
                convert<AlongRow>(src, 1, row, col, kMaxDepth, y.scale, y.mean, line);
            else if (y.depth_stride == 1)
                convert<AlongRow>(src, 1, row, col, kc, y.scale, y.mean, line);
            else
                convert<AlongRow>(src, y.depth_stride, row, col, kc, y.scale, y.mean, line);
        }
        int k = 0;
        for (; k + n <= kc; k += n)
            transpose_square(strip + k, kMaxDepth, panel + int64_t{k} * Panel + group, Panel);
        for (; k < kc; ++k)
            for (int i = 0; i < n; ++i)
                panel[int64_t{k} * Panel + group + i] = strip[i * kMaxDepth + k];
    }
}

template <int Panel, class S, class T>
void pack_panel(const Operand<S>& y, int64_t item0, int64_t k0, int kc, T* panel) {
    const int width = static_cast<int>(y.items - item0 < Panel ? y.items - item0 : Panel);
    const bool lines = y.item_stride == 1 && y.depth_stride != 1;
    if (y.covariance && lines)
        pack_lines<Panel, true>(y, item0, width, k0, kc, panel);
    else if (lines)
        pack_lines<Panel, false>(y, item0, width, k0, kc, panel);
    else if (y.covariance)
        pack_transposed<Panel, false>(y, item0, width, k0, kc, panel);
    else
        pack_transposed<Panel, true>(y, item0, width, k0, kc, panel);
}

}  // namespace
}  // namespace wssl
