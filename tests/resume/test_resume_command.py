#!/usr/bin/env python3
"""Resuming with the `switchyard` command: a rank is killed, the same command goes on, and the run
is the run without the kill; the options of `train` that belong to resuming.

Usage: test_resume_command.py SWITCHYARD SWITCHYARD_WITH_FAULTS MPIRUN
"""

import json
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import unittest

SWITCHYARD, WITH_FAULTS, MPIRUN = sys.argv[1:4]

CONFIG = """
{
  "train_batch_size": 8, "gradient_accumulation_steps": 2, "gradient_clipping": 1.0,
  "bf16": {"enabled": true}, "zero_optimization": {"stage": 2},
  "model": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 32, "moe_intermediate_size": 16},
  "moe": {"enabled": true, "num_experts": 4, "top_k": 2, "router_bias_update_rate": 0.01},
  "data": {"path": "tokens", "sequence_length": 16, "validation_fraction": 0.2},
  "optimizer": {"params": {"lr": 1e-2}},
  "scheduler": {"type": "WarmupCosineLR", "params": {"warmup_num_steps": 4, "total_num_steps": 12}},
  "checkpoint": {"interval_steps": 5, "keep_last": 10},
  "training": {"max_steps": 12, "output_dir": "run", "num_threads": 1}
}
"""
TIMES = ("_time_s", "tokens_per_s", "tflops", "mfu", "peak_memory_bytes", "arena_growths", "attempt")


class Resume(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.path = pathlib.Path(self.directory.name)
        (self.path / "config.json").write_text(CONFIG)
        self.prepare(seed=1)

    def prepare(self, seed):
        words = random.Random(seed)
        text = "".join(words.choice(["the ", "dark ", "and ", "light ", "of "]) for _ in range(500))
        (self.path / "text.txt").write_text(text)
        subprocess.run([SWITCHYARD, "prepare", "text.txt", "--output", "tokens", "--force"],
                       cwd=self.path, check=True, capture_output=True)

    def train(self, *options, ranks=1, program=SWITCHYARD, fault=None):
        """Exit code; what was said is in self.output."""
        mpirun = [] if ranks == 1 else [MPIRUN, "--bind-to", "none", "-n", str(ranks)]
        environment = {**os.environ, **({"SWITCHYARD_FAULT": fault} if fault else {})}
        result = subprocess.run([*mpirun, program, "train", "config.json", *options], cwd=self.path,
                                capture_output=True, text=True, timeout=100, env=environment)
        self.output = result.stdout + result.stderr
        return result.returncode

    def steps(self, run):
        """The lines of steps that stand."""
        lines = map(json.loads, (self.path / run / "metrics.jsonl").read_text().splitlines())
        return [line for line in lines if "lm_loss" in line and not line["superseded"]]

    def timeless_steps(self, run):
        return [{key: value for key, value in line.items() if not key.endswith(TIMES)}
                for line in self.steps(run)]

    def manifest(self, run, step):
        return json.loads((self.path / run / f"step-{step:09}" / "manifest.json").read_text())

    def digests(self, run, step):
        return {key: tensor["digest"] for key, tensor in self.manifest(run, step)["tensors"].items()}

    def test_a_killed_run_is_the_run_without_the_kill(self):
        self.assertEqual(self.train("--set", "training.output_dir=straight", ranks=2), 0, self.output)
        self.assertEqual(self.train(ranks=2, program=WITH_FAULTS,
                                    fault="rank=1,point=train.step,nth=8,action=kill"), 137, self.output)
        self.assertFalse((self.path / "run/model.safetensors").exists())
        with open(self.path / "run/metrics.jsonl", "a") as file:
            file.write('{"step":9,"lm_')  # as a crash of the machine leaves it
        self.assertEqual(self.train(ranks=2), 0, self.output)
        # From step 5, unless its save was slower than three steps.
        found = re.search(r"attempt 2 goes on from step (\d+)", self.output)
        self.assertIsNotNone(found, self.output)
        step = int(found[1])
        self.assertIn(step, (0, 5))
        self.assertEqual([line["attempt"] for line in self.steps("run")], step * [1] + (12 - step) * [2])
        self.assertEqual(self.timeless_steps("run"), self.timeless_steps("straight"))
        self.assertEqual(self.digests("run", 12), self.digests("straight", 12))
        self.assertEqual(self.manifest("run", 12)["train"], self.manifest("straight", 12)["train"])
        self.assertEqual((self.path / "run/model.safetensors").read_bytes(),
                         (self.path / "straight/model.safetensors").read_bytes())

    def test_other_tokens_are_refused_unless_they_are_meant(self):
        self.assertEqual(self.train("--set", "training.max_steps=5"), 0, self.output)
        self.prepare(seed=2)
        self.assertEqual(self.train(), 64, self.output)
        self.assertIn("samples would be repeated or lost", self.output)
        self.assertEqual(self.train("--override", "data.path"), 0, self.output)

    def test_checkpoints_of_other_steps_and_runs_are_passed_over(self):
        self.assertEqual(self.train("--set", "training.max_steps=6"), 0, self.output)
        (self.path / "run/step-000000006").rename(self.path / "run/step-000000009")
        self.assertEqual(self.train("--set", "training.max_steps=6", "--set",
                                    "training.output_dir=other"), 0, self.output)
        (self.path / "other/step-000000006").rename(self.path / "run/step-000000006")
        self.assertEqual(self.train("--set", "training.max_steps=6"), 0, self.output)
        self.assertIn("holds step 6 (6 in its training state), expected 9", self.output)
        self.assertIn("was it brought from elsewhere?", self.output)
        self.assertIn("attempt 2 goes on from step 5", self.output)

    def test_options_of_a_resume(self):
        self.assertEqual(self.train(), 0, self.output)
        # Another checkpoint than the newest: the steps behind it are taken again.
        first = self.digests("run", 12)
        self.assertEqual(self.train("--resume-step", "5"), 0, self.output)
        self.assertIn("goes on from step 5", self.output)
        self.assertEqual(self.digests("run", 12), first)
        self.assertEqual([line["attempt"] for line in self.steps("run")], 5 * [1] + 7 * [2])
        self.assertEqual(self.train("--resume-step", "7"), 65, self.output)

        longer = ("--set", "training.max_steps=14", "--set", "optimizer.params.lr=0.005")
        self.assertEqual(self.train(*longer), 64, self.output)
        self.assertIn("--override optimizer.params.lr", self.output)
        self.assertEqual(self.train(*longer, "--override", "optimizer.params.lr", "--override",
                                    "scheduler.params.warmup_max_lr"), 0, self.output)
        self.assertEqual(len(self.steps("run")), 14)

        self.assertEqual(self.train("--set", "training.output_dir=child", "--set", "training.max_steps=1",
                                    "--init-from", "run"), 0, self.output)
        last, begun = self.digests("run", 14), self.digests("child", 0)
        weights = [key for key in last if not key.startswith(("exp_avg", "master"))]
        self.assertGreater(len(weights), 30)
        for key in weights:
            self.assertEqual(begun[key], last[key], key)
        self.assertEqual(self.manifest("child", 0)["train"]["step"], 0)

        self.assertEqual(self.train("--allow-fresh", "--set", "training.max_steps=1"), 0, self.output)
        self.assertEqual([line["step"] for line in self.steps("run")], [1])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
