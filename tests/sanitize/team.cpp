// The eight entry points of libgomp that csrc/cpu uses, on std::thread, for ThreadSanitizer.
//
// libgomp is not instrumented: its barriers are futexes that ThreadSanitizer does not see, and
// every hand-over from packing to multiplying would be reported. Here a barrier is a mutex, which
// it sees, and a queue of iterations is a relaxed counter, which orders nothing: two threads that
// touch the same memory between barriers are reported, however the queue served them.
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

namespace {

constexpr int kLoops = 1 << 16;

struct Team {
    explicit Team(int count) : threads(count), taken(kLoops) {}
    int threads;
    std::vector<std::atomic<long>> taken;  // chunks of the i-th dynamic loop
    std::mutex mutex;
    std::condition_variable turned;
    int arrived = 0, generation = 0;
};

struct Loop {
    long start, end, step;
};

thread_local Team* team = nullptr;
thread_local int self = 0, loops = 0;
thread_local Loop loop;

bool next(long* begin, long* end) {
    const long chunk = team->taken[loops - 1].fetch_add(1, std::memory_order_relaxed);
    *begin = loop.start + chunk * loop.step;
    if (*begin >= loop.end) return false;
    *end = *begin + loop.step < loop.end ? *begin + loop.step : loop.end;
    return true;
}

}  // namespace

extern "C" {

int omp_get_thread_num() { return self; }
int omp_get_num_threads() { return team == nullptr ? 1 : team->threads; }

void GOMP_barrier() {
    std::unique_lock<std::mutex> lock(team->mutex);
    const int generation = team->generation;
    if (++team->arrived == team->threads) {
        team->arrived = 0;
        ++team->generation;
        team->turned.notify_all();
    } else {
        team->turned.wait(lock, [&] { return team->generation != generation; });
    }
}

void GOMP_parallel(void (*work)(void*), void* data, unsigned count, unsigned) {
    Team own(count == 0 ? 1 : static_cast<int>(count));
    const auto run = [&](int number) {
        team = &own;
        self = number;
        loops = 0;
        work(data);
        team = nullptr;
        self = 0;
    };
    std::vector<std::thread> others;
    for (int number = 1; number < own.threads; ++number) others.emplace_back(run, number);
    run(0);
    for (std::thread& other : others) other.join();
}

// Loops that count up, by `chunk` iterations of 1: what the compiler makes of those in csrc/cpu.
bool GOMP_loop_nonmonotonic_dynamic_start(long start, long end, long increment, long chunk,
                                          long* first, long* last) {
    if (increment != 1 || loops == kLoops) std::abort();
    ++loops;
    loop = {start, end, chunk};
    return next(first, last);
}

bool GOMP_loop_nonmonotonic_dynamic_next(long* first, long* last) { return next(first, last); }
void GOMP_loop_end() { GOMP_barrier(); }
void GOMP_loop_end_nowait() {}

}  // extern "C"
