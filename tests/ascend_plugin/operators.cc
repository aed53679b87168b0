// Test only: the Ascend operators that mindnlp_ocr/backends/ascend.py calls, as plain loops on the CPU.
//
// MindSpore (2.7.2 and later) loads this library from MS_OP_PLUGIN_PATH and takes from it what is named here, rather than
// from its CPU backend, so that the graphs meant for Ascend run where there is none. Written from the public documentation
// of the operators: their meaning, and their limits as errors. 16-bit inputs and outputs, float32 between. Nothing here
// says how fast an NPU is, nor how it rounds.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

enum Layout { kBNSD = 1, kTND = 4 };  // MindSpore's numbers

void Require(bool holds, const std::string &what) {
  if (!holds) throw std::invalid_argument(what);
}

float FromBfloat16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

uint16_t ToBfloat16(float value) {  // to nearest, ties to even; no NaN comes here
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// The arguments of one call, inputs first, outputs behind them. An input of None is a null pointer; a number is a pointer
// to an int64 or a float; a tuple of numbers is a vector of rank 1; a list of one tensor is that tensor.
struct Call {
  void **data;
  int *ranks;
  int64_t **shapes;
  const char **dtypes;

  std::string Dtype(int i) const { return dtypes[i]; }
  std::vector<int64_t> Shape(int i) const { return {shapes[i], shapes[i] + ranks[i]}; }
  int64_t Integer(int i) const { return *static_cast<const int64_t *>(data[i]); }
  float Real(int i) const { return *static_cast<const float *>(data[i]); }

  int64_t Size(int i) const {
    int64_t size = 1;
    for (int d = 0; d < ranks[i]; ++d) size *= shapes[i][d];
    return size;
  }

  int64_t ItemBytes(int i) const {
    const std::string dtype = Dtype(i);
    if (dtype == "float16" || dtype == "bfloat16") return 2;
    if (dtype == "float32" || dtype == "int32") return 4;
    Require(dtype == "bool" || dtype == "int8" || dtype == "uint8" || dtype == "int64", "dtype " + dtype);
    return dtype == "int64" ? 8 : 1;
  }

  void RequireAbsent(int first, int last) const {
    for (int i = first; i <= last; ++i) Require(data[i] == nullptr, "input " + std::to_string(i) + " is not emulated");
  }

  void RequireHalf(std::initializer_list<int> tensors) const {
    for (const int i : tensors) {
      Require(Dtype(i) == "float16" || Dtype(i) == "bfloat16", "input " + std::to_string(i) + " is " + Dtype(i));
      Require(Dtype(i) == Dtype(0), "inputs of different dtypes");
    }
  }

  std::vector<int64_t> Integers(int i) const {
    std::vector<int64_t> values(Size(i));
    for (size_t n = 0; n < values.size(); ++n) {
      values[n] = Dtype(i) == "int32" ? static_cast<const int32_t *>(data[i])[n] : static_cast<const int64_t *>(data[i])[n];
    }
    return values;
  }

  std::vector<float> Floats(int i) const {
    std::vector<float> values(Size(i));
    const std::string dtype = Dtype(i);
    for (size_t n = 0; n < values.size(); ++n) {
      if (dtype == "float16") {
        values[n] = static_cast<const _Float16 *>(data[i])[n];
      } else if (dtype == "bfloat16") {
        values[n] = FromBfloat16(static_cast<const uint16_t *>(data[i])[n]);
      } else {
        Require(dtype == "float32", "dtype " + dtype);
        values[n] = static_cast<const float *>(data[i])[n];
      }
    }
    return values;
  }

  void Store(int i, const std::vector<float> &values) const {
    const std::string dtype = Dtype(i);
    for (size_t n = 0; n < values.size(); ++n) {
      if (dtype == "float16") {
        static_cast<_Float16 *>(data[i])[n] = static_cast<_Float16>(values[n]);
      } else if (dtype == "bfloat16") {
        static_cast<uint16_t *>(data[i])[n] = ToBfloat16(values[n]);
      } else {
        static_cast<float *>(data[i])[n] = values[n];
      }
    }
  }
};

void RequireHeads(int64_t heads, int64_t kv_heads, int64_t dim) {
  Require(heads >= 1 && heads <= 256, "query heads outside 1..256");
  Require(kv_heads >= 1 && heads % kv_heads == 0 && heads / kv_heads <= 64, "heads are no multiple of kv heads, or over 64");
  Require(dim % 16 == 0 && dim <= 512, "head size is no multiple of 16, or over 512");
}

// One query over `rows` keys that lie `stride` apart; those with hidden[row] != 0 take no part.
void Attend(const float *q, const float *k, const float *v, int64_t rows, int64_t stride, int64_t dim, float scale,
            const uint8_t *hidden, float *y) {
  std::vector<float> scores(rows);
  float top = -INFINITY;
  for (int64_t row = 0; row < rows; ++row) {
    float score = 0;
    const float *key = k + row * stride;
#pragma omp simd reduction(+ : score)
    for (int64_t d = 0; d < dim; ++d) score += q[d] * key[d];
    scores[row] = hidden != nullptr && hidden[row] != 0 ? -INFINITY : score * scale;
    top = std::fmax(top, scores[row]);
  }
  Require(std::isfinite(top), "a query sees no key");
  float sum = 0;
  for (int64_t d = 0; d < dim; ++d) y[d] = 0;
  for (int64_t row = 0; row < rows; ++row) {
    const float weight = std::exp(scores[row] - top);
    if (weight == 0) continue;  // what is hidden may hold anything, NaN as well
    const float *value = v + row * stride;
    sum += weight;
#pragma omp simd
    for (int64_t d = 0; d < dim; ++d) y[d] += weight * value[d];
  }
  for (int64_t d = 0; d < dim; ++d) y[d] /= sum;
}

// TND without a mask: every sequence attends to all of itself.
void Packed(const Call &call) {
  enum {
    kQ,
    kK,
    kV,
    kFirstAbsent,
    kLastAbsent = 7,
    kQEnds,
    kKEnds,
    kHeads,
    kKeep,
    kScale,
    kLayout = 16,
    kSparse,
    kOut = 21
  };
  call.RequireHalf({kQ, kK, kV});
  call.RequireAbsent(kFirstAbsent, kLastAbsent);
  Require(call.Integer(kLayout) == kTND && call.Integer(kSparse) == 0, "only TND with sparse_mode 0 is emulated");
  Require(call.Real(kKeep) == 1, "dropout is not emulated");
  const auto q_shape = call.Shape(kQ), k_shape = call.Shape(kK);
  Require(q_shape.size() == 3 && k_shape.size() == 3 && call.Shape(kV) == k_shape, "TND takes tensors of rank 3");
  const int64_t heads = q_shape[1], kv_heads = k_shape[1], dim = q_shape[2];
  RequireHeads(heads, kv_heads, dim);
  Require(heads == call.Integer(kHeads) && k_shape[2] == dim, "head_num or head size do not fit");
  const auto q_ends = call.Integers(kQEnds), k_ends = call.Integers(kKEnds);
  Require(!q_ends.empty() && q_ends.size() == k_ends.size() && q_ends.size() <= 1024, "lengths: 1..1024 of both");
  Require(q_ends.back() == q_shape[0] && k_ends.back() == k_shape[0], "the last cumulative length is not T");

  const auto q = call.Floats(kQ), k = call.Floats(kK), v = call.Floats(kV);
  std::vector<float> y(q.size());
  for (size_t b = 0; b < q_ends.size(); ++b) {
    const int64_t q_start = b == 0 ? 0 : q_ends[b - 1], k_start = b == 0 ? 0 : k_ends[b - 1];
    Require(q_ends[b] >= q_start && k_ends[b] > k_start, "lengths decrease, or keys of length 0");
    for (int64_t t = q_start; t < q_ends[b]; ++t) {
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t at = (t * heads + h) * dim, from = (k_start * kv_heads + h / (heads / kv_heads)) * dim;
        Attend(&q[at], &k[from], &v[from], k_ends[b] - k_start, kv_heads * dim, dim, call.Real(kScale), nullptr, &y[at]);
      }
    }
  }
  call.Store(kOut, y);
}

