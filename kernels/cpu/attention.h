// Tiled attention with an online softmax over any number of independent units, shared by the operators.

#pragma once

#include <vector>

#include "aot.h"
#include "kernels.h"

// Consecutive query tokens over one set of keys and values: an image, a prompt or a slot.
struct Unit {
  int64_t first, tokens;  // rows of q and y
  const char *k, *v;      // of the first key and head
  int64_t keys;
  int64_t before;  // causal: token i sees before + i + 1 keys. Negative: every token sees all keys
};

// Tensors as bytes. q and y: [tokens, heads, dim] of one dtype; keys and values: rows kv_stride bytes apart, heads
// kv_head_stride.
struct AttentionProblem {
  Dtype dtype, kv_dtype;
  int64_t heads, kv_heads, dim;
  const char *q;
  char *y;
  int64_t kv_stride, kv_head_stride;
};

// The images that int32 [images + 1] bounds; without their keys and values.
Fault ReadImages(const Tensor &starts, int64_t patches, std::vector<Unit> *images);

// Memory in use beside the answer: O(keys) for the largest unit. Throws std::bad_alloc.
void Attend(const AttentionProblem &problem, const std::vector<Unit> &units);
