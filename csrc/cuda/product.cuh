// One tile of left right, right symmetric, on tensor cores, and what becomes of it.
//
//     x(r, c) = sum_d left(r, d) right(c, d)            r in kRows, c in kColumns, d in kp
//     out = alpha x + beta left + gamma I               by role (schedule.h)
//
// Block: 8 warps of 32 x 32 each, GM x GN of them side by side; the other factor of 8, GK, shares
// the depth, and the partial tiles are added up in order. Warps stay 32 x 32 because a smaller one
// would wait for shared memory: it reads 2 (32 + 32) halves a plane and depth for 3 x 32 x 32
// products, which is just what mma.sync takes time for.
//
// Shared memory: kStages stages of (kRows + kColumns) x kDepth halves, hi and lo, filled by
// cp.async two or more ahead. Rows of a stage are 128 bytes (or 256); chunk c of row r lies at c ^
// (r % 8), so that the eight rows of an ldmatrix hit eight different banks. Afterwards the same
// memory holds the finished tile in float32, from where rows and columns leave in pieces of 16
// bytes.
//
// Registers: three float32 accumulators of an entry. `high` is hi hi of one stage: tensor cores
// truncate as they add, so at most 64 products are added up there, and stages in ordinary
// arithmetic, in `sum`. `low` is (hi lo + lo hi) 2048, whose truncation is 2^11 times less.
#pragma once

#include "numbers.cuh"
#include "planes.cuh"

namespace wssl::cuda {

template <int GM, int GN, int GK, int DEPTH, int STAGES>
struct Tile {
    static_assert(GM * GN * GK == kWarps, "eight warps");
    static_assert(DEPTH % (16 * GK) == 0 && DEPTH / GK <= 64,
                  "k-steps of 16, at most four a stage");
    static constexpr int kRows = 32 * GM, kColumns = 32 * GN, kDepth = DEPTH, kStages = STAGES;
    static constexpr int kRatio = kRows / kColumns;
    static constexpr int kSteps = DEPTH / (16 * GK);  // of a warp in a stage
    static constexpr int kBoth = kRows + kColumns;
    static constexpr int kPlane = kBoth * DEPTH * 2;  // bytes
    static constexpr int kStage = 2 * kPlane;
    static constexpr int kPitch = kColumns + 9;  // floats: rows and columns leave at 2 banks a word
    static constexpr TileShape kShape{kRows, kColumns, kDepth, kStages};
    static_assert(GK * kRows * kPitch * 4 <= STAGES * kStage, "the finished tile fits");

    float sum[2][4][4], low[2][4][4];  // of this warp: 16 x 8 pieces

    // x of tile (i, j) -> `sum` of the warps.
    WSSL_DEVICE void multiply(const Planes& left, const Planes& right, int i, int j, int kp,
                              unsigned char* shared) {
        for (auto& row : sum)
            for (auto& piece : row)
                for (float& x : piece) x = 0.0f;
        for (auto& row : low)
            for (auto& piece : row)
                for (float& x : piece) x = 0.0f;
        const int stages = kp / kDepth;
        __syncthreads();  // the tile before may still be leaving
#pragma unroll
        for (int s = 0; s < kStages - 1; ++s) {
            if (s < stages) fetch(left, right, i, j, s, shared + s * kStage);
            copy_commit();
        }
        for (int s = 0; s < stages; ++s) {
            copy_wait<kStages - 2>();
            __syncthreads();
            const int ahead = s + kStages - 1;
            if (ahead < stages) fetch(left, right, i, j, ahead, shared + ahead % kStages * kStage);
            copy_commit();
            consume(shared + s % kStages * kStage);
        }
        copy_wait<0>();
        __syncthreads();
    }

