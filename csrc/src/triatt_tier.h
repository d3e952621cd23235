// What the driver in triatt.cpp asks of a SIMD tier: the same functions, compiled for different processors.

#pragma once

#include <cstddef>
#include <cstdint>

namespace svip {

// Floats between two rows of queries or outputs: the widest head and a cache line, so that rows do not
// collide.
inline constexpr int kRow = 272;

// The tokens of one node, and the rows of the block that see them: [begin, own) as "this step", [own, end) as
// an earlier one.
struct Span {
  std::byte* const* pages;
  const std::uint8_t* segments;
  const std::uint8_t* tile_class;
  std::int32_t n_tokens, begin, own, end;
  bool fresh;  // no block before has read it: worth fetching ahead of time
};

// Adds spans, in order, to the softmax states of the rows of a block.  Row r belongs to dimension
// `dimension + r % n_dimensions` and has its query at q + r * kRow, divided by sqrt(width).
struct Block {
  const Span* spans;
  std::int32_t n_spans;
  std::int32_t padded_width;
  std::size_t head_offset;  // of the K/V head within a page, in bytes
  const float (*bias)[4];   // [dimension][question, image, earlier step, this step]
  std::int32_t dimension, n_dimensions;
  const float* q;
  const std::uint16_t* q_pairs;  // the queries in bfloat16, same stride; for dot products only
  float *m, *l, *o;              // state, o with stride kRow
};

// One dimension's head, packed: `w` in the layout of a page's keys, 16 hidden units each.
struct Weights {
  const float *u, *w, *c;
  float b;
  std::int32_t padded_width, hidden;  // hidden 0: linear
};

struct Tier {
  const char* name;
  void (*attend_float32)(const Block&);
  void (*attend_bfloat16)(const Block&);
  void (*attend_dots)(const Block&);  // bfloat16 products, or null
  // state (m, l, o) of `rows` rows <- its merge with another one.
  void (*merge)(float* m, float* l, float* o, const float* m2, const float* l2, const float* o2,
                int padded_width);
  // o <- o / l, and the score of the row.
  float (*decide)(float* o, float l, const Weights&);
};

// Null where this build has no such tier.
extern const Tier* const kTierBaseline;
extern const Tier* const kTierAvx2;
extern const Tier* const kTierAvx512;
extern const Tier* const kTierAvx512Bf16;

}  // namespace svip
