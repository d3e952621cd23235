#include <algorithm>
#include <limits>
#include <stdexcept>

#include "svip/kv_tree.h"

namespace svip {

void Plan::collect(std::span<const std::int32_t> parent, std::span<const std::int32_t> frontier) {
  if (stamp_.size() < parent.size()) {
    slot_.resize(parent.size());
    stamp_.resize(parent.size(), 0);  // last: if memory runs out before, the next call tries again
  }
  if (++epoch_ == 0) {  // wrapped around: old stamps could be taken for new ones
    std::fill(stamp_.begin(), stamp_.end(), 0U);
    epoch_ = 1;
  }
  needed_.clear();
  for (std::int32_t node : frontier) {
    while (node >= 0 && stamp_[static_cast<std::size_t>(node)] != epoch_) {
      stamp_[static_cast<std::size_t>(node)] = epoch_;
      needed_.push_back(node);
      node = parent[static_cast<std::size_t>(node)];
    }
  }
  std::sort(needed_.begin(), needed_.end());
}

void Plan::sort(std::span<const std::int32_t> parent, std::span<const std::int32_t> frontier) {
  collect(parent, frontier);
  const std::size_t n = needed_.size();
  nodes_.assign(n, PlanNode{});
  for (std::size_t i = 0; i < n; ++i) {
    nodes_[i].node = needed_[i];
    slot_[static_cast<std::size_t>(needed_[i])] = static_cast<std::int32_t>(i);
  }
  const auto at = [this](std::int32_t node) -> PlanNode& {
    return nodes_[static_cast<std::size_t>(slot_[static_cast<std::size_t>(node)])];
  };
  for (const std::int32_t node : frontier) ++at(node).own;
  for (std::size_t i = n; i-- > 0;) {
    PlanNode& node = nodes_[i];
    node.end += node.own;
    const std::int32_t up = parent[static_cast<std::size_t>(node.node)];
    if (up >= 0) at(up).end += node.end;
  }
  next_.resize(n);
  std::int32_t roots = 0;
  for (std::size_t i = 0; i < n; ++i) {
    PlanNode& node = nodes_[i];
    const std::int32_t up = parent[static_cast<std::size_t>(node.node)];
    std::int32_t& cursor =
        up < 0 ? roots : next_[static_cast<std::size_t>(slot_[static_cast<std::size_t>(up)])];
    node.begin = cursor;
    cursor += node.end;
    node.own += node.begin;
    node.end += node.begin;
    next_[i] = node.own;
  }
  order_.resize(frontier.size());
  // Own rows fill up in the order of the frontier; a node's `own` is where its next one goes, for a moment.
  for (PlanNode& node : nodes_) node.own = node.begin;
  for (std::size_t i = 0; i < frontier.size(); ++i) {
    order_[static_cast<std::size_t>(at(frontier[i]).own++)] = static_cast<std::int32_t>(i);
  }
}

void Plan::cut(std::int32_t block) {
  block_ = block;
  const auto rows = static_cast<std::int32_t>(order_.size());
  const std::int32_t blocks = rows / block + (rows % block != 0);
  std::int64_t total = 0;
  for (const PlanNode& node : nodes_) total += (node.end - 1) / block - node.begin / block + 1;
  if (total > std::numeric_limits<std::int32_t>::max()) {
    throw std::length_error("Too many pairs of a node and a block of rows below it: " +
                            std::to_string(total) + "; take larger blocks or a smaller frontier.");
  }
  item_ptr_.assign(static_cast<std::size_t>(blocks) + 1, 0);
  for (const PlanNode& node : nodes_) {
    for (std::int32_t b = node.begin / block; b * block < node.end; ++b)
      ++item_ptr_[static_cast<std::size_t>(b) + 1];
  }
  for (std::size_t b = 1; b < item_ptr_.size(); ++b) item_ptr_[b] += item_ptr_[b - 1];
  items_.resize(static_cast<std::size_t>(item_ptr_.back()));
  next_.assign(item_ptr_.begin(), item_ptr_.end());
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    for (std::int32_t b = nodes_[i].begin / block; b * block < nodes_[i].end; ++b) {
      items_[static_cast<std::size_t>(next_[static_cast<std::size_t>(b)]++)] = static_cast<std::int32_t>(i);
    }
  }
}

}  // namespace svip