    // The finished tile to shared memory: entry (r, c) at r kPitch + c. GK partial tiles follow
    // each other; `entry` adds them up.
    WSSL_DEVICE void spread(float* finished) const {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        const int group = warp / (GM * GN), gm = warp / GN % GM, gn = warp % GN;
        float* own = finished + group * kRows * kPitch + (gm * 32 + lane / 4) * kPitch + gn * 32 +
                     2 * (lane % 4);
#pragma unroll
        for (int mi = 0; mi < 2; ++mi)
#pragma unroll
            for (int ni = 0; ni < 4; ++ni)
#pragma unroll
                for (int e = 0; e < 4; ++e)
                    own[(mi * 16 + e / 2 * 8) * kPitch + ni * 8 + e % 2] =
                        sum[mi][ni][e] + low[mi][ni][e] * (1.0f / kLow);
        __syncthreads();
    }

    WSSL_DEVICE static float entry(const float* finished, int r, int c) {
        float x = finished[r * kPitch + c];
#pragma unroll
        for (int group = 1; group < GK; ++group) x += finished[(group * kRows + r) * kPitch + c];
        return x;
    }

  private:
    // Stage `s` of the depth: rows i of left, then rows j of right, hi and lo.
    WSSL_DEVICE static void fetch(const Planes& left, const Planes& right, int i, int j, int s,
                                  unsigned char* stage) {
        constexpr int kChunks = kDepth / 8;  // of a row
        constexpr int kRowsAtOnce = kThreads / kChunks;
        const int chunk = threadIdx.x % kChunks, first = threadIdx.x / kChunks;
        unsigned char* to = stage + first * kDepth * 2 + (chunk ^ (first % 8)) * 16;
        const int column = s * kDepth + chunk * 8;
#pragma unroll
        for (int row = 0; row < kBoth; row += kRowsAtOnce) {  // kRowsAtOnce is a multiple of 8
            const bool of_left = row < kRows;
            const uint16_t* from = (of_left ? left.row(i * kRows + row + first)
                                            : right.row(j * kColumns + row - kRows + first)) +
                                   column;
            copy_async(to + row * kDepth * 2, from);
            copy_async(to + row * kDepth * 2 + kPlane, from + left.area());
        }
    }

    // This warp's share of a stage.
    WSSL_DEVICE void consume(const unsigned char* stage) {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        const int group = warp / (GM * GN), gm = warp / GN % GM, gn = warp % GN;
        // which row and chunk this lane names for an ldmatrix of 16 rows, or of 16 columns
        const int a_row = gm * 32 + lane % 16, a_chunk = lane / 16;
        const int b_row = kRows + gn * 32 + lane % 8 + lane / 16 * 8, b_chunk = lane / 8 % 2;
        float high[2][4][4] = {};
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
            const int chunk = 2 * (group * kSteps + step);
            uint32_t a_hi[2][4], a_lo[2][4], b_hi[2][4], b_lo[2][4];
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const unsigned char* a = stage + at(a_row + 16 * half, chunk + a_chunk);
                const unsigned char* b = stage + at(b_row + 16 * half, chunk + b_chunk);
                load_matrices(a_hi[half], a);
                load_matrices(a_lo[half], a + kPlane);
                load_matrices(b_hi[half], b);
                load_matrices(b_lo[half], b + kPlane);
            }
#pragma unroll
            for (int mi = 0; mi < 2; ++mi)
#pragma unroll
                for (int ni = 0; ni < 4; ++ni) {
                    const uint32_t* hi = &b_hi[ni / 2][ni % 2 * 2];
                    const uint32_t* lo = &b_lo[ni / 2][ni % 2 * 2];
                    multiply_add(low[mi][ni], a_hi[mi], lo[0], lo[1]);
                    multiply_add(low[mi][ni], a_lo[mi], hi[0], hi[1]);
                    multiply_add(high[mi][ni], a_hi[mi], hi[0], hi[1]);
                }
        }
#pragma unroll
        for (int mi = 0; mi < 2; ++mi)
#pragma unroll
            for (int ni = 0; ni < 4; ++ni)
#pragma unroll
                for (int e = 0; e < 4; ++e) sum[mi][ni][e] += high[mi][ni][e];
    }

    // Byte of a chunk of a row in a plane of a stage.
    WSSL_DEVICE static int at(int row, int chunk) {
        return row * kDepth * 2 + (chunk ^ (row % 8)) * 16;
    }
};

