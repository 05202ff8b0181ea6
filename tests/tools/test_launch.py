#!/usr/bin/env python3
"""launch/local.sh and launch/slurm.sbatch with launchers that only pretend: when they restart, what
they pass on, which code they end with.

Usage: test_launch.py SOURCE_DIR
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

SOURCE = pathlib.Path(sys.argv[1]).resolve()

# Stands for mpirun and srun: counts its calls, notes its arguments and does what the test says.
LAUNCHER = """#!/usr/bin/env bash
echo "$(basename "$0") $*" >>"$FAKE/calls"
n=$(wc -l <"$FAKE/calls")
run=$FAKE/run
commit() { mkdir -p "$run/step-$(printf %09d "$1")" && touch "$run/step-$(printf %09d "$1")/manifest.json"; }
record() {  # CODE REQUEUE
  printf '{\\n  "code": %s,\\n  "attempt": %s,\\n  "requeue": %s,\\n  "reason": ""\\n}\\n' \\
    "$1" "$n" "$2" >"$run/exit.json"
}
mkdir -p "$run"
source "$FAKE/attempt"
"""
BINARY = """#!/usr/bin/env bash
[[ $* == *--print-run-directory ]] || exit 99
[[ ! -e $FAKE/wrong_config ]] || exit 64
echo "$FAKE/run"
"""
NOTE = '#!/usr/bin/env bash\necho "$(basename "$0") $*" >>"$FAKE/notes"\n'


class Launch(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.path = pathlib.Path(self.directory.name)
        self.run_directory = self.path / "run"
        self.executable("mpirun", LAUNCHER)
        self.executable("srun", LAUNCHER)
        self.executable("binary", BINARY)
        self.executable("scontrol", NOTE)
        self.environment = {**os.environ, "FAKE": str(self.path), "SWITCHYARD": str(self.path / "binary"),
                            "PATH": f"{self.path}:{os.environ['PATH']}"}

    def executable(self, name, text):
        (self.path / name).write_text(text)
        (self.path / name).chmod(0o755)

    def start(self, attempt, *command, **environment):
        (self.path / "attempt").write_text(attempt)
        return subprocess.Popen([str(SOURCE / "launch" / command[0]), *command[1:]], text=True,
                                env={**self.environment, **environment},
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def finish(self, process):
        self.output = "".join(process.communicate(timeout=60))
        return process.returncode

    def local(self, attempt, *options, backoff="0 0 0"):
        process = self.start(attempt, "local.sh", *options, "2", "config.json", SWITCHYARD_BACKOFF=backoff)
        return self.finish(process)

    def slurm(self, attempt, restarts=0, **environment):
        process = self.start(attempt, "slurm.sbatch", "config.json", SWITCHYARD_ROOT=str(SOURCE),
                             SLURM_JOB_ID="77", SLURM_RESTART_COUNT=str(restarts), **environment)
        return self.finish(process)

    def lines(self, name):
        path = self.path / name
        return path.read_text().splitlines() if path.exists() else []

    def calls(self):
        return len(self.lines("calls"))

    def wait_for(self, name):
        for _ in range(500):
            if (self.path / name).exists():
                return
            time.sleep(0.01)
        self.fail(f"no {name}")

    def exit_json(self):
        return json.loads((self.run_directory / "exit.json").read_text())


class Local(Launch):
    def test_a_run_that_ends_well_is_not_started_again(self):
        self.assertEqual(self.local("exit 0", "--restart"), 0)
        self.assertEqual(self.calls(), 1)
        self.assertIn(f"-n 2 {self.path}/binary train config.json", self.lines("calls")[0])

    def test_failures_are_restarted_with_growing_pauses_until_nothing_is_gained(self):
        self.executable("sleep", NOTE)
        process = self.start("exit 137", "local.sh", "--restart", "2", "config.json")
        self.assertEqual(self.finish(process), 93)
        self.assertEqual(self.calls(), 4)
        self.assertEqual(self.lines("notes"), ["sleep 10", "sleep 30", "sleep 90"])
        record = self.exit_json()
        self.assertEqual(record["code"], 93)
        self.assertEqual(record["step"], 0)
        self.assertIn("137", record["reason"])

    def test_a_newer_checkpoint_starts_the_count_anew(self):
        attempt = "((n == 3)) && commit 120\n exit 137"
        self.assertEqual(self.local(attempt, "--restart"), 93)
        self.assertEqual(self.calls(), 6)
        self.assertEqual(self.exit_json()["step"], 120)

    def test_what_was_committed_before_the_first_start_is_no_gain(self):
        (self.run_directory / "step-000000005").mkdir(parents=True)
        (self.run_directory / "step-000000005/manifest.json").touch()
        self.assertEqual(self.local("exit 1", "--restart"), 93)
        self.assertEqual(self.calls(), 4)

    def test_a_person_who_starts_again_has_all_restarts_again(self):
        for n in (1, 2):
            self.assertEqual(self.local("exit 137", "--restart"), 93)
            self.assertEqual(self.calls(), 4 * n)

    def test_the_exit_record_decides_not_the_status(self):
        self.assertEqual(self.local("record 77 false; exit 137", "--restart"), 77)
        self.assertEqual(self.calls(), 1)
        self.assertEqual(self.local("record 75 true; exit 1"), 75)

    def test_the_record_of_an_earlier_attempt_says_nothing(self):
        self.run_directory.mkdir()
        (self.run_directory / "exit.json").write_text('{\n  "code": 77,\n  "requeue": false\n}\n')
        attempt = "((n < 3)) && exit 137\n record 0 false\n exit 0"
        self.assertEqual(self.local(attempt, "--restart"), 0)
        self.assertEqual(self.calls(), 3)

    def test_what_no_restart_would_change_ends_at_once(self):
        for code in (64, 65, 69, 75, 77):
            (self.path / "calls").unlink(missing_ok=True)
            self.assertEqual(self.local(f"exit {code}", "--restart"), code)
            self.assertEqual(self.calls(), 1)
        for code in (70, 74, 76, 139):
            (self.path / "calls").unlink(missing_ok=True)
            self.assertEqual(self.local(f"((n == 2)) && exit 0\n exit {code}", "--restart"), 0)
            self.assertEqual(self.calls(), 2)

    def test_without_the_option_nothing_is_restarted(self):
        self.assertEqual(self.local("exit 137"), 137)
        self.assertEqual(self.calls(), 1)
        self.assertEqual(self.finish(self.start("", "local.sh", "--restart", "2", "verify", "c.json")), 64)

    def test_a_wrong_configuration_starts_nothing(self):
        (self.path / "wrong_config").touch()
        self.assertEqual(self.local("exit 0", "--restart"), 64)
        self.assertEqual(self.calls(), 0)

    STOPS = """trap 'touch "$FAKE/asked"; record 75 true; exit 1' USR1
