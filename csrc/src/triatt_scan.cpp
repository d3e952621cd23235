#include <cmath>
#include <shared_mutex>

#include "triatt_work.h"

namespace svip {

namespace {

constexpr int kChunk = 16;  // nodes of a task

// Node by dimension: a softmax state with its output padded to whole vectors.
class States {
 public:
  States(float* data, int padded) : data_(data), stride_(static_cast<std::size_t>(padded) + 2) {}
  static std::size_t floats(std::size_t nodes, int padded) {
    return nodes * kTriattDimensions * (static_cast<std::size_t>(padded) + 2);
  }
  float* o(int node, int dimension) const { return at(node, dimension); }
  float& m(int node, int dimension) const { return at(node, dimension)[stride_ - 2]; }
  float& l(int node, int dimension) const { return at(node, dimension)[stride_ - 1]; }

 private:
  float* at(int node, int dimension) const {
    return data_ + static_cast<std::size_t>(node * kTriattDimensions + dimension) * stride_;
  }
  float* data_;
  std::size_t stride_;
};

struct Scan {
  const PagedTree& tree;
  const Tier& tier;
  Attend attend;
  std::int32_t first;
  int count, shared, width, padded;
  const float (*bias)[4];
  const float* q;  // padded and scaled, [3][kRow]
  const std::uint16_t* q_pairs;
  States fixed, steps, passed;  // of question and image tokens, of step tokens, of the whole path
  TriattState base;
  bool roots_continue;
};

bool has(const Scan& scan, std::int32_t node, bool step) {
  const int n = scan.tree.n_tokens(node);
  const std::uint8_t* const classes = scan.tree.tile_classes(node);
  for (int t = 0; t * kTileTokens < n; ++t) {
    if (classes[t] == kMixed || (classes[t] == kStep) == step) return true;
  }
  return false;
}

// State of the node's own step tokens, with no bias, or of its other tokens; the rest is hidden by a bias of
// -inf.
void own_state(const Scan& scan, Scratch& mine, int node, int head, bool step) {
  const std::int32_t index = scan.first + node;
  const States& to = step ? scan.steps : scan.fixed;
  clear_state(mine, scan.shared, scan.padded);
  if (has(scan, index, step)) {
    float bias[kTriattDimensions][4];
    for (int c = 0; c < kTriattDimensions; ++c) {
      for (int s = 0; s < 4; ++s)
        bias[c][s] = (s >= kStep) != step ? -kInfinity : step ? 0.0F : scan.bias[c][s];
    }
    const Span span{scan.tree.pages(index),
                    scan.tree.segments(index),
                    scan.tree.tile_classes(index),
                    scan.tree.n_tokens(index),
                    0,
                    0,
                    scan.shared,
                    false};
    scan.attend({&span, 1, scan.padded, scan.tree.pool()->head_bytes() * static_cast<std::size_t>(head), bias,
                 head, scan.shared, scan.q + head * kRow, scan.q_pairs + head * kRow, mine.m, mine.l,
                 mine.o});
  }
  for (int r = 0; r < scan.shared; ++r) {
    to.m(node, head + r) = mine.m[r];
    to.l(node, head + r) = mine.l[r];
    std::copy_n(mine.o + r * kRow, scan.padded, to.o(node, head + r));
  }
}

// Adds to (m, l, o) a state whose logits all rise by `bias`.  What the new maximum loses by rounding is given
// back to the weights, so that a large bias costs no digits.
void add(const Scan& scan, float& m, float& l, float* o, const States& from, int node, int dimension,
         float bias, float* room) {
  if (from.m(node, dimension) == -kInfinity && from.l(node, dimension) == 0.0F) return;  // no tokens
  const float old = from.m(node, dimension), risen = old + bias;
  const float shift = risen - old, lost = (old - (risen - shift)) + (bias - shift);
  const float factor = std::isfinite(lost) ? std::exp(lost) : 1.0F;
  const float weight = from.l(node, dimension) * factor;
  const float* const output = from.o(node, dimension);
  for (int c = 0; c < scan.padded; ++c) room[c] = output[c] * factor;
  scan.tier.merge(&m, &l, o, &risen, &weight, room, scan.padded);
}

// (m, l, o) <- the state that a node continues from: of its parent, from an earlier call, or of no tokens.
// `root` counts the roots that continue.
void begin_path(const Scan& scan, int node, int c, float& m, float& l, float* o, int& root) {
  const std::int32_t parent = scan.tree.parent(scan.first + node);
  std::fill_n(o, scan.padded, 0.0F);
  m = -kInfinity;
  l = 0.0F;
  if (parent >= scan.first) {
    m = scan.passed.m(parent - scan.first, c);
    l = scan.passed.l(parent - scan.first, c);
    std::copy_n(scan.passed.o(parent - scan.first, c), scan.padded, o);
  } else if (parent >= 0 || scan.roots_continue) {
    const auto row = static_cast<std::size_t>((parent >= 0 ? parent : root++) * kTriattDimensions + c);
    m = scan.base.m[row];
    l = scan.base.l[row];
    std::copy_n(scan.base.o + row * static_cast<std::size_t>(scan.width), scan.width, o);
  }
}

// Passes states from parents to children, in the order of the nodes, and writes scores, for one dimension.
void pass_down(const Scan& scan, Scratch& mine, int c, const Weights& weights, const TriattOut& out) {
  mine.reserve(2);
  const auto width = static_cast<std::size_t>(scan.width);
  int root = 0;
  for (int node = 0; node < scan.count; ++node) {
    float &m = scan.passed.m(node, c), &l = scan.passed.l(node, c), *const o = scan.passed.o(node, c);
    begin_path(scan, node, c, m, l, o, root);
    add(scan, m, l, o, scan.fixed, node, c, 0.0F, mine.q);
    // The node's own score sees its steps as "this step"; its children will see them as an earlier one.
    mine.m[0] = m;
    mine.l[0] = l;
    std::copy_n(o, scan.padded, mine.o);
    add(scan, mine.m[0], mine.l[0], mine.o, scan.steps, node, c, scan.bias[c][kStep + 1], mine.q);
    add(scan, m, l, o, scan.steps, node, c, scan.bias[c][kStep], mine.q);

    const auto at = static_cast<std::size_t>(node * kTriattDimensions + c);
    out.scores[at] = scan.tier.decide(mine.o, mine.l[0], weights);
    if (out.att != nullptr) std::copy_n(mine.o, width, out.att + at * width);
    if (out.o != nullptr) {
      out.m[at] = m;
      out.l[at] = l;
      std::copy_n(o, width, out.o + at * width);
    }
  }
}

void check_range(const PagedTree& tree, std::int32_t first, std::int32_t last) {
  if (first >= 0 && last >= first && last <= tree.size()) return;
  throw std::out_of_range("`first` and `last` must be 0 <= first <= last <= " + std::to_string(tree.size()) +
                          "; got " + std::to_string(first) + " and " + std::to_string(last) + ".");
}

// Checks that every path is whole, and returns the number of tokens.
std::int64_t check_paths(const PagedTree& tree, std::int32_t first, std::int32_t last, bool based,
                         bool roots_continue) {
  std::int64_t tokens = 0;
  for (std::int32_t node = first; node < last; ++node) {
    tree.check_nodes("nodes", {&node, 1});
    const std::int32_t parent = tree.parent(node);
    const bool continues = parent < 0 ? roots_continue : parent < first;
    if (continues && !based) {
      throw std::invalid_argument("`state` must be given: node " + std::to_string(node) +
                                  " continues from an earlier one.");
    }
    if (!roots_continue && tree.path_tokens(node) == 0) {
      throw std::invalid_argument("every path must hold at least one token; that of node " +
                                  std::to_string(node) + " has none.");
    }
    tokens += tree.n_tokens(node);
  }
  return tokens;
}

// Writes the queries scaled and padded, as float32 and as bfloat16.
void load_queries(const float* q, int width, int padded, float* to, std::uint16_t* pairs) {
  const float scale = std::sqrt(static_cast<float>(width));
  for (int c = 0; c < kTriattDimensions; ++c, q += width, to += kRow, pairs += kRow) {
    std::fill_n(to, padded, 0.0F);
    for (int i = 0; i < width; ++i) to[i] = q[i] / scale;
    for (int i = 0; i < padded; ++i) pairs[i] = narrow(to[i]);
  }
}

}  // namespace

void Triatt::scan(const PagedTree& tree, std::int32_t first, std::int32_t last, const float* q,
                  const TriattHead& head, TriattState base, bool roots_continue, const TriattOut& out,
                  const TriattOptions& options) {
  const std::shared_lock lock(tree.mutex);
  const auto lease = tree.pool()->lease();
  check_range(tree, first, last);
  check_width(tree, head.width());
  const int count = last - first;
  if (count == 0) return;
  check_out(out, q);
  const bool based = base.m != nullptr && base.l != nullptr && base.o != nullptr;
  const std::int64_t tokens = check_paths(tree, first, last, based, roots_continue);

  Workspace& work = *work_;
  const KVPool& pool = *tree.pool();
  const int padded = pool.padded_width(), heads = pool.n_kv_heads(), shared = kTriattDimensions / heads;
  const std::size_t size = States::floats(static_cast<std::size_t>(count), padded);
  float* const memory = work.state.get(3 * size + kTriattDimensions * kRow);
  work.pairs.resize(kTriattDimensions * kRow);
  load_queries(q, head.width(), padded, memory + 3 * size, work.pairs.data());
  const Tier& tier = simd_tier();
  const Scan scan{tree,
                  tier,
                  attend_of(tier, pool.type(), options.dots),
                  first,
                  count,
                  shared,
                  head.width(),
                  padded,
                  head.bias_,
                  memory + 3 * size,
                  work.pairs.data(),
                  States(memory, padded),
                  States(memory + size, padded),
                  States(memory + 2 * size, padded),
                  base,
                  roots_continue};

  const int chunks = (count + kChunk - 1) / kChunk;
  const int threads = std::min(threads_for(12.0 * head.width() * static_cast<double>(tokens), options),
                               chunks * kTriattDimensions);
  work.prepare(threads, kTriattDimensions);
  parallel_for(chunks * heads, threads, [&](int task, int thread) {
    Scratch& mine = work.scratch[static_cast<std::size_t>(thread)];
    mine.reserve(shared);
    const int chunk = task / heads;
    for (int node = chunk * kChunk; node < std::min(count, (chunk + 1) * kChunk); ++node) {
      own_state(scan, mine, node, task % heads, false);
      own_state(scan, mine, node, task % heads, true);
    }
  });
  parallel_for(kTriattDimensions, threads, [&](int c, int thread) {
    pass_down(scan, work.scratch[static_cast<std::size_t>(thread)], c, work.weights(head, c), out);
  });
}

}  // namespace svip
