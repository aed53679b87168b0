// The arguments and return codes of MindSpore AOT custom ops.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <new>

#include "kernels.h"

#define AOT_ARGUMENTS int nparam, void **params, int *ndims, int64_t **shapes, const char **dtypes

// Non-zero codes become RuntimeErrors; mindnlp_ocr/ops/native.py adds the messages.
enum Fault { kOk, kWrongCount, kWrongRank, kWrongDtype, kWrongShape, kFullSlot, kWrongLengths, kNoMemory, kFailed };

// No exception may propagate into MindSpore, since the interface is C.
template <class F>
int Guarded(const F &run) noexcept {
  try {
    return run();
  } catch (const std::bad_alloc &) {
    return kNoMemory;
  } catch (...) {
    return kFailed;
  }
}

// Exports Run(AOT_ARGUMENTS) under the name that MindSpore looks up.
#define AOT_OPERATOR(Name, Run) \
  extern "C" int Name(AOT_ARGUMENTS, void *, void *) { \
    return Guarded([&] { return static_cast<int>(Run(nparam, params, ndims, shapes, dtypes)); }); \
  }

inline Dtype ParseDtype(const char *name) {
  if (std::strcmp(name, "float32") == 0) return Dtype::kFloat32;
  if (std::strcmp(name, "float16") == 0) return Dtype::kFloat16;
  if (std::strcmp(name, "bfloat16") == 0) return Dtype::kBfloat16;
  if (std::strcmp(name, "int8") == 0) return Dtype::kInt8;
  if (std::strcmp(name, "int32") == 0) return Dtype::kInt32;
  return Dtype::kUnknown;
}

inline bool IsFloat(Dtype dtype) {
  return dtype == Dtype::kFloat32 || dtype == Dtype::kFloat16 || dtype == Dtype::kBfloat16;
}
inline bool IsWeight(Dtype dtype) { return IsFloat(dtype) || dtype == Dtype::kInt8; }

// An input or an output.
struct Tensor {
  void *data;
  int rank;
  const int64_t *shape;
  Dtype dtype;

  // Compares only the given lengths; the rank must have been checked before.
  bool Has(std::initializer_list<int64_t> lengths) const { return std::equal(lengths.begin(), lengths.end(), shape); }
  float *Floats() const { return static_cast<float *>(data); }
  int32_t *Ints() const { return static_cast<int32_t *>(data); }
  char *Bytes() const { return static_cast<char *>(data); }
};

struct Arguments {
  void **data;
  int *ranks;
  int64_t **shapes;
  const char **dtypes;

  Tensor operator[](int i) const { return {data[i], ranks[i], shapes[i], ParseDtype(dtypes[i])}; }
};

inline Weight AsWeight(const Tensor &tensor) { return {tensor.data, tensor.dtype}; }

// Whether attention.h supports these heads.
inline bool ValidHeads(int64_t heads, int64_t kv_heads, int64_t dim) {
  return kv_heads > 0 && heads > 0 && heads % kv_heads == 0 && heads / kv_heads <= kQueryRows && dim > 0 && dim % 8 == 0 &&
         dim <= kMaxDim;
}
