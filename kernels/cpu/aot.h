// What a MindSpore AOT custom op is handed, and the codes that it may return.

#pragma once

#include <cstdint>
#include <cstring>

#include "kernels.h"

#define AOT_ARGUMENTS int nparam, void **params, int *ndims, int64_t **shapes, const char **dtypes, void *, void *

// Non-zero codes become RuntimeErrors; mindnlp_ocr/ops/native.py puts them into words.
enum Fault { kOk, kWrongCount, kWrongRank, kWrongDtype, kWrongShape, kFullSlot, kWrongLengths, kNoMemory };

inline Dtype ParseDtype(const char *name) {
  if (std::strcmp(name, "float32") == 0) return Dtype::kFloat32;
  if (std::strcmp(name, "float16") == 0) return Dtype::kFloat16;
  if (std::strcmp(name, "bfloat16") == 0) return Dtype::kBfloat16;
  if (std::strcmp(name, "int32") == 0) return Dtype::kInt32;
  return Dtype::kUnknown;
}

inline bool IsFloat(Dtype dtype) { return dtype != Dtype::kInt32 && dtype != Dtype::kUnknown; }

// What attention.h can do.
inline bool ValidHeads(int64_t heads, int64_t kv_heads, int64_t dim) {
  return kv_heads > 0 && heads > 0 && heads % kv_heads == 0 && heads / kv_heads <= kQueryRows && dim > 0 && dim % 8 == 0 &&
         dim <= kMaxDim;
}
