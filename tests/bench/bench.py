#!/usr/bin/env python3
"""Speed, memory and time to quality beside scvi-tools, and where our time goes.

  tests/bench/bench.py --build build/release --make-env ENV     makes a venv with scvi-tools (5 GB;
      less with --pip-option=--extra-index-url=https://download.pytorch.org/whl/cpu)
  tests/bench/bench.py --build build/release --scvi-python ENV/bin/python
  tests/bench/bench.py --build build/release                    ours alone
  tests/bench/bench.py --quality FILE.h5ad ...                  time to quality on these files too
  tests/bench/bench.py --short                                  tiny; a record with every field

Both programs train on the same file (simulated unless --file is given, which then has counts in X)
on the same cores, in turns, --rounds times, each fit in a process of its own: all cells, the same
minibatch, epochs, n_hidden 128, n_latent 10, n_layers 1, dropout 0.1, each its defaults otherwise.
Training alone is compared: cells/s of the epochs after the first, which warms up. Then ours trains
with every operation timed, beside the floors of the machine, measured here as well.

Writes bench.json and bench.md to --out. Time it on a machine that does nothing else: the load
before every run stands in both.
"""
import argparse
import json
import os
import signal
import statistics
import sys
import tempfile

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import floors
import inference
import memory
import quality
import reading
import report
from programs import (MODELS, PINS, Failed, Programs, load, make_environment,
                      model_settings)


def run_ours(programs, path, batch, model, minibatch, epochs, timed=False):
    values = {"data.input": path, "train.train_size": "1.0",
              "train.batch_norm_statistics": "running",
              **model_settings(model, minibatch, epochs + 1)}
    if batch:
        values["data.batch_key"] = batch
    return programs.ours(values, timed)


def rate_of(seconds, cells):
    """Cells/s of the epochs after the first."""
    return cells * len(seconds[1:]) / sum(seconds[1:])


def one_round(programs, file, model, minibatch, epochs, which):
    if which == "ours":
        run = run_ours(programs, file["path"], file["batch"], model, minibatch, epochs)
        end = run["events"]["end"][0]
        rate = rate_of([e["seconds"] for e in run["events"]["epoch"]],
                       run["events"]["input"][0]["train_cells"])
        return {"program": which, "cells_per_second": rate, "load": run["load"],
                "peak_bytes": round(end["peak_bytes_mean"] * programs.ranks)}
    linear, likelihood = MODELS[model]
    run = programs.theirs({"do": "speed", "file": file["path"], "linear": linear,
                           "likelihood": likelihood, "minibatch": minibatch, "epochs": epochs + 1,
                           "batch": bool(file["batch"])})
    return {"program": which, "cells_per_second": rate_of(run["epoch_seconds"], run["cells"]),
            "load": run["load"], "peak_bytes": run["peak_bytes"],
            "scvi": run["scvi"], "torch": run["torch"]}


