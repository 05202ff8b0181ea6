#include "comm/communicator.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "comm/call_faults.h"
#include "core/fault.h"

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

int64_t elements_of_row(Tensor tensor) {
  return Tensor(nullptr, tensor.dtype(), tensor.shape().subspan(1)).numel();
}

std::vector<int64_t> times(std::span<const int64_t> values, int64_t factor) {
  std::vector<int64_t> products;
  for (const int64_t value : values) products.push_back(value * factor);
  return products;
}

// `copies` copies of `elements` elements of `dtype`.
void add(Payload& payload, DType dtype, int64_t elements, int64_t copies = 1) {
  payload.elements += elements * copies;
  payload.bytes += elements * copies * static_cast<int64_t>(size_in_bytes(dtype));
}

Payload operator-(const Payload& a, const Payload& b) {
  return {a.elements - b.elements, a.bytes - b.bytes};
}

Traffic operator-(const Traffic& a, const Traffic& b) {
  return {a.others - b.others, a.self - b.self};
}

// A number that depends on both, spread over all bits (the finalizer of splitmix64).
uint64_t mix(uint64_t a, uint64_t b) {
  uint64_t x = a + 0x9e37'79b9'7f4a'7c15 * (b + 1);
  x = (x ^ (x >> 30)) * 0xbf58'476d'1ce4'e5b9;
  x = (x ^ (x >> 27)) * 0x94d0'49bb'1331'11eb;
  return x ^ (x >> 31);
}

}  // namespace

TrafficReport operator-(const TrafficReport& now, const TrafficReport& before) {
  return {.all_to_all = now.all_to_all - before.all_to_all,
          .all_gather = now.all_gather - before.all_gather,
          .reduce_scatter = now.reduce_scatter - before.reduce_scatter,
          .all_reduce = now.all_reduce - before.all_reduce,
          .broadcast = now.broadcast - before.broadcast,
          .point_to_point = now.point_to_point - before.point_to_point};
}

std::string Communicator::who() const {
  return fmt::format("{} (rank {} of {})", name_, rank_, size_);
}

std::unique_ptr<Communicator> Communicator::split(int color, int key, std::string name) {
  SY_CHECK(color >= 0, "{}: split with color {}, which must not be negative", who(), color);
  begin_call(CallKind::kSplit, 0);  // MPI has no split that one could poll
  auto part = do_split(color, key, std::move(name));
  end_call({});
  part->id_ = mix(mix(id_, static_cast<uint64_t>(++num_splits_)), static_cast<uint64_t>(color));
  if (backend_ != nullptr) part->use(*backend_);
  return part;
}

void Communicator::use(Backend& backend) {
  backend_ = &backend;
  if (is_marked() && size_ > 1) group_ = backend.marks().add_group(id_, name_, rank_, size_);
}

// A group of one waits for nobody: nothing to mark.
void Communicator::begin_call(CallKind kind, int64_t bytes, std::span<const Message> sends,
                              std::span<const Message> receives) {
  SY_CHECK(std::this_thread::get_id() == owner_,
           "{}: {} is called by a thread that did not make the communicator", who(), name_of(kind));
  const int64_t sequence = kind == CallKind::kSendReceive ? ++num_exchanges_ : ++num_collectives_;
  call_at_hand_ = kind;
  if (backend_ == nullptr || !is_marked() || size_ == 1) return;
  fault_point(fault_points_of(kind).call);
  Progress& marks = backend_->marks();
  ProgressCall call = {.group = group_, .kind = kind, .sequence = sequence, .bytes = bytes};
  for (const Message& message : sends) {
    call.bytes += message.tensor.bytes();
    marks.message_sent(group_, message.peer);
  }
  size_t next = 0;
  for (const Message& message : receives) {
    call.bytes += message.tensor.bytes();
    const PeerMessage expected = marks.message_expected(group_, message.peer);
    if (next < call.receives.size()) call.receives[next++] = expected;
  }
  marks.call_begins(call);
}

Event Communicator::end_call(Event done) {
  if (backend_ != nullptr && is_marked() && size_ > 1)
    backend_->marks().call_returns(backend_->is_complete(done) ? 0 : done.ticket);
  return done;
}

Event Communicator::all_reduce_sum(Tensor x, Event after) {
  SY_CHECK(!x.is_none() && x.dtype() != DType::kU8, "{}: all_reduce_sum of {}", who(), describe(x));
  const int64_t slice = mine(slices_of(x.numel()));
  add(traffic_.all_reduce.others, x.dtype(), x.numel() - slice);
  add(traffic_.all_reduce.others, x.dtype(), slice, size_ - 1);
  add(traffic_.all_reduce.self, x.dtype(), slice, 2);
  begin_call(CallKind::kAllReduce, x.bytes());
  return end_call(do_all_reduce_sum(x, after));
}

