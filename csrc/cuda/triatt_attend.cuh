// First kernel: the softmax of 16 rows of queries over the tiles of one program.
//
// Grid (programs, n_kv_heads).  With three heads of keys a block serves one dimension; with one head it
// serves all three, so that the keys are read once, and a third of its warps works for each.  The warps of a
// dimension take the 16-token steps of a tile in turn, each with a softmax of its own; these are merged once,
// when the program is done.  Keys and values of the next tile travel while a tile is worked on.

#pragma once

#include <cmath>

#include "svip/triatt_cuda.h"
#include "triatt_tile.cuh"

namespace svip::triatt {

using Call = svip_triatt_cuda_call;

inline constexpr int kDimensions = 3;
inline constexpr int kColumns = 4;  // of the segment bias
inline constexpr int kStepSegment = 2;
inline constexpr int kMaxThreads = 192;
inline constexpr float kLog2E = 1.4426950408889634f;

// exp(x), through the instruction for powers of two.
__device__ inline float exp_fast(float x) { return exp2f(x * kLog2E); }
// A maximum to subtract: that of no finite logit must not turn -inf - -inf into NaN.
__device__ inline float finite_or_zero(float m) { return m == -INFINITY ? 0.f : m; }

// Where in a program's partial results, [programs][3][16] rows of m and l and then as many of o, a row is.
__host__ __device__ inline std::int64_t partial_row(int program, int dimension) {
  return (static_cast<std::int64_t>(program) * kDimensions + dimension) * kRows;
}
__host__ __device__ inline float* partial_o(const Call& call) {
  return call.workspace + 2 * partial_row(call.n_programs, 0);
}

// Warps of a block: `parts` for each of `dimensions`.
struct Team {
  int dimensions, parts;
  __host__ __device__ int warps() const { return dimensions * parts; }
};

template <class T, int D>
__host__ __device__ inline Team team_of(const Call& call) {
  constexpr int kParts = Shape<T, D>::kParts;
  return call.n_kv_heads == 1 ? Team{kDimensions, kParts < 2 ? kParts : 2} : Team{1, kParts};
}

// Scores or weights of a step, what every row fades by, and a row's maximum and sum at the end.
struct WarpScratch {
  float scores[kRows * kScoreStride];
  float fade[kRows];
  float m[kRows];
  float l[kRows];
};

// The shared memory of a block.
template <class T, int D>
struct Memory {
  using S = Shape<T, D>;
  T* tiles;               // [2][keys, values][kTile][kStride], at the end the outputs of the warps
  T* q;                   // [dimensions][16][kStride]
  T* q_low;               // the same; 16-bit keys only
  WarpScratch* scratch;   // [warps]
  float* scale;           // [dimensions][16]
  float* bias;            // [3][4]
  std::uint8_t* segment;  // [2][kTile]

  static constexpr int kTileElements = S::kTile * S::kStride;

  __host__ __device__ static std::size_t bytes(Team team) {
    const std::size_t queries = static_cast<std::size_t>(team.dimensions) * kRows;
    return (4 * kTileElements + queries * S::kStride * (S::kTensorCores ? 2 : 1)) * sizeof(T) +
           team.warps() * sizeof(WarpScratch) + (queries + kDimensions * kColumns) * sizeof(float) +
           2 * S::kTile;
  }

  __device__ Memory(char* base, Team team) {
    const int queries = team.dimensions * kRows;
    tiles = reinterpret_cast<T*>(base);
    q = tiles + 4 * kTileElements;
    q_low = q + (S::kTensorCores ? queries * S::kStride : 0);
    scratch = reinterpret_cast<WarpScratch*>(q_low + queries * S::kStride);
    scale = reinterpret_cast<float*>(scratch + team.warps());
    bias = scale + queries;
    segment = reinterpret_cast<std::uint8_t*>(bias + kDimensions * kColumns);
  }

