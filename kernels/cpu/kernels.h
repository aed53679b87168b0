// The routines that exist once for every instruction set, and the one that is in use.

#pragma once

#include <cstdint>

enum class Dtype { kFloat32, kFloat16, kBfloat16, kInt32, kUnknown };

constexpr int64_t ItemSize(Dtype dtype) { return dtype == Dtype::kFloat16 || dtype == Dtype::kBfloat16 ? 2 : 4; }

constexpr int64_t kMaxDim = 256;    // of a head
constexpr int64_t kQueryRows = 96;  // of a block: a multiple of every row block in kernels.inc
constexpr int64_t kTile = 128;      // keys whose scores are held at once
constexpr int64_t kChunk = 512;     // keys that one softmax state covers; chunks are merged from left to right

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

  // y[first, last) = x[in] times those columns of w[in][out].
  void (*product)(const float *x, const float *w, int64_t in, int64_t out, int64_t first, int64_t last, float *y);
  void (*rms_norm)(const float *x, const float *weight, int64_t n, float eps, float *y);
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
int Threads();            // of a parallel region
