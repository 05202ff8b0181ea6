#!/usr/bin/env python3
"""Checks who includes whom in src/, and that every source file is built.

  tools/check_layers.py [ROOT]

The table below is the layering of src/README.md: a folder may include itself and what its row
names, nothing else. Prints one line per violation (file:line: what and why), exits with 1 if there
is any.
"""

import re
import sys
from pathlib import Path

LOWEST = ["core"]
DEVICE = ["backend"] + LOWEST
PARALLEL = ["comm"] + DEVICE

# What a folder may include besides itself: a folder, or one header of a folder.
LAYERS = {
    "core": [],
    "config": LOWEST,
    "backend": LOWEST,
    "comm": DEVICE,
    "data": ["config"] + LOWEST,
    "model": ["config"] + PARALLEL,
    "pipeline": ["model", "config"] + PARALLEL,
    "optim": ["model/parameter.h", "model/unit_hooks.h", "config"] + PARALLEL,
    "checkpoint": ["model/parameter.h", "optim/flat_buffer.h",
                   "optim/zero_optimizer.h", "config"] + PARALLEL,
    "train": ["checkpoint", "pipeline", "optim", "model", "data", "config"] + PARALLEL,
    "verify": ["train", "pipeline", "optim", "model", "data", "config"] + PARALLEL,
    "inspect": ["checkpoint", "train/exit_record.h", "train/goodput.h"] + LOWEST,
    "plan": ["pipeline/schedule.h", "pipeline/simulator.h", "config"] + LOWEST,
    "generate": ["checkpoint", "model", "data", "config"] + PARALLEL,
}
EVERYTHING = ["cli", "main.cpp"]

# Headers that only some files may include, because the rest must not know them: (pattern of the
# header, patterns of the files that may, why). Patterns are regular expressions of whole paths.
RESTRICTED = [
    (r"mpi\.h", [r"comm/mpi_.*", r"cli/.*", r"main\.cpp"],
     "ranks talk through comm/communicator.h"),
    (r"nccl\.h", [r"comm/nccl_.*"], "ranks talk through comm/communicator.h"),
    (r"(cuda|cublas|curand|cudnn|nvrtc|nvtx3/|cub/|thrust/).*",
     [r"backend/cuda/.*", r"comm/nccl_.*"], "devices are used through backend/backend.h"),
    (r"(cblas|openblas.*|f77blas|omp)\.h", [r"backend/cpu/.*"],
     "mathematics goes through backend/ops.h, where the threads are"),
    (r"CLI/.*", [r"cli/.*", r"main\.cpp"], "only the command line knows about itself"),
    (r"backend/cpu/.*", [r"backend/cpu/.*", r"cli/.*", r"main\.cpp"],
     "only the command line chooses a device; the rest takes a Backend&"),
    (r"backend/cuda/.*", [r"backend/cuda/.*", r"comm/nccl_.*", r"cli/.*", r"main\.cpp"],
     "only the command line chooses a device; the rest takes a Backend&"),
    (r"comm/(mpi|nccl|thread)_.*", [r"comm/.*", r"cli/.*", r"main\.cpp"],
     "only the command line chooses a transport; the rest takes a Communicator&"),
]

HEADERS = {".h", ".cuh"}
SOURCES = {".cpp", ".cu"}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def matches(path, patterns):
    return any(re.fullmatch(pattern, path) for pattern in patterns)


def layer_violation(file, header):
    """Why `file` may not include `header` (both relative to src/), or None."""
    folder, other = file.split("/")[0], header.split("/")[0]
    if folder in EVERYTHING or other == folder:
        return None
    allowed = LAYERS[folder]
    if other in allowed or header in allowed:
        return None
    some = [entry for entry in allowed if entry.startswith(other + "/")]
    what = f"only {', '.join(some)} of {other}/" if some else f"nothing of {other}/"
    return f"{folder}/ may include {what}"


def check_includes(src):
    """Yields (place, message) for every include in src/ that breaks a rule."""
    for path in sorted(src.rglob("*")):
        if path.suffix not in HEADERS | SOURCES:
            continue
        file = path.relative_to(src).as_posix()
        folder = file.split("/")[0]
        if folder not in LAYERS and folder not in EVERYTHING:
            yield file, f"{folder} has no row in the table of layers (tools/check_layers.py)"
            continue
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            include = INCLUDE.match(line)
            if not include:
                continue
            quote, header = include.groups()
            place = f"{file}:{number}"
            for pattern, files, why in RESTRICTED:
                if re.fullmatch(pattern, header) and not matches(file, files):
                    yield place, f"<{header}> is not for this file: {why}"
            if quote == "<":
                if (src / header).is_file():
                    yield place, f'"{header}" is ours: include it with quotes'
                continue
            if not (src / header).is_file():
                yield place, f'no src/{header}: project headers are named by their path from src/'
                continue
            reason = layer_violation(file, header)
            if reason:
                yield place, f'"{header}": {reason}'


def check_build(root, folder):
    """Yields (place, message) for every source file under root/folder that no CMake file lists."""
    listed = set()
    for path in (root / folder).rglob("CMakeLists.txt"):
        text = re.sub(r"#.*", "", path.read_text())
        text = text.replace("${PROJECT_SOURCE_DIR}/", root.as_posix() + "/")
        for word in re.findall(r"[^\s()\"]+\.(?:cpp|cu)\b", text):
            listed.add((path.parent / word).resolve())
    for path in sorted((root / folder).rglob("*")):
        if path.suffix in SOURCES and path.resolve() not in listed:
            yield path.relative_to(root).as_posix(), "no CMakeLists.txt lists it: it is never built"


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent).resolve()
    src = root / "src"
    if not src.is_dir():
        sys.exit(f"{src}: no such folder")
    problems = [(f"src/{place}", message) for place, message in check_includes(src)]
    for folder in ["src", "tests", "benchmarks"]:
        problems += check_build(root, folder)
    for place, message in problems:
        print(f"{place}: {message}")
    if problems:
        sys.exit(f"{len(problems)} violation(s)")
    print("layering: every include goes down, every source file is built")


if __name__ == "__main__":
    main()
