// Keys and values of a tree of reasoning steps, in pages, and the work list of an attention over it.
//
// In words.  A pool hands out pages of 16 tokens; a node of a tree owns the pages of its own tokens and is
// read by all its descendants, so a token is stored once however many paths lead through it.  Trees only
// grow: a node never changes, and `free` gives its pages back as soon as no living descendant needs them.
//
// A page holds, for each K/V head, its keys transposed and then its values, so that one vector register takes
// the same component of 16 keys, or 16 components of one value, without any shuffling:
//
//     float32    keys [width][16]            values [16][width]
//     bfloat16   keys [width / 2][16][2]     values [8][width][2]
//
// (in bfloat16 two neighbours stand together, which is what dot-product instructions take, and what splits
// into two float32 vectors with a shift and a mask).  Widths are padded with zeros to a multiple of 16, and
// so are the tokens of a node's last page.
//
// The plan of a frontier sorts its nodes so that the members of every subtree are neighbours.  A node's
// tokens are then visible to one range of sorted rows, and no mask is ever stored:
//
//     needed  = the frontier and all its ancestors
//     count   = from the leaves up: own rows + rows of the children
//     begin   = from the roots down: each child gets the next rows of its parent
//
// Cost O(needed * log(needed)) whatever the depth and whatever else is in the tree.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <span>
#include <string>
#include <vector>

namespace svip {

enum class KVType : std::uint8_t { kFloat32, kBFloat16 };

inline constexpr int kPageTokens = 16;
inline constexpr int kTileTokens = 64;  // the tokens that share one maximum in the softmax
inline constexpr int kMaxWidth = 256;
inline constexpr std::uint8_t kQuestion = 0, kImage = 1, kStep = 2, kMixed = 255;

// Where keys or values [n_tokens][n_kv_heads][width] are read from; strides in elements, the last one is 1.
struct KVSource {
  const void* data = nullptr;
  KVType type = KVType::kFloat32;
  std::int64_t token_stride = 0;
  std::int64_t head_stride = 0;
};

class KVPool {
 public:
  // capacity: most tokens, rounded up to pages; negative for as many as fit in memory.
  KVPool(int width, int n_kv_heads, KVType type, std::int64_t capacity = -1);

  int width() const { return width_; }
  int padded_width() const { return padded_width_; }
  int n_kv_heads() const { return n_kv_heads_; }
  KVType type() const { return type_; }
  std::size_t head_bytes() const { return head_bytes_; }  // of one head in one page
  std::size_t page_bytes() const { return head_bytes_ * static_cast<std::size_t>(n_kv_heads_); }

  std::int64_t pages_in_use() const;
  std::int64_t bytes() const;  // taken from the system, in use or not
  bool closed() const;

  // Gives all memory back once calls that are under way have ended; every later use throws std::logic_error.
  void close();

  // Throws std::length_error, and takes nothing, if there are not n pages left.
  void take(int n, std::vector<std::byte*>& pages);
  void give_back(std::span<std::byte* const> pages) noexcept;

  // Keeps the memory alive for the duration of a call; throws std::logic_error after `close`.
  std::shared_ptr<const void> lease() const;

 private:
  struct Memory;
  void grow();

  int width_, padded_width_, n_kv_heads_;
  KVType type_;
  std::size_t head_bytes_;
  std::int64_t max_pages_;
  mutable std::mutex mutex_;
  std::shared_ptr<Memory> memory_;
};

class PagedTree {
 public:
  explicit PagedTree(std::shared_ptr<KVPool> pool);
  ~PagedTree();
  PagedTree(const PagedTree&) = delete;
  PagedTree& operator=(const PagedTree&) = delete;

  const std::shared_ptr<KVPool>& pool() const { return pool_; }
  std::int32_t size() const { return static_cast<std::int32_t>(parent_.size()); }

