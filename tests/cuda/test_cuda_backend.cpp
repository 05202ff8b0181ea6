// A GPU as a device: queues, events, started work, copies of all sizes, memory. Mathematics has
// tests of its own; what queues are asked to do here are copies.
#include <algorithm>
#include <numeric>
#include <vector>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/cuda_check.h"
#include "backend/cuda/peak_flops.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;
using Catch::Matchers::WithinRel;

namespace {

std::vector<int32_t> numbers(int64_t n, int32_t first = 0) {
  std::vector<int32_t> values(static_cast<size_t>(n));
  std::iota(values.begin(), values.end(), first);
  return values;
}

Tensor view(const Buffer& buffer) {
  return buffer.tensor(DType::kI32, {buffer.bytes() / static_cast<int64_t>(sizeof(int32_t))});
}

Buffer buffer_of(Backend& backend, int64_t n) {
  return Buffer(backend, n * static_cast<int64_t>(sizeof(int32_t)));
}

std::vector<int32_t> fetch(Backend& backend, Tensor tensor) {
  std::vector<int32_t> values(static_cast<size_t>(tensor.numel()), -1);
  backend.download(backend.compute_queue(), values.data(), tensor);
  backend.host_wait(backend.record(backend.compute_queue()));
  return values;
}

// `to` = `from` as work of `queue`.
void copy(CudaBackend& backend, Queue queue, Tensor to, Tensor from) {
  CUDA_CHECK(cudaMemcpyAsync(to.raw(), from.raw(), static_cast<size_t>(from.bytes()),
                             cudaMemcpyDeviceToDevice, backend.device().stream(queue)));
}

// Done when asked for the `rounds`-th time.
class Rounds final : public PendingWork {
 public:
  Rounds(int& num_asked, int rounds) : num_asked_(num_asked), rounds_(rounds) {}
  bool advance() override {
    ++num_asked_;
    return --rounds_ == 0;
  }

 private:
  int& num_asked_;
  int rounds_;
};

}  // namespace

