// Threads that go through one function side by side and wait for each other between its stages.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace arriero {

struct Range {
    int64_t begin, end;
};

// The calling thread is number 0. A barrier is passed some hundred times in a step of a few milliseconds, so threads
// spin there; between steps they sleep.
class Pool {
  public:
    explicit Pool(int threads) : count_(threads < 1 ? 1 : threads) {
        for (int me = 1; me < count_; me++) workers_.emplace_back([this, me] { work(me); });
    }

    ~Pool() {
        ending_ = true;
        start();
        for (auto& worker : workers_) worker.join();
    }

    int count() const { return count_; }

    // Every thread calls task(its number); returns when all have. One call at a time: others wait.
    void run(const std::function<void(int)>& task) {
        const std::lock_guard<std::mutex> one(running_);
        task_ = &task;
        start();
        task(0);
        barrier();
    }

    void barrier() {
        const uint32_t round = round_.load(std::memory_order_relaxed);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == count_) {
            arrived_.store(0, std::memory_order_relaxed);
            round_.store(round + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; round_.load(std::memory_order_acquire) == round; spins++) rest(spins, 4000);
    }

    // The part of `items` that is this thread's.
    Range share(int me, int64_t items) const { return {items * me / count_, items * (me + 1) / count_}; }

  private:
    void start() {
        generation_.fetch_add(1, std::memory_order_release);
        generation_.notify_all();
    }

    void work(int me) {
        uint32_t seen = 0;
        while (true) {
            int spins = 0;
            while (generation_.load(std::memory_order_acquire) == seen && spins < 20000) rest(spins++, 20000);
            generation_.wait(seen, std::memory_order_acquire);
            seen++;
            if (ending_) return;
            (*task_)(me);
            barrier();
        }
    }

    static void rest(int spins, int patience) {
        if (spins > patience)
            std::this_thread::yield();  // another process has the core
#ifdef __x86_64__
        else
            __builtin_ia32_pause();
#endif
    }

    const int count_;
    std::mutex running_;
    std::vector<std::thread> workers_;
    const std::function<void(int)>* task_ = nullptr;
    std::atomic<bool> ending_{false};
    alignas(64) std::atomic<uint32_t> generation_{0};
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<uint32_t> round_{0};
};

}  // namespace arriero
