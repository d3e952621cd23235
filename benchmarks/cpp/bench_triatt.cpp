// Milliseconds and GFLOP/s of one full score and of its newest level, for trees as a beam search grows them.
//
//     bench_triatt [nodes] [prefix] [width] [threads]

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "svip/triatt.h"

namespace {

struct Beam {
  std::vector<std::int32_t> parent{-1}, newest;
  std::vector<std::int64_t> token_ptr{0};
};

// 16 levels of equal size, four children a kept node, 32 to 64 tokens a step.
Beam beam(int nodes, int prefix, std::mt19937& random) {
  Beam tree;
  tree.token_ptr.push_back(prefix);
  const int level = std::max(nodes / 16, 4);
  std::vector<std::int32_t> above{0};
  while (static_cast<int>(tree.parent.size()) <= nodes) {
    std::shuffle(above.begin(), above.end(), random);
    above.resize(std::min<std::size_t>(above.size(), static_cast<std::size_t>(level) / 4));
    tree.newest.clear();
    for (const std::int32_t node : above) {
      for (int i = 0; i < 4 && static_cast<int>(tree.parent.size()) <= nodes; ++i) {
        tree.newest.push_back(static_cast<std::int32_t>(tree.parent.size()));
        tree.parent.push_back(node);
        tree.token_ptr.push_back(tree.token_ptr.back() + std::uniform_int_distribution<>(32, 64)(random));
      }
    }
    above = tree.newest;
  }
  return tree;
}

double median_ms(svip::Triatt& triatt, const svip::PagedTree& tree, const std::vector<std::int32_t>& frontier,
                 const std::vector<float>& q, const svip::TriattHead& head,
                 const svip::TriattOptions& options) {
  std::vector<float> scores(frontier.size() * 3);
  std::vector<double> times;
  for (int round = 0; round < 21; ++round) {
    const auto start = std::chrono::steady_clock::now();
    triatt.run(tree, frontier, {q.data(), false}, head, {.scores = scores.data()}, options);
    times.push_back(
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
  }
  std::nth_element(times.begin(), times.begin() + 10, times.end());
  return times[10];
}

}  // namespace

int main(int argc, char** argv) {
  const auto argument = [&](int i, int otherwise) { return argc > i ? std::atoi(argv[i]) : otherwise; };
  const int nodes = argument(1, 1024), prefix = argument(2, 512), width = argument(3, 128);
  std::mt19937 random(0);
  std::normal_distribution<float> normal;
  const Beam shape = beam(nodes, prefix, random);
  const auto n = shape.parent.size(), tokens = static_cast<std::size_t>(shape.token_ptr.back());
  const std::int64_t row = 3 * width;
  const auto fill = [&](std::size_t size) {
    std::vector<float> values(size);
    std::generate(values.begin(), values.end(), [&] { return normal(random); });
    return values;
  };
  const std::vector<float> k = fill(tokens * static_cast<std::size_t>(row)), v = fill(k.size());
  const std::vector<float> q = fill(n * static_cast<std::size_t>(row)),
                           u = fill(static_cast<std::size_t>(row)), b(3);
  const svip::TriattHead head(width, 0, u.data(), b.data(), nullptr, nullptr, nullptr);
  std::vector<std::uint8_t> segment(tokens, svip::kStep);
  std::fill_n(segment.begin(), prefix, svip::kImage);
  std::vector<std::int32_t> all(n);
  std::iota(all.begin(), all.end(), 0);

  std::printf("%s, %d nodes, %zu tokens, width %d\n", svip::simd_tier_name().c_str(), nodes, tokens, width);
  for (const auto& [type, dots] : {std::pair{svip::KVType::kFloat32, false},
                                   {svip::KVType::kBFloat16, false},
                                   {svip::KVType::kBFloat16, true}}) {
    svip::PagedTree tree(std::make_shared<svip::KVPool>(width, 3, type));
    const svip::KVSource keys{k.data(), svip::KVType::kFloat32, row, width},
        values{v.data(), svip::KVType::kFloat32, row, width};
    const auto start = std::chrono::steady_clock::now();
    tree.extend(shape.parent, shape.token_ptr, segment, keys, values);
    const double append =
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    svip::Triatt triatt;
    std::printf("%-8s%-5s append %7.2f ms", type == svip::KVType::kFloat32 ? "float32" : "bfloat16",
                dots ? " dots" : "", append);
    for (const std::vector<std::int32_t>* const frontier : {&std::as_const(all), &shape.newest}) {
      double flops = 0;
      for (const std::int32_t node : *frontier)
        flops += 12.0 * width * static_cast<double>(tree.path_tokens(node));
      const double ms = median_ms(triatt, tree, *frontier, q, head,
                                  {.threads = argument(4, 1), .block = argument(5, 0), .dots = dots});
      std::printf("   %s %4zu rows %8.3f ms %6.1f GFLOP/s", frontier == &all ? "full" : "frontier",
                  frontier->size(), ms, flops / ms / 1e6);
    }
    std::printf("\n");
  }
}
