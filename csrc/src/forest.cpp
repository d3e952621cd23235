#include "svip/forest.h"

#include <algorithm>
#include <exception>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>

#include "tree_checks.h"

namespace svip {
namespace {

// Runs the check of one tree, and names the tree in what it throws.
template <class Check>
void naming(std::size_t tree, Check&& check) {
  const auto named = [&](const std::exception& error) {
    return "`trees[" + std::to_string(tree) + "]`: " + error.what();
  };
  try {
    check();
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument(named(error));
  } catch (const std::out_of_range& error) {
    throw std::out_of_range(named(error));
  } catch (const std::overflow_error& error) {
    throw std::overflow_error(named(error));
  }
}

void check_each(const Forest& trees, std::size_t length, const char* name) {
  if (length != trees.size()) {
    bad(std::string("`") + name + "` must have one entry for each of the " + std::to_string(trees.size()) +
        " `trees`; got " + std::to_string(length) + ".");
  }
}

void check_k(const Forest& trees, std::span<const std::int64_t> k) {
  check_each(trees, k.size(), "k");
  for (std::size_t i = 0; i < k.size(); ++i) {
    if (k[i] < 0)
      bad("`k` must not be negative; got " + std::to_string(k[i]) + " for tree " + std::to_string(i) + ".");
  }
}

void check_select_each(const Forest& trees, std::span<const double> c, std::span<const std::int64_t> k) {
  check_each(trees, c.size(), "c");
  check_k(trees, k);
  for (std::size_t i = 0; i < trees.size(); ++i) {
    naming(i, [&] { trees[i].check_select(c[i], std::max<std::int64_t>(k[i], 1)); });
  }
}

// Where the entries of each tree begin, and where those of the last end.
std::vector<std::size_t> starts_of(const Forest& trees, NodeSpans lists, const char* nodes,
                                   const char* counts) {
  check_each(trees, lists.counts.size(), counts);
  std::vector<std::size_t> starts{0};
  starts.reserve(trees.size() + 1);
  for (std::size_t i = 0; i < trees.size(); ++i) {
    if (lists.counts[i] < 0) {
      bad(std::string("`") + counts + "` must not be negative; got " + std::to_string(lists.counts[i]) +
          " for tree " + std::to_string(i) + ".");
    }
    starts.push_back(starts.back() + static_cast<std::size_t>(lists.counts[i]));
  }
  if (starts.back() != lists.nodes.size()) {
    bad(std::string("`") + counts + "` must add up to the " + std::to_string(lists.nodes.size()) + " `" +
        nodes + "`; got " + std::to_string(starts.back()) + ".");
  }
  return starts;
}

template <class T>
std::span<const T> part(std::span<const T> all, const std::vector<std::size_t>& starts, std::size_t i) {
  return all.subspan(starts[i], starts[i + 1] - starts[i]);
}

void append_selected(Tree& tree, double c, Rule rule, std::int64_t k, NodeLists& leaves) {
  const std::size_t before = leaves.nodes.size();
  if (k > 0) tree.select(c, rule, k, leaves.nodes);
  leaves.counts.push_back(static_cast<std::int32_t>(leaves.nodes.size() - before));
}

}  // namespace

Forest::Forest(std::vector<Tree*> trees) : trees_(std::move(trees)), by_address_(trees_) {
  std::ranges::sort(by_address_, std::less<>());
  if (!by_address_.empty() && by_address_.front() == nullptr) bad("`trees` must not hold a null pointer.");
  const auto twice = std::ranges::adjacent_find(by_address_);
  if (twice == by_address_.end()) return;
  const auto first = std::ranges::find(trees_, *twice);
  const auto second = std::find(first + 1, trees_.end(), *twice);
  bad("`trees` must be distinct; got one tree as both " + std::to_string(first - trees_.begin()) + " and " +
      std::to_string(second - trees_.begin()) + ".");
}

NodeLists select_many(const Forest& trees, std::span<const double> c, Rule rule,
                      std::span<const std::int64_t> k) {
  check_select_each(trees, c, k);
  // With room for all, nothing is left to fail once the first tree has changed.
  std::size_t room = 0;
  for (std::size_t i = 0; i < trees.size(); ++i) {
    room += static_cast<std::size_t>(std::min<std::int64_t>(k[i], trees[i].selectable()));
  }
  NodeLists leaves;
  leaves.nodes.reserve(room);
  leaves.counts.reserve(trees.size());
  for (std::size_t i = 0; i < trees.size(); ++i) append_selected(trees[i], c[i], rule, k[i], leaves);
  return leaves;
}

void backup_many(const Forest& trees, NodeSpans lists, std::span<const double> values) {
  const std::vector<std::size_t> starts = starts_of(trees, lists, "nodes", "counts");
  check_lengths(lists.nodes.size(), values.size(), "values");
  for (std::size_t i = 0; i < trees.size(); ++i) {
    naming(i, [&] { trees[i].check_backup(part(lists.nodes, starts, i), part(values, starts, i)); });
  }
  for (std::size_t i = 0; i < trees.size(); ++i) {
    trees[i].backup(part(lists.nodes, starts, i), part(values, starts, i));
  }
}

void release_many(const Forest& trees, NodeSpans lists) {
  const std::vector<std::size_t> starts = starts_of(trees, lists, "nodes", "counts");
  for (std::size_t i = 0; i < trees.size(); ++i) {
    naming(i, [&] { trees[i].check_release(part(lists.nodes, starts, i)); });
  }
  for (std::size_t i = 0; i < trees.size(); ++i) trees[i].release(part(lists.nodes, starts, i));
}

NodeLists top_k_many(const Forest& trees, NodeSpans lists, std::span<const double> scores,
                     std::span<const std::int64_t> k) {
  const std::vector<std::size_t> starts = starts_of(trees, lists, "nodes", "counts");
  check_lengths(lists.nodes.size(), scores.size(), "scores");
  check_k(trees, k);
  NodeLists kept;
  kept.counts.reserve(trees.size());
  for (std::size_t i = 0; i < trees.size(); ++i) {
    naming(i, [&] {
      const auto nodes = part(lists.nodes, starts, i);
      const auto own = part(scores, starts, i);
      trees[i].check_top_k(nodes, own, std::max<std::int64_t>(k[i], 1));
      const auto best = k[i] > 0 ? trees[i].top_k(nodes, own, k[i]) : std::vector<std::int32_t>();
      kept.nodes.insert(kept.nodes.end(), best.begin(), best.end());
      kept.counts.push_back(static_cast<std::int32_t>(best.size()));
    });
  }
  return kept;
}

NodeLists advance_many(const Forest& trees, NodeSpans released, NodeSpans lists,
                       std::span<const double> values, std::span<const double> c, Rule rule,
                       std::span<const std::int64_t> k) {
  const std::vector<std::size_t> leaving = starts_of(trees, released, "released", "released_counts");
  const std::vector<std::size_t> starts = starts_of(trees, lists, "nodes", "node_counts");
  check_lengths(lists.nodes.size(), values.size(), "values");
  check_select_each(trees, c, k);
  std::size_t room = 0;
  for (std::size_t i = 0; i < trees.size(); ++i) {
    naming(i, [&] {
      trees[i].check_release(part(released.nodes, leaving, i), "released");
      trees[i].check_backup(part(lists.nodes, starts, i), part(values, starts, i));
    });
    // Each released leaf may be selected again.
    const std::int64_t selectable = std::int64_t{trees[i].selectable()} + released.counts[i];
    room += static_cast<std::size_t>(std::min(k[i], selectable));
  }
  NodeLists leaves;
  leaves.nodes.reserve(room);
  leaves.counts.reserve(trees.size());
  for (std::size_t i = 0; i < trees.size(); ++i) {
    trees[i].release(part(released.nodes, leaving, i));
    trees[i].backup(part(lists.nodes, starts, i), part(values, starts, i));
    append_selected(trees[i], c[i], rule, k[i], leaves);
  }
  return leaves;
}

}  // namespace svip
