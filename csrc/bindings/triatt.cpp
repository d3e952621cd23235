#include "svip/triatt.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "bindings.h"

namespace py = pybind11;

namespace {

// The object behind a handle.  pybind11 hands out unconstructed memory for one made by `__new__` alone; this
// refuses.
template <class T>
struct Live {
  T* object = nullptr;
  T& operator*() const { return *object; }
  T* operator->() const { return object; }
};

}  // namespace

template <class T>
struct py::detail::type_caster<Live<T>> {
  PYBIND11_TYPE_CASTER(Live<T>, const_name("object"));

  bool load(handle source, bool) {
    if (!isinstance<T>(source)) return false;
    auto* const memory = reinterpret_cast<instance*>(source.ptr());
    if (!memory->get_value_and_holder(get_type_info(typeid(T))).holder_constructed()) {
      throw type_error(std::string(str(type::of<T>().attr("__name__"))) +
                       " must be made by its constructor.");
    }
    value.object = source.cast<T*>();
    return true;
  }
};

namespace {

using svip::KVPool;
using svip::KVSource;
using svip::KVType;
using svip::PagedTree;
using svip::Plan;
using svip::PlanNode;
using svip::Triatt;
using svip::TriattHead;

// Arrays come checked and converted from svip_search.kernels.triatt; here they only must not crash anything.
template <class T>
using Dense = py::array_t<T, py::array::c_style>;
using Floats = Dense<float>;

template <class T>
std::span<const T> view(const Dense<T>& array) {
  return {array.data(), static_cast<std::size_t>(array.size())};
}

void check_shape(const py::array& array, const char* name, const std::vector<std::int64_t>& shape) {
  bool same = array.ndim() == static_cast<py::ssize_t>(shape.size());
  for (std::size_t i = 0; same && i < shape.size(); ++i)
    same = array.shape(static_cast<py::ssize_t>(i)) == shape[i];
  if (same) return;
  std::string wanted;
  for (const std::int64_t size : shape) wanted += (wanted.empty() ? "" : ", ") + std::to_string(size);
  throw py::value_error("`" + std::string(name) + "` must have shape [" + wanted + "].");
}

// Keys or values [tokens][heads][width]: float32, or bfloat16 as uint16; any strides but along the width.
KVSource source(const py::array& array, const char* name, std::int64_t tokens, const KVPool& pool) {
  check_shape(array, name, {tokens, pool.n_kv_heads(), pool.width()});
  const bool is_float = array.dtype().is(py::dtype::of<float>());
  if (!is_float && !array.dtype().is(py::dtype::of<std::uint16_t>())) {
    throw py::type_error("`" + std::string(name) + "` must hold float32, or bfloat16 as uint16; got " +
                         std::string(py::str(array.dtype())) + ".");
  }
  const py::ssize_t size = array.itemsize();
  const bool whole = array.strides(0) % size == 0 && array.strides(1) % size == 0 &&
                     reinterpret_cast<std::uintptr_t>(array.data()) % static_cast<std::uintptr_t>(size) == 0;
  if (array.size() > 0 && (!whole || (array.strides(2) != size && array.shape(2) > 1))) {
    throw py::value_error("`" + std::string(name) + "` must be aligned and contiguous along its last axis.");
  }
  return {array.data(), is_float ? KVType::kFloat32 : KVType::kBFloat16, array.strides(0) / size,
          array.strides(1) / size};
}

const float* data(const std::optional<Floats>& array) { return array ? array->data() : nullptr; }

Floats floats(std::vector<py::ssize_t> shape) { return Floats(std::move(shape)); }

Triatt& workspace() {
  thread_local Triatt one;
  return one;
}

// Results that were asked for, and where the core writes them.
struct Results {
  Floats scores;
  std::optional<Floats> att, m, l, o;
  svip::TriattOut out;

