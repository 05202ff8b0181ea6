#!/usr/bin/env python3
"""A run is killed in a save, and killed again while it comes back: in the lock, the cleaning, the
going back to an older step, the load, or the first save thereafter. COUNT seeds; the third start
goes on from what was committed, and ends as the undisturbed run does, bit by bit.

Usage: double_faults.py SWITCHYARD MPIRUN COUNT
"""

import os
import re

from soak import COUNT, WITH_FAULTS, DisturbedRuns, main

KILLED = (137, 1)


class DoubleFaults(DisturbedRuns):
    steps = 40
    options = ("--set", f"training.max_steps={steps}", "--set", "checkpoint.interval_steps=4",
               "--set", "zero_optimization.stage=2")

    def setUp(self):
        super().setUp()
        self.kills = {"first": 0, "second": 0}

    def test_a_crash_while_recovering_loses_nothing(self):
        self.run_undisturbed()
        for seed in range(COUNT):
            self.recover_twice()
        self.assertGreater(self.kills["second"], COUNT // 2)
        print(f"counted: {COUNT} seeds, {self.kills['first']} killed in a save and "
              f"{self.kills['second']} again while they came back, 0 lost, all bit-identical")

    def recover_twice(self):
        """`sure`: the step that the next start goes on from, or a later one."""
        sure = self.killed("first", "checkpoint.*", self.chance.randrange(40, 160))
        options = ()
        if sure and self.chance.random() < 0.3:  # later steps are put aside, and a kill meets that
            sure = self.chance.choice(self.steps_on_disk())
            options = ("--resume-step", str(sure))
        point = self.chance.choice(("load.read", "checkpoint.*", "checkpoint.*"))
        nth = self.chance.randrange(1, 10 if point == "load.read" else 50)
        sure = self.killed("second", point, nth, *options) or sure
        self.assertEqual(self.run_to_end(*self.options), 0, self.output)
        if sure is not None:
            resumed = re.search(r"attempt \d+ goes on from step (\d+)", self.output)
            self.assertIsNotNone(resumed, self.output)
            self.assertGreaterEqual(int(resumed.group(1)), sure, self.output)
        self.compare_and_remove()

    def steps_on_disk(self):
        return sorted(int(path.name[5:]) for path in (self.path / "run").glob("step-*"))

    def killed(self, which, point, nth, *options):
        """Returns the last step that was said to be committed."""
        os.environ["SWITCHYARD_FAULT"] = (f"rank={self.chance.randrange(2)},point={point},"
                                          f"nth={nth},action=kill")
        code = self.run_to_end(*self.options, *options, program=WITH_FAULTS)
        del os.environ["SWITCHYARD_FAULT"]
        self.assertIn(code, (0, *KILLED), self.output)
        self.kills[which] += code != 0
        said = re.findall(r"committed step (\d+)", self.output)
        return int(said[-1]) if said else None


if __name__ == "__main__":
    main()
