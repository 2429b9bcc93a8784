// As much of the CUDA runtime as csrc/cuda/launch.cu calls, for an emulated device.
#pragma once

#include <algorithm>
#include <string>

#include "emulator.h"

namespace wssl::emulator {

struct Settings {
    int blocks = 3, shared_bytes = 227 * 1024, capability = 90, devices = 1;
    unsigned seed = 0;
};
extern Settings settings;

}  // namespace wssl::emulator

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidDevice = 101 };
using cudaStream_t = void*;
enum cudaDeviceAttr {
    cudaDevAttrMultiProcessorCount,
    cudaDevAttrMaxSharedMemoryPerBlockOptin,
    cudaDevAttrComputeCapabilityMajor,
    cudaDevAttrComputeCapabilityMinor,
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };

inline const char* cudaGetErrorString(cudaError_t status) {
    return status == cudaErrorInvalidDevice ? "invalid device ordinal" : "invalid argument";
}
inline cudaError_t cudaGetDevice(int* index) {
    *index = 0;
    return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int index) {
    return index < wssl::emulator::settings.devices ? cudaSuccess : cudaErrorInvalidDevice;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int index) {
    const wssl::emulator::Settings& s = wssl::emulator::settings;
    if (index >= s.devices) return cudaErrorInvalidDevice;
    *value = which == cudaDevAttrMultiProcessorCount            ? s.blocks
             : which == cudaDevAttrMaxSharedMemoryPerBlockOptin ? s.shared_bytes
             : which == cudaDevAttrComputeCapabilityMajor       ? s.capability / 10
                                                                : s.capability % 10;
    return cudaSuccess;
}
template <class A>
cudaError_t cudaFuncSetAttribute(void (*)(A), cudaFuncAttribute, int bytes) {
    return bytes <= wssl::emulator::settings.shared_bytes ? cudaSuccess : cudaErrorInvalidValue;
}
template <class A>
cudaError_t cudaLaunchCooperativeKernel(void (*kernel)(A), dim3 blocks, dim3 threads,
                                        void** arguments, size_t shared_bytes, cudaStream_t) {
    struct Call {
        void (*kernel)(A);
        A* argument;
    } call{kernel, static_cast<A*>(arguments[0])};
    if (static_cast<int>(blocks.x) > wssl::emulator::settings.blocks) return cudaErrorInvalidValue;
    wssl::emulator::run(
        static_cast<int>(blocks.x), static_cast<int>(threads.x), shared_bytes,
        [](void* p) {
            const auto* own = static_cast<Call*>(p);
            own->kernel(*own->argument);
        },
        &call);
    return cudaSuccess;
}
