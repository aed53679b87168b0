// Matrix products over all threads.

#pragma once

#include "aot.h"
#include "kernels.h"
#include "threads.h"

// The number of floats that Multiply needs in the scratch memory of each thread: for rows of floats, or for rows of bytes
// padded to tiles (tiles.inc), which need more if there are few inputs.
constexpr int64_t ProductScratch(int64_t in) { return kQueryRows * (in > 32 ? in : 32); }
constexpr int64_t Panels(int64_t out) { return (out + kPanel - 1) / kPanel; }

// Whether a tensor [panels, rows, kPanel] has the shape of `panels` panels of `in` inputs.
inline bool HoldsPanels(const Tensor &tensor, int64_t panels, int64_t in) {
  return tensor.Has({panels, PanelRows(tensor.dtype, in), kPanel}) && (tensor.dtype != Dtype::kInt8 || in % 4 == 0);
}

// Reads row `id` of an embedding that is packed as a weight whose outputs are the vocabulary.
void ReadRow(const Weight &weight, int64_t in, int64_t id, float *y);

// The index of the largest of n logits (the first of equal ones), and the logarithm of its probability.
struct Choice {
  int32_t token;
  float log_probability;
};
Choice Choose(const float *logits, int64_t n);

// Must be called by all threads of the team, each with at least ProductScratch(in) floats. The answer is complete when it
// returns.
void Multiply(const Worker &worker, const Product &product);
