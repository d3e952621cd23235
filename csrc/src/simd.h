// One vocabulary for the vector instructions of a translation unit: what it was compiled for decides.
//
// Everything is in an unnamed namespace and nothing of the standard library is used, so that no symbol
// compiled for a newer processor can be linked into code that runs on an older one.
//
// A fused multiply-add is used where the tier has one and never where it has not: the compiler is told not to
// fuse on its own, so that a row's result does not depend on the block it was computed in.

#pragma once

#include <cstdint>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__) || defined(_M_X64)
#include <emmintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#else
#error "triatt needs SSE2 or NEON."
#endif

#if defined(_MSC_VER)
#define SVIP_INLINE static __forceinline
#else
#define SVIP_INLINE [[gnu::always_inline]] static inline
#endif

namespace {

#if defined(__AVX512F__)

constexpr int kLanes = 16;
constexpr int kAccumulators = 24;  // of 32 registers
using F = __m512;
using I = __m512i;

SVIP_INLINE F load(const float* p) { return _mm512_loadu_ps(p); }
SVIP_INLINE void store(float* p, F x) { _mm512_storeu_ps(p, x); }
SVIP_INLINE F all(float x) { return _mm512_set1_ps(x); }
SVIP_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
SVIP_INLINE F add(F a, F b) { return _mm512_add_ps(a, b); }
SVIP_INLINE F sub(F a, F b) { return _mm512_sub_ps(a, b); }
SVIP_INLINE F mul(F a, F b) { return _mm512_mul_ps(a, b); }
SVIP_INLINE F div(F a, F b) { return _mm512_div_ps(a, b); }
SVIP_INLINE F max(F a, F b) { return _mm512_max_ps(a, b); }
SVIP_INLINE F min(F a, F b) { return _mm512_min_ps(a, b); }
SVIP_INLINE float highest(F x) { return _mm512_reduce_max_ps(x); }
SVIP_INLINE float sum(F x) { return _mm512_reduce_add_ps(x); }
// `a` where x < y, `b` elsewhere (also where either is NaN).
SVIP_INLINE F where_less(F x, F y, F a, F b) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, y, _CMP_LT_OQ), b, a);
}
// The first n lanes of x and then of y.
SVIP_INLINE F first_lanes(int n, F x, F y) {
  return _mm512_mask_blend_ps(static_cast<__mmask16>((1U << n) - 1U), y, x);
}
// x * 2^n for whole n in -126..127, given n and n + 1.5 * 2^23.
SVIP_INLINE F times_power_of_two(F x, F n, F) { return _mm512_scalef_ps(x, n); }
// Pairs of bfloat16 as the float32 of their first and second members.
SVIP_INLINE I load_pairs(const std::uint16_t* p) { return _mm512_loadu_si512(p); }
SVIP_INLINE F first_of(I pairs) { return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)); }
SVIP_INLINE F second_of(I pairs) {
  return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000U))));
}

#elif defined(__AVX2__)

constexpr int kLanes = 8;
constexpr int kAccumulators = 12;  // of 16 registers
using F = __m256;
using I = __m256i;

SVIP_INLINE F load(const float* p) { return _mm256_loadu_ps(p); }
SVIP_INLINE void store(float* p, F x) { _mm256_storeu_ps(p, x); }
SVIP_INLINE F all(float x) { return _mm256_set1_ps(x); }
SVIP_INLINE F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
SVIP_INLINE F add(F a, F b) { return _mm256_add_ps(a, b); }
SVIP_INLINE F sub(F a, F b) { return _mm256_sub_ps(a, b); }
SVIP_INLINE F mul(F a, F b) { return _mm256_mul_ps(a, b); }
SVIP_INLINE F div(F a, F b) { return _mm256_div_ps(a, b); }
SVIP_INLINE F max(F a, F b) { return _mm256_max_ps(a, b); }
SVIP_INLINE F min(F a, F b) { return _mm256_min_ps(a, b); }
SVIP_INLINE float highest(F x) {
  __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  y = _mm_max_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
}
SVIP_INLINE float sum(F x) {
  __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  y = _mm_add_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
}
SVIP_INLINE F where_less(F x, F y, F a, F b) {
  return _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, y, _CMP_LT_OQ));
}
SVIP_INLINE F first_lanes(int n, F x, F y) {
  const I lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_blendv_ps(y, x, _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane)));
}
SVIP_INLINE F times_power_of_two(F x, F, F shifted) {
  const I exponent = _mm256_add_epi32(_mm256_castps_si256(shifted), _mm256_set1_epi32(127));
  return mul(x, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}
SVIP_INLINE I load_pairs(const std::uint16_t* p) { return _mm256_loadu_si256(reinterpret_cast<const I*>(p)); }
SVIP_INLINE F first_of(I pairs) { return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)); }
SVIP_INLINE F second_of(I pairs) {
  return _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xffff0000U))));
}

#elif defined(__SSE2__) || defined(_M_X64)

constexpr int kLanes = 4;
constexpr int kAccumulators = 10;  // of 16 registers; without a fused multiply-add the product needs one
using F = __m128;
using I = __m128i;

