#include "threads.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "memory.h"

#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace freehold {
namespace {

constexpr int kSpinsBeforeYield = 2000;  // tens of microseconds
constexpr auto kSpinBeforeSleep = std::chrono::microseconds(300);

}  // namespace

void Backoff::pause() {
    if (++spins_ < kSpinsBeforeYield) {
#ifdef __x86_64__
        _mm_pause();
#endif
    } else {
        sched_yield();
    }
}

ThreadPool::ThreadPool(int num_threads) {
    for (int thread = 1; thread < num_threads; thread++) threads_.emplace_back([this, thread] { loop(thread); });
}

ThreadPool::~ThreadPool() {
    stop_ = true;
    generation_.fetch_add(1);
    generation_.notify_all();
    for (auto& thread : threads_) thread.join();
}

void ThreadPool::run(const std::function<void(int)>& work, const std::function<void()>& meanwhile) {
    work_ = &work;
    running_.store(int(threads_.size()), std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    if (meanwhile) meanwhile();
    work(0);
    for (Backoff backoff; running_.load(std::memory_order_acquire);) backoff.pause();
}

void ThreadPool::parallel_for(int items, const std::function<void(int, int)>& work,
                              const std::function<void()>& meanwhile) {
    std::atomic<int> next{0};
    run(
        [&](int thread) {
            for (int item; (item = next.fetch_add(1, std::memory_order_relaxed)) < items;) work(item, thread);
        },
        meanwhile);
}

void ThreadPool::loop(int thread) {
    for (uint32_t seen = 0;;) {
        const auto sleep_at = std::chrono::steady_clock::now() + kSpinBeforeSleep;
        for (Backoff backoff; generation_.load(std::memory_order_acquire) == seen;) {
            backoff.pause();
            if (std::chrono::steady_clock::now() > sleep_at) generation_.wait(seen, std::memory_order_acquire);
        }
        seen++;
        if (stop_) return;
        (*work_)(thread);
        running_.fetch_sub(1, std::memory_order_release);
    }
}

double measure_read_bandwidth(ThreadPool& pool) {
    constexpr size_t kBytes = size_t(512) << 20, kPiece = size_t(1) << 20;
    const Pages pages(kBytes);
    const auto* words = reinterpret_cast<const uint64_t*>(pages.data());
    pool.parallel_for(int(kBytes / kPiece), [&](int item, int) {
        std::fill_n(reinterpret_cast<uint64_t*>(pages.data()) + item * (kPiece / 8), kPiece / 8, uint64_t(item));
    });
    std::atomic<uint64_t> sum{0};  // so that the reads are not optimised away
    double best = 0;
    for (int pass = 0; pass < 5; pass++) {
        const auto start = std::chrono::steady_clock::now();
        pool.parallel_for(int(kBytes / kPiece), [&](int item, int) {
            const uint64_t* piece = words + item * (kPiece / 8);
            uint64_t sums[32] = {};
            for (size_t i = 0; i < kPiece / 8; i += 32)
                for (int j = 0; j < 32; j++) sums[j] += piece[i + j];
            for (uint64_t s : sums) sum += s;
        });
        const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
        best = std::max(best, double(kBytes) / seconds.count());
    }
    return best;
}

}  // namespace freehold
