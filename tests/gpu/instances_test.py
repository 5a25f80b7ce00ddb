#!/usr/bin/env python3
"""instances.py sees what has not run: in records written here, and in those of two programs.

usage: instances_test.py GRAPHS EMULATION

The programs are gpu_emulated_test_graphs and gpu_emulated_test_emulation.
"""
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))


def check(folder, kernels):
    """(exit status, lines) of instances.py."""
    command = [sys.executable, "-B", os.path.join(HERE, "instances.py"), folder, kernels]
    done = subprocess.run(command, capture_output=True, text=True)
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout.splitlines()


def write(folder, name, text=""):
    with open(os.path.join(folder, name), "w") as file:
        file.write(text)


def test_records(folder, kernels):
    for name in ("a.cu", "b.cu"):
        write(kernels, name)
    assert check(folder, kernels) == (1, ["a.cu: no program has a kernel of it",
                                          "b.cu: no program has a kernel of it",
                                          "0 of 0 instances of kernels have run, of 2 files"])
    write(folder, "one.1",
          "ran a.cu sum<2, true>\nnever a.cu sum<4, true>\nnever b.cu sum<2, true>\n")
    assert check(folder, kernels) == (1, ["a.cu sum<4, true>: no test has run it",
                                          "b.cu sum<2, true>: no test has run it",
                                          "1 of 3 instances of kernels have run, of 2 files"])
    write(folder, "two.2",
          "never a.cu sum<2, true>\nran a.cu sum<4, true>\nran b.cu sum<2, true>\n")
    assert check(folder, kernels) == (0, ["3 of 3 instances of kernels have run, of 2 files"])


def test_programs(folder, programs):
    """The first runs little of unit.cu, and launches `empty` only with too many threads; the other
    runs the rest."""
    environment = {**os.environ, "AV_EMULATED_RAN": folder}
    unit = os.path.join(HERE, "unit")
    subprocess.run([programs[0]], env=environment, check=True, capture_output=True)
    status, lines = check(folder, unit)
    missing = [line for line in lines if line.endswith(": no test has run it")]
    for name, seen in (("block_sum<2>(", False), ("empty()", False), ("scale(", True)):
        assert seen != any(line.startswith("unit.cu " + name) for line in missing), (name, lines)
    assert status == 1
    subprocess.run([programs[1]], env=environment, check=True, capture_output=True)
    assert check(folder, unit)[0] == 0, check(folder, unit)


def main(*programs):
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as kernels:
        test_records(folder, kernels)
        assert check("--empty", folder) == (0, []) and not os.listdir(folder)
    with tempfile.TemporaryDirectory() as folder:
        test_programs(folder, programs)


if __name__ == "__main__":
    main(*sys.argv[1:])
