#include <cmath>
#include <memory>
#include <numeric>
#include <span>
#include <stdexcept>
#include <string>

#include "svip/triatt.h"
#include "triatt_testing.h"

namespace {

using svip::KVPool;
using svip::KVSource;
using svip::KVType;
using svip::PagedTree;
using svip::Plan;
using svip::Triatt;
using svip::TriattHead;
using testing::draw;
using testing::Guarded;
using testing::kNan;
using testing::normal;
using testing::random_frontier;
using testing::random_shape;
using testing::same_bits;
using testing::Shape;
using Nodes = std::vector<std::int32_t>;
using Floats = std::vector<float>;

// A template, as a std::function would allocate.
template <class Error, class Call>
bool throws(const Call& call) {
  try {
    call();
  } catch (const Error&) {
    return true;
  }
  return false;
}

float widen(std::uint16_t x) {
  const auto bits = static_cast<std::uint32_t>(x) << 16;
  float y;
  std::memcpy(&y, &bits, sizeof y);
  return y;
}

// Nearest, ties to even; for finite values.
std::uint16_t narrow(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

// ---- The plan ----

struct Rows {
  std::int32_t begin = 0, own = 0, end = 0;
};

// Lays out one subtree after the other, with a look at all nodes and the whole frontier for each node.
void lay_out(const Nodes& parent, const Nodes& frontier, std::int32_t node, Nodes& order,
             std::vector<Rows>& rows) {
  Rows& mine = rows[static_cast<std::size_t>(node)];
  mine.begin = static_cast<std::int32_t>(order.size());
  for (std::size_t i = 0; i < frontier.size(); ++i) {
    if (frontier[i] == node) order.push_back(static_cast<std::int32_t>(i));
  }
  mine.own = static_cast<std::int32_t>(order.size());
  for (std::size_t child = 0; child < parent.size(); ++child) {
    if (parent[child] == node) lay_out(parent, frontier, static_cast<std::int32_t>(child), order, rows);
  }
  mine.end = static_cast<std::int32_t>(order.size());
}

void check_cut(Plan& plan, const std::vector<Rows>& rows, std::int32_t block, std::int32_t n_rows) {
  plan.cut(block);
  CHECK(plan.n_blocks() == (n_rows + block - 1) / block);
  for (std::int32_t b = 0; b < plan.n_blocks(); ++b) {
    Nodes expected, found;
    for (std::size_t node = 0; node < rows.size(); ++node) {
      const bool seen = std::max(rows[node].begin, b * block) < std::min(rows[node].end, (b + 1) * block);
      if (seen) expected.push_back(static_cast<std::int32_t>(node));
    }
    for (std::int32_t i = plan.item_ptr()[static_cast<std::size_t>(b)];
         i < plan.item_ptr()[static_cast<std::size_t>(b) + 1]; ++i) {
      found.push_back(plan.nodes()[static_cast<std::size_t>(plan.items()[static_cast<std::size_t>(i)])].node);
    }
    CHECK(found == expected);
  }
}

void the_plan_equals_a_brute_force_one(std::mt19937& random) {
  Plan plan;  // one for all, so that nothing of an earlier call may shine through
  for (int round = 0; round < 200; ++round) {
    const Shape shape = random_shape(random, draw(random, 1, 40), 1);
    const Nodes frontier = random_frontier(random, shape.nodes(), draw(random, 1, 30));
    Nodes order;
    std::vector<Rows> rows(shape.nodes());
    for (std::size_t node = 0; node < shape.nodes(); ++node) {
      if (shape.parent[node] < 0) {
        lay_out(shape.parent, frontier, static_cast<std::int32_t>(node), order, rows);
      }
    }
    plan.sort(shape.parent, frontier);
    CHECK(std::equal(order.begin(), order.end(), plan.order().begin(), plan.order().end()));
    std::size_t needed = 0;
    for (const Rows& mine : rows) needed += mine.end > mine.begin;
    CHECK(plan.nodes().size() == needed);
    for (const svip::PlanNode& node : plan.nodes()) {
      const Rows& mine = rows[static_cast<std::size_t>(node.node)];
      CHECK(node.begin == mine.begin && node.own == mine.own && node.end == mine.end);
    }
    for (const std::int32_t block : {1, 3, 7, static_cast<int>(frontier.size()), 100}) {
      check_cut(plan, rows, block, static_cast<std::int32_t>(frontier.size()));
    }
  }
}

void a_plan_too_large_for_its_numbers_is_refused() {
  constexpr std::int32_t kDepth = 70'000;  // half its square is more than 2^31
  Nodes parent(kDepth), all(kDepth);
  std::iota(parent.begin(), parent.end(), -1);
  std::iota(all.begin(), all.end(), 0);
  Plan plan;
  plan.sort(parent, all);
  CHECK(throws<std::length_error>([&] { plan.cut(1); }));
  plan.cut(1000);
  CHECK(plan.n_blocks() == 70 && plan.items().size() == 1000 * 70 * 71 / 2);
}

void a_deep_chain_needs_no_stack() {
  constexpr std::int32_t kDepth = 300'000;
  Nodes parent(kDepth);
  std::iota(parent.begin(), parent.end(), -1);
  Plan plan;
  plan.sort(parent, Nodes{kDepth - 1});
  CHECK(plan.nodes().size() == kDepth);
  const auto pool = std::make_shared<KVPool>(1, 1, KVType::kFloat32);
  PagedTree tree(pool);
  tree.extend(parent, std::vector<std::int64_t>(kDepth + 1, 0), {}, {}, {});
  for (std::int32_t node = 0; node < kDepth; ++node) tree.free(node);
  CHECK(throws<std::logic_error>([&] { tree.free(kDepth - 1); }));
}

// ---- The pool ----

void a_pool_refuses_what_it_has_not() {
  KVPool pool(5, 3, KVType::kFloat32, 33);  // three pages
  CHECK(pool.padded_width() == 16 && pool.page_bytes() == 3 * 2 * 16 * 16 * 4);
  std::vector<std::byte*> pages;
  pool.take(2, pages);
  CHECK(throws<std::length_error>([&] { pool.take(2, pages); }));
  CHECK(pages.size() == 2 && pool.pages_in_use() == 2);
  pool.take(1, pages);
  CHECK(throws<std::length_error>([&] { pool.take(1, pages); }));
  pool.give_back(pages);
  CHECK(pool.pages_in_use() == 0);
  CHECK(throws<std::invalid_argument>([] { KVPool bad(0, 3, KVType::kFloat32); }));
  CHECK(throws<std::invalid_argument>([] { KVPool bad(svip::kMaxWidth + 1, 3, KVType::kFloat32); }));
  CHECK(throws<std::invalid_argument>([] { KVPool bad(8, 2, KVType::kFloat32); }));
  KVPool empty(5, 1, KVType::kBFloat16, 0);
  CHECK(throws<std::length_error>([&] { empty.take(1, pages); }));
}

void pages_are_distinct_aligned_and_used_again(std::mt19937& random) {
  KVPool pool(draw(random, 1, 256), 3, KVType::kBFloat16);
  std::vector<std::byte*> first, second;
  pool.take(500, first);
  std::vector<std::byte*> sorted = first;
  std::sort(sorted.begin(), sorted.end());
  for (std::size_t i = 0; i < sorted.size(); ++i) {
    CHECK(reinterpret_cast<std::uintptr_t>(sorted[i]) % 64 == 0);
    CHECK(i == 0 || static_cast<std::size_t>(sorted[i] - sorted[i - 1]) >= pool.page_bytes());
    std::memset(sorted[i], 1, pool.page_bytes());
  }
  const std::int64_t bytes = pool.bytes();
  pool.give_back(first);
  pool.take(500, second);
  CHECK(pool.bytes() == bytes);
  CHECK(second == first);
}

void a_closed_pool_keeps_leased_memory() {
  KVPool pool(16, 1, KVType::kFloat32);
  std::vector<std::byte*> pages;
  pool.take(1, pages);
  {
    const auto lease = pool.lease();
    pool.close();
    std::memset(pages[0], 1, pool.page_bytes());  // still there: a sanitizer would tell
  }
  CHECK(pool.closed() && pool.pages_in_use() == 0 && pool.bytes() == 0);
  CHECK(throws<std::logic_error>([&] { pool.take(1, pages); }));
  CHECK(throws<std::logic_error>([&] { static_cast<void>(pool.lease()); }));
  pool.give_back(pages);
  pool.close();
}

// ---- The tree ----

// Pages of all nodes that themselves, or some descendant of which, have not been freed.
std::int64_t pages_needed(const Shape& shape, const std::vector<bool>& freed) {
  std::vector<bool> needed(shape.nodes());
  for (std::size_t node = 0; node < shape.nodes(); ++node) {
    if (freed[node]) continue;
    for (auto at = static_cast<std::int32_t>(node); at >= 0;
         at = shape.parent[static_cast<std::size_t>(at)]) {
      needed[static_cast<std::size_t>(at)] = true;
    }
  }
  std::int64_t pages = 0;
  for (std::size_t node = 0; node < shape.nodes(); ++node) {
    if (needed[node]) pages += (shape.token_ptr[node + 1] - shape.token_ptr[node] + 15) / 16;
  }
  return pages;
}

void pages_go_back_with_their_last_living_descendant(std::mt19937& random) {
  for (int round = 0; round < 50; ++round) {
    const Shape shape = random_shape(random, draw(random, 1, 30), 40);
    const auto pool = std::make_shared<KVPool>(3, 1, KVType::kFloat32);
    const Floats rows = normal(random, shape.tokens() * 3);
    const KVSource source{rows.data(), KVType::kFloat32, 3, 3};
    PagedTree tree(pool);
    tree.extend(shape.parent, shape.token_ptr, shape.segment, source, source);
    std::vector<bool> freed(shape.nodes(), false);
    Nodes all(shape.nodes());
    std::iota(all.begin(), all.end(), 0);
    std::shuffle(all.begin(), all.end(), random);
    for (const std::int32_t node : all) {
      CHECK(pool->pages_in_use() == pages_needed(shape, freed));
      tree.free(node);
      freed[static_cast<std::size_t>(node)] = true;
      CHECK(throws<std::logic_error>([&] { tree.free(node); }));
      if (draw(random, 0, 40) == 0) break;
    }
    CHECK(pool->pages_in_use() == pages_needed(shape, freed));
    tree.close();
    CHECK(pool->pages_in_use() == 0 && tree.closed());
    CHECK(throws<std::logic_error>([&] { tree.free(0); }));
  }
}

void what_is_refused_leaves_the_tree_as_it_was() {
  const auto pool = std::make_shared<KVPool>(2, 3, KVType::kFloat32, 32);
  const Floats rows(6 * 64, 1.0F);
  const KVSource source{rows.data(), KVType::kFloat32, 6, 2};
  PagedTree tree(pool);
  const std::vector<std::uint8_t> segment(64, svip::kStep);
  const auto extend = [&](const Nodes& parent, const std::vector<std::int64_t>& token_ptr,
                          std::size_t tokens) {
    return tree.extend(parent, token_ptr, std::span(segment).first(tokens), source, source);
  };
  CHECK(extend({-1, 0}, {0, 1, 2}, 2) == 0);
  CHECK(throws<std::invalid_argument>([&] { extend({0}, {0}, 0); }));
  CHECK(throws<std::invalid_argument>([&] { extend({0}, {0, 2}, 1); }));
  CHECK(throws<std::invalid_argument>([&] { extend({0}, {1, 1}, 1); }));
  CHECK(throws<std::invalid_argument>([&] { extend({0, 0}, {0, 2, 1}, 1); }));
  CHECK(throws<std::out_of_range>([&] { extend({2}, {0, 1}, 1); }));
  CHECK(throws<std::out_of_range>([&] { extend({-2}, {0, 1}, 1); }));
  CHECK(throws<std::length_error>([&] { extend({0}, {0, 1}, 1); }));
  const std::vector<std::uint8_t> unknown{3};
  CHECK(throws<std::invalid_argument>(
      [&] { tree.extend(Nodes{0}, std::vector<std::int64_t>{0, 1}, unknown, source, source); }));
  CHECK(tree.size() == 2 && pool->pages_in_use() == 2);
  tree.free(1);
  CHECK(throws<std::logic_error>([&] { extend({1}, {0, 1}, 1); }));
  CHECK(throws<std::out_of_range>([&] { tree.free(2); }));
  CHECK(throws<std::out_of_range>([&] { tree.free(-1); }));
  CHECK(extend({0}, {0, 1}, 1) == 2 && extend({}, {0}, 0) == 3 && pool->pages_in_use() == 2);
  pool->close();
  CHECK(throws<std::logic_error>([&] { extend({0}, {0, 0}, 0); }));
  CHECK(throws<std::invalid_argument>([] { PagedTree bad(nullptr); }));
  CHECK(throws<std::logic_error>([&] { PagedTree bad(pool); }));
}

// ---- The scores ----

struct Setting {
  int width = 32, heads = 3, hidden = 0;
  KVType type = KVType::kFloat32;
  float offset = 0.0F;  // of all biases
};

// A tree with keys and values, a head and queries: all that a score depends on.
struct Problem {
  Setting setting;
  Shape shape;
  Floats k, v, q, u, b, w, c, bias;  // k and v [token][head][width] as they are stored, q [node][3][width]
  std::shared_ptr<KVPool> pool;
  std::unique_ptr<PagedTree> tree;
  std::unique_ptr<TriattHead> head;

  Problem(std::mt19937& random, const Setting& s, int nodes, int most_tokens) : setting(s) {
    const auto width = static_cast<std::size_t>(s.width), hidden = static_cast<std::size_t>(s.hidden);
    shape = random_shape(random, nodes, most_tokens);
    k = normal(random, shape.tokens() * static_cast<std::size_t>(s.heads) * width);
    v = normal(random, k.size());
    if (s.type == KVType::kBFloat16) {
      for (Floats* const values : {&k, &v}) {
        for (float& x : *values) x = widen(narrow(x));
      }
    }
    q = normal(random, shape.nodes() * 3 * width);
    const std::size_t inputs = s.hidden > 0 ? hidden : width;
    u = normal(random, 3 * inputs, 1.0F / std::sqrt(static_cast<float>(inputs)));
    b = normal(random, 3);
    bias = normal(random, 12);
    for (float& x : bias) x += s.offset;
    if (s.hidden > 0) {
      w = normal(random, 3 * hidden * width, 1.0F / std::sqrt(static_cast<float>(width)));
      c = normal(random, 3 * hidden);
    }
    head =
        std::make_unique<TriattHead>(s.width, s.hidden, u.data(), b.data(), s.hidden > 0 ? w.data() : nullptr,
                                     s.hidden > 0 ? c.data() : nullptr, bias.data());
    pool = std::make_shared<KVPool>(s.width, s.heads, s.type);
    grow(nodes);
  }

  // A new tree of the first nodes.
  void grow(int nodes) {
    tree = std::make_unique<PagedTree>(pool);
    append(nodes);
  }

  // Nodes up to `last` (exclusive) added to the tree.
  void append(int last) const {
    const auto begin = static_cast<std::size_t>(tree->size()), end = static_cast<std::size_t>(last);
    const std::int64_t first = shape.token_ptr[begin], row = std::int64_t{setting.heads} * setting.width;
    std::vector<std::int64_t> token_ptr;
    for (std::size_t i = begin; i <= end; ++i) token_ptr.push_back(shape.token_ptr[i] - first);
    const auto tokens =
        std::span(shape.segment)
            .subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(token_ptr.back()));
    tree->extend(std::span(shape.parent).subspan(begin, end - begin), token_ptr, tokens,
                 {k.data() + first * row, KVType::kFloat32, row, setting.width},
                 {v.data() + first * row, KVType::kFloat32, row, setting.width});
  }

  Nodes all() const {
    Nodes nodes(shape.nodes());
    std::iota(nodes.begin(), nodes.end(), 0);
    return nodes;
  }

  Floats queries(const Nodes& frontier) const {
    Floats rows;
    const auto size = static_cast<std::ptrdiff_t>(3 * setting.width);
    for (const std::int32_t node : frontier) {
      rows.insert(rows.end(), q.begin() + node * size, q.begin() + (node + 1) * size);
    }
    return rows;
  }
};

// All results of a call, filled with NaN before.
struct Results {
  Floats scores, att, m, l, o;

