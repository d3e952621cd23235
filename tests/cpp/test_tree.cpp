#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "svip/tree.h"

namespace {

using svip::Rule;
using svip::Status;
using svip::Tree;
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

template <class Error>
bool throws(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error&) {
    return true;
  }
  return false;
}

std::uint8_t code(Status status) { return static_cast<std::uint8_t>(status); }

void selects_the_prior_first_and_then_the_value() {
  Tree tree;
  tree.add_children(0, std::vector<float>{0.2F, 0.5F, 0.3F});
  CHECK(tree.select(1.0) == Nodes{2});
  tree.release(Nodes{2});
  tree.backup(Nodes{1, 2, 3}, Values{0.9, 0.1, 0.2});
  CHECK(tree.select(0.0) == Nodes{1});
  CHECK(tree.visits()[0] == 3);
  CHECK(std::abs(tree.value_sum()[0] - 1.2) < 1e-12);
}

void uct_takes_the_unvisited_first_and_ties_go_to_the_lowest_index() {
  Tree tree;
  tree.add_children(0, std::vector<float>{1, 1, 1});
  tree.backup(Nodes{1}, Values{1.0});
  CHECK((tree.select(1.4, Rule::kUct, 3) == Nodes{2, 3, 1}));
}

void selects_every_open_leaf_once_until_released() {
  Tree tree;
  tree.add_children(0, std::vector<float>(5, 0.2F));
  CHECK(tree.select(1.0, Rule::kPuct, 9).size() == 5);
  CHECK(tree.select(1.0).empty());
  CHECK(tree.virtual_visits()[0] == 5);
  tree.release(Nodes{4});
  CHECK(tree.select(1.0, Rule::kPuct, 9) == Nodes{4});
}

void release_is_all_or_nothing() {
  Tree tree;
  tree.add_children(0, std::vector<float>{1, 1});
  tree.select(1.0);
  CHECK(throws<std::invalid_argument>([&] { tree.release(Nodes{1, 1}); }));
  CHECK(throws<std::invalid_argument>([&] { tree.release(Nodes{0}); }));
  CHECK(tree.virtual_visits()[1] == 1);
  tree.release(Nodes{1});
  CHECK(tree.virtual_visits()[0] == 0);
}

void a_held_leaf_is_not_selected_until_released() {
  Tree tree;
  tree.add_children(0, std::vector<float>{1, 1, 1});
  tree.add_children(1, std::vector<float>{1});
  tree.hold(Nodes{2, 4});
  CHECK(tree.virtual_visits()[0] == 2 && tree.virtual_visits()[1] == 1);
  CHECK(tree.select(1.0, Rule::kPuct, 9) == Nodes{3});
  tree.release(Nodes{4, 3, 2});
  CHECK(tree.select(1.0, Rule::kPuct, 9).size() == 3);
}

void hold_is_all_or_nothing() {
  Tree tree;
  tree.add_children(0, std::vector<float>{1, 1, 1});
  tree.hold(Nodes{1});
  for (const Nodes& nodes : {Nodes{2, 2}, Nodes{2, 1}, Nodes{2, 0}}) {
    CHECK(throws<std::invalid_argument>([&] { tree.hold(nodes); }));
  }
  CHECK(throws<std::out_of_range>([&] { tree.hold(Nodes{2, 4}); }));
  CHECK(tree.virtual_visits()[0] == 1);
  CHECK(tree.select(1.0, Rule::kPuct, 9).size() == 2);
}

void a_leaf_held_below_a_failed_node_reopens_held() {
  Tree tree;
  tree.add_children(0, std::vector<float>{1, 1});
  tree.add_children(1, std::vector<float>{1, 1});
  tree.set_status(Nodes{1}, Status::kFailed);
  tree.hold(Nodes{3});
  CHECK(tree.select(1.0, Rule::kPuct, 9) == Nodes{2});
  tree.set_status(Nodes{1}, Status::kExpanded);
  CHECK(tree.select(1.0, Rule::kPuct, 9) == Nodes{4});
}

