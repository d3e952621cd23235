// What a warp does with 16 rows of queries and 16 tokens: scores, and the weighted sum of the values.
//
// Two bodies with the same functions: `MmaBody` on tensor cores for 16-bit keys and values, `FmaBody` for
// float32.  Scores go through shared memory as a [16 rows][16 tokens] array, so both share one softmax, and
// a lane's part of the output is `float o[D / 2]` in both, at the places `row` and `column` name.
//
// A token that a row must not see may hold NaN, and 0 * NaN is NaN: neither body lets the product of such a
// token reach the output of such a row.

#pragma once

#include <type_traits>

#include "gpu.cuh"

namespace svip::triatt {

inline constexpr int kRows = 16;  // queries of a block
inline constexpr int kStep = 16;  // tokens of one step of a warp
inline constexpr int kScoreStride =
    20;  // floats from row to row of the scores: no two of 8 rows share a bank

// Kernels exist for these widths; the columns from the true width on are zeros.
__host__ __device__ constexpr int padded(int width) {
  return width <= 32 ? 32 : width <= 64 ? 64 : width <= 128 ? 128 : 256;
}

template <class T, int D>
struct Shape {
  static constexpr int kChunk = 16 / static_cast<int>(sizeof(T));  // elements of a 16-byte copy
  static constexpr int kStride = D + kChunk;  // a chunk of padding lets 8 rows be read without bank conflicts
  static constexpr bool kTensorCores = sizeof(T) == 2;
  // Two tiles of keys and values, one being read while the other arrives, take at most 64 KB.
  static constexpr int kFits = 16384 / (D * static_cast<int>(sizeof(T)));
  static constexpr int kTile = kFits > 64 ? 64 : kFits;
  static constexpr int kParts = kTile / kStep;  // warps that share a tile
};

// Rows [begin, end) of the 16, of which those below `own` belong to the node that owns the tokens.
struct Visible {
  int begin, own, end;
  __device__ bool operator()(int row) const { return begin <= row && row < end; }
};

template <int kCount>
__device__ inline void load_floats(float* to, const float* from) {
  struct alignas(kCount * sizeof(float)) Pack {
    float x[kCount];
  };
  const Pack pack = *reinterpret_cast<const Pack*>(from);
#pragma unroll
  for (int i = 0; i < kCount; ++i) to[i] = pack.x[i];
}

template <int kCount>
__device__ inline void store_floats(float* to, const float* from) {
  struct alignas(kCount * sizeof(float)) Pack {
    float x[kCount];
  } pack;
#pragma unroll
  for (int i = 0; i < kCount; ++i) pack.x[i] = from[i];
  *reinterpret_cast<Pack*>(to) = pack;
}

// The numbers as they can be stored, and what that left out: high + low is exact to 2^-17 or better.
template <class T>
__device__ inline void split(float x, T& high, T& low) {
  gpu::round_to(x, high);
  gpu::round_to(x - gpu::to_float(high), low);
}

template <class T>
__device__ inline void split_pair(const float (&x)[2], std::uint32_t& high, std::uint32_t& low) {
  T h[2], l[2];
  split(x[0], h[0], l[0]);
  split(x[1], h[1], l[1]);
  high = h[0].bits | static_cast<std::uint32_t>(h[1].bits) << 16;
  low = l[0].bits | static_cast<std::uint32_t>(l[1].bits) << 16;
}

// Queries and weights enter as high + low, so that only the rounding of keys and values is lost.  The tensor
// cores have time for it: at 16 rows to a tile the memory is the limit.
template <class T, int D>
struct MmaBody {
  using S = Shape<T, D>;
  static constexpr int kTogether = 2;  // neighbours of `o` that are neighbours in memory

  __device__ static int row(int i, int lane) { return lane / 4 + 8 * (i / 2 % 2); }
  __device__ static int column(int i, int lane) { return 8 * (i / 4) + 2 * (lane % 4) + i % 2; }

