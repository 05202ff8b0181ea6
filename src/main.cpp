// The `switchyard` command: parses the command line, calls the subcommand, reports errors. The only
// catch-all of the project, and the only place that ends the process.
#include <CLI/CLI.hpp>
#include <functional>
#include <map>
#include <optional>

#include "cli/bench.h"
#include "cli/generate.h"
#include "cli/inspect.h"
#include "cli/plan.h"
#include "cli/prepare.h"
#include "cli/start_deadline.h"
#include "cli/this_code.h"
#include "cli/train.h"
#include "cli/verify.h"
#include "comm/collective_error.h"
#include "comm/mpi_runtime.h"
#include "config/config.h"
#include "core/error.h"
#include "core/log.h"

namespace switchyard {
namespace {

int report_errors(const std::function<int()>& command) {
  try {
    return command();
  } catch (const std::exception& error) {
    spdlog::error("{}", error.what());
    return static_cast<int>(exit_code_of(error));
  }
}

// A command on this process alone: MPI is never started.
int run_alone(const std::function<int()>& command) {
  configure_log(0, 1);
  return report_errors(command);
}

// A command on all ranks of a running MPI job. An error that all ranks share ends the job in order,
// with one message and the error's exit code; one rank's own error takes the job down at once.
int run_on_ranks(MpiRuntime& mpi, const std::function<int(Communicator& world)>& command) {
  Communicator& world = mpi.world();
  configure_log(world.rank(), world.size());
  try {
    const int code = command(world);  // the same on all ranks
    if (code != 0) mpi.end_job_together(code);
    return code;
  } catch (const CollectiveError& error) {
    if (world.rank() == 0) spdlog::error("{}", error.what());
    mpi.end_job_together(static_cast<int>(exit_code_of(error)));
  } catch (const std::exception& error) {
    spdlog::error("rank {} of {}: {}", world.rank(), world.size(), error.what());
    mpi.abort_job(static_cast<int>(exit_code_of(error)));
  }
}

int run_together(int argc, char** argv, const std::function<int(Communicator& world)>& command) {
  return report_errors([&] {
    std::optional<StartDeadline> deadline(std::in_place, start_timeout());
    MpiRuntime mpi(argc, argv);
    deadline.reset();
    return run_on_ranks(mpi, command);
  });
}

// What the user asked for: filled by CLI11 while it parses.
struct Request {
  PrepareOptions prepare;
  PlanOptions plan;
  TrainCommand train;
  GenerateOptions generate;
  InspectOptions inspect;
  BenchOptions bench;
  VerifyCommand verify;
  bool print_run_directory = false;                   // instead of training
  bool print_defaults = false, print_schema = false;  // one of the two
  std::function<int()> command;                       // of the subcommand that was given
};

void add_config_options(CLI::App& command, ConfigOptions& options) {
  command.add_option("config", options.path, "The JSON configuration (comments allowed)")
      ->required();
  command.add_option("--set", options.overrides,
                     "Override a key: --set moe.top_k=1 (repeatable; later ones win)");
}

void add_prepare(CLI::App& app, Request& request) {
  auto* command = app.add_subcommand("prepare", "Text or JSONL to token files (.bin/.idx)");
  PrepareOptions& options = request.prepare;
  command->add_option("input", options.inputs, "Text files (one document each) or .jsonl")
      ->required();
  command->add_option("--output", options.output_prefix, "Prefix of the .bin/.idx pair")
      ->required();
  command->add_option("--json-key", options.json_key, "Key of the text in JSONL lines");
  command->add_flag("--force", options.force, "Overwrite an existing output");
  command->callback([&request] {
    request.command = [&] { return run_alone([&] { return run_prepare(request.prepare); }); };
  });
}

void add_plan(CLI::App& app, Request& request) {
  auto* command = app.add_subcommand(
      "plan", "Grid, parameters, memory and pipeline schedule of a job, without starting it");
  add_config_options(*command, request.plan.config);
  command->add_option("--ranks", request.plan.num_ranks, "Ranks of the job")
      ->required()
      ->check(CLI::PositiveNumber);
  FailureRates& failures = request.plan.failures;
  command
      ->add_option("--mtbf-hours", failures.rank_mtbf_hours,
                   "Mean hours between failures of one rank (its GPU and its share of the node)")
      ->check(CLI::PositiveNumber);
  command
      ->add_option("--save-seconds", request.plan.save_s,
                   "Training stands still for a save; default: 3, or by --copy-gb-per-second")
      ->check(CLI::PositiveNumber);
  command
      ->add_option("--persist-seconds", request.plan.persist_s,
                   "From there until it is on the disk; default: 60, or by --write-gb-per-second")
      ->check(CLI::NonNegativeNumber);
  command
      ->add_option("--copy-gb-per-second", request.plan.speeds.copy_gb_per_s,
                   "Of a rank's copy to host memory: how long a save stops training")
      ->check(CLI::PositiveNumber);
  command
      ->add_option("--write-gb-per-second", request.plan.speeds.write_gb_per_s,
                   "Of all ranks together, to the disk: how long until a save is there")
      ->check(CLI::PositiveNumber);
  command
      ->add_option("--restart-seconds", failures.restart_s,
                   "From a failure to the first step after it")
      ->check(CLI::NonNegativeNumber);
  command->callback([&request] {
    request.command = [&] { return run_alone([&] { return run_plan(request.plan); }); };
  });
}

void add_train(CLI::App& app, Request& request, int argc, char** argv) {
  auto* command = app.add_subcommand(
      "train", "Train a model: mpirun -n N switchyard train CONFIG (launch/local.sh binds ranks)");
  add_config_options(*command, request.train.config);
  RunOptions& run = request.train.run;
  command->add_option("--resume-step", run.resume_step,
                      "Go on from this checkpoint, or not at all (default: the newest valid one)");
  command->add_option("--override", run.overrides,
                      "A key that may differ from the checkpoint's: --override optimizer.params.lr "
                      "(repeatable)");
  command->add_option(
      "--init-from", run.init_from,
      "A new run takes its weights from the newest checkpoint of this run directory");
  command->add_flag("--allow-fresh", run.allow_fresh,
                    "Put aside the run that the directory holds, and begin anew");
  command->footer("Keys, defaults and meanings: switchyard config --defaults");
  command->add_flag("--print-run-directory", request.print_run_directory,
                    "Only print training.output_dir");
  command->callback([&request, argc, argv] {
    if (request.print_run_directory) {
      request.command = [&] {
        return run_alone([&] { return print_run_directory(request.train.config); });
      };
      return;
    }
    request.command = [&request, argc, argv] {
      return run_together(argc, argv,
                          [&](Communicator& world) { return run_train(request.train, world); });
    };
  });
}

void add_verify(CLI::App& app, Request& request, int argc, char** argv) {
  auto* command = app.add_subcommand(
      "verify",
      "Prove that a layout computes what one rank computes: mpirun -n N switchyard verify "
      "CONFIG (launch/local.sh N verify CONFIG)");
  VerifyCommand& options = request.verify;
  add_config_options(*command, options.config);
  command->add_option("--steps", options.steps, "Training steps")->check(CLI::PositiveNumber);
  auto* shrink = command->add_flag_callback(
      "--shrink", [&options] { options.shrink = true; },
      "A smaller model on the same grid: the default when the whole one needs too much memory or "
      "time");
  command
      ->add_flag_callback(
          "--no-shrink", [&options] { options.shrink = false; },
          "The whole model, whatever it costs")
      ->excludes(shrink);
  const std::map<std::string, DType> types = {
      {"f64", DType::kF64}, {"f32", DType::kF32}, {"bf16", DType::kBF16}};
  command
      ->add_option_function<std::string>(
          "--dtype", [&options, types](const std::string& name) { options.dtype = types.at(name); },
          "f64 (default), f32 or bf16")
      ->check(CLI::IsMember(types));
  command->add_flag("--all", options.all_checks, "Show every check, not only the worst");
  // Doubles what a group of the grid sums: for tests, which see to it that the proof can fail.
  command->add_option("--plant-fault", options.fault)->group("");
  command->callback([&request, argc, argv] {
    request.command = [&request, argc, argv] {
      return run_together(argc, argv,
                          [&](Communicator& world) { return run_verify(request.verify, world); });
    };
  });
}

void add_generate(CLI::App& app, Request& request) {
  auto* command = app.add_subcommand("generate", "Sample text from a finished run");
  GenerateOptions& options = request.generate;
  command->add_option("run", options.run_directory, "The run directory")->required();
  command->add_option("--prompt", options.prompt, "Text to continue")->required();
  command->add_option("--max-new-tokens", options.sampling.max_new_tokens, "Tokens to sample");
  command
      ->add_option("--temperature", options.sampling.temperature,
                   "0: always the most probable token")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--seed", options.sampling.seed, "The same seed gives the same text");
  const std::map<std::string, Device> devices = {{"cpu", Device::kCpu}, {"cuda", Device::kCuda}};
  command
      ->add_option_function<std::string>(
          "--device",
          [&options, devices](const std::string& name) { options.device = devices.at(name); },
          "cpu or cuda (default: cuda if this build can and there is a GPU)")
      ->check(CLI::IsMember(devices));
  command->add_option("--threads", options.num_threads, "0: all cores of the affinity mask");
  command->callback([&request] {
    request.command = [&] { return run_alone([&] { return run_generate(request.generate); }); };
  });
}

void add_inspect(CLI::App& app, Request& request) {
  auto* command = app.add_subcommand("inspect", "Look into a run directory or a checkpoint");
  InspectOptions& options = request.inspect;
  command->add_option("paths", options.paths, "RUN or RUN/step-*; two checkpoints for --diff")
      ->required();
  command->add_flag("--tensors", options.tensors, "A line for each tensor");
  auto* modes = command->add_option_group("modes")->require_option(0, 1);
  modes->add_flag("--verify", options.verify, "Check every byte of every checkpoint");
  modes->add_flag("--diff", options.diff, "Where two checkpoints differ: tensor, element, state");
  auto* garbage = modes->add_flag("--gc", options.garbage,
                                  "Remove the checkpoints that the run would not keep");
  auto* postmortem = modes->add_flag("--postmortem", options.postmortem,
                                     "What all ranks did before a hang, a crash or an error");
  command->add_flag("--dry-run", options.dry_run, "Only say what would go")->needs(garbage);
  command->add_option("--keep-last", options.keep_last, "Default: checkpoint.keep_last of the run")
      ->check(CLI::PositiveNumber)
      ->needs(garbage);
  command
      ->add_option("--keep-every", options.keep_every, "Default: checkpoint.keep_every of the run")
      ->check(CLI::NonNegativeNumber)
      ->needs(garbage);
  command->add_option("--attempt", options.attempt, "Of the job; 0: the last that left anything")
      ->needs(postmortem);
  command->add_option("--events", options.num_events, "How many of the last, all ranks together")
      ->check(CLI::NonNegativeNumber)
      ->needs(postmortem);
  command->callback([&request] {
    request.command = [&] { return run_alone([&] { return run_inspect(request.inspect); }); };
  });
}

void add_config(CLI::App& app, Request& request) {
  auto* command = app.add_subcommand("config", "What can be configured");
  command->add_flag("--defaults", request.print_defaults, "A commented file of every key");
  command->add_flag("--schema", request.print_schema, "JSON Schema (draft-07) for editors");
  command->require_option(1);
  command->callback([&request] {
    request.command = [&] {
      return run_alone([&] {
        fmt::print("{}\n", request.print_schema ? schema_text() : default_config_text());
        return 0;
      });
    };
  });
}

void add_bench(CLI::App& app, Request& request, int argc, char** argv) {
  auto* bench = app.add_subcommand("bench", "Measure speed beside what the machine can do");
  bench->require_subcommand(1);
  auto* step = bench->add_subcommand("step", "Whole training steps, on random tokens");
  add_config_options(*step, request.bench.config);
  step->add_option("--steps", request.bench.steps, "Measured steps")->check(CLI::PositiveNumber);
  step->callback([&request, argc, argv] {
    request.command = [&request, argc, argv] {
      return run_together(
          argc, argv, [&](Communicator& world) { return run_bench_step(request.bench, world); });
    };
  });
}

std::string version_text(const CodeInfo& code) {
  return fmt::format("{}, revision {}, {}, {}", code.version, code.revision, code.compiler,
                     code.build);
}

int run(int argc, char** argv) {
  CLI::App app("Switchyard: distributed Mixture-of-Experts training");
  app.set_version_flag("--version", version_text(this_code()));
  app.require_subcommand(1);
  Request request;
  add_prepare(app, request);
  add_plan(app, request);
  add_train(app, request, argc, argv);
  add_verify(app, request, argc, argv);
  add_generate(app, request);
  add_inspect(app, request);
  add_config(app, request);
  add_bench(app, request, argc, argv);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : static_cast<int>(ExitCode::kConfig);
  }
  return request.command();
}

}  // namespace
}  // namespace switchyard

int main(int argc, char** argv) { return switchyard::run(argc, argv); }
