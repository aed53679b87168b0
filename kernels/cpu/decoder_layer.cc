// One Qwen2 decoder layer for new tokens over KV slots, as a MindSpore AOT custom op: a prompt, the rest of a prompt whose
// beginning a slot holds, or one token each of many slots.
//
// In eager MindSpore the layer is some 45 operators of 10 to 20 microseconds each. Here it is one: RMSNorm, q/k/v, rotary,
// the write of k and v into their slot, attention over the live rows alone, output projection, RMSNorm and the gated MLP,
// both residuals included. Defined by mindnlp_ocr/modeling/language.py (DecoderLayer) and tested against it.
//
// A row's bits depend on its own slot alone: every sum is taken by one thread in a fixed order, however many rows and
// threads there are, and whether its token came alone or in a prompt.

#include <algorithm>
#include <memory>
#include <new>
#include <vector>

#include "aot.h"
#include "attention.h"
#include "products.h"

namespace {

enum Parameter {
  kX,
  kNorm1,
  kQkvWeight,
  kQkvBias,
  kOutWeight,
  kNorm2,
  kGateUpWeight,
  kDownWeight,
  kCos,
  kSin,
  kKeys,
  kValues,
  kSlots,
  kLive,
  kCount,
  kEps,
  kY,
  kParameters
};
constexpr int kRanks[kParameters] = {2, 1, 3, 1, 3, 1, 3, 3, 2, 2, 4, 4, 1, 1, 1, 1, 2};

// What the tensors' shapes say.
struct Sizes {
  int64_t rows, hidden, inner, heads, kv_heads, dim, slots, length, segments, tokens;
  Dtype kv_dtype;

