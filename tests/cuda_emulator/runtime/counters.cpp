#include "runtime/counters.h"

#include <array>
#include <map>
#include <string_view>

#include "runtime/lock.h"

namespace cuda_emulator {
namespace {

struct Sum {
  unsigned long long calls = 0, amount = 0;
};

using Sums = std::map<std::string_view, Sum>;

Sums& sums(cuda_emulator_kind kind) {
  static auto& of_kind = *new std::array<Sums, CUDA_EMULATOR_ALLOCATION + 1>;
  return of_kind[kind];
}

}  // namespace

void count(cuda_emulator_kind kind, const char* what, uint64_t amount) {
  Sum& sum = sums(kind)[what];
  ++sum.calls;
  sum.amount += amount;
}

}  // namespace cuda_emulator

using namespace cuda_emulator;

size_t cuda_emulator_counts(cuda_emulator_kind kind, cuda_emulator_count* counts, size_t capacity) {
  const Locked locked;
  const Sums& of_kind = sums(kind);
  size_t i = 0;
  for (const auto& [what, sum] : of_kind) {
    if (i == capacity) break;
    counts[i++] = {what.data(), sum.calls, sum.amount};
  }
  return of_kind.size();
}

void cuda_emulator_reset_counts() {
  const Locked locked;
  for (int kind = 0; kind <= CUDA_EMULATOR_ALLOCATION; ++kind)
    sums(static_cast<cuda_emulator_kind>(kind)).clear();
}
