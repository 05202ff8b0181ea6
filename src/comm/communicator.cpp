#include "comm/communicator.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace switchyard {
namespace {

int64_t sum_of(std::span<const int64_t> values) {
  return std::accumulate(values.begin(), values.end(), int64_t{0});
}

int64_t smallest_of(std::span<const int64_t> values) {
  return *std::min_element(values.begin(), values.end());
}

template <typename T>
Tensor view_of(std::span<T> values) {
  return {values.data(), DTypeOf<T>::value, {static_cast<int64_t>(values.size())}};
}

Tensor view_of(std::string& bytes) {
  return {bytes.data(), DType::kU8, {static_cast<int64_t>(bytes.size())}};
}

std::string describe(Tensor tensor) {
  return tensor.is_none() ? "no tensor"
                          : fmt::format("{} {}", name_of(tensor.dtype()), tensor.shape_string());
}

// Same type, and equal in every dimension but the first.
bool same_rows(Tensor a, Tensor b) {
  return a.dtype() == b.dtype() && a.rank() >= 1 && b.rank() == a.rank() &&
         std::equal(a.shape().begin() + 1, a.shape().end(), b.shape().begin() + 1);
}

}  // namespace

std::string Communicator::who() const {
  return fmt::format("{} (rank {} of {})", name_, rank_, size_);
}

std::unique_ptr<Communicator> Communicator::split(int color, int key, std::string name) {
  SY_CHECK(color >= 0, "{}: split with color {}, which must not be negative", who(), color);
  return do_split(color, key, std::move(name));
}

Event Communicator::all_reduce_sum(Tensor x, Event after) {
  SY_CHECK(!x.is_none() && x.dtype() != DType::kU8, "{}: all_reduce_sum of {}", who(), describe(x));
  // What any all-reduce must send at least: a reduce-scatter and an all-gather of the other parts.
  traffic_.other_bytes += 2 * x.bytes() * (size_ - 1) / size_;
  return do_all_reduce_sum(x, after);
}

Event Communicator::reduce_scatter_sum(Tensor out, Tensor input, Event after) {
  SY_CHECK(!out.is_none() && !input.is_none() && out.dtype() == input.dtype() &&
               out.dtype() != DType::kU8 && input.numel() == out.numel() * size_,
           "{}: reduce_scatter_sum of {} into slices of {}", who(), describe(input), describe(out));
  traffic_.other_bytes += out.bytes() * (size_ - 1);
  return do_reduce_scatter_sum(out, input, after);
}

Event Communicator::all_gather(Tensor out, Tensor input, Event after) {
  SY_CHECK(!out.is_none() && !input.is_none() && out.dtype() == input.dtype() &&
               out.numel() == input.numel() * size_,
           "{}: all_gather of {} from each rank into {}", who(), describe(input), describe(out));
  traffic_.other_bytes += input.bytes() * (size_ - 1);
  return do_all_gather(out, input, after);
}

Event Communicator::all_to_all(Tensor out, std::span<const int64_t> receive_rows, Tensor input,
                               std::span<const int64_t> send_rows, Event after) {
  const auto ranks = static_cast<size_t>(size_);
  SY_CHECK(receive_rows.size() == ranks && send_rows.size() == ranks,
           "{}: all_to_all with {} receive and {} send counts", who(), receive_rows.size(),
           send_rows.size());
  SY_CHECK(same_rows(out, input), "{}: all_to_all of rows of {} into rows of {}", who(),
           describe(input), describe(out));
  SY_CHECK(std::min(smallest_of(receive_rows), smallest_of(send_rows)) >= 0 &&
               sum_of(send_rows) == input.dim(0) && sum_of(receive_rows) == out.dim(0),
           "{}: all_to_all sends ({}) rows of {} and receives ({}) into {}", who(),
           fmt::join(send_rows, ", "), describe(input), fmt::join(receive_rows, ", "),
           describe(out));
  const int64_t kept_rows = send_rows[static_cast<size_t>(rank_)];
  traffic_.all_to_all_bytes += input.bytes() - input.rows(0, kept_rows).bytes();
  return do_all_to_all(out, receive_rows, input, send_rows, after);
}

