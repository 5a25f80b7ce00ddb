"""The record as Markdown, and what every record must have."""


def number(value, form="%.3g"):
    return "-" if value is None else form % value


def whole(value):
    return "-" if value is None else "{:,.0f}".format(value)


def gigabytes(value):
    return "-" if value is None else "%.2f GB" % (value / 1e9)


def table(heads, rows, left=1):
    """The first `left` columns are words, the others figures."""
    sides = ["---" if i < left else "---:" for i in range(len(heads))]
    return ["| " + " | ".join(cells) + " |" for cells in [heads, sides, *rows]] + [""]


def spread(side, form=whole):
    if side is None:
        return "-"
    return "%s (%s - %s)" % tuple(form(side[k]) for k in ("median", "min", "max"))


def speed(record):
    rows = []
    for s in record["speed"]:
        pairs = s["ratio_of_pairs"]
        rows.append(["%s, minibatch %d" % (s["model"], s["minibatch"]), spread(s["theirs"]),
                     spread(s["ours"]), number(s["ratio_of_medians"], "%.1f"),
                     spread(pairs, lambda v: "%.1f" % v),
                     gigabytes(s["theirs"] and s["theirs"]["peak_bytes"]),
                     gigabytes(s["ours"]["peak_bytes"]), "%.1f - %.1f" % tuple(s["load"])])
    return ["## Training speed, cells/s", "", "Measured, both programs on the same cores of a CPU. Median "
            "(least - most) of the rounds. Peak memory: "
            "VmHWM. Load: of the machine, before the runs.", ""] + table(
        ["model", "scvi-tools", "atlasvi", "ratio of medians", "ratio of pairs", "peak scvi-tools",
         "peak atlasvi", "load"], rows)


def phases(record):
    lines = ["## Where our time goes", "", "Floor: what the machine's measured rates allow "
             "(floors.py); ratio: time over floor.", ""]
    for p in record["phases"]:
        lines += ["### %s, minibatch %d: %s cells/s, floor %s, %.0f %% of it reached" % (
            p["model"], p["minibatch"], whole(p["cells_per_second"]),
            whole(p["floor_cells_per_second"]), 100 * p["share_of_floor"]), ""]
        figures = lambda e: ["%.3f" % e["seconds"], "%.3f" % e["us_a_cell"],
                             "%.1f" % (100 * e["share"]), "%.3f" % e["floor_us_a_cell"],
                             number(e["ratio"], "%.1f")]
        lines += table(["phase", "seconds", "us a cell", "%", "floor, us a cell", "ratio"],
                       [[e["phase"], *figures(e)] for e in p["phases"]])
        ops = sorted(p["ops"], key=lambda e: -e["seconds"])
        shape = lambda e: "x".join(str(n) for n in e["shape"] if n)
        lines += table(["operation", "seconds", "us a cell", "%", "floor, us a cell", "ratio",
                        "calls", "bound"],
                       [["%s %s" % (e["op"], "" if e["terms"] else shape(e)), *figures(e),
                         whole(e["calls"]), e["bound"]] for e in ops if e["share"] >= 0.002])
    r = record["read"]
    lines += ["Reading: %.3f s of a run. The counts %.3f s for %.1f MB, a bare H5Dread of them into new "
              "memory %.3f s: %.2f of its rate; names and columns %.3f s; anndata.read_h5ad %s s." % (
                  r["seconds"], r["counts_seconds"], r["bytes"] / 1e6, r["bare_seconds"],
                  r["ratio"], r["metadata_seconds"], number(r["anndata_seconds"], "%.3f")), ""]
    return lines


def machine(record):
    m = record["machine"]
    lines = ["## The machine", "", "%s; %d threads, kernels %s, load before %.1f." % (
        record["cpu"], m["threads"], m["instructions"], m["load"]), ""]
    lines += table(["KiB touched", "load GB/s", "copy", "triad"],
                   [[whole(b["bytes"] / 1024), *(whole(b[k]) for k in ("load", "copy", "triad"))]
                    for b in m["bandwidth"]])
    lines += table(["SGEMM", "m x n x k", "GFLOP/s"],
                   [[p["name"], "%dx%dx%d" % (p["m"], p["n"], p["k"]), whole(p["gflops"])]
                    for p in m["sgemm"]])
    lines += table(["likelihood", "ns a gene", "ns a non-zero"],
                   [[k, "%.3f" % c["term"], "%.3f" % c["count"]]
                    for k, c in m["likelihood"].items()])
    return lines


