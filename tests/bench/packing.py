#!/usr/bin/env python3
"""How fast the host packs minibatches for a GPU that its counts do not fit.

  tests/bench/packing.py --build build/release --out FOLDER    1,000,000 cells x 140 non-zeros
  tests/bench/packing.py --short                               tiny

bench_pack packs every cell of a slab once, in drawn order, into one buffer, as a rank does whose
counts are streamed to its GPU: that has to take no longer than the GPU's epoch (roofline.md), beside
which it runs. By 1, 2, 4, ... up to --threads threads; the least of --rounds rounds counts. Writes
packing.json and packing.md to --out.
"""
import json
import sys
import os

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import part
from programs import cpu_name, load
from report import number, table, whole

FIELDS = ("minibatch", "threads", "large", "bytes", "seconds")


def measure(programs, options):
    before = load()
    threads = [str(1 << i) for i in range(options.threads.bit_length())]
    made = programs.call([options.packer, str(options.cells), str(options.nonzeros), str(options.rounds), *threads])
    return {"cpu": cpu_name(), "cells": options.cells, "nonzeros": options.nonzeros, "rounds": options.rounds,
            "load": before, "packed": json.loads(made)}


def markdown(record):
    million = 1e6 / record["cells"]
    times = {(p["minibatch"], p["threads"], p["large"]): p for p in record["packed"]}
    rows = []
    for (size, threads, large), p in times.items():
        if not large:
            own = [p, times[size, threads, True]]
            rows.append([whole(size), str(threads)] + [text for one in own for text in (
                number(1e9 * one["seconds"] / record["cells"], "%.0f"),
                number(one["bytes"] / one["seconds"] / 1e9, "%.1f"),
                number(one["seconds"] * million, "%.3f"))])
    return ["## Packing for a GPU", "",
            "**Measured on a CPU (%s), not on a GPU**: what the host does for counts that are streamed to a GPU, beside "
            "the GPU's work. %s cells of %s non-zeros in drawn order, packed once; the least of %d rounds; load before "
            "%.1f. First where no count is above 254, then where one is in every hundredth cell. An epoch of "
            "1,000,000 cells, s, so." % (
                record["cpu"], whole(record["cells"]), whole(record["nonzeros"]), record["rounds"], record["load"]),
            ""] + table(["minibatch", "threads", "ns a cell", "GB/s", "epoch, s", "with large ones, ns a cell", "GB/s",
                         "epoch, s"], rows, left=0)


def faults_of(record, _):
    """What a record lacks, whatever the speed."""
    packed = record.get("packed", [])
    faults = ["packing: no %s" % k for p in packed for k in FIELDS if k not in p]
    faults += ["packing: %s" % p for p in packed if not faults and not 0 < p["seconds"] < float("inf")]
    return faults if packed else ["nothing was packed"]


def parse():
    parser = part.parser_of(__doc__, ["packer"], ["--ranks", "--set", "--scvi-python"])
    add = parser.add_argument
    add("--cells", type=part.positive, default=1000000)
    add("--nonzeros", type=part.positive, default=140, help="of each cell")
    parser.set_defaults(set=[], ranks=1, scvi_python=None)
    options = parser.parse_args()
    if options.short:
        options.cells, options.rounds = 500, 1
    return options


if __name__ == "__main__":
    sys.exit(part.main(parse(), "packing", measure, part.headed(markdown), faults_of))
