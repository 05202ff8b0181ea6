// Log: what the project says to people, on stderr. Metrics go to files (train/metrics.h), results
// of a command to stdout.
#pragma once

#include <spdlog/spdlog.h>

namespace switchyard {

// Messages of rank 0 are printed as they are; other ranks print warnings and errors only, prefixed
// with their rank. Called once by main().
void configure_log(int rank, int world_size);

}  // namespace switchyard
