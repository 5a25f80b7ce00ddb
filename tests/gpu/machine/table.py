#!/usr/bin/env python3
"""gpu.md, the tables of a session on a GPU (run.sh), and gpu.json, its record.

  table.py --check FILE.md     is it what FILE.json beside it says?
"""
import json
import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "bench"))
import part
from report import gigabytes, number, spread, table, whole

SIDES = ["torch host", "torch resident", "torch compiled", "scvi-tools"]
WAYS = ["no rows", "rows for one-hot columns", "rows"]  # gpu/trial.c
PARTS = {"ops": "operations against the reference", "parity": "training against the cpu backend",
         "sanitizer": "compute-sanitizer"}
WHAT = """Cells/s of training, median (least - most) of the rounds, in turns on the same GPU and file; all of
a model's default settings, float32. atlasvi: whole runs without rows of gradients, epochs after the
first. PyTorch: scvi-tools 1.4.2's training step without what Lightning and scvi-tools add around it;
*host* cuts dense minibatches from CSR and copies them to the GPU, as scvi-tools does; *resident* is
the best case, the counts as a
dense matrix on the GPU and fused Adam; *compiled* is that with torch.compile. Memory: what was taken of
the GPU, its context included. Busy: time of the kernels of a step, recorded in another run, as a share
of the step's time without recording."""


def scope(record):
    if record["start"]["stand_in"]:
        return "On an emulation of a GPU by the CPU, which shows that the commands work: no speed here means " \
               "anything."
    if record["device"] is None:
        return "Not measured on a GPU: %s." % record["start"]["no_device"]
    return ""


def header(record):
    d, facts = record["device"], record["facts"]
    words = [record["atlasvi"]]
    if d:
        words.append("%s (%d multiprocessors, %s; driver's CUDA %s)" % (
            d["name"], d["multiprocessors"], gigabytes(d["bytes"]), d["driver_cuda"]))
    words += ["%s %s" % (words_of, facts[name]) for name, words_of in
              (("torch", "PyTorch"), ("scvi", "scvi-tools")) if facts.get(name, "-")[0].isdigit()]
    words.append(facts.get("cpu", "unknown processor"))
    lines = ["; ".join(words) + ".", ""]
    if scope(record):
        lines += [scope(record), ""]
    if record["sessions"] > 1:
        lines += ["Of %d sessions on GPUs of this name." % record["sessions"], ""]
    end = record["end"]
    if end is None or end["how"] != "complete":
        lines += ["The session was %s: what follows is not all." % (
            "killed" if end is None else end["how"]), ""]
    return lines


def busy_of(record, case):
    """Share of an untraced epoch in which the GPU works, from the traced run's time a step."""
    ours = case["sides"].get("atlasvi")
    for traced in record["kernels"]:
        if all(traced[k] == case[k] for k in ("model", "genes", "minibatch")) and \
                "busy_seconds" in traced and ours and ours["median"]:
            cells = case["minibatch"] * traced["steps"]
            return traced["busy_seconds"] * ours["median"] / cells
    return None


def speed(record):
    if not record["speed"]:
        return []
    shown = [side for side in SIDES if any(side in case["sides"] for case in record["speed"])]
    rows = []
    for case in record["speed"]:
        ours, busy = case["sides"].get("atlasvi"), busy_of(record, case)
        row = ["%s, %s genes, minibatch %s" % (case["model"], whole(case["genes"]),
                                               whole(case["minibatch"])), rate(ours)]
        row.append(number(1e6 / ours["median"] if ours and ours["median"] else None, "%.2f"))
        for side in shown:
            theirs = case["sides"].get(side)
            row.append(rate(theirs))
            good = ours and theirs and ours["median"] and theirs["median"]
            row.append(number(ours["median"] / theirs["median"] if good else None, "%.1f"))
        row += [gigabytes(ours["gpu_bytes"] if ours else None),
                number(100 * busy if busy is not None else None, "%.0f %%")]
        rows.append(row)
    heads = ["model", "atlasvi", "s an epoch of 1,000,000 cells"]
    for side in shown:
        heads += [side.replace("torch", "PyTorch,"), "ratio"]
    files = ["%s genes x %s cells" % (whole(genes), whole(cells)) for genes, cells in
             sorted({(case["genes"], case["cells"]) for case in record["speed"]})]
    words = "%s Simulated files: %s." % (WHAT, ", ".join(files))
    return ["## Training on a GPU, cells/s", "", *words.splitlines(), ""] + table(
        heads + ["memory", "GPU busy"], rows)


def rate(side):
    if side is None:
        return "-"
    return "failed" if side["median"] is None else spread(side) if side["runs"] > 1 else \
        whole(side["median"])


def precision(record):
    if not record["precision"]:
        return ["## Precision", "", "Not measured.", ""] if record["speed"] else []
    rows = [["%s, %s genes, minibatch %s, %s" % (p["model"], whole(p["genes"]),
                                                 whole(p["minibatch"]), p["precision"]),
             "failed" if "error" in p else whole(p["cells_per_second"]),
             number(p.get("elbo_validation"), "%.4f")] for p in record["precision"]]
    return ["## Precision", "", "Held-out negative ELBO of a tenth of the cells after %d epochs from the "
            "same start." % record["precision"][0]["epochs"], ""] + table(
        ["model", "cells/s", "held-out negative ELBO"], rows)


