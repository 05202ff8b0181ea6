#include "optim/shard_reader.h"

#include <algorithm>
#include <functional>

namespace switchyard {
namespace {

template <typename T>
std::vector<double> download_as(Backend& backend, Tensor tensor) {
  std::vector<T> values(static_cast<size_t>(tensor.numel()));
  backend.download(backend.compute_queue(), values.data(), tensor);
  backend.host_wait(backend.record(backend.compute_queue()));
  std::vector<double> doubles(values.size());
  std::transform(values.begin(), values.end(), doubles.begin(), [](T value) {
    if constexpr (std::is_same_v<T, BFloat16>)
      return static_cast<double>(static_cast<float>(value));
    else
      return static_cast<double>(value);
  });
  return doubles;
}

std::vector<double> download(Backend& backend, Tensor tensor) {
  switch (tensor.dtype()) {
    case DType::kF64:
      return download_as<double>(backend, tensor);
    case DType::kBF16:
      return download_as<BFloat16>(backend, tensor);
    default:
      return download_as<float>(backend, tensor);
  }
}

// The whole bucket from the slices of its sharers, or from what this rank keeps of all of it.
std::vector<double> whole_bucket(Backend& backend, const FlatBuffer& group, Tensor mine) {
  if (group.keeps_whole_state()) return download(backend, mine);
  const int64_t numel = mine.numel() * group.layout().num_sharers;
  const Buffer memory(backend, numel * static_cast<int64_t>(size_in_bytes(mine.dtype())));
  const Tensor whole = memory.tensor(mine.dtype(), {numel});
  const Queue queue = backend.compute_queue();
  backend.wait(queue, group.sharers().all_gather(whole, mine, backend.record(queue)));
  return download(backend, whole);
}

// Overwrites what of the parameter lies in buckets. `mine` is what this rank keeps of a bucket.
void read_pieces(Backend& backend, const std::vector<FlatBuffer>& groups,
                 const Parameter& parameter, std::vector<double>& values,
                 const std::function<Tensor(const FlatBuffer&, size_t bucket)>& mine) {
  for (const FlatBuffer& group : groups)
    for (size_t i = 0; i < group.layout().buckets.size(); ++i) {
      std::vector<double> bucket;
      for (const Piece& piece : group.bucket(i).pieces) {
        if (piece.parameter != &parameter) continue;
        if (bucket.empty()) bucket = whole_bucket(backend, group, mine(group, i));
        const auto from = bucket.begin() + static_cast<ptrdiff_t>(piece.begin);
        const int64_t count =
            parameter.trainable[piece.range].count * parameter.row_numel();  // without padding
        std::copy(from, from + static_cast<ptrdiff_t>(count),
                  values.begin() + static_cast<ptrdiff_t>(piece.source));
      }
    }
}

}  // namespace

std::vector<double> read_gradient(Backend& backend, const std::vector<FlatBuffer>& groups,
                                  const Parameter& parameter) {
  std::vector<double> values(static_cast<size_t>(parameter.numel()), 0.0);
  read_pieces(backend, groups, parameter, values,
              [](const FlatBuffer& group, size_t bucket) { return group.my_gradients(bucket); });
  return values;
}

std::vector<double> read_weight(Backend& backend, const std::vector<FlatBuffer>& groups,
                                const Parameter& parameter) {
  std::vector<double> values = download(backend, parameter.weight);
  if (parameter.weight.dtype() == DType::kBF16)
    read_pieces(backend, groups, parameter, values,
                [](const FlatBuffer& group, size_t bucket) { return group.my_masters(bucket); });
  return values;
}

}  // namespace switchyard
