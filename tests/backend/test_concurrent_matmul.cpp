// Host threads that multiply side by side, as the rank threads of one process do. OpenBLAS's serial
// flavour hands two of them the same packing buffer and returns wrong products; so would a BLAS
// whose locks do not cover every kernel.
#include <atomic>
#include <thread>

#include "backend/op_checks.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

constexpr int kThreads = 4, kRepeats = 300;

// All products of one layer and of a group of experts: small, so that calls follow each other fast,
// but large enough that BLAS packs its operands.
template <typename Real>
class Products {
 public:
  Products(int thread, int64_t rows, int64_t width)
      : x_(random_tensor<Real>(fmt::format("x {}", thread), {rows, width})),
        w_(random_tensor<Real>(fmt::format("w {}", thread), {width, width})),
        experts_(random_tensor<Real>(fmt::format("experts {}", thread), {3, width, width})),
        begin_(host_tensor<int32_t>(
            {4}, {0, static_cast<int32_t>(rows / 3), static_cast<int32_t>(rows / 3),
                  static_cast<int32_t>(rows)})) {}

  std::vector<Real> run(Ops& ops) {
    const int64_t rows = x_.view().dim(0), width = x_.view().dim(1);
    HostTensor<Real> y({rows, width}), dx({rows, width}), dw({width, width}, Real{0});
    HostTensor<Real> expert_y({rows, width}), expert_dw({3, width, width}, Real{0});
    ops.matmul_nt(kQueue, y, x_, w_);
    ops.matmul_nn(kQueue, dx, y, w_);
    ops.matmul_tn_add(kQueue, dw, y, x_);
    ops.grouped_matmul_nt(kQueue, expert_y, x_, experts_, begin_);
    ops.grouped_matmul_tn_add(kQueue, expert_dw, expert_y, x_, begin_);
    std::vector<Real> all = y.values;
    for (const auto& more : {dx.values, dw.values, expert_y.values, expert_dw.values})
      all.insert(all.end(), more.begin(), more.end());
    return all;
  }

 private:
  HostTensor<Real> x_, w_, experts_;
  HostTensor<int32_t> begin_;
};

// How many results of all threads differ in any bit from those of a thread that ran alone.
template <typename Real>
int count_wrong_results(int64_t rows, int64_t width) {
  std::vector<Products<Real>> products;
  std::vector<std::vector<Real>> expected;
  CpuBackend alone(1);
  for (int i = 0; i < kThreads; ++i) {
    products.emplace_back(i, rows, width);
    expected.push_back(products.back().run(alone.ops()));
  }
  std::atomic<int> waiting = kThreads, wrong = 0;
  std::vector<std::thread> threads;
  for (size_t i = 0; i < kThreads; ++i)
    threads.emplace_back([&, i] {
      try {
        CpuBackend mine(1);  // as each rank has its own
        --waiting;
        while (waiting > 0) std::this_thread::yield();
        for (int repeat = 0; repeat < kRepeats; ++repeat)
          wrong += products[i].run(mine.ops()) != expected[i];
      } catch (const std::exception&) {
        waiting = 0;
        ++wrong;
      }
    });
  for (std::thread& thread : threads) thread.join();
  return wrong;
}

}  // namespace

TEST_CASE("products of four host threads are those of one") {
  for (const int64_t width : {16, 50, 96}) {
    INFO("width " << width);
    CHECK(count_wrong_results<float>(40, width) == 0);
    CHECK(count_wrong_results<double>(40, width) == 0);
  }
}
