#!/usr/bin/env python3
"""What scvi-tools' training takes of the host, whatever computes: about the least of its time on any
GPU beside such a host.

  tests/bench/host.py --build build/release --scvi-python ENV/bin/python --out tests/bench
                      writes host.json and host.md there; then tests/bench/roofline.py --table
  tests/bench/host.py --short   tiny; skipped without scvi-tools

scvi-tools makes every minibatch, and starts every operation of its step, on one thread of the host,
one after the other (settings.dl_num_workers = 0, its default). Measured on this machine's CPU:

  loader    the next minibatch of AnnDataLoader, shuffled, from sparse counts of a simulated file;
  staging   a copy of its dense counts in pieces: what is not pinned, as these are not by default,
            CUDA copies through a buffer of its own before the call returns;
  step      a step of training with 4 cells, 8 genes and layers of 8 units, where there is next to
            nothing to compute, by the program's own train(), its loader's share taken off. Adam is
            asked for as it is on a GPU (foreach);

--rounds processes of each in turns, of each the median of its steps in seconds of that thread's
CPU time, which other processes do not add to; of these the least. The copy to the GPU takes no less
than the staging, nor than PCI Express does at most. What the GPU itself takes, starting kernels on
it, and waiting for it, are left out: they come on top (roofline.md adds an assumed time for starts).
"""
import os
import statistics
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import part
from programs import MODELS, cpu_name, load
from report import table, whole

PCI_EXPRESS = 63e9  # bytes/s one way: generation 5, 16 lanes, as an H100 SXM has
FASTER = 2          # the hosts that times are given for, too: so many times as fast as this one
CELLS = 1000000     # of an epoch
NAMES = ["LDVAE-NB", "scVI-NB", "scVI-ZINB"]


def theirs(programs, options, what, model, **task):
    linear, likelihood = MODELS[model]
    return programs.theirs({"do": what, "linear": linear, "likelihood": likelihood, "batch": False,
                            "steps": options.steps, **task})


def measure(programs, options):
    path = options.file
    if not path:
        path = os.path.join(programs.folder, "host.h5ad")
        programs.simulate(path, options.cells, options.genes)
    programs.threads = 1
    jobs = [("loader", NAMES[0], {"file": path, "minibatch": m}) for m in options.minibatches] + \
        [("dispatch", model, {}) for model in NAMES]
    runs = [[] for _ in jobs]
    for turn in range(options.rounds):
        for job, its in zip(jobs, runs):
            its.append(theirs(programs, options, *job[:2], **job[2]))
            print("  %s %s, round %d: %.3f ms, load %.1f" % (
                job[0], job[2].get("minibatch", job[1]), turn + 1,
                1e3 * its[-1]["cpu_seconds"], its[-1]["load"]), flush=True)
    keys = ("cpu_seconds", "wall_seconds", "load")
    found = {"loader": [], "dispatch": []}
    for (what, model, task), its in zip(jobs, runs):
        entry = {"minibatch": task["minibatch"]} if what == "loader" else \
            {"model": model, "operations": its[0]["operations"]}
        also = ("staging_seconds",) if what == "loader" else ()
        found[what].append({**entry, **{k: [run[k] for run in its] for k in keys + also}})
    first = runs[0][0]
    return {"host_settings": {"cells": first["cells"], "genes": first["genes"],
                              "steps": options.steps, "rounds": options.rounds},
            "cpu": cpu_name(), "scvi": first["scvi"], "torch": first["torch"],
            "percent": first["percent"], **found}


# --- an epoch ------------------------------------------------------------------------------------

def parts_of(record):
    """{(model, minibatch): (loader, step, copy) in seconds of a step}, each the least."""
    genes = record["host_settings"]["genes"]
    return {(step["model"], loader["minibatch"]): (
        min(loader["cpu_seconds"]), min(step["cpu_seconds"]), min(loader["staging_seconds"]),
        4.0 * loader["minibatch"] * genes / PCI_EXPRESS)
        for step in record["dispatch"] for loader in record["loader"]}


