#include <algorithm>
#include <stdexcept>

#include "svip/triatt.h"

namespace svip {

namespace {

constexpr int kMaxHidden = 1 << 16;

int checked(const char* name, int value, int least, int most) {
  if (value < least || value > most) {
    throw std::invalid_argument("`" + std::string(name) + "` must be " + std::to_string(least) + ".." +
                                std::to_string(most) + "; got " + std::to_string(value) + ".");
  }
  return value;
}

int padded(int size) { return (size + kPageTokens - 1) / kPageTokens * kPageTokens; }

}  // namespace

TriattHead::TriattHead(int width, int hidden, const float* u, const float* b, const float* w, const float* c,
                       const float* bias)
    : width_(checked("width", width, 1, kMaxWidth)),
      hidden_(checked("hidden", hidden, 0, kMaxHidden)),
      padded_width_(padded(width)),
      padded_hidden_(padded(hidden)) {
  if ((hidden > 0) != (w != nullptr && c != nullptr) || u == nullptr || b == nullptr) {
    throw std::invalid_argument(
        "`u` and `b` must be given, and `w` and `c` if and only if `hidden` is positive.");
  }
  const auto size = static_cast<std::size_t>(hidden > 0 ? padded_hidden_ : padded_width_);
  const auto units = static_cast<std::size_t>(hidden), components = static_cast<std::size_t>(width);
  const std::size_t given = hidden > 0 ? units : components;
  u_.assign(kTriattDimensions * size, 0.0F);
  for (std::size_t i = 0; i < kTriattDimensions; ++i) {
    std::copy_n(u + i * given, given, u_.begin() + static_cast<std::ptrdiff_t>(i * size));
    b_[i] = b[i];
    for (std::size_t j = 0; j < 4; ++j) bias_[i][j] = bias == nullptr ? 0.0F : bias[i * 4 + j];
  }
  if (hidden == 0) return;
  c_.assign(kTriattDimensions * size, 0.0F);
  w_.assign(kTriattDimensions * size * static_cast<std::size_t>(padded_width_), 0.0F);
  for (std::size_t i = 0; i < kTriattDimensions; ++i) {
    std::copy_n(c + i * units, units, c_.begin() + static_cast<std::ptrdiff_t>(i * size));
    float* const packed = w_.data() + i * size * static_cast<std::size_t>(padded_width_);
    for (std::size_t h = 0; h < units; ++h) {
      float* const page = packed + h / kPageTokens * kPageTokens * static_cast<std::size_t>(padded_width_);
      for (std::size_t j = 0; j < components; ++j) {
        page[j * kPageTokens + h % kPageTokens] = w[(i * units + h) * components + j];
      }
    }
  }
}

}  // namespace svip
