// Which kernels can this CPU run?
#pragma once

#include <string>
#include <vector>

#include "layout.h"

namespace thinlens {

// Slowest first; those that compute in float32 are never none.
std::vector<const Kernels*> offered();
std::vector<const Kernels*> offered_bf16();
const Kernels& find(const std::string& name);

}  // namespace thinlens
