// Second kernel: merges the partial results of every row, then head and sigmoid.
//
// Grid (groups of 4 rows, 3 dimensions).  The rows of a group are merged side by side, a quarter of the block
// each; then every warp takes its share of the hidden units of the head for all four rows, so that the
// weights of a layer are read once a group.

#pragma once

#include "triatt_attend.cuh"

namespace svip::triatt {

inline constexpr int kGroup = 4;  // rows of a block
inline constexpr int kDecideThreads = 256;
inline constexpr int kThreadsOfRow = kDecideThreads / kGroup;
inline constexpr int kWarps = kDecideThreads / 32;
inline constexpr int kMaxWidth = 256;
inline constexpr int kColumnsOfThread = kMaxWidth / kThreadsOfRow;

// A softmax over some tokens: of o, the columns of this thread.
struct State {
  float m = -INFINITY, l = 0.f;
  float o[kColumnsOfThread] = {};

  __device__ void join(const State& other) {
    const float top = fmaxf(m, other.m), reference = finite_or_zero(top);
    const float mine = exp_fast(m - reference), theirs = exp_fast(other.m - reference);
    m = top;
    l = l * mine + other.l * theirs;
#pragma unroll
    for (int i = 0; i < kColumnsOfThread; ++i) o[i] = o[i] * mine + other.o[i] * theirs;
  }
};

// The state of a row's own tokens, from all programs of its block.  Two passes, so that no load has to wait
// for the arithmetic of the one before.
__device__ inline State merge_partials(const Call& call, int stride, int row, int dimension, int column) {
  const int first = call.slots[row / kRows], last = call.slots[row / kRows + 1];
  const int local = row % kRows;
  State all;
#pragma unroll 4
  for (int p = first; p < last; ++p)
    all.m = fmaxf(all.m, call.workspace[2 * (partial_row(p, dimension) + local)]);
  const float reference = finite_or_zero(all.m);
#pragma unroll 4
  for (int p = first; p < last; ++p) {
    const std::int64_t at = partial_row(p, dimension) + local;
    const float weight = exp_fast(call.workspace[2 * at] - reference);
    all.l += call.workspace[2 * at + 1] * weight;
    const float* const o = partial_o(call) + at * stride;
#pragma unroll
    for (int i = 0; i < kColumnsOfThread; ++i) {
      const int d = column + i * kThreadsOfRow;
      if (d < call.width) all.o[i] += o[d] * weight;
    }
  }
  return all;
}

__device__ inline State incoming_state(const Call& call, int index, int dimension, int column) {
  const std::int64_t at = std::int64_t{kDimensions} * index + dimension;
  State state;
  state.m = call.first_m[at];
  state.l = call.first_l[at];
#pragma unroll
  for (int i = 0; i < kColumnsOfThread; ++i) {
    const int d = column + i * kThreadsOfRow;
    if (d < call.width) state.o[i] = call.first_o[at * call.width + d];
  }
  return state;
}

// The state of the whole path of a row: its own tokens and, in a scan, those of all that stand before it.
__device__ inline State merge_path(const Call& call, int stride, int row, int dimension, int column) {
  State path = merge_partials(call, stride, row, dimension, column);
  if (!call.next) return path;
  for (int at = call.next[row]; at != -1; at = at < 0 ? -1 : call.next[at])
    path.join(at >= 0 ? merge_partials(call, stride, at, dimension, column)
                      : incoming_state(call, -2 - at, dimension, column));
  return path;
}

// Writes what was asked for of a row.  In a scan, even rows are scores and odd ones states.
__device__ inline void write_state(const Call& call, const State& path, int row, int dimension, int column) {
  const bool scan = call.next != nullptr;
  const std::int64_t entry = scan ? row / 2 : call.order[row];
  const std::int64_t to = entry * kDimensions + dimension;
  const bool att = call.att && !(scan && row % 2), state = call.m && !(scan && row % 2 == 0);
#pragma unroll
  for (int i = 0; i < kColumnsOfThread; ++i) {
    const int d = column + i * kThreadsOfRow;
    if (d >= call.width) continue;
    if (att) call.att[to * call.width + d] = path.o[i] / path.l;
    if (state) call.o[to * call.width + d] = path.o[i];
  }
  if (state && column == 0) {
    call.m[to] = path.m;
    call.l[to] = path.l;
  }
}

__device__ inline float sum_of_warp(float x) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) x += gpu::shuffle_xor(x, mask);
  return x;
}

// GELU in its tanh form.
__device__ inline float gelu(float z) {
  return 0.5f * z * (1.f + tanhf(0.7978845608028654f * (z + 0.044715f * z * z * z)));
}

__device__ inline float sigmoid(float z) {
  const float e = expf(-fabsf(z));  // never overflows
  return (z >= 0.f ? 1.f : e) / (1.f + e);
}

// Adds to z[r] the share of this warp in the head of row r.
__device__ inline void apply_head(const Call& call, const float (*att)[kMaxWidth], int dimension, int warp,
                                  int lane, float (&z)[kGroup]) {
  const int units = call.hidden ? call.hidden : 1;
  for (int f = warp; f < units; f += kWarps) {
    const std::int64_t unit = std::int64_t{1} * dimension * units + f;
    const float* const weights = (call.hidden ? call.w : call.u) + unit * call.width;
    float dot[kGroup] = {};
    for (int d = lane; d < call.width; d += 32) {
      const float w = weights[d];
#pragma unroll
      for (int r = 0; r < kGroup; ++r) dot[r] = fmaf(w, att[r][d], dot[r]);
    }
#pragma unroll
    for (int r = 0; r < kGroup; ++r) {
      const float sum = sum_of_warp(dot[r]);
      z[r] += call.hidden ? call.u[unit] * gelu(sum + call.c[unit]) : sum;
    }
  }
}

__global__ void __launch_bounds__(kDecideThreads) decide(const __grid_constant__ Call call) {
  struct Shared {
    float att[kGroup][kMaxWidth];
    float z[kWarps][kGroup];
  };
  Shared& shared = *reinterpret_cast<Shared*>(gpu::shared_memory());
  const int thread = static_cast<int>(threadIdx.x), dimension = static_cast<int>(blockIdx.y);
  const int first_row = static_cast<int>(blockIdx.x) * kGroup;
  const int mine = thread / kThreadsOfRow, column = thread % kThreadsOfRow;
  const int stride = padded(call.width);
  if (first_row + mine < call.n_rows) {
    const State path = merge_path(call, stride, first_row + mine, dimension, column);
    write_state(call, path, first_row + mine, dimension, column);
#pragma unroll
    for (int i = 0; i < kColumnsOfThread; ++i)
      shared.att[mine][column + i * kThreadsOfRow] = path.o[i] / path.l;
  }
  gpu::sync_block();
  float z[kGroup] = {};
  apply_head(call, shared.att, dimension, thread / 32, thread % 32, z);
  if (thread % 32 == 0)
    for (int r = 0; r < kGroup; ++r) shared.z[thread / 32][r] = z[r];
  gpu::sync_block();
  const int row = first_row + thread;
  const bool scan = call.next != nullptr;
  if (thread >= kGroup || row >= call.n_rows || (scan && row % 2)) return;
  float sum = call.b[dimension];
  for (int i = 0; i < kWarps; ++i) sum += shared.z[i][thread];
  const std::int64_t entry = scan ? row / 2 : call.order[row];
  call.scores[entry * kDimensions + dimension] = sigmoid(sum);
}

inline std::size_t decide_shared_bytes() { return sizeof(float) * (kGroup * kMaxWidth + kWarps * kGroup); }

}  // namespace svip::triatt
