#include "bindings.h"

PYBIND11_MODULE(_core, module) {
  module.doc() = "Compiled core of svip_search.";
  bind_tree(module);
  bind_forest(module);
  bind_triatt(module);
}
