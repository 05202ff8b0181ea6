// Bits that flip in one rank's memory are found, with the rank and the tensor.
#include <algorithm>
#include <cstdio>

#include "comm/collective_error.h"
#include "comm/thread_communicator.h"
#include "core/random.h"
#include "support/catch.h"
#include "support/training_job.h"
#include "train/replica_check.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

ReplicaCheck check_of(TrainerOnRank& on_rank, Communicator& world) {
  return {on_rank.backend, world, on_rank.trainer.parameters(), on_rank.trainer.state(),
          on_rank.trainer.optimizer()};
}

// A bit of what a rank shares with others; the same on all ranks, but for the tensor.
struct Flip {
  int rank = 0;
  uint64_t tensor = 0, bit = 0;  // modulo what there is

  Flip(uint64_t key, int64_t trial, int num_ranks) {
    const auto random = philox(key, static_cast<uint64_t>(trial));
    rank = static_cast<int>(random[0] % static_cast<uint32_t>(num_ranks));
    tensor = random[1];
    bit = (uint64_t{random[2]} << 32) | random[3];
  }

  const HeldTensor& in(const ReplicaCheck& check) const {
    return check.compared()[tensor % check.compared().size()];
  }
  void apply(const ReplicaCheck& check) const {
    const HeldTensor& held = in(check);
    const uint64_t at = bit % static_cast<uint64_t>(8 * held.data.bytes());
    static_cast<unsigned char*>(held.data.raw())[at / 8] ^=
        static_cast<unsigned char>(1 << (at % 8));
  }
};

// Of those that disagree, the flipped rank alone on its side; where a third holds the tensor too,
// on the smaller one.
void require_found(const std::vector<ReplicaDifference>& differences, const std::string& key,
                   int rank, const std::string& what) {
  SY_CHECK(differences.size() == 1, "{}: {} differences", what, differences.size());
  const ReplicaDifference& found = differences[0];
  SY_CHECK(found.key == key, "{}: found {} instead of {}", what, found.key, key);
  SY_CHECK(found.ranks.size() == 2, "{}: {} values", what, found.ranks.size());
  const std::vector<int> alone = {rank};
  const bool is_named =
      found.ranks[1] == alone || (found.ranks[0] == alone && found.ranks[1].size() == 1);
  SY_CHECK(is_named, "{}: {}", what, describe(found));
}

void flip_bits(const RunConfig& config, int num_ranks, int64_t trials) {
  run_ranks(num_ranks, [&](Communicator& world) {
    TrainerOnRank on_rank(config, world);
    for (int i = 0; i < 3; ++i) on_rank.trainer.train_step();
    ReplicaCheck check = check_of(on_rank, world);
    SY_CHECK(check.differences().empty(), "copies differ: {}", describe(check.differences()[0]));
    const uint64_t key = random_key(7, config.bf16.enabled ? "bf16" : "other");
    for (int64_t trial = 0; trial < trials; ++trial) {
      const Flip flip(key, trial, num_ranks);
      if (flip.rank == world.rank()) flip.apply(check);
      std::string name = flip.in(check).key;
      world.broadcast_host(name, flip.rank);
      require_found(check.differences(), name, flip.rank, fmt::format("trial {}", trial));
      if (flip.rank == world.rank()) flip.apply(check);
    }
    SY_CHECK(check.differences().empty(), "not restored");
    on_rank.trainer.train_step();
    SY_CHECK(check.differences().empty(), "a step makes copies differ");
  });
}

RunConfig replicated_config(const std::string& data) {
  RunConfig config = small_job_config(data);
  config.moe.router_bias_update_rate = 0.01;
  return config;
}

std::vector<std::string> compared_keys(const RunConfig& config, int num_ranks) {
  std::vector<std::string> keys;
  run_ranks(num_ranks, [&](Communicator& world) {
    TrainerOnRank on_rank(config, world);
    const ReplicaCheck check = check_of(on_rank, world);
    if (world.rank() > 0) return;
    for (const HeldTensor& held : check.compared()) keys.push_back(held.key);
  });
  return keys;
}

}  // namespace

