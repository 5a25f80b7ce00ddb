#!/usr/bin/env python3
"""BatchNorm's statistics at the end of training: averages that ran along, or those of all training cells.

  ATLASVI=build/release/src/atlasvi tests/quality/norm_statistics.py [--out FOLDER] [--jobs 1]

The same fits as start_values.py's (from both starts, after 20 and 60 epochs) with batch_norm_statistics =
running and recomputed, which share every weight: what differs is the held-out negative ELBO, here as means
over the seeds. Writes norm_statistics.md. Exit status 77 where the real files are not beside the source tree.
"""
import argparse
import concurrent.futures
import itertools
import os
import statistics
import sys
import tempfile
import types

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.path.insert(0, os.path.join(HERE, "..", "files"))
import start_values as starts

EPOCHS, SEEDS, KINDS = (20, 60), (0, 1, 2), ("running", "recomputed")


def table_of(found):
    lines = ["| file | model | init | epochs | running | recomputed | change |", "|---|---|---|---:|---:|---:|---:|"]
    better = {init: [0, 0] for init in starts.INITS}
    for name, model, init, epochs in itertools.product(starts.FILES, starts.MODELS, starts.INITS, EPOCHS):
        running, recomputed = (statistics.fmean(found[name, model, init, epochs, seed, kind] for seed in SEEDS)
                               for kind in KINDS)
        better[init][0] += recomputed < running
        better[init][1] += 1
        lines.append(f"| {name} | {model} | {init} | {epochs} | {running:.2f} | {recomputed:.2f} | "
                     f"{recomputed - running:+.2f} |")
    lines += [""] + [f"init = {init}: recomputed is better in {n} of {of}." for init, (n, of) in better.items()]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=HERE)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    import atlasrun as ar
    import real_files as real
    ar.require_program()
    real.require_files()
    keys = list(itertools.product(starts.FILES, starts.MODELS, starts.INITS, EPOCHS, SEEDS, KINDS))
    with tempfile.TemporaryDirectory(prefix="atlasvi-norm-") as folder:
        sources = {name: starts.source_of(name, folder) for name in starts.FILES}

        def elbo(key):
            task = dict(zip(("file", "model", "init", "epochs", "seed"), key))
            chosen = types.SimpleNamespace(set=["train.batch_norm_statistics=" + key[-1]])
            return starts.one_run(task, sources, chosen)["elbo"]

        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            found = dict(zip(keys, pool.map(elbo, keys)))
    text = table_of(found)
    os.makedirs(options.out, exist_ok=True)
    with open(os.path.join(options.out, "norm_statistics.md"), "w") as file:
        file.write(text)
    print(text)


if __name__ == "__main__":
    main()
