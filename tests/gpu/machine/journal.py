"""The record of a session on a GPU: a line of JSON for everything that has been found, on disk before
the next thing begins; and gpu.json, which is made of those lines as often as one is added.

gpu.json: sessions (how many it is of), start, device (null where there was none), facts, checks, speed,
precision, ways, kernels, left_out, end (null where a session was killed).

What is left out has a part and a name; a check of that name, or a line `done`, says that it was made."""
import json
import os
import statistics

import device

NAME = "gpu.jsonl"
STARTED = {"atlasvi", "version", "device", "short", "stand_in"}


class Journal:
    def __init__(self, folder, after_each):
        """`after_each`: called with the lines so far."""
        os.makedirs(folder, exist_ok=True)
        self.lines, self.after_each = [], after_each
        self.file = open(os.path.join(folder, NAME), "x")  # never over another session's

    def put(self, kind, **fields):
        line = {"kind": kind, "time": device.now(), **fields}
        self.lines.append(line)
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        os.fsync(self.file.fileno())
        self.after_each(self.lines)
        return line


def read(path):
    """The lines of a journal; the last one of a session that was killed may be half."""
    lines = []
    with open(path) as file:
        for text in file:
            try:
                lines.append(json.loads(text))
            except ValueError:
                continue
    if not of(lines, "start") or not STARTED <= of(lines, "start")[0].keys():
        raise ValueError("%s is no record of a session, or one of an earlier script" % path)
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


def made(lines):
    """(part, name) of what was done to its end."""
    return {(line["part"], line["name"]) for line in of(lines, "done") + of(lines, "check")
            if line.get("status") != "cut"}


def still_out(journals):
    """The left_out lines of what no other of the journals has, one for each."""
    lines = {(line["part"], line["name"]): line for mine in journals for line in of(mine, "left_out")
             if not any((line["part"], line["name"]) in made(other) for other in journals if other is not mine)}
    return list(lines.values())


def lacking(journals):
    """How much of what was asked for is not there, for want of time or of a tool."""
    there = set().union(*map(made, journals))
    return sum(line["lacking"] for line in still_out(journals)) + sum(
        (line["part"], line["name"]) not in there for lines in journals for line in of(lines, "check"))


def end_of(journals):
    """They have ended when each has, and are complete when each has ended by itself and nothing is lacking."""
    ends = [(of(lines, "end") or [None])[-1] for lines in journals]
    if None in ends:
        return None
    cut = [end["how"] for end in ends if end["how"] not in ("complete", "incomplete")]
    return {"how": cut[0] if cut else "incomplete" if lacking(journals) else "complete",
            "seconds": sum(end["seconds"] for end in ends)}


def program(start):
    """What was built, of all that `atlasvi --version` says: the rest is the machine's."""
    return "; ".join(" ".join(line.split()) for line in start["version"].splitlines()
                     if line.startswith(("atlasvi ", "revision ", "compiler ", "build ")))


def alike(journals):
    """ValueError where one is there twice, whose runs would count twice; or where they are not of one program
    on one kind of GPU: no table may mix them."""
    if any(lines in journals[:i] for i, lines in enumerate(journals)):
        raise ValueError("one session is there twice")
    starts = [of(lines, "start")[0] for lines in journals]
    for what, value in (("GPUs", lambda start: start["device"]["name"] if start["device"] else "none"),
                        ("programs", program),
                        ("sizes", lambda start: "short" if start["short"] else "whole"),
                        ("modules", lambda start: "a stand-in" if start["stand_in"] else "the cuda backend")):
        values = sorted(set(map(value, starts)))
        if len(values) > 1:
            raise ValueError("these sessions are of different %s: %s" % (what, ", ".join(values)))


def assemble(journals):
    """The record of one or more sessions, by the lines of each."""
    alike(journals)
    lines = sum(journals, [])
    start = of(lines, "start")
    facts = {}
    for line in of(lines, "fact"):
        facts[line["name"]] = line["value"]
    return {"atlasvi": start[0]["atlasvi"], "sessions": len(journals),
            "start": without(start[0], "atlasvi"), "device": start[0]["device"], "facts": facts,
            "checks": [without(line) for line in of(lines, "check")], "speed": cases(lines),
            "precision": [without(line) for line in of(lines, "precision")],
            "ways": [without(line) for line in of(lines, "ways")],
            "kernels": [without(line) for line in of(lines, "kernels")],
            "left_out": [without(line) for line in still_out(journals)], "end": end_of(journals)}
