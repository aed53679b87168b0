// Distribution of attention over threads.
//
// FlashAttention (Dao et al. 2022, arXiv:2205.14135) with the work split of FlashAttention-2 (Dao 2023, arXiv:2307.08691)
// and of Flash-Decoding: a unit with few query rows is split along its keys, and one with many along its queries. Both
// compute the same sums in the same order (tiles within a chunk, chunks from left to right), so the bits of a row do not
// depend on the split.

#include "attention.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "threads.h"

namespace {

using Buffer = std::unique_ptr<float[]>;

// Target size of packed keys and values: packing more heads at once needs fewer barriers.
constexpr int64_t kRoundFloats = 2 << 20;

class Attention {
 public:
  explicit Attention(const AttentionProblem &problem)
      : p_(problem),
        group_(problem.heads / problem.kv_heads),
        scale_(M_LOG2E / std::sqrt(static_cast<double>(problem.dim))) {}

  void Run(const std::vector<Unit> &units) {
    std::vector<const Unit *> narrow, wide;
    for (const Unit &unit : units) {
      if (unit.tokens > 0) (unit.tokens * group_ <= kQueryRows ? narrow : wide).push_back(&unit);
    }
    PlanNarrow(narrow);
    int64_t tiles = 0;
    for (const Unit *unit : wide) tiles = std::max(tiles, (unit->keys + kTile - 1) / kTile);
    const int64_t head_floats = tiles * kernels_.TileFloats(p_.dim);
    round_ = head_floats > 0 ? std::clamp(kRoundFloats / head_floats, int64_t{1}, p_.kv_heads) : 1;
    packed_.reset(head_floats > 0 ? new float[round_ * head_floats] : nullptr);
    Parallel(ThreadFloats(), [&](const Worker &worker) {
      RunNarrow(worker);
      for (const Unit *unit : wide) {
        for (int64_t g = 0; g < p_.kv_heads; g += round_) RunWide(worker, *unit, g, std::min(round_, p_.kv_heads - g));
      }
    });
  }

 private:
  // One group of heads of a unit. All its rows form one block. Its chunks are computed separately and then merged.
  struct Narrow {
    const Unit *unit;
    int64_t g, rows, chunks, first_chunk;
  };
  struct Chunk {
    const Narrow *narrow;
    int64_t first;
    float *state;
  };

  void PlanNarrow(const std::vector<const Unit *> &units) {
    int64_t chunks = 0, floats = 0;
    for (const Unit *unit : units) {
      for (int64_t g = 0; g < p_.kv_heads; ++g) {
        narrow_.push_back({unit, g, unit->tokens * group_, (unit->keys + kChunk - 1) / kChunk, chunks});
        chunks += narrow_.back().chunks;
        floats += narrow_.back().chunks * kernels_.StateFloats(narrow_.back().rows, p_.dim);
      }
    }
    states_.reset(new float[floats]);
    float *state = states_.get();
    for (const Narrow &narrow : narrow_) {
      for (int64_t c = 0; c < narrow.chunks; ++c) {
        chunks_.push_back({&narrow, c * kChunk, state});
        state += kernels_.StateFloats(narrow.rows, p_.dim);
      }
    }
  }

  void RunNarrow(const Worker &worker) {
    float *packed_queries = worker.scratch, *scratch = packed_queries + kernels_.PackedQueryFloats(p_.dim);
    // Neighbouring chunks are assigned to the same thread, since each prefetches the keys of the next.
    worker.Static(chunks_.size(), [&](int64_t i) {
      const Narrow &narrow = *chunks_[i].narrow;
      Queries queries{narrow.rows, p_.dim, packed_queries, {}};
      for (int64_t r = 0; r < narrow.rows; ++r) {
        AddQuery(*narrow.unit, r / group_, narrow.g * group_ + r % group_, r, packed_queries, &queries);
      }
      const int64_t last = std::min(chunks_[i].first + kChunk, narrow.unit->keys);
      kernels_.chunk(queries, HeadOf(*narrow.unit, narrow.g), nullptr, chunks_[i].first, last, scratch, chunks_[i].state);
    });
    worker.Static(narrow_.size(), [&](int64_t i) {
      const Narrow &narrow = narrow_[i];
      for (int64_t c = 1; c < narrow.chunks; ++c) {
        kernels_.merge(narrow.rows, p_.dim, chunks_[narrow.first_chunk + c].state, chunks_[narrow.first_chunk].state);
      }
      for (int64_t r = 0; r < narrow.rows; ++r) {
        Finish(*narrow.unit, narrow.rows, r / group_, narrow.g * group_ + r % group_, r, chunks_[narrow.first_chunk].state);
      }
    });
  }

