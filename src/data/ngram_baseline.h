// Byte n-gram baselines: how well one or two bytes of context predict the next one. What a language
// model must beat before anyone believes that it has learnt anything.
#pragma once

#include "data/dataset.h"

namespace switchyard {

struct NgramBaselines {
  double bigram = 0;   // bits per byte, one byte of context
  double trigram = 0;  // two bytes of context
};

// Witten-Bell smoothed (each order backs off to the next lower one, down to uniform), counted on
// the training part of a byte-tokenised dataset, evaluated on its validation part: the same tokens
// on which the model is validated, ends of documents included.
NgramBaselines ngram_baselines(const Dataset& dataset);

}  // namespace switchyard