def ways(record):
    if not record["ways"]:
        return []
    rows = []
    for tried in record["ways"]:
        found = tried.get("ways", {})
        taken = [name for name, way in found.items() if way["taken"]]
        rows.append([tried["model"], whole(tried["minibatch"]), whole(tried["genes"]),
                     str(tried["latents"]),
                     *[number(found[name]["step_ms"] if name in found else None, "%.4f")
                       for name in WAYS], taken[0] if taken else "failed"])
    return ["## Rows of gradients in a linear decoder, ms a step", "",
            "Whole steps without a matrix of gradients, a number for each cell and gene, in memory and with it; "
            "as every run measures it in its first steps, and what it takes then (gpu/trial.h).",
            ""] + table(["model", "minibatch", "genes", "latents", *WAYS, "taken"], rows, 4)


def kernels(record):
    lines = []
    for traced in record["kernels"]:
        words = "%s, %s genes, minibatch %s" % (traced["model"], whole(traced["genes"]),
                                                whole(traced["minibatch"]))
        if "error" in traced:
            lines += ["%s: no records: %s" % (words, traced["error"].splitlines()[0]), ""]
            continue
        total = sum(k["us_a_step"] for k in traced["kernels"])
        words += "" if traced["graphs"] else ", without CUDA graphs"
        lines += ["%s: %s us a step in %s calls; under the recording %s us a step from end to end; at most %s "
                  "taken%s" % (
                      words, number(total, "%.1f"),
                      number(sum(k["calls_a_step"] for k in traced["kernels"]), "%.4g"),
                      number(1e6 * traced["seconds"] / traced["steps"], "%.1f"),
                      gigabytes(traced["gpu_bytes"]),
                      "; %d records were lost." % traced["lost"] if traced["lost"] else "."), ""]
        lines += table(["kernel", "calls a step", "us a step", "%"],
                       [["`%s`" % k["name"][:80].replace("|", "/"), number(k["calls_a_step"], "%.4g"),
                         "%.2f" % k["us_a_step"], "%.1f" % (100 * k["us_a_step"] / total)]
                        for k in traced["kernels"]])
    return ["## Time per kernel", "", "Recorded by CUPTI, epochs after the first.", "", *lines] if lines else []


def checked(record):
    """A line a part; what failed, in its own words."""
    lines = []
    for name, words in PARTS.items():
        mine = [c for c in record["checks"] if c["part"] == name]
        if mine:
            counts = ["%d %s" % (n, s) for s in ("passed", "failed", "cut", "skipped")
                      if (n := sum(c["status"] == s for c in mine))]
            lines.append("- %s: %s" % (words, ", ".join(counts)))
    known = set(PARTS)
    for c in record["checks"]:
        if c["status"] in ("failed", "cut") or c["part"] not in known:
            lines.append("- **%s**: %s%s" % (c["status"], c["name"], (
                ": " + c["note"].strip().splitlines()[0]) if c["note"].strip() else ""))
    return ["## Checks on the device", "", *lines, ""] if lines else []


def left_out(record):
    errors = [(case, run) for case in record["speed"] for run in case["runs"] if run.get("error")]
    lines = ["- %s: %s" % (line["name"], line["why"]) for line in record["left_out"]]
    lines += ["- failed: %s, %s genes, minibatch %s, %s: %s" % (
        case["model"], whole(case["genes"]), whole(case["minibatch"]), run["side"],
        run["error"].strip().splitlines()[0]) for case, run in errors]
    lines += ["- failed: %s in %s: %s" % (p["model"], p["precision"], p["error"].splitlines()[0])
              for p in record["precision"] if "error" in p]
    lines += ["- failed: ways of %d latents, minibatch %s: %s" % (
        w["latents"], whole(w["minibatch"]), w["error"].splitlines()[0])
              for w in record["ways"] if "error" in w]
    return ["## Left out", "", *lines, ""] if lines else []


def text_of(record):
    lines = header(record)
    for section in (speed, precision, ways, kernels, checked, left_out):
        lines += section(record)
    return "\n".join(lines)


def measured(record):
    """The text, of a record that may stand as a measurement."""
    if record["device"] is None or record["start"]["stand_in"] or record["start"]["short"]:
        raise ValueError("nothing was measured on a GPU")
    return text_of(record)


def write(folder, record):
    """Both files, each whole or as it was."""
    for name, text in (("gpu.json", json.dumps(record, indent=1) + "\n"), ("gpu.md", text_of(record))):
        path = os.path.join(folder, name)
        with open(path + ".part", "w") as file:
            file.write(text)
        os.replace(path + ".part", path)


def main():
    if len(sys.argv) != 3 or sys.argv[1] != "--check":
        sys.exit(__doc__)
    path = sys.argv[2]
    if not os.path.exists(path):
        print("skipped: there is no %s: not measured on a GPU yet" % path)
        sys.exit(77)
    part.check(path, "gpu", measured, "run tests/gpu/run.sh on a machine with a GPU")


if __name__ == "__main__":
    main()
