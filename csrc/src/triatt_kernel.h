// The tri-head tree attention of one block of rows, for the tier that includes this file.
//
//     for every span, for every tile of 64 tokens, for every few rows:
//         s = q . K                      registers: rows x vectors of tokens
//         m', p = max(s), exp(s - m')    one maximum a row and tile
//         o' = p . V                     registers: rows x vectors of components
//         state = merge(state, (m', sum p, o'))
//
// A tile's part (m', l', o') never looks at the state, and merges happen in the order of the path: which rows
// share a block, how many threads run, or who computes the part changes no bit.

#pragma once

#include "simd.h"
#include "svip/kv_tree.h"
#include "triatt_tier.h"

namespace {

using svip::Block;
using svip::kPageTokens;
using svip::kRow;
using svip::kTileTokens;
using svip::Span;

constexpr int kTilePages = kTileTokens / kPageTokens;
constexpr int kPageVectors = kPageTokens / kLanes;
constexpr int kRows =
    kAccumulators / 2;      // most rows at a time: with two vectors each they fill the registers
constexpr int kState = 16;  // room for the numbers of kRows rows, in whole vectors
constexpr float kInfinity = __builtin_inff();
constexpr float kLowest = -3.4e38F;

// Vectors a row may have when so many rows are worked on.
constexpr int most_vectors(int rows) {
  const int fit = kAccumulators / rows;
  return fit >= 8 ? 8 : fit >= 4 ? 4 : fit >= 2 ? 2 : 1;
}

struct Tile {
  const std::byte* page[kTilePages];
  int n_tokens;
};

// What is multiplied.  A step takes kPair components of each row of A and of each lane of B.
struct Float32 {
  using A = float;
  using B = float;
  static constexpr int kPair = 1;

  template <int MR, int NV, int STRIDE>
  SVIP_INLINE void step(F (&acc)[MR][NV], const A* a, const B* const (&b)[NV], std::int64_t at) {
    F x[NV];
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) x[j] = load(b[j] + at);
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r) {
      const F y = all(a[r * STRIDE]);
#pragma GCC unroll 8
      for (int j = 0; j < NV; ++j) acc[r][j] = fma(y, x[j], acc[r][j]);
    }
  }
  SVIP_INLINE F put(A* p, F x) {
    store(p, x);
    return x;
  }
};

struct Bfloat16 {
  using A = float;
  using B = std::uint16_t;
  static constexpr int kPair = 2;

  template <int MR, int NV, int STRIDE>
  SVIP_INLINE void step(F (&acc)[MR][NV], const A* a, const B* const (&b)[NV], std::int64_t at) {
    I pair[NV];
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) pair[j] = load_pairs(b[j] + at);
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      F x[NV];
#pragma GCC unroll 8
      for (int j = 0; j < NV; ++j) x[j] = half == 0 ? first_of(pair[j]) : second_of(pair[j]);
#pragma GCC unroll 16
      for (int r = 0; r < MR; ++r) {
        const F y = all(a[r * STRIDE + half]);
#pragma GCC unroll 8
        for (int j = 0; j < NV; ++j) acc[r][j] = fma(y, x[j], acc[r][j]);
      }
    }
  }
  SVIP_INLINE F put(A* p, F x) {
    store(p, x);
    return x;
  }
};

#if defined(__AVX512BF16__)
// Products of bfloat16 pairs: twice the arithmetic, at the price of rounding queries and weights too.
struct Dots {
  using A = std::uint16_t;
  using B = std::uint16_t;
  static constexpr int kPair = 2;

  template <int MR, int NV, int STRIDE>
  SVIP_INLINE void step(F (&acc)[MR][NV], const A* a, const B* const (&b)[NV], std::int64_t at) {
    I x[NV];
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) x[j] = load_pairs(b[j] + at);
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r) {
      int pair;
      __builtin_memcpy(&pair, a + r * STRIDE, sizeof pair);
      const I y = _mm512_set1_epi32(pair);
#pragma GCC unroll 8
      for (int j = 0; j < NV; ++j) acc[r][j] = _mm512_dpbf16_ps(acc[r][j], (__m512bh)y, (__m512bh)x[j]);
    }
  }
  // What is summed up is what is multiplied, so that the weights of a row still make one.
  SVIP_INLINE F put(A* p, F x) {
    const __m256i half = (__m256i)_mm512_cvtneps_pbh(x);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  }
};
#endif