  Results(std::size_t rows, int width)
      : scores(rows * 3, kNan),
        att(rows * 3 * static_cast<std::size_t>(width), kNan),
        m(scores),
        l(scores),
        o(att) {}
  svip::TriattOut out() { return {scores.data(), att.data(), m.data(), l.data(), o.data()}; }
  svip::TriattState state() const { return {m.data(), l.data(), o.data()}; }
  bool operator==(const Results& other) const {
    return same_bits(scores, other.scores) && same_bits(att, other.att) && same_bits(m, other.m) &&
           same_bits(l, other.l) && same_bits(o, other.o);
  }
};

Results run(const Problem& problem, const Nodes& frontier, const svip::TriattOptions& options = {}) {
  Results results(frontier.size(), problem.setting.width);
  Triatt triatt;
  triatt.run(*problem.tree, frontier, {problem.queries(frontier).data(), false}, *problem.head, results.out(),
             options);
  return results;
}

// One row by the formula of triatt.h, in double precision.
struct Expected {
  std::vector<double> att;
  double log_sum = 0, score = 0;
};

double decide(const Problem& problem, std::size_t dimension, const std::vector<double>& att) {
  const auto hidden = static_cast<std::size_t>(problem.setting.hidden), width = att.size();
  double total = problem.b[dimension];
  for (std::size_t j = 0; hidden == 0 && j < width; ++j) total += problem.u[dimension * width + j] * att[j];
  for (std::size_t h = 0; h < hidden; ++h) {
    const std::size_t unit = dimension * hidden + h;
    double z = problem.c[unit];
    for (std::size_t j = 0; j < width; ++j) z += problem.w[unit * width + j] * att[j];
    total += problem.u[unit] * 0.5 * z *
             (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (z + 0.044715 * z * z * z)));
  }
  return 1 / (1 + std::exp(-total));
}

