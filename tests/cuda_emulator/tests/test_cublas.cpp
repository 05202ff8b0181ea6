// cuBLAS: products against sums in f64, the documented limits, and misuse that must be found.
#include <cublas_v2.h>

#include <cmath>
#include <cstring>
#include <random>
#include <utility>

#include "cuda_emulator/counters.h"
#include "programs.h"

namespace cuda_emulator::test {
namespace {

constexpr size_t kWorkspaceBytes = 4096;

#define EXPECT_BLAS(call) EXPECT((call) == CUBLAS_STATUS_SUCCESS)

struct Blas {
  cudaStream_t stream = make_stream();
  cublasHandle_t handle = nullptr;

  explicit Blas(bool with_workspace = true) {
    void* workspace = nullptr;
    EXPECT_SUCCESS(cudaMalloc(&workspace, kWorkspaceBytes));
    EXPECT_BLAS(cublasCreate(&handle));
    EXPECT_BLAS(cublasSetStream(handle, stream));
    if (with_workspace) EXPECT_BLAS(cublasSetWorkspace(handle, workspace, kWorkspaceBytes));
  }
};

size_t width(cudaDataType type) { return type == CUDA_R_64F ? 8 : type == CUDA_R_32F ? 4 : 2; }

double read(const char* memory, size_t i, cudaDataType type) {
  if (type == CUDA_R_64F) return reinterpret_cast<const double*>(memory)[i];
  if (type == CUDA_R_32F) return static_cast<double>(reinterpret_cast<const float*>(memory)[i]);
  const uint32_t bits = uint32_t{reinterpret_cast<const uint16_t*>(memory)[i]} << 16;
  float x = 0;
  std::memcpy(&x, &bits, sizeof x);
  return static_cast<double>(x);
}

void write(char* memory, size_t i, cudaDataType type, double value) {
  if (type == CUDA_R_64F) {
    reinterpret_cast<double*>(memory)[i] = value;
  } else if (type == CUDA_R_32F) {
    reinterpret_cast<float*>(memory)[i] = static_cast<float>(value);
  } else {
    const auto x = static_cast<float>(value);
    uint32_t bits = 0;
    std::memcpy(&bits, &x, sizeof bits);
    reinterpret_cast<uint16_t*>(memory)[i] = static_cast<uint16_t>(bits >> 16);
  }
}

// A column-major matrix in pinned and in device memory, with columns `gap` elements further apart
// than they must be.
struct Operand {
  int rows, columns, leading;
  cudaDataType type;
  char *host = nullptr, *device = nullptr;
  size_t bytes;