void exhaustion_travels_up_and_back() {
  Tree tree;
  tree.add_children(0, std::vector<float>{1, 1});
  tree.add_children(1, std::vector<float>{1, 1});
  tree.set_status(Nodes{3, 4}, Status::kTerminal);
  CHECK(tree.status()[1] == code(Status::kExhausted));
  tree.set_status(Nodes{2}, Status::kFailed);
  CHECK(tree.status()[0] == code(Status::kExhausted));
  CHECK(tree.select(1.0).empty());
  tree.set_status(Nodes{3}, Status::kOpen);
  CHECK(tree.status()[0] == code(Status::kExpanded));
  CHECK(tree.select(1.0, Rule::kPuct, 5) == Nodes{3});
}

void a_failed_branch_hides_its_open_leaves() {
  Tree tree;
  tree.add_children(0, std::vector<float>{1, 1});
  tree.add_children(1, std::vector<float>{1, 1});
  tree.set_status(Nodes{1}, Status::kFailed);
  CHECK((tree.select(1.0, Rule::kPuct, 9) == Nodes{2}));
  tree.set_status(Nodes{1}, Status::kExpanded);
  CHECK((tree.select(1.0, Rule::kPuct, 9) == Nodes{3, 4}));
}

void views_outlive_growth() {
  Tree tree(1);
  const svip::Column<std::int32_t> before = tree.parent();
  tree.add_children(0, std::vector<float>(100, 1.0F));
  CHECK(before[0] == svip::kNoNode);
  CHECK(tree.parent().get() != before.get());
  CHECK(tree.size() == 101);
}

void bad_arguments_throw_and_change_nothing() {
  Tree tree(4, 4);
  const float nan = std::nanf("");
  CHECK(throws<std::invalid_argument>([] { Tree bad(0); }));
  CHECK(throws<std::invalid_argument>([] { Tree bad(std::int64_t{1} << 31); }));
  CHECK(throws<std::out_of_range>([&] { tree.add_children(1, std::vector<float>{1}); }));
  CHECK(throws<std::invalid_argument>([&] { tree.add_children(0, std::vector<float>{}); }));
  CHECK(throws<std::invalid_argument>([&] { tree.add_children(0, std::vector<float>{1, nan}); }));
  CHECK(throws<std::overflow_error>([&] { tree.add_children(0, std::vector<float>(4, 1.0F)); }));
  CHECK(throws<std::invalid_argument>([&] { tree.select(-1.0); }));
  CHECK(throws<std::invalid_argument>([&] { tree.select(1.0, Rule::kPuct, 0); }));
  CHECK(throws<std::out_of_range>([&] { tree.backup(Nodes{0, 7}, Values{1, 1}); }));
  CHECK(throws<std::invalid_argument>([&] { tree.backup(Nodes{0}, Values{1, 1}); }));
  CHECK(throws<std::invalid_argument>([&] { tree.backup(Nodes{0}, Values{std::nan("")}); }));
  CHECK(throws<std::invalid_argument>([&] { tree.set_status(Nodes{0}, Status::kExpanded); }));
  CHECK(tree.size() == 1 && tree.visits()[0] == 0 && tree.status()[0] == 0);
}

void top_k_is_stable_and_puts_nan_last() {
  Tree tree;
  tree.add_children(0, std::vector<float>(4, 1.0F));
  const Nodes nodes{4, 3, 2, 1};
  const Values scores{1, std::nan(""), 2, 1};
  CHECK((tree.top_k(nodes, scores, 3) == Nodes{2, 4, 1}));
  CHECK((tree.top_k(nodes, scores, 9) == Nodes{2, 4, 1, 3}));
}

