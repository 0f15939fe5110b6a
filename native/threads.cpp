#include "threads.h"

#include <unistd.h>

#include <chrono>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace mobilenetv2 {
namespace {

inline void pause_briefly() {
#if defined(__x86_64__) || defined(__i386__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// About 20 microseconds: longer than any wait within a run on an idle machine, too short to matter on a busy one.
constexpr int SPINS = 1000;
// How long a worker waits for the next run before it sleeps. Waking it costs some tens of microseconds, and systems like to
// wake it on the processor of its caller, which then shares it for milliseconds.
constexpr auto AWAKE = std::chrono::milliseconds(2);

// Systems wake a worker on the processor of its caller now and then, and may leave both there: each then waits for what the
// other computes, and two threads take longer than one.
#if defined(__linux__)
int processor() { return sched_getcpu(); }
void leave(int processor) {
    if (processor < 0 || sched_getcpu() != processor) return;
    cpu_set_t allowed, others;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
    others = allowed;
    CPU_CLR(processor, &others);
    // It moves at once, and may go wherever it might before.
    if (CPU_COUNT(&others) > 0 && sched_setaffinity(0, sizeof others, &others) == 0)
        sched_setaffinity(0, sizeof allowed, &allowed);
}
#else
int processor() { return -1; }
void leave(int) {}
#endif

}  // namespace

void Barrier::wait() {
    if (threads_ == 1) return;
    const uint32_t generation = generation_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
        arrived_.store(0, std::memory_order_relaxed);
        generation_.store(generation + 1, std::memory_order_release);
        return;
    }
    // With fewer processors than threads the one waited for may need this one's.
    for (int spins = 0; generation_.load(std::memory_order_acquire) == generation; spins++)
        spins < SPINS ? pause_briefly() : std::this_thread::yield();
}

struct Team::Shared {
    explicit Shared(int threads) : end(threads) {}
    Barrier end;
    std::atomic<uint32_t> runs{0};
    std::atomic<bool> stop{false};
    std::atomic<int> caller{-1};  // its processor
    const std::function<void(int)>* work = nullptr;
};

Team::Team(int threads) : threads_(threads) {}

void Team::start() {
    shared_ = std::make_shared<Shared>(threads_);
    process_ = getpid();
    for (int t = 1; t < threads_; t++)
        workers_.emplace_back([shared = shared_, t] {
            for (uint32_t seen = 0;; seen++) {
                const auto until = std::chrono::steady_clock::now() + AWAKE;
                while (shared->runs.load(std::memory_order_acquire) == seen && std::chrono::steady_clock::now() < until)
                    for (int spins = 0; spins < 64 && shared->runs.load(std::memory_order_acquire) == seen; spins++)
                        pause_briefly();
                shared->runs.wait(seen, std::memory_order_acquire);
                if (shared->stop.load(std::memory_order_relaxed)) return;
                leave(shared->caller.load(std::memory_order_relaxed));
                (*shared->work)(t);
                shared->end.wait();
            }
        });
}

// In the child of a fork the threads are no more, and their handles can neither be joined nor destroyed.
void Team::forget_workers() {
    for (auto& worker : workers_) new std::thread(std::move(worker));
    workers_.clear();
}

void Team::run(const std::function<void(int)>& work) {
    if (MOST_THREADS == 1 || threads_ == 1) return work(0);
    if (process_ != getpid()) {
        // First use, or the child of a fork.
        forget_workers();
        start();
    }
    shared_->work = &work;
    shared_->caller.store(processor(), std::memory_order_relaxed);
    shared_->runs.fetch_add(1, std::memory_order_release);
    shared_->runs.notify_all();
    work(0);
    shared_->end.wait();
}

Team::~Team() {
    if (workers_.empty()) return;
    if (process_ != getpid()) {
        forget_workers();
        return;
    }
    shared_->stop.store(true, std::memory_order_relaxed);
    shared_->runs.fetch_add(1, std::memory_order_release);
    shared_->runs.notify_all();
    for (auto& worker : workers_) worker.join();
}

}  // namespace mobilenetv2
