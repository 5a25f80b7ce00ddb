"""Time of our training by phase and operation, beside the least that the machine would need.

An operation's floor is the largest of
  flops / the best SGEMM rate (all threads, the model's shapes)
  loads / the best rate of loads from any cache
  bytes / the best bandwidth at the measured sizes that hold one call's operands
the decoder's is flops / rate + likelihood, for its cores do both. Operands may come from a farther
cache than assumed: these are bounds, which no program need reach. Not counted: barriers between
threads, random numbers, the loop around the operations ("rest"). The first layer's part of Adam is
in "backward" where one operation does both (sparse_linear_step).
"""
PHASES = ["minibatch rows", "first layer", "BatchNorm", "small layers, latent",
          "decoder+likelihood", "backward", "Adam", "all-reduce", "rest"]
WORK = ("flops", "loads", "bytes", "touched", "terms", "counts")
LIKELIHOODS = ["zinb", "nb", "poisson"]  # as config.h numbers them


def flop_rate(machine):
    return 1e9 * max(p["gflops"] for p in machine["sgemm"])


def bandwidth(machine, size):
    """Bytes a second for operands of this size: the best at this size or a larger one."""
    best = [(e["bytes"], max(e["load"], e["copy"], e["triad"])) for e in machine["bandwidth"]]
    return 1e9 * max([rate for held, rate in best if held >= size] or [best[-1][1]])


def load_rate(machine):
    """Bytes a second into registers from the nearest cache."""
    return 1e9 * max(e["load"] for e in machine["bandwidth"])


def floor_of(line, machine):
    """(seconds, what bounds it) of all calls of an operation."""
    flops = line["flops"] / flop_rate(machine)
    if line["terms"] > 0:
        cost = machine["likelihood"].get(LIKELIHOODS[line["shape"][1]])
        terms = 0 if cost is None else 1e-9 * (line["terms"] * cost["term"] +
                                               line["counts"] * cost["count"])
        return flops + terms, "products %.0f %%, likelihood" % (
            100 * flops / (flops + terms) if flops + terms > 0 else 0)
    loads = line["loads"] / load_rate(machine)
    size = line["touched"] / max(1, line["calls"])
    moved = line["bytes"] / bandwidth(machine, size)
    return max((flops, "products"), (loads, "loads from cache"), (moved, "bandwidth"))


def entry(seconds, floor, total, cells):
    return {"seconds": seconds, "us_a_cell": 1e6 * seconds / cells,
            "share": seconds / total if total > 0 else 0, "floor_us_a_cell": 1e6 * floor / cells,
            "ratio": seconds / floor if floor > 0 else None}


def phases_of(lines, machine, cells):
    """lines: of bench_phases, the first about the run; cells: in an epoch."""
    head, operations = lines[0], lines[1:]
    total, seen = head["seconds"], cells * head["epochs"]
    if head["ranks"] > 1:  # work is that of rank 0, the machine was measured with all its cores
        machine = one_rank(machine, head["ranks"])
    ops, sums = [], {name: [0.0, 0.0] for name in PHASES}
    for line in operations:
        floor, bound = floor_of(line, machine)
        ops.append({"phase": line["phase"], "op": line["op"], "shape": line["shape"],
                    "calls": line["calls"], "bound": bound,
                    **{k: line[k] for k in WORK},
                    **entry(line["seconds"], floor, total, seen)})
        sums[line["phase"]][0] += line["seconds"]
        sums[line["phase"]][1] += floor
    sums["rest"][0] = total - sum(s for s, _ in sums.values())
    floor = sum(f for _, f in sums.values())
    return {"phases": [{"phase": p, **entry(*sums[p], total, seen)} for p in PHASES], "ops": ops,
            "seconds": total, "epochs": head["epochs"], "cells_per_second": seen / total,
            "floor_cells_per_second": seen / floor if floor > 0 else None,
            "share_of_floor": floor / total}


def one_rank(machine, ranks):
    scaled = lambda entries, keys: [{k: v / ranks if k in keys else v for k, v in e.items()}
                                    for e in entries]
    return {**machine, "bandwidth": scaled(machine["bandwidth"], ("load", "copy", "triad")),
            "sgemm": scaled(machine["sgemm"], ("gflops",)),
            "likelihood": {name: {k: v * ranks for k, v in cost.items()}
                           for name, cost in machine["likelihood"].items()}}
