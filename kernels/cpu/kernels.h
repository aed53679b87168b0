// The routines that exist once for every instruction set, and the one that is in use.

#pragma once

#include <cstdint>

enum class Dtype { kFloat32, kFloat16, kBfloat16, kInt8, kInt32, kUnknown };

constexpr int64_t ItemSize(Dtype dtype) {
  return dtype == Dtype::kInt8 ? 1 : dtype == Dtype::kFloat16 || dtype == Dtype::kBfloat16 ? 2 : 4;
}

constexpr int64_t kMaxDim = 256;    // of a head
constexpr int64_t kQueryRows = 96;  // of a block: a multiple of every row block in kernels.inc
constexpr int64_t kTile = 128;      // keys whose scores are held at once
constexpr int64_t kPanel = 32;      // columns of a weight that lie side by side: a multiple of every vector
constexpr int64_t kDepth = 1024;    // rows of a panel that stay in the cache while rows of x pass by
constexpr int64_t kChunk = 512;     // keys that one softmax state covers; chunks are merged from left to right
constexpr int64_t kGroup = 128;     // inputs of an int8 weight that share a scale
constexpr int64_t kHeader = 8;      // rows of an int8 panel ahead of each group

// A weight [in, out] at rest, packed in panels [rows][kPanel] of kPanel outputs each. A row is
// - float32, float16: one input's weights.
// - bfloat16: the same in pairs, column i beside column i + kPanel / 2, so that they are widened two at a time.
// - int8: for each group of inputs kPanel float scales and kPanel int32 offsets (-128 times the sum of the group's weights),
//   then four inputs of each output side by side.
struct Weight {
  const void *data;
  Dtype dtype;
};

constexpr int64_t Groups(int64_t in) { return (in + kGroup - 1) / kGroup; }
constexpr int64_t PanelRows(Dtype dtype, int64_t in) { return dtype == Dtype::kInt8 ? in + kHeader * Groups(in) : in; }
// The reverse: how many inputs so many rows hold.
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

// y = activation(x w + bias) + residual, over rows of `in` floats that follow one another. For kSiluGate the panels of gate
// and up take turns, the biases of up lie behind those of gate, and y = silu(gate) * up + residual. x is rounded to 8 bits a
// group where the weights are int8.
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
  int64_t width;      // floats in a vector
  int64_t row_block;  // rows of a register tile

  void (*to_float)(Dtype dtype, const void *x, int64_t n, float *y);
  void (*from_float)(Dtype dtype, const float *x, int64_t n, void *y);

  // Row r of a block, scaled, in the order in which the register tiles read it.
  void (*pack_query)(Dtype dtype, const void *q, int64_t dim, float scale, int64_t r, float *packed);
  // Keys transposed and values converted, for `count` <= kTile rows from `first`; the rest of the tile is zero.
  void (*pack_tile)(const Head &head, int64_t first, int64_t count, float *packed);
  // The softmax state of a block over the keys first .. last, at most kChunk of them. `packed`: all tiles of the head, or
  // null. State: [rows] largest score, [rows] sum of weights, [rows][PaddedDim] weighted values.
  void (*chunk)(const Queries &queries, const Head &head, const float *packed, int64_t first, int64_t last, float *scratch,
                float *state);
  void (*merge)(int64_t rows, int64_t dim, const float *part, float *total);
  // Row r of the answer; zero where it saw no key.
  void (*finish)(int64_t rows, int64_t dim, const float *state, int64_t r, Dtype dtype, void *y);

  // Up to kQueryRows rows of x as `product_panels` reads them beside weights of a dtype.
  void (*pack_rows)(Dtype dtype, const float *x, int64_t rows, int64_t in, float *packed);
  // Panels first .. last of the output, for packed rows whose answers begin at row `row`.
  void (*product_panels)(const Product &product, const float *packed, int64_t row, int64_t rows, int64_t first,
                         int64_t last);
  void (*rms_norm)(const float *x, const float *weight, int64_t n, float eps, float *y);
  void (*layer_norm)(const float *x, const float *weight, const float *bias, int64_t n, float eps, float *y);
  // The logarithm of the probability that a softmax gives to the largest of n logits.
  float (*log_probability)(const float *logits, int64_t n, float largest);
  // Turns the pairs (i, i + half) of one head.
  void (*rotate)(const float *x, const float *cos, const float *sin, int64_t half, float *y);
  // For the benchmark: floating-point operations done, and the sum of everything read.
  double (*fma_flops)(int64_t rounds);
  float (*read_all)(const float *x, int64_t n);

  int64_t PaddedDim(int64_t dim) const { return (dim + width - 1) / width * width; }
  int64_t TileFloats(int64_t dim) const { return kTile * (dim + PaddedDim(dim)); }
  int64_t StateFloats(int64_t rows, int64_t dim) const { return rows * (2 + PaddedDim(dim)); }
  int64_t PackedQueryFloats(int64_t dim) const { return kQueryRows * dim; }
  int64_t ScratchFloats(int64_t dim) const { return kQueryRows * (kTile + 1) + TileFloats(dim) + kMaxDim; }
};

const Kernels &Chosen();  // the best that this processor has, or what UseInstructionSet named
