#include "cuda_emulator/warp.h"

#include <cstring>

#include "engine/machine.h"
#include "engine/warp_operation.h"

namespace cuda_emulator {
namespace {

Thread* lanes_of(const Thread& thread) { return &machine.threads[thread.warp * kLanes]; }

void check_mask(const Thread& thread, unsigned mask) {
  const Place& place = thread.place;
  if ((mask & lane_bit(thread)) == 0)
    fail_with_threads("%s at %s:%d: its mask %08x does not name lane %d, which calls it",
                      place.operation, place.file, place.line, mask, thread.lane);
  const unsigned missing = mask & ~machine.warps[thread.warp].alive;
  if (missing != 0)
    fail_with_threads("%s at %s:%d: its mask %08x names lanes that have exited or never were: %08x",
                      place.operation, place.file, place.line, mask, missing);
}

void check_same_operation(const Thread& a, const Thread& b) {
  if (a.mask == b.mask && std::strcmp(a.place.operation, b.place.operation) == 0) return;
  fail_with_threads(
      "lanes of a warp meet in different operations: lane %d in %s (mask %08x) at %s:%d, lane %d "
      "in "
      "%s (mask %08x) at %s:%d",
      a.lane, a.place.operation, a.mask, a.place.file, a.place.line, b.lane, b.place.operation,
      b.mask, b.place.file, b.place.line);
}

}  // namespace

void warp_operation(unsigned mask, void* data, Combine* combine, const Place& place) {
  Thread& thread = *machine.current;
  Warp& warp = machine.warps[thread.warp];
  thread.place = place;
  check_mask(thread, mask);
  thread.mask = mask;
  thread.data = data;
  warp.arrived |= lane_bit(thread);
  if ((warp.arrived & mask) != mask) return wait_for_others();

  Thread* lanes = lanes_of(thread);
  void* of_lane[kLanes];
  for_lanes(mask, [&](int lane) {
    check_same_operation(thread, lanes[lane]);
    of_lane[lane] = lanes[lane].data;
  });
  combine(of_lane, mask);
  for_lanes(mask, [&](int lane) { lanes[lane].mask = 0; });
  warp.ready |= mask & ~lane_bit(thread);
  warp.arrived &= ~mask;
}

void leave_warp(const Thread& thread) {
  const Warp& warp = machine.warps[thread.warp];
  for_lanes(warp.alive & ~warp.ready & ~warp.unstarted, [&](int lane) {
    const Thread& other = lanes_of(thread)[lane];
    if ((other.mask & lane_bit(thread)) != 0)
      fail_with_threads("%s at %s:%d (mask %08x) waits for lanes that have exited: %d",
                        other.place.operation, other.place.file, other.place.line, other.mask,
                        thread.lane);
  });
}

int lane() { return machine.current->lane; }

void synchronize_warp(unsigned mask, const Place& place) {
  void* token = &block_tokens().warp[machine.current->warp];
  happens_before(token);
  warp_operation(
      mask, nullptr, [](void* const*, unsigned) {}, place);
  happens_after(token);
}

namespace {

struct Shuffle {
  uint64_t bits, result;
  int source;
};
struct Vote {
  uint64_t bits;
  unsigned result;
};

}  // namespace

uint64_t shuffle(unsigned mask, uint64_t bits, int source, const Place& place) {
  Shuffle mine{bits, ~uint64_t{0}, source};
  const auto combine = [](void* const* of_lane, unsigned lanes) {
    for_lanes(lanes, [&](int lane) {
      auto* to = static_cast<Shuffle*>(of_lane[lane]);
      if ((lanes >> to->source & 1) != 0)
        to->result = static_cast<const Shuffle*>(of_lane[to->source])->bits;
    });
  };
  warp_operation(mask, &mine, combine, place);
  return mine.result;
}

unsigned ballot(unsigned mask, bool predicate, const Place& place) {
  Vote mine{predicate, 0};
  const auto combine = [](void* const* of_lane, unsigned lanes) {
    unsigned result = 0;
    for_lanes(lanes, [&](int lane) {
      result |= static_cast<unsigned>(static_cast<const Vote*>(of_lane[lane])->bits) << lane;
    });
    for_lanes(lanes, [&](int lane) { static_cast<Vote*>(of_lane[lane])->result = result; });
  };
  warp_operation(mask, &mine, combine, place);
  return mine.result;
}

unsigned match(unsigned mask, uint64_t bits, const Place& place) {
  Vote mine{bits, 0};
  const auto combine = [](void* const* of_lane, unsigned lanes) {
    for_lanes(lanes, [&](int lane) {
      auto* to = static_cast<Vote*>(of_lane[lane]);
      for_lanes(lanes, [&](int other) {
        if (static_cast<const Vote*>(of_lane[other])->bits == to->bits) to->result |= 1U << other;
      });
    });
  };
  warp_operation(mask, &mine, combine, place);
  return mine.result;
}

namespace {

struct Term {
  unsigned value, result;
  Reduction reduction;
  bool is_signed;
};

unsigned reduce_two(unsigned a, unsigned b, const Term& term) {
  const bool less = term.is_signed ? static_cast<int>(a) < static_cast<int>(b) : a < b;
  switch (term.reduction) {
    case Reduction::kAdd:
      return a + b;
    case Reduction::kMin:
      return less ? a : b;
    case Reduction::kMax:
      return less ? b : a;
    case Reduction::kAnd:
      return a & b;
    case Reduction::kOr:
      return a | b;
    case Reduction::kXor:
      return a ^ b;
  }
  return 0;
}

}  // namespace

unsigned reduce(unsigned mask, unsigned value, Reduction reduction, bool is_signed,
                const Place& place) {
  Term mine{value, 0, reduction, is_signed};
  const auto combine = [](void* const* of_lane, unsigned lanes) {
    const int first = __builtin_ctz(lanes);
    unsigned result = static_cast<const Term*>(of_lane[first])->value;
    for_lanes(lanes & (lanes - 1), [&](int lane) {
      const auto& term = *static_cast<const Term*>(of_lane[lane]);
      result = reduce_two(result, term.value, term);
    });
    for_lanes(lanes, [&](int lane) { static_cast<Term*>(of_lane[lane])->result = result; });
  };
  warp_operation(mask, &mine, combine, place);
  return mine.result;
}

}  // namespace cuda_emulator
