// What surrounds the products: from parts of K to R_0, from Q to W and the value.
//
//     Gram formulation (k = n)         C = D K D,  A = H C H / n + lift 11^T/n + ridge I
//     covariance formulation (k = m)   C = K / n,  A = C + ridge I
//
// A warp takes a row, a block eight rows at a time; sums run in a fixed order. Derivations:
// docs/mathematics.md; thresholds: docs/numerics.md. Shared memory: kp doubles and kWarps more.
#pragma once

#include "numbers.cuh"
#include "planes.cuh"

namespace wssl::cuda {

// Shared memory of the row-wise phases: numbers of a problem, and scratch for sums.
struct RowMemory {
    double* vector;   // (kp)
    double* scratch;  // (kWarps)
    WSSL_DEVICE RowMemory(unsigned char* shared)
        : vector(reinterpret_cast<double*>(shared) + kWarps),
          scratch(reinterpret_cast<double*>(shared)) {}
    static constexpr int bytes(int kp) { return (kp + kWarps) * static_cast<int>(sizeof(double)); }
};

// The rows of this block: calls enter(problem) when the problem changes, by all threads, and
// each(problem, row) for every row below kp, a warp a row.
template <class Enter, class Each>
WSSL_DEVICE void for_rows(const Arguments& a, Enter enter, Each each) {
    const int blocks = (a.kp + kWarps - 1) / kWarps;
    int current = -1;
    for (int item = blockIdx.x; item < a.batch * blocks; item += gridDim.x) {
        const int problem = item / blocks;
        if (problem != current) {
            enter(problem);
            current = problem;
        }
        const int row = item % blocks * kWarps + threadIdx.x / 32;
        if (row < a.kp) each(problem, row);
    }
}

WSSL_DEVICE float* slots_of(const Arguments& a, int problem) {
    return a.slots + static_cast<size_t>(a.kp) * a.kp * a.count * problem;
}

// C into the last slot, with the means, squares and diagonal of its rows; D from the diagonal of
// K. An entry of C is a product of the same numbers as its mirror image: symmetric bit by bit.
WSSL_DEVICE void rows_phase(const Arguments& a, int tiles, unsigned char* shared) {
    const RowMemory memory(shared);
    const size_t area = static_cast<size_t>(a.kp) * a.kp;
    const bool unit_rows = a.normalize && !a.covariance;
    const double factor = a.covariance ? 1.0 / a.n : 1.0;
    const auto enter = [&](int problem) {  // 1/|z_j|, 0 for a zero row; 1 without normalisation
        __syncthreads();
        for (int j = threadIdx.x; j < a.kp; j += kThreads) {
            double inverse = 1.0;
            if (unit_rows) {
                double square = 0.0;
                for (int s = 0; s < a.splits; ++s)
                    square += a.diagonal[(static_cast<size_t>(problem) * a.splits + s) * a.kp + j];
                inverse = square == 0.0 ? 0.0 : 1.0 / sqrt(square);
            }
            memory.vector[j] = inverse;
        }
        __syncthreads();
    };
    for_rows(a, enter, [&](int problem, int row) {
        const int lane = threadIdx.x % 32;
        const Numbers numbers(a, problem, tiles);
        float* slots = slots_of(a, problem);
        const float* parts = slots + static_cast<size_t>(row) * a.kp;
        float* out = slots + area * (a.count - 1) + static_cast<size_t>(row) * a.kp;
        const double left = memory.vector[row];
        double sum = 0.0, squares = 0.0, diagonal = 0.0;
        for (int j = 4 * lane; j < a.kp; j += 128) {
            double c[4] = {};
            for (int s = 0; s < a.splits; ++s) {
                const float4 part = load_l2(reinterpret_cast<const float4*>(parts + area * s + j));
                c[0] += part.x, c[1] += part.y, c[2] += part.z, c[3] += part.w;
            }
            float rounded[4];
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                rounded[e] = static_cast<float>(c[e] * factor * (left * memory.vector[j + e]));
                const double x = rounded[e];  // what is stored, so that sums and entries agree
                sum += x;
                squares += x * x;
                if (j + e == row) diagonal = x;
            }
            *reinterpret_cast<float4*>(out + j) = {rounded[0], rounded[1], rounded[2], rounded[3]};
        }
        sum = warp_sum(sum), squares = warp_sum(squares), diagonal = warp_sum(diagonal);
        if (lane == 0) {
            numbers.means()[row] = sum / a.k;
            numbers.squares()[row] = squares;
            numbers.diagonal()[row] = diagonal;
            if (!a.covariance && row < a.k)
                a.scale[static_cast<size_t>(problem) * a.n + row] = left;
        }
    });
}

