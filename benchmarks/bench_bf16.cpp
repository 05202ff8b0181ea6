// bf16 against f32, operation by operation, on this machine:
//   bench_bf16 [THREADS [REPETITIONS]]
// Prints Markdown; "bf16 / f32" is a ratio of speeds. The two are timed in turn, and the fastest of
// all repetitions counts.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "backend/ops.h"
#include "core/random.h"

using namespace switchyard;

namespace {

constexpr Queue kQueue{};

class Bench {
 public:
  Bench(int threads, int repetitions)
      : backend_(threads), memory_(backend_), repetitions_(repetitions) {}

  Ops& ops() { return backend_.ops(); }
  std::string description() const { return backend_.description(); }

  // Normal numbers of `dtype`; zeros if it is an integer.
  Tensor tensor(DType dtype, std::initializer_list<int64_t> shape) {
    Tensor x = memory_.allocate(dtype, shape);
    if (dtype == DType::kI32)
      ops().fill(kQueue, x, 0);
    else
      ops().init_normal(kQueue, x.reshape({1, x.numel()}), 1.0, 7, 0, x.numel());
    return x;
  }

  struct Seconds {
    double f32, bf16;
    double speed() const { return f32 / bf16; }
  };
  // make(real) makes the operands and returns the call to be measured.
  Seconds measure(const std::function<std::function<void()>(DType real)>& make) {
    Arena::Scope scope(memory_);
    const std::function<void()> wide = make(DType::kF32), narrow = make(DType::kBF16);
    Seconds best = {seconds(wide), seconds(narrow)};  // the first calls allocate
    for (int i = 0; i < repetitions_; ++i) {
      best.f32 = std::min(best.f32, seconds(wide));
      best.bf16 = std::min(best.bf16, seconds(narrow));
    }
    return best;
  }

  // One line of the table of operations.
  void compare(const std::string& name,
               const std::function<std::function<void()>(DType real)>& make) {
    const Seconds s = measure(make);
    fmt::print("| {} | {:.3f} ms | {:.3f} ms | {:.2f} |\n", name, 1e3 * s.f32, 1e3 * s.bf16,
               s.speed());
  }

