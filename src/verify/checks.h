// What verify compares, how, and with which bounds (src/README.md, "Numerics").
//
//   f64   max |a - b| <= 1e-9 max |b|, and zero where the reference is zero. Routing runs free.
//   f32   the same with 1e-5, of losses and gradients; routing is replayed from the reference.
//   bf16  error against an f64 run <= 1.5 times the error of bf16 on one rank against the same run:
//         of all gradients taken together. Errors are root mean squares relative to that of the f64
//         values. Routing is replayed from the f64 run.
//         Each tensor by itself, to name what is wrong, with room for luck: <= 1.5 (1 + 2 /
//         sqrt(n)) times, or half a unit in the last place of bf16 (2^-9), whichever is more. The
//         error of n elements scatters by about 1 / sqrt(2 n) of its size on the grid, and by as
//         much on one rank. So do losses and norms, each a single number, whose error may be zero
//         by luck: of correct layouts it was 0.3 to 9 times that of one rank.
//
// Initial values are equal to the bit in every precision. AdamW divides gradients by their own
// size, so that last bits of tiny ones move weights by whole steps: values after training, and
// gradients after the first step, are compared in f64 only; losses and norms in every step.
#pragma once

#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "verify/job.h"

namespace switchyard {

inline constexpr const char *kLoss = "loss", *kGradientNorm = "gradient norm",
                            *kAllGradients = "all gradients", *kInitialValueOf = "initial value",
                            *kGradientOf = "gradient", *kValueOf = "value", *kCopiesOf = "copies";

struct Check {
  std::string what = {};       // "loss", "gradient norm", ..., or a quantity of a parameter
  int64_t step = 0;            // after how many
  std::string parameter = {};  // its name; none of a loss
  ParameterGroup group = {};   // of the parameter
  double difference = 0, bound = 0;

  bool ok() const { return difference <= bound; }
  // How near to failing, from 0; above 1: failed.
  double badness() const;
};

// max |a - b| / max |b|; infinite when sizes differ or a value is not finite, and with
// `keeps_zeros` also where b is exactly zero and a is not.
double max_difference(std::span<const double> a, std::span<const double> b, bool keeps_zeros);
// The same of root mean squares.
double rms_difference(std::span<const double> a, std::span<const double> b);

// Of many values taken together: squared errors of bf16 against f64, on a grid and on one rank, and
// the squares of the f64 values.
struct JointError {
  double on_grid = 0, on_one_rank = 0, exact = 0;

  void add(std::span<const double> grid, std::span<const double> one_rank,
           std::span<const double> f64);
};

// The jobs on one rank that a layout is held against.
struct Reference {
  DType dtype = DType::kF64;
  JobRecord same = {};   // in `dtype`
  JobRecord exact = {};  // in f64; empty unless `dtype` is bf16
};

class Judge {
 public:
  // The reference is kept.
  explicit Judge(const Reference& reference) : reference_(reference) {}

  // What a job on a grid hands over (job.h), unit by unit.
  void add(Quantity quantity, const GlobalTensors& tensors);
  // All checks of the job, worst first, once it is over. What the reference has and no rank handed
  // over fails.
  std::vector<Check> finish(const JobResult& result);

 private:
  Check judged(std::span<const double> a, std::span<const double> same,
               std::span<const double> exact, bool keeps_zeros) const;
  Check judged_tensor(Quantity quantity, const std::string& name,
                      const std::vector<double>& values) const;
  void add_to_all_gradients(const std::string& name, const std::vector<double>& values);
  void judge_all_gradients();
  void add_reports(const std::vector<StepReport>& reports);
  bool is_judged(Quantity quantity) const;
  int64_t step_of(Quantity quantity) const;

  const Reference& reference_;
  std::vector<Check> checks_;
  JointError all_gradients_;  // of the first step; bf16 only
  std::map<Quantity, std::set<std::string>> seen_;
};

}  // namespace switchyard
