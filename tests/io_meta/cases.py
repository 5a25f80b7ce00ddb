"""What the tests of metadata share: files in a folder, a running meta_dump, and checks."""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

try:
    import numpy as np
    import pandas as pd

    import make_meta as mk
except ImportError as missing:
    print("skipped: %s" % missing)
    sys.exit(77)

DUMP = sys.argv[1]
N, G, CELLS, GENES, CODES, LEVELS = mk.N, mk.G, mk.CELLS, mk.GENES, mk.CODES, mk.LEVELS
faults = []
n_checks = 0


class Dump:
    """A running meta_dump."""

    def __init__(self, ranks=1, **how):
        command = [DUMP]
        if ranks > 1:
            command = [os.environ.get("MPIRUN", "mpirun"), "--bind-to", "none", "-n", str(ranks), DUMP]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **how)

    def __call__(self, *words):
        self.process.stdin.write(("\t".join(words) + "\n").encode())
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("meta_dump ended at: " + " ".join(words))
        reply = json.loads(line.decode("utf-8", "surrogateescape"))
        check("HDF5 objects left open by " + " ".join(words), reply["left_open"] == 0,
              reply["left_open"])
        return reply

    def close(self):
        self.process.stdin.close()
        return self.process.wait(timeout=30)


def check(name, good, seen=""):
    global n_checks
    n_checks += 1
    if not good:
        faults.append(name)
        print("FAILED %s: %s" % (name, str(seen)[:600]))


def same(name, seen, expected):
    check(name, seen == expected, "%r is not %r" % (seen, expected))


def refused(name, reply, code, pattern):
    """One line of error that matches, and its code."""
    good = (reply["status"] == code and "\n" not in reply["error"]
            and re.search(pattern, reply["error"]) is not None)
    check(name, good, "%s %s (wanted %d, %s)" % (reply["status"], reply["error"], code, pattern))


def fine(name, reply, **expected):
    check(name, reply["status"] == 0, reply["error"])
    for key, value in expected.items():
        if reply["status"] == 0:
            value = value.tolist() if isinstance(value, np.ndarray) else value
            same(name + "." + key, reply[key], value)
    return reply


folder = tempfile.mkdtemp(prefix="atlasvi-meta-")
dump = Dump()


def path(name):
    return os.path.join(folder, name)


def meta(file, *settings):
    return dump("meta", "data.input=" + path(file), *settings)


def fnv(names):
    value = 14695981039346656037
    for byte in b"".join(n.encode() + b"\0" for n in names):
        value = ((value ^ byte) * 1099511628211) % 2**64
    return "%016x" % value


def base_file():
    """base.h5ad: batch and label, nothing odd."""
    obs = pd.DataFrame({"batch": pd.Categorical.from_codes(CODES, LEVELS), "label": ["t", "s"] * 20},
                       index=CELLS)
    mk.base(path("base.h5ad"), obs)


KEYS = {"cat": "data.categorical_covariate_keys=", "num": "data.continuous_covariate_keys=",
        "size": "data.size_factor_key="}
SEX = np.array(["m", "f"])[np.arange(N) % 2]
AGE = np.arange(N) / 16 - 1  # exact in few digits, as the reply prints them
SIZE = np.arange(N) / 32 + 0.5


def covariate_file(name):
    """Batch, covariates of many kinds, size factors; as anndata writes them."""
    mk.base(path(name), pd.DataFrame({
        "batch": pd.Categorical.from_codes(CODES, LEVELS), "sex": SEX,
        "site": pd.Categorical.from_codes(np.array([0, 2, 3, 4])[np.arange(N) // 10],
                                          ["z", "unused", "y", "x", "w"]),
        "plate": np.arange(N) % 4 * 5, "good": np.arange(N) % 4 == 0, "age": AGE, "size": SIZE,
        "same": "all", "level": np.full(N, 7.5), "days": np.arange(N)}, index=CELLS))


def run(least, *tests):
    """Ends the script: 1 if a check has failed, or there were fewer than `least`."""
    try:
        base_file()
        for test in tests:
            test()
        same("ends well", dump.close(), 0)
    finally:
        shutil.rmtree(folder)
    print("%d checks, %d failed" % (n_checks, len(faults)))
    sys.exit(1 if faults or n_checks < least else 0)
