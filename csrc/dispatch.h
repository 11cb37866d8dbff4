// Selection of the kernels that this CPU supports.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace thinlens {

// Slowest first. For fp32 the list is never empty.
std::vector<const Kernels*> available_kernels(const std::string& storage);
const Kernels& kernels_by_name(const std::string& name);

}  // namespace thinlens
