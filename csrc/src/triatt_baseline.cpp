// SSE2 on x86-64, NEON on AArch64: what every processor of the architecture has.

#include "triatt_kernel.h"

namespace svip {
namespace {
#if defined(__ARM_NEON)
constexpr Tier kTier{"neon", attend<Float32>, attend<Bfloat16>, nullptr, merge, decide};
#else
constexpr Tier kTier{"sse2", attend<Float32>, attend<Bfloat16>, nullptr, merge, decide};
#endif
}  // namespace
const Tier* const kTierBaseline = &kTier;
}  // namespace svip
