// Anomalies: steps that are not applied, and why. A step is skipped on all ranks alike when its
// loss or its gradient is not finite, or when its loss leaps (`loss_spike`): weights, moments and
// router biases stay as they are, and the loss leaves no trace in the window by which later ones
// are judged. The device decides (Ops::clip_coefficient) from numbers that all ranks share, so the
// host does not wait.
//
// A loss leaps when it is more than z_score standard deviations above the mean of the last `window`
// losses of applied steps. Nothing is judged before there are as many. A deviation below a
// millionth of the mean counts as that: losses that never change have none.
#pragma once

#include <string>
#include <vector>

#include "comm/communicator.h"
#include "config/run_config.h"
#include "model/parameter.h"
#include "optim/zero_optimizer.h"

namespace switchyard {

// The largest loss that is no leap, from the losses accepted so far; infinity: nothing is judged.
double loss_limit(const LossSpikeConfig& config, const std::vector<double>& accepted);

// Appends, and forgets what is older than the window.
void accept_loss(const LossSpikeConfig& config, std::vector<double>& accepted, double loss);

// "the loss 9.31 is above 4.52, the limit of loss_spike: 6 standard deviations above the mean of
// 128 losses"
std::string describe_spike(const LossSpikeConfig& config, double loss, double limit);

// Where a loss or gradient that is not finite comes from, for people: the first rank with such a
// loss, the first weights in the order of the model, the first gradient in the order of the
// backward pass, each with its rank. "the loss is not finite on rank 2; weights of
// model.layers.0.mlp.up_proj.weight are not finite on rank 2; ...". `loss_sum`: of this rank.
// Collective over `world`; the same text on all ranks. After a step whose gradients are still kept.
std::string describe_not_finite(Backend& backend, Communicator& world, ZeroOptimizer& optimizer,
                                const ParameterList& parameters, double loss_sum);

}  // namespace switchyard
