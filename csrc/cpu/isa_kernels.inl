// Body of one instruction set's translation unit: the templates, and the table that type-switches
// into them. The including file defines WSSL_NAME (a string), WSSL_TABLE (the exported symbol) and
// WSSL_VECTOR_BYTES.
//
// Everything but the table lives in an anonymous namespace, and nothing here instantiates a
// library template: a weak symbol compiled for AVX-512 could otherwise be the copy that the linker
// keeps for all, and fault on an older processor.
#include "exp_block.h"
#include "row_pass.h"
#include "symmetric_product.h"
#include "tangent_epilogue.h"

namespace wssl {
namespace {

// Calls f(pointer of the matrix's element type).
template <class F>
void with_elements(const Matrix& x, F&& f) {
    switch (x.dtype) {
        case Dtype::f32:
            return f(static_cast<const float*>(x.data));
        case Dtype::f64:
            return f(static_cast<const double*>(x.data));
        case Dtype::bf16:
            return f(static_cast<const BFloat16*>(x.data));
        case Dtype::f16:
            return f(static_cast<const Half*>(x.data));
    }
}

void symmetric_product_any(const Matrix& x, bool covariance, const double* scale,
                           const double* mean, void* out, Dtype out_dtype, int threads) {
    with_elements(x, [&](auto* data) {
        const auto y = operand(data, x, covariance, scale, mean);
        if (out_dtype == Dtype::f64)
            symmetric_product(y, static_cast<double*>(out), threads);
        else
            symmetric_product(y, static_cast<float*>(out), threads);
    });
}

void row_pass_any(const Matrix& x, double* inv_norm, double* mean, int threads) {
    with_elements(x, [&](auto* data) { row_pass(data, x, inv_norm, mean, threads); });
}

void tangent_epilogue_any(void* t, Dtype t_dtype, const Matrix& z, const double* a,
                          const double* inv, const double* shift, double c, int threads) {
    with_elements(z, [&](auto* data) {
        if (t_dtype == Dtype::f64)
            tangent_epilogue(static_cast<double*>(t), data, z, a, inv, shift, c, threads);
        else
            tangent_epilogue(static_cast<float*>(t), data, z, a, inv, shift, c, threads);
    });
}

double exp_block_any(void* k, Dtype dtype, int64_t rows, int64_t cols, int64_t row_stride, double s,
                     const double* row, const double* col, double shift, bool strictly_lower,
                     int threads) {
    if (dtype == Dtype::f64)
        return exp_block(static_cast<double*>(k), rows, cols, row_stride, s, row, col, shift,
                         strictly_lower, threads);
    return exp_block(static_cast<float*>(k), rows, cols, row_stride, s, row, col, shift,
                     strictly_lower, threads);
}

}  // namespace

extern const Kernels WSSL_TABLE;
const Kernels WSSL_TABLE = {WSSL_NAME, symmetric_product_any, row_pass_any, tangent_epilogue_any,
                            exp_block_any};

}  // namespace wssl
