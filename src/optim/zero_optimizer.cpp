#include "optim/zero_optimizer.h"

#include <exception>
#include <utility>

#include "backend/ops.h"
#include "optim/shard_reader.h"

namespace switchyard {
namespace {

std::vector<FlatBuffer> make_groups(Backend& backend, const ProcessGrid& grid,
                                    const RunConfig& config, const ParameterList& parameters) {
  std::vector<FlatBuffer> groups;
  for (FlatLayout& layout : lay_out(parameters, grid.dp().size(), grid.edp().size())) {
    Communicator& sharers = layout.key.group == ReplicaGroup::kDense ? grid.dp() : grid.edp();
    groups.emplace_back(backend, std::move(layout), sharers, config);
  }
  return groups;
}

}  // namespace

ZeroOptimizer::ZeroOptimizer(Backend& backend, const ProcessGrid& grid, const RunConfig& config,
                             const ParameterList& parameters)
    : backend_(backend),
      grid_(grid),
      params_(config.optimizer.params),
      max_norm_(config.gradient_clipping),
      groups_(make_groups(backend, grid, config, parameters)),
      reducer_(backend, config, groups_),
      gather_(backend, config, groups_),
      norms_(backend, (grid.world().size() + 1) * 2 * static_cast<int64_t>(sizeof(double))) {}

// Weights under way arrive before their memory goes, unless the job ends with an error, when the
// other ranks may never send them.
ZeroOptimizer::~ZeroOptimizer() {
  if (std::uncaught_exceptions() > 0) return;
  try {
    gather_.finish_all();
    backend_.host_wait(backend_.record(backend_.compute_queue()));
  } catch (const Error&) {
    // The end of the job: whoever uses the communicator next hears of it.
  }
}

UnitHooks ZeroOptimizer::hooks() {
  return {.before_forward =
              [this](int unit) {
                backend_.progress();
                gather_.finish(unit);
              },
          .before_gradients =
              [this](int unit) {
                backend_.progress();
                reducer_.before_gradients(unit);
              },
          .after_gradients =
              [this](int unit, bool last) {
                reducer_.after_gradients(unit, last);
                backend_.progress();
              }};
}

void ZeroOptimizer::begin_step() { reducer_.begin_step(); }

void ZeroOptimizer::finish_reduction() {
  backend_.marks().enter(RunPhase::kOptimizer);
  reducer_.finish();
  const Queue queue = backend_.compute_queue();
  for (const FlatBuffer& group : groups_) {
    if (!group.layout().key.is_partial) continue;
    Communicator* copies = copies_of(group.layout().key.copies, grid_);
    SY_CHECK(copies != nullptr, "partial gradients of parameters that have no copies");
    for (size_t i = 0; i < group.layout().buckets.size(); ++i)
      backend_.wait(queue, copies->all_reduce_sum(group.my_gradients(i), backend_.record(queue)));
  }
}

void ZeroOptimizer::clip_grads(Tensor scalars, Tensor loss_sum) {
  Ops& ops = backend_.ops();
  const Queue queue = backend_.compute_queue();
  const int64_t num_ranks = grid_.world().size();
  const Tensor all = norms_.tensor(DType::kF64, {num_ranks + 1, 2});
  const Tensor of_ranks = all.rows(0, num_ranks), mine = all.rows(num_ranks, 1);
  const Tensor squares = mine.flat().rows(0, 1), loss = mine.flat().rows(1, 1);
  ops.fill(queue, squares, 0.0);
  ops.copy(queue, loss, loss_sum);
  for (const FlatBuffer& group : groups_) {
    const Communicator* copies = copies_of(group.layout().key.copies, grid_);
    if (copies != nullptr && copies->rank() > 0) continue;  // the first copy stands for all
    for (size_t i = 0; i < group.layout().buckets.size(); ++i)
      ops.squared_norm_add(queue, squares, group.gradient_slice(i));
  }
  const Event ready = backend_.record(queue);
  backend_.wait(queue, grid_.world().all_gather(of_ranks, mine, ready));
  ops.clip_coefficient(queue, scalars, of_ranks, max_norm_);
}

void ZeroOptimizer::adamw_step(Tensor scalars) {
  gather_.finish_all();  // of units that no forward pass has read
  for (const FlatBuffer& group : groups_)
    for (const FlatBuffer::Update& update : group.updates())
      backend_.ops().adamw(backend_.compute_queue(), update.weight, update.rounded_weight,
                           update.first_moment, update.second_moment, update.gradient, scalars,
                           params_.betas[0], params_.betas[1], params_.eps,
                           update.weight_decay ? params_.weight_decay : 0.0);
}

void ZeroOptimizer::all_gather_params() { gather_.start(); }

void ZeroOptimizer::wait_for_params() { gather_.finish_all(); }

void ZeroOptimizer::refresh_masters() {
  wait_for_params();
  for (const FlatBuffer& group : groups_) group.refresh_masters();
}

std::vector<double> ZeroOptimizer::gradient_of(const Parameter& parameter) {
  return read_gradient(backend_, groups_, parameter);
}

std::vector<double> ZeroOptimizer::weight_of(const Parameter& parameter) {
  wait_for_params();
  return read_weight(backend_, groups_, parameter);
}

std::vector<MemoryOfGroup> ZeroOptimizer::memory() const {
  std::vector<MemoryOfGroup> memory;
  for (const FlatBuffer& group : groups_) memory.push_back(group.memory());
  return memory;
}

}  // namespace switchyard
