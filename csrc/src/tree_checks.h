// What tree.cpp, tree_state.cpp and forest.cpp demand of their arguments.

#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>

#include "svip/tree.h"

namespace svip {

inline constexpr std::uint8_t kOpen = static_cast<std::uint8_t>(Status::kOpen);
inline constexpr std::uint8_t kExpanded = static_cast<std::uint8_t>(Status::kExpanded);
inline constexpr std::uint8_t kTerminal = static_cast<std::uint8_t>(Status::kTerminal);
inline constexpr std::uint8_t kExhausted = static_cast<std::uint8_t>(Status::kExhausted);
inline constexpr std::int64_t kInt32Max = std::numeric_limits<std::int32_t>::max();

inline bool finished(std::uint8_t status) { return status >= kTerminal; }

[[noreturn]] inline void bad(const std::string& message) { throw std::invalid_argument(message); }

inline void check_lengths(std::size_t expected, std::size_t actual, const char* name) {
  if (actual != expected) {
    bad("`" + std::string(name) + "` must have one entry for each of the " + std::to_string(expected) +
        " `nodes`; got " + std::to_string(actual) + ".");
  }
}

inline void check_reward(const Reward& reward) {
  for (const float r : reward) {
    if (std::isinf(r)) bad("`rewards` must be numbers, or NaN for not evaluated; got an infinity.");
  }
}

inline void check_prior(float prior) {
  if (!(prior >= 0) || std::isinf(prior)) {
    bad("`priors` must be finite and not negative; got " + std::to_string(prior) + ".");
  }
}

}  // namespace svip
