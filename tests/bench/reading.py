#!/usr/bin/env python3
"""Reading counts beside a bare HDF5 read of the same arrays, and beside anndata.

  tests/bench/reading.py --build build/release                      1 x 1, 1 x 2 threads, 2 ranks x 1
  tests/bench/reading.py --shapes 1x1,1x2,2x1 --cells 1000000       ranks x threads
  tests/bench/reading.py --file FILE.h5ad                           as it is stored
  tests/bench/reading.py --short                                    tiny; a record with every field

One simulated matrix in several storages: X/data float32 and X/indices int32, contiguous, chunked,
gzip, gzip + shuffle, lzf. In turns, --rounds times: bench_read reads it with H5Dread alone, on one
thread a rank whatever ours has, each rank an equal share into memory that it takes for it, as any
program that reads a file; the same into memory that it has from before (`again`: for stored bytes
no more than a copy out of the page cache); bench_read reads it as a run does (names and columns of
the file, timed by themselves, then the counts, checked, into their compact form);
anndata.read_h5ad. The best round of each counts, from a warm page cache. `ratio`: our rate of
reading the counts over that of the bare read. Writes reading.json and reading.md to --out.
"""
import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from programs import MPI_ENV, Failed, load

STORAGES = {"contiguous": {}, "chunked": {"chunks": True}, "gzip": {"compression": "gzip"},
            "gzip+shuffle": {"compression": "gzip", "shuffle": True},
            "lzf": {"compression": "lzf"}}
FIELDS = ("storage", "ranks", "threads", "nonzeros", "bytes", "file_bytes", "bare_seconds",
          "counts_seconds", "metadata_seconds", "bare_mb_per_second", "counts_mb_per_second",
          "ratio", "ratio_with_metadata",
          "again_seconds", "ratio_again", "load")
ANNDATA = "import anndata, sys, time; t = time.perf_counter(); anndata.read_h5ad(sys.argv[1]); " \
          "print(time.perf_counter() - t)"


def call(argv):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env={**env, **MPI_ENV}, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise Failed("%s\nexit status %d\n%s" % (" ".join(argv), done.returncode,
                                                 done.stderr.decode("utf-8", "replace")[-4000:]))
    return done.stdout.decode()


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


def best_rounds(options, path, ranks, threads):
    """Each program by itself takes the best of three within a round; rounds in turns."""
    best = {**dict.fromkeys(("bare", "again", "counts", "metadata"), float("inf")), "load": 0.0}
    launcher = [options.mpirun, "--bind-to", "none", "-n", str(ranks)] if ranks > 1 else []
    for turn in range(options.rounds):
        best["load"] = max(best["load"], load())
        for which in ("bare", "again", "ours") if turn % 2 == 0 else ("ours", "again", "bare"):
            made = json.loads(call([*launcher, options.reader, which, path, str(threads), "3"]))
            if which != "ours":
                best["bytes"] = made["bytes"]
                best[which] = min([best[which], *made["counts"]])
            else:
                best["nonzeros"] = made["nonzeros"]
                best["counts"] = min([best["counts"], *made["counts"]])
                best["metadata"] = min([best["metadata"], *made["metadata"]])
    return best


def compare(options, name, path, ranks, threads):
    b = best_rounds(options, path, ranks, threads)
    return {"storage": name, "ranks": ranks, "threads": threads, "nonzeros": b["nonzeros"],
            "bytes": b["bytes"], "file_bytes": os.path.getsize(path), "bare_seconds": b["bare"],
            "counts_seconds": b["counts"], "metadata_seconds": b["metadata"],
            "bare_mb_per_second": b["bytes"] / b["bare"] / 1e6,
            "counts_mb_per_second": b["bytes"] / b["counts"] / 1e6,
            "ratio": b["bare"] / b["counts"],
            "ratio_with_metadata": b["bare"] / (b["counts"] + b["metadata"]),
            "again_seconds": b["again"], "ratio_again": b["again"] / b["counts"],
            "load": b["load"]}


def time_anndata(options, path):
    """Seconds, or None where neither this Python nor that of scvi-tools has anndata."""
    python = sys.executable
    if importlib.util.find_spec("anndata") is None:
        python = options.scvi_python
    if not python:
        return None
    try:
        return min(float(call([python, "-W", "ignore", "-c", ANNDATA, path]))
                   for _ in range(options.rounds))
    except Failed:
        return None


def measure(options, files):
    """files: {storage: path}. The record."""
    record = {"reads": [], "anndata": {}}
    for name, path in files.items():
        warm(path)
        for ranks, threads in options.shapes:
            made = compare(options, name, path, ranks, threads)
            record["reads"].append(made)
            print("  reading %-12s %d x %d: bare %.3f s, counts %.3f s (%.0f MB/s), ratio %.2f" % (
                name, ranks, threads, made["bare_seconds"], made["counts_seconds"],
                made["counts_mb_per_second"], made["ratio"]), flush=True)
        record["anndata"][name] = time_anndata(options, path)
    return record