  __device__ T* keys(int buffer) const { return tiles + 2 * buffer * kTileElements; }
  __device__ T* values(int buffer) const { return keys(buffer) + kTileElements; }
};

struct Tile {
  int token, n_tokens;
  Visible visible;  // rows of the program
};

// One of no tokens beyond the end.
__device__ inline Tile read_tile(const Call& call, int index, int end, int first_row) {
  if (index >= end) return {};
  const std::int32_t* x = call.tiles + std::int64_t{5} * index;
  return {x[0], x[1], {x[2] - first_row, x[3] - first_row, x[4] - first_row}};
}

__device__ inline float read_query(const Call& call, std::int64_t at) {
  if (call.q_type == SVIP_BFLOAT16) return gpu::to_float(static_cast<const gpu::Bfloat16*>(call.q)[at]);
  if (call.q_type == SVIP_FLOAT16) return gpu::to_float(static_cast<const gpu::Float16*>(call.q)[at]);
  return static_cast<const float*>(call.q)[at];
}

// The power of two that brings a row of queries below 1, so that no query is too large for a float16.
__device__ inline int exponent_of(float largest) {
  return largest > 0.f && largest < INFINITY ? ilogbf(largest) + 1 : 0;
}

// Puts the queries of the program's rows and their scales in shared memory, a warp to a row; none are zeros.
template <class T, int D>
__device__ inline void stage_queries(const Call& call, const Memory<T, D>& memory, Team team,
                                     int first_dimension, int first_row, int n_rows) {
  using S = Shape<T, D>;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int row = warp; row < team.dimensions * kRows; row += team.warps()) {
    const int local = row % kRows, dimension = first_dimension + row / kRows;
    std::int64_t at = static_cast<std::int64_t>(dimension) * call.width;
    if (local < n_rows && call.q_stride != 0) at += call.q_stride * call.order[first_row + local];
    float x[D / 32];
    float largest = 0.f;
#pragma unroll
    for (int i = 0; i < D / 32; ++i) {
      const int d = lane + 32 * i;
      x[i] = local < n_rows && d < call.width ? read_query(call, at + d) : 0.f;
      largest = fmaxf(largest, fabsf(x[i]));
    }
    for (int mask = 16; mask > 0; mask /= 2) largest = fmaxf(largest, gpu::shuffle_xor(largest, mask));
    const int exponent = S::kTensorCores ? exponent_of(largest) : 0;
    if (lane == 0) memory.scale[row] = ldexpf(call.scale, exponent);
#pragma unroll
    for (int i = 0; i < D / 32; ++i) {
      const int to = row * S::kStride + lane + 32 * i;
      if constexpr (S::kTensorCores)
        split(ldexpf(x[i], -exponent), memory.q[to], memory.q_low[to]);
      else
        memory.q[to] = x[i];
    }
  }
}

// Starts the copy of a tile's keys and values; what is missing to whole steps and to D becomes zero.
template <class T, int D>
__device__ inline void fetch(const Call& call, const Memory<T, D>& memory, int buffer, const Tile& tile) {
  using S = Shape<T, D>;
  constexpr int kChunks = D / S::kChunk;
  const int needed = (tile.n_tokens + kStep - 1) / kStep * kStep * kChunks;
  for (int i = static_cast<int>(threadIdx.x); i < needed; i += static_cast<int>(blockDim.x)) {
    const int token = i / kChunks, d = i % kChunks * S::kChunk;
    const bool there = token < tile.n_tokens && d < call.width;
    const std::int64_t row =
        (static_cast<std::int64_t>(tile.token) + token) * call.n_kv_heads + static_cast<int>(blockIdx.y);
    const std::int64_t from = there ? row * call.width + d : 0;
    const int to = token * S::kStride + d;
    gpu::copy16(memory.keys(buffer) + to, static_cast<const T*>(call.k) + from, there ? 16 : 0);
    gpu::copy16(memory.values(buffer) + to, static_cast<const T*>(call.v) + from, there ? 16 : 0);
  }
}

// The running softmax of a warp.  A lane keeps the maximum of row lane % 16 and, for its 8 of the 16 tokens
// of a step, that row's sum.
struct Softmax {
  float m = -INFINITY, l = 0.f;

  // Turns the products q . k of a step into weights, in place.  `n_tokens` of the step exist.  The bias moves
  // the maximum instead of the product: an offset that is common to all biases then costs no accuracy.
  __device__ void step(WarpScratch& scratch, float scale, const float* bias, const std::uint8_t* segment,
                       Visible visible, int n_tokens, int lane) {
    const int row = lane % kRows, first = lane / kRows * 8;
    const bool sees = visible(row);
    float* scores = scratch.scores + row * kScoreStride + first;
    float x[8], shift[8];
    load_floats<4>(x, scores);
    load_floats<4>(x + 4, scores + 4);
    float largest = -INFINITY;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      int column = segment[first + i];
      if (column == kStepSegment && row < visible.own) ++column;
      const bool there = sees && first + i < n_tokens;
      x[i] = there ? x[i] * scale : -INFINITY;
      shift[i] = there ? bias[column] : 0.f;
      largest = fmaxf(largest, x[i] + shift[i]);
    }
    largest = fmaxf(largest, gpu::shuffle_xor(largest, 16));
    const float before = m;
    m = fmaxf(m, largest);
    const float reference = finite_or_zero(m);
    const float fade = exp_fast(before - reference);
    l *= fade;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      x[i] = exp_fast(x[i] - (reference - shift[i]));
      l += x[i];
    }
    store_floats<4>(scores, x);
    store_floats<4>(scores + 4, x + 4);
    if (first == 0) scratch.fade[row] = fade;
  }
};

// Writes m and l of row lane % 16, and the outputs, as the program's partial result of a dimension.
template <class T, int D>
__device__ inline void write_rows(const Call& call, int dimension, int n_rows, float m, float l,
                                  const float (&o)[D / 2]) {
  using B = Body<T, D>;
  const int lane = threadIdx.x % 32;
  const std::int64_t to = partial_row(static_cast<int>(blockIdx.x), dimension);
  if (lane < n_rows) {
    call.workspace[2 * (to + lane)] = m;
    call.workspace[2 * (to + lane) + 1] = l;
  }
#pragma unroll
  for (int i = 0; i < D / 2; i += B::kTogether) {
    const int row = B::row(i, lane);
    if (row < n_rows)
      store_floats<B::kTogether>(partial_o(call) + (to + row) * D + B::column(i, lane), o + i);
  }
}

