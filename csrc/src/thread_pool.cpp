#include "thread_pool.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif
#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace svip {

namespace {

// Waking a sleeping thread takes about as long as a small frontier: workers look for more work before they
// sleep.
constexpr int kSpins = 2000;

void relax() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#endif
}

long process() {
#if defined(__unix__) || defined(__APPLE__)
  return static_cast<long>(getpid());
#else
  return 0;
#endif
}

class Pool {
 public:
  void run(int n, int threads, const Task& task) {
    start(threads - 1);
    task_ = &task;
    n_ = n;
    wanted_ = threads - 1;
    next_.store(0, std::memory_order_relaxed);
    busy_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
    epoch_.fetch_add(1, std::memory_order_release);
    epoch_.notify_all();
    work(0);
    for (int left = busy_.load(std::memory_order_acquire), spins = 0; left != 0;
         left = busy_.load(std::memory_order_acquire)) {
      if (++spins < kSpins) {
        relax();
      } else {
        busy_.wait(left);
      }
    }
    if (failed_.exchange(false, std::memory_order_relaxed))
      std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  void start(int n) {
    try {
      while (static_cast<int>(workers_.size()) < n) {
        const int index = static_cast<int>(workers_.size()) + 1;
        workers_.emplace_back([this, index, seen = epoch_.load()]() mutable { serve(index, seen); });
        workers_.back().detach();
      }
    } catch (const std::system_error&) {  // the system has no more threads for us: fewer do as well
    }
  }

  [[noreturn]] void serve(int index, unsigned seen) {
    for (;;) {
      for (int spins = 0; epoch_.load(std::memory_order_acquire) == seen;) {
        if (++spins < kSpins) {
          relax();
        } else {
          epoch_.wait(seen);
        }
      }
      seen = epoch_.load(std::memory_order_acquire);
      if (index <= wanted_) work(index);
      if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.notify_one();
    }
  }

  void work(int thread) noexcept {
    try {
      while (!failed_.load(std::memory_order_relaxed)) {
        const int i = next_.fetch_add(1, std::memory_order_relaxed);
        if (i >= n_) return;
        (*task_)(i, thread);
      }
    } catch (...) {
      if (!failed_.exchange(true, std::memory_order_relaxed)) error_ = std::current_exception();
    }
  }

  std::vector<std::thread> workers_;
  const Task* task_ = nullptr;
  std::exception_ptr error_;
  int n_ = 0, wanted_ = 0;
  std::atomic<bool> failed_{false};
  std::atomic<int> next_{0}, busy_{0};
  std::atomic<unsigned> epoch_{0};
};

std::mutex gate;
Pool* pool = nullptr;  // never deleted: its threads may outlive every destructor
long owner = 0;

}  // namespace

int default_threads() {
  for (const char* const name : {"SVIP_NUM_THREADS", "OMP_NUM_THREADS"}) {
    if (const char* const text = std::getenv(name)) {
      if (const int n = std::atoi(text); n > 0) return std::min(n, 1024);
    }
  }
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(CPU_COUNT(&set), 1);
#endif
  return std::max(static_cast<int>(std::thread::hardware_concurrency()), 1);
}

void parallel_for(int n, int threads, Task task) {
  threads = std::min(threads, n);
  if (threads > 1) {
    // A fork copies the mutex in whatever state it was, and none of the threads.
    const std::unique_lock lock(gate, std::try_to_lock);
    if (lock.owns_lock()) {
      if (pool == nullptr || owner != process()) {
        pool = new Pool;
        owner = process();
      }
      pool->run(n, threads, task);
      return;
    }
  }
  for (int i = 0; i < n; ++i) task(i, 0);
}

}  // namespace svip
