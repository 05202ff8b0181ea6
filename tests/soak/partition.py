#!/usr/bin/env python3
"""Three hosts, which are network namespaces of this machine. COUNT times one of them is cut off: the
job ends within 60 s with exit code 76, and names ranks of it. And with one packet in a hundred lost,
a run ends as it does without, bit by bit. Needs root, ip and nft (iproute2, nftables).

Usage: partition.py SWITCHYARD MPIRUN COUNT
"""

import os
import re
import shutil
import subprocess
import time

from soak import COUNT, main
from runs import MPIRUN, SWITCHYARD, Runs, losses, processes_in

HOSTS = 3
RANKS = 4  # two of them on the last host
LIMIT_S = 60
STEPS = 200

AGENT = """#!/bin/sh
# What mpirun calls in place of ssh: HOST COMMAND...
host=$1
shift
exec ip netns exec "$host" unshare --uts sh -c "hostname $host; $*"
"""
LOSS = """
add table inet loss
add chain inet loss input { type filter hook input priority 0; }
add rule inet loss input iifname net0 numgen random mod 100 < 1 counter drop
"""


class Partition(Runs):
    def setUp(self):
        for program in ("ip", "nft", "unshare"):
            if shutil.which(program) is None:
                self.skipTest(f"no {program}: apt-get install iproute2 nftables")
        super().setUp()
        self.prefix = f"soak{os.getpid()}-"
        self.hosts = [f"{self.prefix}{host}" for host in range(HOSTS)]
        self.switch = self.prefix + "switch"
        try:
            self.connect()
        except subprocess.CalledProcessError as error:
            self.skipTest(f"no network namespaces: {' '.join(error.cmd)}: {error.stderr.strip()}")
        agent = self.path / "agent"
        agent.write_text(AGENT)
        agent.chmod(0o755)
        self.addCleanup(self.end_all)

    def call(self, *command, text=""):
        return subprocess.run(command, input=text, check=True, capture_output=True, text=True).stdout

    def namespace(self, name):
        self.call("ip", "netns", "add", name)
        self.addCleanup(self.call, "ip", "netns", "del", name)

    def connect(self):
        self.namespace(self.switch)
        self.call("ip", "-n", self.switch, "link", "add", "bridge", "type", "bridge")
        self.call("ip", "-n", self.switch, "link", "set", "bridge", "up")
        for number, host in enumerate(self.hosts):
            self.namespace(host)
            self.call("ip", "link", "add", "net0", "netns", host, "type", "veth",
                      "peer", "name", f"port{number}", "netns", self.switch)
            self.call("ip", "-n", self.switch, "link", "set", f"port{number}", "master", "bridge", "up")
            self.call("ip", "-n", host, "addr", "add", f"10.77.0.{number + 1}/24", "dev", "net0")
            for link in ("lo", "net0"):
                self.call("ip", "-n", host, "link", "set", link, "up")
            # By itself mpirun waits a quarter of an hour for the daemon of a host that does not
            # answer, though all ranks that it reaches have ended.
            self.call("ip", "netns", "exec", host, "sysctl", "-w", "net.ipv4.tcp_retries2=5")

    def command(self, *options, **kinds):
        places = f"{self.hosts[0]}:1,{self.hosts[1]}:1,{self.hosts[2]}:2"
        mpirun = [MPIRUN, "--host", places, "--mca", "plm", "rsh",
                  "--mca", "plm_rsh_agent", str(self.path / "agent"), "--mca", "btl", "tcp,self",
                  "--mca", "btl_tcp_if_include", "net0", "--mca", "oob_tcp_if_include", "net0",
                  "--bind-to", "none", "-n", str(RANKS)]
        return [str(self.path / "agent"), self.hosts[0], "exec", *mpirun, SWITCHYARD, "train",
                "config.json", "--set", "zero_optimization.stage=2", *options]

    def end_all(self):
        """The daemon of the host that was cut off stays until its connection fails, too."""
        for process in processes_in(self.path):
            try:
                os.kill(process, 9)
            except ProcessLookupError:
                pass

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