Event Communicator::reduce_scatter_sum(Tensor out, Tensor input, Event after) {
  SY_CHECK(!out.is_none() && !input.is_none() && out.dtype() == input.dtype() &&
               out.dtype() != DType::kU8 && input.numel() == out.numel() * size_,
           "{}: reduce_scatter_sum of {} into slices of {}", who(), describe(input), describe(out));
  return reduce_scatter_counts(out.flat(), input.flat(), same_counts(out.numel()), after);
}

Event Communicator::all_gather(Tensor out, Tensor input, Event after) {
  SY_CHECK(!out.is_none() && !input.is_none() && out.dtype() == input.dtype() &&
               out.numel() == input.numel() * size_,
           "{}: all_gather of {} from each rank into {}", who(), describe(input), describe(out));
  return all_gather_counts(out.flat(), input.flat(), same_counts(input.numel()), after);
}

Event Communicator::reduce_scatter_rows(Tensor out, Tensor input, std::span<const int64_t> rows,
                                        Event after) {
  check_rows("reduce_scatter_rows", input, out, rows);
  SY_CHECK(out.dtype() != DType::kU8, "{}: reduce_scatter_rows of {}", who(), describe(input));
  return reduce_scatter_counts(out.flat(), input.flat(), times(rows, elements_of_row(out)), after);
}

Event Communicator::all_gather_rows(Tensor out, Tensor input, std::span<const int64_t> rows,
                                    Event after) {
  check_rows("all_gather_rows", out, input, rows);
  return all_gather_counts(out.flat(), input.flat(), times(rows, elements_of_row(out)), after);
}

Event Communicator::reduce_scatter_counts(Tensor out, Tensor input, std::span<const int64_t> counts,
                                          Event after) {
  add(traffic_.reduce_scatter.others, out.dtype(), input.numel() - out.numel());
  add(traffic_.reduce_scatter.self, out.dtype(), out.numel());
  begin_call(CallKind::kReduceScatter, input.bytes());
  return end_call(do_reduce_scatter_sum(out, input, counts, after));
}

Event Communicator::all_gather_counts(Tensor out, Tensor input, std::span<const int64_t> counts,
                                      Event after) {
  add(traffic_.all_gather.others, out.dtype(), input.numel(), size_ - 1);
  add(traffic_.all_gather.self, out.dtype(), input.numel());
  begin_call(CallKind::kAllGather, out.bytes());
  return end_call(do_all_gather(out, input, counts, after));
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
  const int64_t kept = mine(send_rows) * elements_of_row(input);
  add(traffic_.all_to_all.others, input.dtype(), input.numel() - kept);
  add(traffic_.all_to_all.self, input.dtype(), kept);
  begin_call(CallKind::kAllToAll, input.bytes() + out.bytes());
  return end_call(do_all_to_all(out, receive_rows, input, send_rows, after));
}

Event Communicator::broadcast(Tensor x, int root, Event after) {
  SY_CHECK(!x.is_none(), "{}: broadcast of no tensor", who());
  check_member("broadcast from", root);
  if (rank_ == root) {
    add(traffic_.broadcast.others, x.dtype(), x.numel(), size_ - 1);
    add(traffic_.broadcast.self, x.dtype(), x.numel());
  }
  begin_call(CallKind::kBroadcast, x.bytes());
  return end_call(do_broadcast(x, root, after));
}

Event Communicator::send_receive(std::span<const Message> sends, std::span<const Message> receives,
                                 Event after) {
  for (const auto& messages : {sends, receives}) {
    for (const Message& message : messages) {
      SY_CHECK(!message.tensor.is_none(), "{}: a message without a tensor", who());
      check_member("a message with", message.peer);
    }
  }
  Traffic& traffic = traffic_.point_to_point;
  for (const auto& [tensor, peer] : sends)
    add(peer == rank_ ? traffic.self : traffic.others, tensor.dtype(), tensor.numel());
  begin_call(CallKind::kSendReceive, 0, sends, receives);
  return end_call(do_send_receive(sends, receives, after));
}

void Communicator::finish(Event event) const {
  if (backend_ != nullptr) backend_->host_wait(event);
}

void Communicator::barrier() { all_gather_host(0); }

// out = `mine` of every rank, host values.
void Communicator::all_gather_values(Tensor out, Tensor mine) {
  Communicator& host = for_host_values();
  host.begin_call(CallKind::kAllGatherHost, out.bytes());
  host.finish(host.end_call(host.do_all_gather(out, mine, same_counts(mine.numel()), {})));
}

