#include "optim/flat_buffer.h"

#include <algorithm>
#include <span>
#include <utility>

#include "backend/ops.h"
#include "core/math.h"
#include "optim/initial_weights.h"

namespace switchyard {
namespace {

Tensor shaped(Tensor flat, int64_t rows, const std::vector<int64_t>& shape) {
  std::vector<int64_t> dims = shape;
  dims[0] = rows;
  return Tensor(flat.raw(), flat.dtype(), std::span<const int64_t>(dims));
}

int64_t bytes_of(DType dtype, int64_t numel) {
  return numel * static_cast<int64_t>(size_in_bytes(dtype));
}

// Of a piece, what lies in [begin, end) of its bucket; counted in the piece.
struct Overlap {
  int64_t begin = 0, numel = 0;
};
Overlap overlap(const Piece& piece, int64_t begin, int64_t end) {
  const int64_t first = std::max(begin, piece.begin);
  const int64_t last = std::min(end, piece.begin + piece.numel);
  return {.begin = first - piece.begin, .numel = std::max<int64_t>(0, last - first)};
}

}  // namespace

FlatBuffer::FlatBuffer(Backend& backend, FlatLayout layout, Communicator& sharers,
                       const RunConfig& config)
    : backend_(&backend),
      layout_(std::move(layout)),
      sharers_(&sharers),
      real_(config.real()),
      accumulator_(accumulator_of(real_)),
      keeps_whole_gradients_(config.zero_optimization.stage < 2 ||
                             config.zero_optimization.reduce_once_per_step),
      keeps_whole_state_(config.zero_optimization.stage == 0) {
  allocate();
  place_weights();
  const auto set_up = [&](Parameter& parameter) {
    initialize(backend, parameter, config.model.initializer_range, config.training.seed);
  };
  for (const Bucket& bucket : layout_.buckets)
    for (const Piece& piece : bucket.pieces)
      if (!bucket.is_staged) set_up(*piece.parameter);
  for (Parameter* parameter : layout_.separate) set_up(*parameter);
  list_updates();
  for (size_t i = 0; i < layout_.buckets.size(); ++i) {
    copy_slice_to_bucket_order(i);
    if (keeps_whole_gradients_) bind_gradients(i, gradients(i));
  }
  refresh_masters();
}

void FlatBuffer::allocate() {
  int64_t in_buckets = 0, staged = 0, separate = 0;
  for (const Bucket& bucket : layout_.buckets)
    (bucket.is_staged ? staged : in_buckets) += bucket.size;
  for (const Parameter* parameter : layout_.separate) separate += separate_numel(*parameter);
  const int64_t slices = div_exact(layout_.size, layout_.num_sharers);
  const int64_t kept = keeps_whole_state_ ? layout_.size : slices;
  const int64_t num_states = real_ == accumulator_ ? 2 : 3;

  weight_memory_ = Buffer(*backend_, bytes_of(real_, in_buckets + separate));
  staging_memory_ = Buffer(*backend_, bytes_of(real_, staged));
  const int64_t num_gradients = keeps_whole_gradients_ ? layout_.size : slices;
  gradient_memory_ = Buffer(*backend_, bytes_of(accumulator_, num_gradients));
  state_memory_ = Buffer(*backend_, bytes_of(accumulator_, num_states * kept));

  gradients_ = gradient_memory_.tensor(accumulator_, {num_gradients});
  const Tensor states = state_memory_.tensor(accumulator_, {num_states * kept});
  first_moments_ = states.rows(0, kept);
  second_moments_ = states.rows(kept, kept);
  if (num_states > 2) masters_ = states.rows(2 * kept, kept);
  for (Tensor tensor : {gradients_, states, weight_memory_.tensor(real_, {in_buckets + separate}),
                        staging_memory_.tensor(real_, {staged})})
    backend_->ops().fill(backend_->compute_queue(), tensor, 0.0);
}

// Buckets first, then the weights outside them.
void FlatBuffer::place_weights() {
  const auto item = static_cast<int64_t>(size_in_bytes(real_));
  Tensor memory = weight_memory_.tensor(real_, {weight_memory_.bytes() / item});
  Tensor staging = staging_memory_.tensor(real_, {staging_memory_.bytes() / item});
  const auto take = [](Tensor& from, int64_t numel) {
    const Tensor taken = from.rows(0, numel);
    from = from.rows(numel, from.numel() - numel);
    return taken;
  };
  for (const Bucket& bucket : layout_.buckets)
    weights_.push_back(take(bucket.is_staged ? staging : memory, bucket.size));
  std::map<const Parameter*, Tensor> separate;
  for (Parameter* parameter : layout_.separate) {
    const Tensor weight = take(memory, separate_numel(*parameter));
    separate[parameter] = weight;
    parameter->weight = shaped(weight, parameter->shape[0], parameter->shape);
  }
  for (size_t i = 0; i < layout_.buckets.size(); ++i) {
    std::vector<Tensor>& pieces = piece_weights_.emplace_back();
    for (const Piece& piece : bucket(i).pieces) {
      Parameter& parameter = *piece.parameter;
      if (bucket(i).is_staged) {
        pieces.push_back(separate.at(&parameter).rows(piece.source, piece.numel));
      } else {
        pieces.push_back(weights_[i].rows(piece.begin, piece.numel));
        parameter.weight = shaped(pieces.back(), parameter.shape[0], parameter.shape);
      }
    }
  }
}

void FlatBuffer::list_updates() {
  for (size_t i = 0; i < layout_.buckets.size(); ++i) {
    const int64_t slice = bucket(i).size / layout_.num_sharers;
    const int64_t begin = keeps_whole_state_ ? 0 : slice * sharers_->rank();
    const int64_t end = keeps_whole_state_ ? bucket(i).size : begin + slice;
    for (size_t p = 0; p < bucket(i).pieces.size(); ++p) {
      const Piece& piece = bucket(i).pieces[p];
      const Overlap part = overlap(piece, begin, end);
      if (part.numel == 0) continue;
      const auto state = [&](Tensor kept) {
        return mine(kept, keeps_whole_state_, i).rows(piece.begin + part.begin - begin, part.numel);
      };
      const Tensor weight = piece_weights_[i][p].rows(part.begin, part.numel);
      const bool has_master = !masters_.is_none();
      updates_.push_back(
          {.parameter = piece.parameter,
           .begin = piece.source + part.begin,
           .weight = has_master ? state(masters_) : weight,
           .rounded_weight = has_master ? weight : Tensor(),
           .first_moment = state(first_moments_),
           .second_moment = state(second_moments_),
           .gradient = my_gradients(i).rows(piece.begin + part.begin - begin, part.numel),
           .weight_decay = piece.parameter->weight_decay});
    }
  }
}

void FlatBuffer::refresh_masters() const {
  for (const Update& update : updates_)
    if (!update.rounded_weight.is_none())
      backend_->ops().convert(backend_->compute_queue(), update.weight, update.rounded_weight);
}

Tensor FlatBuffer::gradients(size_t i) const {
  return gradients_.rows(bucket(i).begin, bucket(i).size);
}

Tensor FlatBuffer::mine(Tensor kept, bool is_whole, size_t i) const {
  if (!is_whole)
    return kept.rows(bucket(i).begin / layout_.num_sharers, bucket(i).size / layout_.num_sharers);
  const Tensor whole = kept.rows(bucket(i).begin, bucket(i).size);
  return keeps_whole_state_ ? whole : my_slice(whole);
}

Tensor FlatBuffer::my_gradients(size_t i) const {
  return mine(gradients_, keeps_whole_gradients_, i);
}

Tensor FlatBuffer::my_masters(size_t i) const { return mine(masters_, keeps_whole_state_, i); }

Tensor FlatBuffer::my_slice(Tensor whole) const {
  const int64_t slice = div_exact(whole.numel(), layout_.num_sharers);
  return whole.rows(slice * sharers_->rank(), slice);
}

Tensor FlatBuffer::gradient_slice(size_t i) const {
  return keeps_whole_state_ ? my_slice(my_gradients(i)) : my_gradients(i);
}

void FlatBuffer::bind_gradients(size_t i, Tensor whole) const {
  for (const Piece& piece : bucket(i).pieces) {
    TrainableRows& rows = piece.parameter->trainable[piece.range];
    rows.gradient = whole.is_none() ? Tensor()
                                    : shaped(whole.rows(piece.begin, piece.numel), rows.count,
                                             piece.parameter->shape);
  }
}

void FlatBuffer::copy_slice_to_bucket_order(size_t i) const {
  if (!bucket(i).is_staged) return;
  const int64_t slice = bucket(i).size / layout_.num_sharers;
  const int64_t begin = slice * sharers_->rank();
  for (size_t p = 0; p < bucket(i).pieces.size(); ++p) {
    const Piece& piece = bucket(i).pieces[p];
    const Overlap part = overlap(piece, begin, begin + slice);
    if (part.numel > 0)
      backend_->ops().copy(backend_->compute_queue(),
                           weights_[i].rows(piece.begin + part.begin, part.numel),
                           piece_weights_[i][p].rows(part.begin, part.numel));
  }
}

void FlatBuffer::copy_from_bucket_order(size_t i) const {
  if (!bucket(i).is_staged) return;
  for (size_t p = 0; p < bucket(i).pieces.size(); ++p) {
    const Piece& piece = bucket(i).pieces[p];
    backend_->ops().copy(backend_->compute_queue(), piece_weights_[i][p],
                         weights_[i].rows(piece.begin, piece.numel));
  }
}

MemoryOfGroup FlatBuffer::memory() const {
  const auto real = static_cast<double>(size_in_bytes(real_));
  const auto accumulator = static_cast<double>(size_in_bytes(accumulator_));
  const double d = layout_.num_sharers;
  const double states = real_ == accumulator_ ? 2 : 3;

  MemoryOfGroup memory = {.key = layout_.key,
                          .num_sharers = layout_.num_sharers,
                          .trained_elements = layout_.trained_elements,
                          .frozen_elements = layout_.frozen_elements};
  memory.bytes_per_trained_element = real + accumulator * (keeps_whole_gradients_ ? 1 : 1 / d) +
                                     accumulator * states * (keeps_whole_state_ ? 1 : 1 / d);
  memory.formula_bytes =
      memory.bytes_per_trained_element * static_cast<double>(memory.trained_elements) +
      real * static_cast<double>(memory.frozen_elements);
  memory.staging_bytes = staging_memory_.bytes();
  memory.allocated_bytes = weight_memory_.bytes() + staging_memory_.bytes() +
                           gradient_memory_.bytes() + state_memory_.bytes();
  memory.padding_bytes =
      memory.allocated_bytes - memory.staging_bytes - static_cast<int64_t>(memory.formula_bytes);
  return memory;
}

BucketsByUnit buckets_by_unit(std::vector<FlatBuffer>& groups) {
  BucketsByUnit units;
  for (FlatBuffer& group : groups)
    for (size_t i = 0; i < group.layout().buckets.size(); ++i)
      units[group.bucket(i).unit].push_back({.group = &group, .bucket = i});
  return units;
}

}  // namespace switchyard
