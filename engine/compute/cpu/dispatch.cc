#include "engine/compute/cpu/dispatch.h"

#if defined(HOSTLER_X86)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <string>

#include "engine/compute/cpu/bf16_split.h"
#include "engine/compute/cpu/integer.h"
#include "fmt/format.h"

namespace hostler {
namespace {

constexpr int64_t kMostLanes = 16;

int64_t RoundUp(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

#if defined(HOSTLER_X86)
// Clang 14's __builtin_cpu_supports does not know the name.
bool HasF16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

// Whether this process may use AMX's tiles of bytes and of bf16; asks the system.
bool MayUseAmx() {
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24, kInt8 = 1u << 25;  // leaf 7, EDX
  constexpr unsigned kAll = kBf16 | kTile | kInt8;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & kAll) != kAll) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

KernelTable VnniTable() {
  KernelTable table = kAvx512Kernels;
  table.isa = "avx512vnni";
  table.units[0] = &kVnniIntegerKernels;
  table.units[1] = &kVnniWideIntegerKernels;
  if (__builtin_cpu_supports("avx512bf16")) table.units[2] = &kDotBf16SplitKernels;
  return table;
}

KernelTable AmxTable() {
  KernelTable table = kAvx512Kernels;
  table.isa = "amx";
  table.attention = AttentionByAmx;
  table.merge_attention = MergeAttentionByAmx;
  table.mat_mul_bf16 = MatMulBf16ByAmx;
  table.units[0] = &kAmxIntegerKernels;
  table.units[1] = &kAmxBf16SplitKernels;
  return table;
}
#endif

}  // namespace

// The AMX kernels' operands, each value in two parts, and what their dimensions are
// rounded up to.
size_t AttentionScratchFloats(int queries, int k_dim, int v_dim) {
  const int64_t q = RoundUp(queries, kAttentionTile), two_tiles = 2 * kAttentionTile;
  const int64_t k = RoundUp(k_dim, 32), v = RoundUp(v_dim, 64);
  const int64_t held = q * (k + v + 2);
  const int64_t span = kAttentionSpan * (k + v);
  const int64_t at_hand = two_tiles * (2 * kAttentionSpan + v + 2) + 32 * kMostLanes;
  return static_cast<size_t>(held + span + at_hand);
}

size_t AttentionPartialFloats(int queries, int v_dim) {
  return static_cast<size_t>(2 * RoundUp(queries, kAttentionTile) +
                             queries * RoundUp(v_dim, kMostLanes));
}

std::vector<const KernelTable*> SupportedKernels() {
  std::vector<const KernelTable*> tables;
#if defined(HOSTLER_X86)
  // The checks include that the operating system saves the wide registers.
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && HasF16c();
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    if (__builtin_cpu_supports("avx512vnni")) {
      static const KernelTable amx = AmxTable();
      static const KernelTable vnni = VnniTable();
      static const bool may_use_amx = MayUseAmx();
      if (may_use_amx) tables.push_back(&amx);
      tables.push_back(&vnni);
    }
    tables.push_back(&kAvx512Kernels);
  }
  if (avx2) tables.push_back(&kAvx2Kernels);
#endif
  tables.push_back(&kPortableKernels);
  return tables;
}

absl::StatusOr<const KernelTable*> SelectKernels(std::string_view isa) {
  const std::vector<const KernelTable*> tables = SupportedKernels();
  if (isa.empty()) return tables.front();
  std::string names;
  for (const KernelTable* table : tables) {
    if (table->isa == isa || (isa == "f32" && table->units[0] == nullptr)) return table;
    names += (names.empty() ? "" : ", ") + std::string(table->isa);
  }
  return absl::InvalidArgumentError(
      fmt::format("no kernels \"{}\" for this CPU; it has {}", isa, names));
}

}  // namespace hostler
