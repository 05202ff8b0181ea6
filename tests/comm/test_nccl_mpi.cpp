// Collectives between GPUs, one for each process, by NCCL: against closed forms, and against what
// MPI gives for tensors in host memory, bit by bit.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <deque>
#include <thread>

#include "backend/cuda/cuda_backend.h"
#include "comm/collective_checks.h"
#include "comm/gpu_communicator.h"
#include "comm/nccl_communicator.h"
#include "comm/staged_communicator.h"
#include "core/random.h"
#include "support/catch.h"
#include "support/host_tensor.h"
#include "support/mpi_main.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

// A GPU and a group of all ranks that uses it.
struct Gpu {
  CudaBackend backend{CudaBackend::Options{}};
  const std::unique_ptr<Communicator> owned = make_gpu_communicator(mpi_world(), backend);
  Communicator& group = *owned;
  const int P = group.size(), me = group.rank();
};

// A tensor on the device with values of the host.
struct DeviceTensor {
  template <typename T>
  DeviceTensor(Backend& backend, HostTensor<T>& host)
      : buffer(backend, std::max<int64_t>(1, host.view().bytes())),
        tensor(buffer.data(), DTypeOf<T>::value, host.view().shape()) {
    backend.upload(backend.compute_queue(), tensor, host.values.data());
  }
  operator Tensor() const { return tensor; }

  template <typename T>
  HostTensor<T> on_host(Backend& backend) const {
    HostTensor<T> host({tensor.numel()});
    backend.download(backend.compute_queue(), host.values.data(), tensor);
    backend.host_wait(backend.record(backend.compute_queue()));
    return host;
  }

  Buffer buffer;
  Tensor tensor;
};

template <typename T>
bool same_bits(const HostTensor<T>& a, const HostTensor<T>& b) {
  return a.values.size() == b.values.size() &&
         std::memcmp(a.values.data(), b.values.data(), a.values.size() * sizeof(T)) == 0;
}

// Sums of rounded numbers, whose last bits depend on the order.
template <typename T>
void check_sums_against_mpi(Gpu& gpu, int64_t size) {
  const HostTensor<float> numbers = random_tensor<float>(fmt::format("rank {}", gpu.me), {size});
  HostTensor<T> x({size});
  std::ranges::transform(numbers.values, x.values.begin(),
                         [](float number) { return static_cast<T>(number); });
  const DeviceTensor on_gpu(gpu.backend, x);
  const Queue compute = gpu.backend.compute_queue();
  gpu.backend.wait(compute, gpu.group.all_reduce_sum(on_gpu, gpu.backend.record(compute)));
  mpi_world().all_reduce_sum(x);
  CHECK(same_bits(on_gpu.on_host<T>(gpu.backend), x));
}

}  // namespace

TEST_CASE("collectives between GPUs") {
  CudaBackend backend{CudaBackend::Options{}};
  StagedCommunicator group(make_gpu_communicator(mpi_world(), backend), backend);
  check_collectives(group, backend);
}

TEST_CASE("collectives between GPUs in groups of a split") {
  CudaBackend backend{CudaBackend::Options{}};
  StagedCommunicator group(make_gpu_communicator(mpi_world(), backend), backend);
  check_collectives_of_subgroups(group, backend);
}

TEST_CASE("sums have the bits that MPI gives") {
  Gpu gpu;
  for (const int64_t size : {1, 1'003, 40'000}) {
    check_sums_against_mpi<float>(gpu, size);
    check_sums_against_mpi<BFloat16>(gpu, size);
    check_sums_against_mpi<double>(gpu, size);
  }
}

