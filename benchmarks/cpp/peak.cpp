// What this machine can do at most: multiply-adds and memory reads a second, on any number of threads.
//
// Compiled at run time for the machine at hand, as a shared library with three functions of plain types:
//   c++ -std=c++20 -O3 -march=native -ffp-contract=fast -pthread -shared -fPIC peak.cpp -o peak.so

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <thread>
#include <vector>

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
constexpr int kLanes = kBytes / static_cast<int>(sizeof(float));
constexpr int kChains = 12;  // enough to hide the latency of a multiply-add, few enough for 16 registers
using Vector = float __attribute__((vector_size(kBytes)));

volatile float sink;  // keeps the compiler from dropping work whose result nobody reads

// Equal chains would be merged into one if the compiler could see that they are equal.
template <typename Value>
void hide(Value& value) {
#if defined(__aarch64__)
  asm volatile("" : "+w"(value));
#else
  asm volatile("" : "+v"(value));
#endif
}

template <typename Work>
double seconds(int threads, Work work) {
  std::vector<std::thread> others;
  const auto start = std::chrono::steady_clock::now();
  for (int i = 1; i < threads; ++i) others.emplace_back(work, i);
  work(0);
  for (std::thread& other : others) other.join();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void multiply_add(long turns) {
  Vector sums[kChains] = {};
  for (Vector& sum : sums) hide(sum);
  const Vector x = Vector{} + 1.0000001F, y = Vector{} + 1e-9F;
  for (long turn = 0; turn < turns; ++turn) {
#pragma GCC unroll 12
    for (Vector& sum : sums) sum = sum * x + y;
  }
  for (const Vector& sum : sums) sink = sum[0];
}

#ifdef __AVX512BF16__
void dot_bf16(long turns) {
  __m512 sums[kChains] = {};
  for (__m512& sum : sums) hide(sum);
  const __m512bh x = reinterpret_cast<__m512bh>(_mm512_set1_epi16(0x3c00));
  for (long turn = 0; turn < turns; ++turn) {
#pragma GCC unroll 12
    for (__m512& sum : sums) sum = _mm512_dpbf16_ps(sum, x, x);
  }
  for (const __m512& sum : sums) sink = sum[0];
}
#endif

void read(const float* data, std::size_t size) {
  constexpr int kStreams = 8;
  Vector sums[kStreams] = {};
  const auto* vectors = reinterpret_cast<const Vector*>(data);
  for (std::size_t i = 0; i + kStreams <= size / kLanes; i += kStreams) {
#pragma GCC unroll 8
    for (int j = 0; j < kStreams; ++j) sums[j] += vectors[i + j];
  }
  for (const Vector& sum : sums) sink = sum[0];
}

}  // namespace

// Float32 operations a second; a multiply-add counts as two.
extern "C" double fma_rate(int threads, long turns) {
  return 2.0 * kChains * kLanes * turns * threads / seconds(threads, [=](int) { multiply_add(turns); });
}

// The same with pairs of bfloat16, 0 where the machine has no such instruction.
extern "C" double bf16_dot_rate([[maybe_unused]] int threads, [[maybe_unused]] long turns) {
#ifdef __AVX512BF16__
  return 4.0 * kChains * kLanes * turns * threads / seconds(threads, [=](int) { dot_bf16(turns); });
#else
  return 0.0;
#endif
}

// Bytes a second of reading `data`, 64-byte aligned floats, once; every thread reads its own part.
extern "C" double read_rate(const float* data, long size, int threads) {
  const std::size_t part = static_cast<std::size_t>(size) / threads / 256 * 256;
  return 4.0 * part * threads / seconds(threads, [=](int i) { read(data + i * part, part); });
}
