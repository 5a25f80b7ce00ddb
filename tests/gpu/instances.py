#!/usr/bin/env python3
"""Whether tests on the emulated device have run every kernel, and of templates every instance.

usage: instances.py --empty FOLDER
       instances.py FOLDER KERNELS

The first makes an empty folder for the records that programs leave with AV_EMULATED_RAN=FOLDER
(emulation/instances.cpp). The second reads them: it fails with the names of instances that were in
a program, but ran in none, and with those of files KERNELS/*.cu of which no program had a kernel.
"""
import glob
import os
import shutil
import sys


def read(folder):
    """{"file.cu name<arguments>(parameters)": whether it has run} of all records."""
    ran = {}
    for path in glob.glob(os.path.join(folder, "*")):
        with open(path) as file:
            for line in file:
                word, name = line.rstrip("\n").split(" ", 1)
                ran[name] = ran.get(name, False) or {"ran": True, "never": False}[word]
    return ran


def main(folder, kernels):
    if folder == "--empty":
        shutil.rmtree(kernels, ignore_errors=True)
        os.makedirs(kernels)
        return 0
    ran = read(folder)
    files = sorted(os.path.basename(path) for path in glob.glob(os.path.join(kernels, "*.cu")))
    if not files:
        sys.exit(f"error: {kernels} has no kernels")
    known = {name.split()[0] for name in ran}
    missing = [f"{file}: no program has a kernel of it" for file in files if file not in known]
    missing += [f"{name}: no test has run it" for name in sorted(ran) if not ran[name]]
    for line in missing:
        print(line)
    print(f"{sum(ran.values())} of {len(ran)} instances of kernels have run, of {len(files)} files")
    return 1 if missing else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
