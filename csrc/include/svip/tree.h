// A search tree as an arena of columns, with PUCT/UCT selection and backup.
//
// In words.  A node is an index; every property is one column indexed by it, and the tree only grows.  One
// simulation selects a leaf by walking from the root to the child of the highest score, lets the caller
// expand and evaluate it, and backs the value up: every node of the path gains one visit and the value. While
// a leaf is being worked on, each node of its path carries a virtual visit of value 0, so that the next
// selection goes elsewhere; `release` takes it off again.
//
// Formulas, for a child with n = visits + virtual_visits below a parent with N = visits + virtual_visits:
//
//     PUCT   score = Q + c * prior * sqrt(max(N, 1)) / (1 + n)
//     UCT    score = Q + c * sqrt(log(max(N, 1)) / n),  and infinity where n = 0
//     Q      = value_sum / n,  and the parent's Q where n = 0 (0 above the root)
//
// The highest score wins, ties go to the lowest index.  Each node knows how many selectable leaves lie below
// it, so a descent never enters a branch without one, and selecting k leaves costs k descents.
//
// Does not apply where one state is reached along several paths (this is a tree, not a graph) or where values
// have two players' signs: they are backed up as they are.
//
// Cost: select O(depth * branching), backup O(depth) a value, both without recursion or allocation per node.
//
// Sources: L. Kocsis and C. Szepesvari, "Bandit based Monte-Carlo planning", ECML 2006 (UCT); C. D. Rosin,
// "Multi-armed bandits with episode context", AMAI 61, 2011 (PUCT), in the form of D. Silver et al.,
// "Mastering the game of Go without human knowledge", Nature 550, 2017 (AlphaGo Zero).

#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace svip {

enum class Status : std::uint8_t {
  kOpen = 0,       // may be expanded; has no children
  kExpanded = 1,   // has children, and something may be left to select below it
  kTerminal = 2,   // the trajectory ends here
  kFailed = 3,     // the policy or the reward model gave nothing usable
  kExhausted = 4,  // nothing left to select below it
};

enum class Rule { kPuct, kUct };

inline constexpr std::int32_t kNoNode = -1;
inline constexpr int kDimensions = 3;
// Largest magnitude that may be backed up: 2^31 such values still have a finite sum.
inline constexpr double kMaxValue = 1e200;

// Shared ownership lets a view of a column outlive growth and the tree itself.
template <class T>
using Column = std::shared_ptr<T[]>;
using Reward = std::array<float, kDimensions>;

// The columns that determine a tree; everything else follows from them.
struct Columns {
  std::vector<std::int32_t> parent;
  std::vector<std::int32_t> visits;
  std::vector<std::int32_t> virtual_visits;
  std::vector<double> value_sum;
  std::vector<float> prior;
  std::vector<Reward> reward;
  std::vector<std::uint8_t> status;
};

// Throws std::out_of_range for a node that does not exist, std::invalid_argument for any other bad argument
// and std::overflow_error where int32 does not suffice; a call that throws has changed nothing.  Not
// thread-safe.
class Tree {
 public:
  // A tree of one open root.  `max_nodes` bounds the growth.
  explicit Tree(std::int64_t capacity = 64,
                std::int64_t max_nodes = std::numeric_limits<std::int32_t>::max());

  // The inverse of reading the columns; checks every invariant.
  static Tree from_columns(const Columns& columns);
  // The inverse of `state`; checks length, version, checksum and every invariant.
  static Tree from_state(std::string_view state);

  Tree(Tree&&) = default;
  Tree& operator=(Tree&&) = default;
  Tree(const Tree&) = delete;  // a copy would share its columns
  Tree& operator=(const Tree&) = delete;

  std::int32_t size() const { return size_; }

  const Column<std::int32_t>& parent() const { return parent_; }
  const Column<std::int32_t>& first_child() const { return first_child_; }
  const Column<std::int32_t>& next_sibling() const { return next_sibling_; }
  const Column<std::int32_t>& depth() const { return depth_; }
  const Column<std::int32_t>& visits() const { return visits_; }
  const Column<std::int32_t>& virtual_visits() const { return virtual_visits_; }
  const Column<double>& value_sum() const { return value_sum_; }
  const Column<float>& prior() const { return prior_; }
  const Column<Reward>& reward() const { return reward_; }
  const Column<std::uint8_t>& status() const { return status_; }

