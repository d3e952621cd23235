/* The C interface from C: the example of its header, and what it must give. */

#include <math.h>
#include <stdint.h>
#include <stdio.h>

#include "svip/triatt_c.h"

enum { WIDTH = 128, TOKENS = 20, DIMENSIONS = 3 };

static int failures = 0;

#define CHECK(condition)                                                                     \
  do {                                                                                       \
    if (!(condition)) {                                                                      \
      printf("%s:%d: failed: %s (%s)\n", __FILE__, __LINE__, #condition, svip_last_error()); \
      ++failures;                                                                            \
    }                                                                                        \
  } while (0)

int main(void) {
  static float k[TOKENS * DIMENSIONS * WIDTH], v[TOKENS * DIMENSIONS * WIDTH], q[DIMENSIONS * WIDTH];
  static float u[DIMENSIONS * WIDTH], att[DIMENSIONS * WIDTH];
  const float b[DIMENSIONS] = {0.0F, 1.0F, -1.0F};
  float bias[DIMENSIONS * 4] = {0.0F}, scores[DIMENSIONS] = {-1.0F, -1.0F, -1.0F};
  uint8_t segment[TOKENS];
  const int64_t n = TOKENS;
  svip_handle pool, tree, head;
  int32_t first = -1, size = -1;

  /* All keys are zero, so that every token of a class weighs the same: value t is t / TOKENS everywhere. */
  for (int t = 0; t < TOKENS; ++t) {
    segment[t] = t % 2; /* question and image by turns */
    for (int i = 0; i < DIMENSIONS * WIDTH; ++i) v[t * DIMENSIONS * WIDTH + i] = (float)t / TOKENS;
  }
  for (int i = 0; i < DIMENSIONS * WIDTH; ++i) {
    q[i] = 1.0F;
    u[i] = 1.0F / WIDTH;
  }
  bias[2 * 4 + 0] = -INFINITY; /* the last dimension does not look at the question */

  CHECK(svip_pool_create(WIDTH, 3, SVIP_FLOAT32, -1, &pool) == SVIP_OK);
  CHECK(svip_tree_create(pool, &tree) == SVIP_OK);
  CHECK(svip_head_create(WIDTH, 0, u, b, NULL, NULL, bias, &head) == SVIP_OK);
  CHECK(svip_tree_extend(tree, 1, (int32_t[]){-1}, (int64_t[]){0, n}, segment, k, v, SVIP_FLOAT32, &first) ==
        SVIP_OK);
  CHECK(first == 0);
  CHECK(svip_tree_size(tree, &size) == SVIP_OK && size == 1);
  CHECK(svip_triatt(tree, head, 1, &first, q, 0, scores, att, NULL, 0) == SVIP_OK);
  for (int c = 0; c < DIMENSIONS; ++c) {
    const double mean = c == 2 ? 10.0 / TOKENS : 9.5 / TOKENS; /* 1 3 .. 19, or 0 1 .. 19 */
    for (int i = 0; i < WIDTH; ++i) CHECK(fabs(att[c * WIDTH + i] - mean) < 1e-6);
    CHECK(fabs(scores[c] - 1 / (1 + exp(-mean - b[c]))) < 1e-6);
  }
  CHECK(svip_simd_tier() != NULL);
  CHECK(svip_triatt(tree, head, 1, (int32_t[]){1}, q, 0, scores, NULL, NULL, 0) == SVIP_RANGE);
  CHECK(svip_last_error()[0] != '\0');
  CHECK(svip_close(head) == SVIP_OK);
  CHECK(svip_close(tree) == SVIP_OK);
  CHECK(svip_close(pool) == SVIP_OK);
  CHECK(svip_close(pool) == SVIP_CLOSED);

  printf(failures == 0 ? "all passed\n" : "%d failed\n", failures);
  return failures != 0;
}
