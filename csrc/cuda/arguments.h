// What the kernel is given. Device memory throughout; all of it is the caller's.
#pragma once

#include <cstdint>

#include "schedule.h"

namespace wssl::cuda {

struct Arguments {
    float* slots;            // (batch, count, kp, kp): parts of K in the first, then planes
    const double* diagonal;  // (batch, splits, kp): diagonals of the parts
    double* numbers;         // (batch, length)
    unsigned* counter;       // 0 on entry
    double* scale;           // (batch, n): 1/|z_i|, written in the Gram formulation
    const double* mean;      // (batch, m), covariance formulation
    float* value;            // (batch)
    void* weights;           // (batch, k, k) float32 or float64
    int8_t* deep;            // (batch)
    int64_t length;          // of the numbers of a problem
    int32_t batch, n, m, k, kp;
    int32_t count;    // slots of a problem, more than `splits`
    int32_t splits;   // parts
    bool covariance;  // K is S times n, k = m; else K = z z^T, k = n
    bool normalize;   // unit rows
    bool squared;     // W2^2, not W2
    bool with_grad;
    bool wide_weights;  // float64
    bool automatic;     // ask for float64 by the estimated error, not only where float32 cannot
    double ridge;
    double unit;                       // of rounding of a float32
    double noise_units;                // uncertainty of the eigenvalues of K, in `unit` |K|_F
    double shift_units;                // the shift at least, in `unit` |A|_F
    double row_unit;                   // rows this close to their mean, relative, are the mean
    double accepted_error;             // of the polar factor
    float coefficients[kMaxSteps][3];  // c0, c1, c2
    Schedule schedule;
};

}  // namespace wssl::cuda
