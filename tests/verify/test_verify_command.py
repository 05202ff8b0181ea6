#!/usr/bin/env python3
"""`switchyard verify` as its user meets it: the report, the verdict, the exit code.

Usage: test_verify_command.py SWITCHYARD MPIRUN CONFIGS
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

SWITCHYARD, MPIRUN, CONFIGS = sys.argv[1:4]
MISMATCH = 78
BANNERS = ("MPI_ABORT", "exited on signal", "non-zero status", "PRIMARY job", "mpirun has")

# Dense and MoE layers, uneven pipeline pieces, shared experts; for the grid of each test.
CONFIG = {
    "train_batch_size": 16,
    "gradient_accumulation_steps": 2,
    "gradient_clipping": 1.0,
    "model": {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 8,
              "num_key_value_heads": 4, "intermediate_size": 32, "moe_intermediate_size": 16,
              "tie_word_embeddings": True},
    "moe": {"enabled": True, "num_experts": 4, "top_k": 2, "layer_freq": [1, 0, 1],
            "num_shared_experts": 1},
    "data": {"path": "tokens", "sequence_length": 16},
    "optimizer": {"params": {"lr": 1e-2, "weight_decay": 0.1}},
    "training": {"num_threads": 1},
}

# Grids by number of ranks: every dimension alone and all together.
GRIDS = {
    1: [{}],
    2: [{"tensor_parallel_size": 2}, {"pipeline_parallel_size": 2}, {"expert_parallel_size": 2}],
    4: [{"tensor_parallel_size": 4, "expert_parallel_size": 4, "expert_tensor_parallel_size": 1},
        {"pipeline_parallel_size": 2, "expert_tensor_parallel_size": 2}],
    8: [{"tensor_parallel_size": 2, "pipeline_parallel_size": 2, "expert_parallel_size": 2},
        {"tensor_parallel_size": 8, "expert_parallel_size": 2, "expert_tensor_parallel_size": 4}],
}


class Verify(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.path = pathlib.Path(self.directory.name)

    def run_command(self, *arguments):
        return subprocess.run(arguments, cwd=self.path, capture_output=True, text=True, timeout=100)

    def verify_file(self, ranks, config, *arguments):
        environment = dict(os.environ, OMPI_MCA_mpi_yield_when_idle="1")
        return subprocess.run(
            [MPIRUN, "--bind-to", "none", "--oversubscribe", "-n", str(ranks), SWITCHYARD, "verify",
             config, *arguments], cwd=self.path, capture_output=True, text=True, timeout=100,
            env=environment)

    def verify(self, ranks, grid, *arguments, **sections):
        config = {**CONFIG, "parallelism": grid, **sections}
        (self.path / "config.json").write_text(json.dumps(config))
        return self.verify_file(ranks, "config.json", *arguments)

    def assert_proven(self, result):
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        self.assertRegex(result.stdout.splitlines()[-1], "^OK: dp .* computes what one rank computes$")
        self.assertNotIn("FAIL", result.stdout)

    def assert_at_fault(self, result, what):
        output = result.stdout + result.stderr
        self.assertEqual(result.returncode, MISMATCH, output)
        verdict = result.stdout.splitlines()[-1]
        self.assertRegex(verdict, r"^FAIL: \d+ of \d+ checks on dp ")
        self.assertIn("at fault: " + what, verdict)
        self.assertEqual(output.count("does not compute"), 1, output)
        for banner in BANNERS:
            self.assertNotIn(banner, output)

    def test_layouts_of_1_to_8_ranks_are_proven(self):
        for ranks, grids in GRIDS.items():
            for grid in grids:
                with self.subTest(ranks=ranks, grid=grid):
                    self.assert_proven(self.verify(ranks, grid))

    def test_the_report_says_what_was_compared(self):
        result = self.verify(4, {"tensor_parallel_size": 2}, "--steps", "2", "--all")
        self.assert_proven(result)
        for text in ("initial value", "gradient, step 1", "gradient, step 2", "value, step 2",
                     "loss, step 2", "gradient norm, step 1", "copies over tp (dp, tp)",
                     "experts (edp)", "dense (dp)", "experts.down_proj.weight"):
            self.assertIn(text, result.stdout)
        self.assertNotIn("step 3", result.stdout)
        checks = [line for line in result.stdout.splitlines() if "  ok  " in line]
        self.assertIn(f"{len(checks)} checks, worst first\n", result.stdout)
        self.assertIn("random tokens: there is no tokens.idx", result.stderr)

    def test_the_tokens_of_the_configuration_are_used_if_they_are_there(self):
        (self.path / "text.txt").write_text("In the beginning was the word. " * 100)
        prepared = self.run_command(SWITCHYARD, "prepare", "text.txt", "--output", "tokens")
        self.assertEqual(prepared.returncode, 0, prepared.stderr)
        result = self.verify(2, {"expert_parallel_size": 2})
        self.assert_proven(result)
        self.assertIn("data tokens", result.stderr)
        self.assertNotIn("random", result.stderr)

    def test_f32_and_bf16_are_proven_with_replayed_routing(self):
        for dtype in ("f32", "bf16"):
            for ranks, grid in ((2, {"expert_parallel_size": 2}), (8, GRIDS[8][0])):
                with self.subTest(dtype=dtype, ranks=ranks):
                    result = self.verify(ranks, grid, "--dtype", dtype,
                                         moe={**CONFIG["moe"], "token_drop_policy": "capacity"})
                    self.assert_proven(result)
                    self.assertIn(f"; {dtype} against one rank", result.stdout)
                    together = r"\nall gradients of step 1 together: off f64 by .* is off\): ok\n"
                    (self.assertRegex if dtype == "bf16" else self.assertNotRegex)(
                        result.stdout, together)

    def test_zero_schedules_and_recomputation_are_proven(self):
        grid = {"pipeline_parallel_size": 2}
        for sections in (
                {"zero_optimization": {"stage": 1}, "pipeline": {"schedule": "zb_h1"}},
                {"zero_optimization": {"stage": 2}, "activation_checkpointing": {"policy": "full"},
                 "pipeline": {"schedule": "interleaved_1f1b", "virtual_stages": 2}}):
            with self.subTest(**sections):
                self.assert_proven(self.verify(4, grid, **sections))

    def test_router_biases_are_proven(self):
        result = self.verify(4, {"tensor_parallel_size": 2}, "--all",
                             moe={**CONFIG["moe"], "router_bias_update_rate": 1e-3})
        self.assert_proven(result)
        self.assertRegex(result.stdout, r"value, step 3 .*bias +router biases \(stage\)\n")

    def test_a_fault_in_each_group_is_found_and_named(self):
        grid = {"tensor_parallel_size": 2, "pipeline_parallel_size": 2, "expert_parallel_size": 2,
                "expert_tensor_parallel_size": 1}
        cut_experts = {**grid, "expert_tensor_parallel_size": 2}
        one_head = {"model": {**CONFIG["model"], "num_key_value_heads": 1}}
        for fault, grid, sections, what in (
                ("dp", grid, {}, "gradients of copies over tp, dense, tied embedding: their sum over dp"),
                ("edp", grid, {}, "gradients of experts: their sum over edp"),
                ("edp", grid, {"zero_optimization": {"stage": 2}}, "gradients of experts: their sum over edp"),
                ("kv", grid, one_head, "gradients of key/value copies: their sum over kv"),
                ("tied", grid, {}, "gradients of tied embedding: their sum over tied"),
                ("tp", grid, {}, "tp: wrong without any other dimension"),
                ("ep", grid, {}, "ep: wrong without any other dimension"),
                ("pp", grid, {}, "pp: wrong without any other dimension"),
                ("etp", cut_experts, {}, "etp: wrong without any other dimension")):
            with self.subTest(fault=fault):
                self.assert_at_fault(
                    self.verify(8, grid, "--steps", "2", "--plant-fault", fault, **sections), what)

    def test_a_fault_is_found_in_every_precision(self):
        for dtype in ("f32", "bf16"):
            with self.subTest(dtype=dtype):
                result = self.verify(4, {"expert_parallel_size": 2}, "--dtype", dtype,
                                     "--plant-fault", "edp")
                self.assert_at_fault(result, "gradients of experts: their sum over edp")
                if dtype == "bf16":
                    self.assertRegex(result.stdout, r"\nall gradients of step 1 .*: FAIL\n")

    def test_a_fault_without_effect_is_none(self):
        self.assert_proven(self.verify(2, {"expert_parallel_size": 2}, "--plant-fault", "tp"))
        self.assertEqual(self.verify(1, {}, "--plant-fault", "xp").returncode, 64)
        help_text = self.run_command(SWITCHYARD, "verify", "--help").stdout
        self.assertIn("--dtype", help_text)
        self.assertNotIn("plant", help_text)

    def test_the_shipped_configurations_are_proven_on_8_ranks(self):
        for name in ("quickstart", "quickstart_dense", "switch_8e_top1", "moe_64e_8ranks"):
            with self.subTest(config=name):
                result = self.verify_file(8, f"{CONFIGS}/{name}.json")
                self.assert_proven(result)
                self.assertIn("model.hidden_size", result.stderr)  # what shrinking changed

    def test_shrinking_is_a_choice(self):
        grid = {"expert_parallel_size": 2}
        self.assertNotIn("->", self.verify(2, grid).stderr)
        result = self.verify(2, grid, "--shrink")
        self.assert_proven(result)
        self.assertIn("model.head_dim", self.verify(2, grid, "--shrink", model={
            **CONFIG["model"], "head_dim": 16}).stderr)
        self.assertEqual(self.verify(2, grid, "--shrink", "--no-shrink").returncode, 64)
        whole = self.verify_file(2, f"{CONFIGS}/quickstart.json", "--no-shrink", "--steps", "1", "--set",
                                 "train_batch_size=2", "--set", "data.sequence_length=64")
        self.assert_proven(whole)
        self.assertNotIn("->", whole.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