touch "$FAKE/ready"; while true; do sleep 0.05; done"""

    def test_a_signal_to_the_script_stops_the_run_with_a_save(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            for name in ("ready", "asked", "calls"):
                (self.path / name).unlink(missing_ok=True)
            process = self.start(self.STOPS, "local.sh", "--restart", "2", "config.json")
            self.wait_for("ready")
            process.send_signal(number)
            self.assertEqual(self.finish(process), 75)
            self.assertTrue((self.path / "asked").exists())
            self.assertEqual(self.calls(), 1)

    def test_two_signals_are_passed_on_as_two(self):
        process = self.start("""asked=0
trap '((++asked < 2)) || exit 75; touch "$FAKE/asked"' USR1
touch "$FAKE/ready"; while true; do sleep 0.05; done""", "local.sh", "2", "config.json")
        self.wait_for("ready")
        process.terminate()
        self.wait_for("asked")
        process.terminate()
        self.assertEqual(self.finish(process), 75)

    def test_a_run_that_fails_while_stopping_is_not_restarted(self):
        process = self.start("""trap 'record 74 false; exit 74' USR1
touch "$FAKE/ready"; while true; do sleep 0.05; done""", "local.sh", "--restart", "2", "config.json")
        self.wait_for("ready")
        process.terminate()
        self.assertEqual(self.finish(process), 74)
        self.assertEqual(self.calls(), 1)

    def test_a_signal_during_the_pause_ends_it(self):
        process = self.start("exit 137", "local.sh", "--restart", "2", "config.json",
                             SWITCHYARD_BACKOFF="60")
        for _ in range(500):
            if (self.run_directory / "attempts_without_commit").exists() and self.calls() == 1:
                break
            time.sleep(0.01)
        time.sleep(0.3)
        process.terminate()
        self.assertEqual(self.finish(process), 75)
        self.assertEqual(self.calls(), 1)

    def test_a_script_that_is_killed_leaves_no_run_behind(self):
        process = self.start(self.STOPS, "local.sh", "2", "config.json")
        self.wait_for("ready")
        process.kill()
        self.wait_for("asked")
        self.finish(process)


class Slurm(Launch):
    def requeued(self):
        return self.lines("notes").count("scontrol requeue 77")

    def test_a_stop_for_want_of_time_goes_back_into_the_queue(self):
        # srun tells the status of a rank that it killed.
        self.assertEqual(self.slurm("commit 5; record 75 true; exit 143"), 75)
        self.assertEqual(self.requeued(), 1)
        self.assertIn("srun --kill-on-bad-exit=1 --wait=60", self.lines("calls")[0])
        self.assertTrue(self.lines("calls")[0].endswith("train config.json"))

    def test_nothing_else_does(self):
        for code in (0, 64, 65, 69, 70, 74, 76, 77):
            self.assertEqual(self.slurm(f"record {code} false; exit {code}"), code)
        self.assertEqual(self.slurm("record 75 false; exit 75"), 75)  # a STOP file
        self.assertEqual(self.slurm("rm -f $run/exit.json; exit 137"), 137)
        self.assertEqual(self.requeued(), 0)

    def test_stops_without_a_newer_checkpoint_come_to_an_end(self):
        for restarts in range(3):
            self.assertEqual(self.slurm("record 75 true; exit 75", restarts), 75)
        self.assertEqual(self.slurm("record 75 true; exit 75", 3), 93)
        self.assertEqual(self.requeued(), 3)
        self.assertEqual(self.exit_json()["code"], 93)

    def test_stops_that_each_save_go_on_for_ever(self):
        for restarts in range(8):
            self.assertEqual(self.slurm("commit $n; record 75 true; exit 75", restarts), 75)
        self.assertEqual(self.requeued(), 8)

    def test_the_warning_signal_reaches_the_ranks(self):
        process = self.start("""trap 'commit 3; record 75 true; exit 75' USR1
touch "$FAKE/ready"; while true; do sleep 0.05; done""", "slurm.sbatch", "config.json",
                             SWITCHYARD_ROOT=str(SOURCE), SLURM_JOB_ID="77")
        self.wait_for("ready")
        process.send_signal(signal.SIGUSR1)
        self.assertEqual(self.finish(process), 75)
        self.assertEqual(self.requeued(), 1)

    def test_the_end_of_the_job_is_told_to_the_ranks(self):
        self.executable("squeue", '#!/usr/bin/env bash\necho "2030-01-02T03:04:05"\n')
        attempt = 'echo "$SLURM_JOB_END_TIME" >>"$FAKE/notes"; exit 0'
        self.slurm(attempt, TZ="UTC")
        self.slurm(attempt, SLURM_JOB_END_TIME="123")
        self.assertEqual(self.lines("notes"), ["1893553445", "123"])

    def test_the_directives(self):
        text = (SOURCE / "launch/slurm.sbatch").read_text()
        for directive in ("--requeue", "--signal=B:USR1@300", "--open-mode=append"):
            self.assertIn(f"#SBATCH {directive}\n", text)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
