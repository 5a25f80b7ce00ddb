#!/usr/bin/env python3
"""Reading counts beside a bare HDF5 read of the same arrays, and beside anndata.

  tests/bench/reading.py --build build/release                      1 x 1, 1 x 2 threads, 2 ranks x 1
  tests/bench/reading.py --shapes 1x1,1x2,2x1 --cells 1000000       ranks x threads
  tests/bench/reading.py --file FILE.h5ad                           as it is stored
  tests/bench/reading.py --short                                    tiny; a record with every field

One simulated matrix in several storages: X/data float32 and X/indices int32, contiguous, chunked,
gzip, gzip + shuffle, lzf. In turns, --rounds times: bench_read reads it with H5Dread alone, on one
thread a rank whatever ours has, each rank an equal share into memory that it takes for it by malloc,
as any program that reads a file; the same into memory of huge pages (`huge`), which ours asks for;
bench_read reads it as a run does (names and columns of
the file, timed by themselves, then the counts, checked, into their compact form);
anndata.read_h5ad, of --scvi-python if this one has no anndata. Medians count, from
a warm page cache. `ratio`: our rate of reading the counts over that of the bare read. Writes
reading.json and reading.md to --out.
"""
import importlib.util
import json
import os
import statistics
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import part
from programs import Failed, load
from report import number, table, whole

STORAGES = {"contiguous": {}, "chunked": {"chunks": True}, "gzip": {"compression": "gzip"},
            "gzip+shuffle": {"compression": "gzip", "shuffle": True},
            "lzf": {"compression": "lzf"}}
FIELDS = ("storage", "ranks", "threads", "nonzeros", "bytes", "file_bytes", "bare_seconds",
          "counts_seconds", "metadata_seconds", "bare_mb_per_second", "counts_mb_per_second",
          "ratio", "ratio_with_metadata", "huge_seconds", "ratio_huge", "load")
ANNDATA = "import anndata, sys, time; t = time.perf_counter(); anndata.read_h5ad(sys.argv[1]); " \
          "print(time.perf_counter() - t)"


def store(source, path, storage):
    """The file again with data and indices stored otherwise."""
    import h5py
    with h5py.File(source, "r") as old, h5py.File(path, "w") as new:
        for key, value in old.attrs.items():
            new.attrs[key] = value
        for key in old:
            if key != "X":
                old.copy(key, new)
        group = new.create_group("X")
        for key, value in old["X"].attrs.items():
            group.attrs[key] = value
        for key in ("data", "indices"):
            group.create_dataset(key, data=old["X"][key][...], **storage)
        group.create_dataset("indptr", data=old["X/indptr"][...])


def warm(path):
    with open(path, "rb", buffering=0) as file:
        while file.read(1 << 24):
            pass


READS = 8  # of a program in a round; the first warms up


def all_rounds(programs, options, path, ranks, threads):
    """Rounds in turns; the seconds of every read but a process's first."""
    seconds = {"plain": [], "huge": [], "counts": [], "metadata": []}
    facts = {"load": 0.0}
    for turn in range(options.rounds):
        facts["load"] = max(facts["load"], load())
        for which in ("plain", "huge", "ours") if turn % 2 == 0 else ("ours", "huge", "plain"):
            made = json.loads(programs.call(programs.across(
                ranks, [options.reader, which, path, str(threads), str(READS)])))
            if which == "ours":
                facts["nonzeros"] = made["nonzeros"]
                seconds["counts"] += made["counts"][1:]
                seconds["metadata"] += made["metadata"][1:]
            else:
                facts["bytes"] = made["bytes"]
                seconds[which] += made["counts"][1:]
    return {**facts, **{k: statistics.median(v) for k, v in seconds.items()}}


def compare(programs, options, name, path, ranks, threads):
    m = all_rounds(programs, options, path, ranks, threads)
    return {"storage": name, "ranks": ranks, "threads": threads, "nonzeros": m["nonzeros"],
            "bytes": m["bytes"], "file_bytes": os.path.getsize(path), "bare_seconds": m["plain"],
            "counts_seconds": m["counts"], "metadata_seconds": m["metadata"],
            "bare_mb_per_second": m["bytes"] / m["plain"] / 1e6,
            "counts_mb_per_second": m["bytes"] / m["counts"] / 1e6,
            "ratio": m["plain"] / m["counts"],
            "ratio_with_metadata": m["plain"] / (m["counts"] + m["metadata"]),
            "huge_seconds": m["huge"], "ratio_huge": m["huge"] / m["counts"],
            "load": m["load"]}


