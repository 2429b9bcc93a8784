// row_pass: row norms and the mean of the unit rows, reading x once from memory.
//
//     inv_norm[i] = 1 / |x_i|,    mean[j] = (1 / n) sum_i inv_norm[i] x[i, j]
//
// All sums in double. inv_norm is 0 for a row of zeros (and for one so small that 1 / |x_i|
// overflows), NaN for a row with a NaN or an infinity; such a NaN spreads to the mean.
//
// Memory. A thread owns a contiguous range of rows and takes them kGroup at a time: one pass for
// the norms, then, with the group still in cache (4 rows of 32768 floats: 512 KiB, half an L2), one
// for its part of the mean. Partial means [threads x cols] are added in thread order, so the
// result is bitwise fixed for a given thread count.
#pragma once

#include "vec.h"

namespace wssl {
namespace {

constexpr int kGroup = 4;

template <class S>
WSSL_INLINE double square_sum(const S* row, int64_t stride, int64_t cols) {
    double sum = 0.0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < cols; ++j) {
        const double v = widen(row[j * stride]);
        sum += v * v;
    }
    return sum;
}

// |row| for doubles whose squares overflow or underflow: scaled by the largest magnitude.
inline double careful_norm(const double* row, int64_t stride, int64_t cols) {
    double largest = 0.0;
    for (int64_t j = 0; j < cols; ++j) {
        const double v = __builtin_fabs(row[j * stride]);
        if (!(v <= largest)) largest = v;  // a NaN stays: no comparison with it is true
        if (largest != largest) return largest;
    }
    if (largest == 0.0 || largest > __DBL_MAX__) return largest;
    double sum = 0.0;
    for (int64_t j = 0; j < cols; ++j) {
        const double v = row[j * stride] / largest;
        sum += v * v;
    }
    return largest * __builtin_sqrt(sum);
}

template <class S>
double inverse_norm(const S* row, int64_t stride, int64_t cols) {
    const double sum = stride == 1 ? square_sum(row, 1, cols) : square_sum(row, stride, cols);
    double norm = __builtin_sqrt(sum);
    // Squares of the narrower types neither overflow nor vanish in double.
    if constexpr (sizeof(S) == sizeof(double))
        if (!(sum > 0x1p-900 && sum < 0x1p1000)) norm = careful_norm(row, stride, cols);
    if (norm < 0x1p-1022) return 0.0;
    return norm <= __DBL_MAX__ ? 1.0 / norm : __builtin_nan("");
}

// sum[j] += w[0] x_0[j] + .. + w[3] x_3[j], rows 0..count-1 present.
template <class S>
WSSL_INLINE void add_group(const S* x, int64_t row_stride, int64_t stride, int count,
                           const double* w, int64_t cols, double* __restrict sum) {
    if (count == kGroup) {
        const S *x0 = x, *x1 = x0 + row_stride, *x2 = x1 + row_stride, *x3 = x2 + row_stride;
        const double w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3];
#pragma omp simd
        for (int64_t j = 0; j < cols; ++j)
            sum[j] += (w0 * widen(x0[j * stride]) + w1 * widen(x1[j * stride])) +
                      (w2 * widen(x2[j * stride]) + w3 * widen(x3[j * stride]));
        return;
    }
    for (int i = 0; i < count; ++i) {
        const S* row = x + i * row_stride;
        const double weight = w[i];
#pragma omp simd
        for (int64_t j = 0; j < cols; ++j) sum[j] += weight * widen(row[j * stride]);
    }
}

template <class S>
void row_pass(const S* data, const Matrix& x, double* inv_norm, double* mean, int threads) {
    if (threads > x.rows) threads = static_cast<int>(x.rows);
    if (x.rows * x.cols < (int64_t{1} << 15)) threads = 1;
    const Buffer<double> partial(threads * x.cols);
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static, 1)
        for (int part = 0; part < threads; ++part) {
            double* sum = partial.data + part * x.cols;
            for (int64_t j = 0; j < x.cols; ++j) sum[j] = 0.0;
            const int64_t begin = x.rows * part / threads, end = x.rows * (part + 1) / threads;
            for (int64_t i = begin; i < end; i += kGroup) {
                const int count = static_cast<int>(end - i < kGroup ? end - i : kGroup);
                const S* group = data + i * x.row_stride;
                for (int r = 0; r < count; ++r)
                    inv_norm[i + r] = inverse_norm(group + r * x.row_stride, x.col_stride, x.cols);
                if (x.col_stride == 1)
                    add_group(group, x.row_stride, 1, count, inv_norm + i, x.cols, sum);
                else
                    add_group(group, x.row_stride, x.col_stride, count, inv_norm + i, x.cols, sum);
            }
        }
#pragma omp for schedule(static)
        for (int64_t j = 0; j < x.cols; ++j) {
            double sum = 0.0;
            for (int part = 0; part < threads; ++part) sum += partial.data[part * x.cols + j];
            mean[j] = sum / static_cast<double>(x.rows);
        }
    }
}

}  // namespace
}  // namespace wssl
