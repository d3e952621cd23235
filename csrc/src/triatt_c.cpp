#include "svip/triatt_c.h"

#include <memory>
#include <mutex>
#include <new>
#include <shared_mutex>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <variant>

#include "svip/triatt.h"

namespace {

using svip::KVPool;
using svip::KVSource;
using svip::KVType;
using svip::PagedTree;
using svip::Triatt;
using svip::TriattHead;
using svip::TriattOut;
using svip::TriattState;

using Pool = std::shared_ptr<KVPool>;
using Tree = std::shared_ptr<PagedTree>;
using Head = std::shared_ptr<const TriattHead>;
using Object = std::variant<Pool, Tree, Head>;

struct Registry {
  std::mutex mutex;
  std::unordered_map<svip_handle, Object> objects;
  svip_handle last = 0;
};

Registry& registry() {
  static Registry* const one = new Registry;  // outlives every thread that might still call
  return *one;
}

// The message of a thread, in memory that a failing allocation cannot need.
thread_local char message[512];

svip_status fail(svip_status status, const char* text) {
  std::size_t i = 0;
  for (; i + 1 < sizeof message && text[i] != '\0'; ++i) message[i] = text[i];
  message[i] = '\0';
  return status;
}

template <class F>
svip_status guarded(F&& f) noexcept {
  try {
    f();
    return SVIP_OK;
  } catch (const std::invalid_argument& error) {
    return fail(SVIP_INVALID, error.what());
  } catch (const std::out_of_range& error) {
    return fail(SVIP_RANGE, error.what());
  } catch (const std::length_error& error) {
    return fail(SVIP_FULL, error.what());
  } catch (const std::logic_error& error) {  // the base of the three above: last
    return fail(SVIP_CLOSED, error.what());
  } catch (const std::bad_alloc&) {
    return fail(SVIP_NO_MEMORY, "There is not enough memory.");
  } catch (const std::exception& error) {
    return fail(SVIP_FAILED, error.what());
  }
}

void require(const void* pointer, const char* name) {
  if (pointer == nullptr) throw std::invalid_argument("`" + std::string(name) + "` must not be null.");
}

void require_count(std::int64_t n, const char* name) {
  if (n < 0 || n > INT32_MAX) {
    throw std::invalid_argument("`" + std::string(name) + "` must be 0..2^31 - 1; got " + std::to_string(n) +
                                ".");
  }
}

KVType type_of(svip_type type) {
  if (type != SVIP_FLOAT32 && type != SVIP_BFLOAT16) {
    throw std::invalid_argument("`type` must be SVIP_FLOAT32 or SVIP_BFLOAT16; got " + std::to_string(type) +
                                ".");
  }
  return type == SVIP_FLOAT32 ? KVType::kFloat32 : KVType::kBFloat16;
}

void add(Object object, svip_handle* handle) {
  Registry& all = registry();
  const std::scoped_lock lock(all.mutex);
  all.objects.emplace(all.last + 1, std::move(object));
  *handle = ++all.last;
}

template <class T>
T find(svip_handle handle, const char* name) {
  Registry& all = registry();
  const std::scoped_lock lock(all.mutex);
  const auto found = all.objects.find(handle);
  if (found == all.objects.end()) {
    throw std::logic_error("`" + std::string(name) + "` must be an open handle; got " +
                           std::to_string(handle) + ".");
  }
  if (const T* const object = std::get_if<T>(&found->second)) return *object;
  throw std::invalid_argument("`" + std::string(name) + "` is a handle of another kind.");
}

Triatt& workspace() {
  thread_local Triatt one;
  return one;
}

TriattOut out_of(float* scores, float* att, float* const state[3]) {
  if (state == nullptr) return {scores, att, nullptr, nullptr, nullptr};
  return {scores, att, state[0], state[1], state[2]};
}

}  // namespace

