#!/usr/bin/env python3
"""How runs end, through mpirun: each exit code once, the record in RUN/exit.json, the signals.

Usage: test_exit_codes.py SWITCHYARD MPIRUN LOCAL_SH
"""

import json
import os
import signal
import subprocess
import sys
import time
import unittest

from runs import SWITCHYARD, Runs, children_of

LOCAL_SH = sys.argv[3]

class ExitCodes(Runs):
    def test_0_training_has_finished(self):
        self.assertEqual(self.run_to_end("--set", "training.max_steps=7"), 0)
        record = self.assert_record(0, "ok", "finished")
        self.assertEqual((record["step"], record["rank"], record["attempt"]), (7, 0, 1))
        goodput = json.loads((self.path / "run/goodput.json").read_text())
        self.assertAlmostEqual(sum(goodput["seconds"].values()), goodput["wall_s"],
                               delta=0.01 * goodput["wall_s"])
        self.assertEqual(self.metrics()[-1]["goodput"]["attempts"], 1)
        for bucket in ("productive", "data", "init"):
            self.assertGreater(goodput["seconds"][bucket], 0)

    def test_64_a_wrong_configuration(self):
        self.assertEqual(self.run_to_end("--set", "moe.top_k=9"), 64)
        self.assertIsNone(self.record())

    def test_65_bad_data(self):
        (self.path / "tokens.bin").write_bytes(b"xx")
        self.assertEqual(self.run_to_end(), 65)

    def test_70_out_of_memory(self):
        self.assertEqual(self.run_to_end("--set", "model.hidden_size=1048576"), 70)
        self.assert_record(70, "internal", "out of memory")

    def test_74_a_disk_that_is_full(self):
        limited = ("bash", "-c", 'trap "" XFSZ; ulimit -f 512; exec "$@"', "limited")
        # A shard does not fit, metrics do.
        self.assertEqual(self.run_to_end("--set", "model.hidden_size=128", wrapper=limited), 74)
        self.assert_record(74, "storage", "3 saves in a row have failed")
        self.assertIn("File too large", self.output)

    def test_77_a_loss_that_is_not_finite(self):
        self.assertEqual(self.run_to_end("--set", "optimizer.params.lr=1e30"), 77)
        self.assert_record(77, "numeric", "")

    def test_93_a_failure_that_restarts_do_not_mend(self):
        process = self.start("env", "SWITCHYARD_BACKOFF=0 0 0", LOCAL_SH, "--restart", "2", "config.json",
                             "--set", "model.hidden_size=1048576", "--set", "training.output_dir=run")
        self.assertEqual(self.finish(process), 93, self.output)
        self.assert_record(93, "no_progress", "ended with 7")


