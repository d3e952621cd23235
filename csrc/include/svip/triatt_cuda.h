/* The tri-head tree attention on an NVIDIA GPU, as a plain C interface.
 *
 * In words.  The queries of a frontier stand sorted so that those of every subtree are neighbours, 16 to a
 * block.  A block's work is a list of tiles: tokens of one node, and the run of the block's rows that see
 * them.  A program takes a piece of one block's list, keeps a softmax (m, l, o) for each of its rows while it
 * reads every key and value of the piece once, and writes that partial result.  A second kernel merges the
 * partial results of a row, applies the head and the sigmoid.
 *
 *     logit = scale * q . k + bias[dimension, column],   out = sum exp(logit - m) v / sum exp(logit - m)
 *
 * column is the segment of the token (0 question, 1 image, 2 step); a step token has column 3 for the rows of
 * the node that owns it.
 *
 * Scan.  With queries that are the same for every node, a node needs its own tokens and the state of its
 * parent only.  A scan has two rows a node, both seeing the node's own tokens and no others: row 2n takes
 * them as "this step" and becomes the score of n, row 2n + 1 takes them as "earlier step" and becomes the
 * state that children of n continue from.  The second kernel follows `next` from row to row up to a root.
 *
 * Does not apply to float64 (the caller refuses it) nor to gradients.
 *
 * Every pointer is a device address; nothing is allocated, nothing waits, all work goes to `stream`, so a
 * call can be captured in a CUDA graph.  Results are the same for every run of the same call on one kind of
 * device.  Sources: M. Milakov and N. Gimelshein, "Online normalizer calculation for softmax", 2018;
 * T. Dao et al., "FlashAttention", NeurIPS 2022, and "Flash-Decoding", 2023 (splits and their merge).
 */

#ifndef SVIP_TRIATT_CUDA_H
#define SVIP_TRIATT_CUDA_H

#include <stdint.h>

#if defined(__GNUC__)
#define SVIP_TRIATT_CUDA_API __attribute__((visibility("default")))
#else
#define SVIP_TRIATT_CUDA_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum { SVIP_FLOAT32 = 0, SVIP_BFLOAT16 = 1, SVIP_FLOAT16 = 2 };

/* Rows of a query block: the `block` of the plan. */
enum { SVIP_TRIATT_CUDA_BLOCK = 16 };

typedef struct svip_triatt_cuda_call {
  int32_t struct_size; /* sizeof(svip_triatt_cuda_call): another version of this header is refused */
  int32_t device;      /* ordinal; negative for the current one */
  int32_t kv_type;     /* of k and v */
  int32_t q_type;      /* of q */
  int32_t width;       /* d, 1 to 256; a row of k must be a multiple of 16 bytes */
  int32_t n_kv_heads;  /* 1 or 3 */
  int32_t hidden;      /* F of a head of two layers, 0 for a linear one */
  int32_t n_rows;      /* M, or 2 N of a scan */
  int32_t n_programs;  /* G */
  int32_t n_tiles;     /* W */
  float scale;         /* 1 / sqrt(d) */
  int64_t q_stride;    /* elements from the queries of one frontier entry to the next; 0: the same for all */

  const void* k; /* [T, n_kv_heads, d], aligned to 16 bytes, as is v */
  const void* v;
  const void* q;           /* [M, 3, d] or [3, d] */
  const float* bias;       /* [3, 4] or NULL for zeros */
  const int32_t* order;    /* [M], row -> frontier entry; not read by a scan */
  const int32_t* tiles;    /* [W, 5] = token, n_tokens, row_begin, row_own, row_end */
  const uint8_t* segment;  /* [T] */
  const int32_t* programs; /* [G, 4] = row_begin, row_end, tile_begin, tile_end */
  const int32_t* slots;    /* [ceil(n_rows / 16) + 1], first program of every block */

  /* Scan only, else NULL: the row whose softmax comes before this one's, -1 for none, or -2 - i for row i of
   * the states that came in: m, l [R, 3], o [R, 3, d]. */
  const int32_t* next;
  const float* first_m;
  const float* first_l;
  const float* first_o;

  const float* u; /* head: [3, d], or [3, F] with w */
  const float* b; /* [3] */
  const float* w; /* [3, F, d] */
  const float* c; /* [3, F] */

  float* workspace; /* svip_triatt_cuda_workspace() floats; 16-byte aligned */
  float* scores;    /* [M, 3]; of a scan [N, 3], and so on */
  float* att;       /* [M, 3, d] or NULL */
  float* m;         /* [M, 3] or NULL, together with l and o */
  float* l;         /* [M, 3] */
  float* o;         /* [M, 3, d] */
  void* stream;     /* cudaStream_t */
} svip_triatt_cuda_call;

/* Most tokens of a tile for keys of this type and width; 0 where they are not supported. */
SVIP_TRIATT_CUDA_API int32_t svip_triatt_cuda_tile(int32_t kv_type, int32_t width);

/* Floats of workspace for this many programs. */
SVIP_TRIATT_CUDA_API int64_t svip_triatt_cuda_workspace(int32_t n_programs, int32_t width);

/* What is wrong with a call, or NULL.  Looks at the struct alone, touches no device. */
SVIP_TRIATT_CUDA_API const char* svip_triatt_cuda_check(const svip_triatt_cuda_call* call);

/* Queues both kernels.  Returns a cudaError_t, 0 for success, and cudaErrorInvalidValue where `check`
 * objects. */
SVIP_TRIATT_CUDA_API int svip_triatt_cuda_launch(const svip_triatt_cuda_call* call);

/* The text of an error that `launch` returned. */
SVIP_TRIATT_CUDA_API const char* svip_triatt_cuda_error(int code);

#ifdef __cplusplus
}
#endif

#endif
