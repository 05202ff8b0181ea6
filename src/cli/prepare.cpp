#include "cli/prepare.h"

#include <unistd.h>

#include <chrono>

#include "core/log.h"

namespace switchyard {
namespace {

// Rewrites a bar on a terminal, at most once per percent; silent elsewhere.
class ProgressBar {
 public:
  void show(int64_t done, int64_t total) {
    const int64_t percent = total == 0 ? 100 : 100 * done / total;
    if (!on_terminal_ || percent == percent_) return;
    percent_ = percent;
    fmt::print(stderr, "\r[{:<50}] {:3} %", std::string(static_cast<size_t>(percent / 2), '#'),
               percent);
    if (done == total) fmt::print(stderr, "\r\033[K");
    std::fflush(stderr);
  }

 private:
  bool on_terminal_ = isatty(STDERR_FILENO) != 0;
  int64_t percent_ = -1;
};

}  // namespace

int run_prepare(const PrepareOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  ProgressBar bar;
  const PrepareReport report =
      prepare(options, [&](int64_t done, int64_t total) { bar.show(done, total); });
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  fmt::print("{}.bin/.idx: {} documents, {} tokens from {} bytes in {:.1f} s ({:.0f} MB/s)\n",
             options.output_prefix, report.documents, report.tokens, report.bytes, seconds,
             static_cast<double>(report.bytes) / 1e6 / seconds);
  return 0;
}

}  // namespace switchyard
