// Plans, checks and the one cooperative launch.
#include "newton_schulz.h"

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "newton_schulz.cuh"

namespace wssl::cuda {
namespace {

constexpr const char* kInstead = "; use the backend 'triton' there";

void check(cudaError_t status, const char* call) {
    if (status != cudaSuccess)
        throw std::runtime_error(std::string(call) + ": " + cudaGetErrorString(status));
}

void expect(bool good, const std::string& what) {
    if (!good) throw std::invalid_argument(what);
}

std::string given(const char* name, int64_t value, const std::string& expected) {
    return std::string(name) + ": " + std::to_string(value) + " given, " + expected + " expected";
}

Kernel kernel(int tile) {
    switch (tile) {
        case 0:
            return kernel_128x64();
        case 1:
            return kernel_64x64();
        case 2:
            return kernel_64x32();
        default:
            return kernel_32x32();
    }
}

// Makes a device current for the life of this object.
class DeviceGuard {
  public:
    explicit DeviceGuard(int index) {
        check(cudaGetDevice(&before_), "cudaGetDevice");
        if (index != before_) check(cudaSetDevice(index), "cudaSetDevice");
    }
    ~DeviceGuard() { cudaSetDevice(before_); }
    DeviceGuard(const DeviceGuard&) = delete;
    DeviceGuard& operator=(const DeviceGuard&) = delete;

  private:
    int before_ = 0;
};

struct Buffer {
    const char* name;
    const void* at;
    int64_t bytes;
    int align;
    bool written;

    uintptr_t begin() const { return reinterpret_cast<uintptr_t>(at); }
    uintptr_t end() const { return begin() + static_cast<uintptr_t>(bytes); }
};

void check_buffers(const Arguments& a) {
    const int64_t batch = a.batch, area = int64_t{a.kp} * a.kp;
    const Buffer buffers[] = {
        {"slots", a.slots, batch * a.count * area * 4, 16, true},
        {"diagonal", a.diagonal, a.covariance ? 0 : batch * a.splits * a.kp * 8, 8, false},
        {"numbers", a.numbers, batch * a.length * 8, 8, true},
        {"counter", a.counter, 4, 4, true},
        {"scale", a.scale, batch * a.n * 8, 8, true},
        {"mean", a.mean, a.covariance ? batch * a.m * 8 : 0, 8, false},
        {"value", a.value, batch * 4, 4, true},
        {"weights", a.weights, a.with_grad ? batch * a.k * a.k * (a.wide_weights ? 8 : 4) : 0,
         a.wide_weights ? 8 : 4, true},
        {"deep", a.deep, batch, 1, true},
    };
    for (const Buffer& one : buffers) {
        if (one.bytes == 0) continue;
        expect(one.at != nullptr, std::string(one.name) + ": no address given");
        expect(one.begin() % one.align == 0, std::string(one.name) +
                                                 ": an address at a multiple of " +
                                                 std::to_string(one.align) + " bytes expected");
        for (const Buffer* other = buffers; other != &one; ++other) {
            if (other->bytes == 0 || !(one.written || other->written)) continue;
            expect(one.end() <= other->begin() || other->end() <= one.begin(),
                   std::string(one.name) + " and " + other->name + " overlap");
        }
    }
}

}  // namespace

Device device(int index) {
    Device found{};
    int major = 0, minor = 0;
    const auto ask = [&](int* value, cudaDeviceAttr which) {
        check(cudaDeviceGetAttribute(value, which, index), "cudaDeviceGetAttribute");
    };
    ask(&found.blocks, cudaDevAttrMultiProcessorCount);
    ask(&found.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin);
    ask(&major, cudaDevAttrComputeCapabilityMajor);
    ask(&minor, cudaDevAttrComputeCapabilityMinor);
    found.capability = 10 * major + minor;
    return found;
}

Machine machine(int blocks) {
    // float16 mma.sync at 62 % of the 2,048 multiply-adds a clock of a Hopper multiprocessor
    return {blocks, 1.755e9, 1270.0, 5.5e12 * blocks / 132, 64 * 1.755e9, 1.2e-6, 1.5e-6};
}

Plan plan(int k, int batch, int splits, int multiple, int steps, const Device& device, int tile) {
    expect(k >= 1, given("k", k, "at least 1"));
    expect(k <= kMaxSize, given("k", k, "at most " + std::to_string(kMaxSize)) + kInstead);
    expect(batch >= 1, given("batch", batch, "at least 1"));
    expect(splits >= 1, given("splits", splits, "at least 1"));
    expect(multiple >= 1 && (multiple & (multiple - 1)) == 0,
           given("multiple", multiple, "a power of two"));
    expect(device.capability >= 80,
           given("compute capability", device.capability, "80 or higher") + kInstead);
    expect(tile >= -1 && tile < kTileCount,
           given("tile", tile, "-1 to " + std::to_string(kTileCount - 1)));
    const int extra = kWarps * static_cast<int>(sizeof(double));
    const int room = device.shared_bytes - extra;
    if (tile < 0) tile = choose_tile(k, batch, device.blocks, room, machine(device.blocks));
    expect(tile >= 0 && kTiles[tile].shared_bytes() <= room,
           given("shared memory of a block", device.shared_bytes,
                 std::to_string(kTiles[tile < 0 ? kTileCount - 1 : tile].shared_bytes() + extra) +
                     " or more") +
               kInstead);
    Plan found{};
    found.tile = tile;
    found.kp = padded(k, kTiles[tile], multiple);
    // the largest phase is R and Q together
    const int64_t items = int64_t{batch} * (tiles(kTiles[tile], found.kp, Extent::full) +
                                            tiles(kTiles[tile], found.kp, Extent::lower));
    expect(items < (int64_t{1} << 30), given("batch", batch, "fewer than 2^30 tiles in all"));
    const int64_t rows = int64_t{batch} * (found.kp / kWarps);
    found.blocks = static_cast<int>(std::min<int64_t>(device.blocks, std::max(items, rows)));
    found.count = std::max<int>(kSlots, splits + 1);
    found.numbers = numbers(kTiles[tile], found.kp);
    found.shared_bytes = std::max(kTiles[tile].shared_bytes() + extra, RowMemory::bytes(found.kp));
    found.schedule = schedule(steps, kTiles[tile], found.kp, batch, found.blocks);
    return found;
}

void launch(Arguments a, const Plan& plan, int index, void* stream) {
    expect(a.n >= 1 && a.m >= 1, "n, m: at least 1 expected");
    expect(a.k == (a.covariance ? a.m : a.n), given("k", a.k, a.covariance ? "m" : "n"));
    a.kp = plan.kp;
    a.count = plan.count;
    a.length = plan.numbers;
    a.schedule = plan.schedule;
    check_buffers(a);
    const DeviceGuard guard(index);
    const Kernel chosen = kernel(plan.tile);
    check(cudaFuncSetAttribute(chosen, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               plan.shared_bytes),
          "cudaFuncSetAttribute");
    void* arguments[] = {&a};
    check(cudaLaunchCooperativeKernel(chosen, dim3(plan.blocks), dim3(kThreads), arguments,
                                      plan.shared_bytes, static_cast<cudaStream_t>(stream)),
          "cudaLaunchCooperativeKernel");
}

}  // namespace wssl::cuda
