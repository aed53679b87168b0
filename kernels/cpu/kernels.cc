// The routines of kernels.inc for each instruction set, and the choice among them at run time.

#include "kernels.h"

#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "threads.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#if defined(__clang__) || __GNUC__ >= 11
#define HAS_AMX  // supported by the compiler
#endif
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

uint16_t FloatToHalf(float value) {  // rounds to nearest, ties to even
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

// Compilation for other instruction sets than that of the compiler's options, and the differences between GCC and Clang.
#define PRAGMA(x) _Pragma(#x)
#if defined(__clang__)
#define BEGIN_TARGET(features) PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define END_TARGET PRAGMA(clang attribute pop)
#define UNROLL(n) PRAGMA(unroll n)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#define AVX512 "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"
#else
#define AVX512 "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512"
#define BEGIN_TARGET(features) PRAGMA(GCC push_options) PRAGMA(GCC target(features))
#define END_TARGET PRAGMA(GCC pop_options)
#define UNROLL(n) PRAGMA(GCC unroll n)
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, I{__VA_ARGS__})
#endif

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
BEGIN_TARGET("avx2,fma,f16c")
namespace avx2 {
#include "kernels.inc"
}
END_TARGET
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
BEGIN_TARGET(AVX512)
namespace avx512 {
#include "kernels.inc"
}
END_TARGET
#undef NAME

#define NAME "avx512vnni"
#define VNNI
BEGIN_TARGET("avx512vnni," AVX512)
namespace avx512vnni {
#include "kernels.inc"
}
END_TARGET
#undef NAME

#if defined(HAS_AMX)
#define NAME "amx"
#define AMX
BEGIN_TARGET("amx-tile,amx-int8,avx512vnni," AVX512)
namespace amx {
#include "kernels.inc"
}
END_TARGET
#endif
#endif

// Best first.
const Kernels *const kTables[] = {
#if defined(HAS_AMX)
    &amx::table,
#endif
#if defined(__x86_64__)
    &avx512vnni::table, &avx512::table, &avx2::table,
#endif
    &portable::table};

#if defined(__x86_64__)
// Instruction sets that the processor supports and whose registers the operating system saves. __builtin_cpu_supports is not
// used, since it differs between compilers. Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2,
// CPUID, and volume 1, sections 14.3 and 15.2 and chapter 18.
struct Features {
  bool avx2 = false, avx512 = false, vnni = false, amx = false;

  Features() {
    unsigned a, b, c, d;
    constexpr unsigned kFmaOsxsaveAvxF16c = 1u << 12 | 1u << 27 | 1u << 28 | 1u << 29;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & kFmaOsxsaveAvxF16c) != kFmaOsxsaveAvxF16c) return;
    unsigned saved, high;
    __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
    constexpr unsigned kYmm = 0x6, kZmm = 0xe6, kFDqBwVl = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
    avx2 = (saved & kYmm) == kYmm && (b & 1u << 5) != 0;
    avx512 = avx2 && (saved & kZmm) == kZmm && (b & kFDqBwVl) == kFDqBwVl;
    vnni = avx512 && (c & 1u << 11) != 0;
    constexpr unsigned kTiles = 3u << 17, kTileInt8 = 3u << 24;
    amx = vnni && (saved & kTiles) == kTiles && (d & kTileInt8) == kTileInt8 && AsksForTiles();
  }

  // Linux saves tiles only for processes that requested this, and for their child processes. Source:
  // Documentation/arch/x86/xstate.rst.
  static bool AsksForTiles() {
    constexpr int kRequestPermission = 0x1023, kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }
};
#endif

bool ProcessorHas(const Kernels &kernels) {
#if defined(__x86_64__)
  static const Features features;
#if defined(HAS_AMX)
  if (&kernels == &amx::table) return features.amx;
#endif
  if (&kernels == &avx512vnni::table) return features.vnni;
  if (&kernels == &avx512::table) return features.avx512;
  if (&kernels == &avx2::table) return features.avx2;
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

// Returns 0, or 1 if the name is unknown or the processor does not support the instruction set.
extern "C" int UseInstructionSet(const char *name) {
  for (const Kernels *kernels : kTables) {
    if (std::strcmp(kernels->name, name) == 0 && ProcessorHas(*kernels)) {
      chosen = kernels;
      return 0;
    }
  }
  return 1;
}

// Runs `rounds` on every thread, for the caller to time. Returns the number of floating-point operations.
extern "C" double FmaFlops(int64_t rounds) {
  std::atomic<int64_t> flops{0};
  Parallel(0, [&](const Worker &) { flops += static_cast<int64_t>(Chosen().fma_flops(rounds)); });
  return flops;
}

// Returns the sum of x[n], of which each thread reads a part.
extern "C" float ReadAll(const float *x, int64_t n) {
  std::atomic<float> total{0};
  Parallel(0, [&](const Worker &worker) {
    const int64_t first = n * worker.index / worker.count, last = n * (worker.index + 1) / worker.count;
    total.fetch_add(Chosen().read_all(x + first, last - first));
  });
  return total;
}
