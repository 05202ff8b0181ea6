#!/usr/bin/env python3
"""The `switchyard` command as its user meets it: exit codes, messages, the run directory.

Usage: test_command_line.py SWITCHYARD MPIRUN
"""

import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import unittest

SWITCHYARD, MPIRUN = sys.argv[1:3]
BANNERS = ("MPI_ABORT", "exited on signal", "non-zero status", "PRIMARY job", "mpirun has")

CONFIG = """
{  // two ranks, four experts
  "train_batch_size": 4,
  "steps_per_print": 2,
  "model": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 32, "moe_intermediate_size": 16},
  "moe": {"enabled": true, "num_experts": 4, "top_k": 2},
  "parallelism": {"expert_parallel_size": 2},
  "data": {"path": "tokens", "sequence_length": 16, "validation_fraction": 0.2},
  "optimizer": {"params": {"lr": 1e-2}},
  "training": {"max_steps": 6, "output_dir": "run", "eval_interval": 3, "eval_num_batches": 1,
               "ngram_baselines": true, "num_threads": 1}
}
"""


class CommandLine(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.path = pathlib.Path(self.directory.name)
        self.write("config.json", CONFIG)

    def write(self, name, text):
        (self.path / name).write_text(text)

    def run_command(self, *arguments):
        return subprocess.run(arguments, cwd=self.path, capture_output=True, text=True, timeout=100,
                              errors="backslashreplace")  # an untrained model writes any bytes

    def switchyard(self, *arguments):
        return self.run_command(SWITCHYARD, *arguments)

    def train(self, *arguments, ranks=2, config="config.json"):
        return self.run_command(MPIRUN, "--bind-to", "none", "-n", str(ranks), SWITCHYARD, "train",
                                config, *arguments)

    def prepare(self):
        words = random.Random(1)
        text = "".join(words.choice(["the ", "dark ", "and ", "light ", "of "]) for _ in range(900))
        self.write("text.txt", text)
        result = self.switchyard("prepare", "text.txt", "--output", "tokens")
        self.assertEqual(result.returncode, 0, result.stderr)

    def assert_fails(self, result, code, *said):
        """One message, this exit code, and no banner of mpirun's around it."""
        output = result.stdout + result.stderr
        self.assertEqual(result.returncode, code, output)
        for text in said:
            self.assertEqual(output.count(text), 1, output)
        for banner in BANNERS:
            self.assertNotIn(banner, output)

    def metrics(self, run):
        lines = (self.path / run / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def test_a_run_from_text_to_sampled_text(self):
        self.prepare()
        result = self.train()
        self.assertEqual(result.returncode, 0, result.stderr)
        for text in ("step 1/6", "step 6/6", "tokens/s", "eta", "bits per byte", "bigram", "trigram"):
            self.assertIn(text, result.stderr)

        steps = [line for line in self.metrics("run") if "lm_loss" in line]
        validations = [line for line in self.metrics("run") if "validation_lm_loss" in line]
        self.assertEqual([line["step"] for line in steps], [1, 2, 3, 4, 5, 6])
        self.assertEqual([line["step"] for line in validations], [3, 6])
        self.assertLess(steps[-1]["lm_loss"], steps[0]["lm_loss"])
        self.assertEqual(steps[-1]["tokens"], 6 * 4 * 16)
        self.assertGreater(steps[-1]["all_to_all_bytes"], 0)
        self.assertGreaterEqual(steps[-1]["expert_load_max_over_mean"], 1)

        environment = json.loads((self.path / "run/environment.json").read_text())
        self.assertEqual(environment["ranks"], 2)
        self.assertTrue((self.path / "run/model.safetensors").stat().st_size > 10000)

        generated = [self.switchyard("generate", "run", "--prompt", "the ", "--max-new-tokens", "30",
                                     "--threads", "1") for _ in range(2)]
        self.assertEqual(generated[0].returncode, 0, generated[0].stderr)
        self.assertTrue(generated[0].stdout.startswith("the "))
        self.assertEqual(generated[0].stdout, generated[1].stdout)
        self.assert_fails(self.switchyard("generate", "run", "--prompt", ""), 64, "the prompt is empty")

        # The run directory reproduces the run.
        again = self.train("--set", "training.output_dir=again", config="run/config.json")
        self.assertEqual(again.returncode, 0, again.stderr)
        times = ("_time_s", "tokens_per_s", "tflops", "mfu", "goodput")
        without_times = [[{key: value for key, value in line.items() if not key.endswith(times)}
                          for line in self.metrics(run)] for run in ("run", "again")]
        self.assertEqual(without_times[0], without_times[1])
        self.assertEqual((self.path / "run/model.safetensors").read_bytes(),
                         (self.path / "again/model.safetensors").read_bytes())

        # The same command takes no step twice.
        finished = self.train()
        self.assertEqual(finished.returncode, 0, finished.stderr)
        self.assertIn("training.max_steps 6 is reached already", finished.stderr)
        self.assertEqual([line["step"] for line in self.metrics("run") if "lm_loss" in line],
                         [1, 2, 3, 4, 5, 6])

    def test_a_wrong_configuration_is_told_once_and_ends_with_64_on_any_number_of_ranks(self):
        self.write("config.json", CONFIG.replace("num_experts", "num_expert"))
        for ranks in (1, 2, 3):
            self.assert_fails(self.train(ranks=ranks), 64,
                              'config.json:7:28: /moe/num_expert: unknown key; did you mean "num_experts"?')
        self.write("config.json", CONFIG)
        self.assert_fails(self.train("--set", 'training.frozen=["model.layer.0.mlp.gate.weight"]'), 64,
                          'did you mean one of "model.layers.0.mlp.gate.weight"')
        self.assert_fails(self.train(config="none.json"), 64, "none.json: cannot open")
        self.assert_fails(self.switchyard("train"), 64, "config is required")
        self.assert_fails(self.switchyard("trian"), 64)
        self.assertFalse((self.path / "run").exists())

    def test_what_is_not_built_is_refused_by_key(self):
        self.assert_fails(self.train("--set", "device=cuda"), 64, "/device")

    def test_a_rank_count_that_does_not_fit_is_refused(self):
        self.assert_fails(self.train(ranks=3), 64, "2 does not divide data 3")

    def test_bad_data_is_told_once_and_ends_with_65(self):
        self.assert_fails(self.train(), 65, "tokens.idx: cannot open")
        self.prepare()
        (self.path / "tokens.bin").write_bytes((self.path / "tokens.bin").read_bytes()[:-2])
        self.assert_fails(self.train(), 65, "tokens.bin")

    def test_a_run_directory_that_cannot_be_made_ends_with_74(self):
        self.prepare()
        self.write("file", "in the way")
        self.assert_fails(self.train("--set", "training.output_dir=file/run"), 74, "cannot create file/run")

    def test_a_diverging_run_ends_with_77_and_leaves_its_metrics(self):
        self.prepare()
        result = self.train("--set", "optimizer.params.lr=1e30", "--set", "training.eval_interval=0",
                            "--set", "training.max_steps=20")
        self.assert_fails(result, 77, "10 steps in a row were skipped")
        steps = self.metrics("run")
        last = steps[-1]
        self.assertLess(last["step"], 20)
        self.assertEqual([step["consecutive_skipped_steps"] for step in steps[-10:]], list(range(1, 11)))
        self.assertIn("the gradient of model.norm.weight is not finite", last["skip_reason"])
        self.assertTrue({last["lm_loss"], last["grad_norm"]} & {"NaN", "Infinity"}, last)
        self.assertFalse((self.path / "run/model.safetensors").exists())

    def test_help_defaults_and_schema(self):
        for arguments in (["--help"], ["train", "--help"], ["config", "--help"], ["--version"]):
            self.assertEqual(self.switchyard(*arguments).returncode, 0)
        self.assertIn("--set", self.switchyard("train", "--help").stdout)
        schema = json.loads(self.switchyard("config", "--schema").stdout)
        self.assertEqual(schema["$schema"], "http://json-schema.org/draft-07/schema#")
        self.write("defaults.json", self.switchyard("config", "--defaults").stdout)
        self.assert_fails(self.train(config="defaults.json", ranks=1), 65, "data/tokens.idx: cannot open")

    def test_a_single_core_for_two_threads_is_warned_about(self):
        self.prepare()
        core = str(min(os.sched_getaffinity(0)))
        result = self.run_command("taskset", "-c", core, SWITCHYARD, "train", "config.json", "--set",
                                  "training.num_threads=2", "--set", "parallelism.expert_parallel_size=1")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("2 threads share the 1 core(s)", result.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
