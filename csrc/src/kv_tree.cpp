#include "svip/kv_tree.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "bfloat16.h"

namespace svip {

namespace {

// Reads one vector of a source as float32 or bfloat16, whatever it is stored as.
template <class T>
struct Reader {
  const T* data;
  std::int64_t token_stride, head_stride;
  Reader(const KVSource& source)
      : data(static_cast<const T*>(source.data)),
        token_stride(source.token_stride),
        head_stride(source.head_stride) {}
  const T* row(std::int64_t token, int head) const {
    return data + token * token_stride + head * head_stride;
  }
};

template <class Out, class In>
Out converted(In x) {
  if constexpr (std::is_same_v<Out, In>) {
    return x;
  } else if constexpr (std::is_same_v<Out, float>) {
    return widen(x);
  } else {
    return narrow(x);
  }
}

// Where component c of token t stands: neighbours of bfloat16 keys are components, of its values tokens.
template <class T>
std::size_t key_at(int t, int c) {
  if constexpr (std::is_same_v<T, float>) {
    return static_cast<std::size_t>(c * kPageTokens + t);
  } else {
    return static_cast<std::size_t>((c / 2 * kPageTokens + t) * 2 + c % 2);
  }
}

template <class T>
std::size_t value_at(int t, int c, int padded) {
  if constexpr (std::is_same_v<T, float>) {
    return static_cast<std::size_t>(t * padded + c);
  } else {
    return static_cast<std::size_t>((t / 2 * padded + c) * 2 + t % 2);
  }
}

template <class T, class K, class V>
void pack_page(T* page, const Reader<K>& k, const Reader<V>& v, std::int64_t first, int n, int head,
               int width, int padded) {
  T* const values = page + kPageTokens * padded;
  if (n < kPageTokens || width < padded)
    std::memset(page, 0, sizeof(T) * static_cast<std::size_t>(2 * kPageTokens * padded));
  // A few components at a time, so that the cache lines being written are still there for the next token.
  constexpr int kSome = 16;
  for (int some = 0; some < width; some += kSome) {
    const int end = std::min(some + kSome, width);
    for (int t = 0; t < n; ++t) {
      const K* const key = k.row(first + t, head);
      for (int c = some; c < end; ++c) page[key_at<T>(t, c)] = converted<T>(key[c]);
    }
  }
  for (int t = 0; t < n; ++t) {
    const V* const value = v.row(first + t, head);
    for (int c = 0; c < width; ++c) values[value_at<T>(t, c, padded)] = converted<T>(value[c]);
  }
}

template <class T, class K, class V>
void pack(const KVPool& pool, std::span<std::byte* const> pages, const KVSource& ks, const KVSource& vs,
          std::int64_t first, std::int64_t last) {
  const Reader<K> k(ks);
  const Reader<V> v(vs);
  for (std::byte* const page : pages) {
    const int n = static_cast<int>(std::min<std::int64_t>(last - first, kPageTokens));
    for (int head = 0; head < pool.n_kv_heads(); ++head) {
      T* const part = reinterpret_cast<T*>(page + pool.head_bytes() * static_cast<std::size_t>(head));
      pack_page<T>(part, k, v, first, n, head, pool.width(), pool.padded_width());
    }
    first += n;
  }
}

using Pack = void (*)(const KVPool&, std::span<std::byte* const>, const KVSource&, const KVSource&,
                      std::int64_t, std::int64_t);

template <class T>
Pack packer(KVType k, KVType v) {
  using B = std::uint16_t;
  if (k == KVType::kFloat32) return v == KVType::kFloat32 ? pack<T, float, float> : pack<T, float, B>;
  return v == KVType::kFloat32 ? pack<T, B, float> : pack<T, B, B>;
}

int pages_for(std::int64_t tokens) { return static_cast<int>((tokens + kPageTokens - 1) / kPageTokens); }

std::string text(std::int64_t number) { return std::to_string(number); }

}  // namespace

PagedTree::PagedTree(std::shared_ptr<KVPool> pool) : pool_(std::move(pool)) {
  if (pool_ == nullptr) throw std::invalid_argument("`pool` must not be null.");
  static_cast<void>(pool_->lease());
}

PagedTree::~PagedTree() { close(); }

void PagedTree::check_extend(std::span<const std::int32_t> parent, std::span<const std::int64_t> token_ptr,
                             std::span<const std::uint8_t> segment) const {
  if (closed_) throw std::logic_error("The tree is closed.");
  if (token_ptr.size() != parent.size() + 1) {
    throw std::invalid_argument("`token_ptr` must have shape [n + 1] = [" +
                                text(static_cast<std::int64_t>(parent.size()) + 1) + "]; got [" +
                                text(static_cast<std::int64_t>(token_ptr.size())) + "].");
  }
  const auto tokens = static_cast<std::int64_t>(segment.size());
  if (token_ptr.front() != 0 || token_ptr.back() != tokens ||
      !std::is_sorted(token_ptr.begin(), token_ptr.end())) {
    throw std::invalid_argument("`token_ptr` must rise from 0 to the " + text(tokens) +
                                " tokens and never fall.");
  }
  if (parent.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max() - size()) ||
      tokens > std::numeric_limits<std::int32_t>::max()) {
    throw std::length_error("A tree holds at most 2^31 - 1 nodes.");
  }
  for (std::size_t i = 0; i < parent.size(); ++i) {
    const std::int64_t own = size() + static_cast<std::int64_t>(i);
    if (parent[i] < -1 || parent[i] >= own) {
      throw std::out_of_range("`parent` must be -1 or an earlier node, below " + text(own) + "; got parent[" +
                              text(static_cast<std::int64_t>(i)) + "] = " + text(parent[i]) + ".");
    }
    if (parent[i] >= 0 && parent[i] < size() && freed(parent[i])) {
      throw std::logic_error("`parent` must be a living node; node " + text(parent[i]) + " was freed.");
    }
  }
  for (std::size_t i = 0; i < segment.size(); ++i) {
    if (segment[i] > kStep) {
      throw std::invalid_argument("`segment` must hold 0, 1 or 2; got segment[" +
                                  text(static_cast<std::int64_t>(i)) + "] = " + text(segment[i]) + ".");
    }
  }
}