  // Appends one open child per prior and returns the index of the first; they are consecutive.
  std::int32_t add_children(std::int32_t parent, std::span<const float> priors);

  // Up to k distinct open leaves, each with a virtual visit on its whole path; fewer where no more are
  // selectable. A leaf is selectable while it is open, carries no virtual visit and no ancestor is terminal
  // or failed.
  std::vector<std::int32_t> select(double c, Rule rule = Rule::kPuct, std::int64_t k = 1);
  // Appends them to `leaves` instead, which allocates nothing where there is room.
  void select(double c, Rule rule, std::int64_t k, std::vector<std::int32_t>& leaves);

  // How many leaves `select` could return now.
  std::int32_t selectable() const { return available_[0]; }

  // Adds one visit and the value to each node and all its ancestors, in the order given.
  void backup(std::span<const std::int32_t> nodes, std::span<const double> values);

  // Gives each of these open, not yet selected leaves a virtual visit on its whole path, as `select` does, so
  // that nothing selects it until `release`.
  void hold(std::span<const std::int32_t> nodes);

  // Takes back the virtual visits that `select` or `hold` left for these nodes.
  void release(std::span<const std::int32_t> nodes);

  // Sets the status and carries its consequences upward: an expanded node whose children are all terminal,
  // failed or exhausted becomes exhausted, and an exhausted one becomes expanded again when a child reopens.
  void set_status(std::span<const std::int32_t> nodes, Status status);

  void set_reward(std::span<const std::int32_t> nodes, std::span<const Reward> rewards);

  // Node indices from the root to `node`, both included.
  std::vector<std::int32_t> path(std::int32_t node) const;

  // The nodes of the k highest scores, best first; ties keep their order, NaN comes after every number.
  std::vector<std::int32_t> top_k(std::span<const std::int32_t> nodes, std::span<const double> scores,
                                  std::int64_t k) const;

  // Throw what the operation would throw, and change nothing.
  void check_select(double c, std::int64_t k) const;
  void check_backup(std::span<const std::int32_t> nodes, std::span<const double> values) const;
  void check_release(std::span<const std::int32_t> nodes, const char* name = "nodes") const;
  void check_top_k(std::span<const std::int32_t> nodes, std::span<const double> scores, std::int64_t k) const;

  // Versioned bytes with a checksum, little-endian.
  std::string state() const;

 private:
  void check_node(std::int64_t node, const char* name) const;
  void check_nodes(std::span<const std::int32_t> nodes, const char* name = "nodes") const;
  std::size_t first_unlike(std::span<const std::int32_t> nodes, std::uint8_t selected) const;
  void reserve(std::int64_t needed);
  std::int32_t append(std::int32_t parent, float prior);
  std::int32_t available_below(std::int32_t node) const;
  std::int32_t availability(std::int32_t node) const;
  void set_one_status(std::int32_t node, Status status);
  void refresh_ancestors(std::int32_t node, bool was_finished, std::int32_t change);
  template <Rule rule>
  std::int32_t descend(double c) const;
  void occupy(std::int32_t leaf);
  void vacate(std::int32_t node);

  std::int32_t size_ = 0;
  std::int64_t capacity_ = 0;
  std::int64_t max_nodes_;

  Column<std::int32_t> parent_, first_child_, next_sibling_, depth_, visits_, virtual_visits_;
  Column<double> value_sum_;
  Column<float> prior_;
  Column<Reward> reward_;
  Column<std::uint8_t> status_;

  // Derived columns, not shown to callers.
  Column<std::int32_t> last_child_;
  Column<std::int32_t> unfinished_;  // children that are open or expanded
  Column<std::int32_t> available_;   // selectable leaves in the subtree, this node included
  Column<std::uint8_t> selected_;    // selected or held, and not yet released
};

}  // namespace svip
