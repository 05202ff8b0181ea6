#include "core/progress.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <fstream>

#include "core/error.h"
#include "core/fault.h"

namespace switchyard {
namespace {

template <typename T>
void put(T& place, T value) {
  std::atomic_ref<T>(place).store(value, std::memory_order_relaxed);
}

// The opposite of copy_words().
template <typename T>
void put_words(T& place, const T& value) {
  auto* target = reinterpret_cast<ProgressWord*>(&place);
  const auto* source = reinterpret_cast<const ProgressWord*>(&value);
  for (size_t i = 0; i < sizeof(T) / sizeof(ProgressWord); ++i)
    __atomic_store_n(target + i, source[i], __ATOMIC_RELAXED);
}

template <size_t N>
void copy_text(std::array<char, N>& to, std::string_view text) {
  to.fill('\0');
  std::copy_n(text.begin(), std::min(text.size(), N - 1), to.begin());
}

ProgressPage* map_page(int fd) {
  SY_CHECK(fd >= 0 && ftruncate(fd, sizeof(ProgressPage)) == 0,
           "no memory for a page of progress marks: {}", std::strerror(errno));
  void* memory = mmap(nullptr, sizeof(ProgressPage), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  SY_CHECK(memory != MAP_FAILED, "mapping a page of progress marks: {}", std::strerror(errno));
  return new (memory) ProgressPage;
}

const char* fault_point_of(RunPhase phase) {
  constexpr std::array<const char*, kNumRunPhases> kPoints = {
      "train.start",     "train.load",   "train.data",       "train.forward", "train.backward",
      "train.optimizer", "train.report", "train.validation", "train.save",    "train.end"};
  return kPoints[static_cast<size_t>(phase)];
}

int64_t wall_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace

int64_t monotonic_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

Progress::Progress() {
  fd_ = memfd_create("switchyard-progress", MFD_CLOEXEC);
  page_ = map_page(fd_);
  ProgressHead& head = page_->head;
  head.pid = getpid();
  head.fd = fd_;
  gethostname(head.host.data(), head.host.size() - 1);
  std::string boot;
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), boot);
  copy_text(head.boot, boot);
  head.started_ns = head.progressed_ns = head.heartbeat_ns = monotonic_ns();
  head.started_wall_ns = wall_ns();
  head.format = kProgressFormat;
}

Progress::~Progress() {
  munmap(page_, sizeof(ProgressPage));
  close(fd_);
}

void Progress::identify(uint64_t job, int rank, int num_ranks, int num_layers) {
  ProgressHead& head = page_->head;
  put(head.rank, int64_t{rank});
  put(head.num_ranks, int64_t{num_ranks});
  put(head.num_layers, int64_t{num_layers});
  put(head.job, job);
}

void Progress::begin_step(int64_t step) {
  put(page_->head.step, step);
  moved();
}

void Progress::enter(RunPhase phase) {
  if (page_->head.phase == phase) {
    moved();
    return;
  }
  moved();  // the gap until now belongs to the phase that ends
  put(page_->head.phase, phase);
  put(page_->head.unit, int64_t{-1});
  note(EventKind::kPhase, {});
  fault_point(fault_point_of(phase));
}

void Progress::at_unit(int unit) {
  put(page_->head.unit, int64_t{unit});
  note(EventKind::kUnit, {});
  fault_point("train.unit");
}

void Progress::worked(int64_t bytes) { note(EventKind::kWork, {.bytes = bytes}); }

int Progress::add_group(uint64_t id, const std::string& name, int rank, int size) {
  ProgressHead& head = page_->head;
  for (int64_t i = 0; i < head.num_groups; ++i)
    if (head.groups[static_cast<size_t>(i)].id == id) return static_cast<int>(i);
  if (head.num_groups == static_cast<int64_t>(head.groups.size())) return -1;
  ProgressGroup group = {.id = id, .rank = rank, .size = size};
  copy_text(group.name, name);
  put_words(head.groups[static_cast<size_t>(head.num_groups)], group);
  put(head.num_groups, head.num_groups + 1);
  return static_cast<int>(head.num_groups - 1);
}

ProgressChannel* Progress::channel(int group, int peer) {
  ProgressHead& head = page_->head;
  for (int64_t i = 0; i < head.num_channels; ++i) {
    ProgressChannel& channel = head.channels[static_cast<size_t>(i)];
    if (channel.group == group && channel.peer == peer) return &channel;
  }
  if (head.num_channels == static_cast<int64_t>(head.channels.size())) return nullptr;
  ProgressChannel& channel = head.channels[static_cast<size_t>(head.num_channels)];
  put_words(channel, ProgressChannel{.group = group, .peer = peer});
  put(head.num_channels, head.num_channels + 1);
  return &channel;
}

void Progress::message_sent(int group, int peer) {
  if (ProgressChannel* found = channel(group, peer)) put(found->sent, found->sent + 1);
}

PeerMessage Progress::message_expected(int group, int peer) {
  ProgressChannel* found = channel(group, peer);
  if (found == nullptr) return {};
  put(found->expected, found->expected + 1);
  return {.peer = peer, .number = found->expected};
}

void Progress::call_begins(const ProgressCall& call) {
  if (call.group >= 0 && call.kind != CallKind::kSendReceive)
    put(page_->head.groups[static_cast<size_t>(call.group)].started, call.sequence);
  at_hand_ = call;
  note(EventKind::kCallBegins, call);
  set_waits_for(call);
}

void Progress::call_returns(int64_t ticket) {
  if (ticket == 0) {
    note(EventKind::kCallEnds, at_hand_);
  } else {
    at_hand_.ticket = ticket;
    in_flight_.push_back(at_hand_);
  }
  set_waits_for({});
  at_hand_ = {};
}

void Progress::completed(int64_t ticket) {
  const auto call = std::find_if(in_flight_.begin(), in_flight_.end(),
                                 [&](const auto& c) { return c.ticket == ticket; });
  if (call == in_flight_.end()) return;
  note(EventKind::kCallEnds, *call);
  in_flight_.erase(call);
}

void Progress::part_arrived() { moved(); }

bool Progress::wait_begins(int64_t ticket) {
  const auto call = std::find_if(in_flight_.begin(), in_flight_.end(),
                                 [&](const auto& c) { return c.ticket == ticket; });
  if (call == in_flight_.end()) return false;
  note(EventKind::kWaitBegins, *call);
  set_waits_for(*call);
  return true;
}

void Progress::wait_misses(int peer, int64_t reached) {
  put(page_->head.polled_ns, monotonic_ns());
  put(page_->head.missing_peer, int64_t{peer});
  put(page_->head.reached, reached);
}

void Progress::wait_ends() {
  if (page_->head.waits_for.is_none() || page_->head.waits_for.ticket == 0) return;
  note(EventKind::kWaitEnds, page_->head.waits_for);
  set_waits_for(at_hand_);  // a call that blocks may wait for others first
}

void Progress::set_waits_for(const ProgressCall& call) {
  const int64_t now = monotonic_ns();
  put(page_->head.missing_peer, int64_t{-1});
  put(page_->head.waits_since_ns, now);
  put(page_->head.polled_ns, now);
  put_words(page_->head.waits_for, call);
}

void Progress::note(EventKind kind, const ProgressCall& call) {
  ProgressHead& head = page_->head;
  const int64_t number = head.num_events + 1;
  ProgressEvent& place = page_->events[static_cast<size_t>(number % kNumProgressEvents)];
  put(place.number, int64_t{0});  // until it is whole
  std::atomic_thread_fence(std::memory_order_release);
  ProgressEvent event = {.number = 0,
                         .time_ns = moved(),
                         .step = head.step,
                         .sequence = call.sequence,
                         .bytes = call.bytes,
                         .kind = kind,
                         .call = call.kind,
                         .group = call.group,
                         .unit = static_cast<int32_t>(head.unit),
                         .phase = head.phase};
  put_words(place, event);
  std::atomic_ref<int64_t>(place.number).store(number, std::memory_order_release);
  put(head.num_events, number);
  if (follower_) follower_(head, kind);
}

// How long this rank has waited for others says nothing of how long its own work may take: such
// gaps do not count.
int64_t Progress::moved() {
  ProgressHead& head = page_->head;
  const int64_t now = monotonic_ns(), gap = now - head.progressed_ns;
  int64_t& longest = head.longest_gap_ns[static_cast<size_t>(head.phase)];
  if (gap > longest && head.waits_for.is_none()) put(longest, gap);
  put(head.progressed_ns, now);
  put(head.counter, head.counter + 1);
  return now;
}

void Progress::beat() { put(page_->head.heartbeat_ns, monotonic_ns()); }

void Progress::end(Ending ending, int64_t signal, std::string_view message) {
  ProgressHead& head = page_->head;
  std::remove_reference_t<decltype(head.message)> text;
  copy_text(text, message);
  put_words(head.message, text);
  put(head.signal, signal);
  put(head.ending, ending);
}

ProgressHead Progress::head() const {
  ProgressHead copy;
  copy_words(&copy, &page_->head, sizeof(copy));
  return copy;
}

}  // namespace switchyard
