// Compiled for AVX-512 with products of bfloat16 pairs, where the compiler can.

#include "triatt_tier.h"

#if defined(__AVX512BF16__)

#include "triatt_kernel.h"

namespace svip {
namespace {
constexpr Tier kTier{"avx512bf16", attend<Float32>, attend<Bfloat16>, attend<Dots>, merge, decide};
}  // namespace
const Tier* const kTierAvx512Bf16 = &kTier;
}  // namespace svip

#else

namespace svip {
const Tier* const kTierAvx512Bf16 = nullptr;
}  // namespace svip

#endif