// The numbers that the phases of one problem share; every block finds the same.
WSSL_DEVICE Scalars scalars_of(const Arguments& a, int problem, const Numbers& numbers,
                               double* scratch) {
    double mean = 0.0, means = 0.0, squares = 0.0, trace = 0.0, unsafe = 0.0;
    for (int i = threadIdx.x; i < a.k; i += kThreads) {
        const double r = load_l2(numbers.means() + i);
        mean += r;
        means += r * r;
        squares += load_l2(numbers.squares() + i);
        trace += load_l2(numbers.diagonal() + i);
        if (!a.covariance && a.normalize) {  // a zero row too: float64 knows it from an underflow
            const double d = load_l2(a.scale + static_cast<size_t>(problem) * a.n + i);
            if (!(d >= 1e-12 && d <= 1e12)) unsafe = 1.0;
        }
    }
    mean = block_sum(mean, scratch), means = block_sum(means, scratch);
    squares = block_sum(squares, scratch), trace = block_sum(trace, scratch);
    unsafe = block_sum(unsafe, scratch);
    const double k = a.k,
                 unit = a.normalize ? 1.0 : load_l2(a.scale + static_cast<size_t>(problem) * a.n);
    Scalars s{};
    s.unit = unit;
    s.ridge = a.ridge * unit * unit;
    s.target = unit / sqrt(static_cast<double>(a.m));
    s.noise = a.noise_units * a.unit * sqrt(squares);
    double norm = sqrt(squares);
    if (a.covariance) {
        double square = 0.0;
        for (int j = threadIdx.x; j < a.m; j += kThreads) {
            const double mu = a.mean[static_cast<size_t>(problem) * a.m + j];
            square += mu * mu;
        }
        s.mean_square = block_sum(square, scratch);
        const double same = a.row_unit * a.row_unit * s.mean_square;
        s.noise = s.noise < same ? same : s.noise;
        s.trace = trace;
    } else {
        s.mean_square = mean / k;
        s.offset = s.mean_square / (trace / k);
        if (!a.normalize && !(trace >= 1e-24 && trace <= 1e24)) unsafe = 1.0;
        s.noise /= k;
        s.trace = trace / k - s.mean_square;  // of H C H / k
        const double square = (squares - 2.0 * k * means) / k / k + s.mean_square * s.mean_square;
        // the null vector of a centred Gram, 1/sqrt k, is lifted to an ordinary eigenvalue
        s.lift = s.trace / k > 8.0 * s.noise ? s.trace / k : 8.0 * s.noise;
        norm = sqrt((square < 0.0 ? 0.0 : square) + s.lift * s.lift);
    }
    norm += s.ridge * sqrt(k);
    // A keeps eigenvalues that rounding made negative: the chain itself stands 2 units of it
    const double least = a.shift_units * a.unit * norm, known = s.noise - 2.0 * a.unit * norm;
    const double shift = known > least ? known : least;
    s.inverse = norm == 0.0 ? 0.0 : 1.0 / (norm + shift);
    s.shift = shift * s.inverse;
    s.trace += s.lift + s.ridge * k;
    s.safe = unsafe > 0.0 ? 0.0 : 1.0;
    return s;
}

