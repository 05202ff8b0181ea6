// Who is to blame, from the pages of four ranks in a square: dp groups {0, 1} and {2, 3}, pp groups
// {0, 2} and {1, 3}, and world.
#include <map>

#include "support/catch.h"
#include "train/hang_diagnosis.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

constexpr int kWorld = 0, kDp = 1, kPp = 2;  // places in every page

// Who is where: by default everybody has made `done` calls in each group.
struct Square {
  explicit Square(int64_t done = 5) {
    for (int rank = 0; rank < 4; ++rank) {
      RankEvidence& one = ranks[static_cast<size_t>(rank)];
      one.is_known = one.answers = true;
      ProgressHead& head = one.head;
      head.rank = rank;
      head.num_ranks = 4;
      head.num_layers = 2;
      head.pid = 1000 + rank;
      head.host = {'n', 'o', 'd', 'e'};
      head.num_groups = 3;
      head.groups[0] = {.id = 1, .rank = rank, .size = 4, .started = done, .name = {'w'}};
      head.groups[1] = {.id = 10 + static_cast<uint64_t>(rank / 2),
                        .rank = rank % 2,
                        .size = 2,
                        .started = done,
                        .name = {'d', 'p'}};
      head.groups[2] = {.id = 20 + static_cast<uint64_t>(rank % 2),
                        .rank = rank / 2,
                        .size = 2,
                        .started = done,
                        .name = {'p', 'p'}};
      head.step = 3;
      head.phase = RunPhase::kForward;
      head.unit = 2;
    }
  }

  ProgressHead& head(int rank) { return ranks[static_cast<size_t>(rank)].head; }

  // The rank has made call `sequence` of a group and waits in it, lastly for `missing`.
  Square& in(int rank, int group, CallKind kind, int64_t sequence, int64_t missing = -1,
             int64_t reached = 0) {
    head(rank).groups[static_cast<size_t>(group)].started = sequence;
    head(rank).waits_for = {.group = group, .kind = kind, .sequence = sequence, .bytes = 64};
    head(rank).missing_peer = missing;
    head(rank).reached = reached;
    return *this;
  }

  // The rank waits for the message with this number of its pp neighbour.
  Square& receives(int rank, int64_t number) {
    in(rank, kPp, CallKind::kSendReceive, 40 + number, 1 - rank / 2);
    head(rank).groups[kPp].started = 5;
    head(rank).waits_for.receives[0] = {.peer = 1 - rank / 2, .number = number};
    return *this;
  }
  Square& has_sent(int rank, int64_t number) {
    head(rank).num_channels = 1;
    head(rank).channels[0] = {.group = kPp, .peer = 1 - rank / 2, .sent = number};
    return *this;
  }

  std::array<RankEvidence, 4> ranks;
};

}  // namespace

TEST_CASE("a rank that does not answer is to blame, whatever the others wait for") {
  Square square;
  for (const int rank : {0, 1, 3}) square.in(rank, kWorld, CallKind::kAllGatherHost, 6, 2);
  square.ranks[2].answers = false;
  square.ranks[2].process_state = 'T';
  Diagnosis diagnosis = diagnose_hang(square.ranks);
  CHECK(diagnosis.culprits == std::vector<int>{2});
  CHECK(diagnosis.text ==
        "rank 2 on node is stopped (process 1002), at step 3, forward, layer 1, in no collective; "
        "rank 0 waits for it in w all_gather_host #6 (64 bytes)");

  square.in(2, kWorld, CallKind::kAllGatherHost, 6);  // stopped inside the call
  diagnosis = diagnose_hang(square.ranks);
  CHECK(diagnosis.culprits == std::vector<int>{2});
  CHECK_THAT(diagnosis.text, contains_text("layer 1, in w all_gather_host #6 (64 bytes)"));

  square.ranks[2].process_state = '-';
  CHECK_THAT(diagnose_hang(square.ranks).text, contains_text("is gone (process 1002)"));
  square.ranks[2].process_state = '?';  // on another host
  CHECK_THAT(diagnose_hang(square.ranks).text, contains_text("does not answer"));
  square.ranks[2].is_known = false;
  diagnosis = diagnose_hang(square.ranks);
  CHECK(diagnosis.culprits == std::vector<int>{2});
  CHECK_THAT(diagnosis.text, contains_text("rank 2 has left no page"));
}

TEST_CASE("a rank that answers, but stopped since, does not count as answering") {
  Square square;
  for (const int rank : {0, 1, 3}) square.in(rank, kWorld, CallKind::kAllReduce, 6);
  square.in(2, kWorld, CallKind::kAllReduce, 6);
  square.ranks[2].process_state = 'T';
  CHECK(diagnose_hang(square.ranks).culprits == std::vector<int>{2});
}

TEST_CASE("a rank that waits for nobody is to blame") {
  Square square;
  square.in(0, kDp, CallKind::kAllReduce, 6, 1);
  square.receives(2, 3).receives(3, 3);
  const Diagnosis diagnosis = diagnose_hang(square.ranks);
  CHECK(diagnosis.culprits == std::vector<int>{1});
  CHECK(diagnosis.text ==
        "rank 1 on node runs without progress at step 3, forward, layer 1, in no collective; rank "
        "0 waits for it in dp all_reduce #6 (64 bytes)");
}

