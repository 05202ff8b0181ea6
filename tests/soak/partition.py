#!/usr/bin/env python3
"""Three hosts, which are network namespaces of this machine. COUNT times one of them is cut off: the
job ends within 60 s with exit code 76, and names ranks of it. And with one packet in a hundred lost,
a run ends as it does without, bit by bit. Needs root, ip and nft (iproute2, nftables).

Usage: partition.py SWITCHYARD MPIRUN COUNT
"""

import re
import shutil
import time

from hosts import HOSTS, Hosts
from soak import COUNT, main
from runs import losses, processes_in

LIMIT_S = 60
STEPS = 200

LOSS = """
add table inet loss
add chain inet loss input { type filter hook input priority 0; }
add rule inet loss input iifname net0 numgen random mod 100 < 1 counter drop
"""


class Partition(Hosts):
    programs = ("ip", "nft", "unshare")

    def ranks_left(self):
        left = []
        for process in processes_in(self.path):
            try:
                with open(f"/proc/{process}/comm") as name:
                    left += [process] if name.read().startswith("switchyard") else []
            except OSError:
                pass  # it has ended meanwhile
        return left

    def test_a_host_that_is_cut_off_ends_the_job(self):
        took = []
        for number in range(COUNT):
            away = 1 + number % (HOSTS - 1)  # not where mpirun is
            process = self.start(*self.command("--set", "training.output_dir=run"))
            self.wait_for_steps(20)
            self.call("ip", "-n", self.switch, "link", "set", f"port{away}", "down")
            begin = time.monotonic()
            status = process.wait(timeout=10 * LIMIT_S)
            took.append(time.monotonic() - begin)
            self.finish(process)
            self.assertEqual(status, 76, self.output)
            self.assertLessEqual(took[-1], LIMIT_S, self.output)
            record = self.assert_record(76, "hang", "")
            ranks = "1" if away == 1 else "2, 3"
            self.assertIn(f"{self.hosts[away]} (rank {ranks})", record["reason"], self.output)
            while self.ranks_left() and time.monotonic() < begin + LIMIT_S:
                time.sleep(0.1)
            self.assertEqual(self.ranks_left(), [], "ranks that run on")
            self.end_all()
            self.call("ip", "-n", self.switch, "link", "set", f"port{away}", "up")
            shutil.rmtree(self.path / "run")
        print(f"counted: a host cut off {COUNT} times, exit code 76 after {min(took):.0f} to "
              f"{max(took):.0f} s")

    def test_lost_packets_change_nothing(self):
        options = ("--set", f"training.max_steps={STEPS}")
        results = []
        for loss in ("", LOSS):
            for host in self.hosts if loss else ():
                self.call("ip", "netns", "exec", host, "nft", "--file", "-", text=loss)
            process = self.start(*self.command(*options))
            process.wait(timeout=10 * LIMIT_S)
            self.assertEqual(self.finish(process), 0, self.output)
            weights = (self.path / "run/model.safetensors").read_bytes()
            results.append((losses(self.metrics()), weights))
            shutil.rmtree(self.path / "run")
        self.assertEqual(results[0], results[1])
        lost = 0
        for host in self.hosts:
            rules = self.call("ip", "netns", "exec", host, "nft", "list", "ruleset")
            lost += int(re.search(r"counter packets (\d+)", rules).group(1))
        self.assertGreater(lost, 0)
        print(f"counted: {lost} packets of 1 % lost in {STEPS} steps, bit-identical")


if __name__ == "__main__":
    main()
