// The emulator finds bugs: each kernel of device_bugs.cu is right without its bug, and with it the
// bug is found, under whichever sanitizer this is compiled with or under none.
#include <string>
#include <vector>

#include "cuda_emulator/engine/engine.h"
#include "cuda_emulator/tests/child.h"
#include "cuda_emulator/tests/device/device_bugs.h"
#include "cuda_emulator/tests/device/device_memory.h"
#include "support/catch.h"

using namespace switchyard::test;
using namespace cuda_emulator;
using namespace cuda_emulator::test;

namespace {

enum class Symptom {
  kMessage,  // in every order of threads
  kRace,     // ThreadSanitizer reports it in every order; results are wrong in some order
  kUnseen,   // ThreadSanitizer reports it in every order; nobody else finds it
};

const std::string kWrong = "not so: right results";

struct Expected {
  std::string name;
  Symptom symptom;
  std::string message = kWrong;
  std::string of_address_sanitizer = message;
};

const std::vector<Expected> kExpected = {
    {"missing_barrier", Symptom::kRace},
    {"missing_barrier_before_reuse", Symptom::kRace},
    {"missing_warp_barrier", Symptom::kRace},
    {"divergent_barrier", Symptom::kMessage, "divergent barrier"},
    {"barrier_against_shuffle", Symptom::kMessage, "deadlock"},
    {"mask_without_caller", Symptom::kMessage, "does not name lane"},
    {"mask_with_exited_lane", Symptom::kMessage, "lanes that have exited"},
    {"different_masks", Symptom::kMessage, "lanes that have exited"},
    {"read_from_outside_the_mask", Symptom::kMessage},
    {"write_past_the_end", Symptom::kMessage, "out of bounds, past the last byte: write"},
    {"read_past_the_end", Symptom::kMessage, "out of bounds, past the last byte: read"},
    {"read_before_the_begin", Symptom::kMessage, "read at"},
    {"static_shared_overflow", Symptom::kMessage, "past the end of the shared array values"},
    {"shared_underflow", Symptom::kMessage, "before the begin of the shared array values",
     "use-after-poison"},
    {"dynamic_shared_overflow", Symptom::kMessage, "past the end of the shared array"},
    {"too_much_shared", Symptom::kMessage, "more than 49152 bytes of static shared memory"},
    {"uninitialised_shared", Symptom::kMessage},
    {"uninitialised_global", Symptom::kMessage},
    {"misaligned_load", Symptom::kMessage, "misaligned"},
    {"count_without_atomics", Symptom::kUnseen},
    {"missing_copy_wait", Symptom::kMessage},
    {"wait_for_older_copies", Symptom::kMessage},
    {"missing_barrier_after_copy", Symptom::kRace},
    {"copy_over_what_is_read", Symptom::kRace},
    {"misaligned_copy", Symptom::kMessage, "not aligned to 16 bytes"},
    {"misaligned_matrix", Symptom::kMessage, "not aligned to 16 bytes"},
    {"matrix_in_global_memory", Symptom::kMessage, "is not in the shared memory"},
};

constexpr const char* kOrders[] = {"forward", "reverse", "random"};

bool contains(const Ended& ended, const std::string& text) {
  return ended.output.find(text) != std::string::npos;
}

Ended run(const char* order, const DeviceBug& bug, bool broken) {
  return run_in_child({{"SWITCHYARD_CUDA_ORDER", order}}, [&] {
    const Stream stream;
    expect(bug.run(stream, broken), "right results");
  });
}

void check_bug(const DeviceBug& bug, const Expected& expected) {
  const bool always_a_message = expected.symptom == Symptom::kMessage;
  int wrong = 0;
  for (const char* order : kOrders) {
    const Ended ended = run(order, bug, true);
    INFO(bug.name << ", " << order << ":\n" << ended.output);
    wrong += contains(ended, kWrong);
    if (always_a_message)
      CHECK(contains(ended,
                     under_address_sanitizer() ? expected.of_address_sanitizer : expected.message));
    else if (under_thread_sanitizer())
      CHECK(contains(ended, "WARNING: ThreadSanitizer: data race"));
    if (always_a_message || under_thread_sanitizer()) CHECK(ended.status != 0);
    // Who did it.
    if (contains(ended, "CUDA emulator: "))
      CHECK(contains(ended, "in kernel " + bug.name + "_kernel, block ("));
  }
  INFO(bug.name);
  if (expected.symptom == Symptom::kRace) CHECK((wrong > 0 || under_thread_sanitizer()));
}

}  // namespace

TEST_CASE("kernels without their bugs are right, and nobody reports anything") {
  for (const DeviceBug& bug : device_bugs()) {
    for (const char* order : kOrders) {
      const Ended ended = run(order, bug, false);
      INFO(bug.name << ", " << order << ":\n" << ended.output);
      CHECK(ended.status == 0);
      CHECK(ended.output.empty());
    }
  }
}

TEST_CASE("the emulator finds every bug in a kernel") {
  REQUIRE(device_bugs().size() == kExpected.size());
  for (size_t i = 0; i < kExpected.size(); ++i) {
    REQUIRE(device_bugs()[i].name == kExpected[i].name);
    check_bug(device_bugs()[i], kExpected[i]);
  }
}
