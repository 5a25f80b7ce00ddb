#!/usr/bin/env python3
"""2 ranks x 1 thread beside 1 rank x 2 threads, what ranks tell each other, and a model of many ranks.

  tests/bench/ranks.py --build build/release --out FOLDER   writes ranks.json and ranks.md there
  tests/bench/ranks.py --short                              tiny; looks at no speed
  tests/bench/ranks.py --check tests/bench/ranks.md         is it what ranks.json beside it says?

Trains both ways in turns, --rounds times. Then one rank of one thread with every operation timed, at
two minibatches, tells the seconds of a step: those of each cell, those of any minibatch, Adam's; and
which sums travel. bench_comm tells what sums cost between two ranks here. From these the model (see
step_seconds) works out 8, 64 and 512 ranks; links of other machines are examples (LINKS).
"""
import json
import math
import os
import statistics
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import part
from programs import MODELS, load, training_settings
from report import table

RANKS = [8, 64, 512]
# seconds of a message, seconds between the starts of two, bytes a second: typical published values
LINKS = [{"name": "12 GB/s", "latency": 1.5e-6, "gap": 0.3e-6, "bandwidth": 12e9},
         {"name": "25 GB/s", "latency": 1.5e-6, "gap": 0.3e-6, "bandwidth": 25e9}]
NODE = 12  # times the speed of one core, for a rank of 16 cores: assumed, never measured


def shaped(programs, ranks, threads):
    programs.ranks, programs.threads = ranks, threads
    return programs


def compare(programs, path, model, options):
    """Both ways in turns; what the ranks told each other in the fastest run of two."""
    runs = []
    for turn in range(options.rounds):
        for ranks in (1, 2) if turn % 2 == 0 else (2, 1):
            run = shaped(programs, ranks, 3 - ranks).ours(
                training_settings(path, model, options.minibatch, options.epochs + 1))
            runs.append({"ranks": ranks, "cells_per_second": part.our_rate(run["events"]),
                         "load": run["load"], "communication": run["events"]["communication"][0]})
            print("  %s, %d x %d, round %d: %10.0f cells/s, load %.1f" % (
                model, ranks, 3 - ranks, turn + 1, runs[-1]["cells_per_second"], run["load"]),
                flush=True)
    rates = {r: [x["cells_per_second"] for x in runs if x["ranks"] == r] for r in (1, 2)}
    best = max((r for r in runs if r["ranks"] == 2), key=lambda r: r["cells_per_second"])
    return {"one": rates[1], "two": rates[2],
            "ratio": statistics.median(rates[2]) / statistics.median(rates[1]),
            "communication": {k: v for k, v in best["communication"].items()
                              if k not in ("time", "event")}}


def timed_step(programs, path, model, minibatch, options):
    """Seconds of a step and of Adam in it; the sums that travel: (numbers, how often a step)."""
    best = None
    for _ in range(options.rounds):
        lines = shaped(programs, 1, 1).ours(
            training_settings(path, model, minibatch, options.epochs + 1), timed=True)["lines"]
        of = lambda op: [l for l in lines[1:] if l["op"] == op]
        steps = sum(l["calls"] for l in of("adam"))
        step = {"minibatch": minibatch, "seconds": lines[0]["seconds"] / steps,
                "adam": sum(l["seconds"] for l in of("adam")) / steps,
                "sums": [[l["shape"][0], l["calls"] / steps] for l in of("allreduce")],
                "parts": [[l["shape"][0], l["calls"] / steps] for l in of("share_begin")]}
        best = step if best is None or step["seconds"] < best["seconds"] else best
    return best


def work_of(steps):
    """Of a rank: seconds of a step for each cell, for any minibatch, and of Adam."""
    small, large = steps
    cell = (large["seconds"] - small["seconds"]) / (large["minibatch"] - small["minibatch"])
    cell = max(cell, 0.0)  # tiny data: noise
    adam = min(small["adam"], large["adam"])
    fixed = max(large["seconds"] - cell * large["minibatch"] - adam, 0.0)
    return {"cell": cell, "fixed": fixed, "adam": adam, "sums": large["sums"],
            "parts": large["parts"]}


def slope(pairs):
    mean_x = statistics.mean(x for x, _ in pairs)
    mean_y = statistics.mean(y for _, y in pairs)
    return (sum((x - mean_x) * (y - mean_y) for x, y in pairs) /
            sum((x - mean_x) ** 2 for x, _ in pairs))


