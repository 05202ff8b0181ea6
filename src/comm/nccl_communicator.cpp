#include "comm/nccl_communicator.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <thread>
#include <utility>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/cuda_check.h"
#include "comm/call_faults.h"
#include "comm/gpu_communicator.h"
#include "comm/nccl_check.h"
#include "comm/nccl_sum.h"
#include "comm/self_communicator.h"
#include "core/fault.h"
#include "core/math.h"

namespace switchyard {
namespace {

// For what the other ranks contribute to one piece of a sum.
constexpr int64_t kScratchBytes = int64_t{64} << 20;
constexpr int64_t kPacketBytes = 16;

ncclDataType_t nccl_type(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return ncclFloat32;
    case DType::kF64:
      return ncclFloat64;
    case DType::kBF16:
      return ncclBfloat16;
    case DType::kI32:
      return ncclInt32;
    case DType::kI64:
      return ncclInt64;
    case DType::kU8:
      break;
  }
  return ncclUint8;
}

size_t count_of(Tensor tensor) { return static_cast<size_t>(tensor.numel()); }

// Consecutive rows: the first rows[0] for or from rank 0, the next rows[1] for rank 1, ...
std::vector<Message> messages_of(Tensor tensor, std::span<const int64_t> rows) {
  std::vector<Message> messages;
  int64_t begin = 0;
  for (size_t r = 0; r < rows.size(); ++r) {
    messages.push_back({tensor.rows(begin, rows[r]), static_cast<int>(r)});
    begin += rows[r];
  }
  return messages;
}

// The part of a slice that begins at `begin`; a shorter slice has fewer pieces, the rest are empty.
Tensor piece_of(Tensor slice, int64_t begin, int64_t size) {
  begin = std::min(begin, slice.numel());
  return slice.rows(begin, std::min(size, slice.numel() - begin));
}

// NCCL reads the variable at its first call in a process.
void require_one_launch_order(const std::string& who) {
  setenv("NCCL_LAUNCH_ORDER_IMPLICIT", "1", 1);
  int version = 0;
  NCCL_CHECK(who, ncclGetVersion(&version));
  SY_REQUIRE(kConfig, version >= NCCL_VERSION(2, 26, 0),
             "NCCL {} cannot keep one order among several communicators: install 2.26 or newer",
             version);
}

}  // namespace

// Looks for errors of a communicator while its collectives are in flight. Either may end first.
class NcclCommunicator::Watch final : public PendingWork {
 public:
  explicit Watch(NcclCommunicator& communicator) : communicator_(&communicator) {
    communicator.watch_ = this;
  }
  ~Watch() override {
    if (communicator_ != nullptr) communicator_->watch_ = nullptr;
  }
  bool advance() override { return communicator_ == nullptr || communicator_->look_for_errors(); }
  void forget() { communicator_ = nullptr; }

 private:
  NcclCommunicator* communicator_;
};

NcclCommunicator::NcclCommunicator(Communicator& world, CudaDevice& device)
    : NcclCommunicator(world.split(0, world.rank(), world.name() + " host"), world.name(), device) {
  require_one_launch_order(who());
  ncclUniqueId id = {};
  if (rank() == 0) NCCL_CHECK(who(), ncclGetUniqueId(&id));
  std::string bytes(reinterpret_cast<const char*>(&id), sizeof(id));
  host_->broadcast_host(bytes, 0);
  std::memcpy(&id, bytes.data(), sizeof(id));
  ncclConfig_t settings = config();
  NCCL_CHECK(who(), ncclCommInitRankConfig(&comm_, size(), id, rank(), &settings));
  settle(comm_, "ncclCommInitRankConfig");
}

NcclCommunicator::NcclCommunicator(std::unique_ptr<Communicator> host, std::string name,
                                   CudaDevice& device)
    : Communicator(host->rank(), host->size(), std::move(name)),
      host_(std::move(host)),
      device_(device),
      queue_(device.add_queue()) {}

NcclCommunicator::~NcclCommunicator() {
  try {
    if (std::uncaught_exceptions() == 0) leave();
  } catch (...) {  // a destructor throws nothing; whoever needs the other ranks finds out, too
  }
  abort();
  if (watch_ != nullptr) watch_->forget();
}

void NcclCommunicator::use(Backend& backend) {
  Communicator::use(backend);
  host_->use(backend);
}

