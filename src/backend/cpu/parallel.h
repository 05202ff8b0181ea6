// parallel_for: a loop over OpenMP threads. Who does what depends on sizes alone, never on timing,
// and small loops stay on the calling thread.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>

#include "core/math.h"

namespace switchyard {

// Elements below which a second thread costs more than it brings (starting a team takes some
// microseconds, in which one thread touches about this many elements).
inline constexpr int64_t kElementsPerTask = 16384;

// Rows of `width` elements that make one task of a reasonable size.
inline int64_t rows_per_task(int64_t width) {
  return std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(1, width));
}

// body(begin, end) over [0, count), at most once per thread. Ranges begin at multiples of `grain`:
// an element keeps its place in the vector loops, so that its bits do not depend on the number of
// threads. `body` must not throw.
template <typename Body>
void parallel_for(int num_threads, int64_t count, int64_t grain, const Body& body) {
  const int64_t blocks = div_up(count, grain);
  const auto threads = static_cast<int>(std::min<int64_t>(num_threads, blocks));
  if (threads <= 1) {
    if (count > 0) body(int64_t{0}, count);
    return;
  }
#pragma omp parallel num_threads(threads)
  {
    const int64_t thread = omp_get_thread_num(), team = omp_get_num_threads();
    const int64_t begin = blocks * thread / team * grain;
    const int64_t end = std::min(count, blocks * (thread + 1) / team * grain);
    if (begin < end) body(begin, end);
  }
}

// body(task) for each task in [0, count), dealt out like cards: thread t takes t, t + threads, ...
// For independent tasks of unequal cost whose cost changes slowly with their number.
template <typename Body>
void parallel_tasks(int num_threads, int64_t count, const Body& body) {
  const auto threads = static_cast<int>(std::min<int64_t>(num_threads, count));
  if (threads <= 1) {
    for (int64_t task = 0; task < count; ++task) body(task);
    return;
  }
#pragma omp parallel num_threads(threads)
  for (int64_t task = omp_get_thread_num(); task < count; task += omp_get_num_threads()) body(task);
}

}  // namespace switchyard
