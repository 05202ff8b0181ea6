// The equivalence proof must fail when the mechanism it proves is broken. Faults are planted in the
// communicators of an otherwise correct job.
#include <list>
#include <mutex>

#include "support/catch.h"
#include "support/training_job.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

enum class Fault {
  kNone,
  kExpertGradientsDoubled,
  kDenseReductionDropped,
  kExpertReductionDropped
};

// Passes everything on to `inner`, except for the planted fault.
class FaultyCommunicator final : public Communicator {
 public:
  FaultyCommunicator(Communicator& inner, Fault fault)
      : Communicator(inner.rank(), inner.size(), inner.name()), inner_(inner), fault_(fault) {}
  FaultyCommunicator(std::unique_ptr<Communicator> inner, Fault fault)
      : Communicator(inner->rank(), inner->size(), inner->name()),
        owned_(std::move(inner)),
        inner_(*owned_),
        fault_(fault) {}

  void use(Backend& backend) override {
    Communicator::use(backend);
    inner_.use(backend);
  }

 private:
  std::unique_ptr<Communicator> do_split(int color, int key, std::string name) override {
    return std::make_unique<FaultyCommunicator>(inner_.split(color, key, std::move(name)), fault_);
  }
  Event do_all_reduce_sum(Tensor x, Event after) override {
    // Only whole gradient buffers are large; counts and statistics pass untouched.
    const bool is_gradient = x.dtype() == DType::kF64 && x.numel() > 1000;
    if (is_gradient && name() == "dp" && fault_ == Fault::kDenseReductionDropped) return after;
    if (is_gradient && name() == "edp" && fault_ == Fault::kExpertReductionDropped) return after;
    const Event done = inner_.all_reduce_sum(x, after);
    if (is_gradient && name() == "edp" && fault_ == Fault::kExpertGradientsDoubled)
      for (double& g : x.span<double>()) g *= 2;
    return done;
  }
  Event do_reduce_scatter_sum(Tensor out, Tensor input, std::span<const int64_t> counts,
                              Event after) override {
    return inner_.reduce_scatter_rows(out, input, counts, after);
  }
  Event do_all_gather(Tensor out, Tensor input, std::span<const int64_t> counts,
                      Event after) override {
    return inner_.all_gather_rows(out, input, counts, after);
  }
  Event do_all_to_all(Tensor out, std::span<const int64_t> receive_rows, Tensor input,
                      std::span<const int64_t> send_rows, Event after) override {
    return inner_.all_to_all(out, receive_rows, input, send_rows, after);
  }
  Event do_broadcast(Tensor x, int root, Event after) override {
    return inner_.broadcast(x, root, after);
  }
  Event do_send_receive(std::span<const Message> sends, std::span<const Message> receives,
                        Event after) override {
    return inner_.send_receive(sends, receives, after);
  }

  std::unique_ptr<Communicator> owned_;
  Communicator& inner_;
  Fault fault_;
};

double difference_with(Fault fault, std::string& where) {
  const TokenFixture tokens(320, 8, 29);
  RunConfig config = small_job_config(tokens.prefix());
  const JobOptions options = {.steps = 3, .gradient_steps = {1}};
  config.parallelism = {.data_parallel_size = 1, .expert_parallel_size = 1};
  JobResult reference = run_job_on_threads(config, 1, options);
  config.parallelism = {.data_parallel_size = 4, .expert_parallel_size = 2};
  std::list<FaultyCommunicator> worlds;
  std::mutex mutex;
  const JobResult job =
      run_job_on_threads(config, 4, options, [&](Communicator& world) -> Communicator& {
        const std::scoped_lock lock(mutex);
        return worlds.emplace_back(world, fault);
      });
  return worst_difference(job, reference, where);
}

}  // namespace

TEST_CASE("a faithful wrapper changes nothing") {
  std::string where;
  CHECK(difference_with(Fault::kNone, where) <= 1e-9);
}

TEST_CASE("doubled expert gradients are found") {
  std::string where;
  CHECK(difference_with(Fault::kExpertGradientsDoubled, where) > 0.1);
  CHECK_THAT(where, contains_text("experts"));
}

TEST_CASE("a dropped reduction is found") {
  std::string where;
  CHECK(difference_with(Fault::kDenseReductionDropped, where) > 1e-3);
  CHECK(difference_with(Fault::kExpertReductionDropped, where) > 1e-3);
}
