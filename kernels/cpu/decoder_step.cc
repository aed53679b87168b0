// One Qwen2 decoder layer for one new token in each slot, as a MindSpore AOT custom op.
//
// In eager MindSpore the layer is some 45 operators of 10 to 20 microseconds each around 1-row products that read the
// weights at half of the memory's speed. Here it is one: RMSNorm, q/k/v, rotary, the write of k and v into their slot,
// attention over the live rows alone, output projection, RMSNorm and the gated MLP, both residuals included.
// Defined by mindnlp_ocr/modeling/language.py (DecoderLayer.decode) and tested against it.
//
// A row's bits depend on its own slot alone: every sum is taken by one thread in a fixed order, however many rows and
// threads there are.

#include <omp.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

#include "aot.h"
#include "attention.h"

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
  kKeyRows,
  kValueRows,
  kLive,
  kEps,
  kY,
  kParameters
};

constexpr int64_t kColumns = 512;  // of a product, one task at most

// Turns the pairs (i, i + half) of one head.
void Rotate(const float *x, const float *cos, const float *sin, int64_t half, float *y) {
  for (int64_t i = 0; i < half; ++i) {
    y[i] = x[i] * cos[i] - x[i + half] * sin[i];
    y[i + half] = x[i + half] * cos[i] + x[i] * sin[i];
  }
}

float Silu(float x) { return x / (1.0f + std::exp(-x)); }

}  // namespace