class Stops(Runs):
    def test_usr1_to_mpirun(self):
        process = self.start_and_wait()
        process.send_signal(signal.SIGUSR1)
        self.assert_stopped(process, "SIGUSR1 (to ")  # the other rank's may come after the vote

    def test_usr1_or_term_to_one_rank(self):
        for number, rank in ((signal.SIGUSR1, 0), (signal.SIGTERM, 1)):
            process = self.start_and_wait("--set", "training.output_dir=run")
            os.kill(children_of(process)[rank], number)
            self.assert_stopped(process, f"{number.name} (to 1 rank)")
            (self.path / "run").rename(self.path / f"run-{number.name}")

    def test_term_to_mpirun_leaves_two_seconds_and_status_1_but_the_record_tells(self):
        process = self.start_and_wait()
        process.terminate()
        self.assert_stopped(process, "SIGTERM", status=1)
        self.assertIn("SIGTERM and Ctrl-C make mpirun kill its ranks", self.output)

    def test_int_to_a_single_process(self):
        process = self.start(SWITCHYARD, "train", "config.json", "--set",
                             "parallelism.expert_parallel_size=1")
        self.wait_for_steps(5)
        process.send_signal(signal.SIGINT)
        self.assert_stopped(process, "SIGINT")

    def test_a_stop_file(self):
        process = self.start_and_wait()
        (self.path / "run/STOP").touch()
        made_at = time.monotonic()
        self.assert_stopped(process, "run/STOP", requeue=False)
        self.assertLess(time.monotonic() - made_at, 10)
        self.assertFalse((self.path / "run/STOP").exists())

    def test_wall_time_and_the_end_of_the_slurm_job(self):
        process = self.start(*self.command("--set", "training.max_wall_time=3", "--set",
                                           "training.stop_margin=2"))
        self.assert_stopped(process, "training.max_wall_time")
        (self.path / "run").rename(self.path / "run-1")
        process = self.start("env", f"SLURM_JOB_END_TIME={int(time.time()) + 4}",
                             *self.command("--set", "training.stop_margin=2"))
        self.assert_stopped(process, "SLURM")

    def test_a_second_signal_ends_the_job_within_two_seconds(self):
        # One rank stands still, so that no step border ever comes.
        process = self.start_and_wait()
        stopped = children_of(process)[1]
        os.kill(stopped, signal.SIGSTOP)
        process.send_signal(signal.SIGUSR1)
        time.sleep(0.5)
        self.assertIsNone(process.poll())
        sent_at = time.monotonic()
        process.send_signal(signal.SIGUSR1)
        self.assertEqual(self.finish(process), 75, self.output)
        self.assertLess(time.monotonic() - sent_at, 4)
        self.assert_record(75, "stopped", "SIGUSR1, the second")

    def test_ctrl_c_and_term_to_local_sh_save(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            process = self.start(LOCAL_SH, "2", "config.json", "--set", "training.output_dir=run")
            self.wait_for_steps(5)
            process.send_signal(number)
            self.assert_stopped(process, "SIGUSR1 (to ")
            (self.path / "run").rename(self.path / f"run-{number.name}")


class Checkpoints(Runs):
    def num_checkpoints(self):
        return len(list((self.path / "run").glob("step-*/manifest.json")))

    def test_65_every_checkpoint_is_corrupt(self):
        process = self.start_and_wait()
        process.send_signal(signal.SIGUSR1)
        self.assert_stopped(process, "SIGUSR1")
        manifests = list((self.path / "run").glob("step-*/manifest.json"))
        self.assertTrue(manifests)
        for manifest in manifests:
            manifest.write_bytes(manifest.read_bytes()[:-20])
        self.assertEqual(self.run_to_end(), 65)
        self.assert_record(65, "data", "")

    def test_69_another_job_works_in_the_run_directory(self):
        first = self.start_and_wait()
        self.assertEqual(subprocess.run(self.command(), cwd=self.path, capture_output=True,
                                        timeout=60).returncode, 69)
        self.assertIsNone(self.record())  # the first goes on
        first.send_signal(signal.SIGUSR1)
        self.assert_stopped(first, "SIGUSR1")

    def test_75_and_a_restart_that_goes_on(self):
        process = self.start_and_wait()
        process.send_signal(signal.SIGUSR1)
        step = self.assert_stopped(process, "SIGUSR1")["step"]
        self.assertEqual(self.run_to_end("--set", f"training.max_steps={step + 5}"), 0)
        self.assertEqual(self.assert_record(0, "ok", "")["attempt"], 2)
        steps = [line["step"] for line in self.metrics() if "lm_loss" in line]
        self.assertEqual(steps, list(range(1, step + 6)))

    def test_76_a_rank_that_stands_still(self):
        process = self.start_and_wait("--set", "watchdog.timeout=3")
        stopped = children_of(process)[1]
        os.kill(stopped, signal.SIGSTOP)
        self.assertEqual(self.finish(process), 76)
        self.assert_record(76, "hang", "rank 1")

    def test_76_a_rank_that_stands_still_while_mpi_starts(self):
        process = self.start("env", "SWITCHYARD_START_TIMEOUT=3", *self.command())
        while len(ranks := children_of(process)) < 2:
            time.sleep(0.001)
        os.kill(ranks[1], signal.SIGSTOP)
        self.assertEqual(self.finish(process), 76)
        self.assertIn("MPI has not started after 3 s", self.output)
        self.assertIsNone(self.record())

    def test_a_save_file(self):
        process = self.start_and_wait()
        before = self.num_checkpoints()
        (self.path / "run/SAVE").touch()
        for _ in range(1000):
            if self.num_checkpoints() > before:
                break
            time.sleep(0.01)
        self.assertGreater(self.num_checkpoints(), before)
        self.assertIsNone(process.poll())
        process.send_signal(signal.SIGUSR1)
        self.assert_stopped(process, "SIGUSR1")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
