// Tri-head tree attention: relevance, logic and attribute scores of nodes of a tree of reasoning steps.
//
// For node n, dimension c and the tokens t on the path root -> n:
//
//     a_c(n) = softmax_t( q_c(n) . k_c(t) / sqrt(d) + bias[c, segment(t, n)] )
//     o_c(n) = sum_t a_c(n, t) v_c(t)
//     score_c(n) = sigmoid( head_c( o_c(n) ) )
//
// segment is question, image, earlier step or this step.  A node's keys and values are read once for all of
// its descendants in a block of rows; the plan (kv_tree.h) says which rows those are, so there is no mask.
//
// The softmax is kept as a state (m, l, o): the maximum, the sum of exp(logit - m), and the sum of exp(logit
// - m) v. Tokens are taken in tiles of 64, cut at the start of each node; every tile gives a state of its
// own, and these are merged from the root to the node.  Both cuts depend on the tree alone, so a node's score
// is the same to the last bit whatever else is in the frontier, whatever the block size and however many
// threads run.  Different SIMD tiers agree up to rounding.
//
// NaN, or infinities that make one, in a token's keys or values make the scores of that dimension NaN for all
// nodes whose path holds the token, and change no other.
//
// Where queries are the same for all nodes (`scan`) the state of a node follows from its parent's, and each
// token is read once in its life.
//
// Cost 12 * width flops a frontier node and token of its path.
// Sources: M. Milakov, N. Gimelshein, "Online normalizer calculation for softmax", 2018 (the state); J.
// Juravsky et al., "Hydragen", 2024 (a shared prefix as a matrix product).  The operation itself is this
// library's own.

#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "svip/kv_tree.h"

namespace svip {

struct Tier;

inline constexpr int kTriattDimensions = 3;

// The SIMD tiers that this build has and this processor can run, best first.
std::vector<std::string> simd_tiers();
// The best of them, or the one that the environment variable SVIP_SIMD names ("baseline" for the last).
// Throws std::invalid_argument if it names another.
const Tier& simd_tier();
std::string simd_tier_name();

// Segment bias and heads, packed once.  Linear: sigmoid(u . o + b).  Two layers: sigmoid(u . gelu(w o + c) +
// b) with the tanh form of GELU.
class TriattHead {
 public:
  // u [3][hidden or width], b [3], bias [3][4] or null; w [3][hidden][width] and c [3][hidden], both or
  // neither.
  TriattHead(int width, int hidden, const float* u, const float* b, const float* w, const float* c,
             const float* bias);

  int width() const { return width_; }
  int hidden() const { return hidden_; }

 private:
  friend class Triatt;
  int width_, hidden_, padded_width_, padded_hidden_;
  std::vector<float> u_, w_, c_;
  std::array<float, kTriattDimensions> b_{};
  float bias_[kTriattDimensions][4]{};
};

// Queries: [rows][3][width], or [3][width] for all rows.
struct TriattQuery {
  const float* data = nullptr;
  bool constant = false;
};

// Where results go; anything but the scores may be null.  Row i belongs to frontier[i].
struct TriattOut {
  float* scores = nullptr;  // [rows][3]
  float* att = nullptr;     // [rows][3][width]
  float* m = nullptr;       // [rows][3]; m, l and o all or none
  float* l = nullptr;
  float* o = nullptr;  // [rows][3][width]
};

struct TriattState {
  const float* m = nullptr;
  const float* l = nullptr;
  const float* o = nullptr;
};

struct TriattOptions {
  int threads = 0;    // 0: all that the process may use, less where the work is too small
  int block = 0;      // rows of the plan a task takes; 0: chosen
  bool dots = false;  // bfloat16 products where keys are bfloat16 and the processor has them: faster, 1e-3
                      // instead of 1e-6
};

// Workspace of the operation: reuse one, and after the first calls of a size nothing is allocated.  One call
// at a time; use one object a calling thread.
class Triatt {
 public:
  Triatt();
  ~Triatt();
  Triatt(const Triatt&) = delete;
  Triatt& operator=(const Triatt&) = delete;

  // Scores of the frontier, in any order, repeats allowed.
  void run(const PagedTree& tree, std::span<const std::int32_t> frontier, TriattQuery q,
           const TriattHead& head, const TriattOut& out, const TriattOptions& options = {});

  // Scores of the nodes first..last (exclusive) for one query [3][width].  The states in `out` are those that
  // children continue from: own step tokens already count as an earlier step.  `base` has the states of the
  // nodes before `first`, by node; with `roots_continue` it has one state for each root from `first` on
  // instead.
  void scan(const PagedTree& tree, std::int32_t first, std::int32_t last, const float* q,
            const TriattHead& head, TriattState base, bool roots_continue, const TriattOut& out,
            const TriattOptions& options = {});

 private:
  struct Workspace;
  std::unique_ptr<Workspace> work_;
};

}  // namespace svip
