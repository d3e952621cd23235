// Operations on many trees in one call: the turns of all searches that run side by side.
//
// In words.  Each function does for every tree what the method of the same name does for one, in the order of
// the trees, and gives the same results bit for bit.  What belongs to the trees comes and goes as one list,
// tree after tree, with `counts[i]` entries for tree i.  A tree with a k of 0 is asked for nothing.
//
// The arguments of all trees are checked before the first tree changes, so a call that throws has changed
// nothing.  It throws what the methods throw, with the tree's index, and std::invalid_argument where lengths
// and counts contradict.  Not thread-safe: lock the trees in the order of `by_address`, in which two threads
// that share some of them cannot wait for each other.
//
// Cost: that of the methods, and O(S log S) to find a tree named twice among S.

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "svip/tree.h"

namespace svip {

// Distinct trees, which must outlive it.
class Forest {
 public:
  // Throws std::invalid_argument for a null pointer or a tree named twice.
  explicit Forest(std::vector<Tree*> trees);

  std::size_t size() const { return trees_.size(); }
  Tree& operator[](std::size_t i) const { return *trees_[i]; }
  std::span<Tree* const> by_address() const { return by_address_; }

 private:
  std::vector<Tree*> trees_, by_address_;
};

struct NodeLists {
  std::vector<std::int32_t> nodes, counts;
};

struct NodeSpans {
  std::span<const std::int32_t> nodes, counts;
};

NodeLists select_many(const Forest& trees, std::span<const double> c, Rule rule,
                      std::span<const std::int64_t> k);

void backup_many(const Forest& trees, NodeSpans lists, std::span<const double> values);

void release_many(const Forest& trees, NodeSpans lists);

NodeLists top_k_many(const Forest& trees, NodeSpans lists, std::span<const double> scores,
                     std::span<const std::int64_t> k);

// A whole turn of every search: release, then backup, then select.
NodeLists advance_many(const Forest& trees, NodeSpans released, NodeSpans lists,
                       std::span<const double> values, std::span<const double> c, Rule rule,
                       std::span<const std::int64_t> k);

}  // namespace svip
