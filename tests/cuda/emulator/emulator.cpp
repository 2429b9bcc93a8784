#include "emulator.h"

#include <ucontext.h>
#include <csetjmp>
#include <cstring>
#include <memory>
#include <random>
#include <stdexcept>

#include "cuda_runtime.h"

namespace wssl::emulator {

Thread* current = nullptr;
int grid = 0;
Settings settings;

namespace {

constexpr size_t kStack = 64 * 1024;
constexpr int kWarp = 32;

struct Fiber;

struct Warp {
    Lane* lanes[kWarp] = {};
    Operation operation{};
    int arrived = 0;
    std::vector<Fiber*> waiting;
};

struct Block {
    std::vector<unsigned char> shared;
    std::vector<Warp> warps;
    int threads = 0, arrived = 0;
    std::vector<Fiber*> waiting;
};

struct Fiber {
    Thread thread;
    Block* block = nullptr;
    size_t warp = 0;  // of the grid
    std::unique_ptr<unsigned char[]> stack;
    ucontext_t start;
    std::jmp_buf where;
    bool begun = false, done = false;
};

std::jmp_buf scheduler;
Fiber* running = nullptr;
std::vector<std::vector<Fiber*>> ready;  // by warp of the grid
std::vector<Fiber*> watching;            // the grid's counter
size_t favourite = 0;                    // the warp that runs
unsigned burst = 0;                      // turns that it has left
std::mt19937 draw;
void (*work)(void*) = nullptr;
void* work_argument = nullptr;
const char* complaint = nullptr;

void leave() {
    if (_setjmp(running->where) == 0) _longjmp(scheduler, 1);
}

void entry() {
    work(work_argument);
    running->done = true;
    _longjmp(scheduler, 1);
}

void wake(std::vector<Fiber*>& sleepers) {
    for (Fiber* fiber : sleepers) ready[fiber->warp].push_back(fiber);
    sleepers.clear();
}

// The next to run, or null. A warp runs on for 1 to 16,384 turns, so that some get far ahead.
Fiber* pick() {
    if (burst == 0 || ready[favourite].empty()) {
        const size_t first = draw() % ready.size();
        for (size_t i = 0; i < ready.size(); ++i) {
            favourite = (first + i) % ready.size();
            if (!ready[favourite].empty()) break;
        }
        burst = 1u << draw() % 15;
    }
    --burst;
    std::vector<Fiber*>& lanes = ready[favourite];
    if (lanes.empty()) return nullptr;
    const size_t next = draw() % lanes.size();
    Fiber* fiber = lanes[next];
    lanes[next] = lanes.back();
    lanes.pop_back();
    return fiber;
}

void do_load(Warp& warp) {
    for (int lane = 0; lane < kWarp; ++lane) {
        auto* r = static_cast<uint32_t*>(warp.lanes[lane]->out);
        for (int matrix = 0; matrix < 4; ++matrix) {
            const auto* row =
                static_cast<const unsigned char*>(warp.lanes[8 * matrix + lane / 4]->in[0]);
            std::memcpy(&r[matrix], row + 4 * (lane % 4), 4);
        }
    }
}

// Half e (0 or 1) of a word.
float half(uint32_t word, int e) { return half_to_float(e == 0 ? word : word >> 16); }

// x to float32 toward zero.
float truncated(double x) {
    auto y = static_cast<float>(x);
    if (std::fabs(static_cast<double>(y)) > std::fabs(x)) y = std::nextafterf(y, 0.0f);
    return y;
}

void do_multiply(Warp& warp) {
    float a[16][16], b[16][8];
    for (int lane = 0; lane < kWarp; ++lane) {
        const int g = lane / 4, t = 2 * (lane % 4);
        const auto* words = static_cast<const uint32_t*>(warp.lanes[lane]->in[0]);
        for (int e = 0; e < 2; ++e) {
            a[g][t + e] = half(words[0], e);
            a[g + 8][t + e] = half(words[1], e);
            a[g][t + 8 + e] = half(words[2], e);
            a[g + 8][t + 8 + e] = half(words[3], e);
            b[t + e][g] = half(warp.lanes[lane]->words[0], e);
            b[t + 8 + e][g] = half(warp.lanes[lane]->words[1], e);
        }
    }
    for (int lane = 0; lane < kWarp; ++lane) {
        const int g = lane / 4, t = 2 * (lane % 4);
        auto* d = static_cast<float*>(warp.lanes[lane]->out);
        for (int e = 0; e < 4; ++e) {
            double sum = d[e];
            for (int k = 0; k < 16; ++k)
                sum += static_cast<double>(a[g + e / 2 * 8][k]) * b[k][t + e % 2];
            d[e] = truncated(sum);
        }
    }
}

void do_shuffle(Warp& warp) {
    for (int lane = 0; lane < kWarp; ++lane) {
        const int from = lane ^ static_cast<int>(warp.lanes[lane]->words[0]);
        *static_cast<double*>(warp.lanes[lane]->out) = warp.lanes[from]->number;
    }
}

__attribute__((noinline)) void prepare(Fiber* fiber) {
    fiber->stack.reset(new unsigned char[kStack]);
    getcontext(&fiber->start);
    fiber->start.uc_stack.ss_sp = fiber->stack.get();
    fiber->start.uc_stack.ss_size = kStack;
    fiber->start.uc_link = nullptr;
    makecontext(&fiber->start, entry, 0);
    ready[fiber->warp].push_back(fiber);
}

// Lets `fiber` run until it waits or is done.
__attribute__((noinline)) void resume(Fiber* fiber) {
    running = fiber;
    current = &fiber->thread;
    if (_setjmp(scheduler) != 0) return;
    if (fiber->begun) _longjmp(fiber->where, 1);
    fiber->begun = true;
    setcontext(&fiber->start);
}

}  // namespace

unsigned char* shared_memory() { return running->block->shared.data(); }

bool chance() { return draw() % 2 == 0; }

void sync_block() {
    Block& block = *running->block;
    if (++block.arrived == block.threads) {
        block.arrived = 0;
        wake(block.waiting);
        ready[running->warp].push_back(running);
    } else {
        block.waiting.push_back(running);
    }
    leave();
}

void sync_warp(Operation operation, Lane& lane) {
    Warp& warp = running->block->warps[running->thread.warp];
    if (warp.arrived > 0 && warp.operation != operation)
        complaint = "lanes of a warp at different instructions";
    warp.operation = operation;
    warp.lanes[running->thread.lane] = &lane;
    if (++warp.arrived < kWarp) {
        warp.waiting.push_back(running);
        leave();
        return;
    }
    switch (operation) {
        case Operation::load_matrices:
            do_load(warp);
            break;
        case Operation::multiply_add:
            do_multiply(warp);
            break;
        case Operation::shuffle:
            do_shuffle(warp);
    }
    warp.arrived = 0;
    wake(warp.waiting);
}

void arrive(unsigned* counter) {
    ++*counter;
    wake(watching);
}

unsigned arrivals(const unsigned* counter) {
    if (running->thread.seen == *counter) {
        watching.push_back(running);
        leave();
    }
    running->thread.seen = *counter;
    return *counter;
}

void run(int blocks, int threads, size_t shared_bytes, void (*body)(void*), void* argument) {
    draw.seed(settings.seed);
    work = body;
    work_argument = argument;
    grid = blocks;
    complaint = nullptr;
    ready.assign(static_cast<size_t>(blocks) * (threads / kWarp), {});
    watching.clear();
    burst = 0;
    std::vector<Block> all(blocks);
    std::vector<Fiber> fibers(static_cast<size_t>(blocks) * threads);
    for (int b = 0; b < blocks; ++b) {
        all[b].shared.assign(shared_bytes, 0xff);
        all[b].warps.resize(threads / kWarp);
        all[b].threads = threads;
        for (int t = 0; t < threads; ++t) {
            Fiber& fiber = fibers[static_cast<size_t>(b) * threads + t];
            fiber.thread.thread = {t};
            fiber.thread.block = {b};
            fiber.thread.lane = t % kWarp;
            fiber.thread.warp = t / kWarp;
            fiber.block = &all[b];
            fiber.warp = static_cast<size_t>(b) * (threads / kWarp) + t / kWarp;
            prepare(&fiber);
        }
    }
    size_t finished = 0;
    while (finished < fibers.size() && complaint == nullptr) {
        Fiber* fiber = pick();
        if (fiber == nullptr) {
            complaint = "deadlock: every thread waits";
            break;
        }
        resume(fiber);
        finished += fiber->done;
    }
    if (complaint != nullptr) throw std::runtime_error(std::string("emulator: ") + complaint);
}

}  // namespace wssl::emulator

// The device that the next launches see; for ctypes.
extern "C" __attribute__((visibility("default"))) void wssl_emulate(int blocks, int shared_bytes,
                                                                    int capability, int devices,
                                                                    unsigned seed) {
    wssl::emulator::settings = {blocks, shared_bytes, capability, devices, seed};
}