Expected expected(const Problem& problem, std::int32_t node, std::size_t dimension, const float* q) {
  const auto width = static_cast<std::size_t>(problem.setting.width);
  const auto heads = static_cast<std::size_t>(problem.setting.heads);
  const std::size_t head = heads == 1 ? 0 : dimension;
  std::vector<std::pair<double, const float*>> tokens;  // logit and value
  for (std::int32_t at = node; at >= 0; at = problem.shape.parent[static_cast<std::size_t>(at)]) {
    const auto index = static_cast<std::size_t>(at);
    for (auto t = static_cast<std::size_t>(problem.shape.token_ptr[index]);
         t < static_cast<std::size_t>(problem.shape.token_ptr[index + 1]); ++t) {
      double dot = 0;
      for (std::size_t j = 0; j < width; ++j) dot += double{q[j]} * problem.k[(t * heads + head) * width + j];
      const std::uint8_t segment = problem.shape.segment[t];
      const std::size_t column = segment + (segment == svip::kStep && at == node ? 1U : 0U);
      tokens.emplace_back(dot / std::sqrt(static_cast<double>(width)) + problem.bias[dimension * 4 + column],
                          &problem.v[(t * heads + head) * width]);
    }
  }
  double top = -INFINITY, sum = 0;
  for (const auto& [logit, value] : tokens) top = std::max(top, logit);
  Expected row{std::vector<double>(width), 0, 0};
  for (const auto& [logit, value] : tokens) {
    sum += std::exp(logit - top);
    for (std::size_t j = 0; j < width; ++j) row.att[j] += std::exp(logit - top) * value[j];
  }
  for (double& x : row.att) x /= sum;
  row.log_sum = top + std::log(sum);
  row.score = decide(problem, dimension, row.att);
  return row;
}

