// The optional instructions that an arm64 CPU has, by the names of Linux (/proc/cpuinfo).
#pragma once

#include <string_view>

#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace thinlens {

struct Arm64Feature {
  std::string_view name;
  unsigned long hwcap, hwcap2;  // Linux: bits of AT_HWCAP and AT_HWCAP2
  const char* sysctl;           // macOS
};

constexpr Arm64Feature kArm64Features[] = {
    {"asimdhp", 1ul << 10, 0, "hw.optional.arm.FEAT_FP16"},
    {"asimddp", 1ul << 20, 0, "hw.optional.arm.FEAT_DotProd"},
    {"i8mm", 0, 1ul << 13, "hw.optional.arm.FEAT_I8MM"},
    {"bf16", 0, 1ul << 14, "hw.optional.arm.FEAT_BF16"},
};

// False for a name that is not in the table, and on other systems.
inline bool arm64_has(std::string_view name) {
  for (const Arm64Feature& feature : kArm64Features) {
    if (feature.name != name) continue;
#if defined(__linux__)
    return (getauxval(AT_HWCAP) & feature.hwcap) || (getauxval(AT_HWCAP2) & feature.hwcap2);
#elif defined(__APPLE__)
    int has = 0;
    size_t size = sizeof has;
    return sysctlbyname(feature.sysctl, &has, &size, nullptr, 0) == 0 && has;
#endif
  }
  return false;
}

}  // namespace thinlens