// BNSD under a complete mask, 1 where a key is hidden; key j of query i lies between i - pre_tokens and i + next_tokens.
void Prompt(const Call &call) {
  enum { kQ, kK, kV, kMask, kFirstAbsent, kLastAbsent = 11, kHeads, kScale, kPre, kNext };
  enum { kLayout = 16, kKvHeads, kSparse, kInner, kOut };
  call.RequireHalf({kQ, kK, kV});
  call.RequireAbsent(kFirstAbsent, kLastAbsent);
  Require(call.Integer(kLayout) == kBNSD && call.Integer(kSparse) == 0, "only BNSD with sparse_mode 0 is emulated");
  Require(call.Integer(kInner) == 0, "only inner_precise 0 is emulated");
  const auto q_shape = call.Shape(kQ), k_shape = call.Shape(kK);
  Require(q_shape.size() == 4 && k_shape.size() == 4 && call.Shape(kV) == k_shape, "BNSD takes tensors of rank 4");
  const int64_t batch = q_shape[0], heads = q_shape[1], rows = q_shape[2], dim = q_shape[3];
  const int64_t kv_heads = k_shape[1], kv_rows = k_shape[2];
  RequireHeads(heads, kv_heads, dim);
  Require(heads == call.Integer(kHeads) && kv_heads == call.Integer(kKvHeads), "heads do not fit the attributes");
  Require(k_shape[0] == batch && k_shape[3] == dim, "k has another batch or head size");
  Require(call.Dtype(kMask) == "bool" || call.Dtype(kMask) == "int8" || call.Dtype(kMask) == "uint8", "dtype of the mask");
  const auto shape = call.Shape(kMask);
  const int64_t lead = call.Size(kMask) / (rows * kv_rows);
  Require(shape.size() >= 2 && shape.size() <= 4 && shape[shape.size() - 2] == rows && shape.back() == kv_rows &&
              (lead == 1 || (lead == batch && shape[0] == batch)),
          "sparse_mode 0 takes a mask of queries x keys");

  const auto q = call.Floats(kQ), k = call.Floats(kK), v = call.Floats(kV);
  std::vector<float> y(q.size());
  std::vector<uint8_t> hidden(kv_rows);
  for (int64_t n = 0; n < batch * heads * rows; ++n) {
    const int64_t b = n / rows / heads, h = n / rows % heads, row = n % rows;
    const auto *mask = static_cast<const uint8_t *>(call.data[kMask]) + ((lead == 1 ? 0 : b) * rows + row) * kv_rows;
    for (int64_t j = 0; j < kv_rows; ++j) {
      hidden[j] = mask[j] != 0 || j < row - call.Integer(kPre) || j > row + call.Integer(kNext);
    }
    const int64_t from = (b * kv_heads + h / (heads / kv_heads)) * kv_rows * dim;
    Attend(&q[n * dim], &k[from], &v[from], kv_rows, dim, dim, call.Real(kScale), hidden.data(), &y[n * dim]);
  }
  call.Store(kOut, y);
}

