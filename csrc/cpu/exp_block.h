// exp_block: a block of pairwise Gaussian weights, in place over a block of inner products.
//
//     k[i, j] <- exp(s k[i, j] + row_i + col_j + shift),   returns the sum of what it wrote
//
// s = 2t, shift = -2t on unit rows; s = 2t, row_i = -t |x_i|^2, col_j = -t |x_j|^2 otherwise. With
// `strictly_lower` (a block on the diagonal, square or not) entries with j >= i become 0.
//
// k is (rows x cols) with unit column stride. The argument is formed in double: it is a small
// difference of large terms. Row sums are in double and added in row order, so the total does not
// depend on the thread count.
//
// exp(v) = 2^n p(r), n = round(v / ln 2), r = v - n ln 2 in [-0.347, 0.347], p the Taylor
// polynomial of degree 7 (float: remainder 0.347^8 / 8! = 5e-9) or 13 (double: 4e-18). 2^n is
// applied in two factors, so that results go through the subnormals to 0, or to infinity.
#pragma once

#include "vec.h"

namespace wssl {
namespace {

// r = v - n ln 2 with ln 2 in two parts, the first short enough that n * kLn2High is exact.
constexpr double kLn2High = 0x1.62e42fee00000p-1;
constexpr double kLn2Low = 0x1.a39ef35793c76p-33;
constexpr double kInvLn2 = 0x1.71547652b82fep+0;
// Adding and subtracting 1.5 * 2^52 rounds to the nearest integer.
constexpr double kRound = 0x1.8p52;

WSSL_INLINE double polynomial(double r) {
    // 1 / k!, k = 13 .. 0
    double p = 1.0 / 6227020800.0;
    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    return p * r + 1.0;
}
WSSL_INLINE float polynomial(float r) {
    float p = 1.0f / 5040.0f;
    p = p * r + 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    return p * r + 1.0f;
}

template <class T>
struct Exponent;
template <>
struct Exponent<float> {
    using Int = int32_t;
    static constexpr int bits = 23, bias = 127;
    static constexpr double low = -110.0, high = 90.0;
};
template <>
struct Exponent<double> {
    using Int = int64_t;
    static constexpr int bits = 52, bias = 1023;
    static constexpr double low = -760.0, high = 711.0;
};

template <class T>
WSSL_INLINE T power_of_two(typename Exponent<T>::Int n) {
    using Int = typename Exponent<T>::Int;
    return __builtin_bit_cast(T, static_cast<Int>((n + Exponent<T>::bias) << Exponent<T>::bits));
}

// exp(v) rounded to T. Both bounds leave a NaN as it is and map to 0 and infinity.
template <class T>
WSSL_INLINE T exponential(double v) {
    using E = Exponent<T>;
    v = v < E::low ? E::low : v;
    v = v > E::high ? E::high : v;
    const double shifted = v * kInvLn2 + kRound;
    const double whole = shifted - kRound;
    const T r = static_cast<T>((v - whole * kLn2High) - whole * kLn2Low);
    // The integer stands in the low bits of `shifted`.
    const auto n = static_cast<typename E::Int>(__builtin_bit_cast(int64_t, shifted) -
                                                __builtin_bit_cast(int64_t, kRound));
    const auto half = n >> 1;
    return polynomial(r) * power_of_two<T>(half) * power_of_two<T>(n - half);
}

template <bool Columns, class T>
WSSL_INLINE double exp_row(T* k, int64_t count, double s, double base, const double* col) {
    double sum = 0.0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < count; ++j) {
        const double v = s * k[j] + base;
        const T e = exponential<T>(Columns ? v + col[j] : v);
        k[j] = e;
        sum += e;
    }
    return sum;
}

template <class T>
double exp_block(T* k, int64_t rows, int64_t cols, int64_t row_stride, double s, const double* row,
                 const double* col, double shift, bool strictly_lower, int threads) {
    if (rows * cols < (int64_t{1} << 14)) threads = 1;
    const Buffer<double> sums(rows);
#pragma omp parallel for num_threads(threads) schedule(static, 8)
    for (int64_t i = 0; i < rows; ++i) {
        T* line = k + i * row_stride;
        const int64_t count = strictly_lower && i < cols ? i : cols;
        const double base = row == nullptr ? shift : row[i] + shift;
        sums.data[i] = col == nullptr ? exp_row<false>(line, count, s, base, col)
                                      : exp_row<true>(line, count, s, base, col);
        for (int64_t j = count; j < cols; ++j) line[j] = T(0);
    }
    double total = 0.0;
    for (int64_t i = 0; i < rows; ++i) total += sums.data[i];
    return total;
}

}  // namespace
}  // namespace wssl
