#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "svip/forest.h"

namespace {

using svip::Forest;
using svip::NodeLists;
using svip::Rule;
using svip::Tree;
using Counts = std::vector<std::int32_t>;
using Ks = std::vector<std::int64_t>;
using Nodes = std::vector<std::int32_t>;
using Values = std::vector<double>;

int failures = 0;

#define CHECK(condition)                                                  \
  do {                                                                    \
    if (!(condition)) {                                                   \
      std::printf("%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
      ++failures;                                                         \
    }                                                                     \
  } while (false)

// Whether the call throws this error with this text in its message.
template <class Error>
bool throws(const std::string& text, const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return std::string(error.what()).find(text) != std::string::npos;
  }
  return false;
}

// Trees of 1, 2 and 3 children below the root, the first of each selected.
struct Garden {
  std::vector<Tree> trees;
  Forest forest;

  Garden() : trees(planted()), forest({&trees[0], &trees[1], &trees[2]}) {}

  static std::vector<Tree> planted() {
    std::vector<Tree> trees;
    for (std::size_t children = 1; children <= 3; ++children) {
      trees.emplace_back().add_children(0, std::vector<float>(children, 0.5F));
      trees.back().select(1.0);
    }
    return trees;
  }

  std::string state() const {
    std::string all;
    for (const Tree& tree : trees) all += tree.state();
    return all;
  }
};

void a_turn_is_release_then_backup_then_select() {
  Garden many;
  const NodeLists leaves =
      advance_many(many.forest, {Nodes{1, 1}, Counts{1, 0, 1}}, {Nodes{1, 0, 2}, Counts{1, 0, 2}},
                   Values{0.5, 0.25, 0.125}, Values{1, 2, 3}, Rule::kPuct, Ks{4, 1, 0});
  CHECK((leaves.nodes == Nodes{1, 2}));
  CHECK((leaves.counts == Counts{1, 1, 0}));

  Garden one;
  one.trees[0].release(Nodes{1});
  one.trees[0].backup(Nodes{1}, Values{0.5});
  one.trees[0].select(1.0, Rule::kPuct, 4);
  one.trees[1].select(2.0);
  one.trees[2].release(Nodes{1});
  one.trees[2].backup(Nodes{0, 2}, Values{0.25, 0.125});
  CHECK(many.state() == one.state());
}

void each_function_works_on_its_own_part() {
  Garden many;
  CHECK((select_many(many.forest, Values{1, 1, 1}, Rule::kUct, Ks{9, 0, 1}).nodes == Nodes{2}));
  backup_many(many.forest, {Nodes{1, 3}, Counts{0, 1, 1}}, Values{0.5, 1.0});
  CHECK(many.trees[0].visits()[0] == 0 && many.trees[1].value_sum()[1] == 0.5);
  release_many(many.forest, {Nodes{1, 1}, Counts{1, 1, 0}});
  CHECK(many.trees[0].selectable() == 1 && many.trees[2].selectable() == 1);
  const NodeLists kept = top_k_many(many.forest, {Nodes{1, 1, 2, 3}, Counts{1, 0, 3}},
                                    Values{std::nan(""), 1, 2, 3}, Ks{1, 1, 2});
  CHECK((kept.nodes == Nodes{1, 3, 2} && kept.counts == Counts{1, 0, 2}));
}

void no_trees_are_no_work() {
  const Forest none({});
  CHECK(select_many(none, {}, Rule::kPuct, {}).counts.empty());
  backup_many(none, {}, {});
}

void a_forest_holds_distinct_trees() {
  Tree a;
  Tree b;
  CHECK(throws<std::invalid_argument>("both 1 and 2", [&] { Forest({&a, &b, &b}); }));
  CHECK(throws<std::invalid_argument>("null", [&] { Forest({&a, nullptr}); }));
  const Forest forest({&b, &a});
  CHECK(&forest[0] == &b && forest.by_address()[0] == std::min(&a, &b));
}

void bad_arguments_throw_and_change_nothing() {
  using Invalid = std::invalid_argument;
  Garden garden;
  const Forest& forest = garden.forest;
  const std::string before = garden.state();
  const Values ones{1, 1, 1};
  const Ks twos{2, 2, 2};
  CHECK(throws<Invalid>("`c`", [&] { select_many(forest, Values{1}, Rule::kPuct, twos); }));
  CHECK(
      throws<Invalid>("`trees[2]`: `c`", [&] { select_many(forest, Values{1, 1, -1}, Rule::kPuct, twos); }));
  CHECK(throws<Invalid>("tree 1", [&] { select_many(forest, ones, Rule::kPuct, Ks{1, -1, 1}); }));
  CHECK(throws<Invalid>("`counts`", [&] { release_many(forest, {Nodes{1}, Counts{1}}); }));
  CHECK(throws<Invalid>("tree 2", [&] { release_many(forest, {Nodes{1}, Counts{1, 1, -1}}); }));
  CHECK(throws<Invalid>("add up", [&] { release_many(forest, {Nodes{1}, Counts{1, 1, 0}}); }));
  CHECK(throws<Invalid>("`trees[2]`", [&] { release_many(forest, {Nodes{1, 2}, Counts{1, 0, 1}}); }));
  CHECK(throws<std::out_of_range>("`trees[0]`",
                                  [&] { backup_many(forest, {Nodes{2}, Counts{1, 0, 0}}, Values{1}); }));
  CHECK(throws<Invalid>("`values`", [&] { backup_many(forest, {Nodes{1}, Counts{1, 0, 0}}, Values{}); }));
  CHECK(
      throws<Invalid>("`scores`", [&] { top_k_many(forest, {Nodes{1}, Counts{1, 0, 0}}, Values{}, twos); }));
  CHECK(throws<Invalid>("`trees[2]`: `values`", [&] {
    advance_many(forest, {Nodes{1}, Counts{1, 0, 0}}, {Nodes{1, 1}, Counts{1, 0, 1}},
                 Values{1, std::numeric_limits<double>::infinity()}, ones, Rule::kPuct, twos);
  }));
  CHECK(garden.state() == before);
}

}  // namespace

int main() {
  a_turn_is_release_then_backup_then_select();
  each_function_works_on_its_own_part();
  no_trees_are_no_work();
  a_forest_holds_distinct_trees();
  bad_arguments_throw_and_change_nothing();
  std::printf(failures == 0 ? "all passed\n" : "%d failed\n", failures);
  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
