// Several decode steps of the whole language model, as one MindSpore AOT custom op: embedding, all layers, norm, head and
// the choice of the next token, until every text has ended or has the requested number of tokens.
//
// In a small model, the call of a compiled graph, the operators between the layers and the return to Python take longer than
// the layers. The choice is greedy: the largest logit, and the first of equal ones.

#include <algorithm>
#include <memory>
#include <vector>

#include "aot.h"
#include "decoder.h"
#include "products.h"

namespace {

enum {
  kTokens,     // int32 [segments]: the newest token of each text
  kPositions,  // int32 [segments]: its position, the same on all three axes
  kSlots,      // int32 [segments]
  kLive,       // int32 [segments]: number of tokens already in the slot
  kCount,      // int32 [segments]: number of further tokens to generate; 0: the segment is idle
  kEnds,       // int32 [n]: tokens that end a text
  kCos,        // float32 [positions, dim / 2]
  kSin,
  kTable,  // panels: the embedding
  kNorm,   // float32 [hidden]
  kHead,   // panels
  kBias,   // float32 [vocab]
  kEps,    // float32 [1]
  kFirstLayer
};
// Tokens int32 [steps, segments], -1 if there is none; the logarithms of their probabilities float32 [steps, segments]; the
// last logits float32 [segments, vocab].
constexpr int kOutputs = 3;

struct Text {
  int64_t segment, position, live, left;
  int32_t token;
  float log_probability;
};

struct Model {
  std::vector<Layer> layers;
  Tensor cos, sin, norm, bias;
  Weight table, head;
  int64_t hidden, vocab, half;
  float eps;
};

Fault ReadModel(const Arguments &arguments, int layers, Model *model) {
  constexpr int kRanks[kFirstLayer] = {1, 1, 1, 1, 1, 1, 2, 2, 3, 1, 3, 1, 1};
  for (int i = 0; i < kFirstLayer; ++i) {
    if (arguments[i].rank != kRanks[i]) return kWrongRank;
    const Dtype dtype = arguments[i].dtype;
    if (kRanks[i] == 3 ? !IsWeight(dtype) : dtype != (i < kCos ? Dtype::kInt32 : Dtype::kFloat32)) return kWrongDtype;
  }
  const int64_t hidden = arguments[kNorm].shape[0], vocab = arguments[kBias].shape[0], half = arguments[kCos].shape[1];
  *model = {.layers = {},
            .cos = arguments[kCos],
            .sin = arguments[kSin],
            .norm = arguments[kNorm],
            .bias = arguments[kBias],
            .table = AsWeight(arguments[kTable]),
            .head = AsWeight(arguments[kHead]),
            .hidden = hidden,
            .vocab = vocab,
            .half = half,
            .eps = *arguments[kEps].Floats()};
  const bool fits = arguments[kEps].Has({1}) && arguments[kSin].Has({arguments[kCos].shape[0], half}) &&
                    HoldsPanels(arguments[kTable], Panels(vocab), hidden) &&
                    HoldsPanels(arguments[kHead], Panels(vocab), hidden);
  if (!fits) return kWrongShape;
  model->layers.resize(layers);
  for (int i = 0; i < layers; ++i) {
    Layer *layer = &model->layers[i];
    if (const Fault fault = ReadLayer(arguments, kFirstLayer + i * kLayerTensors, hidden, model->eps, layer)) return fault;
    const Layer &first = model->layers[0];
    if (layer->dim != 2 * half || layer->heads != first.heads || layer->kv_heads != first.kv_heads ||
        layer->inner != first.inner || layer->slots != first.slots || layer->length != first.length) {
      return kWrongShape;
    }
  }
  return kOk;
}

Fault ReadTexts(const Arguments &arguments, const Model &model, int64_t steps, std::vector<Text> *out) {
  const Layer &layer = model.layers[0];
  const int64_t segments = arguments[kTokens].shape[0];
  for (const int i : {kPositions, kSlots, kLive, kCount}) {
    if (!arguments[i].Has({segments})) return kWrongShape;
  }
  for (int64_t s = 0; s < segments; ++s) {
    const auto at = [&](int i) { return arguments[i].Ints()[s]; };
    const Text text{s, at(kPositions), at(kLive), at(kCount), at(kTokens), 0.0f};
    if (text.left < 0 || text.left > steps) return kWrongLengths;
    if (text.left == 0) continue;
    if (at(kSlots) < 0 || at(kSlots) >= layer.slots || text.live < 0) return kWrongLengths;
    if (text.token < 0 || text.token >= model.vocab) return kWrongLengths;
    if (text.position < 0 || text.position + text.left > model.cos.shape[0]) return kWrongLengths;
    if (text.live + text.left > layer.length) return kFullSlot;
    for (const Text &other : *out) {
      if (arguments[kSlots].Ints()[other.segment] == at(kSlots)) return kWrongLengths;
    }
    out->push_back(text);
  }
  return kOk;
}

class Decoder {
 public:
  Decoder(const Model &model, const int32_t *slots, int64_t rows)
      : model_(model),
        slots_(slots),
        x_(Buffer(rows * model.hidden)),
        y_(Buffer(rows * model.hidden)),
        cos_(Buffer(rows * model.half)),
        sin_(Buffer(rows * model.half)),
        logits_(Buffer(rows * model.vocab)),
        buffers_(model.layers[0], rows) {}

