// The operations of a program, bound to Python.
#pragma once

#include <nanobind/nanobind.h>

#include "program.h"

namespace thinlens {

void bind_operations(nanobind::class_<Program>&);

}  // namespace thinlens
