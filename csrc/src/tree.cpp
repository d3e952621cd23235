#include "svip/tree.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>
#include <stdexcept>

#include "tree_checks.h"

namespace svip {
namespace {

template <class T>
void grow(Column<T>& column, std::int64_t size, std::int64_t capacity) {
  Column<T> larger(new T[static_cast<std::size_t>(capacity)]);
  std::copy_n(column.get(), size, larger.get());
  column = std::move(larger);
}

}  // namespace

Tree::Tree(std::int64_t capacity, std::int64_t max_nodes) : max_nodes_(max_nodes) {
  if (capacity < 1 || capacity > kInt32Max) {
    bad("`capacity` must lie between 1 and " + std::to_string(kInt32Max) + "; got " +
        std::to_string(capacity) + ".");
  }
  if (max_nodes < 1 || max_nodes > kInt32Max) {
    bad("`max_nodes` must lie between 1 and " + std::to_string(kInt32Max) + "; got " +
        std::to_string(max_nodes) + ".");
  }
  reserve(std::min(capacity, max_nodes));
  append(kNoNode, 1.0F);
}

void Tree::reserve(std::int64_t needed) {
  if (needed > max_nodes_) {
    throw std::overflow_error("A tree holds at most " + std::to_string(max_nodes_) + " nodes; got " +
                              std::to_string(needed) + ".");
  }
  if (needed <= capacity_) return;
  const std::int64_t capacity = std::min(std::max(needed, 2 * capacity_), max_nodes_);
  // A column that has grown while a later one could not be allocated is merely longer than it has to be.
  grow(parent_, size_, capacity);
  grow(first_child_, size_, capacity);
  grow(next_sibling_, size_, capacity);
  grow(depth_, size_, capacity);
  grow(visits_, size_, capacity);
  grow(virtual_visits_, size_, capacity);
  grow(value_sum_, size_, capacity);
  grow(prior_, size_, capacity);
  grow(reward_, size_, capacity);
  grow(status_, size_, capacity);
  grow(last_child_, size_, capacity);
  grow(unfinished_, size_, capacity);
  grow(available_, size_, capacity);
  grow(selected_, size_, capacity);
  capacity_ = capacity;
}

// Appends an open leaf and links it; the parent's counts are the caller's.
std::int32_t Tree::append(std::int32_t parent, float prior) {
  assert(size_ < capacity_);
  const std::int32_t node = size_++;
  parent_[node] = parent;
  first_child_[node] = last_child_[node] = next_sibling_[node] = kNoNode;
  depth_[node] = parent == kNoNode ? 0 : depth_[parent] + 1;
  visits_[node] = virtual_visits_[node] = unfinished_[node] = 0;
  value_sum_[node] = 0;
  prior_[node] = prior;
  reward_[node].fill(std::numeric_limits<float>::quiet_NaN());
  status_[node] = kOpen;
  available_[node] = 1;
  selected_[node] = 0;
  if (parent == kNoNode) return node;
  if (last_child_[parent] == kNoNode) {
    first_child_[parent] = node;
  } else {
    next_sibling_[last_child_[parent]] = node;
  }
  last_child_[parent] = node;
  return node;
}

void Tree::check_node(std::int64_t node, const char* name) const {
  if (node < 0 || node >= size_) {
    throw std::out_of_range("`" + std::string(name) + "` must lie in [0, " + std::to_string(size_) +
                            "); got " + std::to_string(node) + ".");
  }
}

void Tree::check_nodes(std::span<const std::int32_t> nodes, const char* name) const {
  for (const std::int32_t node : nodes) check_node(node, name);
}

std::int32_t Tree::add_children(std::int32_t parent, std::span<const float> priors) {
  check_node(parent, "parent");
  if (priors.empty()) bad("`priors` must have one entry for each child and at least one; got none.");
  for (const float prior : priors) check_prior(prior);
  const std::uint8_t before = status_[parent];
  if (finished(before) && before != kExhausted) {
    bad("`parent` must not be terminal or failed; node " + std::to_string(parent) + " has status " +
        std::to_string(before) + ".");
  }
  reserve(size_ + static_cast<std::int64_t>(priors.size()));
  const std::int32_t first = size_;
  for (const float prior : priors) append(parent, prior);
  const auto added = static_cast<std::int32_t>(priors.size());
  unfinished_[parent] += added;
  status_[parent] = kExpanded;
  const std::int32_t available_before = available_[parent];
  // The usual cases need no walk over the children: an open leaf had none, an expanded node knows its sum.
  available_[parent] = before == kOpen       ? added
                       : before == kExpanded ? available_before + added
                                             : available_below(parent);
  refresh_ancestors(parent, finished(before), available_[parent] - available_before);
  return first;
}

std::int32_t Tree::available_below(std::int32_t node) const {
  std::int32_t sum = 0;
  for (std::int32_t child = first_child_[node]; child != kNoNode; child = next_sibling_[child]) {
    sum += available_[child];
  }
  return sum;
}

std::int32_t Tree::availability(std::int32_t node) const {
  if (status_[node] == kOpen) return virtual_visits_[node] == 0 ? 1 : 0;
  return status_[node] == kExpanded ? available_below(node) : 0;
}

// Carries a change of `node` upward: whether it is finished, and how many more leaves are available in it.
void Tree::refresh_ancestors(std::int32_t node, bool was_finished, std::int32_t change) {
  bool is_finished = finished(status_[node]);
  while (was_finished != is_finished || change != 0) {
    const std::int32_t parent = parent_[node];
    if (parent == kNoNode) return;
    const std::uint8_t before = status_[parent];
    const std::int32_t available_before = available_[parent];
    if (was_finished != is_finished) unfinished_[parent] += is_finished ? -1 : 1;
    if (before == kExpanded && unfinished_[parent] == 0) {
      status_[parent] = kExhausted;
    } else if (before == kExhausted && was_finished && !is_finished) {
      status_[parent] = kExpanded;
    }
    if (status_[parent] == kExpanded) {
      available_[parent] = before == kExpanded ? available_before + change : available_below(parent);
    } else {
      available_[parent] = 0;
    }
    was_finished = finished(before);
    is_finished = finished(status_[parent]);
    change = available_[parent] - available_before;
    node = parent;
  }
}

template <Rule rule>
std::int32_t Tree::descend(double c) const {
  std::int32_t node = 0;
  double inherited = 0;
  while (status_[node] != kOpen) {
    const double parent_visits = static_cast<double>(visits_[node]) + virtual_visits_[node];
    const double q_parent = parent_visits > 0 ? value_sum_[node] / parent_visits : inherited;
    const double effective = std::max(parent_visits, 1.0);
    const double scale = rule == Rule::kPuct ? c * std::sqrt(effective) : std::log(effective);
    std::int32_t best = kNoNode;
    double best_score = 0;
    for (std::int32_t child = first_child_[node]; child != kNoNode; child = next_sibling_[child]) {
      if (available_[child] == 0) continue;
      const double n = static_cast<double>(visits_[child]) + virtual_visits_[child];
      double score = n > 0 ? value_sum_[child] / n : q_parent;
      if constexpr (rule == Rule::kPuct) {
        score += scale * prior_[child] / (1 + n);
      } else {
        score = n > 0 ? score + c * std::sqrt(scale / n) : std::numeric_limits<double>::infinity();
      }
      if (best == kNoNode || score > best_score) {
        best = child;
        best_score = score;
      }
    }
    assert(best != kNoNode);
    inherited = q_parent;
    node = best;
  }
  return node;
}

void Tree::occupy(std::int32_t leaf) {
  selected_[leaf] = 1;
  for (std::int32_t node = leaf; node != kNoNode; node = parent_[node]) {
    ++virtual_visits_[node];
    --available_[node];
  }
}

void Tree::vacate(std::int32_t node) {
  selected_[node] = 0;
  for (std::int32_t n = node; n != kNoNode; n = parent_[n]) --virtual_visits_[n];
  if (status_[node] != kOpen) return;
  available_[node] = 1;
  refresh_ancestors(node, false, 1);
}

void Tree::check_select(double c, std::int64_t k) const {
  if (!(c >= 0) || std::isinf(c)) bad("`c` must be finite and not negative; got " + std::to_string(c) + ".");
  if (k < 1) bad("`k` must be at least 1; got " + std::to_string(k) + ".");
}

std::vector<std::int32_t> Tree::select(double c, Rule rule, std::int64_t k) {
  std::vector<std::int32_t> leaves;
  select(c, rule, k, leaves);
  return leaves;
}

void Tree::select(double c, Rule rule, std::int64_t k, std::vector<std::int32_t>& leaves) {
  check_select(c, k);
  const std::size_t before = leaves.size();
  leaves.resize(before + static_cast<std::size_t>(std::min<std::int64_t>(k, selectable())));
  for (std::int32_t& leaf : std::span(leaves).subspan(before)) {
    leaf = rule == Rule::kPuct ? descend<Rule::kPuct>(c) : descend<Rule::kUct>(c);
    occupy(leaf);
  }
}

void Tree::check_backup(std::span<const std::int32_t> nodes, std::span<const double> values) const {
  check_lengths(nodes.size(), values.size(), "values");
  check_nodes(nodes);
  for (const double value : values) {
    if (!(std::abs(value) <= kMaxValue)) {
      bad("`values` must be numbers of magnitude at most 1e200; got " + std::to_string(value) + ".");
    }
  }
  // Every backup passes through the root, so no node has more visits than it.
  if (visits_[0] + static_cast<std::int64_t>(nodes.size()) > kInt32Max) {
    throw std::overflow_error("The visits of the root exceed " + std::to_string(kInt32Max) + ".");
  }
}

void Tree::backup(std::span<const std::int32_t> nodes, std::span<const double> values) {
  check_backup(nodes, values);
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    for (std::int32_t node = nodes[i]; node != kNoNode; node = parent_[node]) {
      ++visits_[node];
      value_sum_[node] += values[i];
    }
  }
}

