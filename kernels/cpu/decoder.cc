// In eager MindSpore, a layer consists of about 45 operators of 10 to 20 microseconds each. Here, one function computes
// RMSNorm, q/k/v, the rotation, the write of k and v to their slot, attention over the live rows only, the output
// projection, RMSNorm and the gated MLP, with both residuals. DecoderLayer in mindnlp_ocr/modeling/language.py is the
// definition, against which it is tested.
//
// The bits of a row depend only on its own slot: one thread computes each sum in a fixed order, regardless of the number of
// rows and threads, and of whether the token came alone or in a prompt.

#include "decoder.h"

#include <algorithm>
#include <memory>

#include "attention.h"
#include "products.h"

Fault ReadLayer(const Arguments &arguments, int first, int64_t hidden, float eps, Layer *layer) {
  constexpr int kRanks[] = {1, 3, 1, 3, 1, 3, 3, 4, 4};
  Tensor t[kLayerTensors];
  for (int i = 0; i < kLayerTensors; ++i) {
    t[i] = arguments[first + i];
    if (t[i].rank != kRanks[i]) return kWrongRank;
    const bool held = i == kKeys || i == kValues;
    if (t[i].rank == 3 ? !IsWeight(t[i].dtype) : held ? !IsFloat(t[i].dtype) : t[i].dtype != Dtype::kFloat32) {
      return kWrongDtype;
    }
  }
  if (t[kKeys].dtype != t[kValues].dtype) return kWrongDtype;
  const auto inputs = [&t](int i) { return Inputs(t[i].dtype, t[i].shape[1]); };
  const int64_t *kv = t[kKeys].shape, dim = kv[3], inner = inputs(kDownWeight);
  const int64_t heads = dim > 0 ? inputs(kOutWeight) / dim : 0;
  *layer = {.hidden = hidden,
            .inner = inner,
            .heads = heads,
            .kv_heads = kv[1],
            .dim = dim,
            .slots = kv[0],
            .length = kv[2],
            .kv_dtype = t[kKeys].dtype,
            .norm1 = t[kNorm1].Floats(),
            .qkv_bias = t[kQkvBias].Floats(),
            .norm2 = t[kNorm2].Floats(),
            .qkv = AsWeight(t[kQkvWeight]),
            .out = AsWeight(t[kOutWeight]),
            .gate_up = AsWeight(t[kGateUpWeight]),
            .down = AsWeight(t[kDownWeight]),
            .keys = t[kKeys].Bytes(),
            .values = t[kValues].Bytes(),
            .eps = eps};
  const bool fits = ValidHeads(heads, kv[1], dim) && t[kNorm1].Has({hidden}) && t[kNorm2].Has({hidden}) &&
                    HoldsPanels(t[kQkvWeight], Panels(layer->QkvWidth()), hidden) && t[kQkvBias].Has({layer->QkvWidth()}) &&
                    HoldsPanels(t[kOutWeight], Panels(hidden), layer->QueryWidth()) &&
                    HoldsPanels(t[kGateUpWeight], 2 * Panels(inner), hidden) &&
                    HoldsPanels(t[kDownWeight], Panels(hidden), inner) && t[kValues].Has({kv[0], kv[1], kv[2], kv[3]});
  return fits ? kOk : kWrongShape;
}

LayerBuffers::LayerBuffers(const Layer &layer, int64_t rows)
    : normed(new float[rows * layer.hidden]),
      qkv(new float[rows * layer.QkvWidth()]),
      q(new float[rows * layer.QueryWidth()]),
      attended(new float[rows * layer.QueryWidth()]),
      middle(new float[rows * layer.hidden]),
      gated(new float[rows * layer.inner]) {}

void RunLayer(const Layer &layer, const LayerBuffers &buffers, const std::vector<Segment> &segments, const float *x,
              const float *cos, const float *sin, float *y) {
  const Kernels &kernels = Chosen();
  const int64_t hidden = layer.hidden, dim = layer.dim, heads = layer.heads, kv_heads = layer.kv_heads;
  const int64_t rows = segments.back().row + segments.back().tokens, query_width = layer.QueryWidth();
  const int64_t qkv_width = layer.QkvWidth(), row_bytes = dim * ItemSize(layer.kv_dtype);

  float *normed = buffers.normed.get(), *qkv = buffers.qkv.get(), *q = buffers.q.get();
  float *attended = buffers.attended.get(), *middle = buffers.middle.get(), *gated = buffers.gated.get();
  std::vector<const Segment *> owner(rows);
  for (const Segment &segment : segments) {
    std::fill_n(owner.begin() + segment.row, segment.tokens, &segment);
  }

  Parallel(ProductScratch(hidden), [&](const Worker &worker) {
    worker.Static(rows,
                  [&](int64_t r) { kernels.rms_norm(x + r * hidden, layer.norm1, hidden, layer.eps, &normed[r * hidden]); });
    Multiply(worker,
             {.x = normed, .rows = rows, .w = layer.qkv, .in = hidden, .out = qkv_width, .bias = layer.qkv_bias, .y = qkv});
    worker.Static(rows, [&](int64_t r) {
      const Segment &segment = *owner[r];
      const float *c = cos + r * (dim / 2), *s = sin + r * (dim / 2), *from = &qkv[r * qkv_width];
      for (int64_t h = 0; h < heads; ++h) kernels.rotate(from + h * dim, c, s, dim / 2, &q[(r * heads + h) * dim]);
      for (int64_t g = 0; g < kv_heads; ++g) {
        const int64_t at = (segment.slot * kv_heads + g) * layer.length + segment.live + r - segment.row;
        float turned[kMaxDim];
        kernels.rotate(from + (heads + g) * dim, c, s, dim / 2, turned);
        kernels.from_float(layer.kv_dtype, turned, dim, layer.keys + at * row_bytes);
        kernels.from_float(layer.kv_dtype, from + (heads + kv_heads + g) * dim, dim, layer.values + at * row_bytes);
      }
    });
  });

  std::vector<Unit> units;
  for (const Segment &segment : segments) {
    const int64_t slot = segment.slot * kv_heads * layer.length * row_bytes;
    units.push_back(
        {segment.row, segment.tokens, layer.keys + slot, layer.values + slot, segment.live + segment.tokens, segment.live});
  }
  Attend({.dtype = Dtype::kFloat32,
          .kv_dtype = layer.kv_dtype,
          .heads = heads,
          .kv_heads = kv_heads,
          .dim = dim,
          .q = reinterpret_cast<const char *>(q),
          .y = reinterpret_cast<char *>(attended),
          .kv_stride = row_bytes,
          .kv_head_stride = layer.length * row_bytes},
         units);

  Parallel(ProductScratch(std::max({hidden, query_width, layer.inner})), [&](const Worker &worker) {
    Multiply(worker,
             {.x = attended, .rows = rows, .w = layer.out, .in = query_width, .out = hidden, .residual = x, .y = middle});
    worker.Static(rows, [&](int64_t r) {
      kernels.rms_norm(&middle[r * hidden], layer.norm2, hidden, layer.eps, &normed[r * hidden]);
    });
    Multiply(worker, {.x = normed,
                      .rows = rows,
                      .w = layer.gate_up,
                      .in = hidden,
                      .out = layer.inner,
                      .activation = Activation::kSiluGate,
                      .y = gated});
    Multiply(worker,
             {.x = gated, .rows = rows, .w = layer.down, .in = layer.inner, .out = hidden, .residual = middle, .y = y});
  });
}
