#!/usr/bin/env python3
"""What readme.py takes of a report of a GPU: no speed stands in README without what the same report says of
checks that failed and of a session that did not end; without any checks it is refused."""
import os
import subprocess
import sys
import tempfile

SOURCE = os.environ["SOURCE"]
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(SOURCE, "tests", "gpu", "machine"))
import journal
import table

DEVICE = {"name": "a GPU", "multiprocessors": 1, "bytes": 10 ** 9, "driver_cuda": "13.0"}
SESSION = [
    {"kind": "start", "atlasvi": "atlasvi", "version": "this", "device": DEVICE, "stand_in": False, "short": False},
    {"kind": "speed", "model": "scVI-NB", "genes": 2000, "minibatch": 128, "cells": 1000, "side": "atlasvi",
     "cells_per_second": 123456.0},
    {"kind": "precision", "model": "scVI-NB", "genes": 2000, "minibatch": 128, "precision": "tf32", "epochs": 2,
     "cells_per_second": 654321.0, "elbo_validation": 1.0},
    {"kind": "check", "part": "parity", "name": "cuda as cpu", "status": "failed", "note": "losses off"}]


def linked(tree, place=()):
    """The source tree by links, but for README.md and the folder of reports, which are its own."""
    folder = os.path.join(SOURCE, *place)
    os.makedirs(os.path.join(tree, *place), exist_ok=True)
    for name in os.listdir(folder):
        if place + (name,) in (("tests",), ("tests", "bench")):
            linked(tree, place + (name,))
        elif name not in ("README.md", "gpu.md"):
            os.symlink(os.path.join(folder, name), os.path.join(tree, *place, name))


def written(tree, lines):
    """What ends readme.py, and the README's section, with this session's report."""
    with open(os.path.join(SOURCE, "README.md")) as file, open(os.path.join(tree, "README.md"), "w") as copy:
        copy.write(file.read())
    with open(os.path.join(tree, "tests", "bench", "gpu.md"), "w") as file:
        file.write(table.text_of(journal.assemble([lines])))
    done = subprocess.run([sys.executable, "-B", os.path.join(SOURCE, "tests", "docs", "readme.py"), "write"],
                          env={**os.environ, "SOURCE": tree}, text=True, capture_output=True)
    with open(os.path.join(tree, "README.md")) as file:
        text = file.read()
    return done.stderr, text.split("<!-- gpu: begin -->")[1].split("<!-- gpu: end -->")[0]


def main():
    with tempfile.TemporaryDirectory() as tree:
        linked(tree)
        error, text = written(tree, SESSION)
        for words in ("123,456", "654,321", "The session was killed: what follows is not all.",
                      "### Checks on the device", "**failed**: cuda as cpu: losses off"):
            if error or words not in text:
                sys.exit("error: README does not say: %s\n%s\n%s" % (words, error, text))
        error, _ = written(tree, SESSION[:-1])
        if "no section Checks on the device" not in error:
            sys.exit("error: speeds without checks may stand in README: %s" % error)
    print("a report of a GPU goes into README with its checks, and not without them")


main()
