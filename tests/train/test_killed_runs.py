#!/usr/bin/env python3
"""Runs that lose ranks: the same command again ends where an undisturbed run ends, bit by bit.

Usage: test_killed_runs.py SWITCHYARD MPIRUN SWITCHYARD_WITH_FAULTS [KILLS]
"""

import os
import random
import signal
import sys
import time
import unittest

from runs import Runs, children_of, losses

WITH_FAULTS = sys.argv[3]
KILLS = int(sys.argv[4]) if len(sys.argv) > 4 else 4
STEPS = 400


class KilledRuns(Runs):
    def options(self):
        return ("--set", f"training.max_steps={STEPS}", "--set", "checkpoint.interval_steps=20",
                "--set", "zero_optimization.stage=2", "--set", "bf16.enabled=true")

    def test_kill_9_of_any_rank_at_any_moment_changes_nothing(self):
        self.assertEqual(self.run_to_end(*self.options()), 0, self.output)
        undisturbed = losses(self.metrics())
        weights = (self.path / "run/model.safetensors").read_bytes()
        (self.path / "run").rename(self.path / "undisturbed")
        self.assertEqual(len(undisturbed), STEPS)

        chance = random.Random()
        killed = []
        for number in range(KILLS):
            process = self.start(*self.command(*self.options()))
            while len(ranks := children_of(process)) < 2:
                time.sleep(0.01)
            if number % 2 == 0:  # some time after the start, or some steps after it
                time.sleep(chance.uniform(0, 0.5))
            else:
                self.wait_for_more_lines(process, chance.randrange(1, STEPS // KILLS))
            if process.poll() is not None:
                self.assertEqual(self.finish(process), 0, self.output)
                killed.append("too late")
                continue
            rank = chance.randrange(len(ranks))
            os.kill(ranks[rank], signal.SIGKILL)
            self.assertIn(self.finish(process), (137, 1), self.output)
            steps = [path.name for path in (self.path / "run").glob("step-*")]
            killed.append(f"rank {rank}, newest {max(steps, default='none')}")
        print(killed, flush=True)
        self.assertEqual(self.run_to_end(*self.options()), 0, self.output)
        self.assertEqual(losses(self.metrics()), undisturbed)
        self.assertEqual((self.path / "run/model.safetensors").read_bytes(), weights)
        self.assert_nothing_is_left()

    def test_nobody_leaves_before_all_are_past_the_commit(self):
        os.environ["SWITCHYARD_FAULT"] = "rank=2,point=checkpoint.gathered,nth=2,action=sleep:3"
        self.addCleanup(os.environ.pop, "SWITCHYARD_FAULT")
        command = self.command("--set", "parallelism.expert_parallel_size=4", ranks=4,
                               program=WITH_FAULTS)
        process = self.start(*command)
        self.wait_for_steps(5)
        process.send_signal(signal.SIGUSR1)
        record = self.assert_stopped(process, "SIGUSR1")
        self.assertTrue((self.path / f"run/step-{record['step']:09}/manifest.json").exists())
        self.assertIn(f"committed step {record['step']}", self.output)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