void state_round_trips_and_every_flipped_byte_is_found() {
  Tree tree;
  tree.add_children(0, std::vector<float>{0.5F, 0.5F});
  tree.select(1.0);
  tree.add_children(1, std::vector<float>{1});
  tree.backup(Nodes{3}, Values{0.25});
  tree.set_status(Nodes{2}, Status::kTerminal);
  const std::string state = tree.state();
  Tree copy = Tree::from_state(state);
  CHECK(copy.state() == state);
  CHECK(copy.select(1.0) == tree.select(1.0));
  for (std::size_t i = 0; i < state.size(); ++i) {
    std::string corrupt = state;
    corrupt[i] = static_cast<char>(corrupt[i] ^ 1);
    CHECK(throws<std::invalid_argument>([&] { Tree::from_state(corrupt); }));
    CHECK(throws<std::invalid_argument>([&] { Tree::from_state(std::string_view(state).substr(0, i)); }));
  }
}

void contradicting_columns_are_refused() {
  const auto nan = std::nanf("");
  const svip::Columns good{{-1, 0}, {1, 1}, {1, 1}, {0, 0}, {1, 1}, {{nan, nan, nan}, {0, 0, 0}}, {1, 0}};
  CHECK(Tree::from_columns(good).size() == 2);
  const auto refused = [&](const std::function<void(svip::Columns&)>& change) {
    svip::Columns columns = good;
    change(columns);
    return throws<std::invalid_argument>([&] { Tree::from_columns(columns); });
  };
  CHECK(refused([](auto& c) { c.parent = {-1, 1}; }));
  CHECK(refused([](auto& c) { c.parent = {0, 0}; }));
  CHECK(refused([](auto& c) { c.parent.clear(); }));
  CHECK(refused([](auto& c) { c.visits = {0, 1}; }));
  CHECK(refused([](auto& c) { c.virtual_visits = {3, 1}; }));
  CHECK(refused([](auto& c) { c.status = {0, 0}; }));
  CHECK(refused([](auto& c) { c.status = {1, 2}; }));
  CHECK(refused([](auto& c) { c.status = {1, 5}; }));
  CHECK(refused([](auto& c) { c.value_sum = {0, INFINITY}; }));
  CHECK(refused([](auto& c) { c.prior.pop_back(); }));
}

void a_deep_chain_needs_no_stack() {
  Tree tree;
  for (std::int32_t node = 0; node < 300'000; ++node) tree.add_children(node, std::vector<float>{1});
  CHECK(tree.path(300'000).size() == 300'001);
  CHECK(tree.select(1.0) == Nodes{300'000});
  tree.backup(Nodes{300'000}, Values{1.0});
  tree.release(Nodes{300'000});
  tree.set_status(Nodes{300'000}, Status::kTerminal);
  CHECK(tree.status()[0] == code(Status::kExhausted));
}

void finds_the_best_arm_of_a_bandit() {
  for (const Rule rule : {Rule::kPuct, Rule::kUct}) {
    Tree tree;
    std::mt19937 random(0);
    tree.add_children(0, std::vector<float>(5, 0.2F));
    const Values mean{0.3, 0.4, 0.8, 0.5, 0.2};
    for (int i = 0; i < 2000; ++i) {
      const Nodes arm = tree.select(1.0, rule);
      const double draw = static_cast<double>(random()) / 4294967296.0;
      tree.backup(arm, Values{draw < mean[arm[0] - 1] ? 1.0 : 0.0});
      tree.release(arm);
    }
    CHECK(tree.visits()[3] > 1000);
  }
}

}  // namespace

int main() {
  selects_the_prior_first_and_then_the_value();
  uct_takes_the_unvisited_first_and_ties_go_to_the_lowest_index();
  selects_every_open_leaf_once_until_released();
  release_is_all_or_nothing();
  a_held_leaf_is_not_selected_until_released();
  hold_is_all_or_nothing();
  a_leaf_held_below_a_failed_node_reopens_held();
  exhaustion_travels_up_and_back();
  a_failed_branch_hides_its_open_leaves();
  views_outlive_growth();
  bad_arguments_throw_and_change_nothing();
  top_k_is_stable_and_puts_nan_last();
  state_round_trips_and_every_flipped_byte_is_found();
  contradicting_columns_are_refused();
  a_deep_chain_needs_no_stack();
  finds_the_best_arm_of_a_bandit();
  std::printf(failures == 0 ? "all passed\n" : "%d failed\n", failures);
  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
