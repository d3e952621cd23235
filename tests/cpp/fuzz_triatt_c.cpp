// Random sequences of calls of the C interface, right and wrong ones, against a simple model.
//
// Bytes choose the calls and their arguments.  The model knows which handles are open, which nodes live and
// how many pages are in use, and so which defects a call has: without one the call must succeed, else fail
// with the status of one of them, write nothing and leave everything as it was.  Arrays have exactly the size
// they must have, so that the address sanitizer sees what is read or written beyond them.
//
//     libFuzzer:    clang++ -DSVIP_LIBFUZZER -fsanitize=fuzzer,address,undefined ...
//     by itself:    fuzz_triatt_c [--seed N] [--seconds N] [--last FILE] [FILE ...]
//
// By itself it runs the files given, or random inputs for so long; FILE holds the input under way, so that
// one that crashes can be run again.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "svip/triatt.h"
#include "svip/triatt_c.h"

namespace {

using Floats = std::vector<float>;

constexpr int kDimensions = 3, kMostCalls = 60, kMostHandles = 40;
constexpr std::int64_t kMostTokens = 1500;         // of a tree
constexpr std::uint32_t kUntouched = 0x7fc0deadU;  // a NaN that no arithmetic makes

#define REQUIRE(condition)                                                                                   \
  do {                                                                                                       \
    if (!(condition)) {                                                                                      \
      std::printf("%s:%d: failed: %s; last error: %s\n", __FILE__, __LINE__, #condition, svip_last_error()); \
      std::fflush(stdout);                                                                                   \
      std::abort();                                                                                          \
    }                                                                                                        \
  } while (false)

// The input, read from the front; zeros when it has run out.
class Bytes {
 public:
  Bytes(const std::uint8_t* data, std::size_t size) : data_(data), left_(size) {}
  bool empty() const { return left_ == 0; }
  int next() {
    if (left_ == 0) return 0;
    --left_;
    return *data_++;
  }
  int below(int n) { return next() % n; }
  bool one_in(int n) { return next() % n == n - 1; }  // never when the input has run out
  template <class T>
  T among(std::initializer_list<T> values) {
    return values.begin()[below(static_cast<int>(values.size()))];
  }

 private:
  const std::uint8_t* data_;
  std::size_t left_;
};

// Everything that is wrong with a call.
class Defects {
 public:
  void add(bool is_one, svip_status status) {
    if (is_one) statuses_.push_back(status);
  }
  void add(svip_status status) { add(status != SVIP_OK, status); }
  bool allow(svip_status status) const {
    if (statuses_.empty()) return status == SVIP_OK;
    return std::find(statuses_.begin(), statuses_.end(), status) != statuses_.end();
  }

 private:
  std::vector<svip_status> statuses_;
};

struct Pool {
  int width, heads;
  std::int64_t pages;  // negative: without a limit
  bool open = true;
};

struct Tree {
  std::size_t pool;
  std::vector<std::int32_t> parent;
  std::vector<std::int64_t> tokens;
  std::vector<bool> freed;
  bool open = true;

  int size() const { return static_cast<int>(parent.size()); }
  bool has(std::int32_t node) const { return node >= 0 && node < size(); }
  bool is_freed(std::int32_t node) const { return freed[static_cast<std::size_t>(node)]; }
  std::int64_t path_tokens(std::int32_t node) const {
    std::int64_t sum = 0;
    for (; node >= 0; node = parent[static_cast<std::size_t>(node)])
      sum += tokens[static_cast<std::size_t>(node)];
    return sum;
  }
  std::int64_t all_tokens() const {
    std::int64_t sum = 0;
    for (const std::int64_t n : tokens) sum += n;
    return sum;
  }
  // Pages of the nodes that live, or some descendant of which does.
  std::int64_t pages() const {
    std::vector<bool> needed(parent.size());
    std::int64_t sum = 0;
    for (std::size_t i = parent.size(); i-- > 0;) {
      if (!freed[i]) needed[i] = true;
      if (!needed[i]) continue;
      sum += (tokens[i] + 15) / 16;
      if (parent[i] >= 0) needed[static_cast<std::size_t>(parent[i])] = true;
    }
    return sum;
  }
};

struct Head {
  int width;
};

enum class Kind { kPool, kTree, kHead };

struct Entry {
  Kind kind;
  std::size_t index;
  bool open = true;
};

// Scores and the rest that a call may write.
struct Out {
  Floats scores, att, m, l, o;
  bool with_att, with_state;

  Out(Bytes& bytes, std::size_t rows, int width)
      : scores(untouched(rows * kDimensions)), with_att(!bytes.one_in(3)), with_state(!bytes.one_in(3)) {
    if (with_att) att = untouched(rows * kDimensions * static_cast<std::size_t>(width));
    if (!with_state) return;
    m = l = scores;
    o = untouched(rows * kDimensions * static_cast<std::size_t>(width));
  }
  static Floats untouched(std::size_t n) {
    float value;
    std::memcpy(&value, &kUntouched, sizeof value);
    return Floats(n, value);
  }
  float* att_or_null() { return with_att ? att.data() : nullptr; }
  std::vector<float*> state() { return {m.data(), l.data(), o.data()}; }

  // Whether all was written, or nothing at all.
  void check(bool written) const {
    for (const Floats* const values : {&scores, &att, &m, &l, &o}) {
      for (const float value : *values) {
        std::uint32_t bits;
        std::memcpy(&bits, &value, sizeof bits);
        REQUIRE((bits != kUntouched) == written);
      }
    }
    for (const float score : scores) REQUIRE(!written || score != score || (score >= 0 && score <= 1));
  }
};

class Session {
 public:
  explicit Session(Bytes bytes) : bytes_(bytes), wild_(bytes_.one_in(4)) {
    const auto tiers = svip::simd_tiers();
    const auto tier = static_cast<std::size_t>(bytes_.below(static_cast<int>(tiers.size())));
    setenv("SVIP_SIMD", tiers[tier].c_str(), 1);
    REQUIRE(svip_simd_tier() == tiers[tier]);
    random_.seed(static_cast<unsigned>(bytes_.next()));
  }

  void run() {
    for (int call = 0; call < kMostCalls && !bytes_.empty(); ++call) {
      switch (entries_.size() < 3 ? static_cast<int>(entries_.size()) : bytes_.below(16)) {
        case 0:
          create_pool();
          break;
        case 1:
          create_tree();
          break;
        case 2:
          create_head();
          break;
        case 3:
          close(any_handle());
          break;
        case 4:
        case 5:
          free_node();
          break;
        case 6:
        case 7:
        case 8:
          score();
          break;
        case 9:
        case 10:
          scan();
          break;
        default:
          extend();
      }
    }
    for (const auto& [handle, entry] : std::map(entries_)) {
      if (entry.open) close(handle);
    }
  }

 private:
  // ---- Handles ----

  // Any number that is or was a handle, or never will be.
  svip_handle any_handle() {
    if (entries_.empty() || bytes_.one_in(8)) return bytes_.one_in(2) ? UINT64_MAX : 0;
    auto entry = entries_.begin();
    std::advance(entry, bytes_.below(static_cast<int>(entries_.size())));
    return entry->first;
  }

  // Mostly an open one of the kind.
  svip_handle handle_of(Kind kind) {
    std::vector<svip_handle> fitting;
    for (const auto& [handle, entry] : entries_) {
      if (entry.kind == kind && entry.open) fitting.push_back(handle);
    }
    if (fitting.empty() || bytes_.one_in(24)) return any_handle();
    return fitting[static_cast<std::size_t>(bytes_.below(static_cast<int>(fitting.size())))];
  }

  svip_status defect(svip_handle handle, Kind kind) const {
    const auto found = entries_.find(handle);
    if (found == entries_.end() || !found->second.open) return SVIP_CLOSED;
    return found->second.kind == kind ? SVIP_OK : SVIP_INVALID;
  }

  template <class T>
  T* find(std::vector<T>& all, svip_handle handle, Kind kind, Defects& defects) {
    defects.add(defect(handle, kind));
    return defect(handle, kind) == SVIP_OK ? &all[entries_.at(handle).index] : nullptr;
  }

  void remember(svip_status status, svip_handle handle, Kind kind, std::size_t index) {
    if (status != SVIP_OK) {
      REQUIRE(handle == 0);
      return;
    }
    REQUIRE(entries_.empty() || handle > entries_.rbegin()->first);  // never used before
    entries_[handle] = {kind, index};
  }

  static void check(svip_status status, const Defects& defects) {
    REQUIRE(defects.allow(status));
    REQUIRE(status == SVIP_OK || *svip_last_error() != '\0');
  }

  // ---- Arguments ----

  // Numbers of an array, some of them odd in a wild session.
  Floats numbers(std::size_t n) {
    Floats values(n);
    for (float& x : values) x = static_cast<float>(random_()) / 2147483648.0F - 1.0F;
    for (int i = wild_ && n > 0 ? bytes_.below(3) : 0; i > 0; --i) {
      constexpr float kInfinity = std::numeric_limits<float>::infinity();
      values[random_() % n] = bytes_.among({kInfinity, -kInfinity, 0.0F * kInfinity, 3e38F, -3e38F, 1e-45F});
    }
    return values;
  }

  // Null, once in a while, and then a defect.
  template <class T>
  T* or_null(T* pointer, Defects& defects) {
    if (!bytes_.one_in(64)) return pointer;
    defects.add(SVIP_INVALID);
    return nullptr;
  }

  std::int32_t threads() {
    return bytes_.one_in(32) ? bytes_.among({-1, INT32_MAX, INT32_MIN}) : bytes_.below(4);
  }

  svip_type some_type(bool half, Defects& defects) {
    if (!bytes_.one_in(64)) return half ? SVIP_BFLOAT16 : SVIP_FLOAT32;
    defects.add(SVIP_INVALID);
    return bytes_.among({2, -1, INT32_MIN, INT32_MAX});
  }

  int width() {
    if (bytes_.one_in(16)) return bytes_.among({0, -1, 256, 257, INT32_MAX, INT32_MIN});
    return bytes_.among({1, 7, 16, 20, 33, 64});
  }

  // ---- Calls ----

  void create_pool() {
    if (entries_.size() >= kMostHandles) return;
    Defects defects;
    const int width = this->width(),
              heads = bytes_.one_in(16) ? bytes_.among({0, 2, -1, 4}) : bytes_.among({1, 3});
    const svip_type type = some_type(bytes_.one_in(2), defects);
    const std::int64_t capacity =
        bytes_.one_in(3) ? bytes_.next() * 4 : bytes_.among({std::int64_t{-1}, INT64_MAX, INT64_MIN});
    defects.add(width < 1 || width > svip::kMaxWidth || (heads != 1 && heads != 3), SVIP_INVALID);
    svip_handle handle = 0;
    const svip_status status = svip_pool_create(width, heads, type, capacity, or_null(&handle, defects));
    check(status, defects);
    remember(status, handle, Kind::kPool, pools_.size());
    if (status == SVIP_OK)
      pools_.push_back({width, heads, capacity < 0 ? -1 : capacity / 16 + (capacity % 16 != 0)});
  }

  void create_tree() {
    if (entries_.size() >= kMostHandles) return;
    Defects defects;
    const svip_handle in = handle_of(Kind::kPool);
    static_cast<void>(find(pools_, in, Kind::kPool, defects));
    svip_handle handle = 0;
    const svip_status status = svip_tree_create(in, or_null(&handle, defects));
    check(status, defects);
    remember(status, handle, Kind::kTree, trees_.size());
    if (status == SVIP_OK) trees_.push_back({entries_.at(in).index, {}, {}, {}});
  }

  void create_head() {
    if (entries_.size() >= kMostHandles) return;
    Defects defects;
    const int width = !pools_.empty() && !bytes_.one_in(8) ? pools_.back().width : this->width();
    const int hidden =
        bytes_.one_in(24) ? bytes_.among({-1, 65537, INT32_MAX, INT32_MIN}) : bytes_.below(3) * 9;
    const bool bad = width < 1 || width > svip::kMaxWidth || hidden < 0 || hidden > 65536;
    defects.add(bad, SVIP_INVALID);
    const auto rows = static_cast<std::size_t>(bad ? 1 : width),
               units = static_cast<std::size_t>(bad ? 1 : hidden);
    const Floats u = numbers(kDimensions * (hidden == 0 ? rows : units)), b = numbers(kDimensions);
    const Floats w = numbers(kDimensions * units * rows), c = numbers(kDimensions * units),
                 bias = numbers(12);
    const float* const given_w = hidden == 0 ? nullptr : or_null(w.data(), defects);
    const float* const given_c = hidden == 0 ? nullptr : or_null(c.data(), defects);
    svip_handle handle = 0;
    const svip_status status =
        svip_head_create(width, hidden, or_null(u.data(), defects), or_null(b.data(), defects), given_w,
                         given_c, bytes_.one_in(3) ? nullptr : bias.data(), or_null(&handle, defects));
    check(status, defects);
    remember(status, handle, Kind::kHead, heads_.size());
    if (status == SVIP_OK) heads_.push_back({width});
  }

  std::int32_t some_parent(const Tree* tree, std::int32_t own, Defects& defects) {
    std::int32_t parent = bytes_.below(own + 1) - 1;
    if (bytes_.one_in(48)) parent = bytes_.among({-2, own, own + 1, INT32_MAX, INT32_MIN});
    defects.add(parent < -1 || parent >= own, SVIP_RANGE);
    defects.add(tree != nullptr && tree->has(parent) && tree->is_freed(parent), SVIP_CLOSED);
    return parent;
  }

  // Nodes that a tree shall get.
  struct Addition {
    std::vector<std::int32_t> parent;
    std::vector<std::int64_t> token_ptr{0}, tokens;
    std::vector<std::uint8_t> segment;
    std::int64_t pages = 0;
  };

  Addition some_nodes(const Tree* tree, Defects& defects) {
    Addition add;
    const int n = bytes_.below(5);
    for (int i = 0; i < n; ++i) {
      add.parent.push_back(some_parent(tree, (tree == nullptr ? 0 : tree->size()) + i, defects));
      add.tokens.push_back(bytes_.one_in(5) ? bytes_.next() : bytes_.below(20));
      add.token_ptr.push_back(add.token_ptr.back() + add.tokens.back());
      add.pages += (add.tokens.back() + 15) / 16;
    }
    add.segment.resize(static_cast<std::size_t>(add.token_ptr.back()));
    const unsigned classes = bytes_.one_in(2) ? 3 : 1;
    for (std::uint8_t& s : add.segment) s = static_cast<std::uint8_t>(random_() % classes);
    if (!add.segment.empty() && bytes_.one_in(48)) {
      add.segment[random_() % add.segment.size()] = bytes_.among<std::uint8_t>({3, 255});
      defects.add(SVIP_INVALID);
    }
    if (bytes_.one_in(48)) {
      add.token_ptr[static_cast<std::size_t>(bytes_.below(n + 1))] =
          bytes_.among<std::int64_t>({-1, INT64_MIN});
      defects.add(SVIP_INVALID);
    }
    add.parent.shrink_to_fit(), add.token_ptr.shrink_to_fit();
    if (add.parent.empty()) add.parent.reserve(1);  // so that it is not null
    return add;
  }

  // Numbers as they are stored: float32, or its upper half.
  std::vector<std::uint8_t> stored(std::size_t n, bool half) {
    const std::size_t size = half ? 2 : 4;
    const Floats values = numbers(n);
    std::vector<std::uint8_t> bytes(n * size);
    for (std::size_t i = 0; i < n; ++i) {
      std::uint32_t bits;
      std::memcpy(&bits, &values[i], sizeof bits);
      const auto upper = static_cast<std::uint16_t>(bits >> 16);
      std::memcpy(&bytes[i * size], half ? static_cast<const void*>(&upper) : &bits, size);
    }
    return bytes;
  }

  void extend() {
    Defects defects;
    const svip_handle handle = handle_of(Kind::kTree);
    Tree* const tree = find(trees_, handle, Kind::kTree, defects);
    if (tree != nullptr && tree->all_tokens() > kMostTokens) return;
    const Pool pool = tree == nullptr ? Pool{1, 1, -1} : pools_[tree->pool];
    defects.add(!pool.open, SVIP_CLOSED);
    const Addition add = some_nodes(tree, defects);
    const bool limited = tree != nullptr && pool.open && pool.pages >= 0;
    defects.add(limited && pages_in_use(tree->pool) + add.pages > pool.pages, SVIP_FULL);
    const bool half = bytes_.one_in(3);
    const std::size_t size = add.segment.size() * static_cast<std::size_t>(pool.heads * pool.width);
    const auto keys = stored(size, half), values = stored(size, half);
    const std::uint8_t *segment = add.segment.data(), *k = keys.data(), *v = values.data();
    if (size > 0) segment = or_null(segment, defects), k = or_null(k, defects), v = or_null(v, defects);
    auto n = static_cast<std::int64_t>(add.parent.size());
    if (bytes_.one_in(64)) {
      n = bytes_.among<std::int64_t>({-1, INT64_MIN, INT64_MAX});
      defects.add(SVIP_INVALID);
    }
    std::int32_t first = -5;
    const svip_status status = svip_tree_extend(handle, n, or_null(add.parent.data(), defects),
                                                or_null(add.token_ptr.data(), defects), segment, k, v,
                                                some_type(half, defects), or_null(&first, defects));
    check(status, defects);
    REQUIRE(status == SVIP_OK ? first == tree->size() : first == -5);
    if (status == SVIP_OK) {
      tree->parent.insert(tree->parent.end(), add.parent.begin(), add.parent.end());
      tree->tokens.insert(tree->tokens.end(), add.tokens.begin(), add.tokens.end());
      tree->freed.resize(tree->parent.size(), false);
    }
    check_size(handle, tree);
  }

  std::int64_t pages_in_use(std::size_t pool) const {
    std::int64_t sum = 0;
    for (const Tree& tree : trees_) {
      if (tree.pool == pool && tree.open) sum += tree.pages();
    }
    return sum;
  }

  static void check_size(svip_handle handle, const Tree* tree) {
    std::int32_t size = -1;
    if (tree != nullptr) REQUIRE(svip_tree_size(handle, &size) == SVIP_OK && size == tree->size());
  }

  // Mostly a node of the tree.
  std::int32_t some_node(const Tree* tree, Defects& defects) {
    const int size = tree == nullptr ? 0 : tree->size();
    std::int32_t node = size > 0 ? (bytes_.next() * 256 + bytes_.next()) % size : 0;
    if (bytes_.one_in(64)) node = bytes_.among({-1, size, INT32_MAX, INT32_MIN});
    defects.add(node < 0 || node >= size, SVIP_RANGE);
    defects.add(tree != nullptr && tree->has(node) && tree->is_freed(node), SVIP_CLOSED);
    return node;
  }

  void free_node() {
    Defects defects;
    const svip_handle handle = handle_of(Kind::kTree);
    Tree* const tree = find(trees_, handle, Kind::kTree, defects);
    const std::int32_t node = some_node(tree, defects);
    const svip_status status = svip_tree_free(handle, node);
    check(status, defects);
    if (status == SVIP_OK) tree->freed[static_cast<std::size_t>(node)] = true;
    check_size(handle, tree);
  }

  // A living node, if there is one and the bytes do not want otherwise.
  std::int32_t node_to_score(const Tree* tree, Defects& defects) {
    Defects mine;
    std::int32_t node = some_node(tree, mine);
    for (int tries = 0; tree != nullptr && tree->has(node) && tree->is_freed(node) && tries < tree->size();
         ++tries) {
      if (bytes_.one_in(64)) break;
      node = (node + 1) % tree->size();
    }
    const bool has = tree != nullptr && tree->has(node);
    defects.add(!has, SVIP_RANGE);
    defects.add(has && tree->is_freed(node), SVIP_CLOSED);
    defects.add(has && tree->path_tokens(node) == 0, SVIP_INVALID);
    return node;
  }

  // The tree and head of a call, and whatever is wrong with the two of them.
  std::pair<Tree*, Head*> operands(svip_handle tree_handle, svip_handle head_handle, Defects& defects) {
    Tree* const tree = find(trees_, tree_handle, Kind::kTree, defects);
    Head* const head = find(heads_, head_handle, Kind::kHead, defects);
    if (tree != nullptr) defects.add(!pools_[tree->pool].open, SVIP_CLOSED);
    if (tree != nullptr && head != nullptr)
      defects.add(pools_[tree->pool].width != head->width, SVIP_INVALID);
    return {tree, head};
  }

  void score() {
    Defects defects;
    const svip_handle tree_handle = handle_of(Kind::kTree), head_handle = handle_of(Kind::kHead);
    const auto [tree, head] = operands(tree_handle, head_handle, defects);
    const int width = head == nullptr ? 1 : head->width;
    const int rows = bytes_.one_in(8) ? bytes_.below(120) : bytes_.below(12);
    std::vector<std::int32_t> frontier;
    for (int i = 0; i < rows; ++i) frontier.push_back(node_to_score(tree, defects));
    frontier.shrink_to_fit();
    const bool constant = bytes_.one_in(3);
    const auto q = numbers(static_cast<std::size_t>((constant ? 1 : rows) * kDimensions * width));
    std::int64_t m = rows;
    if (bytes_.one_in(64)) {
      m = bytes_.among<std::int64_t>({-1, INT64_MIN, INT64_MAX});
      defects.add(SVIP_INVALID);
    }
    Out out(bytes_, static_cast<std::size_t>(rows), width);
    std::vector<float*> state = out.state();
    const std::int32_t* nodes = frontier.data();
    const float* queries = q.data();
    float* scores = out.scores.data();
    if (rows > 0) {
      nodes = or_null(nodes, defects), queries = or_null(queries, defects), scores = or_null(scores, defects);
      if (out.with_state) state[1] = or_null(state[1], defects);
    }
    const svip_status status =
        svip_triatt(tree_handle, head_handle, m, nodes, queries, constant, scores, out.att_or_null(),
                    out.with_state ? state.data() : nullptr, threads());
    check(status, defects);
    out.check(status == SVIP_OK);
    if (status == SVIP_OK && rows > 0) score_again(tree_handle, head_handle, frontier, q, constant, out);
  }

  // One node of the frontier alone, on one thread: the same bits.
  void score_again(svip_handle tree, svip_handle head, const std::vector<std::int32_t>& frontier,
                   const Floats& q, bool constant, const Out& all) {
    const auto i = static_cast<std::size_t>(bytes_.below(static_cast<int>(frontier.size())));
    const std::size_t row = q.size() / (constant ? 1 : frontier.size());
    float scores[kDimensions];
    REQUIRE(svip_triatt(tree, head, 1, &frontier[i], q.data() + (constant ? 0 : i * row), 0, scores, nullptr,
                        nullptr, 1) == SVIP_OK);
    for (std::size_t c = 0; c < kDimensions; ++c) {
      const float before = all.scores[i * kDimensions + c];
      REQUIRE(before == scores[c] || (before != before && scores[c] != scores[c]));
      REQUIRE(wild_ || before == before);
    }
  }

  void scan() {
    Defects defects;
    const svip_handle tree_handle = handle_of(Kind::kTree), head_handle = handle_of(Kind::kHead);
    const auto [tree, head] = operands(tree_handle, head_handle, defects);
    const int width = head == nullptr ? 1 : head->width, size = tree == nullptr ? 0 : tree->size();
    std::int32_t first = bytes_.one_in(2) ? bytes_.below(size + 1) : 0;
    std::int32_t last = first + bytes_.below(size - first + 1);
    if (bytes_.one_in(32)) first = bytes_.among({-1, last + 1, INT32_MIN, INT32_MAX});
    if (bytes_.one_in(32)) last = bytes_.among({-1, size + 1, INT32_MIN, INT32_MAX});
    const bool in_range = first >= 0 && first <= last && last <= size;
    defects.add(!in_range, SVIP_RANGE);
    const auto count = static_cast<std::size_t>(in_range ? last - first : 0);
    const bool with_base = !bytes_.one_in(4);
    for (std::int32_t node = first; in_range && node < last; ++node) {
      const std::int32_t parent = tree->parent[static_cast<std::size_t>(node)];
      defects.add(tree->is_freed(node), SVIP_CLOSED);
      defects.add((parent >= 0 && parent < first && !with_base) || tree->path_tokens(node) == 0,
                  SVIP_INVALID);
    }
    const auto earlier = static_cast<std::size_t>(in_range ? first : 0) * kDimensions;
    const Floats base_m = numbers(earlier), base_o = numbers(earlier * static_cast<std::size_t>(width));
    const Floats base_l(earlier, 1.0F), q = numbers(static_cast<std::size_t>(kDimensions * width));
    const float* const base[] = {base_m.data(), base_l.data(), base_o.data()};
    Out out(bytes_, count, width);
    std::vector<float*> state = out.state();
    const float* queries = q.data();
    float* scores = out.scores.data();
    if (count > 0) {
      queries = or_null(queries, defects), scores = or_null(scores, defects);
      if (out.with_state) state[2] = or_null(state[2], defects);
    }
    const svip_status status =
        svip_triatt_scan(tree_handle, head_handle, first, last, queries, with_base ? base : nullptr, scores,
                         out.att_or_null(), out.with_state ? state.data() : nullptr, threads());
    check(status, defects);
    out.check(status == SVIP_OK);
    for (const float score : out.scores) REQUIRE(status != SVIP_OK || wild_ || score == score);
  }

  void close(svip_handle handle) {
    const auto found = entries_.find(handle);
    const bool open = found != entries_.end() && found->second.open;
    REQUIRE(svip_close(handle) == (open ? SVIP_OK : SVIP_CLOSED));
    REQUIRE(svip_close(handle) == SVIP_CLOSED);
    if (!open) return;
    found->second.open = false;
    if (found->second.kind == Kind::kPool) pools_[found->second.index].open = false;
    if (found->second.kind == Kind::kTree) trees_[found->second.index].open = false;
  }

  Bytes bytes_;
  bool wild_;  // infinities, NaN and huge numbers
  std::minstd_rand random_;
  std::map<svip_handle, Entry> entries_;
  std::vector<Pool> pools_;
  std::vector<Tree> trees_;
  std::vector<Head> heads_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Session(Bytes(data, size)).run();
  return 0;
}

#ifndef SVIP_LIBFUZZER

namespace {

using Input = std::vector<std::uint8_t>;

void replay(const char* path) {
  std::ifstream file(path, std::ios::binary);
  const Input input{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  LLVMFuzzerTestOneInput(input.data(), input.size());
  std::printf("%s: passed\n", path);
}

void run_random(unsigned seed, double seconds, const std::string& last) {
  using Clock = std::chrono::steady_clock;
  std::mt19937 random(seed);
  long runs = 0;
  for (const auto start = Clock::now(); std::chrono::duration<double>(Clock::now() - start).count() < seconds;
       ++runs) {
    Input input(random() % 1200);
    for (std::uint8_t& byte : input) byte = static_cast<std::uint8_t>(random());
    if (!last.empty()) {
      std::ofstream(last, std::ios::binary)
          .write(reinterpret_cast<const char*>(input.data()), static_cast<std::streamsize>(input.size()));
    }
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  std::printf("seed %u: %ld inputs passed\n", seed, runs);
}

}  // namespace

int main(int argc, char** argv) {
  unsigned seed = std::random_device{}();
  double seconds = 10;
  std::string last;
  int files = 0;
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    if (option == "--seed" && i + 1 < argc) {
      seed = static_cast<unsigned>(std::strtoul(argv[++i], nullptr, 10));
    } else if (option == "--seconds" && i + 1 < argc) {
      seconds = std::strtod(argv[++i], nullptr);
    } else if (option == "--last" && i + 1 < argc) {
      last = argv[++i];
    } else {
      replay(argv[i]);
      ++files;
    }
  }
  if (files == 0) run_random(seed, seconds, last);
}

#endif
