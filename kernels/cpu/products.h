// Matrix products over all threads.

#pragma once

#include "aot.h"
#include "kernels.h"
#include "threads.h"

// What Multiply needs of each thread's scratch: floats, or bytes padded to tiles (tiles.inc), which are more where the
// inputs are few.
constexpr int64_t ProductScratch(int64_t in) { return kQueryRows * (in > 32 ? in : 32); }
constexpr int64_t Panels(int64_t out) { return (out + kPanel - 1) / kPanel; }

// Whether a tensor [panels, rows, kPanel] can be so many panels of `in` inputs.
inline bool HoldsPanels(const Tensor &tensor, int64_t panels, int64_t in) {
  return tensor.Has({panels, PanelRows(tensor.dtype, in), kPanel}) && (tensor.dtype != Dtype::kInt8 || in % 4 == 0);
}

// Row `id` of an embedding that is packed as a weight whose outputs are the vocabulary.
void ReadRow(const Weight &weight, int64_t in, int64_t id, float *y);

// The largest of n logits, of equal ones the first, and the logarithm of its probability.
struct Choice {
  int32_t token;
  float log_probability;
};
Choice Choose(const float *logits, int64_t n);

// To be called by all threads of the team, with ProductScratch(in) floats or more each; the answer is complete when it
// returns.
void Multiply(const Worker &worker, const Product &product);
