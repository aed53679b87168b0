// One Qwen2 decoder layer for new tokens over KV slots, shared by the operator that runs one layer and the one that runs
// all.

#pragma once

#include <memory>
#include <vector>

#include "aot.h"
#include "kernels.h"

// A layer's tensors in the order in which operators take them.
enum LayerTensor {
  kNorm1,         // [hidden]
  kQkvWeight,     // panels
  kQkvBias,       // [(heads + 2 kv_heads) * dim]
  kOutWeight,     // panels
  kNorm2,         // [hidden]
  kGateUpWeight,  // panels, those of gate and up taking turns
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

// The tensors from `first` on, for rows of `hidden` numbers.
Fault ReadLayer(const Arguments &arguments, int first, int64_t hidden, float eps, Layer *layer);

// `tokens` rows of x from `row` on, for a slot that holds `live` tokens before them.
struct Segment {
  int64_t row, tokens, slot, live;
};

// What a layer needs beside its input and output for `rows` rows or fewer; layers of one form share it. Throws
// std::bad_alloc.
struct LayerBuffers {
  LayerBuffers(const Layer &layer, int64_t rows);

  const std::unique_ptr<float[]> normed, qkv, q, attended, middle, gated;
};

// x [rows, hidden] -> y, for segments that follow one another from row 0. cos, sin [rows, dim / 2]. Throws std::bad_alloc.
void RunLayer(const Layer &layer, const LayerBuffers &buffers, const std::vector<Segment> &segments, const float *x,
              const float *cos, const float *sin, float *y);
