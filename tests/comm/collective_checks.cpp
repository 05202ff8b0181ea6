#include "comm/collective_checks.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "support/host_tensor.h"

namespace switchyard::test {
namespace {

// Empty, one element, fewer than ranks, odd, and more than one piece of a transport.
constexpr int64_t kLarge = 1'000'003;
constexpr int64_t kSizes[] = {0, 1, 3, 1'001, kLarge};

// Tells element i of each rank from every other nearby.
template <typename T>
T coded(int64_t rank, int64_t i) {
  return static_cast<T>(sizeof(T) == 1 ? (rank * 37 + i) % 251 : rank * 1000 + i % 997);
}

// The same, but small enough for exact sums in f32, and no two sets of ranks have equal sums.
template <typename T>
T summand(int rank, int64_t i) {
  return static_cast<T>((int64_t{1} << rank) * (1 + i % 997));
}

template <typename T>
T sum_of_summands(int size, int64_t i) {
  return static_cast<T>(((int64_t{1} << size) - 1) * (1 + i % 997));
}

template <typename T, typename Expected>
void expect_values(const char* what, const HostTensor<T>& tensor, const Expected& expected) {
  for (size_t i = 0; i < tensor.values.size(); ++i) {
    const T value = expected(static_cast<int64_t>(i));
    SY_CHECK(tensor.values[i] == value, "{} of {}: element {} is {}, not {}", what,
             name_of(DTypeOf<T>::value), i, tensor.values[i], value);
  }
}

template <typename T, typename Value>
HostTensor<T> filled(int64_t size, const Value& value) {
  HostTensor<T> tensor({size});
  for (int64_t i = 0; i < size; ++i) tensor.values[static_cast<size_t>(i)] = value(i);
  return tensor;
}

template <typename T>
void check_sums(Communicator& group, Backend& backend, int64_t size) {
  const int P = group.size(), me = group.rank();
  auto x = filled<T>(size, [&](int64_t i) { return summand<T>(me, i); });
  backend.host_wait(group.all_reduce_sum(x));
  expect_values("all_reduce_sum", x, [&](int64_t i) { return sum_of_summands<T>(P, i); });

  auto input = filled<T>(size * P, [&](int64_t i) { return summand<T>(me, i); });
  HostTensor<T> out({size});
  backend.host_wait(group.reduce_scatter_sum(out, input));
  const auto expected = [&](int64_t i) { return sum_of_summands<T>(P, me * size + i); };
  expect_values("reduce_scatter_sum", out, expected);
  expect_values("input of reduce_scatter_sum", input, [&](int64_t i) { return summand<T>(me, i); });

  const Tensor my_slice = input.view().rows(me * size, size);
  backend.host_wait(group.reduce_scatter_sum(my_slice, input));
  const auto in_place = filled<T>(size, [&](int64_t i) { return my_slice.data<T>()[i]; });
  expect_values("reduce_scatter_sum in place", in_place, expected);
}

// Ranks own 0, 1, 2, 0, 1, ... times `scale` rows.
std::vector<int64_t> uneven_rows(int size, int64_t scale) {
  std::vector<int64_t> rows;
  for (int r = 0; r < size; ++r) rows.push_back(r % 3 * scale);
  return rows;
}

template <typename T>
void check_rows(Communicator& group, Backend& backend, int64_t scale) {
  constexpr int64_t kWidth = 3;
  const int P = group.size(), me = group.rank();
  const std::vector<int64_t> rows = uneven_rows(P, scale);
  const int64_t first = std::reduce(rows.begin(), rows.begin() + me);
  const int64_t total = std::reduce(rows.begin(), rows.end());
  const auto mine_of = [&](HostTensor<T>& all) { return all.view().rows(first, rows[me]); };

  HostTensor<T> all({total, kWidth}), mine({rows[me], kWidth});
  for (size_t i = 0; i < mine.values.size(); ++i)
    mine.values[i] = coded<T>(0, first * kWidth + static_cast<int64_t>(i));
  const auto gathered = [](int64_t i) { return coded<T>(0, i); };
  backend.host_wait(group.all_gather_rows(all, mine, rows));
  expect_values("all_gather_rows", all, gathered);
  std::fill(all.values.begin(), all.values.end(), T{});
  std::copy(mine.values.begin(), mine.values.end(), mine_of(all).template data<T>());
  backend.host_wait(group.all_gather_rows(all, mine_of(all), rows));
  expect_values("all_gather_rows in place", all, gathered);

  const auto total_of = [&](int64_t i) { return sum_of_summands<T>(P, first * kWidth + i); };
  for (size_t i = 0; i < all.values.size(); ++i)
    all.values[i] = summand<T>(me, static_cast<int64_t>(i));
  const auto input = all;
  backend.host_wait(group.reduce_scatter_rows(mine, all, rows));
  expect_values("reduce_scatter_rows", mine, total_of);
  SY_CHECK(all.values == input.values, "reduce_scatter_rows changes its input");
  const Tensor in_place = mine_of(all);
  backend.host_wait(group.reduce_scatter_rows(in_place, all, rows));
  std::copy_n(in_place.data<T>(), in_place.numel(), mine.values.begin());
  expect_values("reduce_scatter_rows in place", mine, total_of);
}

// Sums of bf16 are exact to half a unit in the last place of the result, however many ranks add:
// terms of both signs, which lose far more when each addition is rounded.
void check_bf16_sums(Communicator& group, Backend& backend, int64_t size) {
  const int P = group.size(), me = group.rank();
  const auto term = [](int rank, int64_t i) {
    const auto k = static_cast<float>((i * 31 + rank * 17) % 257 - 128);
    return BFloat16(k * (rank % 2 == 0 ? 1.0f : 1.0f / 64));
  };
  const auto check = [&](const char* what, BFloat16 value, int64_t i) {
    double sum = 0;
    for (int rank = 0; rank < P; ++rank)
      sum += static_cast<double>(static_cast<float>(term(rank, i)));
    const double error = std::abs(static_cast<double>(static_cast<float>(value)) - sum);
    SY_CHECK(error <= std::abs(sum) / 256, "{} of bf16: element {} is {}, not {}", what, i,
             static_cast<float>(value), sum);
  };
  HostTensor<BFloat16> x({size});
  for (int64_t i = 0; i < size; ++i) x.values[static_cast<size_t>(i)] = term(me, i);
  const std::vector<int64_t> rows = [&] {
    std::vector<int64_t> counts(P, size / P);
    counts.back() += size % P;
    return counts;
  }();
  HostTensor<BFloat16> mine({rows[me]});
  backend.host_wait(group.reduce_scatter_rows(mine, x, rows));
  for (int64_t i = 0; i < rows[me]; ++i)
    check("reduce_scatter_rows", mine.values[static_cast<size_t>(i)], me * (size / P) + i);
  backend.host_wait(group.all_reduce_sum(x));
  for (int64_t i = 0; i < size; ++i) check("all_reduce_sum", x.values[static_cast<size_t>(i)], i);
}

// Numbers whose sum depends on the order: 1e16 + 1 - 1e16 + 1 ... (The products are exact, so that
// a fused multiply-add gives the same.)
void check_order_of_sums(Communicator& group, Backend& backend) {
  const auto term = [](int rank, int64_t i) {
    return (rank % 2 == 0 ? (rank % 4 == 0 ? 1e16 : -1e16) : 1.0) + 0.125 * static_cast<double>(i);
  };
  const auto sum = [&](int64_t i) {
    double total = term(0, i);
    for (int rank = 1; rank < group.size(); ++rank) total += term(rank, i);
    return total;
  };
  auto x = filled<double>(1'000, [&](int64_t i) { return term(group.rank(), i); });
  auto on_host = x;
  backend.host_wait(group.all_reduce_sum(x));
  expect_values("all_reduce_sum in rank order", x, sum);
  group.all_reduce_sum_host(on_host.values);
  expect_values("all_reduce_sum_host in rank order", on_host, sum);
}

template <typename T>
void check_copies(Communicator& group, Backend& backend, int64_t size) {
  const int P = group.size(), me = group.rank();
  auto mine = filled<T>(size, [&](int64_t i) { return coded<T>(me, i); });
  const auto gathered = [&](int64_t i) { return coded<T>(i / size, i % size); };
  HostTensor<T> out({P * size});
  backend.host_wait(group.all_gather(out, mine));
  expect_values("all_gather", out, gathered);

  HostTensor<T> in_place({P * size});
  const Tensor my_part = in_place.view().rows(me * size, size);
  std::copy(mine.values.begin(), mine.values.end(), my_part.data<T>());
  backend.host_wait(group.all_gather(in_place, my_part));
  expect_values("all_gather in place", in_place, gathered);

  for (int root = 0; root < P; ++root) {
    auto x = mine;
    backend.host_wait(group.broadcast(x, root));
    expect_values("broadcast", x, [&](int64_t i) { return coded<T>(root, i); });
  }
}

// Rank `from` sends this many rows to rank `to`: some none, every third rank none to anybody.
int64_t rows_between(int from, int to, int64_t scale) {
  return from % 3 == 1 ? 0 : scale * ((from + 2 * to) % 4);
}

template <typename T>
void check_all_to_all(Communicator& group, Backend& backend, int64_t scale) {
  constexpr int64_t kWidth = 3;
  const int P = group.size(), me = group.rank();
  const auto value = [](int from, int to, int64_t i) { return coded<T>(from * 10 + to, i); };
  std::vector<int64_t> send_rows, receive_rows;
  for (int peer = 0; peer < P; ++peer) {
    send_rows.push_back(rows_between(me, peer, scale));
    receive_rows.push_back(rows_between(peer, me, scale));
  }
  HostTensor<T> input({std::reduce(send_rows.begin(), send_rows.end()), kWidth});
  HostTensor<T> out({std::reduce(receive_rows.begin(), receive_rows.end()), kWidth});
  std::vector<T> expected;
  size_t begin = 0;
  for (int peer = 0; peer < P; ++peer) {
    for (int64_t i = 0; i < send_rows[peer] * kWidth; ++i)
      input.values[begin++] = value(me, peer, i);
    for (int64_t i = 0; i < receive_rows[peer] * kWidth; ++i)
      expected.push_back(value(peer, me, i));
  }
  backend.host_wait(group.all_to_all(out, receive_rows, input, send_rows));
  expect_values("all_to_all", out, [&](int64_t i) { return expected[i]; });
}

// To every rank, itself too, two messages of different lengths and types (rank 0's are empty).
void check_send_receive(Communicator& group, Backend& backend, int64_t scale) {
  const int P = group.size(), me = group.rank();
  const auto length = [&](int from, int to) { return scale * from * (to + 1); };
  std::vector<HostTensor<float>> sent_first, received_first;
  std::vector<HostTensor<int64_t>> sent_second, received_second;
  for (int peer = 0; peer < P; ++peer) {
    sent_first.push_back(filled<float>(length(me, peer),
                                       [&](int64_t i) { return coded<float>(me * 10 + peer, i); }));
    sent_second.push_back(filled<int64_t>(
        length(me, peer) / 2, [&](int64_t i) { return coded<int64_t>(500 + me * 10 + peer, i); }));
    received_first.emplace_back(std::initializer_list<int64_t>{length(peer, me)});
    received_second.emplace_back(std::initializer_list<int64_t>{length(peer, me) / 2});
  }
  std::vector<Message> sends, receives;
  for (int peer = 0; peer < P; ++peer) {
    sends.push_back({sent_first[peer], peer});
    sends.push_back({sent_second[peer], peer});
    receives.push_back({received_first[P - 1 - peer], P - 1 - peer});
    receives.push_back({received_second[P - 1 - peer], P - 1 - peer});
  }
  backend.host_wait(group.send_receive(sends, receives));
  for (int peer = 0; peer < P; ++peer) {
    expect_values("first message", received_first[peer],
                  [&](int64_t i) { return coded<float>(peer * 10 + me, i); });
    expect_values("second message", received_second[peer],
                  [&](int64_t i) { return coded<int64_t>(500 + peer * 10 + me, i); });
  }
}

void check_host_values(Communicator& group) {
  const int P = group.size(), me = group.rank();
  group.barrier();
  const std::vector<int64_t> gathered = group.all_gather_host(100 + me);
  const std::vector<int64_t> to_peers = [&] {
    std::vector<int64_t> values;
    for (int peer = 0; peer < P; ++peer)
      values.insert(values.end(), {me * 100 + peer, -(me * 100 + peer)});
    return values;
  }();
  const std::vector<int64_t> from_peers = group.all_to_all_host(to_peers);
  for (int peer = 0; peer < P; ++peer) {
    SY_CHECK(gathered[peer] == 100 + peer, "all_gather_host: {} of rank {}", gathered[peer], peer);
    SY_CHECK(
        from_peers[2 * peer] == peer * 100 + me && from_peers[2 * peer + 1] == -(peer * 100 + me),
        "all_to_all_host: {} of rank {}", from_peers[2 * peer], peer);
  }
  SY_CHECK(group.all_to_all_host({}).empty(), "all_to_all_host of nothing");

  std::vector<double> sums = {static_cast<double>(1 << me), 0.5};
  group.all_reduce_sum_host(sums);
  SY_CHECK(sums[0] == (1 << P) - 1 && sums[1] == 0.5 * P, "all_reduce_sum_host: {}", sums[0]);
  group.all_reduce_sum_host({});

  const double max = group.all_reduce_max_host(-5.0 - (me + 1) % P);
  SY_CHECK(max == -5.0, "all_reduce_max_host: {}", max);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  SY_CHECK(std::isnan(group.all_reduce_max_host(me == P / 2 ? nan : 1.0)), "a NaN must not hide");
}

void check_host_bytes(Communicator& group) {
  const int P = group.size(), me = group.rank();
  const auto text_of = [](int rank) {
    return std::string(rank % 3 * 700, static_cast<char>(rank));
  };
  for (int root = 0; root < P; ++root) {
    std::string bytes = text_of(me);
    group.broadcast_host(bytes, root);
    SY_CHECK(bytes == text_of(root), "broadcast_host from {}: {} bytes", root, bytes.size());
    const std::vector<std::string> parts = group.gather_host(text_of(me), root);
    SY_CHECK(parts.size() == (me == root ? static_cast<size_t>(P) : 0), "gather_host: {} parts",
             parts.size());
    for (size_t r = 0; r < parts.size(); ++r)
      SY_CHECK(parts[r] == text_of(static_cast<int>(r)), "gather_host: part of rank {}", r);
  }
}

}  // namespace

void check_collectives(Communicator& group, Backend& backend) {
  for (const int64_t size : kSizes) {
    check_sums<float>(group, backend, size);
    check_copies<float>(group, backend, size);
  }
  for (const int64_t size : {int64_t{0}, int64_t{7}, int64_t{150'001}}) {
    check_sums<double>(group, backend, size);
    check_sums<int32_t>(group, backend, size);
    check_sums<int64_t>(group, backend, size);
    check_copies<double>(group, backend, size);
    check_copies<int32_t>(group, backend, size);
    check_copies<int64_t>(group, backend, size);
    check_copies<uint8_t>(group, backend, size);
  }
  for (const int64_t scale : {0, 1, 400'000}) check_rows<float>(group, backend, scale);
  for (const int64_t scale : {1, 777}) {
    check_rows<double>(group, backend, scale);
    check_rows<int32_t>(group, backend, scale);
    check_rows<int64_t>(group, backend, scale);
  }
  for (const int64_t size : {0, 1, 10'007}) check_bf16_sums(group, backend, size);
  check_order_of_sums(group, backend);
  for (const int64_t scale : {0, 1, 25'000}) {
    check_all_to_all<float>(group, backend, scale);
    check_all_to_all<double>(group, backend, scale);
    check_all_to_all<int64_t>(group, backend, scale);
    check_all_to_all<uint8_t>(group, backend, scale);
  }
  for (const int64_t scale : {0, 1, 5'000}) check_send_receive(group, backend, scale);
  check_host_values(group);
  check_host_bytes(group);
}

void check_collectives_of_subgroups(Communicator& world, Backend& backend) {
  const int color = world.rank() % 2;
  const auto half = world.split(color, -world.rank(), color == 0 ? "even" : "odd");
  const std::vector<int64_t> members = half->all_gather_host(world.rank());
  SY_CHECK(half->size() == (world.size() + 1 - color) / 2, "{} ranks in a half", half->size());
  for (int r = 0; r < half->size(); ++r)
    SY_CHECK(members[r] == 2 * (half->size() - 1 - r) + color, "member {} is rank {}", r,
             members[r]);
  check_collectives(*half, backend);
  const auto quarter = half->split(half->rank() < half->size() / 2 ? 0 : 1, 0, "quarter");
  SY_CHECK(quarter->all_gather_host(half->rank())[quarter->rank()] == half->rank(),
           "equal keys keep the order of ranks");
  check_collectives(*quarter, backend);
  check_host_values(world);  // the parent still works
}

}  // namespace switchyard::test