std::int32_t PagedTree::extend(std::span<const std::int32_t> parent, std::span<const std::int64_t> token_ptr,
                               std::span<const std::uint8_t> segment, const KVSource& k, const KVSource& v) {
  const auto lease = pool_->lease();
  check_extend(parent, token_ptr, segment);
  const std::size_t n = parent.size();
  std::size_t pages = 0;
  for (std::size_t i = 0; i < n; ++i)
    pages += static_cast<std::size_t>(pages_for(token_ptr[i + 1] - token_ptr[i]));
  if (pages > static_cast<std::size_t>(std::numeric_limits<int>::max()))
    throw std::length_error("Too many tokens.");

  // Everything that can fail comes first.
  const auto room = [](auto& column, std::size_t more) {
    if (column.capacity() < column.size() + more)
      column.reserve(std::max(column.size() + more, 2 * column.size()));
  };
  room(parent_, n), room(references_, n), room(path_tokens_, n), room(token_ptr_, n), room(freed_, n);
  room(page_begin_, n), room(tile_begin_, n), room(page_table_, pages), room(segment_, segment.size());
  room(tile_class_, segment.size() / kTileTokens + n);
  const std::size_t old = page_table_.size();
  pool_->take(static_cast<int>(pages), page_table_);

  const Pack pack = pool_->type() == KVType::kFloat32 ? packer<float>(k.type, v.type)
                                                      : packer<std::uint16_t>(k.type, v.type);
  const std::int32_t first = size();
  std::size_t page = old;
  for (std::size_t i = 0; i < n; ++i) {
    const std::int64_t begin = token_ptr[i], end = token_ptr[i + 1];
    const auto count = static_cast<std::size_t>(pages_for(end - begin));
    pack(*pool_, {page_table_.data() + page, count}, k, v, begin, end);
    page_begin_.push_back(page);
    page += count;
    add_node(parent[i],
             segment.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin)));
  }
  return first;
}

void PagedTree::add_node(std::int32_t parent, std::span<const std::uint8_t> segment) {
  parent_.push_back(parent);
  references_.push_back(1);
  freed_.push_back(0);
  if (parent >= 0) ++references_[index(parent)];
  segment_.insert(segment_.end(), segment.begin(), segment.end());
  token_ptr_.push_back(static_cast<std::int64_t>(segment_.size()));
  const auto n = static_cast<std::int64_t>(segment.size());
  path_tokens_.push_back(n + (parent >= 0 ? path_tokens_[index(parent)] : 0));
  tile_begin_.push_back(tile_class_.size());
  for (std::size_t t = 0; t < segment.size(); t += kTileTokens) {
    const auto tile = segment.subspan(t, std::min<std::size_t>(kTileTokens, segment.size() - t));
    const bool uniform = std::all_of(tile.begin(), tile.end(), [&](std::uint8_t s) { return s == tile[0]; });
    tile_class_.push_back(uniform ? tile[0] : kMixed);
  }
}

void PagedTree::check_nodes(const char* argument, std::span<const std::int32_t> nodes) const {
  if (closed_) throw std::logic_error("The tree is closed.");
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    if (nodes[i] >= 0 && nodes[i] < size() && !freed(nodes[i])) continue;
    const std::string where =
        std::string(argument) + "[" + text(static_cast<std::int64_t>(i)) + "] = " + text(nodes[i]);
    if (nodes[i] < 0 || nodes[i] >= size()) {
      throw std::out_of_range("`" + std::string(argument) + "` must hold nodes of the tree, 0.." +
                              text(size() - 1) + "; got " + where + ".");
    }
    if (freed(nodes[i])) {
      throw std::logic_error("`" + std::string(argument) + "` must hold living nodes; " + where +
                             " was freed.");
    }
  }
}

void PagedTree::free(std::int32_t node) {
  check_nodes("node", {&node, 1});
  freed_[index(node)] = 1;
  release(node);
}

void PagedTree::release(std::int32_t node) noexcept {
  while (node >= 0 && --references_[index(node)] == 0) {
    const auto count = static_cast<std::size_t>(pages_for(n_tokens(node)));
    pool_->give_back({pages(node), count});
    node = parent_[index(node)];
  }
}

void PagedTree::close() {
  if (closed_) return;
  closed_ = true;
  for (std::int32_t node = size() - 1; node >= 0; --node) {
    if (!freed(node)) {
      freed_[index(node)] = 1;
      release(node);
    }
  }
}

}  // namespace svip