// BNSD, one query a sequence, under a mask that is 1 where a key is hidden.
void Incremental(const Call &call) {
  enum { kQ, kK, kV, kMask, kFirstAbsent, kLastAbsent = 14, kHeads, kLayout, kScale, kKvHeads, kBlock, kOut = 21 };
  call.RequireHalf({kQ, kK, kV});
  call.RequireAbsent(kFirstAbsent, kLastAbsent);
  Require(call.Integer(kLayout) == kBNSD && call.Integer(kBlock) == 0, "only BNSD without blocks is emulated");
  const auto q_shape = call.Shape(kQ), k_shape = call.Shape(kK);
  Require(q_shape.size() == 4 && k_shape.size() == 4 && call.Shape(kV) == k_shape, "BNSD takes tensors of rank 4");
  const int64_t batch = q_shape[0], heads = q_shape[1], dim = q_shape[3], kv_heads = k_shape[1], rows = k_shape[2];
  RequireHeads(heads, kv_heads, dim);
  Require(heads == call.Integer(kHeads) && kv_heads == call.Integer(kKvHeads), "heads do not fit the attributes");
  Require(q_shape[2] == 1 && k_shape[0] == batch && k_shape[3] == dim, "q is not one token, or k has another shape");
  Require(call.Dtype(kMask) == "bool" || call.Dtype(kMask) == "int8" || call.Dtype(kMask) == "uint8", "dtype of the mask");
  const auto mask_shape = call.Shape(kMask);
  Require(mask_shape.front() == batch && mask_shape.back() == rows && call.Size(kMask) == batch * rows, "shape of the mask");

  const auto q = call.Floats(kQ), k = call.Floats(kK), v = call.Floats(kV);
  std::vector<float> y(q.size());
  for (int64_t n = 0; n < batch * heads; ++n) {
    const int64_t from = (n / heads * kv_heads + n % heads / (heads / kv_heads)) * rows * dim;
    const auto *hidden = static_cast<const uint8_t *>(call.data[kMask]) + n / heads * rows;
    Attend(&q[n * dim], &k[from], &v[from], rows, dim, dim, call.Real(kScale), hidden, &y[n * dim]);
  }
  call.Store(kOut, y);
}

