// Compiled for AVX2, where the compiler can.

#include "triatt_tier.h"

#if defined(__AVX2__)

#include "triatt_kernel.h"

namespace svip {
namespace {
constexpr Tier kTier{"avx2", attend<Float32>, attend<Bfloat16>, nullptr, merge, decide};
}  // namespace
const Tier* const kTierAvx2 = &kTier;
}  // namespace svip

#else

namespace svip {
const Tier* const kTierAvx2 = nullptr;
}  // namespace svip

#endif