  Operand(int r, int c, int gap, cudaDataType t, unsigned seed)
      : rows(r), columns(c), leading(r + gap), type(t) {
    bytes = static_cast<size_t>(leading) * static_cast<size_t>(columns) * width(type);
    void *pinned = nullptr, *memory = nullptr;
    EXPECT_SUCCESS(cudaMallocHost(&pinned, bytes));
    EXPECT_SUCCESS(cudaMalloc(&memory, bytes));
    host = static_cast<char*>(pinned);
    device = static_cast<char*>(memory);
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    for (size_t i = 0; i < bytes / width(type); ++i) write(host, i, type, normal(random));
  }
  double at(int row, int column) const {
    return read(
        host, static_cast<size_t>(column) * static_cast<size_t>(leading) + static_cast<size_t>(row),
        type);
  }
  double of(int row, int column, bool transposed) const {
    return transposed ? at(column, row) : at(row, column);
  }
  void send(cudaStream_t stream) const {
    if (bytes > 0)
      EXPECT_SUCCESS(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream));
  }
};

struct Case {
  cudaDataType inputs, output;
  cublasComputeType_t compute;
  double bound;  // of the error, relative to the sum of absolute products
};
constexpr Case kCases[] = {
    {CUDA_R_64F, CUDA_R_64F, CUBLAS_COMPUTE_64F, 1e-15},
    {CUDA_R_32F, CUDA_R_32F, CUBLAS_COMPUTE_32F, 2e-7},
    {CUDA_R_32F, CUDA_R_32F, CUBLAS_COMPUTE_32F_FAST_TF32, 1e-3},
    {CUDA_R_16BF, CUDA_R_32F, CUBLAS_COMPUTE_32F, 2e-7},
    {CUDA_R_16BF, CUDA_R_16BF, CUBLAS_COMPUTE_32F_PEDANTIC, 4e-3},
};

cublasOperation_t operation(bool transposed) { return transposed ? CUBLAS_OP_T : CUBLAS_OP_N; }

cublasStatus_t gemm_ex(cublasHandle_t handle, bool ta, bool tb, int k, double alpha, double beta,
                       const Operand& a, const Operand& b, const Operand& c,
                       cublasComputeType_t compute) {
  const auto alpha_f32 = static_cast<float>(alpha), beta_f32 = static_cast<float>(beta);
  const bool f64 = compute == CUBLAS_COMPUTE_64F;
  return cublasGemmEx(handle, operation(ta), operation(tb), c.rows, c.columns, k,
                      f64 ? static_cast<const void*>(&alpha) : &alpha_f32, a.device, a.type,
                      a.leading, b.device, b.type, b.leading,
                      f64 ? static_cast<const void*>(&beta) : &beta_f32, c.device, c.type,
                      c.leading, compute, CUBLAS_GEMM_DEFAULT);
}

void check_product(const Case& given, bool ta, bool tb, int m, int n, int k, double alpha,
                   double beta) {
  const Blas blas;
  const Operand a(ta ? k : m, ta ? m : k, 3, given.inputs, 1);
  const Operand b(tb ? n : k, tb ? k : n, 1, given.inputs, 2);
  const Operand c(m, n, 2, given.output, 3);
  for (const Operand* operand : {&a, &b, &c}) operand->send(blas.stream);
  EXPECT_BLAS(gemm_ex(blas.handle, ta, tb, k, alpha, beta, a, b, c, given.compute));
  void* memory = nullptr;
  EXPECT_SUCCESS(cudaMallocHost(&memory, c.bytes));
  EXPECT_SUCCESS(cudaMemcpyAsync(memory, c.device, c.bytes, cudaMemcpyDeviceToHost, blas.stream));
  EXPECT_SUCCESS(cudaStreamSynchronize(blas.stream));
  for (int column = 0; column < n; ++column)
    for (int row = 0; row < c.leading; ++row) {
      const size_t i =
          static_cast<size_t>(column) * static_cast<size_t>(c.leading) + static_cast<size_t>(row);
      const double found = read(static_cast<const char*>(memory), i, c.type);
      if (row >= m) {  // between the columns
        EXPECT(found == read(c.host, i, c.type));
        continue;
      }
      double sum = beta * c.at(row, column), size = std::abs(sum);
      for (int p = 0; p < k; ++p) {
        const double product = alpha * a.of(row, p, ta) * b.of(p, column, tb);
        sum += product;
        size += std::abs(product);
      }
      const bool is_close = std::abs(found - sum) <= given.bound * (size + std::abs(sum));
      EXPECT(is_close);
    }
}

// A product of `count` by `count` matrices of f32, for misuse.
struct Square {
  Blas blas;
  Operand a, b, c;
  explicit Square(int count = 8, bool with_workspace = true)
      : blas(with_workspace),
        a(count, count, 0, CUDA_R_32F, 1),
        b(count, count, 0, CUDA_R_32F, 2),
        c(count, count, 0, CUDA_R_32F, 3) {}
  cublasStatus_t multiply(int k = 8) const {
    return gemm_ex(blas.handle, false, false, k, 1, 0, a, b, c, CUBLAS_COMPUTE_32F);
  }
};

cublasStatus_t grouped(const Blas& blas, void* pointers, cudaDataType inputs, cudaDataType output,
                       cublasComputeType_t compute, int k) {
  const cublasOperation_t none[] = {CUBLAS_OP_N, CUBLAS_OP_N};
  const int m[] = {4, 2}, n[] = {3, 5}, depth[] = {k, 16}, leading_b[] = {k, 16}, sizes[] = {2, 1};
  const float one[] = {1, 1}, zero[] = {0, 0};
  auto** const of = static_cast<void**>(pointers);
  return cublasGemmGroupedBatchedEx(blas.handle, none, none, m, n, depth, one, of, inputs, m,
                                    of + 3, inputs, leading_b, zero, of + 6, output, m, 2, sizes,
                                    compute);
}

// Two products of one shape and one of another; `shift` bytes move the first A.
void run_grouped(cudaDataType inputs, cudaDataType output, int k, int shift) {
  const Blas blas;
  const std::vector<Operand> a{{4, k, 1, inputs, 1}, {4, k, 0, inputs, 2}, {2, 16, 0, inputs, 3}};
  const std::vector<Operand> b{{k, 3, 0, inputs, 4}, {k, 3, 0, inputs, 5}, {16, 5, 0, inputs, 6}};
  const std::vector<Operand> c{{4, 3, 0, output, 7}, {4, 3, 0, output, 8}, {2, 5, 0, output, 9}};
  void *pinned = nullptr, *pointers = nullptr;
  EXPECT_SUCCESS(cudaMallocHost(&pinned, 9 * sizeof(void*)));
  EXPECT_SUCCESS(cudaMalloc(&pointers, 9 * sizeof(void*)));
  for (size_t i = 0; i < 3; ++i) {
    static_cast<char**>(pinned)[i] = a[i].device + (i == 0 ? shift : 0);
    static_cast<char**>(pinned)[3 + i] = b[i].device;
    static_cast<char**>(pinned)[6 + i] = c[i].device;
    a[i].send(blas.stream);
    b[i].send(blas.stream);
  }
  EXPECT_SUCCESS(
      cudaMemcpyAsync(pointers, pinned, 9 * sizeof(void*), cudaMemcpyHostToDevice, blas.stream));
  EXPECT_BLAS(grouped(blas, pointers, inputs, output, CUBLAS_COMPUTE_32F, k));
  for (size_t i = 0; i < 3; ++i)
    EXPECT_SUCCESS(
        cudaMemcpyAsync(c[i].host, c[i].device, c[i].bytes, cudaMemcpyDeviceToHost, blas.stream));
  EXPECT_SUCCESS(cudaStreamSynchronize(blas.stream));
  for (size_t i = 1; i < 3; ++i)
    for (int row = 0; row < c[i].rows; ++row)
      for (int column = 0; column < c[i].columns; ++column) {
        double sum = 0, size = 0;
        for (int p = 0; p < a[i].columns; ++p) {
          sum += a[i].at(row, p) * b[i].at(p, column);
          size += std::abs(a[i].at(row, p) * b[i].at(p, column));
        }
        EXPECT(std::abs(c[i].at(row, column) - sum) <= 4e-3 * size);
      }
}

void share_a_workspace(bool planted) {
  const Square first;
  const Square second;
  void* workspace = nullptr;
  EXPECT_SUCCESS(cudaMalloc(&workspace, kWorkspaceBytes));
  EXPECT_BLAS(cublasSetWorkspace(first.blas.handle, workspace, kWorkspaceBytes));
  if (planted) EXPECT_BLAS(cublasSetStream(first.blas.handle, second.blas.stream));
  EXPECT_BLAS(first.multiply());
}

}  // namespace

