#include "model/weight_gradients.h"

#include <utility>

#include "backend/ops.h"

namespace switchyard {
namespace {

// Now, or later with `dy` or a copy of it.
template <typename Add>
void now_or_later(Backend& backend, Pass& pass, Tensor dy, const Add& add,
                  bool dy_is_kept = false) {
  if (pass.weight_work == nullptr) return add(dy);
  if (dy_is_kept) return pass.weight_work->push_back([add, dy] { add(dy); });
  Tensor kept = pass.kept.allocate_like(dy);
  backend.ops().copy(pass.queue, kept, dy);
  pass.weight_work->push_back([add, kept] { add(kept); });
}

}  // namespace

// Gradients are looked up when they are added to: which memory they have depends on when.
void add_matmul_gradient(Backend& backend, Pass& pass, const Parameter& w_NK, Tensor dy_TN,
                         Tensor x_TK, bool dy_is_kept) {
  if (w_NK.is_frozen()) return;
  const auto add = [&ops = backend.ops(), queue = pass.queue, &w_NK, x_TK](Tensor dy) {
    ops.matmul_tn_add(queue, w_NK.gradient(), dy, x_TK);
  };
  now_or_later(backend, pass, dy_TN, add, dy_is_kept);
}

void add_grouped_matmul_gradient(Backend& backend, Pass& pass, const Parameter& w_LNK, Tensor dy_RN,
                                 Tensor x_RK, Tensor begin_L1) {
  if (w_LNK.is_frozen()) return;
  now_or_later(backend, pass, dy_RN,
               [&ops = backend.ops(), queue = pass.queue, &w_LNK, x_RK, begin_L1](Tensor dy) {
                 for (const TrainableRows& experts : w_LNK.trainable)
                   ops.grouped_matmul_tn_add(queue, experts.gradient, dy, x_RK,
                                             begin_L1.rows(experts.begin, experts.count + 1));
               });
}

void add_norm_gradient(Backend& backend, Pass& pass, const Parameter& weight_D, Tensor dy_TD,
                       Tensor x_TD, Tensor inv_rms_T) {
  if (weight_D.is_frozen()) return;
  now_or_later(backend, pass, dy_TD,
               [&ops = backend.ops(), queue = pass.queue, &weight_D, x_TD, inv_rms_T](Tensor dy) {
                 ops.rmsnorm_weight_backward(queue, weight_D.gradient(), dy, x_TD, inv_rms_T);
               });
}

void add_embedding_gradient(Backend& backend, Pass& pass, const Parameter& table_VD, Tensor dy_TD,
                            Tensor ids_T) {
  if (table_VD.is_frozen()) return;
  now_or_later(backend, pass, dy_TD,
               [&ops = backend.ops(), queue = pass.queue, &table_VD, ids_T](Tensor dy) {
                 ops.embedding_backward(queue, table_VD.gradient(), dy, ids_T, table_VD.offset[0],
                                        table_VD.global_shape[0]);
               });
}

void run_weight_work(WeightWork& work) {
  for (const auto& addition : work) addition();
  work.clear();
}

}  // namespace switchyard
