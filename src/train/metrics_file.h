// RUN/metrics.jsonl through the attempts at a run. It only grows; what a resume undoes is marked.
//
// Every line ends in the attempt that wrote it and whether it still stands:
//   {"step":120,...,"attempt":2,"superseded":false}
// An attempt that resumes at step 100 first marks the lines of later steps, in place ("true " takes
// no more room than "false"), so that a program finds every step once among the lines that are not
// superseded. A last line that a crash has torn is cut off.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace switchyard {

// `object` ("{...}", not empty) with the attempt and "superseded":false at its end.
std::string stamped(const std::string& object, int64_t attempt);

struct ResumedMetrics {
  int64_t superseded_lines = 0;  // marked now
  int64_t furthest_step = 0;     // of the lines marked now, else the step resumed at
  int64_t torn_bytes = 0;        // cut off at the end
};

// Makes the file ready for an attempt that resumes at `step`; on the disk when it returns. No file,
// nothing to do. Error: kStorage. Reads no more of the file than the lines it marks.
ResumedMetrics resume_metrics(const std::string& path, int64_t step);

// The lines that stand, in their order. Error: kStorage; kData for a line that is no JSON object,
// unless it is the last.
std::vector<nlohmann::ordered_json> read_metrics(const std::string& path);

}  // namespace switchyard