// Merges the warps of a dimension; the first of them writes the rows of the program.
template <class T, int D>
__device__ inline void write_partial(const Call& call, const Memory<T, D>& memory, Team team, int dimension,
                                     int n_rows, Softmax softmax, float (&o)[D / 2]) {
  using B = Body<T, D>;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int part = warp % team.parts;
  WarpScratch* const first = memory.scratch + (warp - part);
  const float both_halves = softmax.l + gpu::shuffle_xor(softmax.l, 16);
  if (lane < kRows) {
    first[part].m[lane] = softmax.m;
    first[part].l[lane] = both_halves;
  }
  gpu::sync_block();

  float m = -INFINITY, l = 0.f;  // of row lane % 16, over all parts
  for (int i = 0; i < team.parts; ++i) m = fmaxf(m, first[i].m[lane % kRows]);
  const float reference = finite_or_zero(m);
  for (int i = 0; i < team.parts; ++i)
    l += first[i].l[lane % kRows] * exp_fast(first[i].m[lane % kRows] - reference);
  if (lane < kRows) first[part].fade[lane] = exp_fast(softmax.m - reference);
  gpu::sync_warp();
#pragma unroll
  for (int i = 0; i < D / 2; ++i) o[i] *= first[part].fade[B::row(i, lane)];

  // The tiles are no longer needed: half of the warps hand their outputs to the other half through them.
  float* const exchange = reinterpret_cast<float*>(memory.tiles) + lane;
  for (int step = team.parts / 2; step > 0; step /= 2) {
    float* const slot = exchange + (warp / team.parts * step + part % step) * (D / 2 * 32);
    if (part >= step && part < 2 * step)
#pragma unroll
      for (int i = 0; i < D / 2; ++i) slot[32 * i] = o[i];
    gpu::sync_block();
    if (part < step)
#pragma unroll
      for (int i = 0; i < D / 2; ++i) o[i] += slot[32 * i];
    gpu::sync_block();
  }
  if (part == 0) write_rows<T, D>(call, dimension, n_rows, m, l, o);
}

template <class T, int D>
__global__ void __launch_bounds__(kMaxThreads) attend(const __grid_constant__ Call call) {
  using S = Shape<T, D>;
  const Team team = team_of<T, D>(call);
  const Memory<T, D> memory(gpu::shared_memory(), team);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int first_dimension = static_cast<int>(blockIdx.y), dimension = first_dimension + warp / team.parts;
  const std::int32_t* const program = call.programs + std::int64_t{4} * blockIdx.x;
  const int first_row = program[0], n_rows = program[1] - first_row, begin = program[2], end = program[3];

  Tile tile = read_tile(call, begin, end, first_row);
  Tile next = read_tile(call, begin + 1, end, first_row);
  fetch(call, memory, 0, tile);
  gpu::copies_commit();
  std::uint8_t segment = thread < tile.n_tokens ? call.segment[tile.token + thread] : 0;
  if (thread < kDimensions * kColumns) memory.bias[thread] = call.bias ? call.bias[thread] : 0.f;
  stage_queries(call, memory, team, first_dimension, first_row, n_rows);

  WarpScratch& scratch = memory.scratch[warp];
  const T* const q = memory.q + warp / team.parts * kRows * S::kStride;
  const T* const q_low = memory.q_low + warp / team.parts * kRows * S::kStride;
  const float* const bias = memory.bias + dimension * kColumns;
  Softmax softmax;
  float o[D / 2] = {};
  for (int t = begin; t < end; ++t) {
    const int buffer = (t - begin) % 2;
    if (thread < S::kTile) memory.segment[buffer * S::kTile + thread] = segment;
    if (t + 1 < end) {
      fetch(call, memory, buffer ^ 1, next);
      segment = thread < next.n_tokens ? call.segment[next.token + thread] : 0;
    }
    gpu::copies_commit();
    const Tile later = read_tile(call, t + 2, end, first_row);
    gpu::copies_wait<1>();
    gpu::sync_block();
    for (int at = warp % team.parts * kStep; at < tile.n_tokens; at += team.parts * kStep) {
      Body<T, D>::score(q, q_low, memory.keys(buffer) + at * S::kStride, scratch.scores, tile.visible, lane);
      gpu::sync_warp();
      softmax.step(scratch, memory.scale[warp / team.parts * kRows + lane % kRows], bias,
                   memory.segment + buffer * S::kTile + at, tile.visible, tile.n_tokens - at, lane);
      gpu::sync_warp();
      Body<T, D>::add(o, scratch.scores, scratch.fade, memory.values(buffer) + at * S::kStride, tile.visible,
                      lane);
      gpu::sync_warp();
    }
    gpu::sync_block();
    tile = next;
    next = later;
  }
  write_partial<T, D>(call, memory, team, dimension, n_rows, softmax, o);
}

}  // namespace svip::triatt