def summary(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def side_of(runs, which):
    runs = [r for r in runs if r["program"] == which]
    if not runs:
        return None
    return {**summary([r["cells_per_second"] for r in runs]),
            "peak_bytes": max(r["peak_bytes"] for r in runs)}


def compare_speed(programs, file, model, minibatch, options):
    order = ["theirs", "ours"] if programs.scvi_python else ["ours"]
    runs = []
    for turn in range(options.rounds):
        for which in order if turn % 2 == 0 else order[::-1]:
            runs.append({"round": turn, **one_round(programs, file, model, minibatch,
                                                    options.epochs, which)})
            print("  %s, minibatch %d, round %d: %-6s %12.0f cells/s, load %.1f" % (
                model, minibatch, turn + 1, which, runs[-1]["cells_per_second"], runs[-1]["load"]),
                flush=True)
    ours, theirs = side_of(runs, "ours"), side_of(runs, "theirs")
    rates = lambda which: [r["cells_per_second"] for r in
                           sorted(runs, key=lambda r: r["round"]) if r["program"] == which]
    pairs = [a / b for a, b in zip(rates("ours"), rates("theirs"))]
    loads = [r["load"] for r in runs]
    return {"model": model, "minibatch": minibatch, "runs": runs, "ours": ours, "theirs": theirs,
            "ratio_of_medians": ours["median"] / theirs["median"] if theirs else None,
            "ratio_of_pairs": summary(pairs) if pairs else None,
            "load": [min(loads), max(loads)]}


def time_phases(programs, file, model, minibatch, options, machine):
    """Of --rounds runs the fastest, which was disturbed least; and the seconds of all readings."""
    made, reads = [], []
    for _ in range(options.rounds):
        run = run_ours(programs, file["path"], file["batch"], model, minibatch,
                       options.phase_epochs, timed=True)
        cells = run["events"]["input"][0]["train_cells"]
        reads.append(next(e["seconds_max"] for e in run["events"]["phase"] if e["name"] == "read"))
        made.append({"model": model, "minibatch": minibatch, "load": run["load"],
                     **floors.phases_of(run["lines"], machine, cells)})
    return max(made, key=lambda m: m["cells_per_second"]), reads


def read_alone(path, options):
    """Reading the file's counts by itself, beside a bare HDF5 read of them and anndata's read."""
    options.shapes = [(options.ranks, options.threads)]
    made = reading.measure(options, {"as stored": path})
    return {**made["reads"][0], "anndata_seconds": made["anndata"]["as stored"]}


def cpu_name():
    with open("/proc/cpuinfo") as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return names[0] if names else "unknown processor"


def save(record, folder):
    """After every step: a long run that is cut short leaves what it has measured."""
    with open(os.path.join(folder, "bench.json"), "w") as file:
        file.write(json.dumps(record, indent=1) + "\n")


def make(programs, options):
    if options.file:
        path, batch = os.path.abspath(options.file), options.batch
    else:
        path, batch = os.path.join(programs.folder, "simulated.h5ad"), "batch"
        programs.simulate(path, options.cells, options.genes)
    file = {"path": path, "batch": batch}
    first = run_ours(programs, path, batch, options.models[0], options.minibatches[0], 1)
    facts = first["events"]["input"][0]
    shape = {"name": os.path.basename(path), "cells": facts["cells"], "genes": facts["genes"],
             "nonzero_share": facts["nonzeros"] / (facts["cells"] * facts["genes"])}
    machine = programs.measure_machine(facts["genes"], facts["nonzeros"] / facts["cells"],
                                       options.machine_seconds)
    record = {"atlasvi": programs.version(), "scvi": None, "torch": None, "cpu": cpu_name(),
              "settings": {k: getattr(options, k) for k in
                           ("models", "minibatches", "epochs", "phase_epochs", "rounds", "ranks",
                            "threads", "set")},
              "file": shape, "machine": machine, "speed": [], "phases": [], "quality": []}
    cases = [(m, b) for m in options.models for b in options.minibatches]
    for model, minibatch in cases:
        record["speed"].append(compare_speed(programs, file, model, minibatch, options))
        save(record, options.out)
    for run in (r for s in record["speed"] for r in s["runs"] if "scvi" in r):
        record["scvi"], record["torch"] = run["scvi"], run["torch"]
    reads = []
    for model, minibatch in cases:
        made, more = time_phases(programs, file, model, minibatch, options, machine)
        record["phases"].append(made)
        reads += more
        save(record, options.out)
    record["read"] = {"seconds": statistics.median(reads), **read_alone(path, options)}
    for each in options.quality or ([path] if options.short and programs.scvi_python else []):
        for model in options.models:
            print("  time to quality: %s, %s, load %.1f" % (each, model, load()), flush=True)
            record["quality"].append(quality.compare(programs, os.path.abspath(each), model,
                                                     options.minibatches[0], options))
            save(record, options.out)
    if options.memory_cells:
        record.update(memory.in_bench(programs, options))
        save(record, options.out)
    if options.inference_cells:
        found = inference.in_bench(programs, options)
        record.update({k: found[k] for k in ("inference", "inference_settings")})
    return record


def parse():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    words = lambda text: [w for w in text.split(",") if w]
    numbers = lambda text: [int(w) for w in words(text)]
    add("--build", default="build/release", metavar="FOLDER", help="where the programs are built")
    add("--atlasvi", default=os.environ.get("ATLASVI"), metavar="PROGRAM")
    add("--phases", metavar="PROGRAM", help="bench_phases")
    add("--machine", metavar="PROGRAM", help="bench_machine")
    add("--reader", metavar="PROGRAM", help="bench_read")
    add("--mpirun", default=os.environ.get("MPIRUN", "mpirun"))
    add("--make-env", metavar="FOLDER", help="make a venv with " + " ".join(PINS))
    add("--pip-option", action="append", default=[], help="for pip, e.g. an index with CPU wheels")
    add("--scvi-python", default=os.environ.get("ATLASVI_SCVI_PYTHON"), metavar="PYTHON")
    add("--file", help="train on this file (counts in X)")
    add("--batch", default="", metavar="COLUMN", help="of --file: batch, or nothing for no batches")
    add("--cells", type=int, default=20000)
    add("--genes", type=int, default=2000)
    add("--models", type=words, default=["LDVAE-NB", "scVI-ZINB", "scVI-NB"])
    add("--minibatches", type=numbers, default=[128, 1024])
    add("--epochs", type=int, default=5, help="that count; one more warms up")
    add("--phase-epochs", type=int, default=10, help="the same of the run with operations timed")
    add("--rounds", type=int, default=3)
    add("--threads", type=int, default=2, help="a rank")
    add("--ranks", type=int, default=1, help="of ours; scvi-tools gets ranks x threads threads")
    add("--cpus", type=numbers, default=[], help="cores for both programs")
    add("--set", nargs="*", default=[], metavar="section.key=value", help="more settings of ours")
    add("--quality", nargs="*", default=[], metavar="FILE")
    add("--quality-counts", default="X", help="X, layers/NAME or raw/X")
    add("--quality-batch", default="", metavar="COLUMN")
    add("--quality-genes", type=int, default=0, help="those with the largest totals; 0: all")
    add("--quality-epochs", type=int, default=0, help="0: scvi-tools' default")
    add("--memory-cells", type=numbers, default=[], metavar="N,N", help="memory by size too")
    add("--memory-genes", type=numbers, default=[2000], metavar="N,N")
    add("--inference-cells", type=int, default=0, metavar="N", help="inference and writing too")
    add("--machine-seconds", type=float, default=0.05, help="a repetition of a measurement")
    add("--out", default=".", metavar="FOLDER")
    add("--short", action="store_true")
    return parser, parser.parse_args()


def settle(parser, options, folder):
    if options.short:
        options.cells, options.genes, options.epochs, options.phase_epochs = 600, 150, 1, 1
        options.models, options.minibatches, options.rounds = ["LDVAE-NB", "scVI-ZINB"], [64], 1
        options.machine_seconds, options.quality_epochs = 0.0005, 3
        options.quality_batch, options.out = "batch", folder
        options.memory_cells, options.memory_genes, options.inference_cells = [300], [60], 300
    for name, place in (("atlasvi", "src/atlasvi"), ("phases", "tests/bench/bench_phases"),
                        ("machine", "tests/bench/bench_machine"),
                        ("reader", "tests/bench/bench_read")):
        path = os.path.abspath(getattr(options, name) or os.path.join(options.build, place))
        setattr(options, name, path)
        if not os.access(path, os.X_OK):
            sys.exit("no program at %s: build first, name the folder with --build" % path)
    unknown = [m for m in options.models if m not in MODELS]
    if unknown or min(options.epochs, options.phase_epochs, options.rounds) < 1:
        parser.error("models are %s; epochs and rounds at least 1" % ", ".join(MODELS))
    if options.file and options.batch not in ("", "batch"):
        parser.error("both programs must see the same batches: the column must be named batch")
    if options.make_env:
        options.scvi_python = make_environment(os.path.abspath(options.make_env),
                                               options.pip_option)
    if options.scvi_python and not os.access(options.scvi_python, os.X_OK):
        sys.exit("no python at %s" % options.scvi_python)
    if options.quality and not options.scvi_python:
        sys.exit("--quality needs scvi-tools: --make-env or --scvi-python")
    if not options.scvi_python:
        print("no scvi-tools (--make-env FOLDER, --scvi-python or ATLASVI_SCVI_PYTHON): ours alone")
    os.makedirs(options.out, exist_ok=True)


def main():
    parser, options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # with what it started
    with tempfile.TemporaryDirectory(prefix="atlasvi-bench-") as folder:
        settle(parser, options, folder)
        try:
            record = make(Programs(options, folder), options)
        except Failed as fault:
            sys.exit(str(fault))
        text = report.markdown(record)
        for more in (memory, inference):
            text += "\n".join([""] + more.markdown(record)) if more.__name__ in record else ""
        save(record, options.out)
        with open(os.path.join(options.out, "bench.md"), "w") as file:
            file.write(text)
        print("\n" + text)
        with open(os.path.join(options.out, "bench.json")) as file:
            faults = report.faults_of(json.load(file))
    for fault in faults:
        print("FAIL " + fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