// Inputs, float32 unless said otherwise, in the order of `Parameter`: x [slots, hidden]; norm weights [hidden]; packed
// weights [1, in, out]; bias [out]; cos, sin [slots, any, head_dim / 2]; key and value rows [slots * kv_heads *
// max_length, head_dim], written in place; live int32 [slots], rows held before this token; eps [1]. Output [slots, hidden].
extern "C" int DecoderStep(int nparam, void **params, int *ndims, int64_t **shapes, const char **dtypes, void *, void *) {
  if (nparam != kParameters) return kWrongCount;
  constexpr int kRanks[kParameters] = {2, 1, 3, 1, 3, 1, 3, 3, 3, 3, 2, 2, 1, 1, 2};
  for (int i = 0; i < kParameters; ++i) {
    if (ndims[i] != kRanks[i]) return kWrongRank;
    if (std::strcmp(dtypes[i], i == kLive ? "int32" : "float32") != 0) return kWrongDtype;
  }
  const int64_t slots = shapes[kX][0], hidden = shapes[kX][1], dim = shapes[kKeyRows][1], half = dim / 2;
  if (slots < 1 || dim < 1) return kWrongShape;
  const int64_t query_width = shapes[kOutWeight][1], qkv_width = shapes[kQkvWeight][2], inner = shapes[kDownWeight][1];
  const int64_t heads = query_width / dim, kv_heads = (qkv_width / dim - heads) / 2;
  if (!ValidHeads(heads, kv_heads, dim)) return kWrongShape;
  const int64_t length = shapes[kKeyRows][0] / (slots * kv_heads);
  if (shapes[kLive][0] != slots || shapes[kCos][2] != half || shapes[kSin][2] != half ||
      shapes[kGateUpWeight][2] != 2 * inner || (heads + 2 * kv_heads) * dim != qkv_width) {
    return kWrongShape;
  }
  const auto in = [params](int i) { return static_cast<const float *>(params[i]); };
  const auto *live = static_cast<const int32_t *>(params[kLive]);
  for (int64_t s = 0; s < slots; ++s) {
    if (live[s] < 0 || live[s] >= length) return kFullSlot;
  }
  auto *key_rows = static_cast<float *>(params[kKeyRows]), *value_rows = static_cast<float *>(params[kValueRows]);
  auto *y = static_cast<float *>(params[kY]);
  const float eps = in(kEps)[0];
  const int64_t angles = shapes[kCos][1] * half;  // from slot to slot

  const Kernels &kernels = Chosen();
  std::vector<float> normed(slots * hidden), qkv(slots * qkv_width), q(slots * query_width), attended(slots * query_width);
  std::vector<float> middle(slots * hidden), gate_up(slots * 2 * inner);

  // result[s] = x[s] times w, plus add[s] where there is one. Split by columns, which no sum crosses: blocks as
  // wide as leaves one for every thread.
  const auto product = [slots, &kernels](const float *x, int64_t stride, const float *w, int64_t rows, int64_t out,
                                         const float *add, int64_t add_stride, float *result) {
    const int64_t share = (out / omp_get_num_threads() + 15) / 16 * 16, width = share < kColumns ? share : kColumns;
#pragma omp for schedule(static)
    for (int64_t first = 0; first < out; first += width) {
      const int64_t last = first + width < out ? first + width : out;
      for (int64_t s = 0; s < slots; ++s) {
        float *row = result + s * out;
        kernels.product(x + s * stride, w, rows, out, first, last, row);
        for (int64_t j = first; add != nullptr && j < last; ++j) row[j] += add[s * add_stride + j];
      }
    }
  };

#pragma omp parallel num_threads(Threads())
  {
#pragma omp for schedule(static)
    for (int64_t s = 0; s < slots; ++s) {
      kernels.rms_norm(in(kX) + s * hidden, in(kNorm1), hidden, eps, normed.data() + s * hidden);
    }
    product(normed.data(), hidden, in(kQkvWeight), hidden, qkv_width, in(kQkvBias), 0, qkv.data());

#pragma omp for schedule(static)
    for (int64_t task = 0; task < slots * kv_heads; ++task) {
      const int64_t s = task / kv_heads, g = task % kv_heads, row = (task * length + live[s]) * dim;
      const float *k = qkv.data() + s * qkv_width + (heads + g) * dim, *v = k + kv_heads * dim;
      Rotate(k, in(kCos) + s * angles, in(kSin) + s * angles, half, key_rows + row);
      std::memcpy(value_rows + row, v, dim * sizeof(float));
    }

#pragma omp for schedule(static)
    for (int64_t task = 0; task < slots * heads; ++task) {
      const int64_t s = task / heads, h = task % heads;
      Rotate(qkv.data() + s * qkv_width + h * dim, in(kCos) + s * angles, in(kSin) + s * angles, half,
             q.data() + task * dim);
    }
  }

  const auto bytes = [](const void *p) { return static_cast<const char *>(p); };
  const int64_t row = dim * sizeof(float);
  std::vector<Unit> units;
  for (int64_t s = 0; s < slots; ++s) {
    const int64_t slot = s * kv_heads * length * row;
    units.push_back({s, 1, bytes(key_rows) + slot, bytes(value_rows) + slot, live[s] + 1, live[s]});
  }
  const AttentionProblem attention{Dtype::kFloat32,
                                   Dtype::kFloat32,
                                   heads,
                                   kv_heads,
                                   dim,
                                   bytes(q.data()),
                                   reinterpret_cast<char *>(attended.data()),
                                   row,
                                   length * row};
  try {
    Attend(attention, units);
  } catch (const std::bad_alloc &) {
    return kNoMemory;
  }

#pragma omp parallel num_threads(Threads())
  {
    product(attended.data(), query_width, in(kOutWeight), query_width, hidden, in(kX), hidden, middle.data());
#pragma omp for schedule(static)
    for (int64_t s = 0; s < slots; ++s) {
      kernels.rms_norm(middle.data() + s * hidden, in(kNorm2), hidden, eps, normed.data() + s * hidden);
    }
    product(normed.data(), hidden, in(kGateUpWeight), hidden, 2 * inner, nullptr, 0, gate_up.data());
#pragma omp for schedule(static)
    for (int64_t i = 0; i < slots * inner; ++i) {
      float *gate = gate_up.data() + i / inner * 2 * inner, *up = gate + inner;
      gate[i % inner] = Silu(gate[i % inner]) * up[i % inner];
    }
    product(gate_up.data(), 2 * inner, in(kDownWeight), inner, hidden, middle.data(), hidden, y);
  }
  return kOk;
}
