"""What the soaks share: a run that is disturbed again and again, and ends as if it never had been.

The first arguments of the script that imports it are SWITCHYARD MPIRUN COUNT. A soak prints
"counted: ..." when it is done; where the machine lacks something it prints "NOT RUN: ..." and ends
with 77.
"""

import collections
import os
import pathlib
import random
import shutil
import sys
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/train"))

from runs import SWITCHYARD, Runs, losses, processes_in  # noqa: E402

WITH_FAULTS = SWITCHYARD + "_with_faults"
COUNT = int(sys.argv[3])
STEPS = 400
ORPHANS_END_S = 10
NOT_RUN = 77

OPTIONS = ("--set", f"training.max_steps={STEPS}", "--set", "checkpoint.interval_steps=20",
           "--set", "checkpoint.keep_last=5", "--set", "zero_optimization.stage=2",
           "--set", "bf16.enabled=true")


def main():
    """skipTest() says what the machine lacks."""
    result = unittest.main(argv=sys.argv[:1], verbosity=0, exit=False).result
    for _, reason in result.skipped:
        print(f"NOT RUN: {reason}")
    sys.exit(1 if not result.wasSuccessful() else NOT_RUN if result.skipped else 0)


class DisturbedRuns(Runs):
    """Calls attempts() at the same run until each has had its turn; whenever the run reaches its
    end, compares it with the undisturbed one and begins anew."""

    options, steps = OPTIONS, STEPS

    def setUp(self):
        super().setUp()
        seed = int(os.environ.get("SWITCHYARD_SOAK_SEED", random.randrange(1 << 32)))
        print(f"SWITCHYARD_SOAK_SEED={seed}", flush=True)
        self.chance = random.Random(seed)
        self.outcomes = collections.Counter()
        self.runs = 0

    def run_undisturbed(self):
        self.assertEqual(self.run_to_end(*self.options), 0, self.output)
        self.undisturbed = losses(self.metrics())
        self.assertEqual(len(self.undisturbed), self.steps)
        self.weights = (self.path / "run/model.safetensors").read_bytes()
        shutil.rmtree(self.path / "run")

    def disturb(self, attempts):
        """Each of `attempts` is called without arguments and returns the exit code."""
        self.run_undisturbed()
        for number, attempt in enumerate(attempts):
            code = attempt()
            self.assert_no_process_is_left()
            if code == 0:
                self.compare_and_remove()
            if (number + 1) % 25 == 0:
                print(f"{number + 1}: {self.told()}", flush=True)
        if (self.path / "run").exists():
            self.assertEqual(self.run_to_end(*self.options), 0, self.output)
            self.compare_and_remove()

    def note(self, what, code, allowed):
        """Counts an attempt, and is not content with codes that nobody foresaw."""
        self.assertIn(code, allowed, f"{what}\n{self.output}")
        self.outcomes[f"{what}: {code}"] += 1
        return code

    def told(self):
        return ", ".join(f"{what} x {n}" for what, n in sorted(self.outcomes.items()))

    def compare_and_remove(self):
        self.assertEqual(losses(self.metrics()), self.undisturbed)
        self.assertEqual((self.path / "run/model.safetensors").read_bytes(), self.weights)
        self.assert_nothing_is_left()
        shutil.rmtree(self.path / "run")
        self.runs += 1

    def assert_no_process_is_left(self):
        end = time.monotonic() + ORPHANS_END_S
        while processes_in(self.path) and time.monotonic() < end:
            time.sleep(0.05)
        self.assertEqual(processes_in(self.path), [], self.output)

    def wait_for_a_moment(self, process):
        """Some time after the start, or some steps after it."""
        if self.chance.random() < 0.5:
            time.sleep(self.chance.uniform(0, 1.5))
        else:
            self.wait_for_more_lines(process, self.chance.randrange(1, self.steps // 4))
