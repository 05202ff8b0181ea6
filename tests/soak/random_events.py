#!/usr/bin/env python3
"""COUNT events of any kind at any moment of a run that is started again each time: it ends as the
undisturbed run does, bit by bit.

Usage: random_events.py SWITCHYARD MPIRUN COUNT
"""

import os
import signal
import unittest

from soak import COUNT, WITH_FAULTS, DisturbedRuns, main
from runs import children_of

# What ends a rank before it listens to signals ends the job with that signal; mpirun likewise.
EARLY = (128 + signal.SIGUSR1, 128 + signal.SIGTERM, -signal.SIGUSR1)
KILLED = (137, 1)
WATCHED = ("--set", "watchdog.timeout=2", "--set", "watchdog.gap_factor=2")
# Writes of which the newest checkpoint, and no other file, suffers.
SPOILED = ("checkpoint.shard.write", "checkpoint.manifest.write")


class RandomEvents(DisturbedRuns):
    def test_no_event_changes_the_result(self):
        kinds = (self.kill, self.kill_at_a_point, self.stop_rank, self.signal_mpirun,
                 self.signal_rank, self.stop_file, self.save_file, self.storage_fails,
                 self.bit_flips)
        self.disturb(self.chance.choice(kinds) for _ in range(COUNT))
        print(f"counted: {COUNT} events in {self.runs} runs of 400 steps, all bit-identical "
              f"({self.told()})")

    def begin(self, *options, fault=None):
        if fault:
            os.environ["SWITCHYARD_FAULT"] = fault
        try:
            program = {"program": WITH_FAULTS} if fault else {}
            return self.start(*self.command(*self.options, *options, **program))
        finally:
            os.environ.pop("SWITCHYARD_FAULT", None)

    def send_to_rank(self, process, number):
        ranks = children_of(process)
        if ranks and process.poll() is None:
            try:
                os.kill(self.chance.choice(ranks), number)
            except ProcessLookupError:
                pass  # it has ended meanwhile

    def disturb_rank(self, what, number, allowed, *options, after_lines=0):
        process = self.begin(*options)
        self.wait_for_more_lines(process, after_lines)
        self.wait_for_a_moment(process)
        self.send_to_rank(process, number)
        return self.note(what, self.finish(process), (0, *allowed))

    def kill(self):
        return self.disturb_rank("kill -9", signal.SIGKILL, KILLED)

    def stop_rank(self):
        """Once the watchdog is there: who stops while MPI starts is not noticed by anybody."""
        return self.disturb_rank("SIGSTOP", signal.SIGSTOP, (76,), *WATCHED, after_lines=1)

    def signal_rank(self):
        number = self.chance.choice((signal.SIGUSR1, signal.SIGTERM))
        return self.disturb_rank(f"{number.name} to a rank", number, (75, *EARLY))

    def signal_mpirun(self):
        process = self.begin()
        self.wait_for_a_moment(process)
        if process.poll() is None:
            process.send_signal(signal.SIGUSR1)
        return self.note("SIGUSR1 to mpirun", self.finish(process), (0, 75, *EARLY))

    def stop_file(self):
        process = self.begin()
        self.wait_for_a_moment(process)
        if (self.path / "run").exists():
            (self.path / "run/STOP").touch()
        return self.note("STOP", self.finish(process), (0, 75))

    def save_file(self):
        process = self.begin()
        self.wait_for_a_moment(process)
        if (self.path / "run").exists():
            (self.path / "run/SAVE").touch()
        self.wait_for_a_moment(process)
        self.send_to_rank(process, signal.SIGKILL)
        return self.note("SAVE, then kill -9", self.finish(process), (0, *KILLED))

    def any_point(self, action, point="checkpoint.*", repeats=""):
        return (f"rank={self.chance.randrange(2)},point={point},"
                f"nth={self.chance.randrange(1, 120)}{repeats},action={action}")

    def kill_at_a_point(self):
        process = self.begin(fault=self.any_point("kill"))
        return self.note("kill -9 in a save", self.finish(process), (0, *KILLED))

    def storage_fails(self):
        """Once, for a while, or so often that the run ends."""
        action = self.chance.choice(("enospc", "eio", "short"))
        process = self.begin(fault=self.any_point(action, repeats=self.chance.choice(("", "+"))))
        self.wait_for_a_moment(process)
        self.send_to_rank(process, signal.SIGKILL)
        return self.note(action, self.finish(process), (0, 74, *KILLED))

    def bit_flips(self):
        """Not in the first checkpoint, of which there is no older one."""
        point = self.chance.choice(SPOILED)
        fault = f"rank=0,point={point},nth={self.chance.randrange(3, 12)},action=flip"
        process = self.begin(fault=fault)
        self.wait_for_a_moment(process)
        self.send_to_rank(process, signal.SIGKILL)
        return self.note("flip", self.finish(process), (0, *KILLED))


if __name__ == "__main__":
    main()