def quality(record):
    if not record["quality"]:
        return []
    rows = [["%s, %s, minibatch %d" % (q["file"], q["model"], q["minibatch"]),
             "%d x %d" % (q["cells"], q["genes"]), "%.2f" % q["target"],
             "%.1f (epoch %d of %d; all %.1f)" % (
                 q["theirs"]["seconds"], q["theirs"]["epoch"], q["epochs"],
                 q["theirs"]["all_seconds"]),
             "not reached, best %.2f" % q["ours"]["best"] if q["ours"]["seconds"] is None else
             "%.2f (epoch %d)" % (q["ours"]["seconds"], q["ours"]["epoch"]),
             number(q["ratio"], "%.1f")] for q in record["quality"]]
    return ["## Time to quality", "", "Seconds of training until the held-out negative ELBO that "
            "scvi-tools ends with (quality.py).", ""] + table(
        ["file", "cells x genes", "target", "scvi-tools", "atlasvi", "ratio"], rows)


def shares(record):
    return ["## Share of the floor", "", "What the machine's measured rates of products, loads and "
            "likelihoods allow (floors.py), and what is reached.", ""] + table(
        ["model", "floor, cells/s", "reached", "share"],
        [["%s, minibatch %d" % (p["model"], p["minibatch"]), whole(p["floor_cells_per_second"]),
          whole(p["cells_per_second"]), "%.0f %%" % (100 * p["share_of_floor"])]
         for p in record["phases"]])


def markdown(record):
    f, s = record["file"], record["settings"]
    beside = "scvi-tools %s, torch %s" % (record["scvi"], record["torch"]) if record["scvi"] else \
        "scvi-tools was not there: ours alone"
    lines = ["%s; %s. %s cells x %s genes, %.1f %% non-zero; %d rank(s) x %d thread(s); %d epochs "
             "after a first that is not counted; %d round(s)%s." % (
                 record["atlasvi"], beside, whole(f["cells"]), whole(f["genes"]),
                 100 * f["nonzero_share"], s["ranks"], s["threads"], s["epochs"], s["rounds"],
                 "".join("; " + x for x in s["set"])), ""]
    return "\n".join(lines + speed(record) + shares(record) + phases(record) + machine(record) +
                     quality(record))


SIDE = ["median", "min", "max", "peak_bytes"]
ENTRY = ["seconds", "us_a_cell", "share", "floor_us_a_cell", "ratio"]


def faults_of(record, _):
    """What is not there, or cannot be, in a record, whatever the speed and the options."""
    faults = []

    def has(where, node, keys):
        faults.extend("%s: no %s" % (where, k) for k in keys if k not in node)

    has("record", record, ["atlasvi", "scvi", "torch", "cpu", "settings", "file", "machine",
                           "speed", "phases", "read", "quality"])
    if faults:
        return faults
    has("machine", record["machine"], ["bandwidth", "sgemm", "likelihood", "load", "threads"])
    rates = [b[k] for b in record["machine"]["bandwidth"] for k in ("load", "copy", "triad")]
    rates += [p["gflops"] for p in record["machine"]["sgemm"]]
    rates += [v for c in record["machine"]["likelihood"].values() for v in c.values()]
    if not all(0 < r < float("inf") for r in rates):
        faults.append("machine: a rate is not positive and finite: %s" % rates)
    for s in record["speed"]:
        where = "speed of %s" % s["model"]
        has(where, s, ["minibatch", "runs", "load", "ratio_of_medians", "ratio_of_pairs"])
        for side in ["ours"] + (["theirs"] if record["scvi"] else []):
            has(where, s[side] or {}, SIDE)
            if s[side] and not all(s[side][k] > 0 for k in SIDE):
                faults.append("%s: %s of %s" % (where, s[side], side))
    for p in record["phases"]:
        where = "phases of %s" % p["model"]
        has(where, p, ["cells_per_second", "floor_cells_per_second", "share_of_floor"])
        for e in p["phases"] + p["ops"]:
            has("%s, %s" % (where, e.get("op", e["phase"])), e, ENTRY)
        timed = {e["phase"]: e["seconds"] for e in p["phases"]}
        absent = [n for n in ("minibatch rows", "first layer", "BatchNorm", "decoder+likelihood",
                              "backward", "Adam", "all-reduce") if not timed.get(n, 0) > 0]
        faults.extend("%s: no time in %s" % (where, n) for n in absent)
        if abs(sum(e["share"] for e in p["phases"]) - 1) > 1e-6 or timed["rest"] < 0:
            faults.append("%s: the phases are not the whole: %s" % (where, timed))
        if not p["floor_cells_per_second"]:
            faults.append("%s: no floor" % where)
    has("read", record["read"], ["seconds", "counts_seconds", "bare_seconds", "metadata_seconds",
                                 "bytes", "ratio", "anndata_seconds"])
    for q in record["quality"]:
        has("quality", q, ["target", "theirs", "ours", "ratio", "history"])
    if not record["speed"] or not record["phases"]:
        faults.append("no model was run")
    return faults
