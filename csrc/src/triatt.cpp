#include "svip/triatt.h"

#include <algorithm>
#include <cmath>
#include <shared_mutex>
#include <stdexcept>

#include "bfloat16.h"
#include "triatt_work.h"

namespace svip {

Triatt::Triatt() : work_(std::make_unique<Workspace>()) {}
Triatt::~Triatt() = default;

namespace {

constexpr int kBlockRows = 24;  // rows of a task: small enough for the first cache, two register blocks

int pages_of(int tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

// One call of `run`: what all tasks read.
struct Run {
  const PagedTree& tree;
  const Plan& plan;
  const Tier& tier;
  Attend attend;
  TriattQuery q;
  const TriattOut& out;
  const float (*bias)[4];
  std::array<Weights, kTriattDimensions> weights;
  bool dots;
  int heads;   // K/V heads: tasks of a block
  int shared;  // dimensions of one K/V head: rows of a query in a task
  int width, padded;
  float scale;
};

void load_queries(const Run& run, Scratch& mine, int head, int first, int rows) {
  for (int r = 0; r < rows; ++r) {
    for (int s = 0; s < run.shared; ++s) {
      const auto at = run.q.constant
                          ? std::size_t{0}
                          : static_cast<std::size_t>(run.plan.order()[static_cast<std::size_t>(first + r)]);
      const float* const from = run.q.data + (at * kTriattDimensions + static_cast<std::size_t>(head + s)) *
                                                 static_cast<std::size_t>(run.width);
      float* const to = mine.q + (r * run.shared + s) * kRow;
      for (int c = 0; c < run.width; ++c) to[c] = from[c] * run.scale;
      std::fill(to + run.width, to + run.padded, 0.0F);
    }
  }
  rows *= run.shared;
  if (run.dots) {
    mine.pairs.resize(static_cast<std::size_t>(rows * kRow));
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < run.padded; ++c)
        mine.pairs[static_cast<std::size_t>(r * kRow + c)] = narrow(mine.q[r * kRow + c]);
    }
  }
}

void write_row(const Run& run, const Scratch& mine, int row, std::size_t to, int dimension) {
  const std::size_t at = to * kTriattDimensions + static_cast<std::size_t>(dimension);
  const auto width = static_cast<std::size_t>(run.width);
  float* const o = mine.o + row * kRow;
  if (run.out.o != nullptr) {
    run.out.m[at] = mine.m[row];
    run.out.l[at] = mine.l[row];
    std::copy_n(o, width, run.out.o + at * width);
  }
  run.out.scores[at] = run.tier.decide(o, mine.l[row], run.weights[static_cast<std::size_t>(dimension)]);
  if (run.out.att != nullptr) std::copy_n(o, width, run.out.att + at * width);
}

void run_block(const Run& run, Scratch& mine, int index, int head) {
  const Plan& plan = run.plan;
  const int first = index * plan.block();
  const int rows = std::min(plan.block(), static_cast<int>(plan.order().size()) - first);
  const std::size_t offset = run.tree.pool()->head_bytes() * static_cast<std::size_t>(head);
  mine.reserve(plan.block() * run.shared);
  load_queries(run, mine, head, first, rows);
  clear_state(mine, rows * run.shared, run.padded);
  mine.spans.clear();
  const auto items =
      plan.items().subspan(static_cast<std::size_t>(plan.item_ptr()[static_cast<std::size_t>(index)]),
                           static_cast<std::size_t>(plan.item_ptr()[static_cast<std::size_t>(index) + 1] -
                                                    plan.item_ptr()[static_cast<std::size_t>(index)]));
  for (const std::int32_t item : items) {
    const PlanNode& node = plan.nodes()[static_cast<std::size_t>(item)];
    const int n = run.tree.n_tokens(node.node);
    if (n == 0) continue;
    const auto row = [&](std::int32_t r) { return std::clamp(r - first, 0, rows) * run.shared; };
    mine.spans.push_back({run.tree.pages(node.node), run.tree.segments(node.node),
                          run.tree.tile_classes(node.node), n, row(node.begin), row(node.own), row(node.end),
                          node.begin >= first});
  }
  run.attend({mine.spans.data(), static_cast<std::int32_t>(mine.spans.size()), run.padded, offset, run.bias,
              head, run.shared, mine.q, mine.pairs.data(), mine.m, mine.l, mine.o});
  for (int r = 0; r < rows; ++r) {
    const auto to = static_cast<std::size_t>(plan.order()[static_cast<std::size_t>(first + r)]);
    for (int s = 0; s < run.shared; ++s) write_row(run, mine, r * run.shared + s, to, head + s);
  }
}

int block_for(std::size_t rows, int shared, int heads, int threads, int wanted) {
  if (wanted > 0) return std::min(wanted, 4096);
  int block = kBlockRows / shared;
  // Enough tasks that the last ones to finish do not leave the other threads waiting.
  while (block > 4 && heads * static_cast<int>((rows + static_cast<std::size_t>(block) - 1) /
                                               static_cast<std::size_t>(block)) <
                          3 * threads) {
    block = (block + 1) / 2;
  }
  return block;
}

void check_tokens(const PagedTree& tree, std::span<const std::int32_t> nodes) {
  for (const std::int32_t node : nodes) {
    if (tree.path_tokens(node) == 0) {
      throw std::invalid_argument("`frontier` must hold nodes with at least one token on their path; node " +
                                  std::to_string(node) + " has none.");
    }
  }
}

}  // namespace

void Triatt::run(const PagedTree& tree, std::span<const std::int32_t> frontier, TriattQuery q,
                 const TriattHead& head, const TriattOut& out, const TriattOptions& options) {
  const std::shared_lock lock(tree.mutex);
  const auto lease = tree.pool()->lease();
  tree.check_nodes("frontier", frontier);
  check_width(tree, head.width());
  if (frontier.empty()) return;
  check_out(out, q.data);
  check_tokens(tree, frontier);

  Workspace& work = *work_;
  const KVPool& pool = *tree.pool();
  const Tier& tier = simd_tier();
  const Attend attend = attend_of(tier, pool.type(), options.dots);
  const int heads = pool.n_kv_heads(), shared = kTriattDimensions / heads;
  Run run{tree,
          work.plan,
          tier,
          attend,
          q,
          out,
          head.bias_,
          {},
          attend == tier.attend_dots,
          heads,
          shared,
          head.width(),
          pool.padded_width(),
          1.0F / std::sqrt(static_cast<float>(head.width()))};
  for (int i = 0; i < kTriattDimensions; ++i)
    run.weights[static_cast<std::size_t>(i)] = work.weights(head, i);

  work.plan.sort(tree.parents(), frontier);
  double flops = 0;
  for (const std::int32_t node : frontier)
    flops += 12.0 * head.width() * static_cast<double>(tree.path_tokens(node));
  int threads = threads_for(flops, options);
  work.plan.cut(block_for(frontier.size(), shared, heads, threads, options.block));
  const int tasks = work.plan.n_blocks() * heads;
  threads = std::min(threads, tasks);
  work.prepare(threads, work.plan.block() * shared);
  // Blocks of one head follow each other, so that what they share stays in the cache.
  parallel_for(tasks, threads, [&](int task, int thread) {
    run_block(run, work.scratch[static_cast<std::size_t>(thread)], task % work.plan.n_blocks(),
              task / work.plan.n_blocks());
  });
}

}  // namespace svip