def link_of(comm):
    """Between two ranks: a sum of few bytes is a latency; gathering moves half of the bytes."""
    latency = statistics.median(t["sum"] for t in comm["times"] if t["bytes"] <= 1024)
    large = [t for t in comm["times"] if t["bytes"] >= 1 << 18]
    gather = slope([(t["bytes"] / 2, t["gather"]) for t in large])
    share = slope([(t["bytes"] / 2, t["share"]) for t in large])
    return {"name": "this node", "latency": latency, "gap": latency, "bandwidth": 1 / gather,
            "add": max(share - gather, 0.0)}


def communication_seconds(work, link, add, ranks):
    """A sum to all ranks takes log2(ranks) messages one after the other. Gradients go to the owners of
    their shares, and parameters back: a message to each other rank, (ranks - 1) / ranks of the bytes;
    what arrives is added up at the rate measured here. Nothing runs beside the computation."""
    if ranks == 1:
        return 0.0
    others = (ranks - 1) / ranks
    sums = sum(often * math.ceil(math.log2(ranks)) * (link["latency"] + 8 * n / link["bandwidth"])
               for n, often in work["sums"])
    parts = sum(often * (2 * ((ranks - 1) * link["gap"] + link["latency"] +
                              others * 4 * n / link["bandwidth"]) + others * 4 * n * add)
                for n, often in work["parts"])
    return sums + parts


def step_seconds(work, link, add, ranks, local, speed):
    """Ranks are `speed` times the core that was measured; each has the same number of cells."""
    computing = (work["cell"] * local + work["fixed"] + work["adam"] / ranks) / speed
    return computing + communication_seconds(work, link, add, ranks)


def extrapolate(work, link, add, ranks, minibatch, weak, speed):
    """(cells/s, efficiency): against so many times one rank with its share, or with all, of the cells."""
    local = minibatch if weak else minibatch / ranks
    alone = minibatch / step_seconds(work, link, add, 1, minibatch, speed)
    rate = local * ranks / step_seconds(work, link, add, ranks, local, speed)
    return rate, rate / (ranks * alone)