std::vector<int64_t> Communicator::all_gather_host(int64_t value) {
  std::vector<int64_t> values(static_cast<size_t>(size_));
  all_gather_values(view_of(std::span(values)), view_of(std::span(&value, 1)));
  return values;
}

std::vector<int64_t> Communicator::all_to_all_host(std::span<const int64_t> values) {
  SY_CHECK(values.size() % static_cast<size_t>(size_) == 0, "{}: all_to_all_host of {} values",
           who(), values.size());
  std::vector<int64_t> sent(values.begin(), values.end()), received(values.size());
  const std::vector<int64_t> counts = same_counts(static_cast<int64_t>(values.size()) / size_);
  Communicator& host = for_host_values();
  const Tensor out = view_of(std::span(received)), input = view_of(std::span(sent));
  host.begin_call(CallKind::kAllToAllHost, out.bytes() + input.bytes());
  host.finish(host.end_call(host.do_all_to_all(out, counts, input, counts, {})));
  return received;
}

void Communicator::all_reduce_sum_host(std::span<double> values) {
  std::vector<double> gathered(values.size() * static_cast<size_t>(size_));
  all_gather_values(view_of(std::span(gathered)), view_of(values));
  std::copy_n(gathered.begin(), values.size(), values.begin());
  for (size_t i = values.size(); i < gathered.size(); ++i) values[i % values.size()] += gathered[i];
}

double Communicator::all_reduce_max_host(double value) {
  std::vector<double> values(static_cast<size_t>(size_));
  all_gather_values(view_of(std::span(values)), view_of(std::span(&value, 1)));
  return std::accumulate(values.begin(), values.end(), values[0],
                         [](double max, double x) { return x > max || std::isnan(x) ? x : max; });
}

void Communicator::broadcast_host(std::string& bytes, int root) {
  check_member("broadcast_host from", root);
  auto length = static_cast<int64_t>(bytes.size());
  Communicator& host = for_host_values();
  const auto broadcast = [&](Tensor x) {
    host.begin_call(CallKind::kBroadcastHost, x.bytes());
    host.finish(host.end_call(host.do_broadcast(x, root, {})));
  };
  broadcast(view_of(std::span(&length, 1)));
  bytes.resize(static_cast<size_t>(length));
  broadcast(view_of(bytes));
}

std::vector<std::string> Communicator::gather_host(const std::string& bytes, int root) {
  check_member("gather_host on", root);
  const std::vector<int64_t> lengths = all_gather_host(static_cast<int64_t>(bytes.size()));
  std::vector<int64_t> send_bytes(static_cast<size_t>(size_), 0), receive_bytes = send_bytes;
  send_bytes[static_cast<size_t>(root)] = static_cast<int64_t>(bytes.size());
  if (rank_ == root) receive_bytes = lengths;
  std::string sent = bytes, received(static_cast<size_t>(sum_of(receive_bytes)), '\0');
  Communicator& host = for_host_values();
  const Tensor out = view_of(received), input = view_of(sent);
  host.begin_call(CallKind::kAllToAllHost, out.bytes() + input.bytes());
  host.finish(host.end_call(host.do_all_to_all(out, receive_bytes, input, send_bytes, {})));

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

// `parts` holds rows[r] rows of each rank r, `mine` those of this rank.
void Communicator::check_rows(const char* call, Tensor parts, Tensor my_part,
                              std::span<const int64_t> rows) const {
  SY_CHECK(rows.size() == static_cast<size_t>(size_), "{}: {} with {} counts of rows", who(), call,
           rows.size());
  SY_CHECK(same_rows(parts, my_part), "{}: {} of {} and {} (mine), whose rows differ", who(), call,
           describe(parts), describe(my_part));
  SY_CHECK(smallest_of(rows) >= 0 && sum_of(rows) == parts.dim(0) && mine(rows) == my_part.dim(0),
           "{}: {} of ({}) rows in {} and {} (mine)", who(), call, fmt::join(rows, ", "),
           describe(parts), describe(my_part));
}

std::vector<int64_t> Communicator::same_counts(int64_t count) const {
  return std::vector<int64_t>(static_cast<size_t>(size_), count);
}

std::vector<int64_t> Communicator::slices_of(int64_t n) const {
  std::vector<int64_t> counts;
  for (int r = 0; r < size_; ++r) counts.push_back(n * (r + 1) / size_ - n * r / size_);
  return counts;
}

Event Communicator::do_all_reduce_sum(Tensor x, Event after) {
  const std::vector<int64_t> counts = slices_of(x.numel());
  const Tensor flat = x.flat();
  const Tensor slice = flat.rows(x.numel() * rank_ / size_, mine(counts));
  return do_all_gather(flat, slice, counts, do_reduce_scatter_sum(slice, flat, counts, after));
}

}  // namespace switchyard
