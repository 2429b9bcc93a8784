// The n x n problem of W2 on a GPU, for callers that know nothing of CUDA: sizes and addresses in,
// results into the caller's memory. Nothing is allocated and nobody waits.
//
// Every function throws std::invalid_argument for what is wrong with its arguments, naming it, and
// std::runtime_error for what CUDA says, naming the call; before anything is launched.
#pragma once

#include <cstdint>

#include "arguments.h"
#include "schedule.h"

namespace wssl::cuda {

struct Device {
    int blocks;        // multiprocessors
    int shared_bytes;  // that one block may have
    int capability;    // 80, 90, ...
};

// The device of this index, as CUDA describes it.
Device device(int index);

// What the figures of an estimate are from: an H200 with `blocks` multiprocessors.
Machine machine(int blocks);

// How one call will run.
struct Plan {
    int tile;         // index in kTiles
    int kp;           // k, padded
    int blocks;       // of the launch, all resident
    int count;        // slots of a problem
    int64_t numbers;  // float64 numbers of a problem
    int shared_bytes;
    Schedule schedule;
};

// A plan for `batch` k x k problems whose products of rows lie in `splits` parts; kp will be a
// multiple of `multiple`, a power of two. `tile`: an index in kTiles, -1 for the fastest by the
// estimate. Throws where the device cannot run it.
Plan plan(int k, int batch, int splits, int multiple, int steps, const Device& device,
          int tile = -1);

// Launches on `stream` (a cudaStream_t) of device `index`; `a.schedule`, `a.kp`, `a.count` and
// `a.length` are the plan's. Throws where buffers are missing, misaligned or overlap.
void launch(Arguments a, const Plan& plan, int index, void* stream);

}  // namespace wssl::cuda
