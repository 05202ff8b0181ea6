#!/usr/bin/env python3
"""COUNT files that are nearly safetensors, given to our reader and to the reference's: both take or
refuse the same, except for the differences listed here. Needs the safetensors package of PyPI.

Usage: reference_reader.py SWITCHYARD MPIRUN COUNT
"""

import collections
import json
import math
import os
import pathlib
import random
import re
import struct
import subprocess
import sys
import tempfile
import unittest

from soak import COUNT, main

BATCH = 5000

# What the reference takes and our reader refuses: what it says then, and why that is right for us.
REFUSED_BY_US = {
    "types we do not compute with": r'dtype ".*" found, expected one of',
    "white space before the {, which the format rules out": r"the header is not a JSON object",
    "keys that occur twice, which the format rules out": r"has key .* twice",
    "metadata that are null": r"__metadata__ is not a JSON object",
    "sizes of 2^63 and more": r"\d{19}.* found, expected a list of non-negative integers",
    "empty tensors whose other dimensions exceed 2^63": r"do not enclose .* shape .*\b0\b.*\d{10}|"
                                                        r"do not enclose .* shape .*\d{10}.*\b0\b",
    "entries with further keys": r"found, expected an object of dtype, shape and data_offsets|"
                                 r"the header is nested \d+ deep",
}
# And the other way round, by what the reference says.
REFUSED_BY_THEM = {}

# Entries: (dtype, shape, bytes).
HEADERS = (
    {"a": ("F32", [2, 3], 24), "b": ("BF16", [4], 8), "__metadata__": {"format": "pt"}},
    {"scalar": ("F64", [], 8), "empty": ("F32", [0, 7], 0), "wide": ("U8", [1, 1, 5], 5)},
    {"x": ("I64", [3], 24)},
    {},
)
NUMBERS = (-1, 0, 1, 2, 3, 7, 8, 16, 24, 32, 2**31, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1,
           2**64, 10**30)
WORDS = ("1.0", "1e0", "-0", "null", "true", '"4"', "[]", "{}", "[[]]", "NaN", "01", '"F16"', '"I32"',
         '"F8_E4M3"', '"f32"', '"\\u0000"', '"\\ud800"', '"__metadata__"')


DTYPES = {"F64": 8, "F32": 4, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "F16": 2, "I16": 2, "I8": 1,
          "BOOL": 1, "U64": 8, "F8_E4M3": 1, "F4": 1, "f32": 4}


def random_entry(chance):
    """Mostly a sound one."""
    dtype = chance.choice(list(DTYPES))
    shape = [chance.choice((0, 1, 2, 3, 5)) for _ in range(chance.randrange(4))]
    if chance.random() < 0.1:  # the product wraps, or is 0
        shape += chance.choice(([2**32, 2**32], [2**63], [2**62, 4], [0, 2**63, 2]))
    return dtype, shape, math.prod(shape) * DTYPES[dtype] % 2**64


def random_entries(chance):
    names = ("a", "b", "", "__metadata", "with \" quote", "\u00e9", "line\nbreak", "x" * 300)
    entries = {name: random_entry(chance) for name in chance.sample(names, chance.randrange(4))}
    if chance.random() < 0.3:
        entries["__metadata__"] = chance.choice(({}, {"k": "v"}, {"k": 1}, None, [], "text", {"k": {}}))
    return entries


def encode(entries, chance):
    """The JSON and how many bytes of data it speaks of; now and then with one more key, an entry
    twice, or entries in another order than their data."""
    parts, end = [], 0
    for name, entry in entries.items():
        if name == "__metadata__":
            parts.append((name, entry))
            continue
        dtype, shape, size = entry
        tensor = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        if chance.random() < 0.03:
            tensor["more"] = chance.choice((1, "x", None))
        parts.append((name, tensor))
        end += size
    if parts and chance.random() < 0.05:
        parts.append(chance.choice(parts))
    if chance.random() < 0.2:
        chance.shuffle(parts)
    text = ", ".join(f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in parts)
    return ("{" + text + "}").encode(), end