std::unique_ptr<Communicator> NcclCommunicator::do_split(int color, int key, std::string name) {
  auto host = host_->split(color, key, name + " host");
  if (host->size() == 1) {
    split_nccl(NCCL_SPLIT_NOCOLOR, key, nullptr);
    return std::make_unique<SelfCommunicator>(std::move(name));
  }
  std::unique_ptr<NcclCommunicator> part(
      new NcclCommunicator(std::move(host), std::move(name), device_));
  split_nccl(color, key, part.get());
  return part;
}

void NcclCommunicator::split_nccl(int color, int key, NcclCommunicator* part) {
  ncclComm_t comm = nullptr;
  ncclConfig_t settings = part != nullptr ? part->config() : config();
  NCCL_CHECK(who(), ncclCommSplit(comm_, color, key, &comm, &settings));
  try {
    settle(comm_, "ncclCommSplit");  // only then is there a new communicator
  } catch (...) {
    abort();  // NCCL must not write `comm` any more
    throw;
  }
  if (part == nullptr) return;
  part->comm_ = comm;
  settle(comm, "ncclCommSplit");
}

Event NcclCommunicator::do_reduce_scatter_sum(Tensor out, Tensor input,
                                              std::span<const int64_t> counts, Event after) {
  return in_flight(after, [&] {
    const std::vector<Message> slices = messages_of(input, counts);
    const auto item = static_cast<int64_t>(size_in_bytes(out.dtype()));
    const int64_t piece = round_up(kScratchBytes / size(), kPacketBytes) / item;
    const int64_t stride = round_up(std::min(piece, out.numel()) * item, kPacketBytes);
    std::byte* const received = device_.scratch(queue_, stride * size());
    const int64_t longest = *std::max_element(counts.begin(), counts.end());
    for (int64_t begin = 0; begin < longest; begin += piece) {
      const Tensor sum = piece_of(out, begin, piece);
      std::vector<Message> sends, receives;
      for (int peer = 0; peer < size(); ++peer) {
        if (peer == rank()) continue;
        sends.push_back({piece_of(slices[static_cast<size_t>(peer)].tensor, begin, piece), peer});
        receives.push_back({Tensor(received + peer * stride, sum.dtype(), sum.shape()), peer});
      }
      exchange(sends, receives);
      const Tensor mine = piece_of(slices[static_cast<size_t>(rank())].tensor, begin, piece);
      sum_ranks(stream(), sum, {mine, received, stride, rank(), size()});
    }
  });
}

Event NcclCommunicator::do_all_gather(Tensor out, Tensor input, std::span<const int64_t> counts,
                                      Event after) {
  return in_flight(after, [&] {
    const bool are_equal = std::ranges::all_of(counts, [&](int64_t n) { return n == counts[0]; });
    launch_group([&] {
      if (are_equal) {
        NCCL_CHECK(who(), ncclAllGather(input.raw(), out.raw(), count_of(input),
                                        nccl_type(out.dtype()), comm_, stream()));
        return;
      }
      for (const auto& [slice, root] : messages_of(out, counts)) {
        const void* const sent = root == rank() ? input.raw() : slice.raw();
        if (!slice.empty())
          NCCL_CHECK(who(), ncclBroadcast(sent, slice.raw(), count_of(slice),
                                          nccl_type(slice.dtype()), root, comm_, stream()));
      }
    });
  });
}

Event NcclCommunicator::do_all_to_all(Tensor out, std::span<const int64_t> receive_rows,
                                      Tensor input, std::span<const int64_t> send_rows,
                                      Event after) {
  return in_flight(
      after, [&] { exchange(messages_of(input, send_rows), messages_of(out, receive_rows)); });
}

Event NcclCommunicator::do_broadcast(Tensor x, int root, Event after) {
  return in_flight(after, [&] {
    launch_group([&] {
      NCCL_CHECK(who(), ncclBroadcast(x.raw(), x.raw(), count_of(x), nccl_type(x.dtype()), root,
                                      comm_, stream()));
    });
  });
}

Event NcclCommunicator::do_send_receive(std::span<const Message> sends,
                                        std::span<const Message> receives, Event after) {
  return in_flight(after, [&] { exchange(sends, receives); });
}

template <typename Launch>
Event NcclCommunicator::in_flight(Event after, const Launch& launch) {
  SY_CHECK(backend() != nullptr, "{}: a collective before use() of a backend", who());
  SY_CHECK(comm_ != nullptr, "{}: a collective after an error", who());
  backend()->wait(queue_, after);
  launch();
  last_ = backend()->record(queue_);
  if (watch_ == nullptr) backend()->start(std::make_unique<Watch>(*this));
  return last_;
}

