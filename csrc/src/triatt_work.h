// What `run` and `scan` share.

#pragma once

#include <algorithm>
#include <limits>
#include <memory>
#include <new>
#include <stdexcept>

#include "bfloat16.h"
#include "svip/triatt.h"
#include "thread_pool.h"
#include "triatt_tier.h"

namespace svip {

inline constexpr double kFlopsPerThread = 1.5e6;  // below this a thread costs more than it does
inline constexpr int kMaxThreads = 1024;
inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

// One array of floats that grows but never shrinks and starts at a cache line.
class Buffer {
 public:
  float* get(std::size_t n) {
    if (n > size_) {
      data_.reset(static_cast<float*>(::operator new(n * sizeof(float), std::align_val_t{64})));
      size_ = n;
    }
    return data_.get();
  }

 private:
  struct Delete {
    void operator()(float* p) const { ::operator delete(p, std::align_val_t{64}); }
  };
  std::unique_ptr<float, Delete> data_;
  std::size_t size_ = 0;
};

// What one thread needs for one block of rows.
struct Scratch {
  Buffer floats;
  std::vector<std::uint16_t> pairs;
  std::vector<Span> spans;
  float *q = nullptr, *o = nullptr, *m = nullptr, *l = nullptr;

  void reserve(int rows) {
    const std::size_t n = static_cast<std::size_t>(rows) * kRow;
    float* const all = floats.get(2 * n + 2 * static_cast<std::size_t>(rows));
    q = all;
    o = q + n;
    m = o + n;
    l = m + rows;
  }
};

struct Triatt::Workspace {
  Plan plan;
  std::vector<Scratch> scratch;
  Buffer state;                      // scan: of every node
  std::vector<std::uint16_t> pairs;  // scan: its queries

  // One scratch a thread, each with room for so many rows and for whatever any of them has needed so far:
  // which thread gets which task is chance, and must not decide whether a call allocates.
  void prepare(int threads, int rows) {
    if (static_cast<int>(scratch.size()) < threads) scratch.resize(static_cast<std::size_t>(threads));
    std::size_t pairs_needed = 0, spans_needed = 0;
    for (const Scratch& one : scratch) {
      pairs_needed = std::max(pairs_needed, one.pairs.capacity());
      spans_needed = std::max(spans_needed, one.spans.capacity());
    }
    for (Scratch& one : std::span(scratch).first(static_cast<std::size_t>(threads))) {
      one.reserve(rows);
      one.pairs.reserve(pairs_needed);
      one.spans.reserve(spans_needed);
    }
  }

  Weights weights(const TriattHead& head, int dimension) const {
    const auto i = static_cast<std::size_t>(dimension);
    const auto size = static_cast<std::size_t>(head.hidden_ > 0 ? head.padded_hidden_ : head.padded_width_);
    return {
        head.u_.data() + i * size,
        head.hidden_ > 0 ? head.w_.data() + i * size * static_cast<std::size_t>(head.padded_width_) : nullptr,
        head.hidden_ > 0 ? head.c_.data() + i * size : nullptr,
        head.b_[i],
        head.padded_width_,
        head.padded_hidden_};
  }
};

using Attend = void (*)(const Block&);

inline Attend attend_of(const Tier& tier, KVType type, bool dots) {
  if (type == KVType::kFloat32) return tier.attend_float32;
  return dots && tier.attend_dots != nullptr ? tier.attend_dots : tier.attend_bfloat16;
}

inline int threads_for(double flops, const TriattOptions& options) {
  if (options.threads > 0) return std::min(options.threads, kMaxThreads);
  const double useful = std::max(flops / kFlopsPerThread, 1.0);
  return std::min(default_threads(), useful > kMaxThreads ? kMaxThreads : static_cast<int>(useful));
}

inline void check_width(const PagedTree& tree, int width) {
  if (tree.pool()->width() != width) {
    throw std::invalid_argument("`head` must have the width of the pool, " +
                                std::to_string(tree.pool()->width()) + "; got " + std::to_string(width) +
                                ".");
  }
}

inline void check_out(const TriattOut& out, const float* q) {
  const bool all = out.m != nullptr && out.l != nullptr && out.o != nullptr;
  const bool none = out.m == nullptr && out.l == nullptr && out.o == nullptr;
  if (out.scores == nullptr || q == nullptr || !(all || none)) {
    throw std::invalid_argument("`scores` and `q` must be given, and of `m`, `l` and `o` all or none.");
  }
}

inline void clear_state(const Scratch& mine, int rows, int padded) {
  std::fill_n(mine.m, rows, -kInfinity);
  std::fill_n(mine.l, rows, 0.0F);
  for (int r = 0; r < rows; ++r) std::fill_n(mine.o + r * kRow, padded, 0.0F);
}

}  // namespace svip
