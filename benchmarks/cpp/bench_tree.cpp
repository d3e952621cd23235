// Time of one simulation (select one leaf, add six children, back up each, release) at a given tree size.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

#include "svip/tree.h"

namespace {

constexpr int kBranching = 6;
constexpr int kMaxDepth = 16;

struct Workload {
  svip::Tree tree;
  std::mt19937 random{0};
  std::vector<float> priors = std::vector<float>(kBranching, 1.0F / kBranching);
  std::vector<double> values = std::vector<double>(kBranching);
  std::vector<std::int32_t> children = std::vector<std::int32_t>(kBranching);

  void simulate(svip::Rule rule) {
    const std::vector<std::int32_t> leaf = tree.select(1.25, rule, 1);
    const std::int32_t first = tree.add_children(leaf[0], priors);
    const bool last = tree.depth()[first] >= kMaxDepth;
    for (int i = 0; i < kBranching; ++i) {
      children[i] = first + i;
      values[i] = static_cast<double>(random() >> 8) * 0x1p-24;
    }
    if (last) tree.set_status(children, svip::Status::kTerminal);
    tree.backup(children, values);
    tree.release(leaf);
  }
};

void report(svip::Rule rule, const char* name) {
  Workload work;
  for (const std::int32_t size : {10'000, 100'000, 1'000'000}) {
    while (work.tree.size() < size) work.simulate(rule);
    double best = 1e9;  // the least disturbed of many short rounds
    for (int round = 0; round < 50; ++round) {
      constexpr int kRepeats = 200;
      const auto start = std::chrono::steady_clock::now();
      for (int i = 0; i < kRepeats; ++i) work.simulate(rule);
      const std::chrono::duration<double, std::micro> elapsed = std::chrono::steady_clock::now() - start;
      best = std::min(best, elapsed.count() / kRepeats);
    }
    std::printf("%s  %8d nodes  %.3f us a simulation\n", name, size, best);
  }
}

}  // namespace

int main() {
  report(svip::Rule::kPuct, "puct");
  report(svip::Rule::kUct, "uct ");
}