// Where each row of indices [..., width] points in a tensor, in bytes, and how many bytes it points at.
std::vector<int64_t> Offsets(const Call &call, int tensor, int indices, int64_t *bytes) {
  const auto shape = call.Shape(tensor), index = call.Shape(indices);
  Require(index.size() >= 2 && index.back() <= static_cast<int64_t>(shape.size()), "indices of wrong rank or width");
  *bytes = call.ItemBytes(tensor);
  for (size_t d = index.back(); d < shape.size(); ++d) *bytes *= shape[d];
  const auto values = call.Integers(indices);
  std::vector<int64_t> offsets(values.size() / index.back());
  for (size_t i = 0; i < values.size(); ++i) {
    const int64_t axis = i % index.back();
    Require(values[i] >= 0 && values[i] < shape[axis], "an index outside its tensor");
    int64_t &offset = offsets[i / index.back()];
    offset = offset * shape[axis] + values[i];
    if (axis == index.back() - 1) offset *= *bytes;
  }
  return offsets;
}

// The shape of what the indices point at.
std::vector<int64_t> IndexedShape(const Call &call, int tensor, int indices) {
  const auto shape = call.Shape(tensor), index = call.Shape(indices);
  auto indexed = std::vector<int64_t>(index.begin(), index.end() - 1);
  indexed.insert(indexed.end(), shape.begin() + index.back(), shape.end());
  return indexed;
}

// var[indices[i]] = updates[i], one after another, in place. MindSpore's CPU backend has it, but not in bfloat16; here the
// output has memory of its own, where on Ascend it is var.
void ScatterNd(const Call &call) {
  enum { kVar, kIndices, kUpdates, kOut };
  Require(call.Dtype(kVar) == call.Dtype(kUpdates), "var and updates have different dtypes");
  int64_t bytes;
  const auto offsets = Offsets(call, kVar, kIndices, &bytes);
  Require(call.Shape(kUpdates) == IndexedShape(call, kVar, kIndices), "updates do not fit var and indices");
  const auto *updates = static_cast<const char *>(call.data[kUpdates]);
  for (const int64_t offset : offsets) {
    std::memcpy(static_cast<char *>(call.data[kVar]) + offset, updates, bytes);
    updates += bytes;
  }
  std::memmove(call.data[kOut], call.data[kVar], call.Size(kVar) * call.ItemBytes(kVar));
}

// x[indices[i]]. As above, the CPU backend lacks bfloat16.
void GatherRows(const Call &call) {
  enum { kX, kIndices, kOut };
  int64_t bytes;
  auto *out = static_cast<char *>(call.data[kOut]);
  for (const int64_t offset : Offsets(call, kX, kIndices, &bytes)) {
    std::memcpy(out, static_cast<const char *>(call.data[kX]) + offset, bytes);
    out += bytes;
  }
}