TEST_CASE("sums longer than the scratch memory") {
  Gpu gpu;
  if (gpu.P > 2) return;  // two ranks are enough for it, and take long enough
  constexpr int64_t size = (int64_t{20} << 20) + 5;  // 80 MiB
  HostTensor<float> x({size});
  for (int64_t i = 0; i < size; ++i)
    x.values[static_cast<size_t>(i)] = static_cast<float>((gpu.me + 1) * (i % 1013));
  const DeviceTensor on_gpu(gpu.backend, x);
  const Queue compute = gpu.backend.compute_queue();
  gpu.backend.wait(compute, gpu.group.all_reduce_sum(on_gpu, gpu.backend.record(compute)));
  const HostTensor<float> sum = on_gpu.on_host<float>(gpu.backend);
  int64_t wrong = 0;
  for (int64_t i = 0; i < size; ++i)
    if (sum.values[static_cast<size_t>(i)] !=
        static_cast<float>(gpu.P * (gpu.P + 1) / 2 * (i % 1013)))
      ++wrong;
  CHECK(wrong == 0);
}

// The compute queue goes on after each event; nothing is waited for by the host before the end.
TEST_CASE("collectives take their input from the compute queue, and it goes on with their output") {
  Gpu gpu;
  const auto other = gpu.group.split(0, -gpu.me, "ep");
  Ops& ops = gpu.backend.ops();
  const Queue compute = gpu.backend.compute_queue();
  constexpr int64_t kSize = 3'000;
  HostTensor<float> ones({kSize}, 1.0f);
  const DeviceTensor x(gpu.backend, ones), y(gpu.backend, ones), z(gpu.backend, ones);
  float expected = 1;
  for (int step = 0; step < 4; ++step) {
    Communicator& group = step % 2 == 0 ? gpu.group : *other;
    ops.copy(compute, y, x);
    ops.add(compute, z, x, y);  // 2 x
    gpu.backend.wait(compute, group.all_reduce_sum(z, gpu.backend.record(compute)));
    ops.copy(compute, x, z);
    ops.fill(compute, y, 0.0);
    expected *= 2.0f * static_cast<float>(gpu.P);
  }
  const HostTensor<float> result = x.on_host<float>(gpu.backend);
  CHECK(std::ranges::all_of(result.values, [&](float value) { return value == expected; }));
}