TEST_CASE("products of all types and forms against sums in f64") {
  for (const Case& given : kCases)
    for (const bool ta : {false, true})
      for (const bool tb : {false, true}) {
        INFO(given.inputs << " -> " << given.output << ", " << ta << tb);
        check_success(run_in_child(in_mode("lazy"), [&] {
          check_product(given, ta, tb, 37, 21, 300, 1, 0);
          check_product(given, ta, tb, 5, 3, 1, 0.5, 2);
          check_product(given, ta, tb, 33, 9, 64, -1, 1);
          check_product(given, ta, tb, 4, 5, 0, 1, 0.5);  // no products: C is scaled
        }));
      }
}

TEST_CASE("TF32 and reduced sums are what they are asked for, and no other mode rounds") {
  const auto with_mode = [](cublasMath_t mode, const Case& given) {
    return run_in_child(in_mode("eager"), [=] {
      const Blas blas;
      EXPECT_BLAS(cublasSetMathMode(blas.handle, mode));
      const Operand a(8, 1024, 0, given.inputs, 1), b(1024, 8, 0, given.inputs, 2);
      const Operand c(8, 8, 0, given.output, 3);
      a.send(blas.stream);
      b.send(blas.stream);
      EXPECT_BLAS(gemm_ex(blas.handle, false, false, 1024, 1, 0, a, b, c, given.compute));
      EXPECT_SUCCESS(
          cudaMemcpyAsync(c.host, c.device, c.bytes, cudaMemcpyDeviceToHost, blas.stream));
      EXPECT_SUCCESS(cudaStreamSynchronize(blas.stream));
      double worst = 0;
      for (int row = 0; row < 8; ++row)
        for (int column = 0; column < 8; ++column) {
          double sum = 0;
          for (int p = 0; p < 1024; ++p) sum += a.at(row, p) * b.at(p, column);
          worst = std::max(worst, std::abs(c.at(row, column) - sum) / 32);
        }
      printf("%g", worst);
    });
  };
  const auto error = [&](int mode, const Case& given) {
    const Ended ended = with_mode(static_cast<cublasMath_t>(mode), given);
    REQUIRE(ended.status == 0);
    return std::stod(ended.output);
  };
  const Case f32{CUDA_R_32F, CUDA_R_32F, CUBLAS_COMPUTE_32F, 0};
  const Case bf16{CUDA_R_16BF, CUDA_R_16BF, CUBLAS_COMPUTE_32F, 0};
  CHECK(error(CUBLAS_DEFAULT_MATH, f32) < 3e-6);
  CHECK(error(CUBLAS_TF32_TENSOR_OP_MATH, f32) > 3e-5);
  const double once =
      error(CUBLAS_DEFAULT_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION, bf16);
  CHECK(once > 1e-4);  // rounded to bf16 once
  CHECK(error(CUBLAS_DEFAULT_MATH, bf16) > 1.2 * once);
}