  // Adds nodes with consecutive indices and returns the first.  Node i has the tokens
  // token_ptr[i]:token_ptr[i + 1] of the sources and hangs under parent[i], -1 for a root; a parent stands
  // before its children. Throws std::invalid_argument, std::out_of_range (no such parent), std::logic_error
  // (freed or closed) or std::length_error (pool full), and then leaves the tree as it was.
  std::int32_t extend(std::span<const std::int32_t> parent, std::span<const std::int64_t> token_ptr,
                      std::span<const std::uint8_t> segment, const KVSource& k, const KVSource& v);

  // From now on the node must not be used; its pages go back when its last living descendant is freed.
  void free(std::int32_t node);
  // Frees everything and refuses further use.
  void close();
  bool closed() const { return closed_; }

  // Unchecked readers for the kernels, under `mutex` held shared.
  std::int32_t parent(std::int32_t node) const { return parent_[index(node)]; }
  std::span<const std::int32_t> parents() const { return parent_; }
  std::int32_t n_tokens(std::int32_t node) const {
    return static_cast<std::int32_t>(token_ptr_[index(node) + 1] - token_ptr_[index(node)]);
  }
  std::byte* const* pages(std::int32_t node) const { return page_table_.data() + page_begin_[index(node)]; }
  const std::uint8_t* segments(std::int32_t node) const { return segment_.data() + token_ptr_[index(node)]; }
  // Of each tile of a node: the class that all its tokens share, or kMixed.
  const std::uint8_t* tile_classes(std::int32_t node) const {
    return tile_class_.data() + tile_begin_[index(node)];
  }
  bool freed(std::int32_t node) const { return freed_[index(node)] != 0; }
  // Tokens on the path root -> node.
  std::int64_t path_tokens(std::int32_t node) const { return path_tokens_[index(node)]; }

  // Throws std::logic_error (closed or freed) or std::out_of_range naming `argument`.
  void check_nodes(const char* argument, std::span<const std::int32_t> nodes) const;

  mutable std::shared_mutex mutex;

 private:
  static std::size_t index(std::int32_t node) { return static_cast<std::size_t>(node); }
  void check_extend(std::span<const std::int32_t> parent, std::span<const std::int64_t> token_ptr,
                    std::span<const std::uint8_t> segment) const;
  void add_node(std::int32_t parent, std::span<const std::uint8_t> segment);
  void release(std::int32_t node) noexcept;

  std::shared_ptr<KVPool> pool_;
  bool closed_ = false;
  std::vector<std::int32_t> parent_, references_;
  std::vector<std::int64_t> token_ptr_{0}, path_tokens_;
  std::vector<std::size_t> page_begin_, tile_begin_;
  std::vector<std::byte*> page_table_;
  std::vector<std::uint8_t> segment_, tile_class_, freed_;
};

// Rows of a node in the sorted frontier: [begin, own) are its own, [own, end) those of its descendants.
struct PlanNode {
  std::int32_t node, begin, own, end;
};

// The work list of a frontier.  Reuse one object: after its first calls it allocates nothing.
class Plan {
 public:
  // `frontier` holds valid nodes, repeats allowed; a parent has a smaller index than its children.
  void sort(std::span<const std::int32_t> parent, std::span<const std::int32_t> frontier);
  // Cuts the sorted rows into blocks; block b needs nodes()[items()[i]] for i in item_ptr()[b]:item_ptr()[b +
  // 1].
  void cut(std::int32_t block);

  std::span<const std::int32_t> order() const { return order_; }  // row -> position in the frontier
  std::span<const PlanNode> nodes() const { return nodes_; }      // ancestors before descendants
  std::span<const std::int32_t> items() const { return items_; }
  std::span<const std::int32_t> item_ptr() const { return item_ptr_; }
  std::int32_t block() const { return block_; }
  std::int32_t n_blocks() const { return static_cast<std::int32_t>(item_ptr_.size()) - 1; }

 private:
  void collect(std::span<const std::int32_t> parent, std::span<const std::int32_t> frontier);

  std::vector<std::int32_t> order_, items_, item_ptr_, slot_, needed_, next_;
  std::vector<std::uint32_t> stamp_;
  std::uint32_t epoch_ = 0;
  std::vector<PlanNode> nodes_;
  std::int32_t block_ = 0;
};

}  // namespace svip
