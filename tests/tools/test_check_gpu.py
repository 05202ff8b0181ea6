"""launch/check_gpu.sh runs every part whatever fails, and its report and exit code say what did."""

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(sys.argv.pop())

# Stand-ins for what is not on the machine of the test. Each writes down how it was called; mpirun
# fails for the command that FAIL names.
FAKES = {
    "nvidia-smi": 'case "$*" in *query-gpu*) printf "GPU-1\\nGPU-2\\nGPU-3\\nGPU-4\\n" ;; '
                  '*) echo "a picture of GPUs" ;; esac',
    "ctest": 'echo "ctest $*"',
    "mpirun": 'echo "mpirun $*"; case "$*" in *"$FAIL"*) exit 3 ;; esac',
}


class CheckGpu(unittest.TestCase):
    def run_script(self, *arguments, fail="nothing"):
        with tempfile.TemporaryDirectory() as directory:
            here = Path(directory)
            for name, text in FAKES.items():
                self.write(here / "bin" / name, text)
            self.write(here / "build" / "switchyard", "echo 1.2.3")
            environment = dict(os.environ, PATH=f"{here}/bin:{os.environ['PATH']}", FAIL=fail,
                               SWITCHYARD_BUILD=str(here / "build"))
            environment.pop("CUDA_VISIBLE_DEVICES", None)
            result = subprocess.run(
                [ROOT / "launch" / "check_gpu.sh", "--report", here / "report.txt", *arguments],
                env=environment, cwd=here, capture_output=True, text=True, timeout=60, check=False)
            report = here / "report.txt"
            return result, report.read_text() if report.exists() else ""

    @staticmethod
    def write(path, text):
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)

    def test_all_parts_over_all_gpus(self):
        result, report = self.run_script()
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("4 GPU(s)", report)
        self.assertIn("a picture of GPUs", report)
        self.assertIn("-L cuda", report)
        for dtype in ("f64", "f32", "bf16"):
            self.assertRegex(report, f"mpirun .*-n 4 .*verify .*device=cuda .*--dtype {dtype}")
        self.assertRegex(report, "mpirun .*-n 4 .*bench step .*quickstart.json .*expert_parallel_size=4")
        self.assertEqual(report.count(" passed"), 8)
        self.assertEqual(report.count("FAILED"), 0)

    def test_a_failure_stops_nothing_and_is_told(self):
        result, report = self.run_script(fail="--dtype f32")
        self.assertEqual(result.returncode, 1)
        self.assertIn("verify f32     FAILED, exit code 3", report)
        self.assertEqual(report.count(" passed"), 7)
        self.assertIn("the report is", result.stderr)

    def test_gpus_and_config_of_the_user(self):
        result, report = self.run_script("--gpus", "3", "mine.json", "--set", "moe.top_k=1")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertRegex(report, "mpirun .*-n 3 .*verify mine.json .*moe.top_k=1 .*device=cuda")

    def test_wrong_options(self):
        result, _ = self.run_script("--gups", "3")
        self.assertEqual(result.returncode, 64)
        self.assertIn("--gpus N", result.stderr)
        result, _ = self.run_script("--gpus", "none")
        self.assertEqual(result.returncode, 64)


if __name__ == "__main__":
    unittest.main()
