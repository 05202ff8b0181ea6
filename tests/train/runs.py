"""What tests of whole runs share: a run of a tiny model through mpirun, and how it ended.

The first arguments of the script that imports it are SWITCHYARD MPIRUN.
"""

import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
import unittest

SWITCHYARD, MPIRUN = sys.argv[1:3]

# With the address sanitizer too, memory that is not there is an error of ours.
ASAN_OPTIONS = os.environ.get("ASAN_OPTIONS", "") + ":allocator_may_return_null=1"
BANNERS = ("MPI_ABORT", "exited on signal", "non-zero", "PRIMARY job")  # of mpirun, around our message

CONFIG = """
{
  "train_batch_size": 4,
  "steps_per_print": 1000000,
  "model": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 32, "moe_intermediate_size": 16},
  "moe": {"enabled": true, "num_experts": 4, "top_k": 2},
  "parallelism": {"expert_parallel_size": 2},
  "data": {"path": "tokens", "sequence_length": 16, "validation_fraction": 0.2},
  "optimizer": {"params": {"lr": 1e-3}},
  "training": {"max_steps": 1000000, "output_dir": "run", "num_threads": 1}
}
"""


class Runs(unittest.TestCase):
    def setUp(self):
        self.output = ""
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.path = pathlib.Path(self.directory.name)
        (self.path / "config.json").write_text(CONFIG)
        words = random.Random(1)
        text = "".join(words.choice(["the ", "dark ", "and ", "light ", "of "]) for _ in range(900))
        (self.path / "text.txt").write_text(text)
        subprocess.run([SWITCHYARD, "prepare", "text.txt", "--output", "tokens"], cwd=self.path,
                       check=True, capture_output=True)

    def command(self, *options, ranks=2, wrapper=(), program=SWITCHYARD):
        return [MPIRUN, "--bind-to", "none", "-n", str(ranks), *wrapper, program, "train",
                "config.json", *options]

    def start(self, *command, **how):
        self.log = open(self.path / "log", "w+")
        self.addCleanup(self.log.close)
        process = subprocess.Popen(command, cwd=self.path, stdout=self.log, stderr=self.log,
                                   env={**os.environ, "SWITCHYARD": SWITCHYARD, "ASAN_OPTIONS": ASAN_OPTIONS},
                                   **how)
        self.addCleanup(lambda: process.poll() is None and process.kill())
        return process

    def finish(self, process):
        status = process.wait(timeout=60)
        self.log.seek(0)
        self.output = self.log.read()
        return status

    def run_to_end(self, *options, **kinds):
        return self.finish(self.start(*self.command(*options, **kinds)))

    def metrics(self):
        """Whole lines that stand."""
        path = self.path / "run/metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in lines if not line["superseded"]]

    def wait_for_steps(self, count):
        for _ in range(2000):
            if len(self.metrics()) >= count:
                return
            time.sleep(0.01)
        self.fail((self.path / "log").read_text())

    def wait_for_more_lines(self, process, count):
        path = self.path / "run/metrics.jsonl"
        number = lambda: path.read_bytes().count(b"\n") if path.exists() else 0
        before = number()
        while number() < before + count and process.poll() is None:
            time.sleep(0.005)

    def assert_nothing_is_left(self):
        left = [path.name for path in (self.path / "run").iterdir()
                if path.name.startswith((".staging", ".deleting"))]
        self.assertEqual(left, [])
        self.assertEqual(processes_in(self.path), [])

    def start_and_wait(self, *options, **kinds):
        process = self.start(*self.command(*options, **kinds))
        self.wait_for_steps(5)
        return process

    def record(self):
        path = self.path / "run/exit.json"
        return json.loads(path.read_text()) if path.exists() else None

    def assert_record(self, code, name, reason):
        record = self.record()
        self.assertIsNotNone(record, self.output)
        self.assertEqual((record["code"], record["name"]), (code, name), self.output)
        self.assertIn(reason, record["reason"])
        return record

    def assert_stopped(self, process, reason, requeue=True, status=75):
        self.assertEqual(self.finish(process), status)
        for banner in BANNERS if status == 75 else ():
            self.assertNotIn(banner, self.output)
        record = self.assert_record(75, "stopped", reason)
        self.assertEqual(record["requeue"], requeue)
        steps = [line["step"] for line in self.metrics() if "lm_loss" in line]
        self.assertEqual(record["step"], steps[-1])
        self.assertEqual(steps, list(range(1, len(steps) + 1)))
        return record


def losses(lines):
    return {line["step"]: (line["lm_loss"], line["grad_norm"]) for line in lines if "lm_loss" in line}


def processes_in(directory):
    """The processes that work in a directory: those of a run and of its launchers."""
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            where = os.readlink(process / "cwd")
        except OSError:
            continue
        if where.startswith(str(directory)):
            found.append(int(process.name))
    return found


def children_of(process):
    output = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True,
                            text=True)
    return [int(pid) for pid in output.stdout.split()]
