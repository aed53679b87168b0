// Attention over images and over KV slots, as MindSpore AOT custom ops. mindnlp_ocr/backends/eager.py is their definition.

#include <algorithm>
#include <cstring>
#include <vector>

#include "aot.h"
#include "attention.h"

namespace {

// q, k and v [tokens, heads, dim] of one dtype; y has the shape and dtype of q.
struct Packed {
  Dtype dtype;
  int64_t tokens, heads, kv_heads, dim;
};

Fault ReadPacked(int *ndims, int64_t **shapes, const char **dtypes, Packed *out) {
  for (int i = 0; i < 3; ++i) {
    if (ndims[i] != 3) return kWrongRank;
  }
  *out = {ParseDtype(dtypes[0]), shapes[0][0], shapes[0][1], shapes[1][1], shapes[0][2]};
  if (!IsFloat(out->dtype) || ParseDtype(dtypes[1]) != out->dtype || ParseDtype(dtypes[2]) != out->dtype) return kWrongDtype;
  for (int i = 1; i < 3; ++i) {
    if (shapes[i][0] != out->tokens || shapes[i][1] != out->kv_heads || shapes[i][2] != out->dim) return kWrongShape;
  }
  return ValidHeads(out->heads, out->kv_heads, out->dim) ? kOk : kWrongShape;
}

// The tokens of `units` are in order. All other tokens are padding, for which the answer is zero.
Fault AttendPacked(const Packed &packed, void **params, const std::vector<Unit> &units) {
  const int64_t item = ItemSize(packed.dtype), row = packed.heads * packed.dim * item;
  auto *y = static_cast<char *>(params[4]);
  const AttentionProblem problem{.dtype = packed.dtype,
                                 .kv_dtype = packed.dtype,
                                 .heads = packed.heads,
                                 .kv_heads = packed.kv_heads,
                                 .dim = packed.dim,
                                 .q = static_cast<const char *>(params[0]),
                                 .y = y,
                                 .kv_stride = packed.kv_heads * packed.dim * item,
                                 .kv_head_stride = packed.dim * item};
  Attend(problem, units);
  const int64_t live = units.empty() ? 0 : units.back().first + units.back().tokens;
  std::memset(y + live * row, 0, (packed.tokens - live) * row);
  return kOk;
}

// q, k, v [patches, heads, dim]; cu_seqlens int32 [images + 1]: the beginning of each image, and the end of the last.
Fault FlashVisionOperator(AOT_ARGUMENTS) {
  if (nparam != 5) return kWrongCount;
  Packed packed;
  if (const Fault fault = ReadPacked(ndims, shapes, dtypes, &packed)) return fault;
  if (ndims[3] != 1) return kWrongRank;
  if (ParseDtype(dtypes[3]) != Dtype::kInt32) return kWrongDtype;
  const int64_t row = packed.kv_heads * packed.dim * ItemSize(packed.dtype);
  std::vector<Unit> units;
  if (const Fault fault = ReadImages(Arguments{params, ndims, shapes, dtypes}[3], packed.tokens, &units)) return fault;
  for (Unit &unit : units) {
    unit.k = static_cast<const char *>(params[1]) + unit.first * row;
    unit.v = static_cast<const char *>(params[2]) + unit.first * row;
  }
  return AttendPacked(packed, params, units);
}

// q [segments, tokens, heads, dim]; k, v [segments, tokens, kv_heads, dim]; keys and values [slots, kv_heads, max_length,
// dim] of any float dtype; slots, live and count int32 [segments]: the slot of each segment, the number of rows already in
// it, and the number of new tokens (the others are padding). New keys and values are written in place after the live rows.
// The output has the shape of q, and is zero for padding.
Fault FlashDecodeOperator(AOT_ARGUMENTS) {
  enum { kQ, kK, kV, kKeys, kValues, kSlots, kLive, kCount, kY, kParameters };
  if (nparam != kParameters) return kWrongCount;
  constexpr int kRanks[] = {4, 4, 4, 4, 4, 1, 1, 1};
  Dtype types[kY];
  for (int i = 0; i < kY; ++i) {
    if (ndims[i] != kRanks[i]) return kWrongRank;
    types[i] = ParseDtype(dtypes[i]);
    if (i < kSlots ? !IsFloat(types[i]) : types[i] != Dtype::kInt32) return kWrongDtype;
  }
  if (types[kK] != types[kQ] || types[kV] != types[kQ] || types[kKeys] != types[kValues]) return kWrongDtype;
  const int64_t segments = shapes[kQ][0], tokens = shapes[kQ][1], heads = shapes[kQ][2], dim = shapes[kQ][3];
  const int64_t kv_heads = shapes[kK][2], length = shapes[kKeys][2];
  const int64_t fresh[] = {segments, tokens, kv_heads, dim}, kept[] = {shapes[kKeys][0], kv_heads, length, dim};
  const bool fits = std::equal(fresh, fresh + 4, shapes[kK]) && std::equal(fresh, fresh + 4, shapes[kV]) &&
                    std::equal(kept, kept + 4, shapes[kKeys]) && std::equal(kept, kept + 4, shapes[kValues]) &&
                    shapes[kSlots][0] == segments && shapes[kLive][0] == segments && shapes[kCount][0] == segments;
  if (!fits || !ValidHeads(heads, kv_heads, dim)) return kWrongShape;
  const auto ints = [params](int i) { return static_cast<const int32_t *>(params[i]); };
  for (int64_t s = 0; s < segments; ++s) {
    const int64_t slot = ints(kSlots)[s], live = ints(kLive)[s], count = ints(kCount)[s];
    if (slot < 0 || slot >= shapes[kKeys][0] || live < 0 || count < 0 || count > tokens) return kWrongLengths;
    if (live + count > length) return kFullSlot;
    for (int64_t other = 0; other < s && count > 0; ++other) {
      if (ints(kCount)[other] > 0 && ints(kSlots)[other] == slot) return kWrongLengths;
    }
  }

  const int64_t item = ItemSize(types[kQ]), row = dim * ItemSize(types[kKeys]);
  std::vector<float> converted(dim);
  std::vector<Unit> units;
  auto *y = static_cast<char *>(params[kY]);
  for (int64_t s = 0; s < segments; ++s) {
    const int64_t slot = ints(kSlots)[s] * kv_heads * length * row, live = ints(kLive)[s], count = ints(kCount)[s];
    for (const auto &[from, to] : {std::pair{kK, kKeys}, {kV, kValues}}) {
      for (int64_t t = 0; t < count; ++t) {
        for (int64_t g = 0; g < kv_heads; ++g) {
          const char *x = static_cast<char *>(params[from]) + ((s * tokens + t) * kv_heads + g) * dim * item;
          char *held = static_cast<char *>(params[to]) + slot + (g * length + live + t) * row;
          Chosen().to_float(types[kQ], x, dim, converted.data());
          Chosen().from_float(types[kKeys], converted.data(), dim, held);
        }
      }
    }
    units.push_back({s * tokens, count, static_cast<char *>(params[kKeys]) + slot,
                     static_cast<char *>(params[kValues]) + slot, live + count, live});
    const int64_t answer = heads * dim * item;
    std::memset(y + (s * tokens + count) * answer, 0, (tokens - count) * answer);
  }
  const AttentionProblem problem{.dtype = types[kQ],
                                 .kv_dtype = types[kKeys],
                                 .heads = heads,
                                 .kv_heads = kv_heads,
                                 .dim = dim,
                                 .q = static_cast<char *>(params[kQ]),
                                 .y = y,
                                 .kv_stride = row,
                                 .kv_head_stride = length * row};
  Attend(problem, units);
  return kOk;
}

}  // namespace

AOT_OPERATOR(FlashVision, FlashVisionOperator)
AOT_OPERATOR(FlashDecode, FlashDecodeOperator)
