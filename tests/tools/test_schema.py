#!/usr/bin/env python3
"""The printed JSON Schema, read by an independent validator, accepts every configuration that ships
and rejects wrong ones.

Usage: test_schema.py SWITCHYARD CONFIGS   (exits with 77, "skipped", without python3-jsonschema)
"""

import copy
import json
import pathlib
import re
import subprocess
import sys

# Debian's python3-jsonschema, whichever python3 comes first on the PATH.
sys.path.append("/usr/lib/python3/dist-packages")
try:
    import jsonschema
except ImportError as error:
    print(f"skipped: python3-jsonschema is not usable ({error})")
    sys.exit(77)

COMMENTS = re.compile(r'("(?:\\.|[^"\\])*")|//[^\n]*|/\*.*?\*/', re.DOTALL)


def parse(text):
    return json.loads(COMMENTS.sub(lambda match: match.group(1) or "", text))


def changed(config, *path, value):
    copied = copy.deepcopy(config)
    section = copied
    for key in path[:-1]:
        section = section.setdefault(key, {})
    section[path[-1]] = value
    return copied


def run(*arguments):
    return subprocess.run(arguments, check=True, capture_output=True, text=True).stdout


switchyard, configs = sys.argv[1], pathlib.Path(sys.argv[2])
schema = json.loads(run(switchyard, "config", "--schema"))
jsonschema.Draft7Validator.check_schema(schema)
validator = jsonschema.Draft7Validator(schema)

good = {path.name: parse(path.read_text()) for path in sorted(configs.glob("*.json"))}
good["--defaults"] = parse(run(switchyard, "config", "--defaults"))
quickstart = good["quickstart.json"]
good["list of layers"] = changed(quickstart, "moe", "layer_freq", value=[1, 0, 1, 0])
good["$schema"] = changed(quickstart, "$schema", value="switchyard.schema.json")
bad = {
    "unknown key": changed(quickstart, "moe", "topk", value=2),
    "unknown section": changed(quickstart, "modle", value={}),
    "fraction of a layer": changed(quickstart, "model", "num_hidden_layers", value=3.5),
    "zero experts": changed(quickstart, "moe", "num_experts", value=0),
    "text for a number": changed(quickstart, "optimizer", "params", "lr", value="1e-3"),
    "unknown choice": changed(quickstart, "moe", "token_drop_policy", value="drop"),
    "no data": {key: value for key, value in quickstart.items() if key != "data"},
}
failures = 0
for expected, cases in ((True, good), (False, bad)):
    for name, config in cases.items():
        errors = [error.message for error in validator.iter_errors(config)]
        if (not errors) != expected:
            failures += 1
            print(f"{name}: {'rejected: ' + '; '.join(errors) if errors else 'accepted'}")
print(f"{len(good)} configurations to accept, {len(bad)} to reject, {failures} failures")
sys.exit(1 if failures or len(good) < 7 else 0)
