// What the table of options prints must be read back by what it parses with.
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "config/config_text.h"
#include "config/options.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace

TEST_CASE("the resolved configuration reads back to itself") {
  const std::string text =
      config_with(R"("model": {"num_hidden_layers": 3, "num_key_value_heads": 2},
    "moe": {"enabled": true, "layer_freq": [0, 1, 1], "eval_capacity_factor": 2.5, "drop_order": "position"},
    "scheduler": {"type": "WarmupStableDecayLR"}, "training": {"seed": 9007199254740992})");
  const std::string once = to_json(load(text, 2));
  CHECK(to_json(load(once, 2)) == once);
  CHECK(load(once, 2).training.seed == 9007199254740992ULL);
  CHECK(load(once, 2).moe.eval_capacity_factor == 2.5);
}

TEST_CASE("a one-layer model keeps its dense layer through the resolved file") {
  const std::string text = config_with(
      R"("model": {"num_hidden_layers": 1}, "moe": {"enabled": true, "layer_freq": [0]})");
  CHECK(load(to_json(load(text))).moe.layer_freq == std::vector<int>{0});
}

TEST_CASE("--defaults is a valid file of all keys and changes nothing") {
  const std::string defaults = default_config_text();
  CHECK(to_json(load(defaults)) ==
        to_json(load(R"({"train_batch_size": 16, "data": {"path": "data/tokens"}})")));
  for (const Option& option : all_options())
    CHECK_THAT(defaults, contains_text("\"" + std::string(key_of(option.pointer)) + "\":"));
}

TEST_CASE("the schema describes every key, and nothing else is allowed") {
  const auto schema = nlohmann::json::parse(schema_text());
  CHECK(schema["$schema"] == "http://json-schema.org/draft-07/schema#");
  for (const Option& option : all_options()) {
    std::string path = option.pointer;
    for (size_t at = 0; (at = path.find('/', at)) != std::string::npos; at += 12)
      path.replace(at, 1, "/properties/");
    CAPTURE(path);
    const auto& described = schema.at(nlohmann::json::json_pointer(path));
    CHECK(described["description"].get<std::string>().size() > 10);
  }
  CHECK(schema["additionalProperties"] == false);
  CHECK(schema["properties"]["optimizer"]["properties"]["params"]["additionalProperties"] == false);
  CHECK(schema["properties"]["moe"]["properties"]["token_drop_policy"]["enum"] ==
        nlohmann::json({"dropless", "capacity"}));
}

TEST_CASE("every configuration that ships is valid for its number of ranks") {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(SWITCHYARD_SOURCE_DIR "/configs")) {
    CAPTURE(entry.path().string());
    const bool is_grid_of_eight = entry.path().stem() == "moe_64e_8ranks";
    CHECK_NOTHROW(load(read_file(entry.path()), is_grid_of_eight ? 8 : 2));
    ++count;
  }
  CHECK(count >= 4);
}