// (i, j) of the t-th square of a lower triangle counted by rows, t = i (i + 1) / 2 + j.
WSSL_DEVICE void lower_square(int t, int& i, int& j) {
    i = static_cast<int>((sqrtf(8.0f * static_cast<float>(t) + 1.0f) - 1.0f) * 0.5f);
    if (i * (i + 1) / 2 > t) --i;
    if ((i + 1) * (i + 2) / 2 <= t) ++i;
    j = t - i * (i + 1) / 2;
}

struct Polynomial {
    float alpha, beta, gamma;
};

// What a role makes of a product x: alpha x + beta left + gamma I.
WSSL_DEVICE Polynomial polynomial(const Arguments& a, const Job& job, float shift) {
    const float* c = a.coefficients[job.step];
    switch (job.role) {
        case Role::polynomial:
            return {c[2], c[1], c[0]};
        case Role::first_polynomial:  // of R + shift I
            return {c[2], c[1] + 2.0f * c[2] * shift, c[0] + (c[1] + c[2] * shift) * shift};
        case Role::first_product:  // P (R + shift I)
            return {1.0f, shift, 0.0f};
        case Role::correction:
            return {0.5f * shift, 0.0f, 1.0f};
        default:
            return {1.0f, 0.0f, 0.0f};
    }
}

// Sums of squares that later phases need: of Q Q (`correction`), in which an entry below the
// diagonal counts for its mirror image, and of Y and Y - target I (`root`).
template <class T>
WSSL_DEVICE void reduce(const Arguments& a, const Job& job, const Numbers& numbers, const float* x,
                        int row0, int column0, int tile, double* scratch) {
    const bool root = job.role == Role::root;
    const double inverse = root ? numbers.scalar(&Scalars::inverse) : 1.0;
    // Y = Q R_0 / sqrt(inverse)
    const auto factor = static_cast<float>(inverse == 0.0 ? 0.0 : 1.0 / sqrt(inverse));
    const auto aim = static_cast<float>(root ? numbers.scalar(&Scalars::target) : 0.0);
    double squares = 0.0, away = 0.0;
    for (int e = threadIdx.x; e < T::kRows * T::kColumns; e += kThreads) {
        const int r = row0 + e / T::kColumns, c = column0 + e % T::kColumns;
        if (r >= a.k || c >= a.k || (!root && c > r)) continue;
        float y = T::entry(x, e / T::kColumns, e % T::kColumns) * factor;
        squares += (!root && c < r ? 2.0 : 1.0) * y * y;
        if (r == c) y -= aim;
        away += static_cast<double>(y) * y;
    }
    squares = block_sum(squares, scratch);
    if (root) away = block_sum(away, scratch);
    if (threadIdx.x == 0) {
        (root ? numbers.y_square() : numbers.q_square())[tile] = squares;
        if (root) numbers.distance()[tile] = away;
    }
}

