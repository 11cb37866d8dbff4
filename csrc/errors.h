// Refuse an argument: throw std::invalid_argument, which Python sees as ValueError.
#pragma once

#include <stdexcept>
#include <string>

namespace thinlens {

[[noreturn]] inline void refuse(const std::string& reason) { throw std::invalid_argument(reason); }

}  // namespace thinlens
