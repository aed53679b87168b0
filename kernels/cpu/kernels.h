// The routines that are compiled once for each instruction set, and the choice of the instruction set.

#pragma once

#include <cstdint>

enum class Dtype { kFloat32, kFloat16, kBfloat16, kInt8, kInt32, kUnknown };

constexpr int64_t ItemSize(Dtype dtype) {
  return dtype == Dtype::kInt8 ? 1 : dtype == Dtype::kFloat16 || dtype == Dtype::kBfloat16 ? 2 : 4;
}

constexpr int64_t kMaxDim = 256;    // maximum size of a head
constexpr int64_t kQueryRows = 96;  // rows of a block: a multiple of ROW_BLOCK of every instruction set
constexpr int64_t kTile = 128;      // keys whose scores are computed at once
constexpr int64_t kPanel = 32;      // columns of a panel of a weight: a multiple of every vector width
constexpr int64_t kDepth = 1024;    // rows of a panel that stay in the cache while rows of x are multiplied with them
constexpr int64_t kChunk = 512;     // keys of one softmax state; chunks are merged from left to right
constexpr int64_t kGroup = 128;     // inputs of an int8 weight that share a scale
constexpr int64_t kHeader = 8;      // rows of an int8 panel before each group

// A stored weight [in, out], packed in panels [rows][kPanel] of kPanel outputs each. A row contains
// - float32, float16: the weights of one input.
// - bfloat16: the same in pairs of column i and column i + kPanel / 2, so that two are widened at a time.
// - int8: for each group of inputs, kPanel float scales, kPanel int32 offsets (-128 times the sum of the group's weights),
//   and the weights, with four inputs of each output side by side.
struct Weight {
  const void *data;
  Dtype dtype;
};

constexpr int64_t Groups(int64_t in) { return (in + kGroup - 1) / kGroup; }
constexpr int64_t PanelRows(Dtype dtype, int64_t in) { return dtype == Dtype::kInt8 ? in + kHeader * Groups(in) : in; }
// The inverse of PanelRows: the number of inputs of a panel with this number of rows.
constexpr int64_t Inputs(Dtype dtype, int64_t rows) {
  return dtype == Dtype::kInt8 ? rows - kHeader * ((rows + kGroup + kHeader - 1) / (kGroup + kHeader)) : rows;
}

// Keys and values of one head: row i starts at k + i * stride bytes.
struct Head {
  const char *k, *v;
  int64_t stride, dim, keys;
  Dtype dtype;
};

// Query rows of one head or group. Row r sees the keys before limit[r].
struct Queries {
  int64_t rows, dim;
  const float *packed;
  int64_t limit[kQueryRows];
};

enum class Activation { kNone, kQuickGelu, kGelu, kSiluGate };

// y = activation(x w + bias) + residual, for contiguous rows of `in` floats. For kSiluGate, the panels of gate and up
// alternate, the biases of up follow those of gate, and y = silu(gate) * up + residual. If the weights are int8, x is
// quantized to 8 bits per group.
struct Product {
  const float *x;
  int64_t rows;
  Weight w;
  int64_t in, out;
  const float *bias = nullptr;  // [out], for kSiluGate [2 * out], or null
  Activation activation = Activation::kNone;
  const float *residual = nullptr;  // [rows][out], or null
  float *y;                         // [rows][out]
};

struct Kernels {
  const char *name;
  int64_t width;      // number of floats in a vector
  int64_t row_block;  // number of rows of a register tile

  void (*to_float)(Dtype dtype, const void *x, int64_t n, float *y);
  void (*from_float)(Dtype dtype, const float *x, int64_t n, void *y);

  // Scales row r of a block, and writes it in the order in which the register tiles read it.
  void (*pack_query)(Dtype dtype, const void *q, int64_t dim, float scale, int64_t r, float *packed);
  // Transposes keys and converts values of `count` <= kTile rows from `first`; the rest of the tile is zero.
  void (*pack_tile)(const Head &head, int64_t first, int64_t count, float *packed);
  // Computes the softmax state of a block over the keys first .. last, at most kChunk of them. `packed`: all tiles of the
  // head, or null. State: [rows] largest score, [rows] sum of weights, [rows][PaddedDim] weighted values.
  void (*chunk)(const Queries &queries, const Head &head, const float *packed, int64_t first, int64_t last, float *scratch,
                float *state);
  void (*merge)(int64_t rows, int64_t dim, const float *part, float *total);
  // Writes row r of the answer; zero if it saw no keys.
  void (*finish)(int64_t rows, int64_t dim, const float *state, int64_t r, Dtype dtype, void *y);

  // Packs up to kQueryRows rows of x as `product_panels` reads them for weights of this dtype.
  void (*pack_rows)(Dtype dtype, const float *x, int64_t rows, int64_t in, float *packed);
  // Computes panels first .. last of the output, for packed rows whose answers begin at row `row`.
  void (*product_panels)(const Product &product, const float *packed, int64_t row, int64_t rows, int64_t first,
                         int64_t last);
  void (*rms_norm)(const float *x, const float *weight, int64_t n, float eps, float *y);
  void (*layer_norm)(const float *x, const float *weight, const float *bias, int64_t n, float eps, float *y);
  // Returns the logarithm of the softmax probability of the largest of n logits.
  float (*log_probability)(const float *logits, int64_t n, float largest);
  // Rotates the pairs (i, i + half) of one head.
  void (*rotate)(const float *x, const float *cos, const float *sin, int64_t half, float *y);
  // For benchmarks: return the number of floating-point operations, and the sum of all numbers read.
  double (*fma_flops)(int64_t rounds);
  float (*read_all)(const float *x, int64_t n);

  int64_t PaddedDim(int64_t dim) const { return (dim + width - 1) / width * width; }
  int64_t TileFloats(int64_t dim) const { return kTile * (dim + PaddedDim(dim)); }
  int64_t StateFloats(int64_t rows, int64_t dim) const { return rows * (2 + PaddedDim(dim)); }
  int64_t PackedQueryFloats(int64_t dim) const { return kQueryRows * dim; }
  int64_t ScratchFloats(int64_t dim) const { return kQueryRows * (kTile + 1) + TileFloats(dim) + kMaxDim; }
};

const Kernels &Chosen();  // the best one that this processor supports, or that of UseInstructionSet