extern "C" {

const char* svip_last_error(void) { return message; }

const char* svip_simd_tier(void) {
  thread_local std::string name;
  return guarded([] { name = svip::simd_tier_name(); }) == SVIP_OK ? name.c_str() : nullptr;
}

svip_status svip_pool_create(int32_t width, int32_t n_kv_heads, svip_type type, int64_t capacity,
                             svip_handle* pool) {
  return guarded([&] {
    require(pool, "pool");
    add(std::make_shared<KVPool>(width, n_kv_heads, type_of(type), capacity), pool);
  });
}

svip_status svip_tree_create(svip_handle pool, svip_handle* tree) {
  return guarded([&] {
    require(tree, "tree");
    add(std::make_shared<PagedTree>(find<Pool>(pool, "pool")), tree);
  });
}

svip_status svip_head_create(int32_t width, int32_t hidden, const float* u, const float* b, const float* w,
                             const float* c, const float* bias, svip_handle* head) {
  return guarded([&] {
    require(head, "head");
    add(Head(std::make_shared<TriattHead>(width, hidden, u, b, w, c, bias)), head);
  });
}

svip_status svip_tree_extend(svip_handle tree, int64_t n, const int32_t* parent, const int64_t* token_ptr,
                             const uint8_t* segment, const void* k, const void* v, svip_type type,
                             int32_t* first) {
  return guarded([&] {
    const Tree to = find<Tree>(tree, "tree");
    require_count(n, "n");
    require(parent, "parent");
    require(token_ptr, "token_ptr");
    require(first, "first");
    const auto count = static_cast<std::size_t>(n);
    const std::int64_t tokens = token_ptr[count];
    require_count(tokens, "token_ptr");
    if (tokens > 0) {
      require(segment, "segment");
      require(k, "k");
      require(v, "v");
    }
    const std::int64_t width = to->pool()->width(), row = width * to->pool()->n_kv_heads();
    const std::unique_lock lock(to->mutex);
    *first = to->extend({parent, count}, {token_ptr, count + 1}, {segment, static_cast<std::size_t>(tokens)},
                        KVSource{k, type_of(type), row, width}, KVSource{v, type_of(type), row, width});
  });
}

svip_status svip_tree_free(svip_handle tree, int32_t node) {
  return guarded([&] {
    const Tree from = find<Tree>(tree, "tree");
    const std::unique_lock lock(from->mutex);
    from->free(node);
  });
}

svip_status svip_tree_size(svip_handle tree, int32_t* size) {
  return guarded([&] {
    const Tree of = find<Tree>(tree, "tree");
    require(size, "size");
    const std::shared_lock lock(of->mutex);
    *size = of->size();
  });
}

svip_status svip_triatt(svip_handle tree, svip_handle head, int64_t m, const int32_t* frontier,
                        const float* q, int32_t constant_q, float* scores, float* att, float* const state[3],
                        int32_t threads) {
  return guarded([&] {
    const Tree of = find<Tree>(tree, "tree");
    const Head by = find<Head>(head, "head");
    require_count(m, "m");
    if (m > 0) require(frontier, "frontier");
    workspace().run(*of, {frontier, static_cast<std::size_t>(m)}, {q, constant_q != 0}, *by,
                    out_of(scores, att, state), {.threads = threads});
  });
}

svip_status svip_triatt_scan(svip_handle tree, svip_handle head, int32_t first, int32_t last, const float* q,
                             const float* const base[3], float* scores, float* att, float* const state[3],
                             int32_t threads) {
  return guarded([&] {
    const Tree of = find<Tree>(tree, "tree");
    const Head by = find<Head>(head, "head");
    const TriattState from = base == nullptr ? TriattState{} : TriattState{base[0], base[1], base[2]};
    workspace().scan(*of, first, last, q, *by, from, false, out_of(scores, att, state), {.threads = threads});
  });
}

svip_status svip_close(svip_handle handle) {
  return guarded([&] {
    Object gone;
    {
      Registry& all = registry();
      const std::scoped_lock lock(all.mutex);
      const auto found = all.objects.find(handle);
      if (found == all.objects.end()) {
        throw std::logic_error("`handle` must be an open handle; got " + std::to_string(handle) + ".");
      }
      gone = std::move(found->second);
      all.objects.erase(found);
    }
    if (const Pool* const pool = std::get_if<Pool>(&gone)) (*pool)->close();
    if (const Tree* const tree = std::get_if<Tree>(&gone)) {
      const std::unique_lock lock((*tree)->mutex);
      (*tree)->close();
    }
  });
}

}  // extern "C"