template <int MR, int NV>
SVIP_INLINE void clear(F (&acc)[MR][NV]) {
#pragma GCC unroll 16
  for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) acc[r][j] = all(0.0F);
  }
}

constexpr int kFetchingRows = 4;  // fewer rows wait for memory themselves
constexpr int kFetchLines = 2;  // cache lines a step: more than memory delivers would hold up the arithmetic

// The pages that will be read later.  What is read once waits for memory, what many rows share waits for
// arithmetic: fetching the former during the latter makes a frontier half as long again as fast.
struct Ahead {
  const Span *span, *end;
  std::size_t offset;
  int page_bytes;
  int page = 0, done = 0;  // of `span`; bytes of the page

  // Where to fetch from during so many steps; null if there is nothing left.
  const std::byte* take(int steps) {
    while (span < end && (!span->fresh || page * kPageTokens >= span->n_tokens)) {
      ++span;
      page = 0;
    }
    if (span == end) return nullptr;
    const int bytes = steps * kFetchLines * 64, last = page_bytes > bytes ? page_bytes - bytes : 0;
    const std::byte* const from = span->pages[page] + offset + (done < last ? done : last);
    done += bytes;
    if (done >= page_bytes) {
      ++page;
      done = 0;
    }
    return from;
  }

  // A span is read up to page `next`: there is no use in fetching that any more.
  void pass(const Span& read, int next) {
    if (read.fresh && (span < &read || (span == &read && page < next))) {
      span = &read;
      page = next;
      done = 0;
    }
  }
};

SVIP_INLINE void fetch(const std::byte*& p) {
#pragma GCC unroll 4
  for (int i = 0; i < kFetchLines; ++i) prefetch(p + i * 64);
  p += kFetchLines * 64;
}

// Scores of MR rows against NV vectors of tokens, from vector `first` of the tile on.
template <class E, int MR, int NV, bool FETCH>
SVIP_INLINE void multiply_keys(const typename E::A* q, const Tile& tile, int first, int width,
                               float (*s)[kTileTokens], const std::byte* ahead) {
  F acc[MR][NV];
  clear(acc);
  const typename E::B* k[NV];
#pragma GCC unroll 8
  for (int j = 0; j < NV; ++j) {
    k[j] = reinterpret_cast<const typename E::B*>(tile.page[(first + j) / kPageVectors]) +
           (first + j) % kPageVectors * kLanes * E::kPair;
  }
#pragma GCC unroll 1
  for (int c = 0; c < width; c += E::kPair) {
    if constexpr (FETCH) fetch(ahead);
    E::template step<MR, NV, kRow>(acc, q + c, k, static_cast<std::int64_t>(c) * kPageTokens);
  }
#pragma GCC unroll 16
  for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) store(s[r] + (first + j) * kLanes, acc[r][j]);
  }
}

// o <- old * o + fresh * (p . V) for MR rows and NV vectors of components from component `c` on.
template <class E, int MR, int NV, bool FETCH>
SVIP_INLINE void multiply_values(const typename E::A* p, const Tile& tile, int c, int width, const float* old,
                                 const float* fresh, float* o, const std::byte* ahead) {
  F acc[MR][NV];
  clear(acc);
  for (int first = 0; first < tile.n_tokens; first += kPageTokens) {
    const auto* const values =
        reinterpret_cast<const typename E::B*>(tile.page[first / kPageTokens]) + kPageTokens * width;
    const typename E::B* v[NV];
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) v[j] = values + (c + j * kLanes) * E::kPair;
    const int n = tile.n_tokens - first < kPageTokens ? tile.n_tokens - first : kPageTokens;
#pragma GCC unroll 1
    for (int t = 0; t < n; t += E::kPair) {
      if constexpr (FETCH) fetch(ahead);
      E::template step<MR, NV, kTileTokens>(acc, p + first + t, v, static_cast<std::int64_t>(t) * width);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < MR; ++r) {
    const F before = all(old[r]), now = all(fresh[r]);
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) {
      float* const at = o + r * kRow + c + j * kLanes;
      store(at, fma(now, acc[r][j], mul(before, load(at))));
    }
  }
}

