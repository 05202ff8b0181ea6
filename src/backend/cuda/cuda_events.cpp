#include "backend/cuda/cuda_events.h"

#include <algorithm>

#include "backend/cuda/cuda_check.h"

namespace switchyard {
namespace {

bool has_happened(cudaEvent_t event) {
  const cudaError_t status = cudaEventQuery(event);
  if (status == cudaErrorNotReady) return false;
  CUDA_CHECK(status);  // an error of anything that the device was asked to do shows here
  return true;
}

}  // namespace

CudaEvents::~CudaEvents() {
  for (const auto& queue : open_)
    for (const Recorded& recorded : queue) cudaEventDestroy(recorded.event);
  for (const cudaEvent_t event : spare_) cudaEventDestroy(event);
}

Event CudaEvents::record(Queue queue, cudaStream_t stream, int64_t ticket) {
  const auto index = static_cast<size_t>(queue.id);
  if (index >= open_.size()) open_.resize(index + 1);
  if (spare_.empty())
    CUDA_CHECK(cudaEventCreateWithFlags(&spare_.emplace_back(), cudaEventDisableTiming));
  const cudaEvent_t event = spare_.back();
  CUDA_CHECK(cudaEventRecord(event, stream));
  spare_.pop_back();
  open_[index].push_back({.ticket = ticket, .event = event});
  return {.queue = queue.id, .ticket = ticket};
}

cudaEvent_t CudaEvents::find(Event event) const {
  const auto index = static_cast<size_t>(event.queue);
  if (event.queue < 0 || index >= open_.size()) return nullptr;
  const auto& open = open_[index];
  const auto found = std::ranges::lower_bound(open, event.ticket, {}, &Recorded::ticket);
  return found == open.end() || found->ticket != event.ticket ? nullptr : found->event;
}

bool CudaEvents::is_complete(Event event) const {
  const cudaEvent_t found = find(event);
  return found == nullptr || has_happened(found);
}

void CudaEvents::collect(const std::function<void(int64_t ticket)>& completed) {
  for (auto& queue : open_)
    while (!queue.empty() && has_happened(queue.front().event)) {
      const Recorded recorded = queue.front();
      queue.pop_front();
      spare_.push_back(recorded.event);
      ++num_collected_;
      completed(recorded.ticket);
    }
}

std::vector<int64_t> CudaEvents::open_tickets(int64_t last) const {
  std::vector<int64_t> tickets;
  for (const auto& queue : open_)
    for (const Recorded& recorded : queue)
      if (recorded.ticket <= last) tickets.push_back(recorded.ticket);
  std::ranges::sort(tickets);
  return tickets;
}

}  // namespace switchyard
