// One block of the vision tower as a MindSpore AOT custom op: norm, q/k/v, rotation, attention within each image or window,
// output projection, norm and the MLP, with both residuals. VisionBlock in mindnlp_ocr/modeling/vision.py is the definition.
// The operator VisionBlock has LayerNorm and quick GELU, and GatedVisionBlock has RMSNorm and a gated MLP.
//
// The bits of a row depend only on its own image or window.

#include <algorithm>
#include <memory>
#include <vector>

#include "aot.h"
#include "attention.h"
#include "products.h"

namespace {

// The shapes and weights of a block.
struct Block {
  int64_t width, heads, dim, inner;
  float eps;
  const float *norm1, *norm1_bias, *norm2, *norm2_bias;  // RMSNorm has no biases
  Weight qkv, out, widen, narrow;                        // the last two belong to the MLP
  const float *qkv_bias, *out_bias, *widen_bias, *narrow_bias;
  Activation activation;
};

void Normalize(const Kernels &kernels, const Block &block, const float *weight, const float *bias, const float *x,
               float *y) {
  if (bias == nullptr) return kernels.rms_norm(x, weight, block.width, block.eps, y);
  kernels.layer_norm(x, weight, bias, block.width, block.eps, y);
}

// Computes y from x [rows, width]; cos, sin [rows, dim / 2].
void RunBlock(const Block &block, const std::vector<Unit> &segments, const float *x, const float *cos, const float *sin,
              float *y) {
  const Kernels &kernels = Chosen();
  const int64_t width = block.width, dim = block.dim, half = dim / 2, heads = block.heads, inner = block.inner;
  const int64_t rows = segments.back().first + segments.back().tokens;

  // Buffers are shared by results of which the first is no longer read when the second is written.
  const auto buffer = [rows](int64_t n) { return std::unique_ptr<float[]>(new float[rows * n]); };
  const auto normed = buffer(width), middle = buffer(width), wide = buffer(std::max(4 * width, inner));
  float *qkv = wide.get(), *q = qkv + 3 * width * rows, *attended = normed.get(), *hidden = wide.get();

  Parallel(ProductScratch(width), [&](const Worker &worker) {
    worker.Static(rows, [&](int64_t r) {
      Normalize(kernels, block, block.norm1, block.norm1_bias, x + r * width, &normed[r * width]);
    });
    Multiply(
        worker,
        {.x = normed.get(), .rows = rows, .w = block.qkv, .in = width, .out = 3 * width, .bias = block.qkv_bias, .y = qkv});
    worker.Static(rows, [&](int64_t r) {
      const float *c = cos + r * half, *s = sin + r * half;
      float turned[kMaxDim], *row = qkv + r * 3 * width;
      for (int64_t h = 0; h < heads; ++h) {
        kernels.rotate(row + h * dim, c, s, half, q + r * width + h * dim);
        kernels.rotate(row + width + h * dim, c, s, half, turned);
        std::copy_n(turned, dim, row + width + h * dim);
      }
    });
  });

  const int64_t head_bytes = dim * sizeof(float), row_bytes = 3 * width * sizeof(float);
  std::vector<Unit> units = segments;
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
                      .w = block.out,
                      .in = width,
                      .out = width,
                      .bias = block.out_bias,
                      .residual = x,
                      .y = middle.get()});
    worker.Static(rows, [&](int64_t r) {
      Normalize(kernels, block, block.norm2, block.norm2_bias, &middle[r * width], &normed[r * width]);
    });
    Multiply(worker, {.x = normed.get(),
                      .rows = rows,
                      .w = block.widen,
                      .in = width,
                      .out = inner,
                      .bias = block.widen_bias,
                      .activation = block.activation,
                      .y = hidden});
    Multiply(worker, {.x = hidden,
                      .rows = rows,
                      .w = block.narrow,
                      .in = inner,
                      .out = width,
                      .bias = block.narrow_bias,
                      .residual = middle.get(),
                      .y = y});
  });
}

