// The routines of kernels.inc for each instruction set, and the choice among them at run time.

#include "kernels.h"

#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "threads.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

float HalfToFloat(uint16_t half) {
  const uint32_t sign = (half & 0x8000u) << 16, exponent = half >> 10 & 31, fraction = half & 0x3ffu;
  uint32_t bits;
  if (exponent == 31) {
    bits = 0x7f800000u | fraction << 13;
  } else if (exponent == 0) {  // zero or subnormal: fraction * 2^-24
    const float value = static_cast<float>(fraction) * 5.9604645e-8f;
    std::memcpy(&bits, &value, 4);
  } else {
    bits = (exponent + 112) << 23 | fraction << 13;
  }
  bits |= sign;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

uint16_t FloatToHalf(float value) {  // to the nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;   // NaN
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // rounds to infinity
  if (magnitude < 0x38800000u) {                        // subnormal: the addition rounds
    float small;
    std::memcpy(&small, &magnitude, 4);
    small += 0.5f;
    uint32_t rounded;
    std::memcpy(&rounded, &small, 4);
    return sign | (rounded - 0x3f000000u);
  }
  return sign | (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1)) >> 13;
}

uint16_t FloatToBfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return bits >> 16 | 0x40u;  // NaN
  return (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
}

#define NAME "portable"
#define VECTOR_BYTES 16
#define ROW_BLOCK 6
#define LOW_HALVES 0, 4, 1, 5
#define HIGH_HALVES 2, 6, 3, 7
namespace portable {
#include "kernels.inc"
}
#undef NAME
#undef VECTOR_BYTES
#undef ROW_BLOCK
#undef LOW_HALVES
#undef HIGH_HALVES

#if defined(__x86_64__)
#define NAME "avx2"
#define VECTOR_BYTES 32
#define ROW_BLOCK 6
#define LOW_HALVES 0, 8, 1, 9, 2, 10, 3, 11
#define HIGH_HALVES 4, 12, 5, 13, 6, 14, 7, 15
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
namespace avx2 {
#include "kernels.inc"
}
#pragma GCC pop_options
#undef NAME
#undef VECTOR_BYTES
#undef ROW_BLOCK
#undef LOW_HALVES
#undef HIGH_HALVES

#define LOW_HALVES 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define HIGH_HALVES 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#define VECTOR_BYTES 64
#define ROW_BLOCK 12
#define NAME "avx512"
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512")
namespace avx512 {
#include "kernels.inc"
}
#pragma GCC pop_options
#undef NAME

#define NAME "avx512vnni"
#define VNNI
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c,prefer-vector-width=512")
namespace avx512vnni {
#include "kernels.inc"
}
#pragma GCC pop_options
#endif

// Best first.
const Kernels *const kTables[] = {
#if defined(__x86_64__)
    &avx512vnni::table, &avx512::table, &avx2::table,
#endif
    &portable::table};

bool ProcessorHas(const Kernels &kernels) {
#if defined(__x86_64__)
  if (&kernels == &avx512vnni::table) return __builtin_cpu_supports("avx512vnni") && ProcessorHas(avx512::table);
  if (&kernels == &avx512::table) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && ProcessorHas(avx2::table);
  }
  if (&kernels == &avx2::table) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  }
#endif
  return true;
}

const Kernels *Best() {
  for (const Kernels *kernels : kTables) {
    if (ProcessorHas(*kernels)) return kernels;
  }
  return nullptr;
}

std::atomic<const Kernels *> chosen{nullptr};

}  // namespace

const Kernels &Chosen() {
  const Kernels *kernels = chosen;
  if (kernels == nullptr) chosen = kernels = Best();
  return *kernels;
}

// For Python, through ctypes.

extern "C" const char *InstructionSet() { return Chosen().name; }

// 0, or 1 where the name is unknown or the processor lacks it.
extern "C" int UseInstructionSet(const char *name) {
  for (const Kernels *kernels : kTables) {
    if (std::strcmp(kernels->name, name) == 0 && ProcessorHas(*kernels)) {
      chosen = kernels;
      return 0;
    }
  }
  return 1;
}

// Floating-point operations of `rounds` on every thread, for the caller to time.
extern "C" double FmaFlops(int64_t rounds) {
  std::atomic<int64_t> flops{0};
  Parallel([&](const Worker &) { flops += static_cast<int64_t>(Chosen().fma_flops(rounds)); });
  return flops;
}

// The sum of x[n], each thread reading its share.
extern "C" float ReadAll(const float *x, int64_t n) {
  std::atomic<float> total{0};
  Parallel([&](const Worker &worker) {
    const int64_t share = n / worker.count;
    total = total + Chosen().read_all(x + worker.index * share, share);
  });
  return total;
}
