// One function per source file of this folder, called by module.cpp.

#pragma once

#include <pybind11/pybind11.h>

void bind_forest(pybind11::module_& module);
void bind_tree(pybind11::module_& module);
void bind_triatt(pybind11::module_& module);
