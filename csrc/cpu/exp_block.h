// exp_block: a block of pairwise Gaussian weights, in place over a block of inner products.
//
//     k[i, j] <- exp(s k[i, j] + row_i + col_j + shift),   returns the sum of what it wrote
//
// s = 2t, shift = -2t on unit rows; s = 2t, row_i = -t |x_i|^2, col_j = -t |x_j|^2 otherwise. With
// `strictly_lower` (a block on the diagonal, square or not) entries with j >= i become 0.
//
// k is (rows x cols) with unit column stride. Row sums are in double and added in row order, so the
// total does not depend on the thread count.
//
// The argument is a small difference of large terms. For a float k it is formed in float, row and
// column terms split in two floats each: off by eps (|s k| + |row| + |col|) at most, and half of
// that with fused multiply-adds. k itself, rounded to float, brings as much. Terms beyond kModerate
// have it formed in double, whose range they need.
//
// exp(v) = 2^n p(r), n = round(v / ln 2), r = v - n ln 2 in [-0.347, 0.347], p the Taylor
// polynomial of degree 7 (float: remainder 0.347^8 / 8! = 5e-9) or 13 (double: 4e-18). 2^n is
// applied in two factors, so that results go through the subnormals to 0, or to infinity.
#pragma once

#include "vec.h"

namespace wssl {
namespace {

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
    static constexpr int bits = 23, bias = 127;
    static constexpr double low = -110.0, high = 90.0;
};
template <>
struct Exponent<double> {
    static constexpr int bits = 52, bias = 1023;
    static constexpr double low = -760.0, high = 711.0;
};

// r = v - n ln 2 with ln 2 in two parts, the first short enough that n * ln2_high is exact. Adding
// and subtracting `round`, 1.5 times the first number without a fraction bit, rounds to an integer.
template <class T>
struct Reduction;
template <>
struct Reduction<float> {
    using Int = int32_t;
    using Bits = uint32_t;
    static constexpr float round = 0x1.8p23f;
    static constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
};
template <>
struct Reduction<double> {
    using Int = int64_t;
    using Bits = uint64_t;
    static constexpr double round = 0x1.8p52;
    static constexpr double ln2_high = 0x1.62e42fee00000p-1, ln2_low = 0x1.a39ef35793c76p-33;
};

// Of a NaN's n, which is anything, as well: unsigned, so that the shift is defined.
template <class T>
WSSL_INLINE T power_of_two(typename Reduction<T>::Int n) {
    using Bits = typename Reduction<T>::Bits;
    return __builtin_bit_cast(T, static_cast<Bits>(n + Exponent<T>::bias) << Exponent<T>::bits);
}

// exp(v) rounded to T, for an argument in A. Both bounds leave a NaN as it is and map to 0 and
// infinity.
template <class T, class A>
WSSL_INLINE T exponential(A v) {
    using E = Exponent<T>;
    using R = Reduction<A>;
    v = v < A(E::low) ? A(E::low) : v;
    v = v > A(E::high) ? A(E::high) : v;
    const A shifted = v * A(0x1.71547652b82fep+0) + R::round;  // 1 / ln 2
    const A whole = shifted - R::round;
    const T r = static_cast<T>((v - whole * R::ln2_high) - whole * R::ln2_low);
    // The integer stands in the low bits of `shifted`.
    const auto n =
        static_cast<typename Reduction<T>::Int>(__builtin_bit_cast(typename R::Bits, shifted) -
                                                __builtin_bit_cast(typename R::Bits, R::round));
    const auto half = n >> 1;
    return polynomial(r) * power_of_two<T>(half) * power_of_two<T>(n - half);
}

// A double as the sum of two of A; the second part of a double is 0.
template <class A>
struct Split {
    A high, low;
    WSSL_INLINE explicit Split(double v)
        : high(static_cast<A>(v)), low(static_cast<A>(v - static_cast<double>(high))) {}
};

template <bool Columns, class T, class A>
WSSL_INLINE double exp_row(T* k, int64_t count, A s, Split<A> base, const A* high, const A* low) {
#pragma omp simd
    for (int64_t j = 0; j < count; ++j) {
        A v = s * A(k[j]) + base.high;
        if constexpr (Columns) v += high[j];
        if constexpr (sizeof(A) == sizeof(float)) v += Columns ? base.low + low[j] : base.low;
        k[j] = exponential<T>(v);
    }
    double sum = 0.0;  // in a loop of its own: beside doubles the one above has half the lanes
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < count; ++j) sum += k[j];
    return sum;
}

// exp_block with its arguments in A; `low` may be null for A = double.
template <class A, class T>
double exp_rows(T* k, int64_t rows, int64_t cols, int64_t row_stride, double s, const double* row,
                const A* high, const A* low, double shift, bool strictly_lower, int threads) {
    const Buffer<double> sums(rows);
    const A factor = static_cast<A>(s);
#pragma omp parallel for num_threads(threads) schedule(static, 8)
    for (int64_t i = 0; i < rows; ++i) {
        T* line = k + i * row_stride;
        const int64_t count = strictly_lower && i < cols ? i : cols;
        const Split<A> base(row == nullptr ? shift : row[i] + shift);
        sums.data[i] = high == nullptr ? exp_row<false>(line, count, factor, base, high, low)
                                       : exp_row<true>(line, count, factor, base, high, low);
        for (int64_t j = count; j < cols; ++j) line[j] = T(0);
    }
    double total = 0.0;
    for (int64_t i = 0; i < rows; ++i) total += sums.data[i];
    return total;
}

constexpr double kModerate = 1024.0;

WSSL_INLINE bool moderate(const double* terms, int64_t count) {
    bool all = true;
    for (int64_t i = 0; i < (terms == nullptr ? 0 : count); ++i)
        all &= __builtin_fabs(terms[i]) <= kModerate;
    return all;
}

template <class T>
double exp_block(T* k, int64_t rows, int64_t cols, int64_t row_stride, double s, const double* row,
                 const double* col, double shift, bool strictly_lower, int threads) {
    if (rows * cols < (int64_t{1} << 14)) threads = 1;
    const double constants[] = {s, shift};
    if (sizeof(T) > sizeof(float) || !moderate(constants, 2) || !moderate(row, rows) ||
        !moderate(col, cols))
        return exp_rows<double>(k, rows, cols, row_stride, s, row, col,
                                static_cast<const double*>(nullptr), shift, strictly_lower,
                                threads);
    const Buffer<float> parts(2 * cols);  // [high, low][cols]
    for (int64_t j = 0; j < (col == nullptr ? 0 : cols); ++j) {
        const Split<float> part(col[j]);
        parts.data[j] = part.high;
        parts.data[cols + j] = part.low;
    }
    const float* high = col == nullptr ? nullptr : parts.data;
    return exp_rows<float>(k, rows, cols, row_stride, s, row, high,
                           static_cast<const float*>(parts.data + cols), shift, strictly_lower,
                           threads);
}

}  // namespace
}  // namespace wssl
