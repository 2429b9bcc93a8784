// Python module wssl_fast._cpu: raw addresses in, results written into the caller's memory.
//
// A matrix is described by (address, dtype, rows, cols, row_stride, col_stride), strides in
// elements, dtype an index into kernels.h's Dtype. Address 0 stands for an optional vector that is
// absent. Shapes and dtypes are checked by wssl_fast/backends/native.py, the only caller; the GIL
// is released while a kernel runs.
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "cpu/kernels.h"

namespace py = pybind11;
using wssl::Dtype;
using wssl::Matrix;

namespace {

template <class T = double>
T* pointer(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

const wssl::Kernels& kernels(const std::string& isa) {
    const wssl::Kernels* table = wssl::select(isa.c_str());
    if (table == nullptr) throw std::invalid_argument("instruction set not available: " + isa);
    return *table;
}

Matrix matrix(uintptr_t data, int dtype, int64_t rows, int64_t cols, int64_t row_stride,
              int64_t col_stride) {
    return {pointer<void>(data), static_cast<Dtype>(dtype), rows, cols, row_stride, col_stride};
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
    m.doc() = "Compiled CPU kernels of wssl_fast (see csrc/cpu/kernels.h).";

    m.def("instruction_sets", [] {
        py::list names;
        for (auto table = wssl::available(); *table != nullptr; ++table)
            names.append((*table)->name);
        return names;
    });

    m.def(
        "symmetric_product",
        [](uintptr_t x, int dtype, int64_t rows, int64_t cols, int64_t row_stride,
           int64_t col_stride, bool covariance, uintptr_t scale, uintptr_t mean, uintptr_t out,
           int out_dtype, int threads, const std::string& isa) {
            kernels(isa).symmetric_product(matrix(x, dtype, rows, cols, row_stride, col_stride),
                                           covariance, pointer<const double>(scale),
                                           pointer<const double>(mean), pointer<void>(out),
                                           static_cast<Dtype>(out_dtype), threads);
        },
        py::call_guard<py::gil_scoped_release>());

    m.def(
        "row_pass",
        [](uintptr_t x, int dtype, int64_t rows, int64_t cols, int64_t row_stride,
           int64_t col_stride, uintptr_t inv_norm, uintptr_t mean, int threads,
           const std::string& isa) {
            kernels(isa).row_pass(matrix(x, dtype, rows, cols, row_stride, col_stride),
                                  pointer(inv_norm), pointer(mean), threads);
        },
        py::call_guard<py::gil_scoped_release>());

    m.def(
        "tangent_epilogue",
        [](uintptr_t t, int t_dtype, uintptr_t z, int dtype, int64_t rows, int64_t cols,
           int64_t row_stride, int64_t col_stride, uintptr_t a, uintptr_t inv, uintptr_t shift,
           double c, int threads, const std::string& isa) {
            kernels(isa).tangent_epilogue(pointer<void>(t), static_cast<Dtype>(t_dtype),
                                          matrix(z, dtype, rows, cols, row_stride, col_stride),
                                          pointer<const double>(a), pointer<const double>(inv),
                                          pointer<const double>(shift), c, threads);
        },
        py::call_guard<py::gil_scoped_release>());

    m.def(
        "exp_block",
        [](uintptr_t k, int dtype, int64_t rows, int64_t cols, int64_t row_stride, double s,
           uintptr_t row, uintptr_t col, double shift, bool strictly_lower, int threads,
           const std::string& isa) {
            return kernels(isa).exp_block(pointer<void>(k), static_cast<Dtype>(dtype), rows, cols,
                                          row_stride, s, pointer<const double>(row),
                                          pointer<const double>(col), shift, strictly_lower,
                                          threads);
        },
        py::call_guard<py::gil_scoped_release>());
}
