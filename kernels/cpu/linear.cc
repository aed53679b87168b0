// Products with packed weights, norms and the embedding, as MindSpore AOT custom ops. mindnlp_ocr/ops/operators.py is their
// definition.
//
// The bits of an output row depend only on its own input row, regardless of the number of rows and threads.

#include <algorithm>
#include <cstring>

#include "aot.h"
#include "products.h"

namespace {

// Inputs: x [rows, in], a packed weight, bias [out] (for kSiluGate [2 * out]), residual [rows, out] if `with_residual`, and
// live int32 [1]: the number of rows that are not padding. Output [rows, out], zero for padding.
Fault RunLinear(int nparam, const Arguments &t, Activation activation, bool with_residual) {
  const int last = with_residual ? 4 : 3;
  if (nparam != last + 2) return kWrongCount;
  constexpr int kRanks[] = {2, 3, 1, 2};
  for (int i = 0; i < last; ++i) {
    if (t[i].rank != kRanks[i]) return kWrongRank;
    if (i == 1 ? !IsWeight(t[i].dtype) : t[i].dtype != Dtype::kFloat32) return kWrongDtype;
  }
  if (t[last].rank != 1 || !t[last].Has({1})) return kWrongRank;
  if (t[last].dtype != Dtype::kInt32) return kWrongDtype;
  const int64_t parts = activation == Activation::kSiluGate ? 2 : 1, out = t[2].shape[0] / parts;
  const int64_t rows = t[0].shape[0], in = t[0].shape[1], panels = parts * Panels(out), live = *t[last].Ints();
  if (t[2].shape[0] % parts != 0 || !HoldsPanels(t[1], panels, in) || (with_residual && !t[3].Has({rows, out})))
    return kWrongShape;
  if (live < 0 || live > rows) return kWrongLengths;
  const float *residual = with_residual ? t[3].Floats() : nullptr;
  float *y = t[last + 1].Floats();
  const Product product{.x = t[0].Floats(),
                        .rows = live,
                        .w = AsWeight(t[1]),
                        .in = in,
                        .out = out,
                        .bias = t[2].Floats(),
                        .activation = activation,
                        .residual = residual,
                        .y = y};
  Parallel(ProductScratch(in), [&](const Worker &worker) { Multiply(worker, product); });
  std::memset(y + live * out, 0, (rows - live) * out * sizeof(float));
  return kOk;
}

template <Activation kActivation, bool kResidual = false>
Fault LinearOperator(AOT_ARGUMENTS) {
  return RunLinear(nparam, {params, ndims, shapes, dtypes}, kActivation, kResidual);
}

// x [rows, n], weight [n], eps [1] -> x / sqrt(mean(x^2) + eps) * weight.
Fault RmsNormOperator(AOT_ARGUMENTS) {
  if (nparam != 4) return kWrongCount;
  for (int i = 0; i < 3; ++i) {
    if (ndims[i] != (i == 0 ? 2 : 1)) return kWrongRank;
    if (ParseDtype(dtypes[i]) != Dtype::kFloat32) return kWrongDtype;
  }
  const int64_t rows = shapes[0][0], n = shapes[0][1];
  if (shapes[1][0] != n || shapes[2][0] != 1) return kWrongShape;
  const auto floats = [params](int i) { return static_cast<float *>(params[i]); };
  Parallel(0, [&](const Worker &worker) {
    worker.Static(rows,
                  [&](int64_t r) { Chosen().rms_norm(floats(0) + r * n, floats(1), n, *floats(2), floats(3) + r * n); });
  });
  return kOk;
}

// x [rows, n], weight and bias [n], eps [1] -> (x - mean) / sqrt(variance + eps) * weight + bias.
Fault LayerNormOperator(AOT_ARGUMENTS) {
  if (nparam != 5) return kWrongCount;
  for (int i = 0; i < 4; ++i) {
    if (ndims[i] != (i == 0 ? 2 : 1)) return kWrongRank;
    if (ParseDtype(dtypes[i]) != Dtype::kFloat32) return kWrongDtype;
  }
  const int64_t rows = shapes[0][0], n = shapes[0][1];
  if (shapes[1][0] != n || shapes[2][0] != n || shapes[3][0] != 1) return kWrongShape;
  const auto floats = [params](int i) { return static_cast<float *>(params[i]); };
  Parallel(0, [&](const Worker &worker) {
    worker.Static(rows, [&](int64_t r) {
      Chosen().layer_norm(floats(0) + r * n, floats(1), floats(2), n, *floats(3), floats(4) + r * n);
    });
  });
  return kOk;
}

// logits [rows, n] -> the index of the largest of each row, int32 [rows], and the logarithm of its probability [rows].
Fault ChooseOperator(AOT_ARGUMENTS) {
  if (nparam != 3) return kWrongCount;
  const Arguments t{params, ndims, shapes, dtypes};
  if (t[0].rank != 2 || t[1].rank != 1 || t[2].rank != 1) return kWrongRank;
  if (t[0].dtype != Dtype::kFloat32) return kWrongDtype;
  const int64_t rows = t[0].shape[0], n = t[0].shape[1];
  if (n < 1 || !t[1].Has({rows}) || !t[2].Has({rows})) return kWrongShape;
  Parallel(0, [&](const Worker &worker) {
    worker.Static(rows, [&](int64_t r) {
      const Choice choice = Choose(t[0].Floats() + r * n, n);
      t[1].Ints()[r] = choice.token;
      t[2].Floats()[r] = choice.log_probability;
    });
  });
  return kOk;
}

// ids int32 [tokens], a packed weight whose outputs are the vocabulary -> rows [tokens, in].
Fault EmbedOperator(AOT_ARGUMENTS) {
  if (nparam != 3) return kWrongCount;
  const Arguments t{params, ndims, shapes, dtypes};
  const Tensor ids = t[0], table = t[1], y = t[2];
  if (ids.rank != 1 || table.rank != 3) return kWrongRank;
  if (ids.dtype != Dtype::kInt32 || !IsWeight(table.dtype)) return kWrongDtype;
  const int64_t tokens = ids.shape[0], panels = table.shape[0], in = Inputs(table.dtype, table.shape[1]);
  if (!HoldsPanels(table, panels, in) || !y.Has({tokens, in})) return kWrongShape;
  for (int64_t i = 0; i < tokens; ++i) {
    const int32_t id = ids.Ints()[i];
    if (id < 0 || id >= panels * kPanel) return kWrongLengths;
    ReadRow(AsWeight(table), in, id, y.Floats() + i * in);
  }
  return kOk;
}

// A name without a comma, which would end the argument of a macro.
constexpr auto LinearAddOperator = LinearOperator<Activation::kNone, true>;

}  // namespace

AOT_OPERATOR(Linear, LinearOperator<Activation::kNone>)
AOT_OPERATOR(LinearAdd, LinearAddOperator)
AOT_OPERATOR(LinearQuickGelu, LinearOperator<Activation::kQuickGelu>)
AOT_OPERATOR(LinearGelu, LinearOperator<Activation::kGelu>)
AOT_OPERATOR(LinearSiluGate, LinearOperator<Activation::kSiluGate>)
AOT_OPERATOR(RmsNorm, RmsNormOperator)
AOT_OPERATOR(LayerNorm, LayerNormOperator)
AOT_OPERATOR(Choose, ChooseOperator)
AOT_OPERATOR(Embed, EmbedOperator)
