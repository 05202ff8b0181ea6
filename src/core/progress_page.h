// ProgressPage: what a rank is doing and the last things it did, in plain memory. Its owner writes
// it through Progress (progress.h); the watchdog, other processes of the node and, copied to a
// file, everybody else read it. So nothing in it points anywhere, and names are short arrays.
//
// Times are nanoseconds of the monotonic clock of the rank's host; `started_*` relate it to the
// wall clock. A page is copied while its owner writes: single values are whole, but a value may be
// newer than its neighbour. Whoever judges a rank that stands still sees them all at rest.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace switchyard {

// What a rank is at, as far as the watchdog tells it apart.
enum class RunPhase : int64_t {
  kStart,
  kLoad,
  kData,
  kForward,
  kBackward,
  kOptimizer,
  kReport,
  kValidation,
  kSave,
  kEnd
};
constexpr int kNumRunPhases = 10;
std::string_view name_of(RunPhase phase);  // "forward"

// What ranks call together; the last rows are those of small host values.
enum class CallKind : int32_t {
  kNone,
  kAllReduce,
  kReduceScatter,
  kAllGather,
  kAllToAll,
  kBroadcast,
  kSendReceive,
  kSplit,
  kAllGatherHost,
  kAllToAllHost,
  kBroadcastHost
};
std::string_view name_of(CallKind kind);  // "all_reduce"

// Messages between two ranks of a group are numbered from 1, in each direction.
struct PeerMessage {
  int64_t peer = 0;  // rank in the group
  int64_t number = 0;
};

// A call of a collective, or of send_receive.
struct ProgressCall {
  int32_t group = -1;  // index in ProgressHead::groups; -1: none of them
  CallKind kind = CallKind::kNone;
  int64_t sequence = 0;  // of the group's collectives, from 1; of this rank's send_receives
  int64_t bytes = 0;     // of the tensors on this rank
  int64_t ticket = 0;    // of the event that completes it; 0: it blocks
  std::array<PeerMessage, 4> receives = {};  // of send_receive: the first four; number 0: no more
  bool is_none() const { return kind == CallKind::kNone; }
};

struct ProgressGroup {
  uint64_t id = 0;  // the same on all ranks of the group
  int64_t rank = 0, size = 0;
  int64_t started = 0;  // sequence number of the last collective called
  std::array<char, 24> name = {};
};

// Messages of send_receive so far, by group and peer.
struct ProgressChannel {
  int32_t group = 0, peer = 0;
  int64_t sent = 0, expected = 0;
};

enum class EventKind : int32_t {
  kPhase,       // a phase begins
  kUnit,        // a layer begins
  kWork,        // `bytes` of a file, a batch, ...
  kCallBegins,  // a collective is called
  kCallEnds,    // its result is there
  kWaitBegins,  // the host waits for it
  kWaitEnds
};
std::string_view name_of(EventKind kind);

struct ProgressEvent {
  int64_t number = 0;  // from 1; its place is number % kNumProgressEvents
  int64_t time_ns = 0;
  int64_t step = 0;
  int64_t sequence = 0, bytes = 0;  // of the call, or of the work
  EventKind kind = EventKind::kPhase;
  CallKind call = CallKind::kNone;
  int32_t group = -1, unit = -1;
  RunPhase phase = RunPhase::kStart;
};
constexpr int64_t kNumProgressEvents = 2048;

// Why a page was kept.
enum class Ending : int64_t { kNone, kHang, kError, kSignal };

struct ProgressHead {
  uint64_t format = 0;  // kProgressFormat
  uint64_t job = 0;     // the same on all ranks of one job, and in no other
  int64_t rank = 0, num_ranks = 1;
  int64_t pid = 0, fd = -1;  // the live page is /proc/PID/fd/FD on its host
  std::array<char, 64> host = {};
  std::array<char, 40> boot = {};  // tells machines with equal names apart
  int64_t started_ns = 0, started_wall_ns = 0;
  int64_t num_layers = 0;

  int64_t counter = 0;        // of marks; only grows
  int64_t progressed_ns = 0;  // when it last grew
  int64_t heartbeat_ns = 0;   // when the watchdog thread was last seen alive
  int64_t num_events = 0;
  RunPhase phase = RunPhase::kStart;
  int64_t step = 0;   // from 1; 0: none has begun
  int64_t unit = -1;  // model/unit_hooks.h; -1: none
  ProgressCall waits_for = {};
  int64_t waits_since_ns = 0;
  int64_t polled_ns = 0;      // when it last looked whether the wait is over
  int64_t missing_peer = -1;  // rank in the group whose message is missing; -1: not known
  int64_t reached = 0;        // how far the call waited for has come: comparable between its ranks
  std::array<int64_t, kNumRunPhases> longest_gap_ns = {};  // without a mark or a wait, by phase

  int64_t num_groups = 0, num_channels = 0;
  std::array<ProgressGroup, 48> groups = {};
  std::array<ProgressChannel, 48> channels = {};

  Ending ending = Ending::kNone;
  int64_t signal = 0;
  std::array<char, 512> message = {};  // of the error

  std::string group_name(int group) const;  // "dp"
};

struct ProgressPage {
  ProgressHead head;
  std::array<ProgressEvent, kNumProgressEvents> events = {};
};

constexpr uint64_t kProgressFormat = 0x3130'4547'4150'5953;  // "SYPAGE01"

// Structs are written and copied in whole words; may_alias says that a word may be any of their
// members (std::atomic_ref cannot say it).
using ProgressWord __attribute__((may_alias)) = uint64_t;
// A copy of a page, or of its head, that others may be writing.
void copy_words(void* to, const void* from, int64_t bytes);

// Reads a file that begins with a head: a live page, or one that was kept. Empty when there is
// none, or it is of another version.
std::optional<ProgressHead> read_progress_head(const std::string& path);
std::unique_ptr<ProgressPage> read_progress_page(const std::string& path);  // null likewise

}  // namespace switchyard
