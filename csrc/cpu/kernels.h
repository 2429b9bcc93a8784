// The compiled CPU kernels: one table of functions per instruction set, chosen at run time.
//
// Every kernel is a template over vector width, written once in the .h files beside this one and
// compiled three times (isa_baseline.cpp, isa_avx2.cpp, isa_avx512.cpp), each time with the flags
// of one instruction set. `select` returns the widest table the processor can execute. Nothing
// here knows Python or Torch: raw pointers, sizes and strides in elements.
#pragma once

#include <cstdint>

namespace wssl {

enum class Dtype : int { f32 = 0, f64 = 1, bf16 = 2, f16 = 3 };

// x[i, j] = data[i * row_stride + j * col_stride], strides in elements, any sign.
struct Matrix {
    const void* data;
    Dtype dtype;
    int64_t rows, cols;
    int64_t row_stride, col_stride;
};

struct Kernels {
    const char* name;
    // out = Y Y^T (rows x rows) or, with `covariance`, Y^T Y (cols x cols), contiguous;
    // Y = diag(scale) x - 1 mean^T; scale [rows] and mean [cols] may be null; out_dtype f32 or f64.
    void (*symmetric_product)(const Matrix& x, bool covariance, const double* scale,
                              const double* mean, void* out, Dtype out_dtype, int threads);
    // inv_norm[i] = 1 / |x_i| and mean[j] = (1 / rows) sum_i inv_norm[i] x[i, j].
    void (*row_pass)(const Matrix& x, double* inv_norm, double* mean, int threads);
    // t <- c diag(inv) (P - diag(<P_i, x_i>) X), P = diag(a) t - 1 shift^T, X = diag(inv) z;
    // t is contiguous f32 or f64 of z's shape; shift may be null.
    void (*tangent_epilogue)(void* t, Dtype t_dtype, const Matrix& z, const double* a,
                             const double* inv, const double* shift, double c, int threads);
    // k <- exp(s k + row_i + col_j + shift) (rows x cols, unit column stride), returns its sum;
    // row, col may be null; `strictly_lower` sets entries with j >= i to 0.
    double (*exp_block)(void* k, Dtype dtype, int64_t rows, int64_t cols, int64_t row_stride,
                        double s, const double* row, const double* col, double shift,
                        bool strictly_lower, int threads);
};

// The tables this processor can execute, narrowest first; null-terminated.
const Kernels* const* available();

// The table called `name`, or the widest one if name is null or empty; null if there is none.
const Kernels* select(const char* name);

// Throws std::bad_alloc (kept out of the instruction-set translation units).
[[noreturn]] void out_of_memory();

}  // namespace wssl
