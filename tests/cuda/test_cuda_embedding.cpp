// Embedding lookup and its gradient on CUDA.
#include "cuda/cuda_checks.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

struct Sizes {
  int64_t tokens, vocabulary, width;
};

// Which token has which id: all that the backward has to sort out.
enum class Ids { kRandom, kAllSame, kSkewed, kAllDifferent };

HostTensor<int32_t> make_ids(Ids kind, int64_t T, int64_t V) {
  HostTensor<int32_t> ids({T});
  const uint64_t key = random_key(9, "ids");
  for (int64_t t = 0; t < T; ++t) {
    const auto random = static_cast<int64_t>(random_uniform(key, static_cast<uint64_t>(t)) *
                                             static_cast<double>(V));
    const int64_t id = kind == Ids::kRandom    ? random
                       : kind == Ids::kAllSame ? V - 1
                       : kind == Ids::kSkewed  ? (random % 4 == 0 ? random : V / 2)
                                               : t % V;
    ids.values[static_cast<size_t>(t)] = static_cast<int32_t>(id);
  }
  return ids;
}

// Slice [begin, end) of the vocabulary.
template <typename Real>
Outputs lookup(Ops& ops, Placement& place, Sizes s, Ids kind, int64_t begin, int64_t end) {
  auto table = shared_random<Real>("table", {end - begin, s.width}),
       dy = shared_random<Real>("dy", {s.tokens, s.width});
  auto dtable = shared_random<Compute<Real>>("dtable", {end - begin, s.width});
  HostTensor<Real> y({s.tokens, s.width}, kUnset<Real>);
  auto ids = make_ids(kind, s.tokens, s.vocabulary);
  Tensor y_TD = place(y), dtable_VD = place(dtable), ids_T = place(ids);
  ops.embedding_forward(kQueue, y_TD, place(table), ids_T, begin, s.vocabulary);
  ops.embedding_backward(kQueue, dtable_VD, place(dy), ids_T, begin, s.vocabulary);
  place.fetch(y, y_TD);
  place.fetch(dtable, dtable_VD);
  return outputs(y, dtable);
}

void check_lookup(Sizes s, Ids kind, int64_t begin, int64_t end) {
  INFO(s.tokens << " tokens of " << s.width << ", ids " << static_cast<int>(kind) << ", slice ["
                << begin << ", " << end << ") of " << s.vocabulary);
  check_on_cuda(2e-6, [&](Ops& ops, Placement& place, auto zero) {
    return lookup<decltype(zero)>(ops, place, s, kind, begin, end);
  });
}

}  // namespace

TEST_CASE("rows of an embedding and their gradients") {
  for (const Sizes& s : {Sizes{0, 5, 8}, Sizes{1, 1, 1}, Sizes{31, 7, 3}, Sizes{32, 7, 8},
                         Sizes{33, 40, 1032}, Sizes{97, 5, 16}, Sizes{257, 1000, 5}})
    for (const Ids kind : {Ids::kRandom, Ids::kAllSame, Ids::kSkewed, Ids::kAllDifferent})
      check_lookup(s, kind, 0, s.vocabulary);
}

TEST_CASE("embeddings of more tokens than one block sorts") {
  // Tiles of 1024 tokens: one, one and a bit, three (which leaves one without a partner), five.
  for (const int64_t T : {1024, 1025, 2500, 4200}) check_lookup({T, 300, 2}, Ids::kRandom, 0, 300);
  check_lookup({2500, 300, 2}, Ids::kAllSame, 0, 300);
  check_lookup({2500, 300, 2}, Ids::kSkewed, 0, 300);
  check_lookup({2500, 3000, 2}, Ids::kAllDifferent, 0, 3000);
}

TEST_CASE("slices of an embedding know their rows alone") {
  for (const Ids kind : {Ids::kRandom, Ids::kAllSame, Ids::kSkewed})
    for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 3}, {3, 6}, {6, 7}, {7, 7}})
      check_lookup({150, 7, 8}, kind, begin, end);
}

TEST_CASE("an id outside the vocabulary gives a row that is not a number, and no gradient") {
  CudaDevice device(0);
  CudaOps ops(device);
  Placement place(device.stream({}));
  for (const int64_t D : {3, 8}) {
    auto table = random_tensor<float>("table", {4, D});
    HostTensor<float> y({5, D}), dy({5, D}, 1.0f), dtable({4, D}, 0.0f);
    auto ids = host_tensor<int32_t>({5}, {0, -1, 3, 6, 5});  // 5: of another slice
    Tensor y_TD = place(y), dtable_VD = place(dtable), ids_T = place(ids);
    ops.embedding_forward(kQueue, y_TD, place(table), ids_T, 0, 6);
    ops.embedding_backward(kQueue, dtable_VD, place(dy), ids_T, 0, 6);
    place.fetch(y, y_TD);
    place.fetch(dtable, dtable_VD);
    for (size_t i = 0; i < y.values.size(); ++i) {
      const auto width = static_cast<size_t>(D);
      const size_t token = i / width;
      CHECK(std::isnan(y.values[i]) == (token == 1 || token == 3));
      if (token == 4) CHECK(y.values[i] == 0);
      if (i < dtable.values.size()) CHECK(dtable.values[i] == (token == 0 || token == 3 ? 1 : 0));
    }
  }
}
