// fuzz: feeds every parser of files with inputs that are nearly right.
//
//   fuzz [--target NAME] [--seconds S] [--inputs N] [--seed N] [--first N]
//
// Prints one line for each target: inputs, how many were taken. The first finding of a target is
// written to fuzz-NAME-SEED-NUMBER.bin, and the status is 1. `--seed SEED --first NUMBER --inputs
// 1` gives the same input again. There is no limit but those given.
#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <string>

#include "driver.h"

using namespace switchyard;
using namespace switchyard::fuzz;

namespace {

bool run_target(const Target& target, uint64_t seed, const Limits& limits) {
  const Outcome outcome = fuzz::fuzz(target, seed, limits);
  fmt::print("{}: seed {}, {} inputs, {} taken\n", target.name, seed, outcome.inputs,
             outcome.taken);
  std::fflush(stdout);
  if (!outcome.finding) return true;
  const std::string path =
      fmt::format("fuzz-{}-{}-{}.bin", target.name, seed, outcome.finding->number);
  std::ofstream(path, std::ios::binary) << outcome.finding->input;
  fmt::print("{}: input {} {}; it is in {}\n", target.name, outcome.finding->number,
             outcome.finding->what, path);
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  std::map<std::string, std::string> options = {{"--target", ""},
                                                {"--seconds", "1e9"},
                                                {"--inputs", "18446744073709551615"},
                                                {"--seed", "1"},
                                                {"--first", "0"}};
  for (int i = 1; i < argc; i += 2) {
    if (i + 1 == argc || options.count(argv[i]) == 0) {
      fmt::print(stderr, "fuzz: \"{}\" is not understood\n", argv[i]);
      return static_cast<int>(ExitCode::kConfig);
    }
    options[argv[i]] = argv[i + 1];
  }
  const auto number = [&](const char* name) {
    return std::strtoull(options[name].c_str(), nullptr, 10);
  };
  const Limits limits{.seconds = std::strtod(options["--seconds"].c_str(), nullptr),
                      .inputs = number("--inputs"),
                      .first = number("--first")};
  bool is_good = true, is_known = false;
  for (const Target& target : all_targets()) {
    if (!options["--target"].empty() && options["--target"] != target.name) continue;
    is_known = true;
    is_good = run_target(target, number("--seed"), limits) && is_good;
  }
  if (!is_known) fmt::print(stderr, "fuzz: no target \"{}\"\n", options["--target"]);
  return is_good && is_known ? 0 : 1;
}
