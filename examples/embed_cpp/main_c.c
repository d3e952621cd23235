/* What main.cpp does, through the C interface. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "svip/triatt_c.h"

enum { WIDTH = 64, HEADS = 3, NODES = 4, TOKENS = 60, LEAVES = 2 };

/* Stands for what a model would give: scrambled numbers between -1 and 1. */
static void fill(float* values, uint32_t n, uint32_t first) {
  for (uint32_t j = 0; j < n; ++j) {
    uint32_t i = (first + j) * 2654435761U;
    i = (i ^ i >> 15) * 2246822519U;
    values[j] = (float)((i ^ i >> 13) >> 8) / (float)(1U << 23) - 1.0F;
  }
}

static void check(svip_status status) {
  if (status == SVIP_OK) return;
  fprintf(stderr, "%s\n", svip_last_error());
  exit(EXIT_FAILURE);
}

int main(void) {
  static float k[TOKENS * HEADS * WIDTH], v[TOKENS * HEADS * WIDTH], q[LEAVES * 3 * WIDTH];
  static float u[3 * WIDTH];
  const float b[3] = {0.0F, 0.5F, -0.5F};
  const int32_t parent[NODES] = {-1, 0, 1, 0}, frontier[LEAVES] = {2, 3};
  const int64_t token_ptr[NODES + 1] = {0, 30, 40, 55, 60};
  uint8_t segment[TOKENS];
  float scores[LEAVES * 3];
  int32_t first;

  for (int t = 0; t < TOKENS; ++t) segment[t] = t < 12 ? 0 : t < 30 ? 1 : 2; /* question, image, step */
  fill(k, TOKENS * HEADS * WIDTH, 0);
  fill(v, TOKENS * HEADS * WIDTH, 1000000);
  fill(u, 3 * WIDTH, 2000000);
  fill(q, LEAVES * 3 * WIDTH, 3000000);

  svip_handle pool, tree, head;
  check(svip_pool_create(WIDTH, HEADS, SVIP_FLOAT32, -1, &pool));
  check(svip_tree_create(pool, &tree));
  check(svip_head_create(WIDTH, 0, u, b, NULL, NULL, NULL, &head));
  check(svip_tree_extend(tree, NODES, parent, token_ptr, segment, k, v, SVIP_FLOAT32, &first));
  check(svip_triatt(tree, head, LEAVES, frontier, q, 0, scores, NULL, NULL, 0));
  for (int i = 0; i < LEAVES; ++i) {
    printf("node %d: relevance %.5f, logic %.5f, attribute %.5f\n", (int)frontier[i], scores[i * 3],
           scores[i * 3 + 1], scores[i * 3 + 2]);
  }
  check(svip_close(head));
  check(svip_close(tree));
  check(svip_close(pool));
  return EXIT_SUCCESS;
}