def mutate_text(text, chance):
    tokens = [m.span() for m in re.finditer(rb'-?\d+|"[^"]*"|[\[\]{},:]', text)] or [(0, len(text))]
    begin, end = chance.choice(tokens)
    kind = chance.randrange(9)
    if kind == 0:
        return text[:begin] + str(chance.choice(NUMBERS)).encode() + text[end:]
    if kind == 1:
        return text[:begin] + chance.choice(WORDS).encode() + text[end:]
    if kind == 2:
        return text[:begin] + text[end:]
    if kind == 3:
        return text[:end] + text[begin:end] + text[end:]
    if kind == 4:  # a piece again, elsewhere
        a, b = sorted(chance.choice(tokens)[0] for _ in range(2))
        return text[:begin] + text[a:b] + text[begin:]
    if kind == 5:
        place = chance.randrange(len(text) + 1)
        return text[:place] + bytes([chance.randrange(256)]) + text[place + 1:]
    if kind == 6:
        place = chance.randrange(len(text) + 1)
        return text[:place] + chance.choice((b" ", b"\t", b"\n", b"\0", b"\xff", b"/**/", b",")) + text[place:]
    if kind == 7:  # two tokens change places
        a, b = sorted((tokens[chance.randrange(len(tokens))], (begin, end)))
        if a[1] <= b[0]:
            return text[:a[0]] + text[b[0]:b[1]] + text[a[1]:b[0]] + text[a[0]:a[1]] + text[b[1]:]
        return text
    return text + b" " * chance.randrange(9)


def make_input(chance):
    entries = chance.choice(HEADERS) if chance.random() < 0.5 else random_entries(chance)
    text, data = encode(entries, chance)
    for _ in range(chance.choice((0, 0, 1, 1, 2, 3))):
        text = mutate_text(text, chance)
    length = len(text)
    if chance.random() < 0.1:
        length = max(0, chance.choice((length - 1, length + 1, 0, 1, 2**63, 100_000_001, length + data)))
    if chance.random() < 0.1:
        data = max(0, data + chance.choice((-1, 1, 8, -8)))
    whole = struct.pack("<Q", length) + text + b"\1" * min(data, 4096)
    return whole[:chance.randrange(16)] if chance.random() < 0.01 else whole


class ReferenceReader(unittest.TestCase):
    def setUp(self):
        try:
            import safetensors
        except ImportError:
            self.skipTest(f"{sys.executable} has no safetensors: pip install safetensors")
        self.reference = safetensors
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.reader = (pathlib.Path(sys.argv[1]).parent / "tests/soak/read_headers", directory.name)

    def our_verdicts(self, inputs):
        text = b"".join(struct.pack("=Q", len(one)) + one for one in inputs)
        done = subprocess.run(self.reader, input=text, stdout=subprocess.PIPE, check=True)
        verdicts = done.stdout.decode(errors="replace").split("\n")[:-1]
        self.assertEqual(len(verdicts), len(inputs))
        return verdicts

    def their_verdict(self, one):
        try:
            self.reference.deserialize(one)
            return ""
        except self.reference.SafetensorError as error:
            return str(error) or "refused"

    def test_both_readers_take_the_same(self):
        seed = int(os.environ.get("SWITCHYARD_SOAK_SEED", random.randrange(1 << 32)))
        print(f"SWITCHYARD_SOAK_SEED={seed}", flush=True)
        chance = random.Random(seed)
        taken, excused = 0, collections.Counter()
        for first in range(0, COUNT, BATCH):
            inputs = [make_input(chance) for _ in range(min(BATCH, COUNT - first))]
            for one, ours in zip(inputs, self.our_verdicts(inputs)):
                theirs = self.their_verdict(one)
                taken += not ours and not theirs
                if bool(ours) != bool(theirs):
                    excused[self.excuse(one, ours, theirs)] += 1
        self.assertGreater(taken, COUNT // 100)
        listed = "".join(f", {n} {what}" for what, n in sorted(excused.items()))
        print(f"counted: {COUNT} inputs, {taken} taken by both{listed}; no other verdict differs from "
              f"that of safetensors {self.reference.__version__}")

    def excuse(self, one, ours, theirs):
        said, known = (ours, REFUSED_BY_US) if ours else (theirs, REFUSED_BY_THEM)
        for what, pattern in known.items():
            if re.search(pattern, said):
                return ("only refused here: " if ours else "only refused there: ") + what
        self.fail(f"ours: {ours or 'taken'}\ntheirs: {theirs or 'taken'}\n{one!r}")


if __name__ == "__main__":
    main()