TEST_CASE("the same product gives the same bits, wherever it lies in a larger one") {
  check_success(run_in_child(in_mode("eager"), [] {
    const Blas blas;
    const Operand a(40, 700, 0, CUDA_R_32F, 1), b(700, 20, 0, CUDA_R_32F, 2);
    const Operand whole(40, 20, 0, CUDA_R_32F, 3), part(3, 2, 0, CUDA_R_32F, 4);
    a.send(blas.stream);
    b.send(blas.stream);
    EXPECT_BLAS(gemm_ex(blas.handle, false, false, 700, 1, 0, a, b, whole, CUBLAS_COMPUTE_32F));
    EXPECT_BLAS(gemm_ex(blas.handle, false, false, 700, 1, 0, a, b, part, CUBLAS_COMPUTE_32F));
    for (const Operand* c : {&whole, &part})
      EXPECT_SUCCESS(
          cudaMemcpyAsync(c->host, c->device, c->bytes, cudaMemcpyDeviceToHost, blas.stream));
    EXPECT_SUCCESS(cudaStreamSynchronize(blas.stream));
    for (int row = 0; row < 3; ++row)
      for (int column = 0; column < 2; ++column)
        EXPECT(part.at(row, column) == whole.at(row, column));
  }));
}

TEST_CASE("a batch with strides") {
  check_success(run_in_child(in_mode("lazy"), [] {
    const Blas blas;
    // Three products side by side: the columns of A, B and C that belong to one follow each other.
    const Operand a(6, 15, 0, CUDA_R_16BF, 1), b(5, 12, 0, CUDA_R_16BF, 2);
    const Operand c(6, 12, 0, CUDA_R_32F, 3);
    a.send(blas.stream);
    b.send(blas.stream);
    const float one = 1, zero = 0;
    EXPECT_BLAS(cublasGemmStridedBatchedEx(
        blas.handle, CUBLAS_OP_N, CUBLAS_OP_N, 6, 4, 5, &one, a.device, a.type, 6, 30, b.device,
        b.type, 5, 20, &zero, c.device, c.type, 6, 24, 3, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
    EXPECT_SUCCESS(cudaMemcpyAsync(c.host, c.device, c.bytes, cudaMemcpyDeviceToHost, blas.stream));
    EXPECT_SUCCESS(cudaStreamSynchronize(blas.stream));
    for (int i = 0; i < 3; ++i)
      for (int row = 0; row < 6; ++row)
        for (int column = 0; column < 4; ++column) {
          double sum = 0;
          for (int p = 0; p < 5; ++p) sum += a.at(row, 5 * i + p) * b.at(p, 4 * i + column);
          EXPECT(std::abs(c.at(row, 4 * i + column) - sum) < 1e-5);
        }
    cuda_emulator_count counted{};
    EXPECT(cuda_emulator_counts(CUDA_EMULATOR_BLAS, &counted, 1) == 1);
    EXPECT(std::strcmp(counted.what, "cublasGemmStridedBatchedEx") == 0);
    EXPECT(counted.calls == 1 && counted.amount == 3 * 2 * 6 * 4 * 5);
  }));
}

TEST_CASE("groups of products, their pointers on the device") {
  const auto run = [](cudaDataType inputs, cudaDataType output, int k, int shift) {
    return run_in_child(in_mode("lazy"), [=] { run_grouped(inputs, output, k, shift); });
  };
  check_success(run(CUDA_R_32F, CUDA_R_32F, 8, 0));
  check_success(run(CUDA_R_16BF, CUDA_R_16BF, 8, 0));
  check_success(run(CUDA_R_16BF, CUDA_R_16BF, 2, 4));
  // f32 results of bf16 are in the table of cublasGemmEx only.
  check_wrong(run(CUDA_R_16BF, CUDA_R_32F, 8, 0), "(grouped(");
  check_stopped(run(CUDA_R_16BF, CUDA_R_16BF, 8, 2), "is not aligned to 16 bytes");
  check_stopped(run(CUDA_R_16BF, CUDA_R_16BF, 2, 2), "is not aligned to 4 bytes");
}

TEST_CASE("what cuBLAS refuses") {
  check_success(run_in_child(in_mode("eager"), [] {
    const Square given;
    const float one = 1, zero = 0;
    const auto call = [&](int m, int leading, cudaDataType a, cudaDataType c,
                          cublasComputeType_t compute) {
      return cublasGemmEx(given.blas.handle, CUBLAS_OP_N, CUBLAS_OP_N, m, 4, 4, &one,
                          given.a.device, a, leading, given.b.device, a, 4, &zero, given.c.device,
                          c, 4, compute, CUBLAS_GEMM_DEFAULT);
    };
    constexpr cublasComputeType_t k32 = CUBLAS_COMPUTE_32F;
    EXPECT(call(4, 4, CUDA_R_32F, CUDA_R_32F, k32) == CUBLAS_STATUS_SUCCESS);
    EXPECT(call(0, 4, CUDA_R_32F, CUDA_R_32F, k32) == CUBLAS_STATUS_SUCCESS);
    EXPECT(call(-1, 4, CUDA_R_32F, CUDA_R_32F, k32) == CUBLAS_STATUS_INVALID_VALUE);
    EXPECT(call(4, 3, CUDA_R_32F, CUDA_R_32F, k32) == CUBLAS_STATUS_INVALID_VALUE);
    EXPECT(call(4, 4, CUDA_R_32F, CUDA_R_16BF, k32) == CUBLAS_STATUS_NOT_SUPPORTED);
    EXPECT(call(4, 4, CUDA_R_64F, CUDA_R_64F, k32) == CUBLAS_STATUS_NOT_SUPPORTED);
    EXPECT(call(4, 4, CUDA_R_16BF, CUDA_R_32F, CUBLAS_COMPUTE_32F_FAST_TF32) ==
           CUBLAS_STATUS_NOT_SUPPORTED);
    EXPECT(cublasSetWorkspace(given.blas.handle, given.a.device + 16, 64) ==
           CUBLAS_STATUS_INVALID_VALUE);
    EXPECT_BLAS(cublasDestroy(given.blas.handle));
    EXPECT(given.multiply() == CUBLAS_STATUS_NOT_INITIALIZED);
  }));
}

TEST_CASE("misuse of cuBLAS that a GPU would let pass stops the test") {
  const auto stopped = [](void (*program)(), const char* message) {
    check_stopped(run_in_child(in_mode("lazy"), program), message);
  };
  stopped([] { Square(8, false).multiply(); }, "cublasGemmEx without cublasSetWorkspace");
  stopped([] { share_a_workspace(true); }, "cublasGemmEx without cublasSetWorkspace");
  check_success(run_in_child(in_mode("lazy"), [] { share_a_workspace(false); }));
  stopped(
      [] {
        const Square given;
        EXPECT_SUCCESS(cudaFree(given.b.device));
        given.multiply();
      },
      "cuBLAS, B: ");
  stopped(
      [] {
        Square given;
        given.c.leading = 9;
        given.multiply();
      },
      "cuBLAS, C: ");
  stopped(
      [] {
        Square given;
        given.a.device = given.a.host;
        given.multiply();
      },
      "cuBLAS, A: ");
  stopped(
      [] {
        Square given;
        given.a.device += 2;
        given.multiply();
      },
      "is not aligned to its elements");
}

TEST_CASE("products are captured and replayed") {
  check_success(run_in_child(in_mode("lazy"), [] {
    const Square given;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    EXPECT_SUCCESS(cudaStreamBeginCapture(given.blas.stream, cudaStreamCaptureModeGlobal));
    given.a.send(given.blas.stream);
    given.b.send(given.blas.stream);
    EXPECT_BLAS(given.multiply());
    EXPECT_SUCCESS(cudaMemcpyAsync(given.c.host, given.c.device, given.c.bytes,
                                   cudaMemcpyDeviceToHost, given.blas.stream));
    EXPECT_SUCCESS(cudaStreamEndCapture(given.blas.stream, &graph));
    EXPECT_SUCCESS(cudaGraphInstantiate(&executable, graph, 0));
    double first = 0;
    for (const double factor : {1.0, 2.0}) {
      write(given.a.host, 0, CUDA_R_32F, factor);
      EXPECT_SUCCESS(cudaGraphLaunch(executable, given.blas.stream));
      EXPECT_SUCCESS(cudaStreamSynchronize(given.blas.stream));
      if (factor == 1) first = given.c.at(0, 0);
      EXPECT(std::abs(given.c.at(0, 0) - first - (factor - 1) * given.b.at(0, 0)) < 1e-5);
    }
  }));
}

}  // namespace cuda_emulator::test
