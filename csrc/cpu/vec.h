// Vector and element types shared by the kernels of one instruction set.
//
// Vec<T>: WSSL_VECTOR_BYTES of T as a compiler vector (GCC and Clang), so that arithmetic is
// written with operators and compiled to the widest registers of the translation unit.
// Element conversions: float, double, bfloat16 (the upper half of a float) and IEEE half.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <utility>

#include "kernels.h"

#define WSSL_INLINE inline __attribute__((always_inline))

namespace wssl {
namespace {

template <class T>
struct VecOf {
    typedef T type __attribute__((vector_size(WSSL_VECTOR_BYTES), aligned(WSSL_VECTOR_BYTES)));
    typedef T unaligned
        __attribute__((vector_size(WSSL_VECTOR_BYTES), aligned(sizeof(T)), may_alias));
};
template <class T>
using Vec = typename VecOf<T>::type;

template <class T>
inline constexpr int lanes = WSSL_VECTOR_BYTES / sizeof(T);

template <class T>
WSSL_INLINE Vec<T> load(const T* p) {
    return *reinterpret_cast<const typename VecOf<T>::unaligned*>(p);
}
template <class T>
WSSL_INLINE void store(T* p, Vec<T> v) {
    *reinterpret_cast<typename VecOf<T>::unaligned*>(p) = v;
}

struct BFloat16 {
    uint16_t bits;
};
struct Half {
    uint16_t bits;
};

WSSL_INLINE float to_float(float v) { return v; }
WSSL_INLINE float to_float(BFloat16 v) {
    return __builtin_bit_cast(float, static_cast<uint32_t>(v.bits) << 16);
}
// The exponent is moved by a multiplication with 2^(127 - 15), which also normalises subnormals;
// only infinity and NaN (exponent field all ones) need their exponent set by hand.
WSSL_INLINE float to_float(Half v) {
    const uint32_t magnitude = static_cast<uint32_t>(v.bits & 0x7fffu) << 13;
    const uint32_t sign = static_cast<uint32_t>(v.bits & 0x8000u) << 16;
    const float scaled = __builtin_bit_cast(float, magnitude) * 0x1p112f;
    const uint32_t finite = __builtin_bit_cast(uint32_t, scaled);
    const uint32_t special = magnitude | 0x7f800000u;
    return __builtin_bit_cast(float, (magnitude >= 0x0f800000u ? special : finite) | sign);
}

// Widens without loss: to double for double, to float for the rest.
WSSL_INLINE double widen(double v) { return v; }
template <class S>
WSSL_INLINE float widen(S v) {
    return to_float(v);
}

// Uninitialised, cache-line aligned, freed at the end of its scope.
template <class T>
struct Buffer {
    T* data;
    explicit Buffer(int64_t count)
        : data(static_cast<T*>(
              std::aligned_alloc(64, (static_cast<size_t>(count) * sizeof(T) + 127) / 64 * 64))) {
        if (data == nullptr) out_of_memory();
    }
    ~Buffer() { std::free(data); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
};

// One stage of a transposition: lanes whose index has bit `Step` are exchanged between a and b.
template <int Step, class V, size_t... Lane>
WSSL_INLINE void exchange(V& a, V& b, std::index_sequence<Lane...>) {
    constexpr int n = sizeof...(Lane);
    const V low =
        __builtin_shufflevector(a, b, ((Lane & Step) == 0 ? int(Lane) : n + int(Lane) - Step)...);
    const V high =
        __builtin_shufflevector(a, b, ((Lane & Step) == 0 ? int(Lane) + Step : n + int(Lane))...);
    a = low;
    b = high;
}

template <int Step, class T>
WSSL_INLINE void transpose_stages(Vec<T>* rows) {
    if constexpr (Step > 0) {
#pragma GCC unroll 16
        for (int i = 0; i < lanes<T>; ++i)
            if ((i & Step) == 0)
                exchange<Step>(rows[i], rows[i + Step], std::make_index_sequence<lanes<T>>());
        transpose_stages<Step / 2, T>(rows);
    }
}

// dst[j * dst_stride + i] = src[i * src_stride + j] for a lanes x lanes square, in registers:
// log2(lanes) butterfly stages, each an exchange of halves between row pairs.
template <class T>
WSSL_INLINE void transpose_square(const T* src, int64_t src_stride, T* dst, int64_t dst_stride) {
    constexpr int n = lanes<T>;
    Vec<T> rows[n];
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) rows[i] = load(src + i * src_stride);
    transpose_stages<n / 2, T>(rows);
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) store(dst + i * dst_stride, rows[i]);
}

}  // namespace
}  // namespace wssl
