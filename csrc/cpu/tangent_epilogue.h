// tangent_epilogue: the row-wise end of the covariance formulation's backward, in place over the
// GEMM output t = z Q (n x m, contiguous):
//
//     P_i = a_i t_i - shift,   x_i = inv_i z_i,   t_i <- c inv_i (P_i - <P_i, x_i> x_i)
//
// A row whose inv_i is 0 (a row of zeros) becomes 0.
//
// Two sweeps a row, the second from cache: t and z are read from memory once and t is written
// once. All arithmetic, the dot product included, is in double; the result is rounded once.
#pragma once

#include "vec.h"

namespace wssl {
namespace {

template <bool Shifted, class T, class S>
WSSL_INLINE void tangent_row(T* t, const S* z, int64_t stride, int64_t cols, double a, double inv,
                             const double* shift, double c) {
    double dot = 0.0;
#pragma omp simd reduction(+ : dot)
    for (int64_t j = 0; j < cols; ++j) {
        const double p = Shifted ? a * t[j] - shift[j] : a * t[j];
        dot += p * widen(z[j * stride]);
    }
    const double scale = c * inv, radial = scale * (dot * inv) * inv;
#pragma omp simd
    for (int64_t j = 0; j < cols; ++j) {
        const double p = Shifted ? a * t[j] - shift[j] : a * t[j];
        t[j] = static_cast<T>(scale * p - radial * widen(z[j * stride]));
    }
}

template <class T, class S>
void tangent_epilogue(T* t, const S* data, const Matrix& z, const double* a, const double* inv,
                      const double* shift, double c, int threads) {
    if (z.rows * z.cols < (int64_t{1} << 15)) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < z.rows; ++i) {
        T* row = t + i * z.cols;
        const S* x = data + i * z.row_stride;
        if (inv[i] == 0.0) {
            for (int64_t j = 0; j < z.cols; ++j) row[j] = T(0);
        } else if (shift != nullptr && z.col_stride == 1) {
            tangent_row<true>(row, x, 1, z.cols, a[i], inv[i], shift, c);
        } else if (shift != nullptr) {
            tangent_row<true>(row, x, z.col_stride, z.cols, a[i], inv[i], shift, c);
        } else if (z.col_stride == 1) {
            tangent_row<false>(row, x, 1, z.cols, a[i], inv[i], shift, c);
        } else {
            tangent_row<false>(row, x, z.col_stride, z.cols, a[i], inv[i], shift, c);
        }
    }
}

}  // namespace
}  // namespace wssl