SVIP_INLINE F load(const float* p) { return _mm_loadu_ps(p); }
SVIP_INLINE void store(float* p, F x) { _mm_storeu_ps(p, x); }
SVIP_INLINE F all(float x) { return _mm_set1_ps(x); }
SVIP_INLINE F add(F a, F b) { return _mm_add_ps(a, b); }
SVIP_INLINE F sub(F a, F b) { return _mm_sub_ps(a, b); }
SVIP_INLINE F mul(F a, F b) { return _mm_mul_ps(a, b); }
SVIP_INLINE F div(F a, F b) { return _mm_div_ps(a, b); }
SVIP_INLINE F fma(F a, F b, F c) { return add(mul(a, b), c); }
SVIP_INLINE F max(F a, F b) { return _mm_max_ps(a, b); }
SVIP_INLINE F min(F a, F b) { return _mm_min_ps(a, b); }
SVIP_INLINE float highest(F x) {
  const F y = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(y, _mm_shuffle_ps(y, y, 1)));
}
SVIP_INLINE float sum(F x) {
  const F y = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(y, _mm_shuffle_ps(y, y, 1)));
}
SVIP_INLINE F blend(F mask, F a, F b) { return _mm_or_ps(_mm_and_ps(mask, a), _mm_andnot_ps(mask, b)); }
SVIP_INLINE F where_less(F x, F y, F a, F b) { return blend(_mm_cmplt_ps(x, y), a, b); }
SVIP_INLINE F first_lanes(int n, F x, F y) {
  return blend(_mm_castsi128_ps(_mm_cmpgt_epi32(_mm_set1_epi32(n), _mm_setr_epi32(0, 1, 2, 3))), x, y);
}
SVIP_INLINE F times_power_of_two(F x, F, F shifted) {
  const I exponent = _mm_add_epi32(_mm_castps_si128(shifted), _mm_set1_epi32(127));
  return mul(x, _mm_castsi128_ps(_mm_slli_epi32(exponent, 23)));
}
SVIP_INLINE I load_pairs(const std::uint16_t* p) { return _mm_loadu_si128(reinterpret_cast<const I*>(p)); }
SVIP_INLINE F first_of(I pairs) { return _mm_castsi128_ps(_mm_slli_epi32(pairs, 16)); }
SVIP_INLINE F second_of(I pairs) {
  return _mm_castsi128_ps(_mm_and_si128(pairs, _mm_set1_epi32(static_cast<int>(0xffff0000U))));
}

#else  // NEON

constexpr int kLanes = 4;
constexpr int kAccumulators = 24;  // of 32 registers
using F = float32x4_t;
using I = uint32x4_t;

SVIP_INLINE F load(const float* p) { return vld1q_f32(p); }
SVIP_INLINE void store(float* p, F x) { vst1q_f32(p, x); }
SVIP_INLINE F all(float x) { return vdupq_n_f32(x); }
SVIP_INLINE F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
SVIP_INLINE F add(F a, F b) { return vaddq_f32(a, b); }
SVIP_INLINE F sub(F a, F b) { return vsubq_f32(a, b); }
SVIP_INLINE F mul(F a, F b) { return vmulq_f32(a, b); }
SVIP_INLINE F div(F a, F b) { return vdivq_f32(a, b); }
SVIP_INLINE F max(F a, F b) { return vmaxq_f32(a, b); }
SVIP_INLINE F min(F a, F b) { return vminq_f32(a, b); }
SVIP_INLINE float highest(F x) { return vmaxvq_f32(x); }
SVIP_INLINE float sum(F x) { return vaddvq_f32(x); }
SVIP_INLINE F where_less(F x, F y, F a, F b) { return vbslq_f32(vcltq_f32(x, y), a, b); }
SVIP_INLINE F first_lanes(int n, F x, F y) {
  const std::int32_t lane[4] = {0, 1, 2, 3};
  return vbslq_f32(vcgtq_s32(vdupq_n_s32(n), vld1q_s32(lane)), x, y);
}
SVIP_INLINE F times_power_of_two(F x, F, F shifted) {
  const int32x4_t exponent = vaddq_s32(vreinterpretq_s32_f32(shifted), vdupq_n_s32(127));
  return mul(x, vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23)));
}
SVIP_INLINE I load_pairs(const std::uint16_t* p) { return vreinterpretq_u32_u16(vld1q_u16(p)); }
SVIP_INLINE F first_of(I pairs) { return vreinterpretq_f32_u32(vshlq_n_u32(pairs, 16)); }
SVIP_INLINE F second_of(I pairs) { return vreinterpretq_f32_u32(vandq_u32(pairs, vdupq_n_u32(0xffff0000U))); }

#endif

SVIP_INLINE void prefetch([[maybe_unused]] const void* p) {
#if defined(_MSC_VER)
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1);
#else
  __builtin_prefetch(p, 0, 2);
#endif
}

// e^x to 1e-7 relative for x <= 88, exactly 0 below -87.3; NaN stays NaN.
SVIP_INLINE F exp(F x) {
  const F magic = all(12582912.0F);  // 1.5 * 2^23: adding it rounds to a whole number
  const F shifted = fma(x, all(1.44269504088896341F), magic);
  const F n = sub(shifted, magic);
  F f = fma(n, all(-0.693359375F), x);
  f = fma(n, all(2.12194440e-4F), f);
  F p = all(1.9875691500e-4F);
  p = fma(p, f, all(1.3981999507e-3F));
  p = fma(p, f, all(8.3334519073e-3F));
  p = fma(p, f, all(4.1665795894e-2F));
  p = fma(p, f, all(1.6666665459e-1F));
  p = fma(p, f, all(5.0000001201e-1F));
  p = add(fma(mul(p, f), f, f), all(1.0F));
  // The magic number's own bits have a multiple of 2^9 below the exponent, so they shift out.
  return where_less(x, all(-87.3F), all(0.0F), times_power_of_two(p, n, shifted));
}

}  // namespace