TEST_CASE("replicas: a thousand flipped bits are all found, and named") {
  const TokenFixture tokens(320, 8, 29);
  RunConfig plain = replicated_config(tokens.prefix());
  CHECK_NOTHROW(flip_bits(plain, 4, 300));

  RunConfig tensor_parallel = replicated_config(tokens.prefix());
  tensor_parallel.fp64.enabled = false;
  tensor_parallel.bf16.enabled = true;
  tensor_parallel.parallelism.tensor_parallel_size = 2;
  tensor_parallel.zero_optimization.stage = 1;
  CHECK_NOTHROW(flip_bits(tensor_parallel, 4, 300));

  RunConfig experts = replicated_config(tokens.prefix());
  experts.fp64.enabled = false;
  experts.parallelism.expert_parallel_size = 2;
  experts.zero_optimization.stage = 2;
  CHECK_NOTHROW(flip_bits(experts, 4, 300));

  RunConfig pipelined = replicated_config(tokens.prefix());
  pipelined.parallelism.pipeline_parallel_size = 2;
  pipelined.model.tie_word_embeddings = true;
  CHECK_NOTHROW(flip_bits(pipelined, 4, 100));
}

TEST_CASE("replicas: what is compared") {
  const TokenFixture tokens(320, 8, 29);
  RunConfig config = replicated_config(tokens.prefix());
  const auto num_of = [&](const std::vector<std::string>& keys, const std::string& prefix) {
    return std::count_if(keys.begin(), keys.end(),
                         [&](const std::string& key) { return key.starts_with(prefix); });
  };
  const std::vector<std::string> alone = compared_keys(config, 1);
  CHECK(alone.empty());
  const std::vector<std::string> whole = compared_keys(config, 2);
  CHECK(num_of(whole, "exp_avg/") == num_of(whole, "model.") + num_of(whole, "lm_head."));
  CHECK(num_of(whole, "exp_avg_sq/") == num_of(whole, "exp_avg/"));
  CHECK(num_of(whole, "state/") == 2);
  config.zero_optimization.stage = 1;
  const std::vector<std::string> cut = compared_keys(config, 2);
  CHECK(num_of(cut, "exp_avg") == 0);
  CHECK(num_of(cut, "model.") == num_of(whole, "model."));
  config.parallelism.expert_parallel_size = 2;  // every expert once
  CHECK(num_of(compared_keys(config, 2), "model.layers.0.mlp.experts.") == 0);
  CHECK(num_of(cut, "model.layers.0.mlp.experts.") == 8 * 3);
}

TEST_CASE("replicas: a flipped weight is found after more steps; the error names rank and tensor") {
  const TokenFixture tokens(320, 8, 29);
  const RunConfig config = replicated_config(tokens.prefix());
  run_ranks(3, [&](Communicator& world) {
    RunConfig of_three = config;
    of_three.train_batch_size = 6;
    TrainerOnRank on_rank(of_three, world);
    Trainer& trainer = on_rank.trainer;
    ReplicaCheck check = check_of(on_rank, world);
    check.check(0);
    const std::string name = "model.layers.1.self_attn.o_proj.weight";
    for (const Parameter* parameter : trainer.parameters())
      if (parameter->name == name && world.rank() == 1) parameter->weight.data<double>()[3] += 1e-3;
    for (int i = 0; i < 3; ++i) trainer.train_step();
    try {
      check.check(3);
      SY_CHECK(false, "not found");
    } catch (const CollectiveError& error) {
      SY_CHECK(error.code() == ExitCode::kInternal, "wrong code");
      const std::string text = error.what();
      SY_CHECK(text.find(fmt::format("\"{}\"", name)) != std::string::npos &&
                   text.find("ranks 0, 2 agree, rank 1 differs") != std::string::npos,
               "{}", text);
    }
  });
}
