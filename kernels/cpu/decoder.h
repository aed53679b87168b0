// One Qwen2 decoder layer for new tokens in KV slots, shared by the operator that runs one layer and the one that runs all.

#pragma once

#include <memory>
#include <vector>

#include "aot.h"
#include "kernels.h"

// The tensors of a layer, in the order of the operators' inputs.
enum LayerTensor {
  kNorm1,         // [hidden]
  kQkvWeight,     // panels
  kQkvBias,       // [(heads + 2 kv_heads) * dim]
  kOutWeight,     // panels
  kNorm2,         // [hidden]
  kGateUpWeight,  // panels of gate and up, alternating
  kDownWeight,    // panels
  kKeys,          // [slots, kv_heads, length, dim] of any float dtype
  kValues,        // as keys
  kLayerTensors
};

struct Layer {
  int64_t hidden, inner, heads, kv_heads, dim, slots, length;
  Dtype kv_dtype;
  const float *norm1, *qkv_bias, *norm2;
  Weight qkv, out, gate_up, down;
  char *keys, *values;
  float eps;

  int64_t QueryWidth() const { return heads * dim; }
  int64_t QkvWidth() const { return (heads + 2 * kv_heads) * dim; }
};

// Reads a layer from the tensors from `first` on, for rows of `hidden` numbers.
Fault ReadLayer(const Arguments &arguments, int first, int64_t hidden, float eps, Layer *layer);

// `tokens` rows of x from `row` on, for a slot that already contains `live` tokens.
struct Segment {
  int64_t row, tokens, slot, live;
};

// The intermediate results of a layer for up to `rows` rows. Layers of the same shape share them. Throws std::bad_alloc.
struct LayerBuffers {
  LayerBuffers(const Layer &layer, int64_t rows);

  const std::unique_ptr<float[]> normed, qkv, q, attended, middle, gated;
};

// Computes y from x [rows, hidden], for segments whose rows are contiguous from row 0. cos, sin [rows, dim / 2]. Throws
// std::bad_alloc.
void RunLayer(const Layer &layer, const LayerBuffers &buffers, const std::vector<Segment> &segments, const float *x,
              const float *cos, const float *sin, float *y);
