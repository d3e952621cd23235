#include <array>
#include <cmath>
#include <functional>
#include <memory>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>

#include "svip/triatt.h"
#include "svip/triatt_c.h"
#include "triatt_testing.h"

namespace {

using testing::draw;
using testing::kNan;
using testing::normal;
using testing::random_frontier;
using testing::random_shape;
using testing::same_bits;
using testing::Shape;
using Nodes = std::vector<std::int32_t>;
using Floats = std::vector<float>;

constexpr int kWidth = 24, kHidden = 5;
constexpr svip_handle kNone = 12345;  // what a call that fails must leave in its handle

// Whether the call failed so, with a message that holds the text.
bool fails(svip_status found, svip_status expected, const char* text) {
  if (found == expected && std::strstr(svip_last_error(), text) != nullptr) return true;
  std::printf("  status %d, message: %s\n", static_cast<int>(found), svip_last_error());
  return false;
}

// A pool, a tree in it and a head, through the C interface.
struct Open {
  svip_handle pool = 0, tree = 0, head = 0;

  explicit Open(const Shape& shape, const Floats& rows, std::int64_t capacity = -1) {
    const Floats zeros(3 * kWidth, 0.0F);
    CHECK(svip_pool_create(kWidth, 3, SVIP_FLOAT32, capacity, &pool) == SVIP_OK);
    CHECK(svip_tree_create(pool, &tree) == SVIP_OK);
    CHECK(svip_head_create(kWidth, 0, rows.data(), zeros.data(), nullptr, nullptr, nullptr, &head) ==
          SVIP_OK);
    std::int32_t first = -1;
    CHECK(svip_tree_extend(tree, static_cast<std::int64_t>(shape.nodes()), shape.parent.data(),
                           shape.token_ptr.data(), shape.segment.data(), rows.data(), rows.data(),
                           SVIP_FLOAT32, &first) == SVIP_OK);
    CHECK(first == 0);
  }
  Open(const Open&) = delete;
  Open& operator=(const Open&) = delete;
  ~Open() {
    for (const svip_handle handle : {pool, tree, head}) svip_close(handle);  // closed already: no matter
  }
};

// Three nodes of 20 tokens each; node 2 under 1 under 0.
Shape chain() { return {{-1, 0, 1}, {0, 20, 40, 60}, std::vector<std::uint8_t>(60, svip::kStep)}; }

Floats chain_rows(std::mt19937& random) { return normal(random, 60 * 3 * kWidth); }

struct Results {
  Floats scores, att, m, l, o;
  explicit Results(std::size_t rows)
      : scores(rows * 3, kNan), att(rows * 3 * kWidth, kNan), m(scores), l(scores), o(att) {}
  std::array<float*, 3> state() { return {m.data(), l.data(), o.data()}; }
  svip::TriattOut out() { return {scores.data(), att.data(), m.data(), l.data(), o.data()}; }
  bool operator==(const Results& other) const {
    return same_bits(scores, other.scores) && same_bits(att, other.att) && same_bits(m, other.m) &&
           same_bits(l, other.l) && same_bits(o, other.o);
  }
};

// ---- Results ----

// Keys and values as float32 or bfloat16, in memory of their own.
template <class T>
void c_and_cpp_give_the_same_bits(std::mt19937& random, svip_type type, int heads) {
  const Shape shape = random_shape(random, 30, 50);
  std::vector<T> k(shape.tokens() * static_cast<std::size_t>(heads) * kWidth), v(k);
  for (std::vector<T>* const values : {&k, &v}) {
    for (T& x : *values) {
      // 0x3c00..0x3fff: bfloat16 between 0.0078 and 2.
      x = type == SVIP_FLOAT32 ? static_cast<T>(draw(random, -1000, 1000)) / 500
                               : static_cast<T>(draw(random, 0x3c00, 0x3fff));
    }
  }
  const Floats u = normal(random, 3 * kHidden), b = normal(random, 3), bias = normal(random, 12);
  const Floats w = normal(random, 3 * kHidden * kWidth), c = normal(random, 3 * kHidden);
  const Nodes frontier = random_frontier(random, shape.nodes(), 11);
  const Floats q = normal(random, 11 * 3 * kWidth);

  const svip::KVType kind = type == SVIP_FLOAT32 ? svip::KVType::kFloat32 : svip::KVType::kBFloat16;
  const auto cpp_pool = std::make_shared<svip::KVPool>(kWidth, heads, kind);
  svip::PagedTree cpp_tree(cpp_pool);
  cpp_tree.extend(shape.parent, shape.token_ptr, shape.segment, {k.data(), kind, heads * kWidth, kWidth},
                  {v.data(), kind, heads * kWidth, kWidth});
  const svip::TriattHead cpp_head(kWidth, kHidden, u.data(), b.data(), w.data(), c.data(), bias.data());
  svip::Triatt triatt;

  svip_handle pool, tree, head;
  std::int32_t first = -1, size = -1;
  CHECK(svip_pool_create(kWidth, heads, type, 100'000, &pool) == SVIP_OK);
  CHECK(svip_tree_create(pool, &tree) == SVIP_OK);
  CHECK(svip_head_create(kWidth, kHidden, u.data(), b.data(), w.data(), c.data(), bias.data(), &head) ==
        SVIP_OK);
  CHECK(svip_tree_extend(tree, 30, shape.parent.data(), shape.token_ptr.data(), shape.segment.data(),
                         k.data(), v.data(), type, &first) == SVIP_OK);
  CHECK(svip_tree_size(tree, &size) == SVIP_OK && first == 0 && size == 30);

  for (const bool constant : {false, true}) {
    Results expected(11), results(11);
    triatt.run(cpp_tree, frontier, {q.data(), constant}, cpp_head, expected.out());
    CHECK(svip_triatt(tree, head, 11, frontier.data(), q.data(), constant ? 7 : 0, results.scores.data(),
                      results.att.data(), results.state().data(), 0) == SVIP_OK);
    CHECK(results == expected);
    Floats scores(33, kNan);
    CHECK(svip_triatt(tree, head, 11, frontier.data(), q.data(), constant, scores.data(), nullptr, nullptr,
                      3) == SVIP_OK);
    CHECK(same_bits(scores, expected.scores));
  }
  Results expected(30), results(30);
  triatt.scan(cpp_tree, 0, 30, q.data(), cpp_head, {}, false, expected.out());
  CHECK(svip_triatt_scan(tree, head, 0, 20, q.data(), nullptr, results.scores.data(), results.att.data(),
                         results.state().data(), 0) == SVIP_OK);
  float* const rest[] = {&results.m[60], &results.l[60], &results.o[60 * kWidth]};
  CHECK(svip_triatt_scan(tree, head, 20, 30, q.data(), results.state().data(), &results.scores[60],
                         &results.att[60 * kWidth], rest, 2) == SVIP_OK);
  CHECK(results == expected);
  for (const svip_handle handle : {pool, tree, head}) CHECK(svip_close(handle) == SVIP_OK);
}

// ---- Refusals ----

void what_is_not_as_described_is_invalid(std::mt19937& random) {
  const Floats rows = chain_rows(random);
  const Open open(chain(), rows);
  svip_handle handle = kNone;
  const float* const x = rows.data();
  const svip_type bad = SVIP_BFLOAT16 + 1;
  const auto pool = [&](std::int32_t width, std::int32_t heads, svip_type type) {
    return svip_pool_create(width, heads, type, -1, &handle);
  };
  CHECK(fails(pool(0, 3, SVIP_FLOAT32), SVIP_INVALID, "`width`"));
  CHECK(fails(pool(INT32_MAX, 3, SVIP_FLOAT32), SVIP_INVALID, "`width`"));
  CHECK(fails(pool(INT32_MIN, 3, SVIP_FLOAT32), SVIP_INVALID, "`width`"));
  CHECK(fails(pool(8, 2, SVIP_FLOAT32), SVIP_INVALID, "`n_kv_heads`"));
  for (const svip_type type : {bad, -1, INT32_MAX, INT32_MIN}) {
    CHECK(fails(pool(8, 3, type), SVIP_INVALID, "`type`"));
  }
  CHECK(fails(svip_pool_create(8, 3, SVIP_FLOAT32, -1, nullptr), SVIP_INVALID, "`pool`"));
  CHECK(fails(svip_tree_create(open.pool, nullptr), SVIP_INVALID, "`tree`"));
  CHECK(fails(svip_head_create(8, 0, x, x, nullptr, nullptr, nullptr, nullptr), SVIP_INVALID, "`head`"));
  CHECK(fails(svip_head_create(300, 0, x, x, nullptr, nullptr, nullptr, &handle), SVIP_INVALID, "`width`"));
  CHECK(fails(svip_head_create(8, -1, x, x, nullptr, nullptr, nullptr, &handle), SVIP_INVALID, "`hidden`"));
  CHECK(fails(svip_head_create(8, 4, x, x, x, nullptr, nullptr, &handle), SVIP_INVALID, "`c`"));
  CHECK(fails(svip_head_create(8, 0, nullptr, x, nullptr, nullptr, nullptr, &handle), SVIP_INVALID, "`u`"));
  CHECK(fails(svip_head_create(8, 0, x, nullptr, nullptr, nullptr, nullptr, &handle), SVIP_INVALID, "`b`"));
  CHECK(handle == kNone);

  const std::int32_t parent = 0, beyond = 4;
  const std::int64_t token_ptr[] = {0, 1}, falling[] = {0, -1}, late[] = {1, 1};
  const std::uint8_t segment = svip::kStep, unknown = 3;
  std::int32_t first = -7;
  const auto extend = [&](std::int64_t n, const std::int32_t* parents, const std::int64_t* ends,
                          const std::uint8_t* segments, const void* k, const void* v, svip_type type) {
    return svip_tree_extend(open.tree, n, parents, ends, segments, k, v, type, &first);
  };
  constexpr svip_type kType = SVIP_FLOAT32;
  CHECK(fails(extend(-1, &parent, token_ptr, &segment, x, x, kType), SVIP_INVALID, "`n`"));
  CHECK(fails(extend(INT64_MAX, &parent, token_ptr, &segment, x, x, kType), SVIP_INVALID, "`n`"));
  CHECK(fails(extend(1, nullptr, token_ptr, &segment, x, x, kType), SVIP_INVALID, "`parent`"));
  CHECK(fails(extend(1, &parent, nullptr, &segment, x, x, kType), SVIP_INVALID, "`token_ptr`"));
  CHECK(fails(extend(1, &parent, falling, &segment, x, x, kType), SVIP_INVALID, "`token_ptr`"));
  CHECK(fails(extend(1, &parent, late, &segment, x, x, kType), SVIP_INVALID, "`token_ptr`"));
  CHECK(fails(extend(1, &parent, token_ptr, nullptr, x, x, kType), SVIP_INVALID, "`segment`"));
  CHECK(fails(extend(1, &parent, token_ptr, &unknown, x, x, kType), SVIP_INVALID, "`segment`"));
  CHECK(fails(extend(1, &parent, token_ptr, &segment, nullptr, x, kType), SVIP_INVALID, "`k`"));
  CHECK(fails(extend(1, &parent, token_ptr, &segment, x, nullptr, kType), SVIP_INVALID, "`v`"));
  CHECK(fails(extend(1, &parent, token_ptr, &segment, x, x, bad), SVIP_INVALID, "`type`"));
  CHECK(fails(extend(1, &beyond, token_ptr, &segment, x, x, kType), SVIP_RANGE, "`parent`"));
  CHECK(fails(svip_tree_extend(open.tree, 1, &parent, token_ptr, &segment, x, x, kType, nullptr),
              SVIP_INVALID, "`first`"));
  CHECK(fails(svip_tree_size(open.tree, nullptr), SVIP_INVALID, "`size`"));
  CHECK(svip_tree_size(open.tree, &first) == SVIP_OK && first == 3);
}

void bad_scores_are_refused_and_nothing_is_written(std::mt19937& random) {
  const Floats rows = chain_rows(random);
  const Open open(chain(), rows);
  const float* const q = rows.data();
  const Nodes frontier{0, 1, 2}, low{-1}, high{3};
  Results results(3);
  float* const scores = results.scores.data();
  float* const half[] = {results.m.data(), nullptr, results.o.data()};
  const auto score = [&](std::int64_t m, const std::int32_t* nodes, const float* queries, float* to,
                         float* const* state) {
    return svip_triatt(open.tree, open.head, m, nodes, queries, 0, to, results.att.data(), state, 0);
  };
  CHECK(fails(score(-1, frontier.data(), q, scores, nullptr), SVIP_INVALID, "`m`"));
  CHECK(fails(score(INT64_MAX, frontier.data(), q, scores, nullptr), SVIP_INVALID, "`m`"));
  CHECK(fails(score(3, nullptr, q, scores, nullptr), SVIP_INVALID, "`frontier`"));
  CHECK(fails(score(3, frontier.data(), nullptr, scores, nullptr), SVIP_INVALID, "`q`"));
  CHECK(fails(score(3, frontier.data(), q, nullptr, nullptr), SVIP_INVALID, "`scores`"));
  CHECK(fails(score(3, frontier.data(), q, scores, half), SVIP_INVALID, "`l`"));
  CHECK(fails(score(1, low.data(), q, scores, nullptr), SVIP_RANGE, "frontier[0] = -1"));
  CHECK(fails(score(1, high.data(), q, scores, nullptr), SVIP_RANGE, "frontier[0] = 3"));
  CHECK(score(0, nullptr, nullptr, nullptr, nullptr) == SVIP_OK);
  const auto scan = [&](std::int32_t first, std::int32_t last, const float* query, float* to,
                        const float* const* base, float* const* state) {
    return svip_triatt_scan(open.tree, open.head, first, last, query, base, to, nullptr, state, 0);
  };
  CHECK(fails(scan(-1, 1, q, scores, nullptr, nullptr), SVIP_RANGE, "`first`"));
  CHECK(fails(scan(2, 1, q, scores, nullptr, nullptr), SVIP_RANGE, "`last`"));
  CHECK(fails(scan(0, 4, q, scores, nullptr, nullptr), SVIP_RANGE, "`last`"));
  CHECK(fails(scan(0, 3, nullptr, scores, nullptr, nullptr), SVIP_INVALID, "`q`"));
  CHECK(fails(scan(0, 3, q, nullptr, nullptr, nullptr), SVIP_INVALID, "`scores`"));
  CHECK(fails(scan(0, 3, q, scores, nullptr, half), SVIP_INVALID, "`l`"));
  CHECK(fails(scan(1, 3, q, scores, nullptr, nullptr), SVIP_INVALID, "`state`"));
  CHECK(fails(scan(1, 3, q, scores, half, nullptr), SVIP_INVALID, "`state`"));
  CHECK(scan(3, 3, nullptr, nullptr, nullptr, nullptr) == SVIP_OK);
  CHECK(results == Results(3));

  svip_handle narrow = 0;
  CHECK(svip_head_create(8, 0, q, q, nullptr, nullptr, nullptr, &narrow) == SVIP_OK);
  CHECK(fails(svip_triatt(open.tree, narrow, 3, frontier.data(), q, 0, scores, nullptr, nullptr, 0),
              SVIP_INVALID, "`head`"));
  CHECK(fails(svip_triatt_scan(open.tree, narrow, 0, 3, q, nullptr, scores, nullptr, nullptr, 0),
              SVIP_INVALID, "`head`"));
  CHECK(svip_close(narrow) == SVIP_OK);
  for (const std::int32_t threads : {INT32_MIN, -1, 1025, INT32_MAX}) {  // odd, but an answer exists
    CHECK(svip_triatt(open.tree, open.head, 3, frontier.data(), q, 0, scores, nullptr, nullptr, threads) ==
          SVIP_OK);
    CHECK(svip_triatt_scan(open.tree, open.head, 0, 3, q, nullptr, scores, nullptr, nullptr, threads) ==
          SVIP_OK);
  }
}

void an_unknown_simd_tier_is_an_error() {
  CHECK(svip_simd_tier() != nullptr && svip_simd_tier() == svip::simd_tier_name());
  setenv("SVIP_SIMD", std::string(2000, 'x').c_str(), 1);
  CHECK(svip_simd_tier() == nullptr);
  CHECK(std::strstr(svip_last_error(), "`SVIP_SIMD`") != nullptr);
  CHECK(std::strlen(svip_last_error()) < 512);  // cut, not overflown
  unsetenv("SVIP_SIMD");
}

// ---- Handles ----

using Call = std::function<svip_status(svip_handle)>;

// Calls that take a handle of a kind, with otherwise good arguments that do no harm.
std::vector<Call> calls_with_a_tree(const Open& open, Results& results, const Floats& rows) {
  static const std::int32_t parent = -1;
  static const std::int64_t none[] = {0, 0};
  static std::int32_t number;
  return {
      [](svip_handle tree) {
        return svip_tree_extend(tree, 1, &parent, none, nullptr, nullptr, nullptr, SVIP_FLOAT32, &number);
      },
      [](svip_handle tree) { return svip_tree_free(tree, 0); },
      [](svip_handle tree) { return svip_tree_size(tree, &number); },
      [&](svip_handle tree) {
        return svip_triatt(tree, open.head, 0, nullptr, nullptr, 0, nullptr, nullptr, nullptr, 0);
      },
      [&](svip_handle tree) {
        return svip_triatt_scan(tree, open.head, 0, 1, rows.data(), nullptr, results.scores.data(), nullptr,
                                nullptr, 0);
      },
  };
}

std::vector<Call> calls_with_a_head(const Open& open, Results& results, const Floats& rows) {
  return {
      [&](svip_handle head) {
        return svip_triatt(open.tree, head, 0, nullptr, nullptr, 0, nullptr, nullptr, nullptr, 0);
      },
      [&](svip_handle head) {
        return svip_triatt_scan(open.tree, head, 0, 1, rows.data(), nullptr, results.scores.data(), nullptr,
                                nullptr, 0);
      },
  };
}

void stale_and_mixed_handles_are_errors(std::mt19937& random) {
  const Floats rows = chain_rows(random);
  const Open open(chain(), rows), gone(chain(), rows);
  Results results(1);
  svip_handle handle = kNone;
  for (const svip_handle one : {gone.pool, gone.tree, gone.head}) {
    CHECK(svip_close(one) == SVIP_OK);
    CHECK(fails(svip_close(one), SVIP_CLOSED, "`handle`"));
  }
  for (const svip_handle stale : {svip_handle{0}, gone.pool, gone.tree, gone.head, svip_handle{UINT64_MAX}}) {
    CHECK(fails(svip_tree_create(stale, &handle), SVIP_CLOSED, "`pool`"));
    for (const Call& call : calls_with_a_tree(open, results, rows)) {
      CHECK(fails(call(stale), SVIP_CLOSED, "`tree`"));
    }
    for (const Call& call : calls_with_a_head(open, results, rows)) {
      CHECK(fails(call(stale), SVIP_CLOSED, "`head`"));
    }
  }
  CHECK(fails(svip_close(0), SVIP_CLOSED, "`handle`"));
  for (const svip_handle other : {open.tree, open.head}) {
    CHECK(fails(svip_tree_create(other, &handle), SVIP_INVALID, "`pool`"));
  }
  for (const svip_handle other : {open.pool, open.head}) {
    for (const Call& call : calls_with_a_tree(open, results, rows)) {
      CHECK(fails(call(other), SVIP_INVALID, "`tree`"));
    }
  }
  for (const svip_handle other : {open.pool, open.tree}) {
    for (const Call& call : calls_with_a_head(open, results, rows)) {
      CHECK(fails(call(other), SVIP_INVALID, "`head`"));
    }
  }
  CHECK(handle == kNone && results == Results(1));
}

void a_handle_is_never_used_twice() {
  std::set<svip_handle> seen;
  for (int i = 0; i < 1000; ++i) {
    svip_handle pool = 0, tree = 0;
    CHECK(svip_pool_create(1, 1, SVIP_BFLOAT16, 0, &pool) == SVIP_OK);
    CHECK(svip_tree_create(pool, &tree) == SVIP_OK);
    CHECK(seen.insert(pool).second && seen.insert(tree).second);
    CHECK(svip_close(i % 2 == 0 ? pool : tree) == SVIP_OK);
    CHECK(svip_close(i % 2 == 0 ? tree : pool) == SVIP_OK);
  }
}

void trees_of_a_closed_pool_cannot_be_used(std::mt19937& random) {
  const Floats rows = chain_rows(random);
  const Open open(chain(), rows);
  Results results(1);
  svip_handle handle = kNone;
  const std::int32_t node = 0, parent = -1;
  const std::int64_t none[] = {0, 0};
  std::int32_t number = -1;
  CHECK(svip_close(open.pool) == SVIP_OK);
  CHECK(fails(svip_tree_create(open.pool, &handle), SVIP_CLOSED, "`pool`"));
  CHECK(fails(svip_tree_extend(open.tree, 1, &parent, none, nullptr, nullptr, nullptr, SVIP_FLOAT32, &number),
              SVIP_CLOSED, "pool"));
  CHECK(fails(
      svip_triatt(open.tree, open.head, 1, &node, rows.data(), 0, results.scores.data(), nullptr, nullptr, 0),
      SVIP_CLOSED, "pool"));
  CHECK(fails(svip_triatt_scan(open.tree, open.head, 0, 1, rows.data(), nullptr, results.scores.data(),
                               nullptr, nullptr, 0),
              SVIP_CLOSED, "pool"));
  CHECK(svip_tree_free(open.tree, 2) == SVIP_OK);  // giving back needs no pool
  CHECK(svip_close(open.tree) == SVIP_OK && svip_close(open.head) == SVIP_OK);
  CHECK(results == Results(1));
}

void freed_nodes_are_closed_and_make_room(std::mt19937& random) {
  const Floats rows = chain_rows(random);
  const Open open(chain(), rows, 6 * 16);  // 20 tokens are two pages: no room for more
  Results results(1);
  const std::int32_t leaf = 2, middle = 1;
  const std::int64_t token_ptr[] = {0, 20};
  const std::vector<std::uint8_t> segment(20, svip::kImage);
  std::int32_t first = -1, size = -1;
  const auto extend = [&](const std::int32_t& parent) {
    return svip_tree_extend(open.tree, 1, &parent, token_ptr, segment.data(), rows.data(), rows.data(),
                            SVIP_FLOAT32, &first);
  };
  const auto score = [&](const std::int32_t& node) {
    return svip_triatt(open.tree, open.head, 1, &node, rows.data(), 0, results.scores.data(), nullptr,
                       nullptr, 0);
  };
  CHECK(fails(extend(middle), SVIP_FULL, "full"));
  CHECK(svip_tree_size(open.tree, &size) == SVIP_OK && size == 3);
  CHECK(fails(svip_tree_free(open.tree, 3), SVIP_RANGE, "`node`"));
  CHECK(fails(svip_tree_free(open.tree, -1), SVIP_RANGE, "`node`"));
  CHECK(svip_tree_free(open.tree, leaf) == SVIP_OK);
  CHECK(fails(svip_tree_free(open.tree, leaf), SVIP_CLOSED, "`node`"));
  CHECK(fails(score(leaf), SVIP_CLOSED, "`frontier`"));
  CHECK(fails(extend(leaf), SVIP_CLOSED, "`parent`"));
  CHECK(extend(middle) == SVIP_OK && first == 3);
  CHECK(svip_tree_free(open.tree, middle) == SVIP_OK);
  CHECK(score(3) == SVIP_OK);  // it still stands on the freed one
  CHECK(fails(score(middle), SVIP_CLOSED, "`frontier`"));
  CHECK(fails(svip_triatt_scan(open.tree, open.head, 0, 4, rows.data(), nullptr, results.scores.data(),
                               nullptr, nullptr, 0),
              SVIP_CLOSED, "was freed"));
}

// ---- Memory and threads ----

// Lets the first, second, ... allocation of every call fail: with std::bad_alloc, or with what only a strange
// system throws.
void failures_below_are_statuses(std::mt19937& random, bool strange) {
  const svip_status expected = strange ? SVIP_FAILED : SVIP_NO_MEMORY;
  const Floats rows = chain_rows(random);
  const Shape shape = chain();
  const Nodes frontier{2, 0};
  Floats good;
  testing::strange_failures = strange;
  for (long at = 0, reached = 1; reached != 0; ++at) {
    reached = 0;
    Results results(3);
    svip_handle pool = kNone, tree = kNone, head = kNone;
    std::int32_t first = -1, size = -1;
    // Once with the failure, if the call gets so far, and then without.
    const auto run = [&](const auto& call, const auto& untouched) {
      testing::until_failure = at;
      const svip_status status = call();
      if (testing::until_failure.exchange(-1) >= 0) {
        CHECK(status == SVIP_OK);
        return;
      }
      ++reached;
      CHECK(fails(status, expected, strange ? "strange" : "memory"));
      CHECK(untouched());
      CHECK(call() == SVIP_OK);
    };
    run([&] { return svip_pool_create(kWidth, 3, SVIP_FLOAT32, -1, &pool); }, [&] { return pool == kNone; });
    run([&] { return svip_tree_create(pool, &tree); }, [&] { return tree == kNone; });
    run([&] { return svip_head_create(kWidth, 1, &rows[0], &rows[0], &rows[0], &rows[0], &rows[0], &head); },
        [&] { return head == kNone; });
    run(
        [&] {
          return svip_tree_extend(tree, 3, shape.parent.data(), shape.token_ptr.data(), shape.segment.data(),
                                  rows.data(), rows.data(), SVIP_FLOAT32, &first);
        },
        [&] { return svip_tree_size(tree, &size) == SVIP_OK && size == 0 && first == -1; });
    // In a new thread, as the workspace of this one has all its memory after the first round.
    std::thread([&] {
      run(
          [&] {
            return svip_triatt(tree, head, 2, frontier.data(), rows.data(), 0, results.scores.data(), nullptr,
                               nullptr, 2);
          },
          [] { return true; });
      run(
          [&] {
            return svip_triatt_scan(tree, head, 0, 3, rows.data(), nullptr, results.scores.data(), nullptr,
                                    nullptr, 2);
          },
          [] { return true; });
    }).join();
    if (at == 0) good = results.scores;
    CHECK(same_bits(results.scores, good) && !std::isnan(good[0]));
    run([&] { return svip_tree_free(tree, 2); }, [] { return true; });
    for (const svip_handle handle : {tree, head, pool}) {
      run([&] { return svip_close(handle); }, [] { return true; });
    }
  }
  testing::strange_failures = false;
}

void every_thread_has_its_own_error() {
  std::int32_t size = -1;
  CHECK(svip_tree_size(0, &size) == SVIP_CLOSED);
  const std::string mine = svip_last_error();
  std::thread([] {
    CHECK(*svip_last_error() == '\0');
    svip_handle pool = 0;
    CHECK(fails(svip_pool_create(0, 3, SVIP_FLOAT32, -1, &pool), SVIP_INVALID, "`width`"));
    CHECK(svip_pool_create(1, 3, SVIP_FLOAT32, -1, &pool) == SVIP_OK);
    CHECK(svip_close(pool) == SVIP_OK);
    CHECK(std::strstr(svip_last_error(), "`width`") != nullptr);  // success does not clear it
  }).join();
  CHECK(mine == svip_last_error());
}

// Threads score, grow, free and close the same things; whatever is still open gives the right scores.
void threads_may_share_everything(std::mt19937& random) {
  const Floats rows = chain_rows(random);
  const Shape shape = chain();
  for (int round = 0; round < 20; ++round) {
    Open open(shape, rows, 16 * 200);
    const Nodes frontier{2, 1, 0};
    Floats expected(9);
    CHECK(svip_triatt(open.tree, open.head, 3, frontier.data(), rows.data(), 0, expected.data(), nullptr,
                      nullptr, 1) == SVIP_OK);
    std::atomic<int> closed{0};
    const auto score = [&] {
      for (int i = 0; i < 40; ++i) {
        Floats scores(9, kNan);
        const svip_status status = svip_triatt(open.tree, open.head, 3, frontier.data(), rows.data(), 0,
                                               scores.data(), nullptr, nullptr, 1 + i % 3);
        CHECK(status == SVIP_OK ? same_bits(scores, expected) : status == SVIP_CLOSED);
      }
    };
    const auto grow = [&] {
      for (int i = 0; i < 40; ++i) {
        std::int32_t first = -1, size = -1;
        const svip_status status =
            svip_tree_extend(open.tree, 3, shape.parent.data(), shape.token_ptr.data(), shape.segment.data(),
                             rows.data(), rows.data(), SVIP_FLOAT32, &first);
        CHECK(status == SVIP_OK || status == SVIP_CLOSED || status == SVIP_FULL || status == SVIP_INVALID);
        if (status != SVIP_OK) continue;
        CHECK(first >= 3);
        const svip_status freed = svip_tree_free(open.tree, first + i % 3);
        CHECK(freed == SVIP_OK || freed == SVIP_CLOSED);
        const svip_status sized = svip_tree_size(open.tree, &size);
        CHECK(sized == SVIP_OK ? size > first : sized == SVIP_CLOSED);
      }
    };
    const auto close = [&](svip_handle handle) {
      for (int i = 0; i < 50 * round; ++i) svip_simd_tier();
      closed += svip_close(handle) == SVIP_OK;
    };
    std::vector<std::thread> threads;
    for (int i = 0; i < 2; ++i) threads.emplace_back(score), threads.emplace_back(grow);
    const svip_handle victim = round % 3 == 0 ? open.pool : round % 3 == 1 ? open.tree : open.head;
    for (int i = 0; i < 2; ++i) threads.emplace_back(close, victim);
    for (std::thread& thread : threads) thread.join();
    CHECK(closed == 1);
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::mt19937 random(testing::seed(argc, argv));
  for (const int heads : {1, 3}) {
    c_and_cpp_give_the_same_bits<float>(random, SVIP_FLOAT32, heads);
    c_and_cpp_give_the_same_bits<std::uint16_t>(random, SVIP_BFLOAT16, heads);
  }
  what_is_not_as_described_is_invalid(random);
  bad_scores_are_refused_and_nothing_is_written(random);
  an_unknown_simd_tier_is_an_error();
  stale_and_mixed_handles_are_errors(random);
  a_handle_is_never_used_twice();
  trees_of_a_closed_pool_cannot_be_used(random);
  freed_nodes_are_closed_and_make_room(random);
  failures_below_are_statuses(random, false);
  failures_below_are_statuses(random, true);
  every_thread_has_its_own_error();
  threads_may_share_everything(random);
  std::printf(failures == 0 ? "all passed\n" : "%d failed\n", failures.load());
  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
