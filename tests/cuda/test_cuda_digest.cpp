// Digests of tensors on CUDA: the integers of the CPU, and those of one element at a time.
#include "core/digest.h"
#include "cuda/cuda_checks.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

template <typename T>
void check_digest() {
  CpuBackend cpu(3);
  CudaDevice device(0);
  CudaOps ops(device);
  Placement host(nullptr), there(device.stream({}));
  for (const auto& [N, M] : {std::pair<int64_t, int64_t>{0, 5},
                             {1, 1},
                             {1, 5003},
                             {1, 40000},
                             {3, 16},
                             {33, 48},
                             {7, 13},
                             {130, 1000}})
    for (const bool shift : {false, true}) {
      INFO(name_of(DTypeOf<T>::value)
           << " (" << N << ", " << M << ")" << (shift ? " shifted" : ""));
      HostTensor<T> x({N * M + 1});
      for (size_t i = 0; i < x.values.size(); ++i) {
        const uint64_t bits = philox(1, i)[0] | uint64_t{philox(2, i)[0]} << 32;
        std::memcpy(static_cast<void*>(&x.values[i]), &bits, sizeof(T));
      }
      const int64_t first = int64_t{3} << 33, stride = M + 11;
      uint64_t expected = 5;
      for (int64_t i = 0; i < N * M; ++i) {
        uint64_t bits = 0;
        std::memcpy(&bits, &x.values[static_cast<size_t>(i + (shift ? 1 : 0))], sizeof(T));
        expected += digest_term(static_cast<uint64_t>(first + i / M * stride + i % M), bits);
      }
      const auto digest = [&](Ops& on, Placement& place) {
        HostTensor<int64_t> sum({1}, 5);
        Tensor total = place(sum), all = place(x);
        on.digest_add(kQueue, total, all.rows(shift ? 1 : 0, N * M).reshape({N, M}), first, stride);
        place.fetch(sum, total);
        return static_cast<uint64_t>(sum.values[0]);
      };
      CHECK(digest(cpu.ops(), host) == expected);
      CHECK(digest(ops, there) == expected);
    }
}

}  // namespace

TEST_CASE("digests of every width of elements") {
  check_digest<uint8_t>();
  check_digest<BFloat16>();
  check_digest<float>();
  check_digest<double>();
  check_digest<int64_t>();
}
