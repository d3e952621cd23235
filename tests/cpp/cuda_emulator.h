// Runs CUDA kernels on a CPU, thread by thread, for the tests.
//
// Every thread of a block is a coroutine on a stack of its own.  It runs until it meets a barrier, a shuffle
// or a matrix instruction, where it waits until all threads of its warp (or block) stand at the same place;
// the instruction is then done for all of them, by the layouts of the PTX manual.  A thread that is not held
// back runs ahead, so a missing barrier shows as garbage: shared memory starts as NaN.  What the hardware
// leaves open is chosen by a seed: the order of the threads, and whether an asynchronous copy happens when it
// is issued or only when it is waited for.
//
// Refused as errors, because the hardware would fault, hang or be slow: threads of a warp at different
// instructions, barriers that not all threads reach, unaligned addresses, writes past the shared memory, and
// matrix rows that share a bank.

#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#define __device__
#define __host__
#define __global__
#define __grid_constant__
#define __launch_bounds__(...)

struct Index {
  unsigned x, y, z;
};
inline Index threadIdx, blockIdx, blockDim, gridDim;

namespace svip::gpu {

inline constexpr int kInvalidValue = 1;  // cudaErrorInvalidValue
inline constexpr int kEmulationError = 999;
inline constexpr std::size_t kStackBytes = 256 * 1024;
inline constexpr std::size_t kGuardBytes = 256;
inline constexpr std::size_t kMostShared = 128 * 1024;

struct Copy {
  void* to;
  const void* from;
  int bytes;
};

struct Thread {
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  ucontext_t start;
  jmp_buf place;
  bool started, done, waiting;
  std::vector<std::vector<Copy>> copies;  // groups, the last one still open
};

struct Warp {
  const void* arguments[32];
  const char* instruction;
  int arrived;
};

struct Machine {
  unsigned seed = 0;
  std::string failure;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<char> memory;
  char* shared = nullptr;
  std::size_t shared_bytes = 0;
  int n_threads = 0, current = 0, at_barrier = 0, n_done = 0;
  ucontext_t scheduler_start;
  jmp_buf scheduler;
  std::function<void()> kernel;
  bool lazy_copies() const { return seed / 3 % 2 == 1; }
};
inline Machine machine;

[[noreturn]] inline void to_scheduler() { _longjmp(machine.scheduler, 1); }

[[noreturn]] inline void fail(const std::string& reason) {
  if (machine.failure.empty()) machine.failure = reason;
  to_scheduler();
}

// Gives the processor away; returns when the thread is let on.
inline void wait() {
  Thread& thread = machine.threads[static_cast<std::size_t>(machine.current)];
  thread.waiting = true;
  if (!_setjmp(thread.place)) to_scheduler();
}

inline void run_thread() {
  machine.kernel();
  Thread& thread = machine.threads[static_cast<std::size_t>(machine.current)];
  thread.done = true;
  ++machine.n_done;
  to_scheduler();
}

inline void resume(int index) {
  Thread& thread = machine.threads[static_cast<std::size_t>(index)];
  machine.current = index;
  threadIdx = {static_cast<unsigned>(index), 0, 0};
  if (_setjmp(machine.scheduler)) return;
  if (thread.started) _longjmp(thread.place, 1);
  thread.started = true;
  getcontext(&thread.start);
  thread.start.uc_stack.ss_sp = thread.stack.get();
  thread.start.uc_stack.ss_size = kStackBytes;
  thread.start.uc_link = nullptr;
  makecontext(&thread.start, run_thread, 0);
  setcontext(&thread.start);
}

// Meets the other 31 threads of the warp; the last to come does the work for all.
template <class Arguments, class Work>
void together(const char* instruction, const Arguments& mine, Work work) {
  const int lane = machine.current % 32;
  Warp& warp = machine.warps[static_cast<std::size_t>(machine.current / 32)];
  if (warp.arrived && std::strcmp(warp.instruction, instruction) != 0)
    fail(std::string("a warp is at ") + instruction + " and at " + warp.instruction);
  warp.instruction = instruction;
  warp.arguments[lane] = &mine;
  if (++warp.arrived < 32) return wait();
  warp.arrived = 0;
  work(reinterpret_cast<const Arguments* const*>(warp.arguments));
  const int first = machine.current - lane;
  for (int i = first; i < first + 32; ++i) machine.threads[static_cast<std::size_t>(i)].waiting = false;
}

inline bool guard_is_whole() {
  const char* end = machine.shared + machine.shared_bytes;
  return std::all_of(end, end + kGuardBytes, [](char c) { return c == '\x5a'; });
}

inline void run_block(int n_threads, std::size_t shared) {
  Machine& m = machine;
  m.n_threads = n_threads;
  m.at_barrier = m.n_done = 0;
  if (m.threads.size() < static_cast<std::size_t>(n_threads))
    m.threads.resize(static_cast<std::size_t>(n_threads));
  for (Thread& thread : m.threads) {
    thread.started = thread.done = thread.waiting = false;
    thread.copies.assign(1, {});
  }
  m.warps.assign(static_cast<std::size_t>(n_threads / 32), {});
  m.memory.assign(shared + kGuardBytes + 128, '\xff');  // of every float type a NaN
  m.shared = m.memory.data() + (128 - reinterpret_cast<std::uintptr_t>(m.memory.data()) % 128);
  m.shared_bytes = shared;
  std::memset(m.shared + shared, 0x5a, kGuardBytes);

  std::vector<int> order(static_cast<std::size_t>(n_threads));
  std::iota(order.begin(), order.end(), 0);
  std::mt19937 random(m.seed);
  if (m.seed % 3 == 1) std::reverse(order.begin(), order.end());
  while (m.n_done < n_threads && m.failure.empty()) {
    if (m.seed % 3 == 2) std::shuffle(order.begin(), order.end(), random);
    bool any = false;
    for (const int index : order) {
      const Thread& thread = m.threads[static_cast<std::size_t>(index)];
      if (thread.done || thread.waiting) continue;
      any = true;
      resume(index);
      if (!m.failure.empty()) return;
    }
    if (!any) m.failure = "threads wait for others that never come";
  }
}

template <class Call>
int launch(void (*kernel)(Call), Grid grid, int threads, std::size_t shared, void*, const Call& call) {
  machine.failure.clear();
  if (threads < 32 || threads % 32 || threads > 1024 || grid.x < 1 || grid.y < 1 || shared > kMostShared)
    return kInvalidValue;
  machine.kernel = [&] { kernel(call); };
  gridDim = {static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), 1};
  blockDim = {static_cast<unsigned>(threads), 1, 1};
  for (int y = 0; y < grid.y; ++y)
    for (int x = 0; x < grid.x; ++x) {
      blockIdx = {static_cast<unsigned>(x), static_cast<unsigned>(y), 0};
      run_block(threads, shared);
      if (machine.failure.empty() && !guard_is_whole())
        machine.failure = "a write past the end of the shared memory";
      if (!machine.failure.empty()) return kEmulationError;
    }
  return 0;
}

