// Tiled attention with an online softmax over any number of independent units, shared by the operators.

#pragma once

#include <vector>

#include "aot.h"
#include "kernels.h"

// Consecutive query tokens that attend to one set of keys and values: an image, a prompt or a slot.
struct Unit {
  int64_t first, tokens;  // rows of q and y
  const char *k, *v;      // address of the first key and value of the first head
  int64_t keys;
  int64_t before;  // causal: token i sees before + i + 1 keys. Negative: every token sees all keys
};

// Tensors as bytes. q and y: [tokens, heads, dim] of one dtype. In keys and values, rows are kv_stride bytes apart, and
// heads kv_head_stride bytes.
struct AttentionProblem {
  Dtype dtype, kv_dtype;
  int64_t heads, kv_heads, dim;
  const char *q;
  char *y;
  int64_t kv_stride, kv_head_stride;
};

// Reads the images from their bounds, int32 [images + 1]. Their keys and values are not set.
Fault ReadImages(const Tensor &starts, int64_t patches, std::vector<Unit> *images);

// Computes y. The additional memory is O(keys) of the largest unit. Throws std::bad_alloc.
void Attend(const AttentionProblem &problem, const std::vector<Unit> &units);
