// In eager MindSpore a layer is some 45 operators of 10 to 20 microseconds each. Here it is RMSNorm, q/k/v, rotary, the
// write of k and v into their slot, attention over the live rows alone, output projection, RMSNorm and the gated MLP, both
// residuals included. Defined by mindnlp_ocr/modeling/language.py (DecoderLayer) and tested against it.
//
// A row's bits depend on its own slot alone: every sum is taken by one thread in a fixed order, however many rows and
// threads there are, and whether its token came alone or in a prompt.

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
  *layer = {hidden,
            inner,
            heads,
            kv[1],
            dim,
            kv[0],
            kv[2],
            t[kKeys].dtype,
            t[kNorm1].Floats(),
            t[kQkvBias].Floats(),
            t[kNorm2].Floats(),
            AsWeight(t[kQkvWeight]),
            AsWeight(t[kOutWeight]),
            AsWeight(t[kGateUpWeight]),
            AsWeight(t[kDownWeight]),
            t[kKeys].Bytes(),
            t[kValues].Bytes(),
            eps};
  const bool fits = ValidHeads(heads, kv[1], dim) && t[kNorm1].Has({hidden}) && t[kNorm2].Has({hidden}) &&
                    HoldsPanels(t[kQkvWeight], Panels(layer->QkvWidth()), hidden) && t[kQkvBias].Has({layer->QkvWidth()}) &&
                    HoldsPanels(t[kOutWeight], Panels(hidden), layer->QueryWidth()) &&
                    HoldsPanels(t[kGateUpWeight], 2 * Panels(inner), hidden) &&
                    HoldsPanels(t[kDownWeight], Panels(hidden), inner) && t[kValues].Has({kv[0], kv[1], kv[2], kv[3]});
  return fits ? kOk : kWrongShape;
}

void RunLayer(const Layer &layer, const std::vector<Segment> &segments, const float *x, const float *cos, const float *sin,
              float *y) {
  const Kernels &kernels = Chosen();
  const int64_t hidden = layer.hidden, dim = layer.dim, heads = layer.heads, kv_heads = layer.kv_heads;
  const int64_t rows = segments.back().row + segments.back().tokens, query_width = layer.QueryWidth();
  const int64_t qkv_width = layer.QkvWidth(), row_bytes = dim * ItemSize(layer.kv_dtype);

  const auto buffer = [rows](int64_t width) { return std::unique_ptr<float[]>(new float[rows * width]); };
  const auto normed = buffer(hidden), qkv = buffer(qkv_width), q = buffer(query_width), attended = buffer(query_width);
  const auto middle = buffer(hidden), gated = buffer(layer.inner);
  ReserveScratch(ProductScratch(std::max({hidden, query_width, layer.inner})));
  std::vector<const Segment *> owner(rows);
  for (const Segment &segment : segments) {
    std::fill_n(owner.begin() + segment.row, segment.tokens, &segment);
  }

  Parallel([&](const Worker &worker) {
    worker.Static(rows,
                  [&](int64_t r) { kernels.rms_norm(x + r * hidden, layer.norm1, hidden, layer.eps, &normed[r * hidden]); });
    Multiply(worker,
             {normed.get(), rows, layer.qkv, hidden, qkv_width, layer.qkv_bias, Activation::kNone, nullptr, qkv.get()});
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
  Attend({Dtype::kFloat32, layer.kv_dtype, heads, kv_heads, dim, reinterpret_cast<const char *>(q.get()),
          reinterpret_cast<char *>(attended.get()), row_bytes, layer.length * row_bytes},
         units);

  Parallel([&](const Worker &worker) {
    Multiply(worker, {attended.get(), rows, layer.out, query_width, hidden, nullptr, Activation::kNone, x, middle.get()});
    worker.Static(rows, [&](int64_t r) {
      kernels.rms_norm(&middle[r * hidden], layer.norm2, hidden, layer.eps, &normed[r * hidden]);
    });
    Multiply(worker,
             {normed.get(), rows, layer.gate_up, hidden, layer.inner, nullptr, Activation::kSiluGate, nullptr, gated.get()});
    Multiply(worker, {gated.get(), rows, layer.down, layer.inner, hidden, nullptr, Activation::kNone, middle.get(), y});
  });
}
