#!/usr/bin/env python3
"""Latent codes and denoised output beside scvi-tools, and beside a plain write of as many bytes.

  tests/bench/inference.py --build build/release --scvi-python ENV/bin/python --out FOLDER
                                     writes inference.json and inference.md there
  tests/bench/inference.py --build build/release --cells 1000000 --kinds latent
  tests/bench/inference.py --short   tiny

On one simulated file, in turns, --rounds times; each model is trained for one epoch, which is not
counted. Ours: seconds in which codes are computed and written (latent), decoded means of every cell
and gene likewise (denoised; both: sample rates too), and in which the file is closed and stored on
its disk, and in which it is read back and checked, which are told apart. scvi-tools: seconds of
get_latent_representation and get_normalized_expression, into memory, with their default arguments
and with --batch-size.
The plain write: as many bytes in blocks of 8 MiB to the same folder, with fsync. "over plain" holds
the same against it: our seconds of computing, writing, closing and fsync (phase "store"), but not of
reading back and checking (phase "verify"), which a plain write does not do.
"""
import argparse
import os
import statistics
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import part
from programs import MODELS, load, training_settings
from report import number, table, whole

KINDS = {"latent": {}, "denoised": {"output.denoised": "yes"},
         "both": {"output.denoised": "yes", "output.sample_rate": "yes"}}


def plain_write(folder, size):
    """Seconds of writing `size` bytes to a new file there, and of fsync."""
    block = memoryview(os.urandom(1 << 23))
    path = os.path.join(folder, "plain")
    began = time.perf_counter()
    with open(path, "wb", buffering=0) as file:
        left = size
        while left > 0:
            left -= file.write(block[:min(left, len(block))])
        os.fsync(file.fileno())
    seconds = time.perf_counter() - began
    os.unlink(path)
    return seconds


def run_ours(programs, options, path, kind):
    values = {**training_settings(path, options.model, options.minibatch, 1), **KINDS[kind]}
    before = load()
    events = programs.ours(values)["events"]
    facts = events["input"][0]
    matrices = len(KINDS[kind])
    own = "latent" if kind == "latent" else "decoded"
    return {"kind": kind, "load": before, "cells": facts["cells"],
            "bytes": 4 * facts["cells"] * (matrices * facts["genes"] if matrices else 10),
            "seconds": part.phase(events, own),
            "compute_seconds": part.phase(events, "encode" if kind == "latent"
                                          else "encode and decode"),
            "store_seconds": part.phase(events, "store"),
            "stored_seconds": part.phase(events, own) + part.phase(events, "store"),
            "verify_seconds": part.phase(events, "verify"),
            "write_seconds": part.phase(events, "write results"),
            "peak_bytes": round(events["end"][0]["peak_bytes_mean"] * programs.ranks)}


def run_theirs(programs, options, path, kind):
    linear, likelihood = MODELS[options.model]
    return programs.theirs({"do": "latent" if kind == "latent" else "normalized", "file": path,
                            "linear": linear, "likelihood": likelihood,
                            "minibatch": options.minibatch, "batch_size": options.batch_size})


def best_of(runs, keys):
    best = min(runs, key=lambda r: r[keys[0]])
    return {**best, **{"median_" + k: statistics.median(r[k] for r in runs) for k in keys}}


def measure(programs, options):
    path = os.path.join(programs.folder, "inference.h5ad")
    programs.simulate(path, options.cells, options.genes)
    made, versions = [], {"scvi": None, "torch": None}
    for kind in options.kinds:
        ours, theirs, plain = [], [], []
        for turn in range(options.rounds):
            ours.append(run_ours(programs, options, path, kind))
            plain.append(plain_write(programs.folder, ours[-1]["bytes"]))
            if programs.scvi_python and kind != "both":
                theirs.append(run_theirs(programs, options, path, kind))
            print("  %s, round %d: ours %.2f s, plain write %.2f s%s, load %.1f" % (
                kind, turn + 1, ours[-1]["seconds"], plain[-1],
                ", scvi-tools %.2f s" % theirs[-1]["seconds"] if theirs else "",
                ours[-1]["load"]), flush=True)
        best = best_of(ours, ["seconds", "store_seconds", "verify_seconds", "write_seconds"])
        stored = min(r["stored_seconds"] for r in ours)
        entry = {"kind": kind, "ours": best, "theirs": None,
                 "plain_seconds": min(plain), "median_plain_seconds": statistics.median(plain),
                 "best_stored_seconds": stored, "ratio_to_plain": stored / min(plain)}
        if theirs:
            entry["theirs"] = best_of(theirs, ["seconds", "fair_seconds"])
            entry["ratio"] = entry["theirs"]["fair_seconds"] / best["seconds"]
            versions = {k: theirs[0][k] for k in versions}
        made.append(entry)
    os.unlink(path)
    keys = ("model", "minibatch", "batch_size", "cells", "genes", "rounds", "ranks", "threads",
            "set")
    return {"inference_settings": {k: getattr(options, k) for k in keys}, **versions,
            "inference": made}


