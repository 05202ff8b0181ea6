// Which activations and gradients a stage sends and receives, and when, as data.
//
// The rule. Every message has a time: the end of the step that makes it, on the clock of the
// simulator with all steps alike. Before each of its steps a stage posts one group: what its
// previous step made, and everything that is sent to it until the step's start. So all stages post
// in the order of one clock. The order therefore ends even if each group blocks its rank until all
// its messages have arrived, whatever the steps really take, and whatever collectives inside the
// steps block too (communication_order.h checks it). Receives posted only before the step that
// needs them, the simpler rule, deadlock under blocking groups when chunks are interleaved.
// Between two stages messages match in the order of their groups; no tags are needed.
#pragma once

#include <vector>

#include "pipeline/schedule.h"

namespace switchyard {

enum class MessageKind {
  kActivation,  // output of a forward, to the next piece of the model
  kGradient,    // gradient of a piece's input, to the piece before
};

struct StageMessage {
  MessageKind kind = MessageKind::kActivation;
  int micro_batch = 0;
  int chunk = 0;    // of this stage: whose step made it, or needs it
  int peer = 0;     // the other stage
  int buffer = -1;  // of a received one: where it waits for its step
};

// Posted at once.
struct MessageGroup {
  std::vector<StageMessage> sends = {};  // at most one: of the step before the group
  std::vector<StageMessage> receives = {};
};

struct StageMessages {
  std::vector<MessageGroup> groups;  // [steps + 1]: group i before step i, the last after all
  std::vector<int> buffer_of_step;   // [steps]: the receive buffer that a step reads; -1: none
  int num_buffers = 0;  // most messages received and not yet read: 1 or 2, interleaved up to 4
};

// Of every stage. A buffer is free again when its step has run.
std::vector<StageMessages> plan_messages(const ScheduleSpec& spec);

}  // namespace switchyard
