#include "svip/forest.h"

#include <pybind11/pybind11.h>

#include <cstdint>
#include <mutex>
#include <string>
#include <type_traits>
#include <vector>

#include "arguments.h"
#include "bindings.h"
#include "locked_tree.h"

namespace {

using svip::Forest;
using svip::NodeLists;

py::tuple to_tuple(const py::object& trees) {
  if (PySequence_Check(trees.ptr()) == 0) {
    throw py::type_error("`trees` must be a list of Tree objects; got " +
                         std::string(py::str(py::type::of(trees).attr("__name__"))) + ".");
  }
  return py::tuple(trees);
}

std::vector<svip::Tree*> to_pointers(const py::tuple& trees) {
  std::vector<svip::Tree*> pointers;
  pointers.reserve(trees.size());
  py::detail::make_caster<LockedTree> caster;
  for (const py::handle object : trees) {
    const std::string name = "`trees[" + std::to_string(pointers.size()) + "]`";
    if (!caster.load(object, false)) {
      throw py::type_error(name + " must be a Tree; got " +
                           std::string(py::str(py::type::of(object).attr("__name__"))) + ".");
    }
    pointers.push_back(&py::detail::cast_op<LockedTree&>(caster));
    if (pointers.back()->size() == 0) throw py::value_error(name + " is not initialised: call Tree().");
  }
  return pointers;
}

// The trees of a call: the tuple keeps them alive whatever happens to the caller's list.
class TreeList {
 public:
  explicit TreeList(const py::object& trees) : tuple_(to_tuple(trees)), forest_(to_pointers(tuple_)) {}

  std::size_t size() const { return forest_.size(); }

  // All locks are taken without the interpreter lock and given back before it is taken again.
  template <class F>
  auto locked(F&& f) const {
    const py::gil_scoped_release release;
    std::vector<std::unique_lock<std::mutex>> locks;
    locks.reserve(size());
    for (svip::Tree* tree : forest_.by_address()) locks.emplace_back(static_cast<LockedTree*>(tree)->mutex);
    return f(forest_);
  }

 private:
  py::tuple tuple_;
  Forest forest_;
};

// One number for each tree; a scalar is the same for all.  The usual types need no conversion by
// numpy.
template <class T>
std::vector<T> to_each(const py::object& object, const char* name, std::size_t trees) {
  if (is_exact<T>(object)) return copy_exact<T>(object);
  if constexpr (std::is_same_v<T, double>) {
    if (PyFloat_CheckExact(object.ptr())) return std::vector<T>(trees, PyFloat_AS_DOUBLE(object.ptr()));
  } else if (PyLong_CheckExact(object.ptr())) {
    int overflow = 0;
    const long long number = PyLong_AsLongLongAndOverflow(object.ptr(), &overflow);
    if (overflow == 0) return std::vector<T>(trees, number);
  }
  const py::array array = as_array(object, name, std::is_integral_v<T> ? "iu" : "fiub");
  std::vector<T> numbers = to_vector<T>(array, name);
  if (array.ndim() == 0) numbers.assign(trees, T(numbers.front()));
  return numbers;
}

py::tuple to_python(const NodeLists& lists) {
  return py::make_tuple(to_numpy(lists.nodes), to_numpy(lists.counts));
}

py::tuple select_many(const py::object& trees, const py::object& c, const std::string& rule,
                      const py::object& k) {
  const TreeList list(trees);
  const svip::Rule r = to_rule(rule);
  const auto cs = to_each<double>(c, "c", list.size());
  const auto ks = to_each<std::int64_t>(k, "k", list.size());
  return to_python(list.locked([&](const Forest& forest) { return svip::select_many(forest, cs, r, ks); }));
}

void backup_many(const py::object& trees, const py::object& nodes, const py::object& counts,
                 const py::object& values) {
  const TreeList list(trees);
  const auto n = to_int32(nodes, "nodes");
  const auto sizes = to_int32(counts, "counts");
  const auto v = to_numbers<double>(values, "values");
  list.locked([&](const Forest& forest) { svip::backup_many(forest, {n, sizes}, v); });
}

void release_many(const py::object& trees, const py::object& nodes, const py::object& counts) {
  const TreeList list(trees);
  const auto n = to_int32(nodes, "nodes");
  const auto sizes = to_int32(counts, "counts");
  list.locked([&](const Forest& forest) { svip::release_many(forest, {n, sizes}); });
}

py::tuple top_k_many(const py::object& trees, const py::object& nodes, const py::object& counts,
                     const py::object& scores, const py::object& k) {
  const TreeList list(trees);
  const auto n = to_int32(nodes, "nodes");
  const auto sizes = to_int32(counts, "counts");
  const auto s = to_numbers<double>(scores, "scores");
  const auto ks = to_each<std::int64_t>(k, "k", list.size());
  return to_python(
      list.locked([&](const Forest& forest) { return svip::top_k_many(forest, {n, sizes}, s, ks); }));
}

py::tuple advance_many(const py::object& trees, const py::object& released, const py::object& released_counts,
                       const py::object& nodes, const py::object& node_counts, const py::object& values,
                       const py::object& c, const std::string& rule, const py::object& k) {
  const TreeList list(trees);
  const svip::Rule r = to_rule(rule);
  const auto leaving = to_int32(released, "released");
  const auto leaving_sizes = to_int32(released_counts, "released_counts");
  const auto n = to_int32(nodes, "nodes");
  const auto sizes = to_int32(node_counts, "node_counts");
  const auto v = to_numbers<double>(values, "values");
  const auto cs = to_each<double>(c, "c", list.size());
  const auto ks = to_each<std::int64_t>(k, "k", list.size());
  return to_python(list.locked([&](const Forest& forest) {
    return svip::advance_many(forest, {leaving, leaving_sizes}, {n, sizes}, v, cs, r, ks);
  }));
}

}  // namespace

void bind_forest(py::module_& module) {
  module.def("select_many", &select_many, py::arg("trees"), py::arg("c"), py::arg("rule") = "puct",
             py::arg("k") = 1, "Select up to k leaves in each tree; return (leaves, counts), int32.");
  module.def("backup_many", &backup_many, py::arg("trees"), py::arg("nodes"), py::arg("counts"),
             py::arg("values"), "Back the values up, each in its own tree.");
  module.def("release_many", &release_many, py::arg("trees"), py::arg("nodes"), py::arg("counts"),
             "Take back the virtual visits of these nodes, each in its own tree.");
  module.def("top_k_many", &top_k_many, py::arg("trees"), py::arg("nodes"), py::arg("counts"),
             py::arg("scores"), py::arg("k"),
             "Keep the k nodes of highest score of each tree; return (kept, counts), int32.");
  module.def("advance_many", &advance_many, py::arg("trees"), py::arg("released"), py::arg("released_counts"),
             py::arg("nodes"), py::arg("node_counts"), py::arg("values"), py::arg("c"),
             py::arg("rule") = "puct", py::arg("k") = 1,
             "In each tree release, back up, then select up to k leaves; return (leaves, counts), int32.");
}
