// A GPU in one thread of a CPU: what csrc/cuda/ptx.cuh has for a device, and CUDA's own words, so
// that the kernel's source runs here unchanged.
//
// Every thread of every block is a fiber with its own stack. A fiber runs until it has to wait, for
// its warp (ldmatrix, mma, shuffle), its block (__syncthreads) or the grid (arrivals); who goes on
// next, and for how long, is drawn at random: some warps get far ahead of others, so that a missing
// barrier shows as a wrong result. Asynchronous copies happen at once or as late as `copy_wait`
// lets them, drawn at random too. Shared memory starts as NaN. Tensor cores are modelled as exact
// products of sixteen pairs, added to a float32 and cut off, not rounded. A launch that can make no
// progress throws.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#define __global__
#define __device__
#define __grid_constant__
#define __launch_bounds__(...)
#define WSSL_DEVICE inline

struct uint4 {
    uint32_t x, y, z, w;
};
struct float4 {
    float x, y, z, w;
};
struct dim3 {
    unsigned x;
    explicit dim3(unsigned size) : x(size) {}
};

namespace wssl::emulator {

struct Index {
    int x;
};

struct Copy {
    void* to;
    const void* from;
};

// What one thread brings to an instruction of its warp.
struct Lane {
    void* out = nullptr;
    const void* in[2] = {};
    uint32_t words[2] = {};
    double number = 0.0;
};

struct Thread {
    Index thread, block;
    int lane, warp;  // of the block
    std::vector<std::vector<Copy>> groups{1};
    unsigned seen = ~0u;  // the last count of arrivals that it was told
};

extern Thread* current;
extern int grid;

unsigned char* shared_memory();
void sync_block();
enum class Operation { load_matrices, multiply_add, shuffle };
// Waits for the other 31; the last to come does the operation for all.
void sync_warp(Operation operation, Lane& lane);
bool chance();
void arrive(unsigned* counter);
unsigned arrivals(const unsigned* counter);

// Runs `body` as every thread of `blocks` blocks of `threads`.
void run(int blocks, int threads, size_t shared_bytes, void (*body)(void*), void* argument);

inline float half_to_float(uint32_t bits) {
    const auto word = static_cast<uint16_t>(bits);
    _Float16 half;
    __builtin_memcpy(&half, &word, 2);
    return static_cast<float>(half);
}

inline uint32_t float_to_half(float x) {
    const auto half = static_cast<_Float16>(x);
    uint16_t word;
    __builtin_memcpy(&word, &half, 2);
    return word;
}

inline void perform(const Copy& copy) { __builtin_memcpy(copy.to, copy.from, 16); }

}  // namespace wssl::emulator

#define threadIdx (wssl::emulator::current->thread)
#define blockIdx (wssl::emulator::current->block)
#define gridDim (wssl::emulator::Index{wssl::emulator::grid})
#define __syncthreads() wssl::emulator::sync_block()

namespace wssl::cuda {

using emulator::arrivals;
using emulator::arrive;
using emulator::half_to_float;
using emulator::shared_memory;

inline void copy_async(void* shared, const void* global) {
    emulator::Copy copy{shared, global};
    if (emulator::chance())
        emulator::perform(copy);
    else
        emulator::current->groups.back().push_back(copy);
}

inline void copy_commit() { emulator::current->groups.emplace_back(); }

template <int pending>
void copy_wait() {
    auto& groups = emulator::current->groups;
    while (static_cast<int>(groups.size()) - 1 > pending) {
        for (const emulator::Copy& copy : groups.front()) emulator::perform(copy);
        groups.erase(groups.begin());
    }
}

inline void load_matrices(uint32_t (&r)[4], const void* row) {
    emulator::Lane lane;
    lane.out = r;
    lane.in[0] = row;
    emulator::sync_warp(emulator::Operation::load_matrices, lane);
}

inline void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    emulator::Lane lane;
    lane.out = d;
    lane.in[0] = a;
    lane.words[0] = b0;
    lane.words[1] = b1;
    emulator::sync_warp(emulator::Operation::multiply_add, lane);
}

inline uint32_t pack_halves(float low, float high) {
    return emulator::float_to_half(low) | emulator::float_to_half(high) << 16;
}

template <class T>
T load_l2(const T* p) {
    return *p;
}

inline double shuffle_xor(double x, int lanes) {
    emulator::Lane lane;
    lane.number = x;
    lane.words[0] = static_cast<uint32_t>(lanes);
    lane.out = &x;
    emulator::sync_warp(emulator::Operation::shuffle, lane);
    return x;
}

}  // namespace wssl::cuda