  // Writes the products of queries q, q_low [16, D] with keys [16, D] to scores.
  __device__ static void score(const T* q, const T* q_low, const T* keys, float* scores, Visible, int lane) {
    const int part = lane / 8, line = lane % 8;
    const int at_q = (line + 8 * (part % 2)) * S::kStride + 8 * (part / 2);
    const int at_k = (line + 8 * (part / 2)) * S::kStride + 8 * (part % 2);
    float out[2][4] = {};
#pragma unroll 4
    for (int d = 0; d < D; d += 16) {
      std::uint32_t high[4], low[4], k[4];
      gpu::load_matrices(high, q + at_q + d);
      gpu::load_matrices(low, q_low + at_q + d);
      gpu::load_matrices(k, keys + at_k + d);
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        gpu::multiply(out[n], high, k[2 * n], k[2 * n + 1], T{});
        gpu::multiply(out[n], low, k[2 * n], k[2 * n + 1], T{});
      }
    }
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int i = 0; i < 4; i += 2)
        store_floats<2>(scores + row(i, lane) * kScoreStride + 8 * n + 2 * (lane % 4), out[n] + i);
  }

  // o = fade o + weights [16, 16] values [16, D], for the visible rows.
  __device__ static void add(float (&o)[D / 2], const float* weights, const float* fade, const T* values,
                             Visible visible, int lane) {
    std::uint32_t high[4], low[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float p[2];
      load_floats<2>(p, weights + row(2 * i, lane) * kScoreStride + 2 * (lane % 4) + 8 * (i / 2));
      split_pair<T>(p, high[i], low[i]);
    }
    const bool sees[2] = {visible(lane / 4), visible(lane / 4 + 8)};
    const float fades[2] = {fade[lane / 4], fade[lane / 4 + 8]};
    const int part = lane / 8, line = lane % 8;
    const T* from = values + (line + 8 * (part % 2)) * S::kStride + 8 * (part / 2);
#pragma unroll
    for (int d = 0; d < D; d += 16) {
      if (D > 128) gpu::sync_warp();  // keeps the sums of all columns from being live at once
      std::uint32_t v[4];
      gpu::load_matrices_transposed(v, from + d);
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        float sum[4] = {};
        gpu::multiply(sum, high, v[2 * n], v[2 * n + 1], T{});
        gpu::multiply(sum, low, v[2 * n], v[2 * n + 1], T{});
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float& out = o[d / 2 + 4 * n + i];
          out = fmaf(out, fades[i / 2], sees[i / 2] ? sum[i] : 0.f);
        }
      }
    }
  }
};

// Rows that do not see the tokens are skipped, which is uniform in a warp: a tile of one visible row costs a
// sixteenth of the arithmetic of a full one.
template <int D>
struct FmaBody {
  using S = Shape<float, D>;
  static constexpr int kWide = D / 32;  // outputs of a lane in each row
  static constexpr int kTogether = kWide < 4 ? kWide : 4;

  __device__ static int row(int i, int) { return i / kWide; }
  __device__ static int column(int i, int lane) {
    const int x = i % kWide;
    return x / kTogether * 32 * kTogether + lane * kTogether + x % kTogether;
  }

  // A lane takes one token and every other chunk of 4 elements; its neighbour 16 lanes on takes the rest.
  __device__ static void score(const float* q, const float*, const float* keys, float* scores,
                               Visible visible, int lane) {
    const int token = lane % 16, half = lane / 16;
    const float* key = keys + token * S::kStride + 4 * half;
    float dot[kRows] = {};
#pragma unroll 1
    for (int d = 0; d < D; d += 16) {
      float k[8];
      load_floats<4>(k, key + d);
      load_floats<4>(k + 4, key + d + 8);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (!visible(r)) continue;
        float x[8];
        load_floats<4>(x, q + r * S::kStride + d + 4 * half);
        load_floats<4>(x + 4, q + r * S::kStride + d + 4 * half + 8);
#pragma unroll
        for (int i = 0; i < 8; ++i) dot[r] = fmaf(x[i], k[i], dot[r]);
      }
    }
#pragma unroll
    for (int r = 0; r < 8; ++r) {  // the lower half keeps rows 0-7, the upper one 8-15
      const float other = gpu::shuffle_xor(half ? dot[r] : dot[r + 8], 16);
      scores[(r + 8 * half) * kScoreStride + token] = (half ? dot[r + 8] : dot[r]) + other;
    }
  }

  __device__ static void add(float (&o)[D / 2], const float* weights, const float* fade, const float* values,
                             Visible visible, int lane) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (!visible(r)) continue;
#pragma unroll
      for (int x = 0; x < kWide; ++x) o[r * kWide + x] *= fade[r];
    }
#pragma unroll 1
    for (int token = 0; token < kStep; token += 4) {
      float v[4][kWide];
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int x = 0; x < kWide; x += kTogether)
          load_floats<kTogether>(v[j] + x, values + (token + j) * S::kStride + column(x, lane));
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (!visible(r)) continue;
        float p[4];
        load_floats<4>(p, weights + r * kScoreStride + token);
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
          for (int x = 0; x < kWide; ++x) o[r * kWide + x] = fmaf(p[j], v[j][x], o[r * kWide + x]);
      }
    }
  }
};

template <class T, int D>
using Body = std::conditional_t<Shape<T, D>::kTensorCores, MmaBody<T, D>, FmaBody<D>>;

}  // namespace svip::triatt
