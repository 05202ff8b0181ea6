// The `switchyard` command: parses the command line, calls the subcommand, reports errors. The only
// catch-all of the project, and the only place that ends the process.
#include <CLI/CLI.hpp>
#include <functional>

#include "cli/bench.h"
#include "cli/generate.h"
#include "cli/prepare.h"
#include "cli/train.h"
#include "comm/collective_error.h"
#include "comm/mpi_runtime.h"
#include "config/config.h"
#include "core/error.h"
#include "core/log.h"

namespace switchyard {
namespace {

// A command on this process alone: MPI is never started.
int run_alone(const std::function<int()>& command) {
  configure_log(0, 1);
  try {
    return command();
  } catch (const Error& error) {
    spdlog::error("{}", error.what());
    return static_cast<int>(error.code());
  } catch (const std::exception& error) {
    spdlog::error("{}", error.what());
    return static_cast<int>(ExitCode::kInternal);
  }
}

// A command on all ranks of an MPI job. An error that all ranks share ends the job in order, with
// one message and the error's exit code; one rank's own error takes the job down at once.
int run_together(int argc, char** argv, const std::function<int(Communicator& world)>& command) {
  MpiRuntime mpi(argc, argv);
  Communicator& world = mpi.world();
  configure_log(world.rank(), world.size());
  try {
    return command(world);
  } catch (const CollectiveError& error) {
    if (world.rank() == 0) spdlog::error("{}", error.what());
    mpi.end_job_together(static_cast<int>(error.code()));
  } catch (const Error& error) {
    spdlog::error("rank {} of {}: {}", world.rank(), world.size(), error.what());
    mpi.abort_job(static_cast<int>(error.code()));
  } catch (const std::exception& error) {
    spdlog::error("rank {} of {}: {}", world.rank(), world.size(), error.what());
    mpi.abort_job(static_cast<int>(ExitCode::kInternal));
  }
}

void add_config_options(CLI::App& command, ConfigOptions& options) {
  command.add_option("config", options.path, "The JSON configuration (comments allowed)")->required();
  command.add_option("--set", options.overrides,
                     "Override a key: --set moe.top_k=1 (repeatable; later ones win)");
}

int run(int argc, char** argv) {
  CLI::App app("Switchyard: distributed Mixture-of-Experts training");
  app.set_version_flag("--version", SWITCHYARD_VERSION);
  app.require_subcommand(1);
  std::function<int()> selected;

  PrepareOptions prepare;
  auto* prepare_command = app.add_subcommand("prepare", "Text or JSONL to token files (.bin/.idx)");
  prepare_command->add_option("input", prepare.inputs, "Text files (one document each) or .jsonl")
      ->required();
  prepare_command->add_option("--output", prepare.output_prefix, "Prefix of the .bin/.idx pair")
      ->required();
  prepare_command->add_option("--json-key", prepare.json_key, "Key of the text in JSONL lines");
  prepare_command->add_flag("--force", prepare.force, "Overwrite an existing output");
  prepare_command->callback([&] { selected = [&] { return run_alone([&] { return run_prepare(prepare); }); }; });

  ConfigOptions train;
  auto* train_command = app.add_subcommand(
      "train", "Train a model: mpirun -n N switchyard train CONFIG (launch/local.sh binds ranks)");
  add_config_options(*train_command, train);
  train_command->footer("Keys, defaults and meanings: switchyard config --defaults");
  train_command->callback([&] {
    selected = [&] {
      return run_together(argc, argv, [&](Communicator& world) { return run_train(train, world); });
    };
  });

  GenerateOptions generate;
  auto* generate_command = app.add_subcommand("generate", "Sample text from a finished run");
  generate_command->add_option("run", generate.run_directory, "The run directory")->required();
  generate_command->add_option("--prompt", generate.prompt, "Text to continue")->required();
  generate_command->add_option("--max-new-tokens", generate.sampling.max_new_tokens, "Tokens to sample");
  generate_command->add_option("--temperature", generate.sampling.temperature,
                               "0: always the most probable token")
      ->check(CLI::NonNegativeNumber);
  generate_command->add_option("--seed", generate.sampling.seed, "The same seed gives the same text");
  generate_command->add_option("--threads", generate.num_threads, "0: all cores of the affinity mask");
  generate_command->callback([&] { selected = [&] { return run_alone([&] { return run_generate(generate); }); }; });

  bool print_defaults = false, print_schema = false;
  auto* config_command = app.add_subcommand("config", "What can be configured");
  config_command->add_flag("--defaults", print_defaults, "A commented file of every key");
  config_command->add_flag("--schema", print_schema, "JSON Schema (draft-07) for editors");
  config_command->require_option(1);
  config_command->callback([&] {
    selected = [&] {
      return run_alone([&] {
        fmt::print("{}\n", print_schema ? schema_text() : default_config_text());
        return 0;
      });
    };
  });

  BenchOptions bench;
  auto* bench_command = app.add_subcommand("bench", "Measure speed beside what the machine can do");
  bench_command->require_subcommand(1);
  auto* bench_step_command = bench_command->add_subcommand("step", "Whole training steps");
  add_config_options(*bench_step_command, bench.config);
  bench_step_command->add_option("--steps", bench.steps, "Measured steps")->check(CLI::PositiveNumber);
  bench_step_command->callback([&] {
    selected = [&] {
      return run_together(argc, argv,
                          [&](Communicator& world) { return run_bench_step(bench, world); });
    };
  });

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : static_cast<int>(ExitCode::kConfig);
  }
  return selected();
}

}  // namespace
}  // namespace switchyard

int main(int argc, char** argv) { return switchyard::run(argc, argv); }
