"""tools/check_layers.py finds what it is there to find: planted violations in a small tree."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

SOUND_TREE = {
    "src/CMakeLists.txt": "add_subdirectory(core)\nadd_executable(switchyard main.cpp)\n",
    "src/main.cpp": '#include <mpi.h>\n#include "cli/train.h"\n#include "comm/mpi_runtime.h"\n',
    "src/cli/train.h": '#include "core/error.h"\n#include "backend/cpu/cpu_backend.h"\n',
    "src/core/CMakeLists.txt": "switchyard_library(core\n  SOURCES error.cpp)\n",
    "src/core/error.h": "#include <string>\n",
    "src/core/error.cpp": '#include "core/error.h"\n',
    "src/backend/cpu/cpu_backend.h": "#include <omp.h>\n",
    "src/comm/mpi_runtime.h": "  #  include <mpi.h>  // the only place\n",
    "src/model/parameter.h": '#include "core/error.h"\n',
    "src/model/stage.h": '#include "model/parameter.h"\n',
    "src/optim/optimizer.h": '#include "model/parameter.h"\n',
    "tests/CMakeLists.txt": "switchyard_test(test_core SOURCES core/test_core.cpp)\n",
    "tests/core/test_core.cpp": "",
    "benchmarks/CMakeLists.txt": "",
}


def check(changes):
    """Runs the checker on the sound tree with `changes`; returns its exit code and output lines."""
    with tempfile.TemporaryDirectory() as folder:
        for path, text in {**SOUND_TREE, **changes}.items():
            file = Path(folder, path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        result = subprocess.run(
            [sys.executable, ROOT / "tools/check_layers.py", folder],
            capture_output=True, text=True, check=False)
        return result.returncode, result.stdout.splitlines()


class CheckLayers(unittest.TestCase):
    def assert_found(self, changes, place, *words):
        code, lines = check(changes)
        self.assertEqual(code, 1, lines)
        self.assertEqual(len(lines), 1, lines)
        self.assertTrue(lines[0].startswith(place + ": "), lines)
        for word in words:
            self.assertIn(word, lines[0])

    def test_accepts_a_sound_tree(self):
        code, lines = check({})
        self.assertEqual(code, 0, lines)

    def test_include_of_a_higher_layer(self):
        self.assert_found({"src/core/error.h": '\n#include "cli/train.h"\n'},
                          "src/core/error.h:2", '"cli/train.h"', "nothing of cli/")

    def test_include_of_a_sibling(self):
        self.assert_found({"src/optim/zero_optimizer.h": '#include "model/stage.h"\n'},
                          "src/optim/zero_optimizer.h:1", "only model/parameter.h, model/unit_hooks.h of model/")

    def test_unknown_folder(self):
        self.assert_found({"src/utils/helper.h": ""}, "src/utils/helper.h", "no row")

    def test_unknown_file_at_the_top(self):
        self.assert_found({"src/helper.h": ""}, "src/helper.h", "no row")

    def test_mpi_outside_of_its_files(self):
        for file in ["src/comm/communicator.h", "src/model/stage.h"]:
            self.assert_found({file: "#include <mpi.h>\n"}, f"{file}:1", "<mpi.h>")

    def test_cuda_outside_of_its_folder(self):
        self.assert_found({"src/backend/ops.h": "#include <cuda_runtime.h>\n"},
                          "src/backend/ops.h:1", "<cuda_runtime.h>")

    def test_blas_and_openmp_outside_of_the_cpu_backend(self):
        for header in ["cblas.h", "omp.h"]:
            self.assert_found({"src/model/stage.h": f"#include <{header}>\n"},
                              "src/model/stage.h:1", header)

    def test_device_header_behind_the_interface(self):
        header = "backend/cpu/cpu_backend.h"
        self.assert_found({"src/model/stage.h": f'#include "{header}"\n'},
                          "src/model/stage.h:1", header, "Backend&")

    def test_transport_behind_the_interface(self):
        self.assert_found({"src/model/stage.h": '#include "comm/mpi_runtime.h"\n'},
                          "src/model/stage.h:1", "Communicator&")

    def test_include_relative_to_the_file(self):
        self.assert_found({"src/model/stage.h": '#include "parameter.h"\n'},
                          "src/model/stage.h:1", "path from src/")

    def test_own_header_in_angle_brackets(self):
        self.assert_found({"src/model/stage.h": "#include <model/parameter.h>\n"},
                          "src/model/stage.h:1", "quotes")

    def test_source_that_is_never_built(self):
        for file in ["src/core/log.cpp", "tests/core/test_log.cpp"]:
            self.assert_found({file: ""}, file, "never built")

    def test_source_that_is_listed_in_a_comment_only(self):
        cmake = "switchyard_library(core SOURCES error.cpp)  # log.cpp\n"
        self.assert_found({"src/core/CMakeLists.txt": cmake, "src/core/log.cpp": ""},
                          "src/core/log.cpp", "never built")


if __name__ == "__main__":
    unittest.main()