class UseDevice {
 public:
  explicit UseDevice(int) {}
  int error() const { return 0; }
};

inline const char* error_text(int code) {
  return code == kEmulationError ? machine.failure.c_str() : code ? "invalid argument" : "no error";
}

inline float to_float(float x) { return x; }
inline float to_float(Bfloat16 x) {
  const std::uint32_t bits = static_cast<std::uint32_t>(x.bits) << 16;
  float out;
  std::memcpy(&out, &bits, sizeof out);
  return out;
}
inline float to_float(Float16 x) {
  const int exponent = x.bits >> 10 & 31, fraction = x.bits & 1023;
  float out = exponent == 31  ? (fraction ? NAN : INFINITY)
              : exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                              : std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
  return x.bits >> 15 ? -out : out;
}

inline void round_to(float x, float& out) { out = x; }
inline void round_to(float x, Bfloat16& out) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if (x != x)
    out.bits = 0x7fff;
  else
    out.bits = static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);  // ties to even
}
inline void round_to(float x, Float16& out) {
  const int sign = std::signbit(x) ? 0x8000 : 0;
  const float size = std::fabs(x);
  int bits;
  if (x != x) {
    bits = 0x7fff;
  } else if (size >= 65520.f) {
    bits = 0x7c00;
  } else if (size < 6.1035156e-05f) {  // subnormal, in steps of 2^-24
    bits = static_cast<int>(std::nearbyint(std::ldexp(size, 24)));
  } else {
    const int exponent = std::ilogb(size);
    const int fraction = static_cast<int>(std::nearbyint(std::ldexp(size, 10 - exponent)));  // 1024 to 2048
    bits = ((exponent + 15) << 10) + fraction - 1024;
  }
  out.bits = static_cast<std::uint16_t>(sign | bits);
}

inline char* shared_memory() { return machine.shared; }

inline void sync_warp() {
  together("a warp barrier", 0, [](const int* const*) {});
}

inline void sync_block() {
  if (++machine.at_barrier < machine.n_threads) return wait();
  machine.at_barrier = 0;
  for (Thread& thread : machine.threads) thread.waiting = false;
}

inline float shuffle_xor(float x, int mask) {
  struct Arguments {
    float x;
    float* out;
    int mask;
  };
  float out;
  together("a shuffle", Arguments{x, &out, mask}, [](const Arguments* const* lanes) {
    for (int i = 0; i < 32; ++i) *lanes[i]->out = lanes[i ^ lanes[i]->mask]->x;
  });
  return out;
}