// The first position whose node is not marked `selected`, or is named a second time; the length if none is.
std::size_t Tree::first_unlike(std::span<const std::int32_t> nodes, std::uint8_t selected) const {
  constexpr std::uint8_t kSeen = 2;  // taken off again below
  std::size_t alike = 0;
  while (alike < nodes.size() && selected_[nodes[alike]] == selected) selected_[nodes[alike++]] = kSeen;
  for (const std::int32_t node : nodes.first(alike)) selected_[node] = selected;
  return alike;
}

void Tree::hold(std::span<const std::int32_t> nodes) {
  check_nodes(nodes);
  for (const std::int32_t node : nodes) {
    if (status_[node] != kOpen) bad("`nodes` must be open leaves; got node " + std::to_string(node) + ".");
  }
  if (const std::size_t i = first_unlike(nodes, 0); i < nodes.size()) {
    bad("`nodes` must be distinct and not yet selected; got node " + std::to_string(nodes[i]) + ".");
  }
  for (const std::int32_t node : nodes) {
    selected_[node] = 1;
    for (std::int32_t n = node; n != kNoNode; n = parent_[n]) ++virtual_visits_[n];
    available_[node] = 0;
    refresh_ancestors(node, false, -1);  // unlike a selected leaf, it may lie below a failed node
  }
}