// Whether results are the expected ones for the queries [rows][3][width]; NaN never is.
void check_results(const Problem& problem, const Nodes& frontier, const Floats& q, const Results& results,
                   double tolerance, bool own_state) {
  const auto width = static_cast<std::size_t>(problem.setting.width);
  double worst_score = 0, worst_att = 0, worst_state = 0;
  const auto raise = [](double& worst, double error) { worst = error <= worst ? worst : error; };  // NaN too
  for (std::size_t at = 0; at < 3 * frontier.size(); ++at) {
    const Expected row = expected(problem, frontier[at / 3], at % 3, &q[at * width]);
    raise(worst_score, std::abs(results.scores[at] - row.score));
    for (std::size_t j = 0; j < width; ++j) {
      raise(worst_att, std::abs(results.att[at * width + j] - row.att[j]));
      if (own_state) {
        raise(worst_state, std::abs(results.o[at * width + j] / results.l[at] - row.att[j]));
      }
    }
    const double size = 1 + std::abs(row.log_sum);
    if (own_state) raise(worst_state, std::abs(results.m[at] + std::log(results.l[at]) - row.log_sum) / size);
  }
  CHECK(worst_score <= tolerance);
  CHECK(worst_att <= tolerance);
  CHECK(worst_state <= tolerance);
  if (!(worst_score <= tolerance && worst_att <= tolerance && worst_state <= tolerance)) {
    std::printf("  %s, width %d, %d K/V heads, hidden %d, %s, offset %g: %g score, %g att, %g state\n",
                svip::simd_tier_name().c_str(), problem.setting.width, problem.setting.heads,
                problem.setting.hidden, problem.setting.type == KVType::kFloat32 ? "float32" : "bfloat16",
                double{problem.setting.offset}, worst_score, worst_att, worst_state);
  }
}

