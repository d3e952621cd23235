// What the C++ tests of the tree attention share.  Included once a program: it replaces operator new, so that
// tests can count allocations and let one of them fail.

#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <limits>
#include <new>
#include <random>
#include <utility>
#include <vector>

inline std::atomic<int> failures{0};

#define CHECK(condition)                                                  \
  do {                                                                    \
    if (!(condition)) {                                                   \
      std::printf("%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
      ++failures;                                                         \
    }                                                                     \
  } while (false)

namespace testing {

inline std::atomic<long> allocations{0};
inline std::atomic<long> until_failure{-1};  // allocations until one fails, once; negative: none does

inline std::atomic<bool> strange_failures{false};  // they fail with something else than std::bad_alloc

struct StrangeFailure : std::exception {
  const char* what() const noexcept override { return "strange"; }
};

inline void* allocate(std::size_t bytes, std::size_t alignment) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  if (until_failure.load(std::memory_order_relaxed) >= 0 && until_failure.fetch_sub(1) == 0) {
    if (strange_failures) throw StrangeFailure();
    throw std::bad_alloc();
  }
  // aligned_alloc wants whole multiples.
  void* const memory = alignment == 0
                           ? std::malloc(std::max<std::size_t>(bytes, 1))
                           : std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// A copy of some values with nothing readable right after the last one, or right before the first one.
template <class T>
class Guarded {
 public:
  enum class Side { kBefore, kAfter };

  Guarded(const std::vector<T>& values, Side side) : size_(values.size()) {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t bytes = size_ * sizeof(T), middle = (bytes + page - 1) / page * page;
    mapped_ = middle + 2 * page;
    void* const all = mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED) throw std::bad_alloc();
    base_ = static_cast<std::byte*>(all);
    if (middle > 0 && mprotect(base_ + page, middle, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
    data_ = reinterpret_cast<T*>(base_ + page + (side == Side::kAfter ? middle - bytes : 0));
    std::copy(values.begin(), values.end(), data_);
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() { munmap(base_, mapped_); }

  T* data() { return data_; }
  std::vector<T> values() const {
    std::vector<T> copy(size_);
    std::copy_n(data_, size_, copy.begin());
    return copy;
  }

 private:
  std::size_t size_, mapped_ = 0;
  std::byte* base_ = nullptr;
  T* data_ = nullptr;
};

// Parents and tokens of a random tree.
struct Shape {
  std::vector<std::int32_t> parent;
  std::vector<std::int64_t> token_ptr{0};
  std::vector<std::uint8_t> segment;

  std::size_t nodes() const { return parent.size(); }
  std::size_t tokens() const { return segment.size(); }
};

inline int draw(std::mt19937& random, int low, int high) {
  return std::uniform_int_distribution<int>(low, high)(random);
}

// Chains, stars and everything between; several roots; some nodes without tokens, but none of them a root.
inline Shape random_shape(std::mt19937& random, int nodes, int most_tokens) {
  Shape shape;
  const int reach = draw(random, 0, 1) == 0 ? 2 : nodes;  // parents among the newest or anywhere
  for (int node = 0; node < nodes; ++node) {
    const bool root = node == 0 || draw(random, 0, 15) == 0;
    shape.parent.push_back(root ? -1 : draw(random, std::max(0, node - reach), node - 1));
    const int tokens = !root && draw(random, 0, 7) == 0 ? 0 : draw(random, 1, most_tokens);
    const int kind = draw(random, 0, 3);  // 3: all kinds mixed
    for (int t = 0; t < tokens; ++t) {
      shape.segment.push_back(static_cast<std::uint8_t>(kind == 3 ? draw(random, 0, 2) : kind));
    }
    shape.token_ptr.push_back(static_cast<std::int64_t>(shape.segment.size()));
  }
  return shape;
}

// As good as normal: sums of four uniform numbers.  std::normal_distribution took most of a test's time.
inline std::vector<float> normal(std::mt19937& random, std::size_t n, float scale = 1.0F) {
  constexpr float kDeviation = 37837.2F;  // of such a sum, 2^16 / sqrt(3)
  std::vector<float> values(n);
  for (float& value : values) {
    const auto a = random(), b = random();
    const auto sum = static_cast<std::int32_t>((a & 0xffffU) + (a >> 16) + (b & 0xffffU) + (b >> 16));
    value = scale * static_cast<float>(sum - 2 * 0xffff) / kDeviation;
  }
  return values;
}

// n nodes of a tree in any order, repeats likely.
inline std::vector<std::int32_t> random_frontier(std::mt19937& random, std::size_t nodes, int n) {
  std::vector<std::int32_t> frontier;
  for (int i = 0; i < n; ++i) frontier.push_back(draw(random, 0, static_cast<int>(nodes) - 1));
  return frontier;
}

// Equal to the last bit, NaN included.
inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

// The seed of the command line, or a fresh one; printed, so that a failure can be repeated.
inline unsigned seed(int argc, char** argv) {
  const unsigned value =
      argc > 1 ? static_cast<unsigned>(std::strtoul(argv[1], nullptr, 10)) : std::random_device{}();
  std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);  // what was printed before a crash is what explains it
  std::printf("seed %u\n", value);
  return value;
}

}  // namespace testing

// Inlined, they would look mismatched to the warnings of GCC.
[[gnu::noinline]] void* operator new(std::size_t bytes) { return testing::allocate(bytes, 0); }
[[gnu::noinline]] void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return testing::allocate(bytes, static_cast<std::size_t>(alignment));
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  std::free(memory);
}
