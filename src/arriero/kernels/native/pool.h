// Threads that share the work of one stage after another.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace arriero {

// The calling thread goes through the stages and works itself; the others help with whatever part of the present stage
// nobody has taken. A stage waits for parts and not for threads: one that the system has put aside, because other
// programs want the processor, holds nobody up. A step has some hundred stages, so helpers spin between them for a
// while before they sleep.
class Pool {
  public:
    explicit Pool(int threads) {
        try {
            for (int i = 1; i < threads; i++) helpers_.emplace_back([this] { help(); });
        } catch (const std::system_error&) {
            // the system gives no more threads: fewer do the work
        }
    }

    ~Pool() {
        ending_ = true;
        wake();
        for (auto& helper : helpers_) helper.join();
    }

    // part(begin, end) for consecutive ranges that together are 0 to count, in any order and by any thread; returns when
    // all are done.
    template <class Part>
    void each(int64_t count, const Part& part) {
        const int64_t most = PARTS * int64_t(helpers_.size() + 1), parts = count < most ? count : most;
        if (parts <= 1 || helpers_.empty()) {
            if (count > 0) part(int64_t(0), count);
            return;
        }
        call_ = [](const void* f, int64_t begin, int64_t end) { (*static_cast<const Part*>(f))(begin, end); };
        part_ = &part;
        count_ = count;
        done_.store(0, std::memory_order_relaxed);
        const uint64_t stage = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
        ticket_.store(stage << 32 | uint64_t(parts) << 16, std::memory_order_release);
        wake();
        while (take()) {
        }
        for (int spins = 0; done_.load(std::memory_order_acquire) < parts; spins++) rest(spins);
    }

    std::mutex busy;  // held by whoever calls `each`

  private:
    static constexpr int64_t PARTS = 3;  // of each thread

    // Do one part of the present stage; false if none is left. A ticket is the stage's number, its parts, and those
    // taken: a part is taken only from the stage that was looked at, which cannot end before it is done.
    bool take() {
        uint64_t ticket = ticket_.load(std::memory_order_acquire);
        while (true) {
            const int64_t parts = ticket >> 16 & 0xffff, part = ticket & 0xffff;
            if (part >= parts) return false;
            if (ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) {
                call_(part_, count_ * part / parts, count_ * (part + 1) / parts);
                done_.fetch_add(1, std::memory_order_release);
                return true;
            }
        }
    }

    void wake() {
        stages_.fetch_add(1, std::memory_order_release);
        stages_.notify_all();
    }

    void help() {
        uint32_t seen = 0;
        while (!ending_) {
            while (take()) {
            }
            for (int spins = 0; stages_.load(std::memory_order_acquire) == seen && spins < PATIENCE; spins++) rest(spins);
            stages_.wait(seen, std::memory_order_acquire);
            seen = stages_.load(std::memory_order_acquire);
        }
    }

    static constexpr int PATIENCE = 20000;

    static void rest(int spins) {
        if (spins % 1000 == 999)
            std::this_thread::yield();  // another program may have been waiting for the processor
#ifdef __x86_64__
        else
            __builtin_ia32_pause();
#endif
    }

    std::vector<std::thread> helpers_;
    void (*call_)(const void*, int64_t, int64_t) = nullptr;
    const void* part_ = nullptr;
    int64_t count_ = 0;
    std::atomic<bool> ending_{false};
    alignas(64) std::atomic<uint32_t> stages_{0};
    alignas(64) std::atomic<uint64_t> ticket_{0};
    alignas(64) std::atomic<int64_t> done_{0};
};

}  // namespace arriero
