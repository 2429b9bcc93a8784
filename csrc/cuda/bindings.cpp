// Python module wssl_fast._cuda: raw addresses in, results written into the caller's memory.
//
// The only caller is wssl_fast/backends/cuda.py, which documents what a user sees. `plan`,
// `schedule` and `estimate` are arithmetic and need no GPU; a device is (multiprocessors, bytes of
// shared memory of a block, compute capability), of `device` or made up.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "newton_schulz.h"

namespace py = pybind11;
namespace cuda = wssl::cuda;

namespace {

using Given = std::tuple<int, int, int>;
using Coefficients = std::vector<std::array<float, 3>>;

cuda::Device described(const Given& device) {
    return {std::get<0>(device), std::get<1>(device), std::get<2>(device)};
}

template <class T>
T* pointer(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

const char* name(cuda::Role role) {
    switch (role) {
        case cuda::Role::polynomial:
            return "polynomial";
        case cuda::Role::first_polynomial:
            return "first_polynomial";
        case cuda::Role::product:
            return "product";
        case cuda::Role::first_product:
            return "first_product";
        case cuda::Role::correction:
            return "correction";
        default:
            return "root";
    }
}

py::dict dictionary(const cuda::Plan& plan) {
    const cuda::TileShape& tile = cuda::kTiles[plan.tile];
    py::dict found;
    found["tile"] = plan.tile;
    found["rows"] = tile.rows;
    found["columns"] = tile.columns;
    found["kp"] = plan.kp;
    found["blocks"] = plan.blocks;
    found["slots"] = plan.count;
    found["numbers"] = plan.numbers;
    found["shared_bytes"] = plan.shared_bytes;
    found["barriers"] = plan.schedule.phases + 3;
    return found;
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
    m.doc() = "The n x n problem of W2 as one CUDA launch (see csrc/cuda/newton_schulz.h).";

    m.def("device", [](int index) {
        const cuda::Device found = cuda::device(index);
        return Given{found.blocks, found.shared_bytes, found.capability};
    });

    m.def("tiles", [] {
        py::list found;
        for (const cuda::TileShape& tile : cuda::kTiles)
            found.append(py::make_tuple(tile.rows, tile.columns, tile.depth, tile.stages));
        return found;
    });

    m.def("plan", [](int k, int batch, int splits, int multiple, int steps, const Given& device,
                     int tile) {
        return dictionary(cuda::plan(k, batch, splits, multiple, steps, described(device), tile));
    });

    m.def("schedule", [](int k, int batch, int steps, const Given& device, int tile) {
        const cuda::Plan plan = cuda::plan(k, batch, 1, 1, steps, described(device), tile);
        py::list phases;
        for (int phase = 0; phase < plan.schedule.phases; ++phase) {
            py::list jobs;
            for (int i = plan.schedule.first[phase]; i < plan.schedule.first[phase + 1]; ++i) {
                const cuda::Job& job = plan.schedule.jobs[i];
                py::dict one;
                one["tiles"] = py::make_tuple(job.begin, job.end);
                one["of"] = batch * cuda::tiles(cuda::kTiles[plan.tile], plan.kp, job.extent);
                one["left"] = static_cast<int>(job.left);
                one["right"] = static_cast<int>(job.right);
                one["out"] = static_cast<int>(job.out);
                one["transposed"] = static_cast<int>(job.transposed);
                one["role"] = name(job.role);
                one["lower"] = job.extent == cuda::Extent::lower;
                one["step"] = static_cast<int>(job.step);
                jobs.append(one);
            }
            phases.append(jobs);
        }
        return phases;
    });

    m.def("estimate", [](int k, int batch, int steps, const Given& device, int tile) {
        const cuda::Plan plan = cuda::plan(k, batch, 1, 1, steps, described(device), tile);
        const cuda::Estimate found = cuda::estimate(plan.schedule, cuda::kTiles[plan.tile], plan.kp,
                                                    cuda::machine(plan.blocks));
        py::dict out = dictionary(plan);
        out["seconds"] = found.seconds;
        out["multiply"] = found.multiply;
        out["load"] = found.load;
        out["waves"] = found.waves;
        return out;
    });

    m.def(
        "newton_schulz",
        [](uintptr_t slots, uintptr_t diagonal, uintptr_t numbers, uintptr_t counter,
           uintptr_t scale, uintptr_t mean, uintptr_t value, uintptr_t weights, uintptr_t deep,
           int batch, int n, int columns, int splits, int multiple, bool covariance, bool normalize,
           bool squared, bool with_grad, bool wide_weights, bool automatic, double ridge,
           double unit, double noise_units, double shift_units, double row_unit,
           double accepted_error, const Coefficients& coefficients, const Given& device, int tile,
           int index, uintptr_t stream) {
            cuda::Arguments a{};
            a.slots = pointer<float>(slots);
            a.diagonal = pointer<const double>(diagonal);
            a.numbers = pointer<double>(numbers);
            a.counter = pointer<unsigned>(counter);
            a.scale = pointer<double>(scale);
            a.mean = pointer<const double>(mean);
            a.value = pointer<float>(value);
            a.weights = pointer<void>(weights);
            a.deep = pointer<int8_t>(deep);
            a.batch = batch, a.n = n, a.m = columns, a.splits = splits;
            a.k = covariance ? columns : n;
            a.covariance = covariance, a.normalize = normalize, a.squared = squared;
            a.with_grad = with_grad, a.wide_weights = wide_weights, a.automatic = automatic;
            a.ridge = ridge, a.unit = unit, a.noise_units = noise_units;
            a.shift_units = shift_units, a.row_unit = row_unit, a.accepted_error = accepted_error;
            const int steps = static_cast<int>(coefficients.size());
            const cuda::Plan plan =
                cuda::plan(a.k, batch, splits, multiple, steps, described(device), tile);
            for (int step = 0; step < steps; ++step)
                for (int c = 0; c < 3; ++c) a.coefficients[step][c] = coefficients[step][c];
            cuda::launch(a, plan, index, pointer<void>(stream));
        },
        py::call_guard<py::gil_scoped_release>());
}
