"""Reads a safetensors file with the package of that name and writes all of it to another file.

usage: rewrite_with_python_package.py INPUT OUTPUT
Exit code 77: the package is not installed.
"""

import sys

try:
    import numpy  # noqa: F401
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file
except ImportError:
    sys.exit(77)

source, target = sys.argv[1:]
with safe_open(source, framework="numpy") as file:
    metadata = file.metadata()
save_file(load_file(source), target, metadata)
