// What can this machine do at best, with some threads, at this moment?
#pragma once

#include "layout.h"
#include "pool.h"

namespace thinlens {

struct Limits {
  double flops;  // a second, in registers
  double bytes;  // a second, read and written, in memory
};

Limits measure(const Kernels&, Pool&);

}  // namespace thinlens
