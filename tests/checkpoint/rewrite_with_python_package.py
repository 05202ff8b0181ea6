"""Reads a safetensors file with the package of that name and writes all of it to another file.

usage: rewrite_with_python_package.py INPUT OUTPUT
Exit code 77: the package is not installed. Works on bytes, because NumPy has no bf16.
"""

import json
import pathlib
import sys

try:
    from safetensors import deserialize, serialize
except ImportError:
    sys.exit(77)

NAMES = {"F32": "float32", "F64": "float64", "BF16": "bfloat16", "I32": "int32", "I64": "int64", "U8": "uint8"}

source, target = (pathlib.Path(path) for path in sys.argv[1:])
data = source.read_bytes()
# The package returns no metadata with the bytes.
metadata = json.loads(data[8:8 + int.from_bytes(data[:8], "little")]).get("__metadata__")
tensors = {name: {"dtype": NAMES[tensor["dtype"]], "shape": tensor["shape"], "data": bytes(tensor["data"])}
           for name, tensor in deserialize(data)}
target.write_bytes(serialize(tensors, metadata))
