#!/usr/bin/env python3
"""Reads every layout of counts with 1 to 7 ranks and compares with scipy.

    read_test.py matrices|faults|giant|raw|shared_data PROGRAM
"""
import os
import sys
import tempfile

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import read_run
import test_faults
import test_giant
import test_matrices
import test_raw
import test_shared_data

PARTS = {"matrices": test_matrices, "faults": test_faults, "giant": test_giant, "raw": test_raw,
         "shared_data": test_shared_data}


def main():
    part, program = sys.argv[1:3]
    with tempfile.TemporaryDirectory() as folder:
        PARTS[part].run(program, folder)
    if read_run.failures:
        sys.exit("%d checks failed" % len(read_run.failures))
    print(part, "passed")


if __name__ == "__main__":
    main()
