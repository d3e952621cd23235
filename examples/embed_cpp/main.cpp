// Scores a small tree of reasoning steps through the C++ interface.
//
//     question and image (0) -> step (1) -> step (2)
//                            -> step (3)

#include <array>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <vector>

#include "svip/triatt.h"

namespace {

constexpr int kWidth = 64, kHeads = 3;

// Stands for what a model would give: scrambled numbers between -1 and 1.
float number(std::uint32_t i) {
  i *= 2654435761U;
  i = (i ^ i >> 15) * 2246822519U;
  return static_cast<float>((i ^ i >> 13) >> 8) / static_cast<float>(1U << 23) - 1.0F;
}

std::vector<float> numbers(std::size_t n, std::uint32_t first) {
  std::vector<float> values(n);
  for (std::size_t i = 0; i < n; ++i) values[i] = number(first + static_cast<std::uint32_t>(i));
  return values;
}

}  // namespace

int main() {
  // Keys and values live in pages of a pool; a tree takes them as it grows and gives them back.
  const auto pool = std::make_shared<svip::KVPool>(kWidth, kHeads, svip::KVType::kFloat32);
  svip::PagedTree tree(pool);

  const std::vector<std::int32_t> parent{-1, 0, 1, 0};
  const std::vector<std::int64_t> token_ptr{0, 30, 40, 55, 60};
  std::vector<std::uint8_t> segment(60, svip::kStep);
  for (std::size_t t = 0; t < 30; ++t) segment[t] = t < 12 ? svip::kQuestion : svip::kImage;
  const auto k = numbers(60 * kHeads * kWidth, 0), v = numbers(60 * kHeads * kWidth, 1'000'000);
  const std::int64_t head_stride = kWidth, token_stride = kHeads * kWidth;
  tree.extend(parent, token_ptr, segment, {k.data(), svip::KVType::kFloat32, token_stride, head_stride},
              {v.data(), svip::KVType::kFloat32, token_stride, head_stride});

  // A linear head: score = sigmoid(u . attended + b); no bias between segments.
  const auto u = numbers(3 * kWidth, 2'000'000);
  const std::array<float, 3> b{0.0F, 0.5F, -0.5F};
  const svip::TriattHead head(kWidth, 0, u.data(), b.data(), nullptr, nullptr, nullptr);

  // The frontier: the leaves, each with a query for relevance, logic and attribute.
  const std::vector<std::int32_t> frontier{2, 3};
  const auto q = numbers(frontier.size() * 3 * kWidth, 3'000'000);
  std::vector<float> scores(frontier.size() * 3);
  svip::Triatt triatt;  // a workspace: keep it
  triatt.run(tree, frontier, {q.data()}, head, {scores.data()});

  for (std::size_t i = 0; i < frontier.size(); ++i) {
    std::printf("node %d: relevance %.5f, logic %.5f, attribute %.5f\n", frontier[i],
                static_cast<double>(scores[i * 3]), static_cast<double>(scores[i * 3 + 1]),
                static_cast<double>(scores[i * 3 + 2]));
  }
}
