// What PTX gives and C++ does not: tensor-core products, asynchronous copies, reads past the L1
// cache, and the two words of a grid barrier. sm_80 and later; PTX ISA 7.0.
//
// Everything the kernel does beyond plain C++ is in this file, so that a CPU can stand in for it:
// tests/cuda/emulator has the same functions for one thread at a time (WSSL_EMULATED).
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef WSSL_EMULATED
#include "emulator.h"
#else

#define WSSL_DEVICE __device__ __forceinline__

namespace wssl::cuda {

// The dynamic shared memory of this block.
WSSL_DEVICE unsigned char* shared_memory() {
    extern __shared__ __align__(128) unsigned char dynamic[];
    return dynamic;
}

WSSL_DEVICE uint32_t shared_address(const void* p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// 16 bytes from global to shared memory, past the L1 cache; done after `copy_wait`.
WSSL_DEVICE void copy_async(void* shared, const void* global) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)),
                 "l"(global)
                 : "memory");
}

// Closes a group of copies of this thread.
WSSL_DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `pending` of this thread's last groups are unfinished.
template <int pending>
WSSL_DEVICE void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// Four 8 x 8 matrices of halves: lane l gives the row l % 8 of matrix l / 8 and gets, of each
// matrix, elements 2 (l % 4) and the next of row l / 4.
WSSL_DEVICE void load_matrices(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// d += a b: a 16 x 16 by rows, b 16 x 8 by columns, halves; d 16 x 8 float32. With g = lane / 4 and
// t = 2 (lane % 4), d holds (g, t), (g, t+1), (g+8, t), (g+8, t+1); a[0] holds (g, t..t+1), a[1]
// (g+8, t..), a[2] (g, t+8..), a[3] (g+8, t+8..); b0 holds (t..t+1, g), b1 (t+8.., g).
WSSL_DEVICE void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two floats to halves, to nearest even; `low` in the lower 16 bits.
WSSL_DEVICE uint32_t pack_halves(float low, float high) {
    uint32_t packed;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

WSSL_DEVICE float half_to_float(uint32_t bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(static_cast<uint16_t>(bits)));
    return x;
}

// Reads of what other multiprocessors wrote: from the L2 cache.
WSSL_DEVICE float load_l2(const float* p) { return __ldcg(p); }
WSSL_DEVICE double load_l2(const double* p) { return __ldcg(p); }
WSSL_DEVICE uint4 load_l2(const uint4* p) { return __ldcg(p); }
WSSL_DEVICE float4 load_l2(const float4* p) { return __ldcg(p); }

WSSL_DEVICE double shuffle_xor(double x, int lanes) {
    return __shfl_xor_sync(0xffffffffu, x, lanes);
}

// Publishes what the block wrote before its last __syncthreads, and counts 1.
WSSL_DEVICE void arrive(unsigned* counter) {
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
}

// The count; what was published before it is visible after.
WSSL_DEVICE unsigned arrivals(const unsigned* counter) {
    unsigned count;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(count) : "l"(counter) : "memory");
    return count;
}

}  // namespace wssl::cuda

#endif
