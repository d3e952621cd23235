// Worker threads for loops over independent tasks, started at the first use and kept.

#pragma once

#include <functional>

namespace svip {

// Threads that the process may use: SVIP_NUM_THREADS or OMP_NUM_THREADS if set, else the processors it may run on.
int default_threads();

// Calls task(index, thread) for every index below n on at most `threads` threads, the caller's being thread 0.
// A call while another one runs, or below a fork, does all of it on the caller's thread.
void parallel_for(int n, int threads, const std::function<void(int, int)>& task);

}  // namespace svip
