// Saving a tree as bytes, and building one from bytes or columns that nobody vouches for.

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "svip/tree.h"
#include "tree_checks.h"

namespace svip {
namespace {

static_assert(std::endian::native == std::endian::little, "the saved state is little-endian");

// Saved state: magic, version, number of nodes, the columns in the order of `Columns`, checksum of all before
// it.
constexpr std::uint64_t kMagic = 0x4545525450495653;  // "SVIPTREE"
constexpr std::uint64_t kVersion = 1;
constexpr std::size_t kWord = sizeof(std::uint64_t);
constexpr std::size_t kHeaderBytes = 3 * kWord;
constexpr std::size_t kNodeBytes =
    3 * sizeof(std::int32_t) + sizeof(double) + sizeof(float) + sizeof(Reward) + sizeof(std::uint8_t);

// FNV-1a over 8-byte words.
std::uint64_t checksum(std::string_view bytes) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (std::size_t i = 0; i < bytes.size(); i += kWord) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes.data() + i, std::min(kWord, bytes.size() - i));
    hash = (hash ^ word) * 0x100000001b3;
  }
  return hash;
}

std::uint64_t read_word(std::string_view bytes, std::size_t offset) {
  std::uint64_t word = 0;
  std::memcpy(&word, bytes.data() + offset, kWord);
  return word;
}

template <class T>
void write_column(std::string& bytes, const T* values, std::size_t count) {
  bytes.append(reinterpret_cast<const char*>(values), count * sizeof(T));
}

template <class T>
void read_column(std::string_view& bytes, std::vector<T>& values, std::size_t count) {
  values.resize(count);
  std::memcpy(values.data(), bytes.data(), count * sizeof(T));
  bytes.remove_prefix(count * sizeof(T));
}

}  // namespace

std::string Tree::state() const {
  const auto count = static_cast<std::size_t>(size_);
  const std::array<std::uint64_t, 3> header{kMagic, kVersion, count};
  std::string bytes;
  bytes.reserve(kHeaderBytes + count * kNodeBytes + kWord);
  write_column(bytes, header.data(), header.size());
  write_column(bytes, parent_.get(), count);
  write_column(bytes, visits_.get(), count);
  write_column(bytes, virtual_visits_.get(), count);
  write_column(bytes, value_sum_.get(), count);
  write_column(bytes, prior_.get(), count);
  write_column(bytes, reward_.get(), count);
  write_column(bytes, status_.get(), count);
  const std::uint64_t sum = checksum(bytes);
  write_column(bytes, &sum, 1);
  return bytes;
}

Tree Tree::from_state(std::string_view state) {
  if (state.size() < kHeaderBytes + kWord || read_word(state, 0) != kMagic) {
    bad("`state` must be the saved state of a tree.");
  }
  if (read_word(state, kWord) != kVersion) {
    bad("`state` must have version " + std::to_string(kVersion) + "; got " +
        std::to_string(read_word(state, kWord)) + ".");
  }
  const std::uint64_t count = read_word(state, 2 * kWord);
  const std::size_t payload = state.size() - kHeaderBytes - kWord;
  if (count > static_cast<std::uint64_t>(kInt32Max) || payload != count * kNodeBytes) {
    bad("`state` must have the length of its " + std::to_string(count) + " nodes; got " +
        std::to_string(state.size()) + " bytes.");
  }
  if (checksum(state.substr(0, state.size() - kWord)) != read_word(state, state.size() - kWord)) {
    bad("`state` must have the checksum it was saved with; it is corrupt.");
  }
  std::string_view rest = state.substr(kHeaderBytes);
  Columns columns;
  read_column(rest, columns.parent, count);
  read_column(rest, columns.visits, count);
  read_column(rest, columns.virtual_visits, count);
  read_column(rest, columns.value_sum, count);
  read_column(rest, columns.prior, count);
  read_column(rest, columns.reward, count);
  read_column(rest, columns.status, count);
  return from_columns(columns);
}

namespace {

void check_columns(const Columns& columns) {
  const std::size_t count = columns.parent.size();
  if (count == 0 || count > static_cast<std::size_t>(kInt32Max)) {
    bad("`parent` must have between 1 and " + std::to_string(kInt32Max) + " entries; got " +
        std::to_string(count) + ".");
  }
  for (const std::size_t length :
       {columns.visits.size(), columns.virtual_visits.size(), columns.value_sum.size(), columns.prior.size(),
        columns.reward.size(), columns.status.size()}) {
    if (length != count) {
      bad("All columns must have the length of `parent`, " + std::to_string(count) + "; got " +
          std::to_string(length) + ".");
    }
  }
  for (std::size_t i = 0; i < count; ++i) {
    const std::int32_t parent = columns.parent[i];
    // A parent before its child also excludes cycles.
    if (i == 0 ? parent != kNoNode : parent < 0 || static_cast<std::size_t>(parent) >= i) {
      bad("`parent` must be -1 for the root and an earlier node for any other; node " + std::to_string(i) +
          " has " + std::to_string(parent) + ".");
    }
    if (columns.visits[i] < 0 || columns.virtual_visits[i] < 0) bad("`visits` must not be negative.");
    if (!std::isfinite(columns.value_sum[i])) bad("`value_sum` must be finite.");
    if (columns.status[i] > kExhausted) bad("`status` must lie in [0, 4].");
    check_prior(columns.prior[i]);
    check_reward(columns.reward[i]);
  }
}

}  // namespace

Tree Tree::from_columns(const Columns& columns) {
  check_columns(columns);
  const auto count = static_cast<std::int32_t>(columns.parent.size());
  Tree tree(count);
  std::vector<std::int64_t> own_visits(columns.visits.begin(), columns.visits.end());
  std::vector<std::int64_t> own_virtual(columns.virtual_visits.begin(), columns.virtual_visits.end());
  for (std::int32_t i = 1; i < count; ++i) {
    tree.append(columns.parent[i], 0);
    own_visits[columns.parent[i]] -= columns.visits[i];
    own_virtual[columns.parent[i]] -= columns.virtual_visits[i];
  }
  std::ranges::copy(columns.visits, tree.visits_.get());
  std::ranges::copy(columns.virtual_visits, tree.virtual_visits_.get());
  std::ranges::copy(columns.value_sum, tree.value_sum_.get());
  std::ranges::copy(columns.prior, tree.prior_.get());
  std::ranges::copy(columns.reward, tree.reward_.get());
  std::ranges::copy(columns.status, tree.status_.get());
  // Children come after their parent, so that the reverse order sees them first.
  for (std::int32_t i = count - 1; i >= 0; --i) {
    if (own_visits[i] < 0) bad("`visits` of a node must reach the sum over its children.");
    if (own_virtual[i] < 0 || own_virtual[i] > 1) {
      bad("`virtual_visits` of a node must be the sum over its children, or one more.");
    }
    tree.selected_[i] = static_cast<std::uint8_t>(own_virtual[i]);
    const bool leaf = tree.first_child_[i] == kNoNode;
    const std::uint8_t status = columns.status[i];
    if ((status == kOpen && !leaf) || (status == kExpanded && tree.unfinished_[i] == 0)) {
      bad("`status` of node " + std::to_string(i) + " contradicts its children.");
    }
    tree.available_[i] = tree.availability(i);
    if (i > 0 && !finished(status)) ++tree.unfinished_[tree.parent_[i]];
  }
  return tree;
}

}  // namespace svip
