// One pool of threads for all programs. The caller is thread 0; the others spin briefly between runs, then sleep.
#pragma once

#include <atomic>
#include <functional>
#include <thread>
#include <vector>

namespace freehold {

// Waiting for another thread: spins, and after a while lets others run, since the awaited thread may have lost its
// core.
class Backoff {
  public:
    void pause();

  private:
    int spins_ = 0;
};

class ThreadPool {
  public:
    explicit ThreadPool(int num_threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int size() const { return int(threads_.size()) + 1; }

    // Calls work(thread) on every thread of the pool; returns when all have. Not reentrant. The caller does
    // `meanwhile` first, which must not throw.
    void run(const std::function<void(int)>& work, const std::function<void()>& meanwhile = nullptr);

    // Calls work(item, thread) for each item once, claimed one by one.
    void parallel_for(int items, const std::function<void(int, int)>& work,
                      const std::function<void()>& meanwhile = nullptr);

  private:
    void loop(int thread);

    std::vector<std::thread> threads_;
    const std::function<void(int)>* work_ = nullptr;
    alignas(64) std::atomic<uint32_t> generation_{0};
    alignas(64) std::atomic<int> running_{0};
    std::atomic<bool> stop_{false};
};

// Bytes per second at which the pool reads memory, the best of several passes over a buffer that no cache holds.
double measure_read_bandwidth(ThreadPool& pool);

}  // namespace freehold
