// One decoder layer as a MindSpore AOT custom op, for a prompt, the rest of a prompt whose beginning is in a slot, or one
// token in each of several slots.

#include <algorithm>
#include <vector>

#include "aot.h"
#include "decoder.h"

namespace {

enum { kX, kCos, kSin, kSlots, kLive, kCount, kEps, kFirstLayerTensor, kY = kFirstLayerTensor + kLayerTensors, kParameters };

// Reads the segments that have tokens. Their rows are contiguous from row 0, and padding follows the last one.
Fault ReadSegments(const Arguments &arguments, const Layer &layer, int64_t rows, std::vector<Segment> *out) {
  const auto *slots = arguments[kSlots].Ints(), *lives = arguments[kLive].Ints(), *counts = arguments[kCount].Ints();
  int64_t row = 0;
  for (int64_t s = 0; s < arguments[kSlots].shape[0]; ++s) {
    const int64_t slot = slots[s], live = lives[s], count = counts[s];
    if (count < 0 || count > rows - row) return kWrongLengths;
    if (count == 0) continue;
    if (slot < 0 || slot >= layer.slots || live < 0) return kWrongLengths;
    if (live + count > layer.length) return kFullSlot;
    for (const Segment &other : *out) {
      if (other.slot == slot) return kWrongLengths;
    }
    out->push_back({row, count, slot, live});
    row += count;
  }
  return kOk;
}

// Inputs: x float32 [rows, hidden]; cos, sin float32 [rows, dim / 2]; slots, live, count int32 [segments]: the slot of each
// segment, the number of rows already in it, and the number of new tokens; eps float32 [1]; the tensors of the layer, of
// which keys and values are written in place. The rows of the segments are contiguous; the remaining rows are padding. The
// output has the shape of x, and is zero for padding.
Fault RunOperator(AOT_ARGUMENTS) {
  if (nparam != kParameters) return kWrongCount;
  const Arguments arguments{params, ndims, shapes, dtypes};
  for (const int i : {kX, kCos, kSin, kSlots, kLive, kCount, kEps, kY}) {
    const bool matrix = i == kX || i == kCos || i == kSin || i == kY, integer = i == kSlots || i == kLive || i == kCount;
    if (arguments[i].rank != (matrix ? 2 : 1)) return kWrongRank;
    if (arguments[i].dtype != (integer ? Dtype::kInt32 : Dtype::kFloat32)) return kWrongDtype;
  }
  const Tensor x = arguments[kX], y = arguments[kY];
  const int64_t rows = x.shape[0], hidden = x.shape[1], segments = arguments[kSlots].shape[0];
  if (!arguments[kEps].Has({1})) return kWrongShape;
  Layer layer;
  if (const Fault fault = ReadLayer(arguments, kFirstLayerTensor, hidden, *arguments[kEps].Floats(), &layer)) return fault;
  const bool fits = segments > 0 && arguments[kLive].Has({segments}) && arguments[kCount].Has({segments}) &&
                    arguments[kCos].Has({rows, layer.dim / 2}) && arguments[kSin].Has({rows, layer.dim / 2});
  if (!fits) return kWrongShape;
  std::vector<Segment> live;
  if (const Fault fault = ReadSegments(arguments, layer, rows, &live)) return fault;
  int64_t done = 0;
  if (!live.empty()) {
    done = live.back().row + live.back().tokens;
    const LayerBuffers buffers(layer, done);
    RunLayer(layer, buffers, live, x.Floats(), arguments[kCos].Floats(), arguments[kSin].Floats(), y.Floats());
  }
  std::fill(y.Floats() + done * hidden, y.Floats() + rows * hidden, 0.0f);
  return kOk;
}

}  // namespace

AOT_OPERATOR(DecoderLayer, RunOperator)