template <class E, int MR, int NV>
SVIP_INLINE void all_keys(const Block& b, const typename E::A* q, const Tile& tile, float (*s)[kTileTokens],
                          int first, Ahead& ahead) {
  const int end = (tile.n_tokens + kLanes - 1) / kLanes;
  for (; end - first >= NV; first += NV) {
    const std::byte* const from = MR >= kFetchingRows ? ahead.take(b.padded_width / E::kPair) : nullptr;
    if (from != nullptr) {
      multiply_keys<E, MR, NV, (MR >= kFetchingRows)>(q, tile, first, b.padded_width, s, from);
    } else {
      multiply_keys<E, MR, NV, false>(q, tile, first, b.padded_width, s, nullptr);
    }
  }
  if constexpr (NV > 1) {
    if (first < end) all_keys<E, MR, (NV <= 4 ? NV - 1 : NV / 2)>(b, q, tile, s, first, ahead);
  }
}

template <class E, int MR, int NV>
SVIP_INLINE void all_values(const Block& b, const typename E::A* p, const Tile& tile, int c, const float* old,
                            const float* fresh, float* o, Ahead& ahead) {
  for (; b.padded_width - c >= NV * kLanes; c += NV * kLanes) {
    const std::byte* const from = MR >= kFetchingRows ? ahead.take(tile.n_tokens / E::kPair) : nullptr;
    if (from != nullptr) {
      multiply_values<E, MR, NV, (MR >= kFetchingRows)>(p, tile, c, b.padded_width, old, fresh, o, from);
    } else {
      multiply_values<E, MR, NV, false>(p, tile, c, b.padded_width, old, fresh, o, nullptr);
    }
  }
  if constexpr (NV > 1) {
    if (c < b.padded_width) all_values<E, MR, NV / 2>(b, p, tile, c, old, fresh, o, ahead);
  }
}

// The bias of every token of a mixed tile for one row.
inline void fill_bias(const float* table, const std::uint8_t* segments, int n, bool own, float* bias) {
  for (int t = 0; t < n; ++t) bias[t] = table[segments[t] + (own && segments[t] == svip::kStep ? 1 : 0)];
  for (int t = n; t < kTileTokens; ++t) bias[t] = 0.0F;
}

// Replaces scores by weights and returns their maximum and sum.  The bias is taken from the maximum rather
// than added to the scores: however large it is, differences between scores keep all their digits.
template <class E, bool FULL>
SVIP_INLINE void weigh(float* s, typename E::A* p, int n, const float* bias, float uniform, float& m,
                       float& l) {
  const int end = FULL ? kTileTokens / kLanes : (n + kLanes - 1) / kLanes;
  if (!FULL) {
    float* const last = s + (end - 1) * kLanes;
    store(last, first_lanes(n - (end - 1) * kLanes, load(last), all(-kInfinity)));
  }
  F top = all(-kInfinity);
  for (int j = 0; j < end; ++j) {
    const F x = load(s + j * kLanes);
    top = max(top, bias != nullptr ? add(x, load(bias + j * kLanes)) : x);
  }
  m = highest(top) + uniform;
  const F from = max(all(m), all(kLowest));
  F total = all(0.0F);
  for (int j = 0; j < end; ++j) {
    const F shift = sub(from, bias != nullptr ? load(bias + j * kLanes) : all(uniform));
    total = add(total, E::put(p + j * kLanes, exp(sub(load(s + j * kLanes), shift))));
  }
  l = sum(total);
}

