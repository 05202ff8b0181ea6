// How the layers are cut into pieces of the pipeline, and what is refused.
#include "config/config_text.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

// Of `layers` blocks on `pp` stages; `pipeline` is the section's text.
std::string with_stages(int layers, int pp, const std::string& pipeline = "",
                        const std::string& more = "") {
  return config_with("\"model\": {\"num_hidden_layers\": " + std::to_string(layers) + more +
                     "}, \"parallelism\": {\"pipeline_parallel_size\": " + std::to_string(pp) +
                     "}, \"pipeline\": {" + pipeline + "}");
}

using Blocks = std::vector<int64_t>;

Blocks blocks_of(int layers, int pp, const std::string& pipeline = "",
                 const std::string& more = "") {
  return load(with_stages(layers, pp, pipeline, more), pp).pipeline.layers_per_stage;
}

}  // namespace

TEST_CASE("the cut is balanced, the head counted as what it costs") {
  CHECK(blocks_of(4, 1) == Blocks{4});
  CHECK(blocks_of(8, 4) == Blocks{2, 2, 2, 2});
  CHECK(blocks_of(7, 2) == Blocks{4, 3});
  // A head as expensive as two blocks (each 3 * 256 * 1024 + 4 * 256 * 256 + 256 * 256).
  CHECK(blocks_of(6, 2, "", ", \"vocab_size\": 8704") == Blocks{4, 2});
  // Under what the head costs, here four blocks, the rest is even.
  CHECK(blocks_of(6, 4, "", ", \"vocab_size\": 17408") == Blocks{2, 2, 2, 0});
  // One that costs more than all blocks leaves its stage to it.
  CHECK(blocks_of(3, 2, "", ", \"vocab_size\": 100000") == Blocks{3, 0});
  CHECK(blocks_of(2, 4) == Blocks{0, 1, 1, 0});
  CHECK(blocks_of(8, 2, R"("schedule": "interleaved_1f1b", "virtual_stages": 2)") ==
        Blocks{2, 2, 2, 2});
}

TEST_CASE("what is given is kept when it fits") {
  CHECK(blocks_of(4, 2, R"("layers_per_stage": [4, 0])") == Blocks{4, 0});
  CHECK(message_of(with_stages(4, 2, R"("layers_per_stage": [1, 2])"), 2) ==
        "c.json:3:115: /pipeline/layers_per_stage: the entries sum to 3, but num_hidden_layers is "
        "4");
  CHECK_THAT(message_of(with_stages(4, 2, R"("layers_per_stage": [1, 2, 1])"), 2),
             contains_text("3 entries for pipeline_parallel_size 2 * virtual_stages 1 = 2 pieces"));
  CHECK_THAT(message_of(with_stages(4, 2,
                                    R"("schedule": "interleaved_1f1b", "virtual_stages": 2,
                                       "layers_per_stage": [2, 2])"),
                        2),
             contains_text("2 entries") && contains_text("= 4 pieces"));
  // The balanced cut reads back from the resolved file.
  const std::string resolved = to_json(load(with_stages(7, 2), 2));
  CHECK(load(resolved, 2).pipeline.layers_per_stage == Blocks{4, 3});
}

TEST_CASE("virtual stages need stages, an interleaved schedule and blocks") {
  const auto said = [](int pp, const std::string& pipeline) {
    return message_of(with_stages(4, pp, pipeline), pp);
  };
  CHECK_THAT(said(2, R"("virtual_stages": 2)"),
             contains_text("2 chunks per rank are scheduled by \"interleaved_1f1b\" only"));
  CHECK_THAT(said(1, R"("schedule": "interleaved_1f1b", "virtual_stages": 2)"),
             contains_text("pipeline_parallel_size is 1"));
  CHECK_THAT(said(2, R"("schedule": "interleaved_1f1b", "virtual_stages": 5)"),
             contains_text("5 chunks per rank for 4 blocks in all; choose at most 4"));
  // One chunk is 1f1b: legal on any number of stages.
  CHECK(said(2, R"("schedule": "interleaved_1f1b")") == "");
  CHECK(said(1, R"("schedule": "interleaved_1f1b")") == "");
}

TEST_CASE("any number of micro-batches passes any schedule") {
  for (const std::string schedule : {"gpipe", "1f1b", "zb_h1"})
    for (const int64_t accumulation : {1, 3}) {
      const std::string text =
          "{\"data\": {\"path\": \"x\"}, \"train_micro_batch_size_per_gpu\": 1, "
          "\"parallelism\": {\"pipeline_parallel_size\": 4}, "
          "\"gradient_accumulation_steps\": " +
          std::to_string(accumulation) + ", \"pipeline\": {\"schedule\": \"" + schedule + "\"}}";
      CHECK(load(text, 4).gradient_accumulation_steps == accumulation);
    }
}