inline void do_copy(const Copy& copy) {
  std::memset(copy.to, 0, 16);
  std::memcpy(copy.to, copy.from, static_cast<std::size_t>(copy.bytes));
}

inline void copy16(void* shared, const void* global, int bytes) {
  const auto to = reinterpret_cast<std::uintptr_t>(shared), from = reinterpret_cast<std::uintptr_t>(global);
  if (to % 16 || from % 16) fail("an unaligned copy");
  if (static_cast<char*>(shared) < machine.shared ||
      static_cast<char*>(shared) + 16 > machine.shared + machine.shared_bytes)
    fail("a copy past the shared memory");
  if (bytes != 0 && bytes != 16) fail("a copy of neither 0 nor 16 bytes");
  const Copy copy{shared, global, bytes};
  if (machine.lazy_copies())
    machine.threads[static_cast<std::size_t>(machine.current)].copies.back().push_back(copy);
  else
    do_copy(copy);
}
inline void copies_commit() {
  machine.threads[static_cast<std::size_t>(machine.current)].copies.push_back({});
}
template <int kNewest>
void copies_wait() {
  auto& groups = machine.threads[static_cast<std::size_t>(machine.current)].copies;
  while (groups.size() > kNewest + 1) {
    for (const Copy& copy : groups.front()) do_copy(copy);
    groups.erase(groups.begin());
  }
}

struct MatrixRow {
  const void* row;
  std::uint32_t* out;
};

inline void check_rows(const MatrixRow* const* lanes) {
  for (int first = 0; first < 32; first += 8) {
    unsigned banks = 0;
    for (int i = first; i < first + 8; ++i) {
      const auto address = reinterpret_cast<std::uintptr_t>(lanes[i]->row);
      if (address % 16) fail("an unaligned row of a matrix");
      banks |= 1u << (address / 16 % 8);
    }
    if (banks != 0xff) fail("rows of a matrix share a bank");
  }
}

template <bool kTransposed>
void load_matrices_as(const char* name, std::uint32_t (&out)[4], const void* row) {
  together(name, MatrixRow{row, out}, [](const MatrixRow* const* lanes) {
    check_rows(lanes);
    for (int lane = 0; lane < 32; ++lane)
      for (int matrix = 0; matrix < 4; ++matrix) {
        std::uint16_t pair[2];
        for (int i = 0; i < 2; ++i) {
          const int r = lane / 4, c = lane % 4 * 2 + i;
          const auto* from =
              static_cast<const std::uint16_t*>(lanes[8 * matrix + (kTransposed ? c : r)]->row);
          pair[i] = from[kTransposed ? r : c];
        }
        lanes[lane]->out[matrix] = pair[0] | static_cast<std::uint32_t>(pair[1]) << 16;
      }
  });
}
inline void load_matrices(std::uint32_t (&out)[4], const void* row) {
  load_matrices_as<false>("a matrix load", out, row);
}
inline void load_matrices_transposed(std::uint32_t (&out)[4], const void* row) {
  load_matrices_as<true>("a transposed matrix load", out, row);
}

struct Product {
  float* out;
  const std::uint32_t* a;
  std::uint32_t b[2];
};

template <class T>
float half_of(std::uint32_t pair, int which) {
  return to_float(T{static_cast<std::uint16_t>(pair >> (16 * which))});
}

// mma.m16n8k16 by the fragment layouts of the PTX manual.
template <class T>
void multiply(float (&out)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1, T) {
  together("a matrix product", Product{out, a, {b0, b1}}, [](const Product* const* lanes) {
    static float left[16][16], right[16][8];
    for (int lane = 0; lane < 32; ++lane)
      for (int i = 0; i < 8; ++i) {
        const int group = lane / 4, pair = lane % 4 * 2;
        const int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
        left[row][pair + i % 2 + (i >= 4 ? 8 : 0)] = half_of<T>(lanes[lane]->a[i / 2], i % 2);
        if (i < 4) right[pair + i % 2 + (i >= 2 ? 8 : 0)][group] = half_of<T>(lanes[lane]->b[i / 2], i % 2);
      }
    for (int lane = 0; lane < 32; ++lane)
      for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + (i >= 2 ? 8 : 0), column = lane % 4 * 2 + i % 2;
        float sum = lanes[lane]->out[i];
        for (int k = 0; k < 16; ++k) sum += left[row][k] * right[k][column];
        lanes[lane]->out[i] = sum;
      }
  });
}

}  // namespace svip::gpu

// Chooses the order of threads (seed % 3) and when copies happen (seed / 3 % 2).
extern "C" void svip_emulator_seed(unsigned seed) { svip::gpu::machine.seed = seed; }
