#!/usr/bin/env python3
"""The launchers of a run are killed: mpirun, the batch shell, both with their process groups; COUNT
times each. No process outlives them for long, and the run ends as the undisturbed one does.

Usage: killed_launchers.py SWITCHYARD MPIRUN COUNT
"""

import os
import signal
import time

from soak import COUNT, ROOT, DisturbedRuns, main
from runs import children_of


class KilledLaunchers(DisturbedRuns):
    def test_no_launcher_takes_anything_along(self):
        victims = (self.kill_mpirun, self.kill_shell, self.kill_groups)
        self.disturb(victim for _ in range(COUNT) for victim in victims)
        print(f"counted: {3 * COUNT} launchers killed in {self.runs} runs of 400 steps, 0 lost, no "
              f"process left after 10 s ({self.told()})")

    def command(self, *options, **kinds):
        return [str(ROOT / "launch/local.sh"), "2", "config.json", *options]

    def begin(self):
        """The shell, and mpirun's process id when it has begun in time."""
        shell = self.start(*self.command(*self.options), start_new_session=True)
        while shell.poll() is None and not (found := self.mpirun_of(shell)):
            time.sleep(0.01)
        self.wait_for_a_moment(shell)
        return shell, found

    def mpirun_of(self, shell):
        for child in children_of(shell):
            try:
                with open(f"/proc/{child}/comm") as name:
                    if name.read().strip() in ("mpirun", "orterun"):
                        return child
            except OSError:
                pass  # it has ended meanwhile
        return None

    def end(self, what, shell, allowed):
        """A run that was killed may have ended just before."""
        status = self.finish(shell)
        self.assert_no_process_is_left()
        record = self.record()
        finished = record is not None and record["code"] == 0
        self.note(what, "finished" if finished else status, ("finished", *allowed))
        return 0 if finished else 1

    def kill_mpirun(self):
        shell, mpirun = self.begin()
        try:
            os.kill(mpirun, signal.SIGKILL)
        except ProcessLookupError:
            pass
        return self.end("mpirun", shell, (137,))

    def kill_shell(self):
        """The ranks hear of it, save and stop: not at once."""
        shell, _ = self.begin()
        shell.kill()
        return self.end("shell", shell, (-signal.SIGKILL,))

    def kill_groups(self):
        """Those of the shell and of mpirun; each rank has one of its own."""
        shell, mpirun = self.begin()
        kill_group(shell.pid)
        kill_group(mpirun)
        return self.end("their groups", shell, (-signal.SIGKILL,))


def kill_group(process):
    try:
        os.killpg(process, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it has ended meanwhile


if __name__ == "__main__":
    main()