// R_0 = inverse A into its slot, 0 in the padding; the scalars into memory.
WSSL_DEVICE void start_phase(const Arguments& a, int tiles, unsigned char* shared) {
    const RowMemory memory(shared);
    const size_t area = static_cast<size_t>(a.kp) * a.kp;
    Scalars s{};
    const auto enter = [&](int problem) {
        const Numbers numbers(a, problem, tiles);
        s = scalars_of(a, problem, numbers, memory.scratch);
        __syncthreads();
        for (int j = threadIdx.x; j < a.kp; j += kThreads)
            memory.vector[j] = load_l2(numbers.means() + j);
        __syncthreads();
    };
    for_rows(a, enter, [&](int problem, int row) {
        const int lane = threadIdx.x % 32;
        float* slots = slots_of(a, problem);
        const float* c = slots + area * (a.count - 1) + static_cast<size_t>(row) * a.kp;
        const Planes out(slots, kRoot0, a.kp);
        if (row == 0 && lane == 0) Numbers(a, problem, tiles).save(s);
        const auto factor = static_cast<float>(a.covariance ? s.inverse : s.inverse / a.k);
        const auto ridge = static_cast<float>(s.ridge * s.inverse);
        const double known = s.mean_square + s.lift, own = memory.vector[row];
        for (int j = 8 * lane; j < a.kp; j += 256) {
            const float4 first = load_l2(reinterpret_cast<const float4*>(c + j));
            const float4 second = load_l2(reinterpret_cast<const float4*>(c + j + 4));
            Chunk r{{first.x, first.y, first.z, first.w, second.x, second.y, second.z, second.w}};
#pragma unroll
            for (int e = 0; e < 8; ++e) {
                if (!a.covariance)
                    r.x[e] -= static_cast<float>((own + memory.vector[j + e]) - known);
                r.x[e] *= factor;
                if (j + e == row) r.x[e] += ridge;
                if (row >= a.k || j + e >= a.k) r.x[e] = 0.0f;
            }
            out.store(row, j, r);
        }
    });
}

// Q <- (Q + Q^T)/2 in place, its transpose from the slot beside it, and its means in A^(-1/2).
WSSL_DEVICE void average_phase(const Arguments& a, int tiles) {
    for_rows(
        a, [](int) {},
        [&](int problem, int row) {
            const int lane = threadIdx.x % 32;
            const Numbers numbers(a, problem, tiles);
            float* slots = slots_of(a, problem);
            const Planes q(slots, kT, a.kp), transposed(slots, kP, a.kp);
            double sum = 0.0;
            for (int j = 8 * lane; j < a.kp; j += 256) {
                Chunk x = q.load(row, j);
                const Chunk y = transposed.load(row, j);
#pragma unroll
                for (int e = 0; e < 8; ++e) {
                    x.x[e] = 0.5f * (x.x[e] + y.x[e]);
                    if (row < a.k && j + e < a.k) sum += x.x[e];
                }
                q.store(row, j, x);
            }
            sum = warp_sum(sum);
            if (lane == 0)
                numbers.q_means()[row] = sum * sqrt(numbers.scalar(&Scalars::inverse)) / a.k;
        });
}