Event Communicator::broadcast(Tensor x, int root, Event after) {
  SY_CHECK(!x.is_none(), "{}: broadcast of no tensor", who());
  check_member("broadcast from", root);
  if (rank_ == root) traffic_.other_bytes += x.bytes() * (size_ - 1);
  return do_broadcast(x, root, after);
}

Event Communicator::send_receive(std::span<const Message> sends, std::span<const Message> receives,
                                 Event after) {
  for (const auto& messages : {sends, receives}) {
    for (const Message& message : messages) {
      SY_CHECK(!message.tensor.is_none(), "{}: a message without a tensor", who());
      check_member("a message with", message.peer);
    }
  }
  for (const Message& message : sends)
    if (message.peer != rank_) traffic_.other_bytes += message.tensor.bytes();
  return do_send_receive(sends, receives, after);
}

void Communicator::barrier() { all_gather_host(0); }

std::vector<int64_t> Communicator::all_gather_host(int64_t value) {
  std::vector<int64_t> values(static_cast<size_t>(size_));
  do_all_gather(view_of(std::span(values)), view_of(std::span(&value, 1)), {});
  return values;
}

std::vector<int64_t> Communicator::all_to_all_host(std::span<const int64_t> values) {
  SY_CHECK(values.size() % static_cast<size_t>(size_) == 0, "{}: all_to_all_host of {} values",
           who(), values.size());
  std::vector<int64_t> sent(values.begin(), values.end()), received(values.size());
  const std::vector<int64_t> counts(static_cast<size_t>(size_),
                                    static_cast<int64_t>(values.size()) / size_);
  do_all_to_all(view_of(std::span(received)), counts, view_of(std::span(sent)), counts, {});
  return received;
}

void Communicator::all_reduce_sum_host(std::span<double> values) {
  std::vector<double> gathered(values.size() * static_cast<size_t>(size_));
  do_all_gather(view_of(std::span(gathered)), view_of(values), {});
  std::copy_n(gathered.begin(), values.size(), values.begin());
  for (size_t i = values.size(); i < gathered.size(); ++i) values[i % values.size()] += gathered[i];
}

double Communicator::all_reduce_max_host(double value) {
  std::vector<double> values(static_cast<size_t>(size_));
  do_all_gather(view_of(std::span(values)), view_of(std::span(&value, 1)), {});
  return std::accumulate(values.begin(), values.end(), values[0],
                         [](double max, double x) { return x > max || std::isnan(x) ? x : max; });
}

void Communicator::broadcast_host(std::string& bytes, int root) {
  check_member("broadcast_host from", root);
  auto length = static_cast<int64_t>(bytes.size());
  do_broadcast(view_of(std::span(&length, 1)), root, {});
  bytes.resize(static_cast<size_t>(length));
  do_broadcast(view_of(bytes), root, {});
}

std::vector<std::string> Communicator::gather_host(const std::string& bytes, int root) {
  check_member("gather_host on", root);
  const std::vector<int64_t> lengths = all_gather_host(static_cast<int64_t>(bytes.size()));
  std::vector<int64_t> send_bytes(static_cast<size_t>(size_), 0), receive_bytes = send_bytes;
  send_bytes[static_cast<size_t>(root)] = static_cast<int64_t>(bytes.size());
  if (rank_ == root) receive_bytes = lengths;
  std::string sent = bytes, received(static_cast<size_t>(sum_of(receive_bytes)), '\0');
  do_all_to_all(view_of(received), receive_bytes, view_of(sent), send_bytes, {});

  std::vector<std::string> parts;
  if (rank_ != root) return parts;
  size_t begin = 0;
  for (const int64_t length : lengths) {
    parts.push_back(received.substr(begin, static_cast<size_t>(length)));
    begin += static_cast<size_t>(length);
  }
  return parts;
}

void Communicator::check_member(const char* what, int peer) const {
  SY_CHECK(peer >= 0 && peer < size_, "{}: {} rank {}, which is not in the group", who(), what,
           peer);
}

}  // namespace switchyard