std::vector<Setting> settings() {
  std::vector<Setting> all;
  for (const KVType type : {KVType::kFloat32, KVType::kBFloat16}) {
    for (const int heads : {1, 3}) {
      for (const int width : {1, 16, 33, 64, 100, 256})
        all.push_back({width, heads, width == 33 ? 20 : 0, type, 0.0F});
      all.push_back({48, heads, 32, type, 1e4F});
      all.push_back({64, heads, 0, type, -1e4F});
    }
  }
  return all;
}

void scores_are_what_the_formula_says(std::mt19937& random) {
  for (const Setting& setting : settings()) {
    const Problem problem(random, setting, draw(random, 2, 14), 90);
    const Nodes frontier = random_frontier(random, problem.shape.nodes(), 9);
    const Floats q = problem.queries(frontier);
    check_results(problem, frontier, q, run(problem, frontier), 1e-5, true);
    if (setting.type == KVType::kBFloat16) {
      check_results(problem, frontier, q, run(problem, frontier, {.dots = true}), 0.1, true);
    }
  }
}

void scan_equals_run_with_a_constant_query(std::mt19937& random) {
  for (const Setting& setting : settings()) {
    const Problem problem(random, setting, draw(random, 2, 40), 90);
    const Nodes all = problem.all();
    const Floats q = normal(random, 3 * static_cast<std::size_t>(setting.width));
    Floats repeated;
    for (std::size_t i = 0; i < all.size(); ++i) repeated.insert(repeated.end(), q.begin(), q.end());
    Results scanned(all.size(), setting.width), constant(all.size(), setting.width);
    Triatt triatt;
    triatt.scan(*problem.tree, 0, problem.tree->size(), q.data(), *problem.head, {}, false, scanned.out());
    triatt.run(*problem.tree, all, {q.data(), true}, *problem.head, constant.out());
    check_results(problem, all, repeated, scanned, 1e-5, false);
    check_results(problem, all, repeated, constant, 1e-5, true);
  }
}

void a_scan_in_pieces_gives_the_same_bits(std::mt19937& random) {
  for (int round = 0; round < 20; ++round) {
    const int n = draw(random, 2, 40);
    Problem problem(random, {24, draw(random, 0, 1) == 0 ? 1 : 3, 0, KVType::kFloat32, 0.0F}, n, 40);
    const Floats q = normal(random, 3 * 24);
    Results whole(static_cast<std::size_t>(n), 24), pieces = whole;
    Triatt triatt;
    triatt.scan(*problem.tree, 0, n, q.data(), *problem.head, {}, false, whole.out(), {.threads = 1});
    problem.grow(0);
    for (int first = 0; first < n;) {
      const int last = draw(random, first + 1, n);
      problem.append(last);
      Results some(static_cast<std::size_t>(last - first), 24);
      triatt.scan(*problem.tree, first, last, q.data(), *problem.head, pieces.state(), false, some.out(),
                  {.threads = 3});
      const auto put = [&](const Floats& from, Floats& to, int size) {
        std::copy(from.begin(), from.end(), to.begin() + first * size);
      };
      put(some.scores, pieces.scores, 3), put(some.m, pieces.m, 3), put(some.l, pieces.l, 3);
      put(some.att, pieces.att, 3 * 24), put(some.o, pieces.o, 3 * 24);
      first = last;
    }
    CHECK(pieces == whole);
  }
}

// A tree whose roots continue the states of another one scores as if it hung there.
void roots_continue_given_states(std::mt19937& random) {
  Problem problem(random, {}, 2, 40);
  problem.shape.parent = {-1, 0};
  problem.grow(2);
  const Floats q = normal(random, 3 * 32);
  Results whole(2, 32), root(1, 32), continued(1, 32);
  Triatt triatt;
  triatt.scan(*problem.tree, 0, 2, q.data(), *problem.head, {}, false, whole.out());
  triatt.scan(*problem.tree, 0, 1, q.data(), *problem.head, {}, false, root.out());
  problem.shape.parent = {-1, -1};
  problem.grow(2);
  triatt.scan(*problem.tree, 1, 2, q.data(), *problem.head, root.state(), true, continued.out());
  CHECK(same_bits(continued.scores, Floats(whole.scores.begin() + 3, whole.scores.end())));
  CHECK(same_bits(continued.o, Floats(whole.o.begin() + 96, whole.o.end())));
}

