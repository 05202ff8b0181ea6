// From what all ranks were doing when a job stood still, or ended: who holds up the others, and
// how. Pure functions over pages of progress marks, for the watchdog and for `inspect
// --postmortem`.
//
// A rank that waits in a collective can only wait for what another rank must do first: make the
// call, or send its message. Following that from rank to rank ends at a culprit:
//   - a rank that does not answer (stopped, dead, or its host cut off);
//   - a rank that waits for nobody and makes no progress (a loop, a blocked read), or that does not
//     come back from inside a call;
//   - a rank that waits for a message which its sender has sent: it was lost;
//   - ranks that wait for each other in a circle, as when they call collectives in unequal orders.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "core/progress_page.h"

namespace switchyard {

// What is known of a rank, in the order of ranks.
struct RankEvidence {
  bool is_known = false;     // there is a page
  bool answers = false;      // its watchdog wrote a report
  char process_state = '?';  // of /proc: 'T' stopped; '-' gone; '?' not seen
  ProgressHead head = {};
};

struct Diagnosis {
  std::vector<int> culprits;  // ranks
  std::string text;           // one sentence, or one for each of them
};
Diagnosis diagnose_hang(std::span<const RankEvidence> ranks);

// "rank 2 on node7: step 12, backward, layer 3, waits 5.2 s in dp all_reduce #17 (4096 bytes) for
// rank 1". Seconds until the page was kept.
std::string describe_rank(std::span<const RankEvidence> ranks, int rank);
// "step 12, backward, layer 3"
std::string describe_place(const ProgressHead& head);
// "dp all_reduce #17 (4096 bytes)"
std::string describe_call(const ProgressHead& head, const ProgressCall& call);
// "embedding", "layer 3", "head"; "" for none
std::string unit_text(const ProgressHead& head, int64_t unit);

}  // namespace switchyard