def markdown(record):
    s = record["inference_settings"]
    rows = []
    for e in record["inference"]:
        o, t = e["ours"], e["theirs"]
        theirs = [whole(o["cells"] / t[k]) if t else "-" for k in ("seconds", "fair_seconds")]
        rows.append([e["kind"], whole(o["cells"] / o["seconds"]), *theirs,
                     number(e.get("ratio"), "%.1f"), "%.2f" % (o["bytes"] / 1e9),
                     "%.2f" % o["seconds"], "%.2f" % o["compute_seconds"],
                     "%.2f" % e["best_stored_seconds"], "%.2f" % e["plain_seconds"],
                     "%.2f" % e["ratio_to_plain"], "%.2f" % o["verify_seconds"],
                     whole(o["peak_bytes"] / 2**20),
                     whole(t["peak_bytes"] / 2**20) if t else "-"])
    return ["## Inference and writing", "",
            "%s, %s cells x %s genes, %d rank(s) x %d thread(s); of %d round(s) the fastest. scvi-tools "
            "computes into memory and writes nothing; second figure: batch_size = %d, which the ratio "
            "is taken from. Seconds: ours to compute and write, to compute alone, to compute and write "
            "with fsync; a plain write of as many bytes with fsync, which the last is over; then to "
            "read the file back and check it." % (
                s["model"], whole(s["cells"]), whole(s["genes"]), s["ranks"], s["threads"],
                s["rounds"], s["batch_size"]), ""] + table(
        ["output", "atlasvi, cells/s", "scvi-tools", "scvi-tools, larger batches", "ratio", "GB",
         "seconds", "compute", "with fsync", "plain write", "over plain", "verify", "peak atlasvi, MiB",
         "peak scvi-tools, MiB"], rows)


def faults_of(record, options):
    faults = []
    kinds = [e["kind"] for e in record["inference"]]
    if kinds != options.kinds:
        faults.append("asked for %s, measured %s" % (options.kinds, kinds))
    for e in record["inference"]:
        o = e["ours"]
        for key in ("seconds", "compute_seconds", "store_seconds", "verify_seconds",
                    "write_seconds", "peak_bytes"):
            if not 0 < o[key] < float("inf"):
                faults.append("%s: %s is %s" % (e["kind"], key, o[key]))
        if o["compute_seconds"] > o["seconds"] or \
                o["stored_seconds"] + o["verify_seconds"] > o["write_seconds"]:
            faults.append("%s: the parts are more than the whole: %s" % (e["kind"], o))
        if not e["ratio_to_plain"] * e["plain_seconds"] >= o["seconds"]:
            faults.append("%s: fsync is not in the ratio to a plain write: %s" % (e["kind"], e))
        if options.scvi_python and e["kind"] != "both" and not e["theirs"]["fair_seconds"] > 0:
            faults.append("%s: scvi-tools was not timed" % e["kind"])
    return faults


def in_bench(programs, options):
    """As a part of bench.py."""
    own = {"model": options.models[0], "minibatch": options.minibatches[-1], "batch_size": 1024,
           "cells": options.inference_cells, "kinds": list(KINDS)}
    return measure(programs, argparse.Namespace(**{**vars(options), **own}))


def parse():
    parser = part.parser_of(__doc__)
    add = parser.add_argument
    add("--cells", type=part.positive, default=100000)
    add("--genes", type=part.positive, default=2000)
    add("--kinds", type=part.some_of(KINDS), default=list(KINDS), help="of " + ",".join(KINDS))
    add("--model", default="LDVAE-NB", choices=sorted(MODELS))
    add("--minibatch", type=part.positive, default=1024, help="of training")
    add("--batch-size", type=part.positive, default=1024,
        help="of scvi-tools' inference, beside its default")
    options = parser.parse_args()
    if options.short:
        options.cells, options.genes, options.rounds = 600, 150, 1
    return options


if __name__ == "__main__":
    sys.exit(part.main(parse(), "inference", measure, part.headed(markdown), faults_of))
