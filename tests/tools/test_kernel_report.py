"""tools/kernel_report.py reads what ptxas says, and fails for a spill, a stack frame, and nothing."""

import importlib.util
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "kernel_report.py"

LOG = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN10switchyard12_GLOBAL__N_17sum_allIfEEvPT_' for 'sm_80'
ptxas info    : Function properties for _ZN10switchyard12_GLOBAL__N_17sum_allIfEEvPT_
    {stack} bytes stack frame, {stores} bytes spill stores, 0 bytes spill loads
ptxas info    : Used 96 registers, used 1 barriers, 128 bytes smem, 368 bytes cmem[0]
ptxas info    : Compiling entry function '_ZN10switchyard12_GLOBAL__N_17sum_allIfEEvPT_' for 'sm_90a'
ptxas info    : Function properties for _ZN10switchyard12_GLOBAL__N_17sum_allIfEEvPT_
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 14 registers, used 0 barriers
"""


def load_tool():
    spec = importlib.util.spec_from_file_location("kernel_report", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class KernelReport(unittest.TestCase):
    def report(self, log):
        with tempfile.TemporaryDirectory() as build:
            if log is not None:
                (Path(build) / "sums.cu.o.log").write_text(log)
            return subprocess.run([sys.executable, TOOL, build], capture_output=True, text=True,
                                  check=False)

    def test_table(self):
        result = self.report(LOG.format(stack=0, stores=0))
        self.assertEqual(result.returncode, 0, result.stderr)
        rows = [line.split() for line in result.stdout.splitlines()[2:]]
        self.assertEqual(rows, [["80", "96", "128", "0", "0", "640", "sum_all<float>"],
                                ["90", "14", "0", "0", "0", "2048", "sum_all<float>"]])

    def test_failures(self):
        self.assertEqual(self.report(LOG.format(stack=8, stores=0)).returncode, 1)
        spills = self.report(LOG.format(stack=0, stores=4))
        self.assertEqual(spills.returncode, 1)
        self.assertIn("sm_80: sum_all<float>", spills.stderr)
        self.assertEqual(self.report(None).returncode, 1)

    def test_wide_loads(self):
        ptx = """
.visible .entry _Z4wideILi4EfEvPKT0_(
 ld.global.nc.v4.u32 {%r1}
.visible .entry _Z6narrowILi8EfEvPKT0_(
 ld.global.v2.u16 {%r1}
 st.global.v4.u32 [%rd1]
.visible .entry _Z4fillILi2EdEvPT0_(
 st.global.v2.b64 [%rd1]
.visible .entry _Z6singleILi1EfEvPKT0_(
 ld.global.f32 %f1
.visible .entry _Z5plainIfEvPKT_(
 ld.global.f32 %f1
"""
        narrow, count = load_tool().narrow_kernels(ptx)
        self.assertEqual((narrow, count), (["narrow<8, float>"], 3))


if __name__ == "__main__":
    unittest.main()
