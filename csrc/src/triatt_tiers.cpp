#include <cstdlib>
#include <stdexcept>

#include "svip/triatt.h"
#include "triatt_tier.h"

namespace svip {

namespace {

std::vector<const Tier*> usable_tiers() {
  std::vector<const Tier*> tiers;
#if (defined(__x86_64__) || defined(__i386__)) && (defined(__GNUC__) || defined(__clang__))
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (kTierAvx512Bf16 != nullptr && avx512 && __builtin_cpu_supports("avx512bf16"))
    tiers.push_back(kTierAvx512Bf16);
  if (kTierAvx512 != nullptr && avx512) tiers.push_back(kTierAvx512);
  if (kTierAvx2 != nullptr && avx2) tiers.push_back(kTierAvx2);
#endif
  tiers.push_back(kTierBaseline);
  return tiers;
}

}  // namespace

std::vector<std::string> simd_tiers() {
  std::vector<std::string> names;
  for (const Tier* const tier : usable_tiers()) names.emplace_back(tier->name);
  return names;
}

const Tier& simd_tier() {
  static const std::vector<const Tier*> tiers = usable_tiers();
  const char* const wanted = std::getenv("SVIP_SIMD");
  if (wanted == nullptr || *wanted == '\0') return *tiers.front();
  for (const Tier* const tier : tiers) {
    if (tier->name == std::string(wanted)) return *tier;
  }
  if (std::string(wanted) == "baseline") return *tiers.back();
  std::string known = "baseline";
  for (const Tier* const tier : tiers) known += std::string(", ") + tier->name;
  throw std::invalid_argument("`SVIP_SIMD` must be one of " + known + " on this processor; got '" + wanted +
                              "'.");
}

std::string simd_tier_name() { return simd_tier().name; }

}  // namespace svip
