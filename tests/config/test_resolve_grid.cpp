// What can be cut over tensor-parallel and expert-parallel ranks, and what is said of what cannot.
#include "config/config_text.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

// Of a model with 8 heads of 32 on four ranks.
std::string with_tensor_parallel(int tp, const std::string& model, const std::string& more = "") {
  return config_with("\"model\": {" + model + "}, \"parallelism\": {\"tensor_parallel_size\": " +
                     std::to_string(tp) + "}" + more);
}

}  // namespace

TEST_CASE("query heads divide over tensor-parallel ranks") {
  CHECK(message_of(with_tensor_parallel(3, "\"intermediate_size\": 1026"), 3) ==
        "c.json:3:55: /parallelism/tensor_parallel_size: 3 does not divide num_attention_heads 8; "
        "nearest that do: 2, 4 (or num_attention_heads 6, 9)");
}

TEST_CASE("key/value heads divide, or are shared by several ranks each") {
  const auto said = [](int tp, int heads) {
    return message_of(
        with_tensor_parallel(tp,
                             "\"num_attention_heads\": 24, \"hidden_size\": 768, "
                             "\"intermediate_size\": 1200, \"num_key_value_heads\": " +
                                 std::to_string(heads)),
        tp);
  };
  CHECK(said(2, 6) == "");
  CHECK(said(6, 6) == "");
  CHECK(said(12, 6) == "");
  CHECK(said(6, 2) == "");
  CHECK(said(8, 1) == "");
  CHECK_THAT(said(4, 6), contains_text("4 neither divides num_key_value_heads 6 nor is a multiple "
                                       "of it; nearest that are: 3, 6"));
  CHECK_THAT(said(3, 2), contains_text("nearest that are: 2, 4"));
}

TEST_CASE("feed-forward widths divide over the ranks that cut them") {
  CHECK_THAT(message_of(with_tensor_parallel(4, "\"intermediate_size\": 1022"), 4),
             contains_text("4 does not divide intermediate_size 1022; nearest that do: 2, 7 (or "
                           "intermediate_size 1020, 1024)"));
  // Without dense layers nothing has that width, with experts one does.
  const std::string moe = ", \"moe\": {\"enabled\": true, \"num_shared_experts\": 1";
  const std::string widths = "\"intermediate_size\": 1022, \"moe_intermediate_size\": ";
  CHECK(message_of(with_tensor_parallel(4, widths + "8", moe + "}"), 4) == "");
  CHECK_THAT(message_of(with_tensor_parallel(4, widths + "6", moe + "}"), 4),
             contains_text("/parallelism/expert_tensor_parallel_size: 4 does not divide "
                           "moe_intermediate_size 6; nearest that do: 3, 6"));
  CHECK_THAT(message_of(with_tensor_parallel(4, widths + "8",
                                             moe + ", \"shared_expert_intermediate_size\": 10}"),
                        4),
             contains_text("4 does not divide shared_expert_intermediate_size 10; nearest that "
                           "do: 2, 5"));
  // Whole experts on tensor-parallel ranks may have any width.
  CHECK(message_of(config_with(R"("model": {"moe_intermediate_size": 7}, "moe": {"enabled": true},
    "parallelism": {"tensor_parallel_size": 2, "expert_tensor_parallel_size": 1}})"),
                   2)
            .find("moe_intermediate_size") == std::string::npos);
}

TEST_CASE("any vocabulary of at least a token per rank is cut") {
  CHECK(message_of(with_tensor_parallel(4, "\"vocab_size\": 257"), 4) == "");
  CHECK(message_of(with_tensor_parallel(4, "\"vocab_size\": 4"), 4) == "");
  CHECK_THAT(message_of(with_tensor_parallel(4, "\"vocab_size\": 3"), 4),
             contains_text("4 ranks for vocab_size 3") && contains_text("choose at most 3"));
}

TEST_CASE("sequence parallelism follows tensor parallelism unless it is set") {
  const auto resolved = [](int tp, const std::string& more) {
    return *load(config_with("\"parallelism\": {\"tensor_parallel_size\": " + std::to_string(tp) +
                             more + "}"),
                 tp)
                .parallelism.sequence_parallel;
  };
  CHECK(!resolved(1, ""));
  CHECK(resolved(2, ""));
  CHECK(!resolved(2, ", \"sequence_parallel\": false"));
  CHECK(resolved(1, ", \"sequence_parallel\": true"));
}

TEST_CASE("more expert-parallel than data-parallel ranks need experts that are cut less") {
  const auto said = [](const std::string& grid) {
    return message_of(config_with("\"moe\": {\"enabled\": true}, \"parallelism\": "
                                  "{\"tensor_parallel_size\": 2, " +
                                  grid + "}"),
                      8);
  };
  CHECK_THAT(said(R"("expert_parallel_size": 8)"),
             contains_text("nearest that do: 4 (or keep 8 with expert_tensor_parallel_size 1)"));
  CHECK(said(R"("expert_parallel_size": 8, "expert_tensor_parallel_size": 1)") == "");
  CHECK(said(R"("expert_parallel_size": 4)") == "");
  CHECK_THAT(said(R"("expert_parallel_size": 4, "expert_tensor_parallel_size": 4)"),
             contains_text("or keep 4 with expert_tensor_parallel_size 2"));
  // No folding helps an expert_parallel_size that no cut of the stage can give.
  CHECK(said(R"("expert_parallel_size": 16)").find("or keep") == std::string::npos);
}