  int64_t QueryWidth() const { return heads * dim; }
  int64_t QkvWidth() const { return (heads + 2 * kv_heads) * dim; }
};

Fault ReadSizes(int *ndims, int64_t **shapes, const char **dtypes, Sizes *out) {
  for (int i = 0; i < kParameters; ++i) {
    if (ndims[i] != kRanks[i]) return kWrongRank;
    const Dtype dtype = ParseDtype(dtypes[i]);
    const bool integer = i == kSlots || i == kLive || i == kCount, held = i == kKeys || i == kValues;
    if (kRanks[i] == 3 ? !IsWeight(dtype) : held ? !IsFloat(dtype) : dtype != (integer ? Dtype::kInt32 : Dtype::kFloat32))
      return kWrongDtype;
  }
  out->kv_dtype = ParseDtype(dtypes[kKeys]);
  if (ParseDtype(dtypes[kValues]) != out->kv_dtype) return kWrongDtype;
  const int64_t *kv = shapes[kKeys];
  out->rows = shapes[kX][0], out->hidden = shapes[kX][1], out->inner = shapes[kDownWeight][1];
  out->slots = kv[0], out->kv_heads = kv[1], out->length = kv[2], out->dim = kv[3];
  out->heads = out->dim > 0 ? shapes[kOutWeight][1] / out->dim : 0;
  out->segments = shapes[kSlots][0];
  if (out->segments < 1 || out->rows % out->segments != 0) return kWrongShape;
  out->tokens = out->rows / out->segments;
  const int64_t hidden = out->hidden, half = out->dim / 2;
  const auto is = [shapes](int i, std::vector<int64_t> expected) {
    return std::equal(expected.begin(), expected.end(), shapes[i]);
  };
  const auto holds = [shapes, dtypes](int i, int64_t panels, int64_t inputs) {
    return HoldsPanels(shapes[i], ParseDtype(dtypes[i]), panels, inputs);
  };
  const bool fits = ValidHeads(out->heads, out->kv_heads, out->dim) && is(kNorm1, {hidden}) && is(kNorm2, {hidden}) &&
                    holds(kQkvWeight, Panels(out->QkvWidth()), hidden) && is(kQkvBias, {out->QkvWidth()}) &&
                    holds(kOutWeight, Panels(hidden), out->QueryWidth()) &&
                    holds(kGateUpWeight, 2 * Panels(out->inner), hidden) && holds(kDownWeight, Panels(hidden), out->inner) &&
                    is(kCos, {out->rows, half}) && is(kSin, {out->rows, half}) && std::equal(kv, kv + 4, shapes[kValues]) &&
                    is(kLive, {out->segments}) && is(kCount, {out->segments}) && is(kEps, {1});
  return fits ? kOk : kWrongShape;
}

// The segments that bring tokens. Their rows follow one another from the first: padding lies behind them all.
struct Segment {
  int64_t row, tokens, slot, live;
};

Fault ReadSegments(const Sizes &sizes, void **params, std::vector<Segment> *out) {
  const auto ints = [params](int i) { return static_cast<const int32_t *>(params[i]); };
  bool ended = false;
  for (int64_t s = 0; s < sizes.segments; ++s) {
    const int64_t slot = ints(kSlots)[s], live = ints(kLive)[s], count = ints(kCount)[s];
    if (count < 0 || count > sizes.tokens || (ended && count > 0)) return kWrongLengths;
    ended = count < sizes.tokens;
    if (count == 0) continue;
    if (slot < 0 || slot >= sizes.slots || live < 0) return kWrongLengths;
    if (live + count > sizes.length) return kFullSlot;
    for (const Segment &other : *out) {
      if (other.slot == slot) return kWrongLengths;
    }
    out->push_back({s * sizes.tokens, count, slot, live});
  }
  return kOk;
}

void RunLayer(const Sizes &sizes, const std::vector<Segment> &segments, void **params, const char **dtypes) {
  const Kernels &kernels = Chosen();
  const auto in = [params](int i) { return static_cast<const float *>(params[i]); };
  const auto weight = [params, dtypes](int i) { return Weight{params[i], ParseDtype(dtypes[i])}; };
  const int64_t hidden = sizes.hidden, inner = sizes.inner, dim = sizes.dim, heads = sizes.heads, kv_heads = sizes.kv_heads;
  const int64_t rows = segments.back().row + segments.back().tokens, query_width = sizes.QueryWidth();
  const int64_t qkv_width = sizes.QkvWidth(), row_bytes = dim * ItemSize(sizes.kv_dtype);
  const float eps = in(kEps)[0];
  auto *y = static_cast<float *>(params[kY]);

  const auto buffer = [rows](int64_t width) { return std::unique_ptr<float[]>(new float[rows * width]); };
  const auto normed = buffer(hidden), qkv = buffer(qkv_width), q = buffer(query_width), attended = buffer(query_width);
  const auto middle = buffer(hidden), gated = buffer(inner);
  ReserveScratch(ProductScratch(std::max({hidden, query_width, inner})));
  std::vector<const Segment *> owner(rows);
  for (const Segment &segment : segments) {
    std::fill_n(owner.begin() + segment.row, segment.tokens, &segment);
  }

  Parallel([&](const Worker &worker) {
    worker.Static(rows,
                  [&](int64_t r) { kernels.rms_norm(in(kX) + r * hidden, in(kNorm1), hidden, eps, &normed[r * hidden]); });
    Multiply(worker, {normed.get(), rows, weight(kQkvWeight), hidden, qkv_width, in(kQkvBias), Activation::kNone, nullptr,
                      qkv.get()});
    worker.Static(rows, [&](int64_t r) {
      const Segment &segment = *owner[r];
      const float *cos = in(kCos) + r * (dim / 2), *sin = in(kSin) + r * (dim / 2), *x = &qkv[r * qkv_width];
      for (int64_t h = 0; h < heads; ++h) kernels.rotate(x + h * dim, cos, sin, dim / 2, &q[(r * heads + h) * dim]);
      for (int64_t g = 0; g < kv_heads; ++g) {
        const int64_t at = (segment.slot * kv_heads + g) * sizes.length + segment.live + r - segment.row;
        float turned[kMaxDim];
        kernels.rotate(x + (heads + g) * dim, cos, sin, dim / 2, turned);
        kernels.from_float(sizes.kv_dtype, turned, dim, static_cast<char *>(params[kKeys]) + at * row_bytes);
        kernels.from_float(sizes.kv_dtype, x + (heads + kv_heads + g) * dim, dim,
                           static_cast<char *>(params[kValues]) + at * row_bytes);
      }
    });
  });

  std::vector<Unit> units;
  for (const Segment &segment : segments) {
    const int64_t slot = segment.slot * kv_heads * sizes.length * row_bytes;
    units.push_back({segment.row, segment.tokens, static_cast<const char *>(params[kKeys]) + slot,
                     static_cast<const char *>(params[kValues]) + slot, segment.live + segment.tokens, segment.live});
  }
  Attend({Dtype::kFloat32, sizes.kv_dtype, heads, kv_heads, dim, reinterpret_cast<const char *>(q.get()),
          reinterpret_cast<char *>(attended.get()), row_bytes, sizes.length * row_bytes},
         units);

  Parallel([&](const Worker &worker) {
    Multiply(worker, {attended.get(), rows, weight(kOutWeight), query_width, hidden, nullptr, Activation::kNone, in(kX),
                      middle.get()});
    worker.Static(rows,
                  [&](int64_t r) { kernels.rms_norm(&middle[r * hidden], in(kNorm2), hidden, eps, &normed[r * hidden]); });
    Multiply(worker, {normed.get(), rows, weight(kGateUpWeight), hidden, inner, nullptr, Activation::kSiluGate, nullptr,
                      gated.get()});
    Multiply(worker, {gated.get(), rows, weight(kDownWeight), inner, hidden, nullptr, Activation::kNone, middle.get(), y});
  });
  std::fill(y + rows * hidden, y + sizes.rows * hidden, 0.0f);
}

}  // namespace

// Inputs, float32 unless said otherwise, in the order of `Parameter`: x [segments * tokens, hidden]; norm weights [hidden];
// packed weights [panels, in, kPanel], those of gate and up taking turns; bias [out]; cos, sin [segments * tokens, head_dim
// / 2]; keys and values [slots, kv_heads, max_length, head_dim] of any float dtype, written in place; slots, live, count
// int32 [segments]: where a segment's tokens go, rows held there before, and tokens that are new. Only the last segment that
// brings tokens may bring fewer than `tokens`; those behind it bring none. eps [1]. Output as x, zero for padding.
extern "C" int DecoderLayer(AOT_ARGUMENTS) {
  if (nparam != kParameters) return kWrongCount;
  Sizes sizes;
  if (const Fault fault = ReadSizes(ndims, shapes, dtypes, &sizes)) return fault;
  std::vector<Segment> segments;
  if (const Fault fault = ReadSegments(sizes, params, &segments)) return fault;
  if (segments.empty()) {
    std::fill_n(static_cast<float *>(params[kY]), sizes.rows * sizes.hidden, 0.0f);
    return kOk;
  }
  try {
    RunLayer(sizes, segments, params, dtypes);
  } catch (const std::bad_alloc &) {
    return kNoMemory;
  }
  return kOk;
}