// Tile (i, j) of a finished product to its slot, its mirror image too if `mirror`, and its
// transpose to another slot if the job says so.
template <class T>
WSSL_DEVICE void store(const Job& job, const Polynomial& p, float* slots, float* x, int row0,
                       int column0, int kp) {
    constexpr int kChunks = T::kColumns / 8;
    const bool mirror = job.extent == Extent::lower;
    const bool crossing =
        mirror && column0 + T::kColumns > row0;  // holds entries above the diagonal
    const Planes out(slots, job.out, kp), left(slots, job.left, kp);
    for (int item = threadIdx.x; item < T::kRows * kChunks; item += kThreads) {
        const int r = item / kChunks, c = item % kChunks * 8;
        Chunk chunk;
#pragma unroll
        for (int e = 0; e < 8; ++e) chunk.x[e] = p.alpha * T::entry(x, r, c + e);
        if (p.beta != 0.0f) {
            const Chunk addend = left.load(row0 + r, column0 + c);
#pragma unroll
            for (int e = 0; e < 8; ++e) chunk.x[e] += p.beta * addend.x[e];
        }
        const int diagonal = row0 + r - column0 - c;  // the diagonal's place in the chunk
#pragma unroll
        for (int e = 0; e < 8; ++e) {
            if (e == diagonal) chunk.x[e] += p.gamma;
            x[r * T::kPitch + c + e] = chunk.x[e];  // finished, in the first of the partial tiles
        }
        if (!crossing || diagonal >= 7) {
            out.store(row0 + r, column0 + c, chunk);
        } else {
#pragma unroll
            for (int e = 0; e < 8; ++e)
                if (e <= diagonal) out.store_one(row0 + r, column0 + c + e, chunk.x[e]);
        }
    }
    if (!mirror && job.transposed == kNone) return;
    __syncthreads();
    const Planes image(slots, mirror ? job.out : job.transposed, kp);
    constexpr int kPieces = T::kRows / 8;
    for (int item = threadIdx.x; item < T::kColumns * kPieces; item += kThreads) {
        const int c = item / kPieces, r = item % kPieces * 8;
        Chunk chunk;
#pragma unroll
        for (int e = 0; e < 8; ++e) chunk.x[e] = x[(r + e) * T::kPitch + c];
        const int diagonal = column0 + c - row0 - r;  // of this column's piece
        if (!crossing || diagonal < 0) {
            image.store(column0 + c, row0 + r, chunk);
        } else {
#pragma unroll
            for (int e = 0; e < 8; ++e)
                if (e > diagonal) image.store_one(column0 + c, row0 + r + e, chunk.x[e]);
        }
    }
}

// This block's tiles of a phase, over all problems.
template <class T>
WSSL_DEVICE void product_phase(const Arguments& a, int phase, unsigned char* shared) {
    const Schedule& schedule = a.schedule;
    const int edge = a.kp / T::kRows, across = edge * T::kRatio;
    const int full = edge * across, lower = edge * (edge + 1) / 2 * T::kRatio;
    int turn = blockIdx.x;  // this block's next tile, counted over the jobs of the phase
    for (int index = schedule.first[phase]; index < schedule.first[phase + 1]; ++index) {
        const Job job = schedule.jobs[index];
        const int of_problem = job.extent == Extent::lower ? lower : full;
        for (; turn < job.end - job.begin; turn += gridDim.x) {
            const int item = job.begin + turn;
            const int problem = item / of_problem, tile = item % of_problem;
            int i, j;
            if (job.extent == Extent::lower) {
                lower_square(tile / T::kRatio, i, j);
                j = j * T::kRatio + tile % T::kRatio;
            } else {
                i = tile / across, j = tile % across;
            }
            float* slots = a.slots + static_cast<size_t>(a.kp) * a.kp * a.count * problem;
            const Numbers numbers(a, problem, full);
            T product;
            product.multiply(Planes(slots, job.left, a.kp), Planes(slots, job.right, a.kp), i, j,
                             a.kp, shared);
            auto* x = reinterpret_cast<float*>(shared);
            product.spread(x);
            const int row0 = i * T::kRows, column0 = j * T::kColumns;
            if (job.role == Role::correction || job.role == Role::root)
                reduce<T>(a, job, numbers, x, row0, column0, tile,
                          reinterpret_cast<double*>(shared + T::kStages * T::kStage));
            if (job.out == kNone) continue;
            const auto shift = static_cast<float>(numbers.scalar(&Scalars::shift));
            store<T>(job, polynomial(a, job, shift), slots, x, row0, column0, a.kp);
        }
        turn -= job.end - job.begin;
    }
}

}  // namespace wssl::cuda