// Inputs, in float32 except for packed weights and `starts`: x [patches, width]; cos, sin [patches, dim / 2]; starts int32
// [segments + 1], the beginning of each image or window, and the end of the last; eps [1]; norm weight [width] (and bias,
// unless gated); packed q/k/v and its bias [3 * width]; packed output projection and its bias; norm weight (and bias); the
// first packed weight of the MLP and its bias [inner] ([2 * inner] for gate and up); the second one and its bias. The output
// has the shape of x, and is zero for padding.
Fault RunOperator(int nparam, const Arguments &t, bool gated) {
  const int norms = gated ? 1 : 2;  // number of tensors of a norm
  const int norm1 = 5, qkv = norm1 + norms, out = qkv + 2, norm2 = out + 2, widen = norm2 + norms, narrow = widen + 2;
  constexpr int kX = 0, kCos = 1, kSin = 2, kStarts = 3, kEps = 4;
  const int last = narrow + 2;
  if (nparam != last + 1) return kWrongCount;
  for (int i = 0; i <= last; ++i) {
    const bool packed = i == qkv || i == out || i == widen || i == narrow;
    const bool matrix = i == kX || i == kCos || i == kSin || i == last;
    if (t[i].rank != (packed ? 3 : matrix ? 2 : 1)) return kWrongRank;
    if (packed ? !IsWeight(t[i].dtype) : t[i].dtype != (i == kStarts ? Dtype::kInt32 : Dtype::kFloat32)) return kWrongDtype;
  }
  const auto floats = [&t](int i) { return t[i].Floats(); };
  const int64_t rows = t[kX].shape[0], width = t[kX].shape[1], half = t[kCos].shape[1], parts = gated ? 2 : 1;
  const int64_t heads = half > 0 ? width / (2 * half) : 0, inner = t[widen + 1].shape[0] / parts;
  bool fits = ValidHeads(heads, heads, 2 * half) && width == heads * 2 * half && t[kCos].Has({rows, half}) &&
              t[kSin].Has({rows, half}) && t[kEps].Has({1}) && HoldsPanels(t[qkv], Panels(3 * width), width) &&
              t[qkv + 1].Has({3 * width}) && HoldsPanels(t[out], Panels(width), width) && t[out + 1].Has({width}) &&
              t[widen + 1].Has({parts * inner}) && HoldsPanels(t[widen], parts * Panels(inner), width) &&
              HoldsPanels(t[narrow], Panels(width), inner) && t[narrow + 1].Has({width});
  for (int i = 0; i < norms; ++i) fits = fits && t[norm1 + i].Has({width}) && t[norm2 + i].Has({width});
  if (!fits) return kWrongShape;
  std::vector<Unit> segments;
  if (const Fault fault = ReadImages(t[kStarts], rows, &segments)) return fault;
  const int64_t live = segments.back().first + segments.back().tokens;
  const Block block{.width = width,
                    .heads = heads,
                    .dim = 2 * half,
                    .inner = inner,
                    .eps = *floats(kEps),
                    .norm1 = floats(norm1),
                    .norm1_bias = gated ? nullptr : floats(norm1 + 1),
                    .norm2 = floats(norm2),
                    .norm2_bias = gated ? nullptr : floats(norm2 + 1),
                    .qkv = AsWeight(t[qkv]),
                    .out = AsWeight(t[out]),
                    .widen = AsWeight(t[widen]),
                    .narrow = AsWeight(t[narrow]),
                    .qkv_bias = floats(qkv + 1),
                    .out_bias = floats(out + 1),
                    .widen_bias = floats(widen + 1),
                    .narrow_bias = floats(narrow + 1),
                    .activation = gated ? Activation::kSiluGate : Activation::kQuickGelu};
  if (live > 0) RunBlock(block, segments, floats(kX), floats(kCos), floats(kSin), floats(last));
  std::fill(floats(last) + live * width, floats(last) + rows * width, 0.0f);
  return kOk;
}

Fault PlainOperator(AOT_ARGUMENTS) { return RunOperator(nparam, {params, ndims, shapes, dtypes}, false); }
Fault GatedOperator(AOT_ARGUMENTS) { return RunOperator(nparam, {params, ndims, shapes, dtypes}, true); }

}  // namespace

AOT_OPERATOR(VisionBlock, PlainOperator)
AOT_OPERATOR(GatedVisionBlock, GatedOperator)
