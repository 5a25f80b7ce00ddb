"""The record of a session on a GPU: a line of JSON for everything that has been found, on disk before
the next thing begins; and gpu.json, which is made of those lines as often as one is added.

gpu.json: start, device (null where there was none), facts, checks, speed, precision, ways,
kernels, left_out, end (null where the session was killed)."""
import json
import os
import statistics

import device

NAME = "gpu.jsonl"


class Journal:
    def __init__(self, folder, after_each):
        """`after_each`: called with the lines so far."""
        os.makedirs(folder, exist_ok=True)
        self.lines, self.after_each = [], after_each
        self.file = open(os.path.join(folder, NAME), "w")

    def put(self, kind, **fields):
        line = {"kind": kind, "time": device.now(), **fields}
        self.lines.append(line)
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        os.fsync(self.file.fileno())
        self.after_each(self.lines)
        return line


def read(paths):
    """Lines of one or more journals; the last line of one that was killed may be half."""
    lines = []
    for path in paths:
        with open(path) as file:
            for text in file:
                try:
                    lines.append(json.loads(text))
                except ValueError:
                    continue
    return lines


def without(line, *keys):
    return {k: v for k, v in line.items() if k not in ("kind", "time", *keys)}


def of(lines, kind):
    return [line for line in lines if line["kind"] == kind]


def sides_of(runs):
    """By who ran: median, least and most cells/s, and the most memory."""
    sides = {}
    for run in runs:
        sides.setdefault(run["side"], []).append(run)
    made = {}
    for side, mine in sides.items():
        rates = [run["cells_per_second"] for run in mine if run.get("cells_per_second")]
        errors = [run["error"] for run in mine if run.get("error")]
        sizes = [run["gpu_bytes"] for run in mine if run.get("gpu_bytes")]
        made[side] = {"runs": len(rates), "median": statistics.median(rates) if rates else None,
                      "min": min(rates, default=None), "max": max(rates, default=None),
                      "gpu_bytes": max(sizes, default=None), "error": errors[-1] if errors else None}
    return made


def cases(lines):
    found = {}
    for run in of(lines, "speed"):
        found.setdefault((run["model"], run["genes"], run["minibatch"]), []).append(run)
    return [{"model": model, "genes": genes, "minibatch": minibatch, "cells": runs[0]["cells"],
             "sides": sides_of(runs), "clock_mhz": [r["clock_mhz"] for r in runs
                                                    if r.get("clock_mhz")],
             "runs": [without(r, "model", "genes", "minibatch", "cells") for r in runs]}
            for (model, genes, minibatch), runs in sorted(found.items())]


def assemble(lines):
    start = of(lines, "start")
    if not start:
        raise ValueError("there is no start in this record")
    facts = {}
    for line in of(lines, "fact"):
        facts[line["name"]] = line["value"]
    ends = of(lines, "end")
    return {"atlasvi": start[0]["atlasvi"], "start": without(start[0], "atlasvi"),
            "device": start[0]["device"], "facts": facts,
            "checks": [without(line) for line in of(lines, "check")], "speed": cases(lines),
            "precision": [without(line) for line in of(lines, "precision")],
            "ways": [without(line) for line in of(lines, "ways")],
            "kernels": [without(line) for line in of(lines, "kernels")],
            "left_out": [without(line) for line in of(lines, "left_out")],
            "end": without(ends[-1]) if ends else None}