// The weights: A^(-1/2) in the covariance formulation, else
//
//     W = -2/(k sqrt m) (B - diag d),   B = H A^(-1/2) H,   d_i = k (G^(1/2))_ii + (B r)_i
//
// on unit rows, and 2/(k unit) I - 2/(k sqrt m) B on raw ones. (A^(1/2))_ii = <Q_i, R_0i>.
WSSL_DEVICE void weights_phase(const Arguments& a, int tiles, unsigned char* shared) {
    const RowMemory memory(shared);
    const bool gram = !a.covariance;
    double q_mean = 0.0;
    Scalars s{};
    const auto enter = [&](int problem) {
        const Numbers numbers(a, problem, tiles);
        s = numbers.load();
        q_mean = sum_of(numbers.q_means(), a.k, memory.scratch) / a.k;
        __syncthreads();
        for (int j = threadIdx.x; j < a.kp; j += kThreads)
            memory.vector[j] = load_l2(numbers.q_means() + j);
        __syncthreads();
    };
    for_rows(a, enter, [&](int problem, int row) {
        if (row >= a.k) return;
        const int lane = threadIdx.x % 32;
        const Numbers numbers(a, problem, tiles);
        float* slots = slots_of(a, problem);
        const Planes q(slots, kT, a.kp), root0(slots, kRoot0, a.kp);
        const double factor = sqrt(s.inverse), coefficient = -2.0 / (a.k * sqrt(1.0 * a.m));
        const double q_i = memory.vector[row];
        const size_t out = (static_cast<size_t>(problem) * a.k + row) * a.k;
        const auto write = [&](int j, double w) {
            if (a.wide_weights)
                static_cast<double*>(a.weights)[out + j] = w;
            else
                static_cast<float*>(a.weights)[out + j] = static_cast<float>(w);
        };
        double inner = 0.0, y = 0.0, own = 0.0;
        for (int j = 8 * lane; j < a.kp; j += 256) {
            const Chunk x = q.load(row, j), r0 = gram ? root0.load(row, j) : Chunk{};
#pragma unroll
            for (int e = 0; e < 8; ++e) {
                if (j + e >= a.k) continue;
                double w = x.x[e] * factor;
                if (gram) {
                    y += static_cast<double>(x.x[e]) * r0.x[e];
                    if (j + e == row) own = w;
                    w -= q_i + (memory.vector[j + e] - q_mean);
                    inner += w * load_l2(numbers.means() + j + e);
                    w *= coefficient;
                    if (j + e == row) continue;  // below, with sums over the whole row
                }
                write(j + e, w);
            }
        }
        if (!gram) return;
        inner = warp_sum(inner), y = warp_sum(y), own = warp_sum(own);
        if (lane != 0) return;
        const double centred = own - 2.0 * q_i + q_mean;
        if (a.normalize) {  // the lifted vector is not in G^(1/2)
            const double root = factor == 0.0 ? 0.0 : y / factor - s.ridge * own;
            const double lifted = s.lift > 0.0 ? s.lift / sqrt(s.lift + s.ridge) / a.k : 0.0;
            write(row, coefficient * (centred - a.k * (root - lifted) - inner));
        } else {
            write(row, coefficient * centred + 2.0 / (a.k * s.unit));
        }
    });
}

// W2 or W2^2, and whether its digits have to be float64's: where norms leave float32, where |Y|_F^2
// is not tr A (no root came out), and where the polar factor's estimated error is too large and
// float32 need not (automatic) or, with a large mean, cannot have the last word.
WSSL_DEVICE void value_phase(const Arguments& a, int full, int lower, unsigned char* shared) {
    const RowMemory memory(shared);
    for (int problem = blockIdx.x; problem < a.batch; problem += gridDim.x) {
        const Numbers numbers(a, problem, full);
        const Scalars s = numbers.load();
        double distance = sum_of(numbers.distance(), full, memory.scratch);
        const double y_square = sum_of(numbers.y_square(), full, memory.scratch);
        const double q_square = sum_of(numbers.q_square(), lower, memory.scratch);
        if (threadIdx.x != 0) continue;
        // |Y|_F^2 is tr A, without the rounding of Q; near the optimum the difference would cancel
        const double away = s.trace - y_square;
        const bool rooted = (away < 0.0 ? -away : away) <= 1e-3 * s.trace;
        if (rooted && distance > a.k * s.target * s.target) distance += away;
        if (!a.covariance) {  // m - k + 1 directions that no row reaches; the lifted one is not
                              // there
            const double missing = sqrt(s.ridge) - s.target;
            const double lifted = sqrt(s.lift + s.ridge) - s.target;
            distance += (a.m - a.k + 1) * missing * missing - lifted * lifted;
        }
        double w2 = (s.mean_square + distance) / (s.unit * s.unit);
        w2 = w2 < 0.0 ? 0.0 : w2;
        if (!(w2 < INFINITY)) w2 = NAN;
        a.value[problem] = static_cast<float>(a.squared ? w2 : sqrt(w2));
        const double error = 0.5 * s.noise * s.inverse * sqrt(q_square / a.k);
        bool again = error > a.accepted_error;
        if (!a.automatic) again = again && s.offset > 0.1;
        a.deep[problem] = again || !rooted || s.safe == 0.0;
    }
}

}  // namespace wssl::cuda
