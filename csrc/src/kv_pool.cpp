#include <algorithm>
#include <cstdlib>
#include <new>
#include <stdexcept>

#include "svip/kv_tree.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace svip {

namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kSmallestSlab = std::size_t{64} << 10;
constexpr std::size_t kLargestSlab = std::size_t{32} << 20;

struct Release {
  std::size_t alignment;
  void operator()(std::byte* memory) const { ::operator delete(memory, std::align_val_t{alignment}); }
};
using Slab = std::unique_ptr<std::byte, Release>;

Slab allocate(std::size_t bytes) {
  const std::size_t alignment = bytes >= kHugePage ? kHugePage : 64;
  Slab slab(static_cast<std::byte*>(::operator new(bytes, std::align_val_t{alignment})), Release{alignment});
#if defined(__linux__)
  // Leaves are read once, in long streams: without huge pages a good part of the time goes to the page
  // tables.
  if (bytes >= kHugePage) madvise(slab.get(), bytes, MADV_HUGEPAGE);
#endif
  return slab;
}

int checked_width(int width) {
  if (width < 1 || width > kMaxWidth) {
    throw std::invalid_argument("`width` must be 1.." + std::to_string(kMaxWidth) + "; got " +
                                std::to_string(width) + ".");
  }
  return width;
}

}  // namespace

struct KVPool::Memory {
  std::vector<Slab> slabs;
  std::vector<std::byte*> free;  // the next one to hand out is the last
  std::int64_t pages = 0;
  std::size_t bytes = 0;
};

KVPool::KVPool(int width, int n_kv_heads, KVType type, std::int64_t capacity)
    : width_(checked_width(width)),
      padded_width_((width + kPageTokens - 1) / kPageTokens * kPageTokens),
      n_kv_heads_(n_kv_heads),
      type_(type),
      head_bytes_(static_cast<std::size_t>(2 * kPageTokens * padded_width_) *
                  (type == KVType::kFloat32 ? 4 : 2)),
      max_pages_(capacity < 0 ? -1 : capacity / kPageTokens + (capacity % kPageTokens != 0)),
      memory_(std::make_shared<Memory>()) {
  if (n_kv_heads != 1 && n_kv_heads != 3) {
    throw std::invalid_argument("`n_kv_heads` must be 1 or 3; got " + std::to_string(n_kv_heads) + ".");
  }
}

std::int64_t KVPool::pages_in_use() const {
  const std::scoped_lock lock(mutex_);
  return memory_ == nullptr ? 0 : memory_->pages - static_cast<std::int64_t>(memory_->free.size());
}

std::int64_t KVPool::bytes() const {
  const std::scoped_lock lock(mutex_);
  return memory_ == nullptr ? 0 : static_cast<std::int64_t>(memory_->bytes);
}

bool KVPool::closed() const {
  const std::scoped_lock lock(mutex_);
  return memory_ == nullptr;
}

void KVPool::close() {
  const std::scoped_lock lock(mutex_);
  memory_.reset();
}

std::shared_ptr<const void> KVPool::lease() const {
  const std::scoped_lock lock(mutex_);
  if (memory_ == nullptr) throw std::logic_error("The pool is closed.");
  return memory_;
}

void KVPool::take(int n, std::vector<std::byte*>& pages) {
  const std::scoped_lock lock(mutex_);
  if (memory_ == nullptr) throw std::logic_error("The pool is closed.");
  const auto left = static_cast<std::int64_t>(memory_->free.size());
  if (max_pages_ >= 0 && memory_->pages - left + n > max_pages_) {
    throw std::length_error("The pool is full: " + std::to_string(n) + " pages of " +
                            std::to_string(kPageTokens) + " tokens are needed and " +
                            std::to_string(max_pages_ - memory_->pages + left) + " of " +
                            std::to_string(max_pages_) + " are left.");
  }
  while (static_cast<int>(memory_->free.size()) < n) grow();
  pages.insert(pages.end(), memory_->free.rbegin(), memory_->free.rbegin() + n);
  memory_->free.resize(memory_->free.size() - static_cast<std::size_t>(n));
}

void KVPool::give_back(std::span<std::byte* const> pages) noexcept {
  const std::scoped_lock lock(mutex_);
  // The list has room for every page of the pool, so this cannot fail.
  if (memory_ != nullptr) memory_->free.insert(memory_->free.end(), pages.rbegin(), pages.rend());
}

void KVPool::grow() {
  Memory& memory = *memory_;
  std::size_t bytes = std::clamp(memory.bytes, kSmallestSlab, kLargestSlab);
  if (bytes >= kHugePage) bytes = bytes / kHugePage * kHugePage;
  const std::size_t n = std::max<std::size_t>(bytes / page_bytes(), 1);
  bytes = std::max(bytes, n * page_bytes());
  memory.free.reserve(static_cast<std::size_t>(memory.pages) + n);
  memory.slabs.reserve(memory.slabs.size() + 1);
  memory.slabs.push_back(allocate(bytes));
  memory.bytes += bytes;
  memory.pages += static_cast<std::int64_t>(n);
  // Fresh pages go to the bottom of the list in falling order: a tree that grows gets ascending addresses.
  std::byte* const first = memory.slabs.back().get();
  std::vector<std::byte*>& free = memory.free;
  free.insert(free.begin(), n, nullptr);
  for (std::size_t i = 0; i < n; ++i) free[i] = first + (n - 1 - i) * page_bytes();
}

}  // namespace svip
