// Which kernels can this CPU run?
#pragma once

#include <string>
#include <vector>

#include "layout.h"

namespace thinlens {

std::vector<const Kernels*> offered();  // slowest first; never empty
const Kernels& find(const std::string& name);

}  // namespace thinlens