TEST_CASE("copies of all sizes come back, through less pinned memory than they need") {
  constexpr int64_t kStaging = 4096;  // pieces of 256 numbers
  CudaBackend backend({.staging_bytes = kStaging});
  for (const int64_t n : {0, 1, 255, 256, 257, 1023, 1024, 1025, 10'000}) {
    const Buffer memory = buffer_of(backend, n);
    std::vector<int32_t> host = numbers(n, 7);
    backend.upload(backend.compute_queue(), view(memory), host.data());
    host.assign(host.size(), -5);  // may be reused at once
    CHECK(fetch(backend, view(memory)) == numbers(n, 7));
  }
}

TEST_CASE("pinned memory is given out once, until its copy is over, in a ring") {
  Staging staging(1024);
  CHECK(staging.largest_piece() == 256);
  std::vector<int64_t> over;  // tickets
  const auto settle = [&] {
    staging.settle([&](Event event) { return std::ranges::count(over, event.ticket) > 0; });
  };
  std::byte* const first = *staging.take(256);
  staging.copies({0, 1}, nullptr);
  std::vector<std::byte> arrived(200);
  std::byte* const second = *staging.take(200);  // takes 256
  staging.copies({0, 2}, arrived.data());
  CHECK(*staging.take(256) == first + 512);
  staging.copies({0, 3}, nullptr);
  CHECK(*staging.take(129) == first + 768);  // takes 192, and leaves 64
  staging.copies({0, 4}, nullptr);
  CHECK(!staging.take(65));
  second[199] = std::byte{7};
  over = {2};
  settle();
  CHECK(arrived[199] == std::byte{7});
  CHECK(!staging.take(65));  // the oldest is not over
  CHECK(staging.oldest().ticket == 1);
  over = {1, 2};
  settle();
  CHECK(*staging.take(256) == first);  // the end of the ring is too short
  staging.copies({0, 5}, nullptr);
  CHECK(*staging.take(256) == second);
  staging.copies({0, 6}, arrived.data());
  CHECK(!staging.take(1));
  staging.abandon();
  over = {3, 4, 5, 6};
  second[199] = std::byte{8};
  settle();
  CHECK(arrived[199] == std::byte{7});
}

TEST_CASE("many small copies in flight at once, of which one wait brings all") {
  CudaBackend backend({.staging_bytes = 1024});
  constexpr int kCopies = 100;
  const Buffer memory = buffer_of(backend, kCopies);
  std::vector<int32_t> host(kCopies, -1);
  for (int i = 0; i < kCopies; ++i) {
    const int32_t value = 3 * i;
    backend.upload(backend.compute_queue(), view(memory).rows(i, 1), &value);
  }
  for (int i = 0; i < kCopies; ++i)
    backend.download(backend.compute_queue(), &host[static_cast<size_t>(i)],
                     view(memory).rows(i, 1));
  backend.host_wait(backend.record(backend.compute_queue()));
  for (int i = 0; i < kCopies; ++i) CHECK(host[static_cast<size_t>(i)] == 3 * i);
}

TEST_CASE("a download is there after the host's wait for its queue, whatever the others do") {
  CudaBackend backend({});
  const Buffer a = buffer_of(backend, 64), b = buffer_of(backend, 64);
  const Queue compute = backend.compute_queue(), copies = backend.copy_queue();
  CHECK(compute.id != copies.id);
  backend.upload(compute, view(a), numbers(64).data());
  backend.upload(compute, view(b), numbers(64, 1000).data());
  backend.wait(copies, backend.record(compute));
  std::vector<int32_t> of_a(64), of_b(64);
  backend.download(copies, of_a.data(), view(a));  // first asked for, waited for last
  backend.download(compute, of_b.data(), view(b));
  backend.host_wait(backend.record(compute));
  CHECK(of_b == numbers(64, 1000));
  backend.host_wait(backend.record(copies));
  CHECK(of_a == numbers(64));
}

TEST_CASE("downloads to memory of the backend's own take no detour") {
  CudaBackend backend({.staging_bytes = 1024});
  constexpr int64_t kN = 5000;
  const Buffer memory = buffer_of(backend, kN);
  backend.upload(backend.compute_queue(), view(memory), numbers(kN).data());
  const HostMemory host = backend.allocate_host(memory.bytes());
  const Queue copies = backend.copy_queue();
  backend.wait(copies, backend.record(backend.compute_queue()));
  const int64_t waits = backend.host_waits();
  backend.download_direct(copies, host.get(), view(memory));
  CHECK(backend.host_waits() == waits);
  backend.host_wait(backend.record(copies));
  const auto* const values = reinterpret_cast<const int32_t*>(host.get());
  CHECK(std::vector<int32_t>(values, values + kN) == numbers(kN));
  backend.download_direct(copies, host.get(), view(memory).rows(0, 0));
}

TEST_CASE("queues wait for each other's events, and never the host") {
  CudaBackend backend({});
  const Queue compute = backend.compute_queue(), other = backend.device().add_queue();
  const Buffer a = buffer_of(backend, 4096), b = buffer_of(backend, 4096),
               c = buffer_of(backend, 4096);
  backend.upload(compute, view(a), numbers(4096, 5).data());
  const Event uploaded = backend.record(compute);
  backend.wait(other, uploaded);
  copy(backend, other, view(b), view(a));
  const Event copied = backend.record(other);
  backend.wait(compute, copied);
  backend.wait(compute, uploaded);  // its own: nothing to wait for
  backend.wait(compute, {});
  copy(backend, compute, view(c), view(b));
  CHECK(backend.host_waits() == 0);
  CHECK(fetch(backend, view(c)) == numbers(4096, 5));
  CHECK((backend.is_complete(uploaded) && backend.is_complete(copied)));
}

TEST_CASE("events of long ago are complete, and their cudaEvents are used again") {
  CudaBackend backend({});
  const Queue compute = backend.compute_queue();
  std::vector<Event> events;
  for (int i = 0; i < 50; ++i) events.push_back(backend.record(compute));
  CHECK(backend.is_complete({}));
  backend.host_wait(events.back());
  backend.progress();
  const Buffer memory = buffer_of(backend, 16);
  backend.upload(compute, view(memory), numbers(16).data());
  const Event last = backend.record(compute);
  for (const Event& event : events) {
    CHECK(backend.is_complete(event));
    backend.wait(backend.copy_queue(), event);
    CHECK(event.ticket < last.ticket);
  }
  backend.host_wait(last);
  CHECK(backend.is_complete(last));
}

TEST_CASE("started work advances after its event, and queues wait for it") {
  CudaBackend backend({});
  const Queue compute = backend.compute_queue();
  const Buffer memory = buffer_of(backend, 16);
  int num_asked = 0, num_asked_at_once = 0;
  CHECK(backend.start(std::make_unique<Rounds>(num_asked_at_once, 1)).queue == -1);
  backend.upload(compute, view(memory), numbers(16).data());
  const Event uploaded = backend.record(compute);
  const Event done = backend.start(std::make_unique<Rounds>(num_asked, 3), uploaded);
  CHECK(done.ticket > uploaded.ticket);
  backend.host_wait(uploaded);
  CHECK(!backend.is_complete(done));
  backend.wait(compute, done);  // only the host moves it: this waits
  CHECK(num_asked == 3);
  CHECK(backend.is_complete(done));
}

TEST_CASE("a call has ended once the host has waited for what its queue did after it") {
  CudaBackend backend({});
  Progress& marks = backend.marks();
  const int group = marks.add_group(7, "dp", 0, 2);
  marks.call_begins({.group = group, .kind = CallKind::kAllReduce, .sequence = 1, .bytes = 4});
  const Queue communication = backend.device().add_queue(), compute = backend.compute_queue();
  const Event reduced = backend.record(communication);
  marks.call_returns(reduced.ticket);
  backend.wait(compute, reduced);
  const int64_t events_before = marks.head().num_events;
  backend.host_wait(backend.record(compute));
  backend.progress();
  CHECK(marks.head().num_events > events_before);  // the call has ended
  CHECK(marks.head().waits_for.is_none());
  CHECK(!marks.wait_begins(reduced.ticket));  // nothing is in flight any more
}

TEST_CASE("memory is counted; what does not fit is said with its size, and how to mend it") {
  CudaBackend backend({.advice = [] { return "the table of the plan"; }});
  const int64_t before = backend.memory().allocations;
  {
    const Buffer first(backend, 1 << 20), second(backend, 1 << 10);
    CHECK(backend.memory().bytes_in_use == (1 << 20) + (1 << 10));
  }
  CHECK(backend.memory().bytes_in_use == 0);
  CHECK(backend.memory().peak_bytes == (1 << 20) + (1 << 10));
  CHECK(backend.memory().allocations == before + 2);
  try {
    const Buffer beyond(backend, int64_t{1} << 50);
    FAIL("a petabyte fits");
  } catch (const Error& error) {
    CHECK(error.code() == ExitCode::kConfig);
    CHECK_THAT(error.what(), contains_text("cuda:0"));
    CHECK_THAT(error.what(), contains_text("1125899.907 GB do not fit"));
    CHECK_THAT(error.what(), contains_text("the table of the plan"));
  }
  const Buffer after(backend, 64);  // the error is over
  CHECK(fetch(backend, view(after)).size() == 16);
}

TEST_CASE("a device says what it is, and what it could do") {
  CudaBackend backend({});
  CHECK_THAT(backend.description(), contains_text("cuda:0 "));
  CHECK_THAT(backend.description(), contains_text(", sm_"));
  CHECK(backend.peak_flops(DType::kBF16) > 0);
  // NVIDIA's data sheets: A100 312 and 19.5, H100 SXM 989 and 67, B200 2250 TFLOP/s, at boost
  // clocks somewhat below the highest.
  const GpuSpeed a100 = {.compute_capability = 80, .num_multiprocessors = 108, .clock_hz = 1.41e9};
  const GpuSpeed h100 = {.compute_capability = 90, .num_multiprocessors = 132, .clock_hz = 1.98e9};
  const GpuSpeed b200 = {
      .compute_capability = 100, .num_multiprocessors = 148, .clock_hz = 1.965e9};
  CHECK_THAT(theoretical_peak_flops(a100, DType::kBF16), WithinRel(312e12, 0.01));
  CHECK_THAT(theoretical_peak_flops(a100, DType::kF64), WithinRel(19.5e12, 0.01));
  CHECK_THAT(theoretical_peak_flops(h100, DType::kBF16), WithinRel(989e12, 0.1));
  CHECK_THAT(theoretical_peak_flops(h100, DType::kF32), WithinRel(67e12, 0.1));
  CHECK_THAT(theoretical_peak_flops(b200, DType::kBF16), WithinRel(2250e12, 0.1));
  const GpuSpeed unknown = {.compute_capability = 103, .num_multiprocessors = 1, .clock_hz = 1};
  CHECK(theoretical_peak_flops(unknown, DType::kBF16) == 8192);
}
