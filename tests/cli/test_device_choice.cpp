// Who computes on what, from what the ranks of a job see.
#include "cli/device_choice.h"
#include "core/error.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

const GpusOfRank kNone = {.host = "a", .num_visible = 0, .why_none = "no driver"};
const GpusOfRank kOne = {.host = "a", .num_visible = 1};
const GpusOfRank kFour = {.host = "a", .num_visible = 4};
const GpusOfRank kFourOfB = {.host = "b", .num_visible = 4};

template <typename Work>
std::string message_of(const Work& work) {
  try {
    work();
  } catch (const Error& error) {
    CHECK(error.code() == ExitCode::kConfig);
    return error.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("without the key: GPUs where every rank sees one, else the CPU") {
  CHECK(choose_device({}, true, {kOne, kFour}) == Device::kCuda);
  CHECK(choose_device({}, true, {kNone, kNone}) == Device::kCpu);
  CHECK(choose_device({}, false, {kNone}) == Device::kCpu);
  CHECK(choose_device(Device::kCpu, true, {kOne}) == Device::kCpu);
  CHECK(choose_device(Device::kCuda, true, {kFour, kFourOfB}) == Device::kCuda);
}

TEST_CASE("GPUs that are asked for must be there, and nothing is guessed") {
  CHECK_THAT(message_of([] { choose_device(Device::kCuda, false, {kNone}); }),
             contains_text("this build has no CUDA backend"));
  CHECK_THAT(message_of([] {
               choose_device(Device::kCuda, true, {kOne, kNone});
             }),
             contains_text("rank 1 on a sees no GPU (no driver): look at"));
  CHECK_THAT(message_of([] {
               choose_device({}, true, {kOne, kOne, kNone});
             }),
             contains_text("rank 2 on a sees no GPU (no driver), other ranks do"));
}

TEST_CASE("a rank takes the one GPU it sees, or that of its place on the host") {
  CHECK(choose_gpu(0, {kOne, kOne}) == 0);
  CHECK(choose_gpu(1, {kOne, kOne}) == 0);
  const std::vector<GpusOfRank> two_hosts = {kFour, kFour, kFourOfB, kFour, kFourOfB};
  const std::vector<int> expected = {0, 1, 0, 2, 1};
  for (int rank = 0; rank < 5; ++rank)
    CHECK(choose_gpu(rank, two_hosts) == expected[static_cast<size_t>(rank)]);
  CHECK_THAT(message_of([] {
               choose_gpu(4, {kFour, kFour, kFour, kFour, kFour});
             }),
             contains_text("rank 4 is number 5 of the ranks on a, where it sees 4 GPUs"));
}

TEST_CASE("no two ranks share a GPU") {
  refuse_shared_gpus({kOne, kOne}, {"GPU-1", "GPU-2"});
  CHECK_THAT(message_of([] {
               refuse_shared_gpus({kFour, kOne, kOne}, {"GPU-2", "GPU-1", "GPU-2"});
             }),
             contains_text("ranks 0 and 2 on a have the same GPU, GPU-2"));
}
