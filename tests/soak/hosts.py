"""Three hosts, which are network namespaces of this machine, and a job of four ranks on them. Needs
root and ip (iproute2)."""

import os
import shutil
import subprocess

import soak  # noqa: F401, which knows where runs is
from runs import MPIRUN, SWITCHYARD, Runs, processes_in

HOSTS = 3
RANKS = 4  # two of them on the last host

AGENT = """#!/bin/sh
# What mpirun calls in place of ssh: HOST COMMAND...
host=$1
shift
exec ip netns exec "$host" unshare --uts sh -c "hostname $host; $*"
"""


class Hosts(Runs):
    programs = ("ip", "unshare")

    def setUp(self):
        for program in self.programs:
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