TEST_CASE(
    "a rank that never comes back from inside a call is to blame, not who misses its message") {
  Square square;  // 0 lacks something of 1, which has called, but does not poll
  square.in(0, kDp, CallKind::kAllReduce, 6, 1).in(1, kDp, CallKind::kAllReduce, 6, 0);
  square.in(2, kWorld, CallKind::kSplit, 6).in(3, kWorld, CallKind::kSplit, 6);
  for (int rank = 0; rank < 4; ++rank) {
    square.head(rank).progressed_ns = square.head(rank).polled_ns = 1'000'000'000;
    square.head(rank).heartbeat_ns = 31'000'000'000;
  }
  square.head(0).polled_ns = 30'900'000'000;
  const Diagnosis diagnosis = diagnose_hang(square.ranks);
  CHECK(diagnosis.culprits == std::vector<int>{1});
  CHECK(diagnosis.text ==
        "rank 1 on node is stuck at step 3, forward, layer 1, in dp all_reduce #6 (64 bytes); rank "
        "0 waits for it in dp all_reduce #6 (64 bytes)");
}

TEST_CASE("a lost message is that of the rank that lacks it, not of those that wait for the rank") {
  Square square;  // the pipeline: 0 has sent its second message to 2, who never got it
  square.has_sent(0, 2).receives(2, 2).has_sent(2, 1);
  square.receives(0, 2);
  square.in(1, kDp, CallKind::kAllReduce, 6, 0);
  square.in(3, kDp, CallKind::kAllReduce, 6, 0);
  const Diagnosis diagnosis = diagnose_hang(square.ranks);
  CHECK(diagnosis.culprits == std::vector<int>{2});
  CHECK(diagnosis.text ==
        "rank 2 on node waits at step 3, forward, layer 1, in pp send_receive #42 (64 bytes) for a "
        "message that rank 0 has sent: it was lost");
}

TEST_CASE("a message lost between hosts names all ranks of both: one of them may be cut off") {
  Square square;
  for (const int rank : {1, 2}) square.head(rank).host = {'f', 'a', 'r'};
  square.has_sent(0, 2).receives(2, 2).has_sent(2, 1);
  square.receives(0, 2);
  square.in(1, kDp, CallKind::kAllReduce, 6, 0);
  square.in(3, kDp, CallKind::kAllReduce, 6, 0);
  CHECK_THAT(diagnose_hang(square.ranks).text,
             contains_text("it was lost between node (rank 0, 3) and far (rank 1, 2)"));
}

TEST_CASE("a message lost in a collective is that of the rank in the earliest round") {
  Square square;  // all have called; 2 lacks something of 3, and nobody goes on without 2
  square.in(0, kWorld, CallKind::kAllReduce, 6, 2, 100);
  square.in(1, kWorld, CallKind::kAllReduce, 6, 2, 100);
  square.in(2, kWorld, CallKind::kAllReduce, 6, 3, 50);
  square.in(3, kWorld, CallKind::kAllReduce, 6, 2, 100);
  const Diagnosis diagnosis = diagnose_hang(square.ranks);
  CHECK(diagnosis.culprits == std::vector<int>{2});
  CHECK_THAT(diagnosis.text, contains_text("a message that rank 3 has sent: it was lost"));
}

TEST_CASE("ranks that call in unequal orders wait for each other") {
  Square square;
  square.in(0, kDp, CallKind::kAllReduce, 6, 1);
  square.in(1, kWorld, CallKind::kAllReduce, 6, 0);
  square.in(2, kWorld, CallKind::kAllReduce, 6, 0);
  square.in(3, kWorld, CallKind::kAllReduce, 6, 0);
  const Diagnosis diagnosis = diagnose_hang(square.ranks);
  CHECK(diagnosis.culprits == std::vector<int>{0, 1});
  CHECK_THAT(diagnosis.text, contains_text("ranks wait for each other: rank 0 on node at"));
  CHECK_THAT(diagnosis.text, contains_text("in dp all_reduce #6 (64 bytes) waits for rank 1"));
  CHECK_THAT(diagnosis.text, contains_text("in w all_reduce #6 (64 bytes) waits for rank 0"));
}

TEST_CASE("messages that nobody has sent close a circle, too") {
  Square square;
  square.receives(0, 1).receives(2, 1);
  square.in(1, kDp, CallKind::kAllReduce, 6, 0);
  square.in(3, kDp, CallKind::kAllReduce, 6, 0);
  CHECK(diagnose_hang(square.ranks).culprits == std::vector<int>{0, 2});
}

TEST_CASE("what cannot be seen is not guessed") {
  Square square;
  for (int rank = 0; rank < 4; ++rank) square.in(rank, kWorld, CallKind::kAllReduce, 6);
  const Diagnosis diagnosis = diagnose_hang(square.ranks);
  CHECK(diagnosis.culprits.empty());
  CHECK_THAT(diagnosis.text, contains_text("cannot be seen"));
}

TEST_CASE("a rank is described by its place, its wait and whom it waits for") {
  Square square;
  square.in(0, kDp, CallKind::kAllReduce, 6, 1);
  square.head(0).waits_since_ns = 1'000'000'000;
  square.head(0).heartbeat_ns = 6'200'000'000;
  CHECK(describe_rank(square.ranks, 0) ==
        "rank 0 on node: step 3, forward, layer 1, waits 5.2 s in dp all_reduce #6 (64 bytes) for "
        "rank 1");
  square.head(1).phase = RunPhase::kBackward;
  square.head(1).unit = 3;
  square.head(1).progressed_ns = 2'000'000'000;
  square.head(1).heartbeat_ns = 2'500'000'000;
  CHECK(describe_rank(square.ranks, 1) ==
        "rank 1 on node: step 3, backward, head, 0.5 s after its last mark, in no collective");
  square.head(1).unit = 0;
  CHECK(describe_place(square.head(1)) == "step 3, backward, embedding");
  square.ranks[3].is_known = false;
  CHECK(describe_rank(square.ranks, 3) == "rank 3: has left no page");
}