void Tree::check_release(std::span<const std::int32_t> nodes, const char* name) const {
  check_nodes(nodes, name);
  if (const std::size_t i = first_unlike(nodes, 1); i < nodes.size()) {
    bad("`" + std::string(name) + "` must be distinct, selected and not yet released; got node " +
        std::to_string(nodes[i]) + ".");
  }
}

void Tree::release(std::span<const std::int32_t> nodes) {
  check_release(nodes);
  for (const std::int32_t node : nodes) vacate(node);
}

void Tree::set_one_status(std::int32_t node, Status status) {
  const std::uint8_t before = status_[node];
  const bool all_finished = unfinished_[node] == 0;
  if (status == Status::kExpanded && all_finished) status = Status::kExhausted;
  status_[node] = static_cast<std::uint8_t>(status);
  const std::int32_t available_before = available_[node];
  available_[node] = availability(node);
  refresh_ancestors(node, finished(before), available_[node] - available_before);
}

void Tree::set_status(std::span<const std::int32_t> nodes, Status status) {
  if (static_cast<std::uint8_t>(status) > kExhausted) {
    bad("`status` must lie in [0, 4]; got " + std::to_string(static_cast<int>(status)) + ".");
  }
  check_nodes(nodes);
  for (const std::int32_t node : nodes) {
    const bool leaf = first_child_[node] == kNoNode;
    if (status == Status::kOpen && !leaf) {
      bad("`status` must not be OPEN for a node with children; got node " + std::to_string(node) + ".");
    }
    if (status == Status::kExpanded && leaf) {
      bad("`status` must not be EXPANDED for a node without children; got node " + std::to_string(node) +
          ".");
    }
  }
  for (const std::int32_t node : nodes) set_one_status(node, status);
}

void Tree::set_reward(std::span<const std::int32_t> nodes, std::span<const Reward> rewards) {
  check_lengths(nodes.size(), rewards.size(), "rewards");
  check_nodes(nodes);
  for (const Reward& reward : rewards) check_reward(reward);
  for (std::size_t i = 0; i < nodes.size(); ++i) reward_[nodes[i]] = rewards[i];
}

std::vector<std::int32_t> Tree::path(std::int32_t node) const {
  check_node(node, "node");
  std::vector<std::int32_t> nodes(static_cast<std::size_t>(depth_[node]) + 1);
  for (auto slot = nodes.rbegin(); slot != nodes.rend(); ++slot, node = parent_[node]) *slot = node;
  return nodes;
}

void Tree::check_top_k(std::span<const std::int32_t> nodes, std::span<const double> scores,
                       std::int64_t k) const {
  check_lengths(nodes.size(), scores.size(), "scores");
  check_nodes(nodes);
  if (k < 1) bad("`k` must be at least 1; got " + std::to_string(k) + ".");
}

std::vector<std::int32_t> Tree::top_k(std::span<const std::int32_t> nodes, std::span<const double> scores,
                                      std::int64_t k) const {
  check_top_k(nodes, scores, k);
  std::vector<std::size_t> order(nodes.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto kept = order.begin() + std::min(k, static_cast<std::int64_t>(order.size()));
  std::partial_sort(order.begin(), kept, order.end(), [&](std::size_t a, std::size_t b) {
    const bool a_nan = std::isnan(scores[a]);
    const bool b_nan = std::isnan(scores[b]);
    if (a_nan != b_nan) return b_nan;
    if (!a_nan && scores[a] != scores[b]) return scores[a] > scores[b];
    return a < b;
  });
  std::vector<std::int32_t> best;
  best.reserve(static_cast<std::size_t>(kept - order.begin()));
  for (auto position = order.begin(); position != kept; ++position) best.push_back(nodes[*position]);
  return best;
}

}  // namespace svip
