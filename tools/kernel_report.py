#!/usr/bin/env python3
"""What every kernel needs on every architecture, as ptxas says.

  tools/kernel_report.py BUILD                 from the logs of a build (tools/keep_stderr.sh)
  tools/kernel_report.py BUILD --wide-loads    and whether chunks move 16 bytes at a time

Prints a table: registers, shared memory (static, bytes), stack frame and spills (bytes), and how many
threads of a multiprocessor the registers allow at most (of 2048; what a block asks for can allow
fewer). Exits with 1 if a kernel spills or has a stack frame, or if there is nothing to look at.

--wide-loads compiles the files that take chunks (backend/cuda/chunk.cuh) to PTX once more. A kernel
whose first template argument, the width of its chunks, is 2, 4, 8 or 16 must read global memory 16 bytes at
a time; one that reads none must write so.
"""

import argparse
import json
import re
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

PARTITIONS_OF_MULTIPROCESSOR = 4
REGISTERS_OF_PARTITION = 16384
THREADS_OF_MULTIPROCESSOR = 2048
WARP = 32

ENTRY = re.compile(r"Compiling entry function '(\S+)' for 'sm_(\d+)\w*'")
STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")
PTX_ENTRY = re.compile(r"^\.(?:visible |weak )?\.?entry (\S+?)\(", re.MULTILINE)
WIDE = r"\.global(\.\w+)*\.(v4\.(u32|b32|s32|f32)|v2\.(u64|b64|f64)|b128)"
CHUNKS = re.compile(r"\w+<(2|4|8|16)\b")


@dataclass
class Needs:
    kernel: str
    arch: int
    stack: int = 0
    spills: int = 0
    registers: int = 0
    shared: int = 0

    def resident_threads(self):
        per_warp = -(-self.registers * WARP // 256) * 256
        warps = PARTITIONS_OF_MULTIPROCESSOR * (REGISTERS_OF_PARTITION // max(per_warp, 1))
        return min(THREADS_OF_MULTIPROCESSOR, warps * WARP)


def read_log(text):
    needs = []
    for line in text.splitlines():
        if match := ENTRY.search(line):
            needs.append(Needs(match[1], int(match[2])))
        elif not needs:
            continue
        elif match := STACK.search(line):
            needs[-1].stack = int(match[1])
            needs[-1].spills = int(match[2]) + int(match[3])
        elif match := USED.search(line):
            needs[-1].registers = int(match[1])
            shared = SHARED.search(line)
            needs[-1].shared = int(shared[1]) if shared else 0
    return needs


def demangled(names):
    result = subprocess.run(["c++filt"], input="\n".join(names), text=True, capture_output=True,
                            check=True)
    return dict(zip(names, result.stdout.splitlines()))


def short(name):
    """Without return type, parameters and namespaces."""
    name = re.sub(r"\(anonymous namespace\)::", "", name)
    depth, end = 0, len(name)
    for i, letter in enumerate(name):
        if letter == "(" and depth == 0:
            end = i
            break
        depth += (letter == "<") - (letter == ">")
    name = re.sub(r"^(void|int|float) ", "", name[:end])
    return re.sub(r"\b(switchyard|cuda|\w*_INTERNAL_\w*)::", "", name)


def print_table(files):
    names = demangled(sorted({need.kernel for needs in files.values() for need in needs}))
    print(f"{'sm':>4} {'registers':>9} {'shared':>7} {'stack':>5} {'spills':>6} {'threads':>7}  kernel")
    for file, needs in sorted(files.items()):
        print(file)
        for need in sorted(needs, key=lambda need: (short(names[need.kernel]), need.arch)):
            print(f"{need.arch:>4} {need.registers:>9} {need.shared:>7} {need.stack:>5} "
                  f"{need.spills:>6} {need.resident_threads():>7}  {short(names[need.kernel])}")


def compile_commands(build):
    for command in json.loads((build / "compile_commands.json").read_text()):
        if command["file"].endswith(".cu"):
            yield command


def ptx_of(command):
    """The PTX text of one file, for one architecture."""
    words = shlex.split(command["command"])
    kept, skip = [], False
    for word in words[words.index(next(w for w in words if w.endswith("nvcc"))):]:
        if skip:
            skip = False
        elif word in ("-o", "-MF", "-MT", "-x"):
            skip = True
        elif word not in ("-c", "-MD") and not word.startswith(("--generate-code", "-Xptxas")):
            kept.append(word)
    with tempfile.NamedTemporaryFile(suffix=".ptx") as out:
        subprocess.run(kept + ["-ptx", "-arch=compute_80", "-o", out.name], check=True,
                       cwd=command["directory"], capture_output=True)
        return Path(out.name).read_text()


def narrow_kernels(ptx):
    """Kernels that ought to access 16 bytes at a time and do not, and how many ought to."""
    starts = [(match.start(), match[1]) for match in PTX_ENTRY.finditer(ptx)]
    names = demangled([name for _, name in starts])
    narrow, count = [], 0
    for i, (begin, name) in enumerate(starts):
        body = ptx[begin:starts[i + 1][0] if i + 1 < len(starts) else len(ptx)]
        if not CHUNKS.match(short(names[name])):
            continue
        count += 1
        access = "ld" if "ld.global" in body else "st"
        if not re.search(access + WIDE, body):
            narrow.append(short(names[name]))
    return narrow, count


def check_wide_loads(build):
    narrow, count = [], 0
    for command in compile_commands(build):
        if "backend/cuda/chunk.cuh" not in Path(command["directory"], command["file"]).read_text():
            continue
        of_file, of_count = narrow_kernels(ptx_of(command))
        narrow += of_file
        count += of_count
    for name in narrow:
        print(f"takes chunks, but not 16 bytes at a time: {name}", file=sys.stderr)
    print(f"{count - len(narrow)} of {count} kernels that take chunks move 16 bytes at a time")
    return count > 0 and not narrow


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build", type=Path)
    parser.add_argument("--wide-loads", action="store_true")
    arguments = parser.parse_args()
    files = {}
    for log in sorted(arguments.build.rglob("*.cu.o.log")):
        files[log.name.removesuffix(".o.log")] = read_log(log.read_text())
    kernels = [need for needs in files.values() for need in needs]
    if not kernels:
        print(f"{arguments.build}: no kernels; build it: cmake --build --preset cuda",
              file=sys.stderr)
        return 1
    print_table(files)
    bad = [need for need in kernels if need.stack > 0 or need.spills > 0]
    for need in bad:
        print(f"sm_{need.arch}: {short(demangled([need.kernel])[need.kernel])} has a stack frame of "
              f"{need.stack} bytes and spills {need.spills}", file=sys.stderr)
    is_wide = not arguments.wide_loads or check_wide_loads(arguments.build)
    return 0 if is_wide and not bad else 1


if __name__ == "__main__":
    sys.exit(main())
