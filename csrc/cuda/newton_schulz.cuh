// The n x n problem of W2 in one cooperative launch: scaling, Newton-Schulz, value, weights.
//
//     rows | start | products, phase by phase | average | products of Y, weights | value
//
// Launch: at most one block of 256 threads a multiprocessor, all resident; a bar is a grid barrier,
// 26 of them for the 7 steps of float32. Memory: 7 kp^2 floats, which stay in the L2 cache up to
// k of about 1,300 on 50 MB; shared memory as product.cuh says, 96 to 144 KiB. Registers: 96
// accumulators and 32 operands of a thread, and addresses.
//
// Iteration and coefficients: wssl_fast/backends/eager/newton_schulz.py (arXiv 2505.16932); which
// products may be mirrored or rounded: docs/split_products.md.
#pragma once

#include "phases.cuh"
#include "product.cuh"

namespace wssl::cuda {

// All blocks wait for each other; what they wrote before is visible after.
class GridBarrier {
  public:
    WSSL_DEVICE explicit GridBarrier(unsigned* counter) : counter_(counter) {}

    WSSL_DEVICE void wait() {
        __syncthreads();  // orders the block's stores before its one arrival
        if (threadIdx.x == 0) {
            target_ += gridDim.x;
            arrive(counter_);
            while (arrivals(counter_) < target_) {
            }
        }
        __syncthreads();
    }

  private:
    unsigned* counter_;
    unsigned target_ = 0;  // never reset, so nobody can overtake
};

template <class T>
__global__ void __launch_bounds__(kThreads, 1)
    newton_schulz_kernel(const __grid_constant__ Arguments a) {
    unsigned char* shared = shared_memory();
    GridBarrier barrier(a.counter);
    const int edge = a.kp / T::kRows;
    const int full = edge * edge * T::kRatio, lower = edge * (edge + 1) / 2 * T::kRatio;
    rows_phase(a, full, shared);
    barrier.wait();
    start_phase(a, full, shared);
    barrier.wait();
    for (int phase = 0; phase < a.schedule.phases; ++phase) {
        const bool last = phase == a.schedule.phases - 1;
        if (last) {
            average_phase(a, full);
            barrier.wait();
        }
        product_phase<T>(a, phase, shared);
        if (last && a.with_grad) weights_phase(a, full, shared);
        barrier.wait();
    }
    value_phase(a, full, lower, shared);
}

using Kernel = void (*)(Arguments);

// The instances, one file each: a file is compiled for every architecture, side by side.
Kernel kernel_128x64();
Kernel kernel_64x64();
Kernel kernel_64x32();
Kernel kernel_32x32();

}  // namespace wssl::cuda
