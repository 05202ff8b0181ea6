#include "deferred/collective_order.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>
#include <tuple>

namespace switchyard::test {
namespace {

// The n-th use of one thing that two ranks have in common: a communicator, or the messages from one
// to the other in it.
struct Meeting {
  std::string communicator;
  int from = 0, to = 0;  // of messages; collectives: 0, 0
  int number = 0;

  bool operator<(const Meeting& other) const {
    return std::tie(communicator, from, to, number) <
           std::tie(other.communicator, other.from, other.to, other.number);
  }
};
struct Partner {
  int rank;
  Meeting meeting;
};

// Each rank goes through its list; an entry is over when all its partners have come to theirs.
class Walk {
 public:
  explicit Walk(const IssuedByRank& ranks) : ranks_(ranks), next_(ranks.size(), 0) {
    for (int rank = 0; rank < static_cast<int>(ranks.size()); ++rank) list_meetings(rank);
  }

  // False when no rank could move.
  bool move() {
    bool has_moved = false;
    for (int rank = 0; rank < static_cast<int>(ranks_.size()); ++rank)
      while (!is_done(rank) && missing(rank).empty()) {
        ++next_[static_cast<size_t>(rank)];
        has_moved = true;
      }
    return has_moved;
  }

  std::string describe() const {
    std::string text;
    for (int rank = 0; rank < static_cast<int>(ranks_.size()); ++rank) {
      if (is_done(rank)) continue;
      const IssuedCollective& entry =
          ranks_[static_cast<size_t>(rank)][next_[static_cast<size_t>(rank)]];
      text += fmt::format("rank {} is in {} of {}, waiting for rank {}\n", rank, entry.call,
                          entry.communicator, fmt::join(missing(rank), ", "));
    }
    return text;
  }

 private:
  void list_meetings(int rank) {
    std::map<std::tuple<std::string, int, int>, int> counts;
    auto& partners = partners_.emplace_back();
    const std::vector<IssuedCollective>& entries = ranks_[static_cast<size_t>(rank)];
    for (size_t i = 0; i < entries.size(); ++i) {
      auto& of_entry = partners.emplace_back();
      const auto meet = [&](int from, int to) {
        const Meeting meeting = {entries[i].communicator, from, to,
                                 counts[{entries[i].communicator, from, to}]++};
        places_[{rank, meeting}] = i;
        return meeting;
      };
      if (!entries[i].members.empty()) {
        const Meeting meeting = meet(0, 0);
        for (const int member : entries[i].members) of_entry.push_back({member, meeting});
      }
      for (const int to : entries[i].sends_to) of_entry.push_back({to, meet(rank, to)});
      for (const int from : entries[i].receives_from) of_entry.push_back({from, meet(from, rank)});
    }
  }

  bool is_done(int rank) const {
    return next_[static_cast<size_t>(rank)] == ranks_[static_cast<size_t>(rank)].size();
  }

  std::vector<int> missing(int rank) const {
    std::vector<int> missing;
    for (const auto& [partner, meeting] :
         partners_[static_cast<size_t>(rank)][next_[static_cast<size_t>(rank)]]) {
      const auto place = places_.find({partner, meeting});
      if (place == places_.end() || place->second > next_[static_cast<size_t>(partner)])
        missing.push_back(partner);
    }
    return missing;
  }

  const IssuedByRank& ranks_;
  std::vector<size_t> next_;                                 // by rank: where it is
  std::vector<std::vector<std::vector<Partner>>> partners_;  // by rank and entry
  std::map<std::pair<int, Meeting>, size_t> places_;         // in the rank's list
};

}  // namespace

std::string find_standstill(const IssuedByRank& ranks) {
  Walk walk(ranks);
  while (walk.move()) {
  }
  return walk.describe();
}

}  // namespace switchyard::test
