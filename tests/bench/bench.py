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
import os
import statistics
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import floors
import inference
import memory
import part
import quality
import reading
import report
from programs import MODELS, PINS, cpu_name, load, make_environment, training_settings


def run_ours(programs, file, model, minibatch, epochs, timed=False):
    return programs.ours(training_settings(file["path"], model, minibatch, epochs + 1,
                                           file["batch"]), timed)


def one_round(programs, file, model, minibatch, epochs, which):
    if which == "ours":
        run = run_ours(programs, file, model, minibatch, epochs)
        end = run["events"]["end"][0]
        return {"program": which, "cells_per_second": part.our_rate(run["events"]),
                "load": run["load"], "peak_bytes": round(end["peak_bytes_mean"] * programs.ranks)}
    linear, likelihood = MODELS[model]
    run = programs.theirs({"do": "speed", "file": file["path"], "linear": linear,
                           "likelihood": likelihood, "minibatch": minibatch, "epochs": epochs + 1,
                           "batch": bool(file["batch"])})
    return {"program": which, "load": run["load"], "peak_bytes": run["peak_bytes"],
            "cells_per_second": part.rate_of(run["epoch_seconds"], run["cells"]),
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
        run = run_ours(programs, file, model, minibatch, options.phase_epochs, timed=True)
        cells = run["events"]["input"][0]["train_cells"]
        reads.append(part.phase(run["events"], "read"))
        made.append({"model": model, "minibatch": minibatch, "load": run["load"],
                     **floors.phases_of(run["lines"], machine, cells)})
    return max(made, key=lambda m: m["cells_per_second"]), reads


def file_of(programs, options):
    if options.file:
        return {"path": os.path.abspath(options.file), "batch": options.batch}
    path = os.path.join(programs.folder, "simulated.h5ad")
    programs.simulate(path, options.cells, options.genes)
    return {"path": path, "batch": "batch"}


def begin(programs, options, file):
    """The record before anything was compared."""
    first = run_ours(programs, file, options.models[0], options.minibatches[0], 1)
    facts = first["events"]["input"][0]
    shape = {"name": os.path.basename(file["path"]), "cells": facts["cells"],
             "genes": facts["genes"],
             "nonzero_share": facts["nonzeros"] / (facts["cells"] * facts["genes"])}
    machine = programs.measure_machine(facts["genes"], facts["nonzeros"] / facts["cells"],
                                       options.machine_seconds)
    return {"scvi": None, "torch": None, "cpu": cpu_name(),
            "settings": {k: getattr(options, k) for k in
                         ("models", "minibatches", "epochs", "phase_epochs", "rounds", "ranks",
                          "threads", "set")},
            "file": shape, "machine": machine, "speed": [], "phases": [], "quality": []}


def measure(programs, options):
    """Saved after every step: a long run that is cut short leaves what it has measured."""
    save = lambda: part.save(programs, options, "bench", record)
    if options.make_env:
        options.scvi_python = programs.scvi_python = make_environment(
            os.path.abspath(options.make_env), options.pip_option)
    if not programs.scvi_python:
        print("no scvi-tools (--make-env FOLDER, --scvi-python or ATLASVI_SCVI_PYTHON): ours alone")
    file = file_of(programs, options)
    record = begin(programs, options, file)
    cases = [(m, b) for m in options.models for b in options.minibatches]
    for model, minibatch in cases:
        record["speed"].append(compare_speed(programs, file, model, minibatch, options))
        save()
    for run in (r for s in record["speed"] for r in s["runs"] if "scvi" in r):
        record["scvi"], record["torch"] = run["scvi"], run["torch"]
    reads = []
    for model, minibatch in cases:
        made, more = time_phases(programs, file, model, minibatch, options, record["machine"])
        record["phases"].append(made)
        reads += more
        save()
    record["read"] = {"seconds": statistics.median(reads),
                      **reading.in_bench(programs, options, file["path"])}
    own = [file["path"]] if options.short and programs.scvi_python else []
    for each in options.quality or own:
        for model in options.models:
            print("  time to quality: %s, %s, load %.1f" % (each, model, load()), flush=True)
            record["quality"].append(quality.compare(programs, os.path.abspath(each), model,
                                                     options.minibatches[0], options))
            save()
    if options.memory_cells:
        record.update(memory.in_bench(programs, options))
        save()
    if options.inference_cells:
        found = inference.in_bench(programs, options)
        record.update({k: found[k] for k in ("inference", "inference_settings")})
    return record


def text_of(record):
    text = report.markdown(record)
    for more in (memory, inference):
        text += "\n".join([""] + more.markdown(record)) if more.__name__ in record else ""
    return text


def parse():
    parser = part.parser_of(__doc__, ["phases", "machine", "reader"])
    add = parser.add_argument
    add("--make-env", metavar="FOLDER", help="make a venv with " + " ".join(PINS))
    add("--pip-option", action="append", default=[], help="for pip, e.g. an index with CPU wheels")
    add("--file", help="train on this file (counts in X)")
    add("--batch", default="", metavar="COLUMN", help="of --file: batch, or nothing for no batches")
    add("--cells", type=part.positive, default=20000)
    add("--genes", type=part.positive, default=2000)
    add("--models", type=part.some_of(MODELS), default=["LDVAE-NB", "scVI-ZINB", "scVI-NB"])
    add("--minibatches", type=part.positives, default=[128, 1024])
    add("--epochs", type=part.positive, default=5, help="that count; one more warms up")
    add("--phase-epochs", type=part.positive, default=10,
        help="the same of the run with operations timed")
    add("--quality", nargs="*", default=[], metavar="FILE")
    add("--quality-counts", default="X", help="X, layers/NAME or raw/X")
    add("--quality-batch", default="", metavar="COLUMN")
    add("--quality-genes", type=int, default=0, help="those with the largest totals; 0: all")
    add("--quality-epochs", type=int, default=0, help="0: scvi-tools' default")
    add("--memory-cells", type=part.positives, default=[], metavar="N,N", help="memory by size too")
    add("--memory-genes", type=part.positives, default=[2000], metavar="N,N")
    add("--inference-cells", type=int, default=0, metavar="N", help="inference and writing too")
    add("--machine-seconds", type=float, default=0.05, help="a repetition of a measurement")
    options = parser.parse_args()
    if options.short:
        options.cells, options.genes, options.epochs, options.phase_epochs = 600, 150, 1, 1
        options.models, options.minibatches, options.rounds = ["LDVAE-NB", "scVI-ZINB"], [64], 1
        options.machine_seconds, options.quality_epochs = 0.0005, 3
        options.quality_batch = "batch"
        options.memory_cells, options.memory_genes, options.inference_cells = [300], [60], 300
    if options.file and options.batch not in ("", "batch"):
        parser.error("both programs must see the same batches: the column must be named batch")
    if options.make_env:
        options.scvi_python = None  # it may be the one that is yet to be made
    elif options.quality and not options.scvi_python:
        parser.error("--quality needs scvi-tools: --make-env or --scvi-python")
    return options


if __name__ == "__main__":
    sys.exit(part.main(parse(), "bench", measure, text_of, report.faults_of))
