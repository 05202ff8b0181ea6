// What a job leaves of its last moments, and how it is read again.
//
//   RUN/progress/rank-00000.bin               heads of the pages (core/progress_page.h) of a job
//                                             that runs; a second old or so
//   RUN/postmortem/attempt-1/rank-00000.page  the whole page with the last events: after a hang of
//                                             every rank, as far as one that answers shares its
//                                             host; after a crash or an error of that rank and the
//                                             others of its host
//   RUN/postmortem/attempt-1/rank-00000.json  what the page says, in words: of ranks that reported
//                                             a hang or an error of their own
//   RUN/postmortem/attempt-1/hang             an alarm was raised: all ranks report
//   RUN/postmortem/attempt-1/verdict.json     the culprits of a hang
#pragma once

#include <string>
#include <vector>

#include "train/hang_diagnosis.h"

namespace switchyard {

std::string progress_file(const std::string& run_directory, int64_t rank);
std::string postmortem_directory(const std::string& run_directory, int64_t attempt);
std::string live_page(const ProgressHead& head);  // on its host, while the process is there
std::string page_file(const std::string& directory, int64_t rank);
std::string report_file(const std::string& directory, int64_t rank);
std::string alarm_file(const std::string& directory);
std::string verdict_file(const std::string& directory);

// Writes a file whole, or leaves what was there; false: it cannot be written. Never throws.
bool write_whole_file(const std::string& path, const void* bytes, size_t size);
bool write_whole_file(const std::string& path, const std::string& text);

// The ranks of `job` as far as they can be seen from this host: what they have kept in
// `directory`, else their live pages, else their last copies. `me` says which host this is.
std::vector<RankEvidence> gather_evidence(const std::string& run_directory,
                                          const std::string& directory, const ProgressHead& me);
// The head of one rank likewise, without what was kept; not known: of another job, or none.
RankEvidence look_at_rank(const std::string& run_directory, const ProgressHead& me, int64_t rank);
// Keeps the live pages of the ranks of this host that have kept none themselves.
void keep_pages_of_others(const std::string& run_directory, const std::string& directory,
                          const ProgressHead& me);
bool same_host(const ProgressHead& a, const ProgressHead& b);

// The report of one rank, and the verdict, as JSON.
std::string report_json(std::span<const RankEvidence> ranks, int rank);
std::string verdict_json(const Diagnosis& diagnosis);

// The story of an attempt: culprit, where each rank was, and the last `num_events` events of all
// ranks in the order of their clocks. Attempt 0: the last that left anything. Error (kData): none.
std::string tell_postmortem(const std::string& run_directory, int64_t attempt, int num_events);

}  // namespace switchyard
