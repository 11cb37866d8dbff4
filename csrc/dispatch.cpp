// Which kernels can this CPU run?
#include "dispatch.h"

#include <stdexcept>

namespace thinlens {

std::vector<const Kernels*> offered() {
  std::vector<const Kernels*> all{&kernels_baseline};
#if defined(__x86_64__)
  // The compiler's check covers the operating system's saving of wide registers, too.
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) all.push_back(&kernels_avx2);
  if (__builtin_cpu_supports("avx512f")) all.push_back(&kernels_avx512);
#endif
  return all;
}

std::vector<const Kernels*> offered_bf16() {
#ifdef THINLENS_HAS_BF16
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512bf16"))
    return {&kernels_avx512_bf16};
#endif
  return {};
}

const Kernels& find(const std::string& name) {
  for (const auto& all : {offered(), offered_bf16()})
    for (const Kernels* kernels : all)
      if (kernels->name == name) return *kernels;
  throw std::invalid_argument("this CPU has no kernels called '" + name + "'");
}

}  // namespace thinlens
