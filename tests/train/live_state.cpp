#include "train/live_state.h"

#include <cstring>

namespace switchyard::test {

std::vector<Tensor> live_tensors(Trainer& trainer) {
  std::vector<Tensor> tensors;
  for (const Parameter* parameter : trainer.parameters()) tensors.push_back(parameter->weight);
  for (const FlatBuffer& group : trainer.optimizer().groups())
    for (const FlatBuffer::Update& update : group.updates())
      for (const Tensor tensor : {update.weight, update.first_moment, update.second_moment})
        tensors.push_back(tensor);
  for (const StateTensor& state : trainer.state()) tensors.push_back(state.tensor);
  return tensors;
}

Bits bits_of(Trainer& trainer) {
  Bits bits;
  for (const Tensor tensor : live_tensors(trainer)) {
    const auto* bytes = static_cast<const std::byte*>(tensor.raw());
    bits.emplace_back(bytes, bytes + tensor.bytes());
  }
  return bits;
}

void write_bits(Trainer& trainer, const Bits& bits) {
  const std::vector<Tensor> tensors = live_tensors(trainer);
  for (size_t i = 0; i < tensors.size(); ++i)
    std::memcpy(tensors[i].raw(), bits.at(i).data(), bits.at(i).size());
}

void write_garbage(Trainer& trainer) {
  for (const Tensor tensor : live_tensors(trainer))
    std::memset(tensor.raw(), 0xFF, static_cast<size_t>(tensor.bytes()));
}

}  // namespace switchyard::test