  Results(py::ssize_t rows, py::ssize_t width, bool want_att, bool want_state) : scores(floats({rows, 3})) {
    if (want_att) att = floats({rows, 3, width});
    if (want_state) {
      m = floats({rows, 3});
      l = floats({rows, 3});
      o = floats({rows, 3, width});
    }
    const auto at = [](std::optional<Floats>& array) { return array ? array->mutable_data() : nullptr; };
    out = {scores.mutable_data(), at(att), at(m), at(l), at(o)};
  }
  py::tuple tuple() const { return py::make_tuple(scores, att, m, l, o); }
};

py::tuple score(const Live<PagedTree>& self, const Dense<std::int32_t>& frontier, const Floats& q,
                const Live<TriattHead>& head, bool att, bool state, int threads, int block, bool dots) {
  const PagedTree& tree = *self;
  const auto rows = static_cast<std::int64_t>(frontier.size());
  const bool constant = q.ndim() == 2;
  const std::vector<std::int32_t> nodes(frontier.data(), frontier.data() + frontier.size());
  if (constant) {
    check_shape(q, "q", {3, tree.pool()->width()});
  } else {
    check_shape(q, "q", {rows, 3, tree.pool()->width()});
  }
  Results results(rows, tree.pool()->width(), att, state);
  {
    const py::gil_scoped_release release;
    workspace().run(tree, nodes, {q.data(), constant}, *head, results.out, {threads, block, dots});
  }
  return results.tuple();
}

py::tuple scan(const Live<PagedTree>& self, std::int32_t first, const Floats& q, const Live<TriattHead>& head,
               const std::optional<Floats>& m, const std::optional<Floats>& l, const std::optional<Floats>& o,
               bool roots_continue, bool att, int threads, bool dots) {
  const PagedTree& tree = *self;
  const std::int64_t width = tree.pool()->width();
  check_shape(q, "q", {3, width});
  std::int32_t size = 0;
  std::int64_t known = first;
  {
    const std::shared_lock lock(tree.mutex);
    size = tree.size();
    if (first < 0 || first > size) throw py::index_error("`first` must be 0.." + std::to_string(size) + ".");
    if (roots_continue) {
      known = 0;
      for (std::int32_t node = first; node < size; ++node) known += tree.parent(node) < 0;
    }
  }
  if (m || l || o) {
    if (!m || !l || !o) throw py::value_error("`m`, `l` and `o` must be given together.");
    check_shape(*m, "m", {known, 3});
    check_shape(*l, "l", {known, 3});
    check_shape(*o, "o", {known, 3, width});
  }
  Results results(size - first, width, att, true);
  {
    const py::gil_scoped_release release;
    workspace().scan(tree, first, size, q.data(), *head, {data(m), data(l), data(o)}, roots_continue,
                     results.out, {threads, 0, dots});
  }
  return results.tuple();
}

py::tuple plan(const Dense<std::int32_t>& parent, const Dense<std::int64_t>& token_ptr,
               const Dense<std::int32_t>& frontier, std::int32_t block, std::int32_t tile) {
  const auto n = static_cast<std::int64_t>(parent.size());
  if (block < 1 || tile < 1) throw py::value_error("`block` and `tile` must be at least 1.");
  check_shape(token_ptr, "token_ptr", {n + 1});
  for (std::int64_t i = 0; i < n; ++i) {
    if (parent.at(i) < -1 || parent.at(i) >= i)
      throw py::value_error("`parent` must be -1 or an earlier node.");
    if (token_ptr.at(i) < 0 || token_ptr.at(i + 1) < token_ptr.at(i))
      throw py::value_error("`token_ptr` must not fall.");
  }
  if (token_ptr.at(n) > std::numeric_limits<std::int32_t>::max()) throw py::value_error("Too many tokens.");
  for (py::ssize_t i = 0; i < frontier.size(); ++i) {
    if (frontier.at(i) < 0 || frontier.at(i) >= n)
      throw py::index_error("`frontier` must hold nodes of the tree.");
  }
  Plan work;
  work.sort(view(parent), view(frontier));
  work.cut(block);
  std::vector<std::int32_t> tiles, tile_ptr{0};
  for (std::int32_t b = 0; b < work.n_blocks(); ++b) {
    const std::int32_t lo = b * block, hi = std::min(lo + block, static_cast<std::int32_t>(frontier.size()));
    for (std::int32_t i = work.item_ptr()[static_cast<std::size_t>(b)];
         i < work.item_ptr()[static_cast<std::size_t>(b) + 1]; ++i) {
      const PlanNode& node =
          work.nodes()[static_cast<std::size_t>(work.items()[static_cast<std::size_t>(i)])];
      const auto end = static_cast<std::int32_t>(token_ptr.at(node.node + 1));
      const auto row = [&](std::int32_t r) { return std::clamp(r, lo, hi); };
      for (auto t = static_cast<std::int32_t>(token_ptr.at(node.node)); t < end;
           t += std::min(tile, end - t)) {
        tiles.insert(tiles.end(),
                     {t, std::min(tile, end - t), row(node.begin), row(node.own), row(node.end)});
      }
    }
    tile_ptr.push_back(static_cast<std::int32_t>(tiles.size() / 5));
  }
  const auto copy = [](std::span<const std::int32_t> values) {
    return Dense<std::int32_t>(static_cast<py::ssize_t>(values.size()), values.data());
  };
  return py::make_tuple(copy(work.order()), copy(tiles).reshape({-1, 5}), copy(tile_ptr));
}

}  // namespace

