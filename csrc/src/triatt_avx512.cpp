// Compiled for AVX-512, where the compiler can.

#include "triatt_tier.h"

#if defined(__AVX512F__)

#include "triatt_kernel.h"

namespace svip {
namespace {
constexpr Tier kTier{"avx512", attend<Float32>, attend<Bfloat16>, nullptr, merge, decide};
}  // namespace
const Tier* const kTierAvx512 = &kTier;
}  // namespace svip

#else

namespace svip {
const Tier* const kTierAvx512 = nullptr;
}  // namespace svip

#endif
