/* Tri-head tree attention for any language: opaque handles, raw pointers, status codes.
 *
 * A handle is a number that is never used twice, so a stale one is an error and not a crash.  All arrays are
 * dense, in C order, and read or written during the call only.  Functions may be called from any thread; two
 * calls that change one tree wait for each other.  What the operation computes stands in triatt.h.
 *
 *     svip_handle pool, tree, head;
 *     svip_pool_create(128, 3, SVIP_FLOAT32, -1, &pool);
 *     svip_tree_create(pool, &tree);
 *     svip_head_create(128, 0, u, b, NULL, NULL, bias, &head);
 *     svip_tree_extend(tree, 1, (int32_t[]){-1}, (int64_t[]){0, n}, segment, k, v, SVIP_FLOAT32, &first);
 *     svip_triatt(tree, head, 1, &first, q, 0, scores, NULL, NULL, 0);
 *     svip_close(head); svip_close(tree); svip_close(pool);
 */

#ifndef SVIP_TRIATT_C_H
#define SVIP_TRIATT_C_H

#include <stdint.h>

#if defined(__cplusplus)
extern "C" {
#endif

typedef uint64_t svip_handle;

typedef int32_t svip_type; /* a number, so that a wrong one can be told from a right one */
enum { SVIP_FLOAT32 = 0, SVIP_BFLOAT16 = 1 };

typedef enum {
  SVIP_OK = 0,
  SVIP_INVALID = 1, /* an argument is not as described */
  SVIP_RANGE = 2,   /* no such node */
  SVIP_CLOSED = 3,  /* a closed handle or a freed node */
  SVIP_FULL = 4,    /* the pool has no pages left */
  SVIP_NO_MEMORY = 5,
  SVIP_FAILED = 6
} svip_status;

/* Message of the last call of this thread that did not return SVIP_OK; valid until the next call. */
const char* svip_last_error(void);

/* Name of the SIMD tier in use, or null (and an error) if SVIP_SIMD names none. */
const char* svip_simd_tier(void);

/* capacity: most tokens; negative for as many as fit in memory. */
svip_status svip_pool_create(int32_t width, int32_t n_kv_heads, svip_type type, int64_t capacity,
                             svip_handle* pool);
svip_status svip_tree_create(svip_handle pool, svip_handle* tree);

/* u [3][hidden, or width if hidden is 0], b [3], w [3][hidden][width] and c [3][hidden] null if hidden is 0,
 * bias [3][4] or null. */
svip_status svip_head_create(int32_t width, int32_t hidden, const float* u, const float* b, const float* w,
                             const float* c, const float* bias, svip_handle* head);

/* Adds n nodes with consecutive indices and gives the first: parent [n], token_ptr [n + 1], segment [tokens],
 * k and v [tokens][n_kv_heads][width] of `type` (bfloat16 as uint16_t). */
svip_status svip_tree_extend(svip_handle tree, int64_t n, const int32_t* parent, const int64_t* token_ptr,
                             const uint8_t* segment, const void* k, const void* v, svip_type type,
                             int32_t* first);
svip_status svip_tree_free(svip_handle tree, int32_t node);
svip_status svip_tree_size(svip_handle tree, int32_t* size);

/* scores [m][3]; att [m][3][width] or null; state: null or m [m][3], l [m][3], o [m][3][width].
 * q [m][3][width], or [3][width] if constant_q is not 0.  threads 0: chosen. */
svip_status svip_triatt(svip_handle tree, svip_handle head, int64_t m, const int32_t* frontier,
                        const float* q, int32_t constant_q, float* scores, float* att, float* const state[3],
                        int32_t threads);

/* Scores of the nodes first..last (exclusive) for the query q [3][width]; base: null, or the states of the
 * nodes 0..first. */
svip_status svip_triatt_scan(svip_handle tree, svip_handle head, int32_t first, int32_t last, const float* q,
                             const float* const base[3], float* scores, float* att, float* const state[3],
                             int32_t threads);

/* Ends the use of a pool, tree or head.  Trees of a closed pool cannot be used any more. */
svip_status svip_close(svip_handle handle);

#if defined(__cplusplus)
}
#endif

#endif