def time_anndata(programs, options, path):
    """Seconds, or None where neither this Python nor that of scvi-tools has anndata."""
    python = sys.executable
    if importlib.util.find_spec("anndata") is None:
        python = programs.scvi_python
    if not python:
        return None
    try:
        return min(float(programs.call([python, "-W", "ignore", "-c", ANNDATA, path]))
                   for _ in range(options.rounds))
    except Failed:
        return None


def measure_files(programs, options, shapes, files):
    """files: {storage: path}. The record."""
    record = {"reads": [], "anndata": {}}
    for name, path in files.items():
        warm(path)
        for ranks, threads in shapes:
            made = compare(programs, options, name, path, ranks, threads)
            record["reads"].append(made)
            print("  reading %-12s %d x %d: bare %.3f s, counts %.3f s (%.0f MB/s), ratio %.2f" % (
                name, ranks, threads, made["bare_seconds"], made["counts_seconds"],
                made["counts_mb_per_second"], made["ratio"]), flush=True)
        record["anndata"][name] = time_anndata(programs, options, path)
    return record


def measure(programs, options):
    if options.file:
        files = {"as stored": os.path.abspath(options.file)}
        return measure_files(programs, options, options.shapes, files)
    source = os.path.join(programs.folder, "simulated.h5ad")
    programs.simulate(source, options.cells, options.genes)
    files = {name: os.path.join(programs.folder, name + ".h5ad") for name in options.storages}
    for name, path in files.items():
        store(source, path, STORAGES[name])
    return measure_files(programs, options, options.shapes, files)


def in_bench(programs, options, path):
    """As a part of bench.py: this file, by as many ranks and threads as train on it."""
    made = measure_files(programs, options, [(options.ranks, options.threads)], {"as stored": path})
    return {**made["reads"][0], "anndata_seconds": made["anndata"]["as stored"]}


def markdown(record):
    rows = [[r["storage"], "%d x %d" % (r["ranks"], r["threads"]), "%.3f" % r["bare_seconds"],
             "%.0f" % r["bare_mb_per_second"], "%.3f" % r["counts_seconds"],
             "%.0f" % r["counts_mb_per_second"], "%.2f" % r["ratio"],
             "%.3f" % r["metadata_seconds"], "%.2f" % r["ratio_with_metadata"],
             "%.3f" % r["huge_seconds"], "%.2f" % r["ratio_huge"],
             number(record["anndata"][r["storage"]], "%.3f")] for r in record["reads"]]
    return ["## Reading", "",
            "Counts of %s non-zeros, page cache warm, medians. Bare: H5Dread of the same "
            "arrays, one thread a rank, into memory from malloc; huge: into memory of huge pages. "
            "Ratio: our rate over that one's." % whole(
                max(r["nonzeros"] for r in record["reads"])), ""] + table(
        ["storage", "ranks x threads", "bare, s", "MB/s", "counts, s", "MB/s", "ratio",
         "names and columns, s", "ratio with them", "huge, s", "ratio", "anndata, s"],
        rows, left=2)


def faults_of(record, _):
    """What a record lacks, whatever the speed and the options."""
    faults = []
    for r in record.get("reads", []):
        faults.extend("reading of %s: no %s" % (r.get("storage"), k) for k in FIELDS if k not in r)
        faults.extend("reading of %s: %s is %s" % (r["storage"], k, r[k]) for k in FIELDS[1:-1]
                      if k in r and not 0 < r[k] < float("inf"))
        if r.get("storage") not in record.get("anndata", {}):
            faults.append("reading of %s: anndata was not tried" % r.get("storage"))
    return faults if record.get("reads") else ["nothing was read"]


def shapes_of(text):
    pairs = [word.split("x") for word in text.split(",")]
    return [(part.positive(ranks), part.positive(threads)) for ranks, threads in pairs]


def parse():
    parser = part.parser_of(__doc__, ["reader"], ["--ranks", "--threads", "--set"])
    add = parser.add_argument
    add("--file", metavar="FILE", help="read this file, X in CSR, instead of simulated ones")
    add("--cells", type=part.positive, default=200000)
    add("--genes", type=part.positive, default=2000)
    add("--storages", type=part.some_of(STORAGES), default=list(STORAGES))
    add("--shapes", type=shapes_of, default=[(1, 1), (1, 2), (2, 1)], metavar="RANKSxTHREADS,...")
    parser.set_defaults(set=[])
    options = parser.parse_args()
    options.ranks, options.threads = max(options.shapes, key=lambda s: s[0] * s[1])  # their cores
    if options.short:
        options.cells, options.genes, options.rounds = 500, 100, 1
    return options


if __name__ == "__main__":
    sys.exit(part.main(parse(), "reading", measure, part.headed(markdown), faults_of))