  // All threads pack the keys and values of some heads, and then process the blocks of their queries.
  void RunWide(const Worker &worker, const Unit &unit, int64_t first_group, int64_t groups) {
    const int64_t tiles = (unit.keys + kTile - 1) / kTile, head_floats = tiles * kernels_.TileFloats(p_.dim);
    worker.Static(groups * tiles, [&](int64_t task) {
      const int64_t first = task % tiles * kTile;
      kernels_.pack_tile(HeadOf(unit, first_group + task / tiles), first, std::min(kTile, unit.keys - first),
                         packed_.get() + task * kernels_.TileFloats(p_.dim));
    });
    float *packed_queries = worker.scratch, *scratch = packed_queries + kernels_.PackedQueryFloats(p_.dim);
    float *total = scratch + kernels_.ScratchFloats(p_.dim), *part = total + kernels_.StateFloats(kQueryRows, p_.dim);
    const int64_t blocks = (unit.tokens + kQueryRows - 1) / kQueryRows;
    worker.Dynamic(groups * group_ * blocks, [&](int64_t task) {
      const int64_t g = task / (group_ * blocks), h = (first_group + g) * group_ + task % group_;
      const int64_t block =
          blocks - 1 - task / group_ % blocks;  // longest first: late blocks of a causal unit see more keys
      const int64_t token = block * kQueryRows;
      const Head head = HeadOf(unit, first_group + g);
      const float *packed = packed_.get() + g * head_floats;
      Queries queries{std::min(kQueryRows, unit.tokens - token), p_.dim, packed_queries, {}};
      for (int64_t r = 0; r < queries.rows; ++r) AddQuery(unit, token + r, h, r, packed_queries, &queries);
      const int64_t seen = std::min(queries.limit[queries.rows - 1], unit.keys);
      for (int64_t first = 0; first < seen; first += kChunk) {
        const int64_t last = std::min(first + kChunk, seen);
        kernels_.chunk(queries, head, packed, first, last, scratch, first == 0 ? total : part);
        if (first > 0) kernels_.merge(queries.rows, p_.dim, part, total);
      }
      for (int64_t r = 0; r < queries.rows; ++r) Finish(unit, queries.rows, token + r, h, r, total);
    });
  }

  void AddQuery(const Unit &unit, int64_t token, int64_t h, int64_t r, float *packed, Queries *queries) const {
    const char *q = p_.q + ((unit.first + token) * p_.heads + h) * p_.dim * ItemSize(p_.dtype);
    kernels_.pack_query(p_.dtype, q, p_.dim, scale_, r, packed);
    queries->limit[r] = unit.before < 0 ? unit.keys : unit.before + token + 1;
  }

  void Finish(const Unit &unit, int64_t rows, int64_t token, int64_t h, int64_t r, const float *state) const {
    char *y = p_.y + ((unit.first + token) * p_.heads + h) * p_.dim * ItemSize(p_.dtype);
    kernels_.finish(rows, p_.dim, state, r, p_.dtype, y);
  }

  Head HeadOf(const Unit &unit, int64_t g) const {
    return {unit.k + g * p_.kv_head_stride, unit.v + g * p_.kv_head_stride, p_.kv_stride, p_.dim, unit.keys, p_.kv_dtype};
  }

  int64_t ThreadFloats() const {
    return kernels_.PackedQueryFloats(p_.dim) + kernels_.ScratchFloats(p_.dim) +
           2 * kernels_.StateFloats(kQueryRows, p_.dim);
  }

  const AttentionProblem &p_;
  const Kernels &kernels_ = Chosen();
  const int64_t group_;
  const float scale_;
  int64_t round_ = 1;  // key-value heads that are packed at once
  std::vector<Narrow> narrow_;
  std::vector<Chunk> chunks_;
  Buffer states_, packed_;
};

}  // namespace

void Attend(const AttentionProblem &problem, const std::vector<Unit> &units) { Attention(problem).Run(units); }

Fault ReadImages(const Tensor &starts, int64_t patches, std::vector<Unit> *images) {
  const int32_t *first = starts.Ints(), count = starts.shape[0] - 1;
  if (count < 1 || first[0] != 0 || first[count] > patches) return kWrongLengths;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t length = first[i + 1] - first[i];
    if (length < 0) return kWrongLengths;
    images->push_back({first[i], length, nullptr, nullptr, length, -1});
  }
  return kOk;
}
