#!/usr/bin/env python3
"""`switchyard inspect` as its user meets it: what it prints, and its exit codes.

Usage: test_inspect_command.py SWITCHYARD MPIRUN
"""

import hashlib
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

SWITCHYARD, MPIRUN = sys.argv[1:3]

CONFIG = {
    "train_batch_size": 4,
    "model": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "intermediate_size": 32, "moe_intermediate_size": 16},
    "moe": {"enabled": True, "num_experts": 4, "top_k": 2},
    "data": {"path": "tokens", "sequence_length": 16},
    "checkpoint": {"interval_steps": 1, "keep_last": 9, "async": False},
    "training": {"max_steps": 4, "output_dir": "run", "num_threads": 1},
}


class Inspect(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        """One run of one rank, of which every test takes a copy."""
        cls.made = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.made.cleanup)
        path = pathlib.Path(cls.made.name)
        (path / "config.json").write_text(json.dumps(CONFIG))
        (path / "text.txt").write_text("In the beginning was the word. " * 100)
        for command in ([SWITCHYARD, "prepare", "text.txt", "--output", "tokens"],
                        [MPIRUN, "--bind-to", "none", "-n", "1", SWITCHYARD, "train", "config.json"]):
            subprocess.run(command, cwd=path, check=True, capture_output=True, timeout=60)

    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.path = pathlib.Path(self.directory.name)
        shutil.copytree(pathlib.Path(self.made.name) / "run", self.path / "run")

    def inspect(self, *arguments, code=0):
        result = subprocess.run([SWITCHYARD, "inspect", *arguments], cwd=self.path,
                                capture_output=True, text=True, timeout=60)
        self.assertEqual(result.returncode, code, result.stdout + result.stderr)
        return result.stdout + result.stderr

    def flip_last_byte(self, name):
        data = bytearray((self.path / name).read_bytes())
        data[-1] ^= 1
        (self.path / name).write_bytes(data)

    def test_a_run_and_a_checkpoint_are_described(self):
        text = self.inspect("run/")
        self.assertRegex(text, r"\n +4 +1 .* 1 rank, zero_stage \d +valid, LATEST\n")
        self.assertEqual(text.count(" valid"), 5, text)
        self.assertIn("attempt 1 ended at step 4", text)
        self.assertIn("wall time", text)
        self.assertNotIn("LATEST (", text)
        text = self.inspect("run/step-000000003")
        for part in ("step 3, by attempt 1", "exp_avg_sq", "next_sample: 12", "w00000.safetensors"):
            self.assertIn(part, text)
        self.assertNotIn("lm_head", text)
        self.assertRegex(self.inspect("run/step-000000003", "--tensors"),
                         r"\n  exp_avg/lm_head.weight +f32 +\(257, 16\) +16448 +0x[0-9a-f]{16} ")

    def test_the_code_and_the_configuration_are_named(self):
        step = self.path / "run/step-000000003"
        manifest = json.loads((step / "manifest.json").read_text())
        self.assertEqual(set(manifest["code"]), {"version", "revision", "compiler", "build"})
        self.assertIn("-march=", manifest["code"]["build"])
        version = subprocess.run([SWITCHYARD, "--version"], check=True, capture_output=True, text=True).stdout
        self.assertEqual(version.strip(), "{version}, revision {revision}, {compiler}, {build}"
                         .format(**manifest["code"]))
        self.assertRegex(manifest["code"]["revision"], r"\A([0-9a-f]{40}(-dirty)?|unknown)\Z")
        # A line of the file holds the configuration.
        line = re.search(r'^ "config": (.*),$', (step / "manifest.json").read_text(), re.MULTILINE)[1]
        self.assertEqual(json.loads(line), manifest["config"])
        self.assertEqual(manifest["config_sha256"], hashlib.sha256(line.encode()).hexdigest())
        text = self.inspect(str(step))
        self.assertIn("  code: version " + version, text)
        self.assertIn("SHA-256 " + manifest["config_sha256"], text)
        environment = json.loads((self.path / "run/environment.json").read_text())
        self.assertEqual(environment["code"], manifest["code"])

    def test_latest_says_which_manifest(self):
        latest = json.loads((self.path / "run/LATEST").read_text())
        manifest = self.path / "run" / latest["directory"] / "manifest.json"
        self.assertEqual(latest, {"step": 4, "directory": "step-000000004",
                                  "manifest_sha256": hashlib.sha256(manifest.read_bytes()).hexdigest()})
        self.assertNotIn("LATEST", self.inspect("--verify", "run"))
        (self.path / "run/LATEST").write_text(json.dumps({**latest, "manifest_sha256": 64 * "0"}))
        for arguments in (["run"], ["--verify", "run"]):  # it is advisory
            self.assertRegex(self.inspect(*arguments),
                             r"\nLATEST \(no job goes by it\): run/LATEST does not match: manifest_sha256 0{64}, "
                             rf"but that of .*manifest.json is {latest['manifest_sha256']}\n")

    def test_verification_names_the_flipped_byte(self):
        self.assertEqual(self.inspect("--verify", "run").count(": right, "), 5)
        self.flip_last_byte("run/step-000000002/w00000.safetensors")
        text = self.inspect("--verify", "run", code=65)
        self.assertEqual(text.count(": right, "), 4)
        self.assertRegex(text, r"run/step-000000002: WRONG: run/step-000000002/w00000.safetensors: "
                               r'tensor ".*" .*, block 0 \(.*is corrupt')
        self.inspect("--verify", "run/step-000000002", code=65)
        self.inspect("--verify", "run/step-000000003")

    def test_the_difference_of_two_checkpoints(self):
        shutil.copytree(self.path / "run", self.path / "other")
        text = self.inspect("--diff", "run/step-000000004", "other/step-000000004")
        self.assertIn("EQUAL", text)
        text = self.inspect("run/step-000000004", "run/step-000000003", "--diff", code=78)
        self.assertRegex(text, r"\n  exp_avg/lm_head.weight f32 \(257, 16\): first at \[\d+, \d+\]: ")
        self.assertIn("  next_sample: 16 | 12\n", text)

    def test_garbage_is_listed_and_removed(self):
        text = self.inspect("--gc", "--dry-run", "run")
        self.assertIn("would remove 0 directories", text)
        text = self.inspect("--gc", "--dry-run", "--keep-last", "3", "run")
        self.assertIn("step-000000000", text)
        self.assertIn("would remove 2 directories", text)
        self.assertIn("would remove 1 directory,",
                      self.inspect("--gc", "--dry-run", "--keep-last", "3", "--keep-every", "4", "run"))
        self.assertTrue((self.path / "run/step-000000000").exists())
        self.assertIn("removed 2 directories", self.inspect("--gc", "--keep-last", "3", "run"))
        self.assertEqual(sorted(path.name for path in (self.path / "run").glob("*step*")),
                         ["step-000000002", "step-000000003", "step-000000004"])

    def test_what_makes_no_sense_is_refused(self):
        for code, arguments in ((64, ["--diff", "run"]), (64, ["run", "run"]),
                                (64, ["--verify", "--gc", "run"]), (64, ["--dry-run", "run"]),
                                (65, ["none"]), (65, ["."]), (65, ["run/step-000000009"])):
            with self.subTest(arguments=arguments):
                self.inspect(*arguments, code=code)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
