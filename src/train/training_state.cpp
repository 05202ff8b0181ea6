#include "train/training_state.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <string_view>

#include "core/error.h"

namespace switchyard {
namespace {

using Json = nlohmann::ordered_json;

// A JSON object of which every member is asked for once, and which has no others.
class Members {
 public:
  Members(const Json& json, std::string where, std::initializer_list<std::string_view> known)
      : json_(json), where_(std::move(where)) {
    SY_REQUIRE(kData, json.is_object(), "{}: found {}, expected an object", where_, json.dump());
    for (const auto& member : json.items())
      SY_REQUIRE(kData, std::ranges::find(known, member.key()) != known.end(),
                 "{}: unknown key \"{}\"; was this written by another version?", where_,
                 member.key());
  }

  std::string where(const char* key) const { return where_ + "." + key; }

  const Json& at(const char* key) const {
    const auto found = json_.find(key);
    SY_REQUIRE(kData, found != json_.end(), "{}: \"{}\" is missing", where_, key);
    return *found;
  }

  int64_t count(const char* key) const {
    const Json& value = at(key);
    SY_REQUIRE(
        kData,
        value.is_number_integer() && value <= std::numeric_limits<int64_t>::max() && value >= 0,
        "{}: found {}, expected an integer of at least 0", where(key), value.dump());
    return value.get<int64_t>();
  }

  std::string text(const char* key) const {
    const Json& value = at(key);
    SY_REQUIRE(kData, value.is_string(), "{}: found {}, expected a string", where(key),
               value.dump());
    return value.get<std::string>();
  }

  const Json& list(const char* key) const {
    const Json& value = at(key);
    SY_REQUIRE(kData, value.is_array(), "{}: found {}, expected a list", where(key), value.dump());
    return value;
  }

 private:
  const Json& json_;
  std::string where_;
};

SkippedSamples skipped_samples_from_json(const Json& json, const std::string& where) {
  const Members members(json, where, {"first", "count", "step", "reason"});
  return {.first = members.count("first"),
          .count = members.count("count"),
          .step = members.count("step"),
          .reason = members.text("reason")};
}

double loss_from_json(const Json& json, const std::string& where) {
  SY_REQUIRE(kData, json.is_number() && std::isfinite(json.get<double>()),
             "{}: found {}, expected a number", where, json.dump());
  return json.get<double>();
}

// What holds for the state of any run.
void check_consistent(const TrainingState& state, const std::string& where) {
  SY_REQUIRE(kData,
             state.updates <= state.step && state.skipped_steps <= state.step &&
                 state.updates + state.skipped_steps == state.step,
             "{}: {} updates and {} skipped steps do not make {} steps", where, state.updates,
             state.skipped_steps, state.step);
  SY_REQUIRE(kData, state.consecutive_skipped_steps <= state.skipped_steps,
             "{}: {} steps in a row were skipped, but only {} in all", where,
             state.consecutive_skipped_steps, state.skipped_steps);
}

}  // namespace

void pass_over(TrainingState& state, int64_t until, const std::string& reason) {
  SY_CHECK(until >= state.next_sample, "sample {} has been read: the next one is {}", until,
           state.next_sample);
  if (until == state.next_sample) return;
  state.skipped_samples.push_back({.first = state.next_sample,
                                   .count = until - state.next_sample,
                                   .step = state.step + 1,
                                   .reason = reason});
  state.next_sample = until;
}

Json to_json(const TrainingState& state) {
  Json skipped = Json::array();
  for (const SkippedSamples& samples : state.skipped_samples)
    skipped.push_back({{"first", samples.first},
                       {"count", samples.count},
                       {"step", samples.step},
                       {"reason", samples.reason}});
  return {{"step", state.step},
          {"next_sample", state.next_sample},
          {"tokens", state.tokens},
          {"updates", state.updates},
          {"skipped_steps", state.skipped_steps},
          {"consecutive_skipped_steps", state.consecutive_skipped_steps},
          {"accepted_losses", state.accepted_losses},
          {"skipped_samples", skipped},
          {"dataset", state.dataset}};
}

TrainingState training_state_from_json(const Json& json, const std::string& where) {
  const Members members(
      json, where,
      {"step", "next_sample", "tokens", "updates", "skipped_steps", "consecutive_skipped_steps",
       "accepted_losses", "skipped_samples", "dataset"});
  TrainingState state = {.step = members.count("step"),
                         .next_sample = members.count("next_sample"),
                         .tokens = members.count("tokens"),
                         .updates = members.count("updates"),
                         .skipped_steps = members.count("skipped_steps"),
                         .consecutive_skipped_steps = members.count("consecutive_skipped_steps"),
                         .dataset = members.text("dataset")};
  for (const Json& loss : members.list("accepted_losses"))
    state.accepted_losses.push_back(loss_from_json(loss, members.where("accepted_losses")));
  for (const Json& samples : members.list("skipped_samples"))
    state.skipped_samples.push_back(
        skipped_samples_from_json(samples, members.where("skipped_samples")));
  check_consistent(state, where);
  return state;
}

}  // namespace switchyard
