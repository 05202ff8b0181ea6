// The live state of a trainer on this rank, bit by bit: weights, master weights, moments, router
// biases. For tests on the CPU backend, which has them in host memory.
#pragma once

#include <cstddef>
#include <vector>

#include "core/tensor.h"
#include "train/trainer.h"

namespace switchyard::test {

// In the same order for the same configuration and rank. Elements may come twice.
std::vector<Tensor> live_tensors(Trainer& trainer);

using Bits = std::vector<std::vector<std::byte>>;  // of each of them
Bits bits_of(Trainer& trainer);
void write_bits(Trainer& trainer, const Bits& bits);
// Garbage instead of all of them: NaN in every type.
void write_garbage(Trainer& trainer);

}  // namespace switchyard::test
