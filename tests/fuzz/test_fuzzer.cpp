// The fuzzer finds what it is there to find, names the input, and makes it again.
#include <unistd.h>

#include <csignal>
#include <ctime>
#include <set>
#include <stdexcept>
#include <vector>

#include "driver.h"
#include "mutator.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::fuzz;
using switchyard::test::contains_text;

namespace {

const std::vector<std::string> kCorpus = {R"({"a":[1,2],"b":"text"})", "another"};

// What is found when `act` meets an input without a quotation mark.
std::string finding_of(const std::function<void()>& act) {
  const Target target{.name = "test", .corpus = kCorpus, .take = [&](const std::string& input) {
                        if (input.find('"') == std::string::npos) act();
                      }};
  const Outcome outcome = fuzz::fuzz(target, 3, {.inputs = 1000, .seconds_each = 0.05});
  if (!outcome.finding) return "";
  CHECK(outcome.inputs == outcome.finding->number);
  CHECK(outcome.finding->input == mutated_input(kCorpus, 3, outcome.finding->number));
  CHECK(outcome.finding->input.find('"') == std::string::npos);
  return outcome.finding->what;
}

}  // namespace

TEST_CASE("fuzzer: what a target may do is no finding") {
  REQUIRE(finding_of([] {}).empty());
  REQUIRE(finding_of([] { throw Error(ExitCode::kData, "refused"); }).empty());
}

TEST_CASE("fuzzer: what it may not do is found") {
  REQUIRE_THAT(finding_of([] { throw Error(ExitCode::kInternal, "a bug"); }),
               contains_text("fails with code 70: a bug"));
  REQUIRE_THAT(finding_of([] { throw std::out_of_range("a bug"); }), contains_text("throws a bug"));
  REQUIRE_THAT(finding_of([] { throw Error(ExitCode::kData, std::string(200'000, 'x')); }),
               contains_text("out of proportion"));
  REQUIRE_THAT(finding_of([] { raise(SIGKILL); }), contains_text("is killed by signal 9"));
  REQUIRE_THAT(finding_of([] { _exit(3); }), contains_text("exits with 3"));
  REQUIRE_THAT(finding_of([] { pause(); }), contains_text("hangs"));
  REQUIRE_THAT(finding_of([] { std::vector<char> memory(70 << 20); }),
               contains_text("bytes of memory"));
  REQUIRE_THAT(finding_of([] {
                 const std::clock_t begin = std::clock();
                 while (std::clock() - begin < CLOCKS_PER_SEC / 10) continue;
               }),
               contains_text("takes 0.1 s"));
}

TEST_CASE("fuzzer: inputs follow from the seed, and are not all the same") {
  std::set<std::string> inputs;
  for (uint64_t number = 0; number < 1000; ++number) {
    inputs.insert(mutated_input(kCorpus, 1, number));
    CHECK(mutated_input(kCorpus, 1, number) == mutated_input(kCorpus, 1, number));
    CHECK(mutated_input(kCorpus, 1, number).size() <= kMaxInputBytes);
  }
  REQUIRE(inputs.size() > 800);
  REQUIRE(mutated_input(kCorpus, 1, 5) != mutated_input(kCorpus, 2, 5));
}
