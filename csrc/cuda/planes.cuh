// A matrix as two planes of halves: x = hi + lo / 2048, 22 bits, for entries up to 65504.
//
// What the tensor cores multiply is what lies in memory: nothing is cut up in an inner loop, and
// x y = hi hi + (hi lo + lo hi) / 2048 to 2^-22. (Ootomo & Yokota, IJHPCA 2022, eq. 12-18.) A slot
// has kp x kp floats of room: the plane of hi, then that of lo, each kp x kp halves, by rows.
#pragma once

#include "ptx.cuh"

namespace wssl::cuda {

constexpr float kLow = 2048.0f;       // 2^11: what a half keeps of a float in its first piece
constexpr float kLargest = 65504.0f;  // of a half

// Eight neighbours of a row: 16 bytes of each plane.
struct Chunk {
    float x[8];
};

// Entries that halves do not hold become their largest; a NaN stays one.
WSSL_DEVICE float saturate(float x) {
    x = x > kLargest ? kLargest : x;
    return x < -kLargest ? -kLargest : x;
}

WSSL_DEVICE void split(float x, float y, uint32_t& hi, uint32_t& lo) {
    x = saturate(x), y = saturate(y);
    hi = pack_halves(x, y);
    lo =
        pack_halves((x - half_to_float(hi & 0xffffu)) * kLow, (y - half_to_float(hi >> 16)) * kLow);
}

WSSL_DEVICE float join(uint32_t hi, uint32_t lo) {
    return half_to_float(hi) + half_to_float(lo) * (1.0f / kLow);
}

class Planes {
  public:
    // Slot `slot` of the problem whose slots begin at `slots`.
    WSSL_DEVICE Planes(float* slots, int slot, int kp)
        : area_(static_cast<size_t>(kp) * kp),
          hi_(reinterpret_cast<uint16_t*>(slots + area_ * slot)),
          kp_(kp) {}

    WSSL_DEVICE const uint16_t* row(int i) const { return hi_ + static_cast<size_t>(i) * kp_; }
    // From an element of hi to its lo.
    WSSL_DEVICE size_t area() const { return area_; }

    // Entries (i, j) .. (i, j + 7), j a multiple of 8.
    WSSL_DEVICE Chunk load(int i, int j) const {
        const uint16_t* at = row(i) + j;
        const uint4 hi = load_l2(reinterpret_cast<const uint4*>(at));
        const uint4 lo = load_l2(reinterpret_cast<const uint4*>(at + area_));
        return {{join(hi.x & 0xffffu, lo.x & 0xffffu), join(hi.x >> 16, lo.x >> 16),
                 join(hi.y & 0xffffu, lo.y & 0xffffu), join(hi.y >> 16, lo.y >> 16),
                 join(hi.z & 0xffffu, lo.z & 0xffffu), join(hi.z >> 16, lo.z >> 16),
                 join(hi.w & 0xffffu, lo.w & 0xffffu), join(hi.w >> 16, lo.w >> 16)}};
    }

    WSSL_DEVICE void store(int i, int j, const Chunk& c) const {
        uint4 hi, lo;
        split(c.x[0], c.x[1], hi.x, lo.x);
        split(c.x[2], c.x[3], hi.y, lo.y);
        split(c.x[4], c.x[5], hi.z, lo.z);
        split(c.x[6], c.x[7], hi.w, lo.w);
        uint16_t* at = hi_ + static_cast<size_t>(i) * kp_ + j;
        *reinterpret_cast<uint4*>(at) = hi;
        *reinterpret_cast<uint4*>(at + area_) = lo;
    }

    WSSL_DEVICE void store_one(int i, int j, float x) const {
        uint32_t hi, lo;
        split(x, 0.0f, hi, lo);
        uint16_t* at = hi_ + static_cast<size_t>(i) * kp_ + j;
        at[0] = static_cast<uint16_t>(hi);
        at[area_] = static_cast<uint16_t>(lo);
    }

  private:
    size_t area_;
    uint16_t* hi_;
    int kp_;
};

}  // namespace wssl::cuda
