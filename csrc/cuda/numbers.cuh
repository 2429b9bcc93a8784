// The float64 numbers that the phases of one problem share, and sums over a block.
#pragma once

#include "arguments.h"
#include "ptx.cuh"

namespace wssl::cuda {

constexpr int kWarps = kThreads / 32;

struct Scalars {
    double mean_square;  // |mu|^2
    double lift;         // of the null vector 1/sqrt(k) of a centred Gram
    double ridge;
    double inverse;  // R_0 = inverse A
    double shift;    // what the first step adds to the diagonal of R_0
    double noise;    // uncertainty of the eigenvalues of A
    double target;   // unit / sqrt(m)
    double offset;   // |mu|^2 as a share of the mean square
    double safe;     // 1 where float32 holds the squares of all norms
    double unit;     // common factor of raw rows
    double trace;    // tr A
};
static_assert(sizeof(Scalars) <= kFields * sizeof(double), "numbers() makes room for them");

// Numbers of one problem in memory: Scalars, four vectors of kp, three sums of every tile.
class Numbers {
  public:
    WSSL_DEVICE Numbers(const Arguments& a, int problem, int tiles)
        : at_(a.numbers + a.length * problem), kp_(a.kp), tiles_(tiles) {}

    WSSL_DEVICE double* means() const { return vector(0); }     // r = X mu
    WSSL_DEVICE double* squares() const { return vector(1); }   // row sums of C^2
    WSSL_DEVICE double* diagonal() const { return vector(2); }  // of C
    WSSL_DEVICE double* q_means() const { return vector(3); }   // of the rows of A^(-1/2)
    WSSL_DEVICE double* distance() const { return sums(0); }    // |Y - target I|_F^2
    WSSL_DEVICE double* y_square() const { return sums(1); }    // |Y|_F^2
    WSSL_DEVICE double* q_square() const { return sums(2); }    // |Q Q|_F^2

    WSSL_DEVICE double scalar(double Scalars::* which) const {
        return load_l2(&(reinterpret_cast<const Scalars*>(at_)->*which));
    }
    WSSL_DEVICE void save(const Scalars& s) const {
        const auto* from = reinterpret_cast<const double*>(&s);
        for (size_t i = 0; i < sizeof(Scalars) / sizeof(double); ++i) at_[i] = from[i];
    }
    WSSL_DEVICE Scalars load() const {
        Scalars s;
        auto* to = reinterpret_cast<double*>(&s);
        for (size_t i = 0; i < sizeof(Scalars) / sizeof(double); ++i) to[i] = load_l2(at_ + i);
        return s;
    }

  private:
    WSSL_DEVICE double* vector(int i) const { return at_ + kFields + static_cast<size_t>(i) * kp_; }
    WSSL_DEVICE double* sums(int i) const {
        return vector(kVectors) + static_cast<size_t>(i) * tiles_;
    }

    double* at_;
    int kp_, tiles_;
};

// Sum over the lanes of a warp, in the same order on every run; every lane gets it.
WSSL_DEVICE double warp_sum(double x) {
    for (int lanes = 16; lanes > 0; lanes /= 2) x += shuffle_xor(x, lanes);
    return x;
}

// Sum over the block, likewise. `scratch`: kWarps doubles of shared memory.
WSSL_DEVICE double block_sum(double x, double* scratch) {
    x = warp_sum(x);
    __syncthreads();  // whoever still reads what was there
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    double total = 0.0;
    for (int warp = 0; warp < kWarps; ++warp) total += scratch[warp];
    return total;
}

// Sum of `length` numbers that other blocks wrote.
WSSL_DEVICE double sum_of(const double* numbers, int length, double* scratch) {
    double x = 0.0;
    for (int i = threadIdx.x; i < length; i += kThreads) x += load_l2(numbers + i);
    return block_sum(x, scratch);
}

}  // namespace wssl::cuda