def markdown(record):
    lines = ["| storage | ranks x threads | bare, s | MB/s | counts, s | MB/s | ratio | names and columns, s | ratio with them | bare again, s | ratio | "
             "anndata, s |",
             "| --- | --- |" + " ---: |" * 10]
    for r in record["reads"]:
        theirs = record["anndata"][r["storage"]]
        lines.append("| %s | %d x %d | %.3f | %.0f | %.3f | %.0f | %.2f | %.3f | %.2f | %.3f | "
                     "%.2f | %s |" % (
            r["storage"], r["ranks"], r["threads"], r["bare_seconds"], r["bare_mb_per_second"],
            r["counts_seconds"], r["counts_mb_per_second"], r["ratio"], r["metadata_seconds"],
            r["ratio_with_metadata"], r["again_seconds"], r["ratio_again"], "-" if theirs is None else "%.3f" % theirs))
    most = max(record["reads"], key=lambda r: r["nonzeros"])
    return ["## Reading", "",
            "Counts of %s non-zeros, page cache warm, best of the rounds. Bare: H5Dread of the same "
            "arrays, one thread a rank, into memory taken for them; again: into memory that it has "
            "touched before. Ratio: our rate over that one's." % format(most["nonzeros"], ","),
            ""] + lines + [""]


def faults_of(record):
    """What a record lacks, whatever the speed."""
    faults = []
    for r in record.get("reads", []):
        faults.extend("reading of %s: no %s" % (r.get("storage"), k) for k in FIELDS if k not in r)
        faults.extend("reading of %s: %s is %s" % (r["storage"], k, r[k]) for k in FIELDS[1:-1]
                      if k in r and not 0 < r[k] < float("inf"))
        if r.get("storage") not in record.get("anndata", {}):
            faults.append("reading of %s: anndata was not tried" % r.get("storage"))
    return faults if record.get("reads") else ["nothing was read"]


def shapes(text):
    return [tuple(int(n) for n in word.split("x")) for word in text.split(",")]


def parse():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--build", default="build/release", metavar="FOLDER", help="where the programs are built")
    add("--atlasvi", default=os.environ.get("ATLASVI"), metavar="PROGRAM")
    add("--reader", metavar="PROGRAM", help="bench_read")
    add("--mpirun", default=os.environ.get("MPIRUN", "mpirun"))
    add("--scvi-python", default=os.environ.get("ATLASVI_SCVI_PYTHON"), metavar="PYTHON",
        help="one with anndata, if this one has none")
    add("--file", metavar="FILE", help="read this file, X in CSR, instead of simulated ones")
    add("--cells", type=int, default=200000)
    add("--genes", type=int, default=2000)
    add("--storages", default=",".join(STORAGES))
    add("--shapes", type=shapes, default=[(1, 1), (1, 2), (2, 1)], metavar="RANKSxTHREADS,...")
    add("--rounds", type=int, default=3)
    add("--out", default=".", metavar="FOLDER")
    add("--short", action="store_true")
    options = parser.parse_args()
    if options.short:
        options.cells, options.genes, options.rounds = 500, 100, 1
    for name, place in (("atlasvi", "src/atlasvi"), ("reader", "tests/bench/bench_read")):
        path = os.path.abspath(getattr(options, name) or os.path.join(options.build, place))
        setattr(options, name, path)
        if not os.access(path, os.X_OK):
            sys.exit("no program at %s: build first, name the folder with --build" % path)
    if options.scvi_python and not os.access(options.scvi_python, os.X_OK):
        sys.exit("no python at %s" % options.scvi_python)
    if options.rounds < 1 or any(len(s) != 2 or min(s) < 1 for s in options.shapes):
        parser.error("rounds, ranks and threads are at least 1")
    unknown = [s for s in options.storages.split(",") if s not in STORAGES]
    if unknown:
        parser.error("storages are %s" % ", ".join(STORAGES))
    return options


def main():
    options = parse()
    with tempfile.TemporaryDirectory(prefix="atlasvi-reading-") as folder:
        if options.short:
            options.out = folder
        os.makedirs(options.out, exist_ok=True)
        files = {"as stored": options.file}
        try:
            if not options.file:
                source = os.path.join(folder, "simulated.h5ad")
                call([options.atlasvi, "simulate", source, "cells=%d" % options.cells,
                      "genes=%d" % options.genes])
                files = {}
                for name in options.storages.split(","):
                    files[name] = os.path.join(folder, name + ".h5ad")
                    store(source, files[name], STORAGES[name])
            record = measure(options, files)
        except Failed as fault:
            sys.exit(str(fault))
        with open(os.path.join(options.out, "reading.json"), "w") as file:
            file.write(json.dumps(record, indent=1) + "\n")
        version = " ".join(call([options.atlasvi, "--version"]).splitlines()[0].split())
        text = version + "\n\n" + "\n".join(markdown(record))
        with open(os.path.join(options.out, "reading.md"), "w") as file:
            file.write(text)
        print("\n" + text)
        with open(os.path.join(options.out, "reading.json")) as file:
            faults = faults_of(json.load(file))
    for fault in faults:
        print("FAIL " + fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