// The factors that bring two states to their common maximum, row by row; m and l become those of the merged
// state.
inline void merge_factors(float* m, float* l, const float* m2, const float* l2, float* old, float* fresh) {
  for (int i = 0; i < kState; i += kLanes) {
    const F a = load(m + i), b = load(m2 + i), top = max(a, b), from = max(top, all(kLowest));
    const F x = exp(sub(a, from)), y = exp(sub(b, from));
    store(old + i, x);
    store(fresh + i, y);
    store(m + i, top);
    store(l + i, fma(y, load(l2 + i), mul(x, load(l + i))));
  }
}

template <class E>
SVIP_INLINE const typename E::A* queries(const Block& b) {
  if constexpr (sizeof(typename E::A) == 2) {
    return b.q_pairs;
  } else {
    return b.q;
  }
}

// One tile for MR rows from `row` on.
template <class E, int MR>
void attend_rows(const Block& b, const Span& span, const Tile& tile, int index, int row, Ahead& ahead) {
  alignas(64) float s[MR][kTileTokens];
  alignas(64) typename E::A p[MR][kTileTokens];
  alignas(64) float m[kState] = {}, l[kState] = {}, m2[kState] = {}, l2[kState] = {}, old[kState],
                    fresh[kState];
  alignas(64) float bias[kTileTokens];

  constexpr int kVectors = most_vectors(MR) < kTileTokens / kLanes ? most_vectors(MR) : kTileTokens / kLanes;
  all_keys<E, MR, kVectors>(b, queries<E>(b) + row * kRow, tile, s, 0, ahead);

  const std::uint8_t one_class = span.tile_class[index];
  for (int r = 0; r < MR; ++r) {
    const float* const table = b.bias[b.dimension + (row + r) % b.n_dimensions];
    const bool own = row + r < span.own;
    if (one_class == svip::kMixed) {
      fill_bias(table, span.segments + index * kTileTokens, tile.n_tokens, own, bias);
      weigh<E, false>(s[r], p[r], tile.n_tokens, bias, 0.0F, m2[r], l2[r]);
    } else {
      const float uniform = table[one_class + (own && one_class == svip::kStep ? 1 : 0)];
      if (tile.n_tokens == kTileTokens) {
        weigh<E, true>(s[r], p[r], kTileTokens, nullptr, uniform, m2[r], l2[r]);
      } else {
        weigh<E, false>(s[r], p[r], tile.n_tokens, nullptr, uniform, m2[r], l2[r]);
      }
    }
    m[r] = b.m[row + r];
    l[r] = b.l[row + r];
  }
  merge_factors(m, l, m2, l2, old, fresh);
  for (int r = 0; r < MR; ++r) {
    b.m[row + r] = m[r];
    b.l[row + r] = l[r];
  }
  all_values<E, MR, most_vectors(MR)>(b, p[0], tile, 0, old, fresh, b.o + row * kRow, ahead);
}

template <class E>
SVIP_INLINE void attend_some(int rows, const Block& b, const Span& span, const Tile& tile, int index, int row,
                             Ahead& ahead) {
  switch (rows) {
    case 1:
      return attend_rows<E, 1>(b, span, tile, index, row, ahead);
    case 2:
      return attend_rows<E, 2>(b, span, tile, index, row, ahead);
    case 3:
      return attend_rows<E, 3>(b, span, tile, index, row, ahead);
    case 4:
      return attend_rows<E, 4>(b, span, tile, index, row, ahead);
    case 5:
      return attend_rows<E, 5>(b, span, tile, index, row, ahead);
#if defined(__AVX512F__) || defined(__AVX2__) || defined(__ARM_NEON)
    case 6:
      return attend_rows<E, 6>(b, span, tile, index, row, ahead);
#endif
#if defined(__AVX512F__) || defined(__ARM_NEON)
    case 7:
      return attend_rows<E, 7>(b, span, tile, index, row, ahead);
    case 8:
      return attend_rows<E, 8>(b, span, tile, index, row, ahead);
    case 9:
      return attend_rows<E, 9>(b, span, tile, index, row, ahead);
    case 10:
      return attend_rows<E, 10>(b, span, tile, index, row, ahead);
    case 11:
      return attend_rows<E, 11>(b, span, tile, index, row, ahead);
    case 12:
      return attend_rows<E, 12>(b, span, tile, index, row, ahead);
#endif
    default:
      return;
  }
}

