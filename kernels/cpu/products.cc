#include "products.h"

#include <algorithm>
#include <cstring>

void ReadRow(const Weight &weight, int64_t in, int64_t id, float *y) {
  const int64_t column = id % kPanel, panel_bytes = PanelRows(weight.dtype, in) * kPanel * ItemSize(weight.dtype);
  const char *panel = static_cast<const char *>(weight.data) + id / kPanel * panel_bytes;
  if (weight.dtype == Dtype::kInt8) {
    for (int64_t first = 0; first < in; first += kGroup) {
      const int64_t inputs = std::min(kGroup, in - first);
      const char *group = panel + PanelRows(Dtype::kInt8, first) * kPanel, *quads = group + kHeader * kPanel;
      float scale;
      std::memcpy(&scale, group + column * sizeof(float), sizeof(float));
      for (int64_t i = 0; i < inputs; ++i) {
        y[first + i] = scale * static_cast<signed char>(quads[(i / 4 * kPanel + column) * 4 + i % 4]);
      }
    }
    return;
  }
  const int64_t paired = 2 * (column % (kPanel / 2)) + column / (kPanel / 2);
  const int64_t item = ItemSize(weight.dtype), place = weight.dtype == Dtype::kBfloat16 ? paired : column;
  constexpr int64_t kAtOnce = 256;
  char gathered[kAtOnce * sizeof(float)];
  for (int64_t first = 0; first < in; first += kAtOnce) {
    const int64_t inputs = std::min(kAtOnce, in - first);
    for (int64_t i = 0; i < inputs; ++i) {
      std::memcpy(gathered + i * item, panel + ((first + i) * kPanel + place) * item, item);
    }
    Chosen().to_float(weight.dtype, gathered, inputs, y + first);
  }
}

Choice Choose(const float *logits, int64_t n) {
  const float *largest = std::max_element(logits, logits + n);
  return {static_cast<int32_t>(largest - logits), Chosen().log_probability(logits, n, *largest)};
}

// A task is a group of rows and a range of panels. A thread reuses its packed rows if its next task has the same group.
void Multiply(const Worker &worker, const Product &product) {
  const Kernels &kernels = Chosen();
  const int64_t threads = worker.count, panels = Panels(product.out), groups = (product.rows + kQueryRows - 1) / kQueryRows;
  const int64_t ranges = std::min(panels, groups < 2 ? threads : std::max(int64_t{1}, (4 * threads + groups - 1) / groups));
  int64_t held = -1;
  worker.Dynamic(groups * ranges, [&](int64_t task) {
    const int64_t group = task / ranges, range = task % ranges;
    const int64_t row = group * kQueryRows, rows = std::min(kQueryRows, product.rows - row);
    if (held != group) kernels.pack_rows(product.w.dtype, product.x + row * product.in, rows, product.in, worker.scratch);
    held = group;
    kernels.product_panels(product, worker.scratch, row, rows, panels * range / ranges, panels * (range + 1) / ranges);
  });
}
