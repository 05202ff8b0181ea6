// NcclCommunicator: a group of ranks with a GPU each; tensors in device memory. NCCL carries them,
// on a queue of the group's own; host values, and what NCCL needs to begin with, go by the
// communicator it is made from (MPI). The only files that know NCCL are those named nccl_*.
//
// Nothing blocks: NCCL's communicators do not (ncclConfig_t::blocking = 0), so a call may still be
// at work, connecting to a peer, say, when it returns; it is polled, and what is in flight
// elsewhere advances meanwhile. While collectives are in flight, NCCL is asked for asynchronous
// errors whenever the backend makes progress: one ends the communicator (ncclCommAbort, so that no
// kernel waits for ever) and is thrown to whoever waits.
//
// Order. All ranks launch in one order, that of their calls; NCCL keeps it on the device, whatever
// streams they are on (NCCL_LAUNCH_ORDER_IMPLICIT, NCCL 2.26), so that no two kernels wait for each
// other. A kernel of messages lasts until its messages have gone through: what is planned in
// pipeline/messages.h ends even so.
//
// Sums. NCCL adds in an order of its own, which depends on sizes, topology and version, and rounds
// bf16 at every step. Ours are added in the order of ranks, held in f32 and rounded once
// (communicator.h), by a kernel of our own after an exchange of slices. It costs a rank the bytes
// of NCCL's ring, n (P - 1) / P, both for a reduce-scatter and, with the all-gather that follows,
// for an all-reduce; and scratch memory of kScratchBytes. What is lost are sums in the switch
// (NVLink SHARP), and, where a group has g ranks on each of several nodes, a ring's economy between
// nodes, of up to a factor of g; data-parallel groups mostly have g = 1.
//
// Gathers of equal slices are NCCL's all-gather, of unequal ones a broadcast of each slice in one
// launch: both cross the border of a node once, which messages to each rank would not, and padding
// would need memory and a copy.
#pragma once

#include <nccl.h>

#include <memory>

#include "backend/cuda/cuda_device.h"
#include "comm/communicator.h"

namespace switchyard {

class NcclCommunicator final : public Communicator {
 public:
  // The ranks of `world`, two or more, collectively. `device` is this rank's, and the backend given
  // to use(), before anything else is called, is that of this device; both outlive the
  // communicator.
  NcclCommunicator(Communicator& world, CudaDevice& device);
  // Collective, unless an error has happened: then what is in flight is given up.
  ~NcclCommunicator() override;
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  void use(Backend& backend) override;

 private:
  class Watch;

  NcclCommunicator(std::unique_ptr<Communicator> host, std::string name, CudaDevice& device);

  Communicator& for_host_values() override { return *host_; }
  std::unique_ptr<Communicator> do_split(int color, int key, std::string name) override;
  Event do_reduce_scatter_sum(Tensor out, Tensor input, std::span<const int64_t> counts,
                              Event after) override;
  Event do_all_gather(Tensor out, Tensor input, std::span<const int64_t> counts,
                      Event after) override;
  Event do_all_to_all(Tensor out, std::span<const int64_t> receive_rows, Tensor input,
                      std::span<const int64_t> send_rows, Event after) override;
  Event do_broadcast(Tensor x, int root, Event after) override;
  Event do_send_receive(std::span<const Message> sends, std::span<const Message> receives,
                        Event after) override;

  // Collective, also over ranks whose new group has no NCCL (`part` is null then).
  void split_nccl(int color, int key, NcclCommunicator* part);
  // Calls launch(), which gives work to the stream, when `after` is arranged for.
  template <typename Launch>
  Event in_flight(Event after, const Launch& launch);
  // One group of messages; those to this rank itself are copied.
  void exchange(std::span<const Message> sends, std::span<const Message> receives);
  void copy_own(std::span<const Message> sends, std::span<const Message> receives);
  void copy(Tensor to, Tensor from);
  // Calls group() between ncclGroupStart() and ncclGroupEnd().
  template <typename Group>
  void launch_group(const Group& group);

  ncclConfig_t config() const;
  // Until what `comm` was asked for is on its stream, or set up.
  void settle(ncclComm_t comm, const char* call);
  bool look_for_errors();
  void abort();
  void leave();
  cudaStream_t stream() const { return device_.stream(queue_); }

  std::unique_ptr<Communicator> host_;
  CudaDevice& device_;
  Queue queue_;
  ncclComm_t comm_ = nullptr;  // none after an error
  Event last_;                 // of the collectives so far
  Watch* watch_ = nullptr;     // owned by the backend, while collectives are in flight
};

}  // namespace switchyard
