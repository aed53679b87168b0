// Products with packed weights, norms and the embedding, as MindSpore AOT custom ops.
//
// A row's bits depend on its own row alone, however many rows and threads there are. Defined by
// mindnlp_ocr/ops/operators.py.

#include <algorithm>
#include <cstring>
#include <new>

#include "aot.h"
#include "products.h"

namespace {

// Inputs x [rows, in], w [panels, in, kPanel], bias [out], then residual [rows, out] if `with_residual`; last live int32
// [1]: rows that are not padding, whose answer is zero. Output [rows, out].
int RunLinear(int nparam, void **params, int *ndims, int64_t **shapes, const char **dtypes, Activation activation,
              bool with_residual) {
  const int last = with_residual ? 4 : 3;
  if (nparam != last + 2) return kWrongCount;
  constexpr int kRanks[] = {2, 3, 1, 2};
  for (int i = 0; i < last; ++i) {
    if (ndims[i] != kRanks[i]) return kWrongRank;
    if (i != 1 && ParseDtype(dtypes[i]) != Dtype::kFloat32) return kWrongDtype;
  }
  const Weight weight{params[1], ParseDtype(dtypes[1])};
  if (!IsWeight(weight.dtype)) return kWrongDtype;
  if (ndims[last] != 1 || shapes[last][0] != 1) return kWrongRank;
  if (ParseDtype(dtypes[last]) != Dtype::kInt32) return kWrongDtype;
  const int64_t rows = shapes[0][0], in = shapes[0][1], out = shapes[2][0];
  const int64_t panels = activation == Activation::kSiluGate ? 2 * Panels(out) : Panels(out);
  if (!HoldsPanels(Arguments{params, ndims, shapes, dtypes}[1], panels, in)) return kWrongShape;
  if (with_residual && (shapes[3][0] != rows || shapes[3][1] != out)) return kWrongShape;
  const int64_t live = *static_cast<const int32_t *>(params[last]);
  if (live < 0 || live > rows) return kWrongLengths;
  const auto floats = [params](int i) { return static_cast<float *>(params[i]); };
  float *y = floats(last + 1);
  const Product product{floats(0), live, weight, in, out, floats(2), activation, with_residual ? floats(3) : nullptr, y};
  try {
    ReserveScratch(ProductScratch(in));
  } catch (const std::bad_alloc &) {
    return kNoMemory;
  }
  Parallel([&](const Worker &worker) { Multiply(worker, product); });
  std::memset(y + live * out, 0, (rows - live) * out * sizeof(float));
  return kOk;
}

}  // namespace

extern "C" int Linear(AOT_ARGUMENTS) { return RunLinear(nparam, params, ndims, shapes, dtypes, Activation::kNone, false); }
extern "C" int LinearAdd(AOT_ARGUMENTS) { return RunLinear(nparam, params, ndims, shapes, dtypes, Activation::kNone, true); }
extern "C" int LinearQuickGelu(AOT_ARGUMENTS) {
  return RunLinear(nparam, params, ndims, shapes, dtypes, Activation::kQuickGelu, false);
}
extern "C" int LinearGelu(AOT_ARGUMENTS) {
  return RunLinear(nparam, params, ndims, shapes, dtypes, Activation::kGelu, false);
}
extern "C" int LinearSiluGate(AOT_ARGUMENTS) {
  return RunLinear(nparam, params, ndims, shapes, dtypes, Activation::kSiluGate, false);
}

// x [rows, n], weight [n], eps [1] -> x / sqrt(mean(x^2) + eps) * weight.
extern "C" int RmsNorm(AOT_ARGUMENTS) {
  if (nparam != 4) return kWrongCount;
  for (int i = 0; i < 3; ++i) {
    if (ndims[i] != (i == 0 ? 2 : 1)) return kWrongRank;
    if (ParseDtype(dtypes[i]) != Dtype::kFloat32) return kWrongDtype;
  }
  const int64_t rows = shapes[0][0], n = shapes[0][1];
  if (shapes[1][0] != n || shapes[2][0] != 1) return kWrongShape;
  const auto floats = [params](int i) { return static_cast<float *>(params[i]); };
  Parallel([&](const Worker &worker) {
    worker.Static(rows,
                  [&](int64_t r) { Chosen().rms_norm(floats(0) + r * n, floats(1), n, *floats(2), floats(3) + r * n); });
  });
  return kOk;
}

// x [rows, n], weight and bias [n], eps [1] -> (x - mean) / sqrt(variance + eps) * weight + bias.
extern "C" int LayerNorm(AOT_ARGUMENTS) {
  if (nparam != 5) return kWrongCount;
  for (int i = 0; i < 4; ++i) {
    if (ndims[i] != (i == 0 ? 2 : 1)) return kWrongRank;
    if (ParseDtype(dtypes[i]) != Dtype::kFloat32) return kWrongDtype;
  }
  const int64_t rows = shapes[0][0], n = shapes[0][1];
  if (shapes[1][0] != n || shapes[2][0] != n || shapes[3][0] != 1) return kWrongShape;
  const auto floats = [params](int i) { return static_cast<float *>(params[i]); };
  Parallel([&](const Worker &worker) {
    worker.Static(rows, [&](int64_t r) {
      Chosen().layer_norm(floats(0) + r * n, floats(1), floats(2), n, *floats(3), floats(4) + r * n);
    });
  });
  return kOk;
}

// ids int32 [tokens], w as for a product whose outputs are the vocabulary -> rows [tokens, in].
extern "C" int Embed(AOT_ARGUMENTS) {
  if (nparam != 3) return kWrongCount;
  if (ndims[0] != 1 || ndims[1] != 3) return kWrongRank;
  const Arguments arguments{params, ndims, shapes, dtypes};
  const Tensor table = arguments[1];
  if (arguments[0].dtype != Dtype::kInt32 || !IsWeight(table.dtype)) return kWrongDtype;
  const int64_t in = Inputs(table.dtype, table.shape[1]);
  if (!HoldsPanels(table, table.shape[0], in) || !arguments[2].Has({shapes[0][0], in})) return kWrongShape;
  const auto *ids = static_cast<const int32_t *>(params[0]);
  auto *y = static_cast<float *>(params[2]);
  for (int64_t t = 0; t < shapes[0][0]; ++t) {
    if (ids[t] < 0 || ids[t] >= shapes[1][0] * kPanel) return kWrongLengths;
    ReadRow(AsWeight(table), in, ids[t], y + t * in);
  }
  return kOk;
}
