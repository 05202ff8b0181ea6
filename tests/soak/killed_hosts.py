#!/usr/bin/env python3
"""All processes of one of three hosts (network namespaces) are killed, COUNT times: nothing outlives
them for long on the other hosts, and the run ends as the undisturbed one does. Needs root, ip.

Usage: killed_hosts.py SWITCHYARD MPIRUN COUNT
"""

import os
import signal

from hosts import HOSTS, Hosts
from soak import COUNT, DisturbedRuns, main


class KilledHosts(Hosts, DisturbedRuns):
    def test_no_host_takes_anything_along(self):
        self.disturb(lambda: self.kill(number % HOSTS) for number in range(COUNT))
        print(f"counted: {COUNT} hosts killed in {self.runs} runs of {self.steps} steps, 0 lost, no "
              f"process left after 10 s ({self.told()})")

    def kill(self, number):
        process = self.start(*self.command(*self.options))
        self.wait_for_a_moment(process)
        for victim in self.call("ip", "netns", "pids", self.hosts[number]).split():
            try:
                os.kill(int(victim), signal.SIGKILL)
            except ProcessLookupError:
                pass  # it has ended meanwhile
        status = self.finish(process)
        self.assert_no_process_is_left()
        record = self.record()
        finished = record is not None and record["code"] == 0
        what = "mpirun's host" if number == 0 else "another host"
        self.outcomes[f"{what}: {'finished' if finished else status}"] += 1
        return 0 if finished else 1


if __name__ == "__main__":
    main()
