#include "pipeline/pipeline.h"

#include "backend/ops.h"

namespace switchyard {

// One message made by the step at hand, and the one before it still under way.
constexpr size_t kOutgoingBuffers = 2;

Pipeline::Pipeline(Backend& backend, const ProcessGrid& grid, const RunConfig& config,
                   std::deque<Stage>& pieces)
    : backend_(backend), pp_(grid.pp()), pieces_(pieces), scratch_(backend), recomputed_(backend) {
  const ScheduleSpec spec = schedule_spec(config);
  schedule_ = make_schedule(spec, pp_.rank());
  slot_plan_ = assign_activation_slots(schedule_);
  messages_ = plan_messages(spec)[static_cast<size_t>(pp_.rank())];
  for (int i = 0; i < slot_plan_.count; ++i) slots_.emplace_back(backend);
}

Pass Pipeline::make_pass(const Step& step, int micro_batch, Slot& slot) {
  const auto num_micro_batches = static_cast<int>(step.batches.size());
  return Pass{.queue = backend_.compute_queue(),
              .activations = slot.activations,
              .scratch = scratch_,
              .kept = slot.activations,
              .recomputed = recomputed_,
              .batch = step.batches[static_cast<size_t>(micro_batch)],
              .statistics = step.statistics,
              .scalars = step.scalars,
              .training = step.training,
              .num_micro_batches = num_micro_batches,
              .micro_batch = micro_batch,
              .is_last_micro_batch = micro_batch + 1 == num_micro_batches,
              .random_stream = step.first_stream + micro_batch,
              .routing = step.routing};
}

void Pipeline::train(std::span<const MicroBatch> batches, Statistics& statistics, Tensor scalars,
                     int64_t first_stream, RoutingLog* routing) {
  const Step step{batches, statistics, scalars, first_stream, routing};
  Tensor made;  // what the step before has for another stage; lives in outgoing_
  for (size_t i = 0; i < schedule_.size(); ++i) {
    exchange(messages_.groups[i], made, batches[0]);
    Tensor received;
    if (const int buffer = messages_.buffer_of_step[i]; buffer >= 0) {
      const MessageBuffer& incoming = incoming_[static_cast<size_t>(buffer)];
      backend_.wait(backend_.compute_queue(), incoming.done);
      received = incoming.hidden;
    }
    made =
        run(step, schedule_[i], slots_[static_cast<size_t>(slot_plan_.slot_of_step[i])], received);
  }
  exchange(messages_.groups.back(), made, batches[0]);
  join_sends();
}

// Returns what goes to another stage, in an outgoing buffer, or none.
Tensor Pipeline::run(const Step& step, const PipelineStep& what, Slot& slot, Tensor received) {
  if (step.training)
    backend_.marks().enter(what.phase == Phase::kForward ? RunPhase::kForward
                                                         : RunPhase::kBackward);
  Stage& piece = pieces_[static_cast<size_t>(what.chunk)];
  Pass pass = make_pass(step, what.micro_batch, slot);
  if (what.phase == Phase::kBackwardWeight) {
    piece.backward_weights(slot.saved);
    slot.in_use.reset();
    return Tensor();
  }
  Arena::Scope scope(scratch_);
  if (what.phase == Phase::kForward) slot.in_use.emplace(slot.activations);
  Tensor result;
  if (what.phase == Phase::kForward)
    result = run_forward(pass, piece, slot, received);
  else if (what.phase == Phase::kBackward)
    result = piece.backward(pass, received, slot.saved);
  else
    result = piece.backward_input(pass, received, slot.saved);
  Tensor made;
  if (!result.is_none()) {
    MessageBuffer& out = buffer_at(outgoing_, next_outgoing_, pass.batch);
    next_outgoing_ = (next_outgoing_ + 1) % kOutgoingBuffers;
    backend_.wait(pass.queue, out.done);
    backend_.ops().copy(pass.queue, out.hidden, result);
    made = out.hidden;
  }
  if (what.phase == Phase::kBackward) slot.in_use.reset();
  return made;
}

// The input must be there for the backward: it moves into the slot.
Tensor Pipeline::run_forward(Pass& pass, Stage& piece, Slot& slot, Tensor received) {
  Tensor x_TD;
  if (!received.is_none()) {
    x_TD = slot.activations.allocate_like(received);
    backend_.ops().copy(pass.queue, x_TD, received);
  }
  return piece.forward(pass, x_TD, slot.saved);
}

void Pipeline::exchange(const MessageGroup& group, Tensor made, const MicroBatch& batch) {
  if (group.sends.empty() && group.receives.empty()) return;
  std::vector<Message> sends, receives;
  for (const StageMessage& message : group.sends) sends.push_back({made, message.peer});
  for (const StageMessage& message : group.receives) {
    const auto index = static_cast<size_t>(message.buffer);
    receives.push_back({buffer_at(incoming_, index, batch).hidden, message.peer});
  }
  const Event ready = backend_.record(backend_.compute_queue());
  const Event done = pp_.send_receive(sends, receives, ready);
  for (const StageMessage& message : group.receives)
    incoming_[static_cast<size_t>(message.buffer)].done = done;
  for (MessageBuffer& out : outgoing_)
    if (!group.sends.empty() && out.hidden.raw() == made.raw()) out.done = done;
}

Pipeline::MessageBuffer& Pipeline::buffer_at(std::deque<MessageBuffer>& buffers, size_t index,
                                             const MicroBatch& batch) {
  while (buffers.size() <= index) {
    MessageBuffer buffer;
    const Tensor hidden = pieces_[0].hidden_of(batch);
    buffer.memory = Buffer(backend_, hidden.bytes());
    buffer.hidden = Tensor(buffer.memory.data(), hidden.dtype(), hidden.shape());
    buffers.push_back(std::move(buffer));
  }
  return buffers[index];
}

// The pieces of the model follow each other from rank to rank, chunk by chunk.
void Pipeline::evaluate(const MicroBatch& batch, Statistics& statistics, Tensor scalars) {
  Step step{{&batch, 1}, statistics, scalars};
  step.training = false;
  const int stages = pp_.size(), num_pieces = stages * static_cast<int>(pieces_.size());
  for (int piece = pp_.rank(); piece < num_pieces; piece += stages) {
    const int chunk = piece / stages;
    Tensor received;
    if (piece > 0) {
      exchange({.receives = {{.peer = (piece - 1) % stages, .buffer = 0}}}, Tensor(), batch);
      backend_.wait(backend_.compute_queue(), incoming_[0].done);
      received = incoming_[0].hidden;
    }
    Slot& slot = slots_[0];
    const Tensor made = run(step, {Phase::kForward, 0, chunk}, slot, received);
    slot.in_use.reset();
    if (piece + 1 < num_pieces) exchange({.sends = {{.peer = (piece + 1) % stages}}}, made, batch);
  }
  join_sends();
}

// What comes later, the end of the buffers too, comes after the last messages.
void Pipeline::join_sends() {
  for (const MessageBuffer& out : outgoing_) backend_.wait(backend_.compute_queue(), out.done);
}

int64_t Pipeline::arena_growths() const {
  int64_t growths = scratch_.growths() + recomputed_.growths();
  for (const Slot& slot : slots_) growths += slot.activations.growths();
  return growths;
}

}  // namespace switchyard
