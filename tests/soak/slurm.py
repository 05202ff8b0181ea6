#!/usr/bin/env python3
"""A run under SLURM on this machine whose time is up COUNT times or more: it is put back into the
queue each time, and ends as an undisturbed run does, bit by bit. Brings a SLURM of its own, for
which it needs Debian's slurm-wlm, and root.

Usage: slurm.py SWITCHYARD MPIRUN COUNT
"""

import os
import shutil
import socket
import subprocess
import time

from soak import COUNT, ROOT, WITH_FAULTS, main
from runs import Runs, losses

# SLURM looks every 30 s, and signals whoever has not so long left as to be looked at again before:
# here after 45 to 75 of the 120 s of each start.
LONGEST_START_S = 75
STEP_S = 0.1
STEPS = int(COUNT * LONGEST_START_S / STEP_S)
SETTINGS = ("--set", f"training.max_steps={STEPS}", "--set", "training.stop_margin=15",
            "--set", "checkpoint.interval_steps=100")
# Slow steps, so that a tiny model takes long enough.
SLOW = f"point=train.step,nth=1+,action=sleep:{STEP_S}"

CONF = """
ClusterName=soak
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
AuthInfo=cred_expire=5
CredType=cred/none
StateSaveLocation={path}/state
SlurmdSpoolDir={path}/spool
SlurmctldPidFile={path}/slurmctld.pid
SlurmdPidFile={path}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=pmix_v4
ReturnToService=2
SwitchType=switch/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Slurm(Runs):
    def setUp(self):
        for program in ("slurmctld", "slurmd", "sbatch", "srun"):
            if shutil.which(program) is None:
                self.skipTest(f"no {program}: apt-get install slurm-wlm")
        if os.geteuid() != 0:
            self.skipTest("a SLURM of its own needs root")
        super().setUp()
        self.start_slurm()

    def start_slurm(self):
        home = self.path / "slurm"
        for name in ("state", "spool"):
            (home / name).mkdir(parents=True)
        conf = home / "slurm.conf"
        conf.write_text(CONF.format(host=socket.gethostname().split(".")[0], path=home,
                                    ports=(free_port(), free_port()), cpus=os.cpu_count()))
        self.environment = {**os.environ, "SLURM_CONF": str(conf)}
        for daemon in (["slurmctld", "-D"], ["slurmd", "-D", "-f", str(conf)]):
            log = open(home / f"{daemon[0]}.log", "w")
            self.addCleanup(log.close)
            process = subprocess.Popen(daemon, env=self.environment, stdout=log, stderr=log)
            self.addCleanup(process.wait)
            self.addCleanup(process.terminate)
        for _ in range(30):
            if self.call("sinfo", "--noheader", "--format=%t").strip() == "idle":
                break
            time.sleep(1)
        ranks = self.call("srun", "--immediate=20", "--time=1", "--ntasks=2", "printenv", "PMIX_RANK")
        if sorted(ranks.split()) != ["0", "1"]:
            self.skipTest("SLURM does not start here: " + ranks.strip() + " "
                          + " ".join((home / "slurmctld.log").read_text().split("\n")[-3:]))

    def call(self, *command):
        return subprocess.run(command, cwd=self.path, env=self.environment, text=True, timeout=60,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout

    def field(self, name):
        words = self.call("scontrol", "show", "job", self.job).split()
        return next((word.split("=", 1)[1] for word in words if word.startswith(name + "=")), "")

    def test_requeues_change_nothing(self):
        self.assertEqual(self.run_to_end(*SETTINGS), 0, self.output)
        undisturbed = losses(self.metrics())
        weights = (self.path / "run/model.safetensors").read_bytes()
        shutil.rmtree(self.path / "run")

        self.environment.update(SWITCHYARD=WITH_FAULTS, SWITCHYARD_ROOT=str(ROOT),
                                SWITCHYARD_FAULT=SLOW)
        said = self.call("sbatch", "--ntasks=2", "--time=2", "--signal=B:USR1@45", "--output=log",
                         str(ROOT / "launch/slurm.sbatch"), "config.json", *SETTINGS)
        self.job = said.split()[-1]
        self.addCleanup(lambda: self.call("scancel", self.job))
        self.wait_for_job()
        log = (self.path / "log").read_text()
        restarts = int(self.field("Restarts"))
        self.assertEqual(self.field("JobState"), "COMPLETED", log)
        self.assertGreaterEqual(restarts, COUNT, log)
        self.assertEqual(log.count("the job goes back into the queue"), restarts, log)
        self.assertEqual(losses(self.metrics()), undisturbed, log)
        self.assertEqual((self.path / "run/model.safetensors").read_bytes(), weights, log)
        print(f"counted: {restarts} requeues in a row, {STEPS} steps, bit-identical")

    def wait_for_job(self):
        """Pending between its starts, too."""
        end = time.monotonic() + 180 * (COUNT + 3)
        while self.field("JobState") in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING",
                                         "REQUEUED", "SUSPENDED"):
            self.assertLess(time.monotonic(), end, (self.path / "log").read_text())
            time.sleep(1)


if __name__ == "__main__":
    main()