void blocks_threads_and_company_change_no_bit(std::mt19937& random) {
  for (const bool dots : {false, true}) {
    const Setting setting{64, draw(random, 0, 1) == 0 ? 1 : 3, 20,
                          dots ? KVType::kBFloat16 : KVType::kFloat32, 0.0F};
    Problem problem(random, setting, 60, 90);
    Nodes frontier = problem.all();
    const Results first = run(problem, frontier, {.threads = 1, .dots = dots});
    for (const int block : {0, 1, 2, 5, 8, 24, 100}) {
      for (const int threads : {0, 1, 2, 5}) {
        CHECK(run(problem, frontier, {.threads = threads, .block = block, .dots = dots}) == first);
      }
    }
    for (int round = 0; round < 20; ++round) {
      frontier = random_frontier(random, problem.shape.nodes(), draw(random, 1, 50));
      const Results some = run(problem, frontier, {.threads = draw(random, 1, 4), .dots = dots});
      for (std::size_t i = 0; i < frontier.size(); ++i) {
        const std::size_t node = static_cast<std::size_t>(frontier[i]) * 3;
        CHECK(std::equal(&some.scores[i * 3], &some.scores[i * 3] + 3, &first.scores[node]));
      }
    }
    problem.grow(30);  // what is added later changes no score either
    Nodes early(30);
    std::iota(early.begin(), early.end(), 0);
    const Results before = run(problem, early, {.dots = dots});
    CHECK(same_bits(before.scores, Floats(first.scores.begin(), first.scores.begin() + 90)));
  }
}

void nan_stays_on_its_path(std::mt19937& random) {
  for (const Setting& setting :
       {Setting{}, Setting{16, 1, 0, KVType::kBFloat16, 0.0F}, Setting{20, 3, 8, KVType::kBFloat16, 0.0F}}) {
    for (const bool in_key : {true, false}) {
      Problem problem(random, setting, 30, 70);
      const Results clean = run(problem, problem.all());
      const auto token =
          static_cast<std::size_t>(draw(random, 0, static_cast<int>(problem.shape.tokens()) - 1));
      const auto sick = static_cast<std::size_t>(setting.heads == 1 ? 0 : draw(random, 0, 2));
      const auto component = static_cast<std::size_t>(draw(random, 0, setting.width - 1));
      const std::size_t at =
          (token * static_cast<std::size_t>(setting.heads) + sick) * static_cast<std::size_t>(setting.width) +
          component;
      (in_key ? problem.k : problem.v)[at] = kNan;
      problem.grow(30);
      const Results results = run(problem, problem.all());
      Results scanned(30, setting.width);
      Triatt().scan(*problem.tree, 0, 30, problem.q.data(), *problem.head, {}, false, scanned.out());
      for (std::size_t node = 0; node < 30; ++node) {
        bool holds = false;
        for (auto up = static_cast<std::int32_t>(node); up >= 0;
             up = problem.shape.parent[static_cast<std::size_t>(up)]) {
          const auto i = static_cast<std::size_t>(up);
          holds |= problem.shape.token_ptr[i] <= static_cast<std::int64_t>(token) &&
                   static_cast<std::int64_t>(token) < problem.shape.token_ptr[i + 1];
        }
        for (std::size_t c = 0; c < 3; ++c) {
          const bool expected = holds && (setting.heads == 1 || c == sick);
          CHECK(std::isnan(results.scores[node * 3 + c]) == expected);
          CHECK(std::isnan(scanned.scores[node * 3 + c]) == expected);
          CHECK(expected || results.scores[node * 3 + c] == clean.scores[node * 3 + c]);
        }
      }
    }
  }
}