template <class E>
void attend(const Block& b) {
  Ahead ahead{b.spans, b.spans + b.n_spans, b.head_offset,
              2 * b.padded_width * kPageTokens * static_cast<int>(sizeof(typename E::B))};
  for (int i = 0; i < b.n_spans; ++i) {
    const Span& span = b.spans[i];
    // Equal groups: 13 rows are 7 and 6, not 12 and 1.
    const int rows = span.end - span.begin, groups = (rows + kRows - 1) / kRows,
              size = (rows + groups - 1) / groups;
    for (int first = 0; first < span.n_tokens; first += kTileTokens) {
      Tile tile{};
      tile.n_tokens = span.n_tokens - first < kTileTokens ? span.n_tokens - first : kTileTokens;
      for (int j = 0; j * kPageTokens < tile.n_tokens; ++j) {
        tile.page[j] = span.pages[first / kPageTokens + j] + b.head_offset;
      }
      ahead.pass(span, (first + tile.n_tokens) / kPageTokens);
      for (int row = span.begin; row < span.end; row += size) {
        const int n = span.end - row < size ? span.end - row : size;
        attend_some<E>(n, b, span, tile, first / kTileTokens, row, ahead);
      }
    }
  }
}

void merge(float* m, float* l, float* o, const float* m2, const float* l2, const float* o2,
           int padded_width) {
  alignas(64) float a[kState] = {*m}, b[kState] = {*l}, c[kState] = {*m2}, d[kState] = {*l2}, old[kState],
                    fresh[kState];
  merge_factors(a, b, c, d, old, fresh);
  *m = a[0];
  *l = b[0];
  for (int i = 0; i < padded_width; i += kLanes) {
    store(o + i, fma(all(fresh[0]), load(o2 + i), mul(all(old[0]), load(o + i))));
  }
}

// 0.5 z (1 + tanh(sqrt(2 / pi) (z + 0.044715 z^3))), by e = exp(-2 |y|), which cannot overflow.
SVIP_INLINE F gelu(F z) {
  const F y = mul(all(0.7978845608028654F), fma(mul(mul(z, z), z), all(0.044715F), z));
  const F size = max(y, sub(all(0.0F), y)), e = exp(mul(all(-2.0F), size));
  const F t = div(sub(all(1.0F), e), add(all(1.0F), e));
  const F tanh = where_less(y, all(0.0F), sub(all(0.0F), t), t);
  return mul(mul(all(0.5F), z), add(all(1.0F), tanh));
}

float sigmoid(float z) {
  alignas(64) float e[kState];
  store(e, exp(all(z < 0.0F ? z : -z)));
  return z < 0.0F ? e[0] / (1.0F + e[0]) : 1.0F / (1.0F + e[0]);
}

float decide(float* o, float l, const svip::Weights& head) {
  const F sum_of_weights = all(l);
  for (int i = 0; i < head.padded_width; i += kLanes) store(o + i, div(load(o + i), sum_of_weights));
  F total = all(0.0F);
  if (head.hidden == 0) {
    for (int i = 0; i < head.padded_width; i += kLanes) total = fma(load(head.u + i), load(o + i), total);
    return sigmoid(sum(total) + head.b);
  }
  for (int unit = 0; unit < head.hidden; unit += kPageTokens) {
    const float* const w = head.w + static_cast<std::int64_t>(unit) * head.padded_width;
    F z[kPageVectors];
    for (int j = 0; j < kPageVectors; ++j) z[j] = load(head.c + unit + j * kLanes);
    for (int i = 0; i < head.padded_width; ++i) {
      for (int j = 0; j < kPageVectors; ++j)
        z[j] = fma(all(o[i]), load(w + i * kPageTokens + j * kLanes), z[j]);
    }
    for (int j = 0; j < kPageVectors; ++j) total = fma(load(head.u + unit + j * kLanes), gelu(z[j]), total);
  }
  return sigmoid(sum(total) + head.b);
}

}  // namespace
