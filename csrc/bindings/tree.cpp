#include "svip/tree.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "arguments.h"
#include "bindings.h"
#include "locked_tree.h"

namespace {

using svip::Column;
using svip::Reward;

template <class T>
py::array readonly_view(py::ssize_t length, const Column<T>& column) {
  using Scalar = std::conditional_t<std::is_same_v<T, Reward>, float, T>;
  const py::capsule owner(new Column<T>(column), [](void* p) { delete static_cast<Column<T>*>(p); });
  std::vector<py::ssize_t> shape{length};
  if constexpr (std::is_same_v<T, Reward>) shape.push_back(svip::kDimensions);
  py::array_t<Scalar> view(shape, reinterpret_cast<const Scalar*>(column.get()), owner);
  py::detail::array_proxy(view.ptr())->flags &= ~py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
  return view;
}

std::int32_t to_node(std::int64_t node, const char* name) {
  if (node < 0 || node > std::numeric_limits<std::int32_t>::max()) {
    throw py::index_error("`" + std::string(name) + "` must be a node of the tree; got " +
                          std::to_string(node) + ".");
  }
  return static_cast<std::int32_t>(node);
}

std::vector<Reward> to_rewards(const py::handle& object, const char* name) {
  const py::array array = as_array(object, name, "fiub");
  const bool one = array.ndim() == 1 && array.shape(0) == svip::kDimensions;
  const bool many = array.ndim() == 2 && array.shape(1) == svip::kDimensions;
  if (array.size() > 0 && !one && !many) {
    throw py::value_error("`" + std::string(name) + "` must have shape [m, 3]; got " +
                          std::string(py::str(array.attr("shape"))) + ".");
  }
  const std::vector<float> flat = to_vector<float>(array, name, 2);
  std::vector<Reward> rewards(flat.size() / svip::kDimensions);
  for (std::size_t i = 0; i < flat.size(); ++i)
    rewards[i / svip::kDimensions][i % svip::kDimensions] = flat[i];
  return rewards;
}

std::vector<std::uint8_t> to_status(const py::handle& object) {
  std::vector<std::uint8_t> status;
  for (const std::int32_t value : to_int32(object, "status")) {
    status.push_back(value < 0 || value > 255 ? 255 : static_cast<std::uint8_t>(value));
  }
  return status;
}

svip::Status to_one_status(std::int64_t status) {
  if (status < 0 || status > static_cast<std::int64_t>(svip::Status::kExhausted)) {
    throw py::value_error("`status` must lie in [0, 4]; got " + std::to_string(status) + ".");
  }
  return static_cast<svip::Status>(status);
}

std::unique_ptr<LockedTree> from_columns(const py::object& parent, const py::object& visits,
                                         const py::object& virtual_visits, const py::object& value_sum,
                                         const py::object& prior, const py::object& reward,
                                         const py::object& status) {
  svip::Columns columns;
  columns.parent = to_int32(parent, "parent");
  columns.visits = to_int32(visits, "visits");
  columns.virtual_visits = to_int32(virtual_visits, "virtual_visits");
  columns.value_sum = to_numbers<double>(value_sum, "value_sum");
  columns.prior = to_numbers<float>(prior, "prior");
  columns.reward = to_rewards(reward, "reward");
  columns.status = to_status(status);
  return std::make_unique<LockedTree>(svip::Tree::from_columns(columns));
}

template <class T, const Column<T>& (svip::Tree::*column)() const>
py::array view(LockedTree& tree) {
  return locked(tree, [](const svip::Tree& t) { return readonly_view(t.size(), (t.*column)()); });
}

void bind_columns(py::class_<LockedTree>& cls) {
  using svip::Tree;
  using I = std::int32_t;
  cls.def_property_readonly("parent", &view<I, &Tree::parent>, "int32 [N]; -1 for the root.")
      .def_property_readonly("first_child", &view<I, &Tree::first_child>, "int32 [N]; -1 for a leaf.")
      .def_property_readonly("next_sibling", &view<I, &Tree::next_sibling>, "int32 [N]; -1 for the last.")
      .def_property_readonly("depth", &view<I, &Tree::depth>, "int32 [N]; 0 for the root.")
      .def_property_readonly("visits", &view<I, &Tree::visits>, "int32 [N].")
      .def_property_readonly("virtual_visits", &view<I, &Tree::virtual_visits>, "int32 [N].")
      .def_property_readonly("value_sum", &view<double, &Tree::value_sum>, "float64 [N].")
      .def_property_readonly("prior", &view<float, &Tree::prior>, "float32 [N]; 1 for the root.")
      .def_property_readonly("reward", &view<Reward, &Tree::reward>, "float32 [N, 3]; NaN: not evaluated.")
      .def_property_readonly("status", &view<std::uint8_t, &Tree::status>, "uint8 [N]; OPEN to EXHAUSTED.");
}

void bind_operations(py::class_<LockedTree>& cls) {
  cls.def(
         "add_children",
         [](LockedTree& tree, std::int64_t parent, const py::object& priors) {
           const auto p = to_numbers<float>(priors, "priors");
           const std::int32_t node = to_node(parent, "parent");
           return locked(tree, [&](svip::Tree& t) { return t.add_children(node, p); });
         },
         py::arg("parent"), py::arg("priors"),
         "Append one open child per prior; return the index of the first.")
      .def(
          "select",
          [](LockedTree& tree, double c, const std::string& rule, std::int64_t k) {
            const svip::Rule r = to_rule(rule);
            return to_numpy(unlocked_interpreter(tree, [&](svip::Tree& t) { return t.select(c, r, k); }));
          },
          py::arg("c"), py::arg("rule") = "puct", py::arg("k") = 1,
          "Return up to k open leaves, int32, leaving one virtual visit on the path of each.")
      .def(
          "backup",
          [](LockedTree& tree, const py::object& nodes, const py::object& values) {
            const auto n = to_int32(nodes, "nodes");
            const auto v = to_numbers<double>(values, "values");
            unlocked_interpreter(tree, [&](svip::Tree& t) { t.backup(n, v); });
          },
          py::arg("nodes"), py::arg("values"),
          "Add one visit and the value to each node and all its ancestors.")
      .def(
          "hold",
          [](LockedTree& tree, const py::object& nodes) {
            const auto n = to_int32(nodes, "nodes");
            locked(tree, [&](svip::Tree& t) { t.hold(n); });
          },
          py::arg("nodes"), "Leave virtual visits for these open leaves, as if select had returned them.")
      .def(
          "release",
          [](LockedTree& tree, const py::object& nodes) {
            const auto n = to_int32(nodes, "nodes");
            locked(tree, [&](svip::Tree& t) { t.release(n); });
          },
          py::arg("nodes"), "Take back the virtual visits that select or hold left for these nodes.")
      .def(
          "set_status",
          [](LockedTree& tree, const py::object& nodes, std::int64_t status) {
            const auto n = to_int32(nodes, "nodes");
            const svip::Status s = to_one_status(status);
            locked(tree, [&](svip::Tree& t) { t.set_status(n, s); });
          },
          py::arg("nodes"), py::arg("status"), "Set the status and carry EXHAUSTED upward.")
      .def(
          "set_reward",
          [](LockedTree& tree, const py::object& nodes, const py::object& rewards) {
            const auto n = to_int32(nodes, "nodes");
            const auto r = to_rewards(rewards, "rewards");
            locked(tree, [&](svip::Tree& t) { t.set_reward(n, r); });
          },
          py::arg("nodes"), py::arg("rewards"), "Store rewards, [m, 3]; NaN where not evaluated.")
      .def(
          "path",
          [](LockedTree& tree, std::int64_t node) {
            const std::int32_t n = to_node(node, "node");
            return to_numpy(locked(tree, [&](svip::Tree& t) { return t.path(n); }));
          },
          py::arg("node"), "Return the node indices from the root to node, int32.")
      .def(
          "top_k",
          [](LockedTree& tree, const py::object& nodes, const py::object& scores, std::int64_t k) {
            const auto n = to_int32(nodes, "nodes");
            const auto s = to_numbers<double>(scores, "scores");
            return to_numpy(unlocked_interpreter(tree, [&](svip::Tree& t) { return t.top_k(n, s, k); }));
          },
          py::arg("nodes"), py::arg("scores"), py::arg("k"),
          "Return the k nodes of highest score, best first, ties in the order given, NaN last.");
}

}  // namespace

void bind_tree(py::module_& module) {
  py::class_<LockedTree> cls(module, "Tree",
                             "A search tree as an arena of columns; views are read-only, not copies.");
  cls.def(py::init<std::int64_t>(), py::arg("capacity") = 64)
      .def("__len__", [](LockedTree& tree) { return locked(tree, [](svip::Tree& t) { return t.size(); }); })
      .def_static("from_columns", &from_columns, py::kw_only(), py::arg("parent"), py::arg("visits"),
                  py::arg("virtual_visits"), py::arg("value_sum"), py::arg("prior"), py::arg("reward"),
                  py::arg("status"), "Return the tree with these columns; ValueError where they contradict.")
      .def(py::pickle(
          [](LockedTree& tree) { return py::bytes(locked(tree, [](svip::Tree& t) { return t.state(); })); },
          [](const py::bytes& state) {
            return std::make_unique<LockedTree>(svip::Tree::from_state(std::string_view(state)));
          }));
  bind_columns(cls);
  bind_operations(cls);
  int value = 0;
  for (const char* name : {"OPEN", "EXPANDED", "TERMINAL", "FAILED", "EXHAUSTED"})
    module.attr(name) = value++;
}