void bad_calls_throw_and_write_nothing(std::mt19937& random) {
  Problem problem(random, {}, 5, 20);
  Results results(5, 32);
  Triatt triatt;
  const Floats q = problem.q;
  const auto call = [&](const Nodes& frontier, const float* queries, svip::TriattOut out,
                        const TriattHead& head) {
    triatt.run(*problem.tree, frontier, {queries, false}, head, out);
  };
  const TriattHead other(16, 0, problem.u.data(), problem.b.data(), nullptr, nullptr, nullptr);
  svip::TriattOut half = results.out();
  half.l = nullptr;
  CHECK(throws<std::out_of_range>([&] { call({5}, q.data(), results.out(), *problem.head); }));
  CHECK(throws<std::out_of_range>([&] { call({-1}, q.data(), results.out(), *problem.head); }));
  CHECK(throws<std::invalid_argument>([&] { call({0}, nullptr, results.out(), *problem.head); }));
  CHECK(throws<std::invalid_argument>([&] { call({0}, q.data(), {}, *problem.head); }));
  CHECK(throws<std::invalid_argument>([&] { call({0}, q.data(), half, *problem.head); }));
  CHECK(throws<std::invalid_argument>([&] { call({0}, q.data(), results.out(), other); }));
  const auto scan = [&](std::int32_t first, std::int32_t last) {
    triatt.scan(*problem.tree, first, last, q.data(), *problem.head, {}, false, results.out());
  };
  CHECK(throws<std::out_of_range>([&] { scan(-1, 2); }));
  CHECK(throws<std::out_of_range>([&] { scan(3, 2); }));
  CHECK(throws<std::out_of_range>([&] { scan(0, 6); }));
  const std::int32_t child = problem.tree->extend(Nodes{0}, std::vector<std::int64_t>{0, 0}, {}, {}, {});
  const std::int32_t bare = problem.tree->extend(Nodes{-1}, std::vector<std::int64_t>{0, 0}, {}, {}, {});
  CHECK(throws<std::invalid_argument>([&] { scan(child, child + 1); }));  // its parent's state is missing
  CHECK(throws<std::invalid_argument>([&] { scan(bare, bare + 1); }));    // nothing to attend to
  CHECK(throws<std::invalid_argument>([&] { call({bare}, q.data(), results.out(), *problem.head); }));
  problem.tree->free(2);
  CHECK(throws<std::logic_error>([&] { call({2}, q.data(), results.out(), *problem.head); }));
  problem.pool->close();
  CHECK(throws<std::logic_error>([&] { call({0}, q.data(), results.out(), *problem.head); }));
  CHECK(results == Results(5, 32));
  CHECK(throws<std::invalid_argument>(
      [&] { TriattHead(0, 0, q.data(), q.data(), nullptr, nullptr, nullptr); }));
  CHECK(throws<std::invalid_argument>(
      [&] { TriattHead(257, 0, q.data(), q.data(), nullptr, nullptr, nullptr); }));
  CHECK(throws<std::invalid_argument>(
      [&] { TriattHead(8, -1, q.data(), q.data(), nullptr, nullptr, nullptr); }));
  CHECK(throws<std::invalid_argument>(
      [&] { TriattHead(8, 4, q.data(), q.data(), q.data(), nullptr, nullptr); }));
  CHECK(
      throws<std::invalid_argument>([&] { TriattHead(8, 0, nullptr, q.data(), nullptr, nullptr, nullptr); }));
  for (const int huge : {std::numeric_limits<int>::max(), std::numeric_limits<int>::max() - 7}) {
    CHECK(throws<std::invalid_argument>(
        [&] { TriattHead(huge, 0, q.data(), q.data(), nullptr, nullptr, nullptr); }));
    CHECK(throws<std::invalid_argument>(
        [&] { TriattHead(8, huge, q.data(), q.data(), q.data(), q.data(), nullptr); }));
  }
}

// ---- Memory ----

// Every array lies against memory that must not be touched, once with its end and once with its beginning.
void nothing_is_read_or_written_outside(std::mt19937& random) {
  for (const Setting& setting :
       {Setting{1, 3, 0, KVType::kFloat32, 0.0F}, Setting{33, 1, 7, KVType::kBFloat16, 0.0F},
        Setting{64, 3, 20, KVType::kFloat32, 0.0F}, Setting{100, 3, 0, KVType::kBFloat16, 0.0F}}) {
    const Problem problem(random, setting, 12, 70);
    const Nodes frontier = random_frontier(random, 12, 7);
    const Results ordinary = run(problem, frontier);
    const Floats q = problem.queries(frontier);
    std::vector<std::uint16_t> half(problem.v.size());
    std::transform(problem.v.begin(), problem.v.end(), half.begin(), narrow);
    const bool halves = setting.type == KVType::kBFloat16;  // then values are given in bfloat16
    for (const bool before : {false, true}) {
      const auto guard = [&]<class T>(const std::vector<T>& values) {
        return std::make_unique<Guarded<T>>(values,
                                            before ? Guarded<T>::Side::kBefore : Guarded<T>::Side::kAfter);
      };
      const auto parent = guard(problem.shape.parent), nodes = guard(frontier);
      const auto token_ptr = guard(problem.shape.token_ptr);
      const auto segment = guard(problem.shape.segment);
      const auto k = guard(problem.k), v = guard(problem.v), queries = guard(q), u = guard(problem.u),
                 b = guard(problem.b);
      const auto w = guard(problem.w), c = guard(problem.c), bias = guard(problem.bias);
      const auto v_half = guard(half);
      Results empty(7, setting.width);
      const auto scores = guard(empty.scores), att = guard(empty.att), m = guard(empty.m), l = guard(empty.l),
                 o = guard(empty.o);

      const std::int64_t row = std::int64_t{setting.heads} * setting.width;
      PagedTree tree(problem.pool);
      const void* const values = halves ? static_cast<const void*>(v_half->data()) : v->data();
      tree.extend({parent->data(), 12}, {token_ptr->data(), 13}, {segment->data(), problem.shape.tokens()},
                  {k->data(), KVType::kFloat32, row, setting.width},
                  {values, setting.type, row, setting.width});
      const TriattHead head(setting.width, setting.hidden, u->data(), b->data(),
                            setting.hidden > 0 ? w->data() : nullptr,
                            setting.hidden > 0 ? c->data() : nullptr, bias->data());
      const svip::TriattOut out{scores->data(), att->data(), m->data(), l->data(), o->data()};
      Triatt triatt;
      triatt.run(tree, {nodes->data(), 7}, {queries->data(), false}, head, out);
      Results results(7, setting.width);
      results.scores = scores->values(), results.att = att->values();
      results.m = m->values(), results.l = l->values(), results.o = o->values();
      CHECK(results == ordinary);

      const auto query = guard(Floats(q.begin(), q.begin() + 3 * setting.width));
      triatt.scan(tree, 0, 7, query->data(), head, {}, false, out);
      const auto base_m = guard(m->values()), base_l = guard(l->values()), base_o = guard(o->values());
      triatt.scan(tree, 7, 12, query->data(), head, {base_m->data(), base_l->data(), base_o->data()}, false,
                  {scores->data() + 6, att->data() + 6 * setting.width, m->data() + 6, l->data() + 6,
                   o->data() + 6 * setting.width});
      for (const float score : scores->values()) CHECK(!std::isnan(score));
    }
  }
}