def measure(programs, options):
    path = os.path.join(programs.folder, "simulated.h5ad")
    programs.simulate(path, options.cells, options.genes)
    comm = json.loads(programs.call(programs.across(2, [options.comm, str(options.seconds)])))
    record = {"cells": options.cells, "genes": options.genes,
              "minibatch": options.minibatch, "global_minibatches": options.global_minibatches,
              "rounds": options.rounds, "load": load(), "comm": comm, "link": link_of(comm),
              "models": {}}
    for model in options.models:
        made = compare(programs, path, model, options)
        steps = [timed_step(programs, path, model, b, options)
                 for b in (options.minibatch // 4, options.minibatch)]
        record["models"][model] = {**made, "steps": steps, "work": work_of(steps)}
    return record


def markdown(record):
    lines, link = [], record["link"]
    lines += ["Measured, %s genes, minibatch %d over both ranks, medians of %d rounds (%s):" % (
        "{:,}".format(record["genes"]), record["minibatch"], record["rounds"], record["atlasvi"]),
        ""]
    rows = []
    for model, m in record["models"].items():
        c = m["communication"]
        hidden = c["ahead_seconds"] / max(c["ahead_seconds"] + c["waited_seconds"], 1e-12)
        modelled = communication_seconds(m["work"], link, link["add"], 2)
        rows.append([model, *("{:,.0f}".format(statistics.median(m[k])) for k in ("one", "two")),
                     "%.2f" % m["ratio"], "%.1f" % c["operations"],
                     "%.2f MB" % (c["bytes_mean"] / 1e6), "%.2f ms" % (1e3 * c["seconds_mean"]),
                     "%.2f ms" % (1e3 * modelled), "%.0f %%" % (100 * hidden)])
    lines += table(["model", "1 rank x 2 threads, cells/s", "2 x 1", "ratio", "operations a step",
                    "sent", "time", "the model's", "of the exchange beside computation"], rows)
    lines += ["Time is what ranks spend in communication, waiting for each other included; the "
              "model knows no waiting. Between two ranks of this node: latency %.1f us, %.1f GB/s, "
              "%.0f us to add up a MB." % (1e6 * link["latency"], link["bandwidth"] / 1e9,
                                           1e12 * link["add"]), "",
              "**A model, not a measurement**: cells/s and, in brackets, efficiency, with %s between "
              "ranks (%.1f us a message, %.1f us from one message to the next); last column: "
              "efficiencies with %s. Ranks of one core are as measured here, ranks of 16 are assumed "
              "to be %d times as fast, which nothing here has measured." % (
                  LINKS[0]["name"], 1e6 * LINKS[0]["latency"], 1e6 * LINKS[0]["gap"],
                  LINKS[1]["name"], NODE), ""]
    rows = []
    cases = [(record["minibatch"], True)] + [(b, False) for b in record["global_minibatches"]]
    for model, m in record["models"].items():
        for speed in (1, NODE):
            for minibatch, weak in cases:
                of = lambda link, p: extrapolate(m["work"], link, record["link"]["add"] / speed, p,
                                                 minibatch, weak, speed)
                rows.append(["%s, %s" % (model, "1 core" if speed == 1 else "16 cores (assumed)"),
                             "{:,}{}".format(minibatch, " a rank" if weak else ""),
                             *("%s (%.0f %%)" % (count(of(LINKS[0], p)[0]),
                                                 100 * of(LINKS[0], p)[1]) for p in RANKS),
                             ", ".join("%.0f %%" % (100 * of(LINKS[1], p)[1]) for p in RANKS)])
    lines += table(["model, a rank", "minibatch", *("%d ranks" % p for p in RANKS),
                    LINKS[1]["name"]], rows)
    return "\n".join(lines).rstrip("\n") + "\n"


def count(rate):
    return "%.2f M" % (rate / 1e6) if rate >= 1e6 else "%.0f k" % (rate / 1e3)


def faults_of(record, _):
    """What cannot be, whatever the speed and the options."""
    faults = []
    for model, m in record["models"].items():
        c = m["communication"]
        n = sum(often * n for n, often in m["work"]["parts"])
        sums = sum(often * n for n, often in m["work"]["sums"])
        operations = sum(o for _, o in m["work"]["sums"]) + 2 * sum(o for _, o in m["work"]["parts"])
        if not abs(c["operations"] - operations) < 0.01:
            faults.append("%s: %g operations a step, expected %g" % (model, c["operations"],
                                                                     operations))
        if not abs(c["bytes_mean"] - (4 * n + 8 * sums)) < 64 + 0.01 * (4 * n + 8 * sums):
            faults.append("%s: %g bytes a step, expected %g" % (model, c["bytes_mean"],
                                                                4 * n + 8 * sums))
        # the step's seconds are rank 0's: another rank, which others hold up, may be longer in sums
        if c["ranks"] != 2 or not 0 < c["seconds_min"] <= c["seconds_max"] or \
                c["seconds_min"] >= c["step_seconds"]:
            faults.append("%s: %s" % (model, c))
        if min(m["one"] + m["two"]) <= 0:
            faults.append("%s: no speed" % model)
    for link in [record["link"], *LINKS]:
        if not (link["latency"] > 0 and link["bandwidth"] > 0):
            faults.append("no link: %s" % link)
    return faults


def parse():
    parser = part.parser_of(__doc__, ["phases", "comm"], ["--ranks", "--threads", "--scvi-python"])
    add = parser.add_argument
    add("--cells", type=part.positive, default=20480)
    add("--genes", type=part.positive, default=2000)
    add("--models", type=part.some_of(MODELS), default=["LDVAE-NB", "scVI-NB", "scVI-ZINB"])
    add("--minibatch", type=int, default=1024, help="measured, and a rank's where ranks add cells")
    add("--global-minibatches", type=part.positives, default=[4096, 65536],
        help="of all ranks, in the model")
    add("--epochs", type=part.positive, default=5, help="that count; one more warms up")
    add("--seconds", type=float, default=0.05, help="a measurement of bench_comm")
    parser.set_defaults(rounds=5, ranks=1, threads=2, scvi_python=None)
    options = parser.parse_args()
    if options.minibatch < 16:
        parser.error("minibatch is at least 16")
    if options.short:
        options.cells, options.genes, options.minibatch = 600, 150, 200
        options.epochs, options.rounds, options.seconds = 1, 1, 0.0005
        options.models = ["LDVAE-NB", "scVI-ZINB"]
    return options


if __name__ == "__main__":
    sys.exit(part.main(parse(), "ranks", measure, markdown, faults_of))
