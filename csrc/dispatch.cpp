// Selection of the kernels that this CPU supports.
//
// `built_isas.inc` is what CMake keeps of isa_list.inc.
#include "dispatch.h"

#include "errors.h"

#if defined(__x86_64__)
// The compiler's check covers the operating system's saving of wide registers, too.
#define cpu(feature) bool(__builtin_cpu_supports(feature))
#elif defined(__aarch64__)
#include "arm64_features.h"
#define cpu(feature) thinlens::arm64_has(feature)
#endif

namespace thinlens {

#define THINLENS_ISA(name, storage, architecture, flags, cpu_check) \
  extern const Kernels kernels_##name;
#include "built_isas.inc"
#undef THINLENS_ISA

namespace {

struct Entry {
  std::string storage;
  const Kernels* kernels;
};

std::vector<Entry> supported_entries() {
#if defined(__x86_64__)
  __builtin_cpu_init();
#endif
  std::vector<Entry> supported;
#define THINLENS_ISA(name, storage, architecture, flags, cpu_check) \
  if (cpu_check) supported.push_back({#storage, &kernels_##name});
#include "built_isas.inc"
#undef THINLENS_ISA
  return supported;
}

}  // namespace

std::vector<const Kernels*> available_kernels(const std::string& storage) {
  std::vector<const Kernels*> matching;
  for (const Entry& entry : supported_entries())
    if (entry.storage == storage) matching.push_back(entry.kernels);
  return matching;
}

const Kernels& kernels_by_name(const std::string& name) {
  for (const Entry& entry : supported_entries())
    if (entry.kernels->name == name) return *entry.kernels;
  refuse("this CPU has no kernels called '" + name + "'");
}

}  // namespace thinlens