 private:
  static double seconds(const std::function<void()>& call) {
    const auto start = std::chrono::steady_clock::now();
    call();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

  CpuBackend backend_;
  Arena memory_;
  int repetitions_;
};

// The three products of a linear layer (N outputs, K inputs) on T tokens, as one line of their
// table. y of a head or a router is f32. With experts, the tokens are dealt out evenly.
void compare_linear(Bench& bench, const std::string& name, int64_t T, int64_t N, int64_t K,
                    int64_t experts = 0, bool y_is_f32 = false) {
  Ops& ops = bench.ops();
  const double gigaflops = 2e-9 * static_cast<double>(T) * static_cast<double>(N * K);
  std::string speeds, ratios;
  for (int product = 0; product < 3; ++product) {
    const Bench::Seconds s = bench.measure([&](DType real) -> std::function<void()> {
      const DType w_dtype = product == 2 ? DType::kF32 : real;  // the gradient is f32
      Tensor y = bench.tensor(y_is_f32 ? DType::kF32 : real, {T, N});
      Tensor x = bench.tensor(real, {T, K});
      if (experts == 0) {
        Tensor w = bench.tensor(w_dtype, {N, K});
        if (product == 0) return [=, &ops] { ops.matmul_nt(kQueue, y, x, w); };
        if (product == 1) return [=, &ops] { ops.matmul_nn(kQueue, x, y, w); };
        return [=, &ops] { ops.matmul_tn_add(kQueue, w, y, x); };
      }
      Tensor w = bench.tensor(w_dtype, {experts, N, K});
      Tensor begin = bench.tensor(DType::kI32, {experts + 1});
      for (int64_t e = 0; e <= experts; ++e)
        begin.data<int32_t>()[e] = static_cast<int32_t>(T * e / experts);
      if (product == 0) return [=, &ops] { ops.grouped_matmul_nt(kQueue, y, x, w, begin); };
      if (product == 1) return [=, &ops] { ops.grouped_matmul_nn(kQueue, x, y, w, begin); };
      return [=, &ops] { ops.grouped_matmul_tn_add(kQueue, w, y, x, begin); };
    });
    speeds += fmt::format("| {:.0f} ", gigaflops / s.f32);
    ratios += fmt::format("| {:.2f} ", s.speed());
  }
  const std::string groups = experts == 0 ? "" : fmt::format(" in {} groups", experts);
  fmt::print("| {} | {}{} | {} | {} {}{}|\n", name, T, groups, N, K, speeds, ratios);
}

void compare_attention(Bench& bench, int64_t sequences, int64_t S, int64_t H, int64_t K,
                       int64_t C) {
  const int64_t T = sequences * S;
  Ops& ops = bench.ops();
  const auto run = [&](bool is_forward) {
    return [&, is_forward](DType real) -> std::function<void()> {
      const auto wide = [&] { return bench.tensor(real, {T, H * C}); };
      const auto narrow = [&] { return bench.tensor(real, {T, K * C}); };
      Tensor query = wide(), out = wide(), dout = wide(), dquery = wide();
      Tensor key = narrow(), value = narrow(), dkey = narrow(), dvalue = narrow();
      Tensor lse = bench.tensor(DType::kF32, {T, H}), visible = bench.tensor(DType::kI32, {T});
      for (int64_t t = 0; t < T; ++t) visible.data<int32_t>()[t] = static_cast<int32_t>(t / S * S);
      const auto forward = [=, &ops] {
        ops.attention_forward(kQueue, out, lse, query, key, value, visible, C, S);
      };
      forward();
      if (is_forward) return forward;
      return [=, &ops] {
        ops.attention_backward(kQueue, dquery, dkey, dvalue, dout, out, lse, query, key, value,
                               visible, C, S);
      };
    };
  };
  const std::string size = fmt::format("{} x {} tokens, heads {}/{} of {}", sequences, S, H, K, C);
  bench.compare("attention: " + size, run(true));
  bench.compare("attention backward: " + size, run(false));
}

void compare_memory_bound(Bench& bench, int64_t T, int64_t D) {
  Ops& ops = bench.ops();
  const std::string size = fmt::format(": ({}, {})", T, D);
  bench.compare("rmsnorm of a sum" + size, [&](DType real) {
    const auto x = [&] { return bench.tensor(real, {T, D}); };
    Tensor y = x(), sum = x(), in = x(), delta = x();
    Tensor inv_rms = bench.tensor(DType::kF32, {T}), weight = bench.tensor(real, {D});
    return [=, &ops] { ops.rmsnorm_forward(kQueue, y, sum, inv_rms, in, delta, weight, 1e-5); };
  });
  bench.compare("rmsnorm backward" + size, [&](DType real) {
    const auto x = [&] { return bench.tensor(real, {T, D}); };
    Tensor dx = x(), dy = x(), dresidual = x(), in = x();
    Tensor inv_rms = bench.tensor(DType::kF32, {T}), weight = bench.tensor(real, {D});
    return [=, &ops] { ops.rmsnorm_backward(kQueue, dx, dy, dresidual, in, inv_rms, weight); };
  });
  bench.compare("SwiGLU" + size, [&](DType real) {
    const auto x = [&] { return bench.tensor(real, {T, D}); };
    Tensor y = x(), gate = x(), up = x(), weight = bench.tensor(DType::kF32, {T});
    return [=, &ops] { ops.activation_forward(kQueue, y, gate, up, weight, Activation::kSwiGLU); };
  });
  bench.compare("SwiGLU backward" + size, [&](DType real) {
    const auto x = [&] { return bench.tensor(real, {T, D}); };
    Tensor dgate = x(), dup = x(), dy = x(), gate = x(), up = x();
    Tensor weight = bench.tensor(DType::kF32, {T}), dweight = bench.tensor(DType::kF32, {T});
    return [=, &ops] {
      ops.activation_backward(kQueue, dgate, dup, dweight, dy, gate, up, weight,
                              Activation::kSwiGLU);
    };
  });
  bench.compare("rope, heads of 64" + size, [&](DType real) {
    Tensor x = bench.tensor(real, {T, D}), position = bench.tensor(DType::kI32, {T});
    return [=, &ops] { ops.rope_forward(kQueue, x, position, 64, 1e4); };
  });
  bench.compare("combine two rows" + size, [&](DType real) {
    Tensor out = bench.tensor(real, {T, D}), in = bench.tensor(real, {2 * T, D});
    Tensor index = bench.tensor(DType::kI32, {T, 2});
    std::iota(index.data<int32_t>(), index.data<int32_t>() + 2 * T, 0);
    return [=, &ops] { ops.combine_rows(kQueue, out, in, index); };
  });
  bench.compare("add" + size, [&](DType real) {
    Tensor a = bench.tensor(real, {T, D}), b = bench.tensor(real, {T, D});
    return [=, &ops] { ops.add(kQueue, a, a, b); };
  });
  bench.compare("convert f32 to it" + size, [&](DType real) {
    Tensor y = bench.tensor(real, {T, D}), x = bench.tensor(DType::kF32, {T, D});
    return [=, &ops] { ops.convert(kQueue, y, x); };
  });
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  const int repetitions = argc > 2 ? std::atoi(argv[2]) : 30;
  Bench bench(threads, repetitions);
  fmt::print("{}; fastest of {} calls\n\n", bench.description(), repetitions);
  fmt::print(
      "| products | tokens | outputs | inputs | f32 GFLOP/s: y | dx | dw | bf16 / f32: y | dx | dw "
      "|\n|---|---|---|---|---|---|---|---|---|---|\n");
  // configs/quickstart.json, one of two ranks; then a width of 1024, experts with many and few
  // rows.
  compare_linear(bench, "attention", 2048, 256, 256);
  compare_linear(bench, "experts", 4096, 512, 256, 4);
  compare_linear(bench, "experts, down", 4096, 256, 512, 4);
  compare_linear(bench, "LM head", 2048, 257, 256, 0, true);
  compare_linear(bench, "router", 2048, 8, 256, 0, true);
  compare_linear(bench, "feed-forward", 2048, 4096, 1024);
  compare_linear(bench, "feed-forward, down", 2048, 1024, 4096);
  compare_linear(bench, "experts", 4096, 1408, 1024, 8);
  compare_linear(bench, "many experts", 4096, 1408, 1024, 64);
  compare_linear(bench, "LM head", 1024, 16384, 1024, 0, true);

  fmt::print("\n| operation | f32 | bf16 | bf16 / f32 |\n|---|---|---|---|\n");
  compare_attention(bench, 8, 256, 8, 4, 32);
  compare_attention(bench, 2, 2048, 16, 4, 64);
  compare_memory_bound(bench, 2048, 256);
  compare_memory_bound(bench, 4096, 1024);
  return 0;
}
