// The tree that Python holds: one that threads may share.

#pragma once

#include <pybind11/pybind11.h>

#include <cstdlib>
#include <mutex>
#include <new>
#include <stdexcept>
#include <utility>

#include "svip/tree.h"

namespace py = pybind11;

// Columns may be reallocated while another thread selects without the interpreter lock.
struct LockedTree : svip::Tree {
  using Tree::Tree;
  explicit LockedTree(Tree&& tree) : Tree(std::move(tree)) {}
  std::mutex mutex;

  // An object made by `__new__` alone has memory but no constructor run: zeros make it an empty tree, which
  // `locked` refuses.
  static void* operator new(std::size_t size) {
    void* memory = std::calloc(1, size);
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
  }
  static void operator delete(void* memory) { std::free(memory); }
};

template <class F>
auto locked(LockedTree& tree, F&& f) {
  if (tree.size() == 0) throw std::invalid_argument("The tree is not initialised: call Tree().");
  const std::scoped_lock lock(tree.mutex);
  return f(tree);
}

// The mutex is given back before the interpreter lock is taken again, so that the two cannot deadlock.
template <class F>
auto unlocked_interpreter(LockedTree& tree, F&& f) {
  const py::gil_scoped_release release;
  return locked(tree, std::forward<F>(f));
}
