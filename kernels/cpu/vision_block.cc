// One block of the vision tower as a MindSpore AOT custom op: LayerNorm, q/k/v, rotary, attention within each image, output
// projection, LayerNorm and the MLP, both residuals included. Defined by mindnlp_ocr/modeling/vision.py (VisionBlock).
//
// A row's bits depend on its own image alone.

#include <algorithm>
#include <memory>
#include <vector>

#include "aot.h"
#include "attention.h"
#include "products.h"

namespace {

enum {
  kX,       // [patches, width]
  kCos,     // [patches, dim / 2]
  kSin,     // as kCos
  kStarts,  // int32 [images + 1]: where each image begins, and the end of the last
  kEps,     // [1]
  kNorm1,   // [width]
  kNorm1Bias,
  kQkv,      // panels
  kQkvBias,  // [3 * width]
  kOut,      // panels
  kOutBias,  // [width]
  kNorm2,    // [width]
  kNorm2Bias,
  kFc1,      // panels
  kFc1Bias,  // [inner]
  kFc2,      // panels
  kFc2Bias,  // [width]
  kY,        // as kX
  kParameters
};
constexpr int kRanks[kParameters] = {2, 2, 2, 1, 1, 1, 1, 3, 1, 3, 1, 1, 1, 3, 1, 3, 1, 2};

void RunBlock(const Arguments &arguments, const std::vector<Unit> &images) {
  const Kernels &kernels = Chosen();
  const auto floats = [&](int i) { return arguments[i].Floats(); };
  const auto weight = [&](int i) { return AsWeight(arguments[i]); };
  const int64_t width = arguments[kX].shape[1], half = arguments[kCos].shape[1], inner = arguments[kFc1Bias].shape[0];
  const int64_t rows = images.back().first + images.back().tokens, dim = 2 * half, heads = width / dim;
  const float eps = *floats(kEps), *x = floats(kX);

  // What is written when the last reader of the earlier content has gone shares its memory.
  const auto buffer = [rows](int64_t n) { return std::unique_ptr<float[]>(new float[rows * n]); };
  const auto normed = buffer(width), middle = buffer(width), wide = buffer(std::max(4 * width, inner));
  float *qkv = wide.get(), *q = qkv + 3 * width * rows, *attended = normed.get(), *hidden = wide.get();

  Parallel(ProductScratch(width), [&](const Worker &worker) {
    worker.Static(rows, [&](int64_t r) {
      kernels.layer_norm(x + r * width, floats(kNorm1), floats(kNorm1Bias), width, eps, &normed[r * width]);
    });
    Multiply(worker, {.x = normed.get(),
                      .rows = rows,
                      .w = weight(kQkv),
                      .in = width,
                      .out = 3 * width,
                      .bias = floats(kQkvBias),
                      .y = qkv});
    worker.Static(rows, [&](int64_t r) {
      const float *cos = floats(kCos) + r * half, *sin = floats(kSin) + r * half;
      float turned[kMaxDim], *row = qkv + r * 3 * width;
      for (int64_t h = 0; h < heads; ++h) {
        kernels.rotate(row + h * dim, cos, sin, half, q + r * width + h * dim);
        kernels.rotate(row + width + h * dim, cos, sin, half, turned);
        std::copy_n(turned, dim, row + width + h * dim);
      }
    });
  });

  const int64_t head_bytes = dim * sizeof(float), row_bytes = 3 * width * sizeof(float);
  std::vector<Unit> units = images;
  for (Unit &unit : units) {
    unit.k = reinterpret_cast<const char *>(qkv) + unit.first * row_bytes + width * sizeof(float);
    unit.v = unit.k + width * sizeof(float);
  }
  Attend({.dtype = Dtype::kFloat32,
          .kv_dtype = Dtype::kFloat32,
          .heads = heads,
          .kv_heads = heads,
          .dim = dim,
          .q = reinterpret_cast<const char *>(q),
          .y = reinterpret_cast<char *>(attended),
          .kv_stride = row_bytes,
          .kv_head_stride = head_bytes},
         units);

  Parallel(ProductScratch(std::max(width, inner)), [&](const Worker &worker) {
    Multiply(worker, {.x = attended,
                      .rows = rows,
                      .w = weight(kOut),
                      .in = width,
                      .out = width,
                      .bias = floats(kOutBias),
                      .residual = x,
                      .y = middle.get()});
    worker.Static(rows, [&](int64_t r) {
      kernels.layer_norm(&middle[r * width], floats(kNorm2), floats(kNorm2Bias), width, eps, &normed[r * width]);
    });
    Multiply(worker, {.x = normed.get(),
                      .rows = rows,
                      .w = weight(kFc1),
                      .in = width,
                      .out = inner,
                      .bias = floats(kFc1Bias),
                      .activation = Activation::kQuickGelu,
                      .y = hidden});
    Multiply(worker, {.x = hidden,
                      .rows = rows,
                      .w = weight(kFc2),
                      .in = inner,
                      .out = width,
                      .bias = floats(kFc2Bias),
                      .residual = middle.get(),
                      .y = floats(kY)});
  });
}

// Float32 but for kStarts and what is packed. Output as x, zero for padding.
Fault RunOperator(AOT_ARGUMENTS) {
  if (nparam != kParameters) return kWrongCount;
  const Arguments t{params, ndims, shapes, dtypes};
  for (int i = 0; i < kParameters; ++i) {
    if (t[i].rank != kRanks[i]) return kWrongRank;
    if (kRanks[i] == 3 ? !IsWeight(t[i].dtype) : t[i].dtype != (i == kStarts ? Dtype::kInt32 : Dtype::kFloat32)) {
      return kWrongDtype;
    }
  }
  const int64_t rows = t[kX].shape[0], width = t[kX].shape[1], half = t[kCos].shape[1], inner = t[kFc1Bias].shape[0];
  const int64_t heads = half > 0 ? width / (2 * half) : 0;
  const bool fits = ValidHeads(heads, heads, 2 * half) && width == heads * 2 * half && t[kCos].Has({rows, half}) &&
                    t[kSin].Has({rows, half}) && t[kEps].Has({1}) && t[kNorm1].Has({width}) && t[kNorm1Bias].Has({width}) &&
                    HoldsPanels(t[kQkv], Panels(3 * width), width) && t[kQkvBias].Has({3 * width}) &&
                    HoldsPanels(t[kOut], Panels(width), width) && t[kOutBias].Has({width}) && t[kNorm2].Has({width}) &&
                    t[kNorm2Bias].Has({width}) && HoldsPanels(t[kFc1], Panels(inner), width) &&
                    HoldsPanels(t[kFc2], Panels(width), inner) && t[kFc2Bias].Has({width});
  if (!fits) return kWrongShape;
  std::vector<Unit> images;
  if (const Fault fault = ReadImages(t[kStarts], rows, &images)) return fault;
  const int64_t live = images.back().first + images.back().tokens;
  if (live > 0) RunBlock(t, images);
  std::fill(t[kY].Floats() + live * width, t[kY].Floats() + rows * width, 0.0f);
  return kOk;
}

}  // namespace

AOT_OPERATOR(VisionBlock, RunOperator)
