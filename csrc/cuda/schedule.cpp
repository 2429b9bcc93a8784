// Builds a schedule phase by phase, and counts what it costs: see schedule.h.
#include "schedule.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace wssl::cuda {
namespace {

// Builds a schedule phase by phase, with one product, Q <- Q P, waiting in the background.
class Builder {
  public:
    Builder(const TileShape& tile, int kp, int batch, int blocks)
        : lower_(batch * tiles(tile, kp, Extent::lower)),
          full_(batch * tiles(tile, kp, Extent::full)),
          blocks_(blocks) {
        schedule_.phases = 0;
        schedule_.first[0] = 0;
    }

    int full() const { return full_; }

    // A product of this phase.
    void add(Job job) {
        job.begin = 0;
        job.end = job.extent == Extent::lower ? lower_ : full_;
        push(job);
    }

    // Makes `job` the product in the background, from this phase on.
    void start(Job job) {
        waiting_ = job;
        waiting_.begin = 0;
        waiting_.end = full_;
    }

    bool idle() const { return waiting_.begin == waiting_.end; }

    // Ends the phase. Its last wave takes tiles from the background; with `finish`, all of them.
    void close(bool finish) {
        int own = 0;
        for (int job = schedule_.first[schedule_.phases]; job < jobs_; ++job)
            own += schedule_.jobs[job].end - schedule_.jobs[job].begin;
        const int room = (blocks_ - own % blocks_) % blocks_;
        const int left = waiting_.end - waiting_.begin;
        const int taken = finish ? left : std::min(left, room);
        if (taken > 0) {
            Job part = waiting_;
            part.end = part.begin + taken;
            waiting_.begin += taken;
            push(part);
        }
        schedule_.first[++schedule_.phases] = static_cast<uint8_t>(jobs_);
    }

    const Schedule& done() const { return schedule_; }

  private:
    void push(const Job& job) { schedule_.jobs[jobs_++] = job; }

    Schedule schedule_{};
    Job waiting_{};
    int lower_, full_, blocks_, jobs_ = 0;
};

}  // namespace

int tiles(const TileShape& tile, int kp, Extent extent) {
    const int edge = kp / tile.rows, ratio = tile.rows / tile.columns;
    return extent == Extent::full ? edge * edge * ratio : edge * (edge + 1) / 2 * ratio;
}

Schedule schedule(int steps, const TileShape& tile, int kp, int batch, int blocks) {
    if (steps < 2 || steps > kMaxSteps)
        throw std::invalid_argument("steps: " + std::to_string(steps) + " given, 2 to " +
                                    std::to_string(kMaxSteps) + " expected");
    Builder build(tile, kp, batch, blocks);
    const auto q_after = [](int step) { return static_cast<uint8_t>(kQ + (step + 1) % 2); };
    const auto p_slot = [&](int step) {
        return step == 0 ? q_after(0) : static_cast<uint8_t>(kP + step % 2);
    };
    const auto q_job = [&](int step) {
        return Job{0,
                   0,
                   q_after(step - 1),
                   p_slot(step),
                   q_after(step),
                   kNone,
                   Role::product,
                   Extent::full,
                   0};
    };
    int next_q = 1;  // the next step whose Q <- Q P has not begun
    for (int step = 0; step < steps; ++step) {
        const bool last = step == steps - 1;
        const uint8_t p = p_slot(step), r = step == 0 ? kRoot0 : kR;
        const auto at = static_cast<uint8_t>(step);
        const auto background = [&](int ready) {  // begins the next Q if its P exists by now
            if (build.idle() && next_q <= ready) build.start(q_job(next_q++));
        };
        // In the last step Q of the step before must be whole for what follows.
        background(step - 1);
        build.add({0, 0, r, r, p, kNone, step == 0 ? Role::first_polynomial : Role::polynomial,
                   Extent::lower, at});
        build.close(last);
        if (last) break;
        background(step);
        build.add({0, 0, p, r, kT, kNone, step == 0 ? Role::first_product : Role::product,
                   Extent::full, 0});
        build.close(false);
        background(step);
        build.add({0, 0, kT, p, kR, kNone, Role::product, Extent::lower, 0});
        // the next P takes the slot of the P before this step's, which a Q may still read
        const bool wanted = !build.idle() && next_q - 1 < step;
        build.close(wanted);
    }
    while (next_q < steps) {  // a Q whose turn never came, then the last
        build.start(q_job(next_q++));
        build.close(true);
    }
    const uint8_t q = q_after(steps - 1);
    build.add({0, 0, q, q, kR, kNone, Role::correction, Extent::lower, 0});
    build.close(true);
    build.add({0, 0, q, kR, kT, kP, Role::product, Extent::full, 0});
    build.close(true);
    build.add({0, 0, kT, kRoot0, kNone, kNone, Role::root, Extent::full, 0});
    build.close(true);
    return build.done();
}

int waves(const Schedule& schedule, int phase, int blocks) {
    int items = 0;
    for (int job = schedule.first[phase]; job < schedule.first[phase + 1]; ++job)
        items += schedule.jobs[job].end - schedule.jobs[job].begin;
    return (items + blocks - 1) / blocks;
}

Estimate estimate(const Schedule& schedule, const TileShape& tile, int kp, const Machine& machine) {
    const double multiply = 3.0 * tile.rows * tile.columns * kp / machine.multiply_rate;
    const double bytes = 4.0 * (tile.rows + tile.columns) * kp;
    // rows, start, average and weights pass over a matrix or two; value over a few sums
    const double passes = 4 * (8.0 * kp * kp / machine.l2_rate + machine.latency);
    Estimate found{passes, 0.0, 0.0, 0, schedule.phases + 3};
    for (int phase = 0; phase < schedule.phases; ++phase) {
        int items = 0;
        for (int job = schedule.first[phase]; job < schedule.first[phase + 1]; ++job)
            items += schedule.jobs[job].end - schedule.jobs[job].begin;
        for (int left = items; left > 0; left -= machine.blocks) {
            const double together = std::min(left, machine.blocks);
            const double products = multiply / machine.clock;
            const double loads =
                std::max(together * bytes / machine.l2_rate, bytes / machine.port_rate);
            found.multiply += products;
            found.load += loads;
            found.seconds += std::max(products, loads);
            ++found.waves;
        }
        found.seconds += machine.latency;
    }
    found.seconds += found.barriers * machine.barrier;
    return found;
}

int choose_tile(int k, int batch, int blocks, int shared_bytes, const Machine& machine) {
    int best = -1;
    double least = 0.0;
    for (int i = 0; i < kTileCount; ++i) {
        const TileShape& tile = kTiles[i];
        if (tile.shared_bytes() > shared_bytes) continue;
        const int kp = padded(k, tile, 1);
        Machine here = machine;
        here.blocks = blocks;
        const double seconds =
            estimate(schedule(7, tile, kp, batch, blocks), tile, kp, here).seconds;
        if (best < 0 || seconds < least) best = i, least = seconds;
    }
    return best;
}

int padded(int k, const TileShape& tile, int multiple) {
    const int edge = std::max(tile.align(), multiple);
    return (k + edge - 1) / edge * edge;
}

int64_t numbers(const TileShape& tile, int kp) {
    return kFields + int64_t{kVectors} * kp + int64_t{kSums} * tiles(tile, kp, Extent::full);
}

}  // namespace wssl::cuda
