// Worker threads for loops over independent tasks, started at the first use and kept.

#pragma once

namespace svip {

// A reference to something that is called with (index, thread): unlike std::function it never allocates.
class Task {
 public:
  template <class F>
  Task(const F& call)
      : object_(&call), call_([](const void* object, int index, int thread) {
          (*static_cast<const F*>(object))(index, thread);
        }) {}
  void operator()(int index, int thread) const { call_(object_, index, thread); }

 private:
  const void* object_;
  void (*call_)(const void*, int, int);
};

// Threads that the process may use: SVIP_NUM_THREADS or OMP_NUM_THREADS if set, else the processors it may
// run on.
int default_threads();

// Calls task(index, thread) for every index below n on at most `threads` threads, the caller's being thread
// 0. A call while another one runs, or below a fork, does all of it on the caller's thread.  If tasks throw,
// on whatever thread, no more are begun and the caller gets one of the exceptions.
void parallel_for(int n, int threads, Task task);

}  // namespace svip