// params[..., indices, ...] along an axis. As above, the CPU backend lacks bfloat16.
void Gather(const Call &call) {
  enum { kParams, kIndices, kAxis, kBatchDims, kOut };
  Require(call.Integer(kBatchDims) == 0, "batch_dims are not emulated");
  const auto shape = call.Shape(kParams);
  const int64_t rank = shape.size(), axis = (call.Integer(kAxis) + rank) % rank;
  int64_t outer = 1, bytes = call.ItemBytes(kParams);
  for (int64_t d = 0; d < axis; ++d) outer *= shape[d];
  for (int64_t d = axis + 1; d < rank; ++d) bytes *= shape[d];
  const auto indices = call.Integers(kIndices);
  auto *out = static_cast<char *>(call.data[kOut]);
  for (int64_t n = 0; n < outer; ++n) {
    for (const int64_t index : indices) {
      Require(index >= 0 && index < shape[axis], "an index outside params");
      std::memcpy(out, static_cast<char *>(call.data[kParams]) + (n * shape[axis] + index) * bytes, bytes);
      out += bytes;
    }
  }
}

// What MindSpore puts between a read of a parameter and a later write, unless data flow orders the two.
void Copy(const Call &call) {
  Require(call.ranks[0] != 4 || call.ItemBytes(0) != 2, "the KV slots are copied");
  std::memcpy(call.data[1], call.data[0], call.Size(0) * call.ItemBytes(0));
}

// x / sqrt(mean(x^2) + epsilon) * gamma over the last axis, and 1 / sqrt(...).
void Rms(const Call &call) {
  enum { kX, kGamma, kEpsilon, kY, kInverse };
  Require(call.Dtype(kX) == call.Dtype(kGamma) && call.Shape(kGamma).size() == 1, "gamma has another dtype or rank");
  auto x = call.Floats(kX);
  const auto gamma = call.Floats(kGamma);
  const int64_t width = call.Shape(kX).back();
  Require(static_cast<int64_t>(gamma.size()) == width, "gamma has another width");
  std::vector<float> inverses(x.size() / width);
  for (size_t row = 0; row < inverses.size(); ++row) {
    float sum = 0;
    for (int64_t i = 0; i < width; ++i) sum += x[row * width + i] * x[row * width + i];
    inverses[row] = 1 / std::sqrt(sum / width + call.Real(kEpsilon));
    for (int64_t i = 0; i < width; ++i) x[row * width + i] *= inverses[row] * gamma[i];
  }
  call.Store(kY, x);
  call.Store(kInverse, inverses);
}

const char *kOperators[] = {"FlashAttentionScore",
                            "PromptFlashAttention",
                            "IncreFlashAttention",
                            "ScatterNdUpdate",
                            "GatherNd",
                            "Gather",
                            "TensorMove",
                            "RmsNorm"};

}  // namespace

// What MindSpore asks for: the operators there are, and a function of its custom operators' signature for each.
extern "C" {

int GetRegisteredOpCount() { return sizeof(kOperators) / sizeof(*kOperators); }

const char **GetAllRegisteredOps() { return kOperators; }

bool IsKernelRegistered(const char *name) {
  for (const char *operator_name : kOperators) {
    if (std::strcmp(operator_name, name) == 0) return true;
  }
  return false;
}

#define OPERATOR(NAME, FUNCTION) \
  int NAME(int, void **data, int *ranks, int64_t **shapes, const char **dtypes, void *, void *) { \
    FUNCTION({data, ranks, shapes, dtypes}); \
    return 0; \
  }

OPERATOR(FlashAttentionScore, Packed)
OPERATOR(PromptFlashAttention, Prompt)
OPERATOR(IncreFlashAttention, Incremental)
OPERATOR(RmsNorm, Rms)
OPERATOR(ScatterNdUpdate, ScatterNd)
OPERATOR(GatherNd, GatherRows)
OPERATOR(Gather, Gather)
OPERATOR(TensorMove, Copy)
}