def epochs(record, start=0.0):
    """{(model, minibatch): seconds of an epoch on this host, and on one FASTER times as fast}, if to
    start an operation on a GPU takes this host `start` seconds."""
    starts = {step["model"]: start * step["operations"] for step in record["dispatch"]}
    return {key: tuple(-(-CELLS // key[1]) * (
                (loader + step + starts[key[0]]) / times + max(staging / times, copy))
                for times in (1, FASTER))
            for key, (loader, step, staging, copy) in parts_of(record).items()}


def markdown(record):
    s, rows = record["host_settings"], []
    within, found = parts_of(record), epochs(record)
    operations = {step["model"]: step["operations"] for step in record["dispatch"]}
    for key, seconds in found.items():
        rows.append([key[0], whole(key[1]), *["%.3f" % (1e3 * t) for t in within[key]],
                     whole(operations[key[0]]), "%.1f" % seconds[0], whole(CELLS / seconds[0]),
                     "%.1f" % seconds[1], whole(CELLS / seconds[1])])
    loads = [x for e in record["loader"] + record["dispatch"] for x in e["load"]]
    spread = ", ".join("%.1f - %.1f" % tuple(1e3 * of(step["cpu_seconds"]) for of in (min, max))
                       for step in record["dispatch"])
    return ["## What scvi-tools takes of its host", "",
            "**Measured on a CPU (%s), not on a GPU**: what one thread of the host does for a step of "
            "scvi-tools %s (torch %s), whatever computes, and so about the least of its time on any GPU "
            "beside a host like this one; processes differ (the step: %s ms), and the least is taken. "
            "Milliseconds of CPU time of a step: the loader's "
            "minibatch of %s cells x %s genes, %.1f %% of the counts not 0; the step with next to "
            "nothing to compute; staging the dense minibatch for its copy to the GPU; beside which the copy "
            "takes at least what PCI Express does (worked out). Operations: those that a step dispatches "
            "and that are no views, most of which start a kernel on a GPU; what that takes is not in the "
            "times. An epoch of %s cells, "
            "seconds, and cells/s, by these times; then the same beside a host %d times as "
            "fast. Medians of %s steps, the least of %d processes; load of the machine %.1f - %.1f." % (
                record["cpu"], record["scvi"], record["torch"], spread, whole(s["cells"]),
                whole(s["genes"]), record["percent"], whole(CELLS), FASTER, whole(s["steps"]),
                s["rounds"], min(loads), max(loads)), ""] + table(
        ["model", "minibatch", "loader, ms", "step, ms", "staging, ms", "copy, ms", "operations", "epoch, s",
         "cells/s", "faster host, s", "cells/s"], rows)


def faults_of(record, options):
    faults = []
    for entry in record["loader"] + record["dispatch"]:
        for key in ("cpu_seconds", "wall_seconds"):
            if len(entry[key]) != options.rounds or not all(0 < t < 10 for t in entry[key]):
                faults.append("%s of %s: %s" % (key, entry.get("model", "the loader"), entry[key]))
    for entry in record["dispatch"]:
        if not 50 < entry["operations"] < 5000:
            faults.append("%s: %s operations" % (entry["model"], entry["operations"]))
    return faults


def parse():
    parser = part.parser_of(__doc__, without=("--ranks", "--threads", "--set"))
    add = parser.add_argument
    add("--file", type=os.path.abspath, help="with counts in X, instead of a simulated one")
    add("--cells", type=part.positive, default=CELLS, help="simulated")
    add("--genes", type=part.positive, default=2000)
    add("--minibatches", type=part.positives, default=[128, 4096])
    add("--steps", type=part.positive, default=200)
    parser.set_defaults(ranks=1, threads=1, set=[])
    options = parser.parse_args()
    if options.short:
        options.cells, options.genes, options.minibatches = 3000, 60, [32]
        options.steps, options.rounds = 20, 1
    return options


def main(options):
    if not options.check and not options.scvi_python:
        print("skipped: --scvi-python or ATLASVI_SCVI_PYTHON does not name a Python with scvi-tools")
        return 77 if options.short else 1
    return part.main(options, "host", measure, part.headed(markdown), faults_of)


if __name__ == "__main__":
    sys.exit(main(parse()))
