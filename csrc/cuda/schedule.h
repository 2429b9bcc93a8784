// Who multiplies what, and when: the phases of Newton-Schulz as a list of products.
//
//     P = c0 + c1 R + c2 R^2;   T = P R;   R <- T P;   Q <- Q P        each step
//     B = I + shift Q^2 / 2;    Q <- Q B;                              the shift taken back
//     Y = Q R_0                                                        the root
//
// A phase is a set of products of which none needs another; a grid barrier parts phases. Its tiles
// are dealt to the resident blocks, so a phase lasts as long as its number of waves. Q <- Q P is
// needed only by the next Q: it is no phase of its own, its tiles fill the last waves of the phases
// that follow, until the slots it reads are wanted. At k = 512 in tiles of 64 x 32, 132 blocks,
// that makes 26 waves of 29.
//
// All of it is arithmetic on sizes: no GPU, no CUDA header, tested on its own.
#pragma once

#include <cstdint>
#include <vector>

namespace wssl::cuda {

// Slots of a problem's workspace, kp x kp each.
enum Slot : uint8_t {
    kRoot0 = 0,  // R_0
    kR = 1,      // R, then B
    kT = 2,      // T, then the corrected Q
    kP = 3,      // P of even steps; kP + 1: of odd ones. Then the transpose of the corrected Q
    kQ = 5,      // Q after odd steps; kQ + 1: after even ones, P_0 = Q after step 0 among them
    kSlots = 7,
    kNone = 255,
};

enum class Role : uint8_t {
    polynomial,        // c2 R R + c1 R + c0 I
    first_polynomial,  // the same of R + shift I
    product,           // left right
    first_product,     // left right + shift left
    correction,        // I + shift / 2 left right; its sum of squares is kept
    root,              // nothing is written but sums
};

// A symmetric product is computed in its lower triangle and mirrored.
enum class Extent : uint8_t { lower, full };

struct Job {
    int32_t begin, end;   // tiles, counted over all problems
    uint8_t left, right;  // slots; right is symmetric
    uint8_t out;          // slot or kNone
    uint8_t transposed;   // slot of the transpose of what `out` gets, or kNone
    Role role;
    Extent extent;
    uint8_t step;  // whose coefficients
};

constexpr int kMaxSteps = 8;
constexpr int kMaxPhases = 3 * kMaxSteps + 3;
constexpr int kMaxJobs = 3 * kMaxPhases;

// What the kernel reads: jobs first[p] .. first[p + 1] - 1 make phase p. The last phase is Y.
struct Schedule {
    int32_t phases;
    uint8_t first[kMaxPhases + 1];
    Job jobs[kMaxJobs];
};

// The tile of one block: its warps are 32 x 32 each and share the depth where they are more than
// the tile needs.
struct TileShape {
    int rows, columns;
    int depth;   // of a stage in shared memory
    int stages;  // in flight
    constexpr int shared_bytes() const { return stages * (rows + columns) * depth * 4; }
    constexpr int align() const { return rows > depth ? rows : depth; }  // kp is a multiple of it
};

constexpr int kThreads = 256;
// Largest first. `align` divides 128 throughout.
constexpr TileShape kTiles[] = {
    {128, 64, 64, 3}, {64, 64, 64, 3}, {64, 32, 64, 5}, {32, 32, 128, 4}};
constexpr int kTileCount = 4;
constexpr int kMaxSize = 2048;  // k; beyond, a phase is long beside a launch and larger tiles win

// Tiles of one product of one problem.
int tiles(const TileShape& tile, int kp, Extent extent);

// The schedule of `batch` problems on `blocks` resident blocks.
Schedule schedule(int steps, const TileShape& tile, int kp, int batch, int blocks);

// Rounds of tiles of a phase.
int waves(const Schedule& schedule, int phase, int blocks);

// What a machine is assumed to do; see docs/gpu_model.md for where each figure is from.
struct Machine {
    int blocks;            // multiprocessors, a block each
    double clock;          // 1/s
    double multiply_rate;  // float16 multiply-adds a clock of a multiprocessor, by mma.sync
    double l2_rate;        // bytes/s, all multiprocessors together
    double port_rate;      // bytes/s from the L2 cache to one multiprocessor
    double latency;        // s from a barrier to the first product
    double barrier;        // s
};

struct Estimate {
    double seconds;         // of the whole n x n problem
    double multiply, load;  // s of the product phases if nothing else took time
    int waves, barriers;
};

// Seconds of a call, phase by phase: the longer of products and operands of each wave.
Estimate estimate(const Schedule& schedule, const TileShape& tile, int kp, const Machine& machine);

// Index in kTiles of the tile with the smallest estimate among those of at most `shared_bytes`;
// -1 if there is none.
int choose_tile(int k, int batch, int blocks, int shared_bytes, const Machine& machine);

// k rounded up to what `tile` and a multiple of `multiple` need.
int padded(int k, const TileShape& tile, int multiple);

// Float64 numbers of one problem: fields, vectors of kp, sums of a tile each (numbers.cuh).
constexpr int kFields = 16, kVectors = 4, kSums = 3;
int64_t numbers(const TileShape& tile, int kp);

}  // namespace wssl::cuda