void calls_of_a_size_seen_before_allocate_nothing(std::mt19937& random) {
  for (const int heads : {1, 3}) {
    for (const KVType type : {KVType::kFloat32, KVType::kBFloat16}) {
      const Problem problem(random, {64, heads, 16, type, 0.0F}, 120, 70);
      Results results(120, 64);
      const Nodes all = problem.all();
      for (const int threads : {1, 4}) {
        Triatt triatt;
        const auto count = [&](const auto& call) {
          call(), call();
          const long before = testing::allocations;
          for (int i = 0; i < 20; ++i) call();
          return testing::allocations - before;
        };
        CHECK(count([&] {
                triatt.run(*problem.tree, all, {problem.q.data(), false}, *problem.head, results.out(),
                           {.threads = threads, .dots = true});
              }) == 0);
        CHECK(count([&] {
                triatt.scan(*problem.tree, 0, 120, problem.q.data(), *problem.head, {}, false, results.out(),
                            {.threads = threads, .dots = true});
              }) == 0);
      }
    }
  }
}

// Lets the first, second, ... allocation of a call fail, on whatever thread it happens.
void a_failed_allocation_is_reported_and_harms_nothing(std::mt19937& random) {
  const Problem problem(random, {32, 3, 0, KVType::kFloat32, 0.0F}, 60, 40);
  const Nodes all = problem.all();
  const Results good = run(problem, all);
  for (const bool scan : {false, true}) {
    Results before(60, 32);
    Triatt().scan(*problem.tree, 0, 60, problem.q.data(), *problem.head, {}, false, before.out());
    for (long at = 0;; ++at) {
      Triatt triatt;
      Results results(60, 32);
      const auto call = [&] {
        if (scan) {
          triatt.scan(*problem.tree, 0, 60, problem.q.data(), *problem.head, {}, false, results.out(),
                      {.threads = 4});
        } else {
          triatt.run(*problem.tree, all, {problem.q.data(), false}, *problem.head, results.out(),
                     {.threads = 4});
        }
      };
      testing::until_failure = at;
      const bool failed = throws<std::bad_alloc>(call);
      const bool reached = testing::until_failure.exchange(-1) < 0;
      CHECK(failed == reached);
      call();
      CHECK(results == (scan ? before : good));
      if (!reached) break;
    }
  }
}

void an_extend_without_memory_leaves_the_tree_as_it_was(std::mt19937& random) {
  const Shape shape = random_shape(random, 20, 40);
  const Floats rows = normal(random, shape.tokens() * 3);
  const KVSource source{rows.data(), KVType::kFloat32, 3, 3};
  for (long at = 0;; ++at) {
    const auto pool = std::make_shared<KVPool>(3, 1, KVType::kFloat32);
    PagedTree tree(pool);
    const auto extend = [&] { tree.extend(shape.parent, shape.token_ptr, shape.segment, source, source); };
    testing::until_failure = at;
    const bool failed = throws<std::bad_alloc>(extend);
    const bool reached = testing::until_failure.exchange(-1) < 0;
    CHECK(failed == reached);
    CHECK(!failed || (tree.size() == 0 && pool->pages_in_use() == 0));
    if (failed) extend();
    CHECK(tree.size() == 20 && pool->pages_in_use() == pages_needed(shape, std::vector<bool>(20)));
    if (!reached) break;
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::mt19937 random(testing::seed(argc, argv));
  the_plan_equals_a_brute_force_one(random);
  a_plan_too_large_for_its_numbers_is_refused();
  a_deep_chain_needs_no_stack();
  a_pool_refuses_what_it_has_not();
  pages_are_distinct_aligned_and_used_again(random);
  a_closed_pool_keeps_leased_memory();
  pages_go_back_with_their_last_living_descendant(random);
  what_is_refused_leaves_the_tree_as_it_was();
  setenv("SVIP_SIMD", "none such", 1);
  CHECK(throws<std::invalid_argument>([] { svip::simd_tier_name(); }));
  for (const std::string& tier : svip::simd_tiers()) {
    setenv("SVIP_SIMD", tier.c_str(), 1);
    CHECK(svip::simd_tier_name() == tier);
    scores_are_what_the_formula_says(random);
    scan_equals_run_with_a_constant_query(random);
    a_scan_in_pieces_gives_the_same_bits(random);
    roots_continue_given_states(random);
    blocks_threads_and_company_change_no_bit(random);
    nan_stays_on_its_path(random);
    nothing_is_read_or_written_outside(random);
  }
  unsetenv("SVIP_SIMD");
  bad_calls_throw_and_write_nothing(random);
  calls_of_a_size_seen_before_allocate_nothing(random);
  a_failed_allocation_is_reported_and_harms_nothing(random);
  an_extend_without_memory_leaves_the_tree_as_it_was(random);
  std::printf(failures == 0 ? "all passed\n" : "%d failed\n", failures.load());
  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
