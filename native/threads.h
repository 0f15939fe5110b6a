// A few threads that do one thing together, again and again, with as little time between as possible.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace mobilenetv2 {

// Pages have more than one only where they are served apart from others, which most are not.
#if defined(__wasm__)
constexpr int MOST_THREADS = 1;
#else
constexpr int MOST_THREADS = 1024;
#endif

// Where threads wait for each other.
class Barrier {
  public:
    explicit Barrier(int threads) : threads_(threads) {}
    void wait();

  private:
    const int threads_;
    std::atomic<int> arrived_{0};
    std::atomic<uint32_t> generation_{0};
};

class Team {
  public:
    // threads: with the one that calls `run`.
    explicit Team(int threads);
    ~Team();
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    int size() const { return threads_; }
    // work(t) on each thread t; the caller is thread 0. One run at a time. work must not throw.
    void run(const std::function<void(int)>& work);

  private:
    struct Shared;
    void start();
    void forget_workers();

    const int threads_;
    std::shared_ptr<Shared> shared_;
    std::vector<std::thread> workers_;
    pid_t process_ = 0;
};

}  // namespace mobilenetv2