// Waiting for events in an order of each rank's own.
TEST_CASE("collectives of two groups in flight") {
  Gpu gpu;
  const auto other = gpu.group.split(0, -gpu.me, "ep");
  const Queue compute = gpu.backend.compute_queue();
  std::deque<DeviceTensor> tensors;
  std::vector<Event> events;
  for (int i = 0; i < 8; ++i) {
    Communicator& group = i % 2 == 0 ? gpu.group : *other;
    HostTensor<float> x({1'000 * i + 3}, static_cast<float>(gpu.me + i));
    tensors.emplace_back(gpu.backend, x);
    events.push_back(group.all_reduce_sum(tensors.back(), gpu.backend.record(compute)));
  }
  for (int i = 0; i < 8; ++i)
    gpu.backend.host_wait(events[static_cast<size_t>((3 * i + gpu.me) % 8)]);
  for (int i = 0; i < 8; ++i) {
    const HostTensor<float> sum = tensors[static_cast<size_t>(i)].on_host<float>(gpu.backend);
    const auto expected = static_cast<float>(gpu.P * (gpu.P - 1) / 2 + gpu.P * i);
    CHECK(std::ranges::all_of(sum.values, [&](float value) { return value == expected; }));
  }
}

TEST_CASE("host values go by the host, in every group, while collectives are in flight") {
  Gpu gpu;
  const auto part = gpu.group.split(gpu.me % 2, gpu.me, "half");
  HostTensor<float> ones({5'000}, 1.0f);
  const DeviceTensor x(gpu.backend, ones);
  const Queue compute = gpu.backend.compute_queue();
  const Event done = gpu.group.all_reduce_sum(x, gpu.backend.record(compute));
  if (gpu.me == 0) gpu.backend.host_wait(done);  // needs the others, which are in the next line
  const std::vector<int64_t> members = part->all_gather_host(gpu.me);
  for (size_t r = 0; r < members.size(); ++r)
    CHECK(members[r] == static_cast<int64_t>(2 * r) + gpu.me % 2);
  CHECK(gpu.group.all_reduce_max_host(gpu.me) == gpu.P - 1);
  gpu.backend.host_wait(done);
  CHECK(gpu.group.traffic().all_gather == Traffic{});
}

TEST_CASE("a group of one copies, and only where it must") {
  Gpu gpu;
  const auto alone = gpu.group.split(gpu.me, 0, "alone");
  const Queue compute = gpu.backend.compute_queue();
  HostTensor<float> ones({100}, 1.0f), twos({100}, 2.0f);
  const DeviceTensor x(gpu.backend, ones), y(gpu.backend, twos);
  const Event ready = gpu.backend.record(compute);
  const Event same = alone->all_reduce_sum(x, ready);
  CHECK((same.queue == ready.queue && same.ticket == ready.ticket));
  gpu.backend.wait(compute, alone->all_gather(y, x, ready));
  CHECK(y.on_host<float>(gpu.backend).values == ones.values);
}

TEST_CASE("what is called and waited for is marked") {
  Gpu gpu;
  const Queue compute = gpu.backend.compute_queue();
  HostTensor<float> ones({1'000}, 1.0f);
  const DeviceTensor x(gpu.backend, ones);
  const int64_t before = gpu.backend.marks().head().num_events;
  const bool is_late = gpu.me == gpu.P - 1;  // the others wait for it, through the compute queue
  if (is_late) std::this_thread::sleep_for(std::chrono::milliseconds(200));
  gpu.backend.wait(compute, gpu.group.all_reduce_sum(x, gpu.backend.record(compute)));
  gpu.backend.host_wait(gpu.backend.record(compute));
  gpu.backend.progress();
  const ProgressPage& page = gpu.backend.marks().page();
  int num_begun = 0, num_ended = 0, num_waits = 0;
  for (int64_t n = before + 1; n <= page.head.num_events; ++n) {
    const ProgressEvent& event = page.events[static_cast<size_t>(n % kNumProgressEvents)];
    if (event.call != CallKind::kAllReduce) continue;
    CHECK(page.head.group_name(event.group) == "world");
    num_begun += event.kind == EventKind::kCallBegins ? 1 : 0;
    num_ended += event.kind == EventKind::kCallEnds ? 1 : 0;
    num_waits += event.kind == EventKind::kWaitBegins ? 1 : 0;
  }
  if (!is_late) CHECK(num_waits > 0);
  CHECK(num_begun == (gpu.P > 1 ? 1 : 0));
  CHECK(num_ended == num_begun);
}

TEST_CASE("a rank that fails is an error of those that wait for it") {
  CudaBackend backend{CudaBackend::Options{}};
  const int P = mpi_world().size(), me = mpi_world().rank();
  if (P == 1) return;
  HostTensor<float> ones({1'000}, 1.0f);
  const DeviceTensor x(backend, ones);
  const auto fail_alone = [&] {
    const auto group = make_gpu_communicator(mpi_world(), backend);
    SY_CHECK(me != P - 1, "this rank has its own reasons");
    backend.host_wait(group->all_reduce_sum(x, backend.record(backend.compute_queue())));
  };
  if (me == P - 1)
    CHECK_THROWS_WITH(fail_alone(), contains_text("its own reasons"));
  else
    CHECK_THROWS_WITH(fail_alone(), contains_text(fmt::format("world (rank {} of {})", me, P)) &&
                                        contains_text("CUDA device 0") &&
                                        contains_text("remote process exited") &&
                                        contains_text("another rank has ended"));
  mpi_world().barrier();
}

TEST_CASE("a collective without a backend") {
  CudaBackend backend{CudaBackend::Options{}};
  NcclCommunicator group(mpi_world(), backend.device());
  HostTensor<float> ones({10}, 1.0f);
  const DeviceTensor x(backend, ones);
  HostTensor<float> none({10 * group.size()});
  const DeviceTensor all(backend, none);
  CHECK_THROWS_WITH(group.all_gather(all, x), contains_text("before use() of a backend"));
}
