// Collectives between threads, and of a rank alone.
#include "backend/cpu/cpu_backend.h"
#include "comm/collective_checks.h"
#include "comm/self_communicator.h"
#include "comm/thread_communicator.h"
#include "support/catch.h"
#include "support/host_tensor.h"

using namespace switchyard;
using namespace switchyard::test;

TEST_CASE("collectives of a rank alone") {
  CpuBackend backend(1);
  SelfCommunicator self("self");
  CHECK_NOTHROW(check_collectives(self, backend));
  CHECK_NOTHROW(check_collectives(*self.split(3, 0, "part"), backend));
  self.use(backend);
  CHECK_NOTHROW(check_collectives(*self.split(3, 0, "part"), backend));
}

TEST_CASE("collectives between threads") {
  const auto body = [](Communicator& world) {
    CpuBackend backend(1);
    check_collectives(world, backend);
  };
  for (const int ranks : {1, 2, 3, 8}) CHECK_NOTHROW(run_ranks(ranks, body));
}

TEST_CASE("collectives between threads in groups of a split, with a backend") {
  const auto body = [](Communicator& world) {
    CpuBackend backend(1);
    world.use(backend);
    check_collectives_of_subgroups(world, backend);
  };
  for (const int ranks : {5, 8}) CHECK_NOTHROW(run_ranks(ranks, body));
}

namespace {

// Sets a value when it has been asked twice.
class SetValue final : public PendingWork {
 public:
  SetValue(float& value, float to) : value_(value), to_(to) {}
  bool advance() override {
    if (++num_asked_ < 2) return false;
    value_ = to_;
    return true;
  }

 private:
  float& value_;
  const float to_;
  int num_asked_ = 0;
};

// Every kind of collective reads the value only when the event before it has completed.
void check_waiting_for_input(Communicator& group, Backend& backend) {
  const std::vector<int64_t> one(static_cast<size_t>(group.size()), 1);
  for (int kind = 0; kind < 6; ++kind) {
    HostTensor<float> x({1}), out({1}), ones({group.size()}), gathered({group.size()});
    const Event ready = backend.start(
        std::make_unique<SetValue>(kind == 3 ? ones.values[0] : x.values[0], 7.0f), {});
    const Message message[] = {{x, group.rank()}}, received[] = {{out, group.rank()}};
    Event done;
    switch (kind) {
      case 0:
        done = group.all_reduce_sum(x, ready);
        break;
      case 1:
        done = group.reduce_scatter_rows(gathered.view().rows(0, 1), x, std::vector<int64_t>{1},
                                         ready);
        break;
      case 2:
        done = group.all_gather(gathered, x, ready);
        break;
      case 3:
        done = group.all_to_all(gathered, one, ones, one, ready);
        break;
      case 4:
        done = group.broadcast(x, 0, ready);
        break;
      default:
        done = group.send_receive(message, received, ready);
    }
    backend.host_wait(done);
    if (kind == 0 || kind == 4) out = x;
    if (kind == 1 || kind == 2 || kind == 3) out.values[0] = gathered.values[0];
    SY_CHECK(out.values[0] == 7.0f, "collective {}: {}", kind, out.values[0]);
  }
}

}  // namespace

TEST_CASE("communicators of one rank and of threads wait for their input") {
  CpuBackend backend(1);
  SelfCommunicator self("self");
  self.use(backend);
  CHECK_NOTHROW(check_waiting_for_input(self, backend));
  CHECK_NOTHROW(run_ranks(1, [](Communicator& world) {
    CpuBackend of_rank(1);
    world.use(of_rank);
    check_waiting_for_input(world, of_rank);
  }));
}