void bind_triatt(py::module_& module) {
  module.def("simd_tiers", &svip::simd_tiers, "Names of the SIMD tiers that can run here, best first.");
  module.def("simd_tier", &svip::simd_tier_name, "Name of the SIMD tier in use.");
  module.def("triatt_plan", &plan, py::arg("parent"), py::arg("token_ptr"), py::arg("frontier"),
             py::arg("block"), py::arg("tile"), "Work list of a frontier: (order, tiles, tile_ptr).");

  py::class_<KVPool, std::shared_ptr<KVPool>>(module, "KVPool")
      .def(py::init([](int width, int n_kv_heads, const std::string& dtype, std::int64_t capacity) {
             if (dtype != "float32" && dtype != "bfloat16") {
               throw py::value_error("`dtype` must be 'float32' or 'bfloat16'; got '" + dtype + "'.");
             }
             return std::make_shared<KVPool>(
                 width, n_kv_heads, dtype == "float32" ? KVType::kFloat32 : KVType::kBFloat16, capacity);
           }),
           py::arg("width"), py::arg("n_kv_heads"), py::arg("dtype"), py::arg("capacity"))
      .def_property_readonly("width", [](const Live<KVPool>& pool) { return pool->width(); })
      .def_property_readonly("n_kv_heads", [](const Live<KVPool>& pool) { return pool->n_kv_heads(); })
      .def_property_readonly("pages_in_use", [](const Live<KVPool>& pool) { return pool->pages_in_use(); })
      .def_property_readonly("bytes", [](const Live<KVPool>& pool) { return pool->bytes(); })
      .def_property_readonly("closed", [](const Live<KVPool>& pool) { return pool->closed(); })
      .def("close", [](const Live<KVPool>& pool) { pool->close(); });

  py::class_<TriattHead, std::shared_ptr<TriattHead>>(module, "TriattHead")
      .def(py::init([](int width, const Floats& u, const Floats& b, const std::optional<Floats>& w,
                       const std::optional<Floats>& c, const std::optional<Floats>& bias) {
             const std::int64_t hidden = w && w->ndim() == 3 ? w->shape(1) : 0;
             if (hidden > 1 << 20) throw py::value_error("`w` must have at most 2^20 hidden units.");
             check_shape(u, "u", {3, hidden > 0 ? hidden : width});
             check_shape(b, "b", {3});
             if (w) check_shape(*w, "w", {3, hidden, width});
             if (c) check_shape(*c, "c", {3, hidden});
             if (bias) check_shape(*bias, "bias", {3, 4});
             return std::make_shared<TriattHead>(width, static_cast<int>(hidden), u.data(), b.data(), data(w),
                                                 data(c), data(bias));
           }),
           py::arg("width"), py::arg("u"), py::arg("b"), py::arg("w"), py::arg("c"), py::arg("bias"));

  py::class_<PagedTree, std::shared_ptr<PagedTree>>(module, "PagedTree")
      .def(py::init<std::shared_ptr<KVPool>>(), py::arg("pool"))
      .def("__len__",
           [](const Live<PagedTree>& tree) {
             const std::shared_lock lock(tree->mutex);
             return tree->size();
           })
      .def_property_readonly("closed",
                             [](const Live<PagedTree>& tree) {
                               const std::shared_lock lock(tree->mutex);
                               return tree->closed();
                             })
      .def(
          "extend",
          [](const Live<PagedTree>& tree, const Dense<std::int32_t>& parent,
             const Dense<std::int64_t>& token_ptr, const Dense<std::uint8_t>& segment, const py::array& k,
             const py::array& v) {
            const auto tokens = static_cast<std::int64_t>(segment.size());
            const KVSource keys = source(k, "k", tokens, *tree->pool()),
                           values = source(v, "v", tokens, *tree->pool());
            const py::gil_scoped_release release;
            const std::unique_lock lock(tree->mutex);
            return tree->extend(view(parent), view(token_ptr), view(segment), keys, values);
          },
          py::arg("parent"), py::arg("token_ptr"), py::arg("segment"), py::arg("k"), py::arg("v"))
      .def(
          "free",
          [](const Live<PagedTree>& tree, std::int32_t node) {
            const py::gil_scoped_release release;
            const std::unique_lock lock(tree->mutex);
            tree->free(node);
          },
          py::arg("node"))
      .def("close",
           [](const Live<PagedTree>& tree) {
             const py::gil_scoped_release release;
             const std::unique_lock lock(tree->mutex);
             tree->close();
           })
      .def("score", &score, py::arg("frontier"), py::arg("q"), py::arg("head"), py::arg("att"),
           py::arg("state"), py::arg("threads"), py::arg("block"), py::arg("dots"))
      .def("scan", &scan, py::arg("first"), py::arg("q"), py::arg("head"), py::arg("m"), py::arg("l"),
           py::arg("o"), py::arg("roots_continue"), py::arg("att"), py::arg("threads"), py::arg("dots"));
}
