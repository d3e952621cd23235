// Arrays of numbers and choices by name, from Python and back.

#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "svip/tree.h"

namespace py = pybind11;

template <class T>
py::array_t<T> to_numpy(const std::vector<T>& values) {
  return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

// True for an array that can be read as it is; the usual case, and three times faster than a conversion.
template <class T>
bool is_exact(const py::handle& object) {
  return py::isinstance<py::array_t<T, py::array::c_style>>(object) &&
         py::reinterpret_borrow<py::array>(object).ndim() == 1;
}

template <class T>
std::vector<T> copy_exact(const py::handle& object) {
  const auto array = py::reinterpret_borrow<py::array_t<T, py::array::c_style>>(object);
  return std::vector<T>(array.data(), array.data() + array.size());
}

inline py::array as_array(const py::handle& object, const char* name, const char* kinds) {
  const py::array array = py::array::ensure(object);
  if (!array) {
    PyErr_Clear();
    throw py::value_error("`" + std::string(name) + "` must be an array of numbers.");
  }
  if (array.size() > 0 && std::string_view(kinds).find(array.dtype().kind()) == std::string_view::npos) {
    throw py::type_error("`" + std::string(name) + "` must hold " +
                         (kinds[0] == 'i' ? "integers" : "numbers") + "; got " +
                         std::string(py::str(array.dtype())) + ".");
  }
  return array;
}

// Arguments are copied: another thread may write to the caller's array while the interpreter lock is
// released.
template <class T>
std::vector<T> to_vector(const py::array& array, const char* name, int dimensions = 1) {
  if (array.ndim() > dimensions) {
    throw py::value_error("`" + std::string(name) + "` must have " + std::to_string(dimensions) +
                          " dimension(s); got " + std::to_string(array.ndim()) + ".");
  }
  const auto typed = py::array_t<T, py::array::c_style | py::array::forcecast>::ensure(array);
  if (!typed) {
    PyErr_Clear();
    throw py::value_error("`" + std::string(name) + "` must be an array of numbers.");
  }
  return std::vector<T>(typed.data(), typed.data() + typed.size());
}

template <class T>
std::vector<T> to_numbers(const py::handle& object, const char* name) {
  if (is_exact<T>(object)) return copy_exact<T>(object);
  return to_vector<T>(as_array(object, name, "fiub"), name);
}

inline std::vector<std::int32_t> to_int32(const py::handle& object, const char* name) {
  if (is_exact<std::int32_t>(object)) return copy_exact<std::int32_t>(object);
  const py::array array = as_array(object, name, "iu");
  if (array.dtype().kind() == 'i' && array.itemsize() <= 4) return to_vector<std::int32_t>(array, name);
  std::vector<std::int32_t> narrow;
  for (const std::int64_t value : to_vector<std::int64_t>(array, name)) {
    if (value < std::numeric_limits<std::int32_t>::min() ||
        value > std::numeric_limits<std::int32_t>::max()) {
      throw py::index_error("`" + std::string(name) + "` must fit into int32; got " + std::to_string(value) +
                            ".");
    }
    narrow.push_back(static_cast<std::int32_t>(value));
  }
  return narrow;
}

inline svip::Rule to_rule(const std::string& rule) {
  if (rule == "puct") return svip::Rule::kPuct;
  if (rule == "uct") return svip::Rule::kUct;
  throw py::value_error("`rule` must be \"puct\" or \"uct\"; got \"" + rule + "\".");
}