  // Generates the next token of each text.
  void Step(std::vector<Text> *texts) {
    const Kernels &kernels = Chosen();
    const int64_t rows = texts->size(), hidden = model_.hidden, half = model_.half, vocab = model_.vocab;
    std::vector<Segment> segments;
    for (int64_t r = 0; r < rows; ++r) {
      const Text &text = (*texts)[r];
      ReadRow(model_.table, hidden, text.token, &x_[r * hidden]);
      std::copy_n(model_.cos.Floats() + text.position * half, half, &cos_[r * half]);
      std::copy_n(model_.sin.Floats() + text.position * half, half, &sin_[r * half]);
      segments.push_back({r, 1, slots_[text.segment], text.live});
    }
    for (const Layer &layer : model_.layers) {
      RunLayer(layer, buffers_, segments, x_.get(), cos_.get(), sin_.get(), y_.get());
      x_.swap(y_);
    }
    Parallel(ProductScratch(hidden), [&](const Worker &worker) {
      worker.Static(rows, [&](int64_t r) {
        kernels.rms_norm(&x_[r * hidden], model_.norm.Floats(), hidden, model_.eps, &y_[r * hidden]);
      });
      Multiply(worker, {.x = y_.get(),
                        .rows = rows,
                        .w = model_.head,
                        .in = hidden,
                        .out = vocab,
                        .bias = model_.bias.Floats(),
                        .y = logits_.get()});
      worker.Static(rows, [&](int64_t r) {
        const float *row = &logits_[r * vocab];
        Text &text = (*texts)[r];
        const Choice choice = Choose(row, vocab);
        text.token = choice.token;
        text.log_probability = choice.log_probability;
      });
    });
  }

  // The logits of a text of the last step, by its index in that step.
  const float *Logits(int64_t row) const { return &logits_[row * model_.vocab]; }

 private:
  using Floats = std::unique_ptr<float[]>;
  static Floats Buffer(int64_t n) { return Floats(new float[n]); }

  const Model &model_;
  const int32_t *slots_;
  Floats x_, y_, cos_, sin_, logits_;
  const LayerBuffers buffers_;
};

// The inputs are those listed above, followed by the tensors of every layer (decoder.h), of which keys and values are
// written in place. Any segments may be idle.
Fault RunOperator(AOT_ARGUMENTS) {
  const int layers = (nparam - kFirstLayer - kOutputs) / kLayerTensors, outputs = nparam - kOutputs;
  if (layers < 1 || outputs != kFirstLayer + layers * kLayerTensors) return kWrongCount;
  const Arguments arguments{params, ndims, shapes, dtypes};
  Model model;
  if (const Fault fault = ReadModel(arguments, layers, &model)) return fault;
  const Tensor tokens = arguments[outputs], log_probabilities = arguments[outputs + 1], logits = arguments[outputs + 2];
  const int64_t segments = arguments[kTokens].shape[0], steps = tokens.shape[0];
  if (tokens.rank != 2 || log_probabilities.rank != 2 || logits.rank != 2) return kWrongRank;
  if (!tokens.Has({steps, segments}) || !log_probabilities.Has({steps, segments}) || !logits.Has({segments, model.vocab})) {
    return kWrongShape;
  }
  std::vector<Text> texts;
  if (const Fault fault = ReadTexts(arguments, model, steps, &texts)) return fault;

  std::fill_n(tokens.Ints(), steps * segments, -1);
  std::fill_n(log_probabilities.Floats(), steps * segments, 0.0f);
  std::fill_n(logits.Floats(), segments * model.vocab, 0.0f);
  const int32_t *ends = arguments[kEnds].Ints(), *last_end = ends + arguments[kEnds].shape[0];
  if (texts.empty()) return kOk;
  Decoder decoder(model, arguments[kSlots].Ints(), texts.size());
  for (int64_t step = 0; step < steps && !texts.empty(); ++step) {
    decoder.Step(&texts);
    std::vector<Text> going_on;
    for (size_t row = 0; row < texts.size(); ++row) {
      Text &text = texts[row];
      tokens.Ints()[step * segments + text.segment] = text.token;
      log_probabilities.Floats()[step * segments + text.segment] = text.log_probability;
      ++text.position, ++text.live, --text.left;
      if (text.left > 0 && std::find(ends, last_end, text.token) == last_end) {
        going_on.push_back(text);
      } else {
        std::copy_n(decoder.Logits(row), model.vocab, logits.Floats() + text.segment * model.vocab);
      }
    }
    texts.swap(going_on);
  }
  return kOk;
}

}  // namespace

AOT_OPERATOR(GreedyDecode, RunOperator)
