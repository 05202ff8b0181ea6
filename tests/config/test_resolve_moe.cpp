// Choices of the router that exclude each other, or that the experts cannot serve.
#include "config/config_text.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

std::string said(const std::string& moe) {
  return message_of(config_with("\"moe\": {\"enabled\": true, " + moe + "}"));
}

}  // namespace

TEST_CASE("groups of experts must be able to serve the choice") {
  CHECK(said(R"("num_experts": 16, "n_group": 4, "topk_group": 2, "top_k": 8)") == "");
  CHECK_THAT(
      said(R"("num_experts": 16, "n_group": 5)"),
      contains_text("/moe/n_group: 5 does not divide num_experts 16; nearest that do: 4, 8"));
  CHECK_THAT(said(R"("num_experts": 16, "n_group": 4, "topk_group": 5)"),
             contains_text("/moe/topk_group: 5 groups of n_group 4; choose 1 to 4"));
  CHECK_THAT(said(R"("topk_group": 2)"), contains_text("2 groups of n_group 1"));
  CHECK_THAT(said(R"("num_experts": 16, "n_group": 4, "topk_group": 1, "top_k": 5)"),
             contains_text("/moe/top_k: 5 experts per token, but topk_group 1 * 4 experts"));
  CHECK_THAT(said(R"("num_experts": 16, "n_group": 16, "topk_group": 4)"),
             contains_text("judged by its two best; choose at most 8"));
  // Without experts none of it matters.
  CHECK(message_of(config_with(R"("moe": {"n_group": 3, "top_k": 20})")) == "");
}

TEST_CASE("sinkhorn excludes every other way to balance") {
  const std::string sinkhorn = R"("router": "sinkhorn", "load_balancing_loss_coef": )";
  CHECK(said(sinkhorn + "0") == "");
  CHECK_THAT(
      said(R"("router": "sinkhorn")"),
      contains_text("/moe/load_balancing_loss_coef: 0.01, but") && contains_text("set it to 0"));
  CHECK_THAT(said(sinkhorn + R"(0, "router_bias_update_rate": 0.001)"),
             contains_text("/moe/router_bias_update_rate: 0.001, but the router is \"sinkhorn\""));
  CHECK_THAT(said(sinkhorn + R"(0, "n_group": 2, "topk_group": 2)"),
             contains_text("which knows no groups"));
  CHECK_THAT(said(sinkhorn + R"(0, "load_balancing_scope": "global_batch")"),
             contains_text("/moe/load_balancing_scope: \"global_batch\", but the router"));
  CHECK(said(R"("router": "sigmoid", "router_bias_update_rate": 0.001)") == "");
  CHECK(said(R"("router": "softmax", "router_bias_update_rate": 0.001)") == "");
}

TEST_CASE("the capacity is counted within a micro-batch, whose drops know nothing of later ones") {
  CHECK_THAT(said(R"("capacity_scope": "global_batch")"),
             contains_text("/moe/capacity_scope") && contains_text("micro_batch"));
  CHECK(said(R"("load_balancing_scope": "global_batch")") == "");
}