void NcclCommunicator::exchange(std::span<const Message> sends, std::span<const Message> receives) {
  copy_own(sends, receives);
  const auto travels = [&](const Message& message) {
    return message.peer != rank() && !message.tensor.empty();
  };
  if (std::ranges::none_of(sends, travels) && std::ranges::none_of(receives, travels)) return;
  launch_group([&] {
    for (const auto& [tensor, peer] : receives)
      if (travels({tensor, peer}))
        NCCL_CHECK(who(), ncclRecv(tensor.raw(), count_of(tensor), nccl_type(tensor.dtype()), peer,
                                   comm_, stream()));
    for (const auto& [tensor, peer] : sends) {
      if (!travels({tensor, peer})) continue;
      if (fault_point(fault_points_of(call_at_hand()).message) == Fault::kDrop) continue;
      NCCL_CHECK(who(), ncclSend(tensor.raw(), count_of(tensor), nccl_type(tensor.dtype()), peer,
                                 comm_, stream()));
    }
  });
}

void NcclCommunicator::copy_own(std::span<const Message> sends, std::span<const Message> receives) {
  const auto own = [&](std::span<const Message> messages) {
    std::vector<Tensor> tensors;
    for (const auto& [tensor, peer] : messages)
      if (peer == rank()) tensors.push_back(tensor);
    return tensors;
  };
  const std::vector<Tensor> sent = own(sends), received = own(receives);
  SY_CHECK(sent.size() == received.size(), "{}: {} messages sent to myself, {} received", who(),
           sent.size(), received.size());
  for (size_t i = 0; i < sent.size(); ++i) {
    SY_CHECK(sent[i].dtype() == received[i].dtype() && sent[i].numel() == received[i].numel(),
             "{}: message {} to myself is {} {}, received as {} {}", who(), i,
             name_of(sent[i].dtype()), sent[i].shape_string(), name_of(received[i].dtype()),
             received[i].shape_string());
    copy(received[i], sent[i]);
  }
}

void NcclCommunicator::copy(Tensor to, Tensor from) {
  if (to.raw() == from.raw() || to.empty()) return;
  CUDA_CHECK(cudaMemcpyAsync(to.raw(), from.raw(), static_cast<size_t>(to.bytes()),
                             cudaMemcpyDeviceToDevice, stream()));
}

template <typename Group>
void NcclCommunicator::launch_group(const Group& group) {
  NCCL_CHECK(who(), ncclGroupStart());
  group();
  NCCL_CHECK(who(), ncclGroupEnd());
  settle(comm_, "ncclGroupEnd");
}

ncclConfig_t NcclCommunicator::config() const {
  ncclConfig_t settings = NCCL_CONFIG_INITIALIZER;
  settings.blocking = 0;
  settings.commName = name().c_str();
  return settings;
}

// Other ranks may need this one to let their messages move before they come to the same call.
void NcclCommunicator::settle(ncclComm_t comm, const char* call) {
  ncclResult_t state = ncclInProgress;
  while (true) {
    NCCL_CHECK(who(), ncclCommGetAsyncError(comm, &state));
    if (state != ncclInProgress) break;
    if (backend() != nullptr) {
      backend()->progress();
      backend()->marks().wait_misses(-1, 0);
    }
    std::this_thread::yield();
  }
  nccl::check(state, who(), call, __FILE__, __LINE__);
}

// Whether all collectives so far are done. Throws what NCCL has found.
bool NcclCommunicator::look_for_errors() {
  if (comm_ == nullptr) return true;
  ncclResult_t state = ncclSuccess;
  NCCL_CHECK(who(), ncclCommGetAsyncError(comm_, &state));
  try {
    nccl::check(state, who(), "a collective in flight", __FILE__, __LINE__);
  } catch (...) {
    abort();
    throw;
  }
  return backend()->is_complete(last_);
}

void NcclCommunicator::abort() {
  if (comm_ != nullptr) ncclCommAbort(std::exchange(comm_, nullptr));
}

void NcclCommunicator::leave() {
  if (comm_ == nullptr) return;
  finish(last_);
  NCCL_CHECK(who(), ncclCommFinalize(comm_));
  settle(comm_, "ncclCommFinalize");
  NCCL_CHECK(who(), ncclCommDestroy(std::exchange(comm_, nullptr)));
}

std::unique_ptr<Communicator> make_gpu_communicator(Communicator& world, Backend& gpu) {
  std::unique_ptr<Communicator> communicator;
  if (world.size() == 1)
    communicator = std::make_unique<SelfCommunicator>(world.name());
  else
    communicator =
        std::make_unique<NcclCommunicator>(world, dynamic_cast<CudaBackend&>(gpu).device());
  communicator->use(gpu);
  return communicator;
}

}  // namespace switchyard
