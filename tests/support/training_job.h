// TrainingJob: a small training job on any grid, for tests that compare grids. Ranks are threads of
// one process (comm/thread_communicator.h) or MPI processes; what a job leaves behind is compared
// as global tensors, whoever holds which slice.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "comm/communicator.h"
#include "comm/process_grid.h"
#include "config/run_config.h"
#include "model/moe/routing_log.h"
#include "support/temporary_directory.h"
#include "train/trainer.h"

namespace switchyard::test {

// A pair of token files in a directory of its own, removed at the end. Random tokens below
// `vocab_size - 1`; the last id marks document ends. Every seventh stretch of `sequence_length`
// tokens is nothing but document ends, so that `data.eod_mask_loss` leaves whole sequences, and
// with one sequence per rank whole ranks, without a target.
class TokenFixture {
 public:
  TokenFixture(int64_t num_sequences, int64_t sequence_length, int64_t vocab_size);

  std::string prefix() const { return directory_.file("tokens"); }

 private:
  TemporaryDirectory directory_;
};

// A model of a few thousand parameters with one dense and two MoE layers; f64. Its tokens are those
// of a TokenFixture.
RunConfig small_job_config(const std::string& data_prefix, int64_t vocab_size = 29);

// A trainer and all it needs, on this rank. `on`: what it computes on; a CpuBackend of its own
// unless another is given.
struct TrainerOnRank {
  TrainerOnRank(RunConfig unresolved, Communicator& world, Backend* on = nullptr);

  const RunConfig config;
  std::unique_ptr<CpuBackend> own_backend;
  Backend& backend;
  const ProcessGrid grid;
  const Dataset dataset;
  Trainer trainer;
};

struct JobResult {
  std::vector<double> lm_loss, load_balancing_loss, z_loss, grad_norm, dropped_fraction;
  std::vector<double> router_entropy;  // of each MoE layer, step after step
  // Global gradients after the steps asked for: name -> values of the whole tensor.
  std::map<int64_t, std::map<std::string, std::vector<double>>> gradients;  // by step
  std::map<std::string, std::vector<double>> weights;                       // at the end
  std::map<std::string, std::vector<double>> state;                         // router biases
  double copy_difference = 0;  // between ranks that hold the same elements of any of these: 0
  std::string copy_difference_in;
};

struct JobOptions {
  int64_t steps = 20;
  std::vector<int64_t> gradient_steps = {1, 20};
  RoutingLog* routing = nullptr;
};

// Runs the job on this rank; collective. `config` is not resolved yet. Every rank returns losses
// and norms; gradients and weights are assembled on rank 0 only. `on`: see TrainerOnRank.
JobResult run_job(RunConfig config, Communicator& world, const JobOptions& options,
                  Backend* on = nullptr);

// The same with `num_ranks` threads; rank 0's result. `wrap` may replace a rank's world
// communicator (to plant faults).
JobResult run_job_on_threads(const RunConfig& config, int num_ranks, const JobOptions& options,
                             const std::function<Communicator&(Communicator&)>& wrap = nullptr);

// max |a - b| / max |b| over steps or elements; infinite where b is exactly zero and a is not, or
// where either is not finite.
double relative_difference(const std::vector<double>& a, const std::vector<double>& b);

// The worst relative difference of losses and norms, and of any gradient or weight tensor, or
// between the copies that the job's ranks hold; `where`
// receives the name of the worst.
double worst_difference(const JobResult& job, const JobResult& reference, std::string& where);

}  // namespace switchyard::test
