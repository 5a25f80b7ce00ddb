#!/usr/bin/env python3
"""The benchmark table of real files: file, settings, seconds, final ELBO, label accuracy.

  ATLASVI=build/release/src/atlasvi tests/quality/benchmark_real.py [--ranks 2] [--out FOLDER]
      [--files kang_pbmc_ifnb,hto_celllines] [--init scvi,data] [--seeds 0,1,2]
      [--set section.key=value ...]

Each file is fitted with both models for 60 epochs (KL warm-up 30, minibatch 128, learning rate
1e-3, 10 latent dimensions, all genes, the model's default likelihood), the rows whose index leaves
3 after division by 10 held out. Held-out ELBO is the fitted model's, in nats a cell; label accuracy
as in measures.py. Figures are means over the seeds. Writes benchmark_real.md and .json.
"""
import argparse
import json
import os
import shutil
import sys
import tempfile
import time

sys.dont_write_bytecode = True
import h5py
import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.path.insert(0, os.path.join(HERE, "..", "files"))
import atlasrun as ar
import layouts as lay
import measures
import real_files as real

FIXED = {"train.max_epochs": "60", "train.n_epochs_kl_warmup": "30", "train.batch_size": "128",
         "train.lr": "1e-3", "model.n_latent": "10", "data.use_highly_variable_genes": "no",
         "train.split_key": "held_out", "output.denoised": "no", "output.sample_rate": "no",
         "output.overwrite": "yes", "runtime.progress": "none"}


def with_split(name, folder):
    """A copy of the file with obs column held_out: train, or validation where index % 10 is 3."""
    path = os.path.join(folder, name)
    shutil.copy(real.path_of(name), path)
    os.chmod(path, 0o644)
    with h5py.File(path, "r+") as file:
        obs = file["obs"]
        n = len(index_of(obs))
        lay.strings(obs, "held_out", ["validation" if i % 10 == 3 else "train" for i in range(n)])
        order = [c.decode() if isinstance(c, bytes) else c for c in obs.attrs["column-order"]]
        del obs.attrs["column-order"]
        order = np.array(order + ["held_out"], dtype=object)
        obs.attrs.create("column-order", order, dtype=lay.VLEN)
    return path


def index_of(frame):
    name = frame.attrs["_index"]
    return frame[name.decode() if isinstance(name, bytes) else name]


def codes_of(path, column):
    """Code of each cell, -1 where the value is missing or empty."""
    values = ar.frame_strings(path, "obs", column)
    names = {v: i for i, v in enumerate(sorted({v for v in values if v}))}
    return np.array([names.get(v, -1) for v in values])


def result_of(path, quantity):
    """What the fitted model ends with on the held-out cells, in nats a cell."""
    with h5py.File(path, "r") as file:
        return float(file["uns/atlasvi/result"][quantity][()])


def one_fit(folder, source, name, linear, init, seed, options):
    counts, batch, labels = real.FILES[name]
    out = os.path.join(folder, "out.h5ad")
    settings = {**FIXED, "data.input": source, "data.counts": counts, "data.batch_key": batch,
                "data.labels_key": labels, "model.linear_decoder": linear, "model.init": init,
                "train.seed": str(seed), "output.path": out}
    settings.update(s.split("=", 1) for s in options.set)
    ini = ar.write_ini(os.path.join(folder, "run.ini"), settings)
    start = time.monotonic()
    env = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "")}
    if not env["OMP_NUM_THREADS"]:  # the program shares the cores between its ranks
        env["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // options.ranks))
    result = ar.run([ini], ranks=options.ranks, timeout=3600, env=env)
    if result.code != 0:
        raise SystemExit("%s" % result)
    seconds = time.monotonic() - start
    accuracy = measures.label_accuracy(ar.latent(out), codes_of(out, labels)) if labels else None
    return {"file": name, "counts": counts, "batch_key": batch, "labels_key": labels,
            "linear_decoder": linear, "init": init, "seed": seed, "ranks": options.ranks,
            "seconds": seconds, "held_out_elbo": result_of(out, "elbo"), "label_accuracy": accuracy}


def table_of(runs):
    lines = ["| file | counts, batch | model | init | seconds | held-out ELBO | label accuracy |",
             "|---|---|---|---|---:|---:|---:|"]
    keys = []
    for run in runs:
        key = (run["file"], run["linear_decoder"], run["init"])
        keys += [key] if key not in keys else []
    for key in keys:
        group = [r for r in runs if (r["file"], r["linear_decoder"], r["init"]) == key]
        mean = {k: np.mean([r[k] for r in group]) if group[0][k] is not None else None
                for k in ("seconds", "held_out_elbo", "label_accuracy")}
        lines.append("| %s | %s, %s | %s | %s | %.1f | %.2f | %s |" % (
            key[0], group[0]["counts"], group[0]["batch_key"] or "none",
            "LDVAE" if key[1] == "yes" else "scVI", key[2], mean["seconds"], mean["held_out_elbo"],
            "%.3f" % mean["label_accuracy"] if mean["label_accuracy"] is not None else "no labels"))
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", default=",".join(real.FILES))
    parser.add_argument("--models", default="yes,no", help="values of linear_decoder")
    parser.add_argument("--init", default="scvi,data")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--set", nargs="*", default=[], metavar="section.key=value")
    parser.add_argument("--out", default=".")
    options = parser.parse_args()
    ar.require_program()
    real.require_files()
    measures.self_check()
    runs = []
    for name in options.files.split(","):
        name += "" if name.endswith(".h5ad") else ".h5ad"
        with tempfile.TemporaryDirectory(prefix="atlasvi-benchmark-") as folder:
            source = with_split(name, folder)
            for linear in options.models.split(","):
                for init in options.init.split(","):
                    for seed in options.seeds.split(","):
                        runs.append(one_fit(folder, source, name, linear, init, int(seed), options))
                        print(json.dumps(runs[-1]), flush=True)
    text = table_of(runs)
    os.makedirs(options.out, exist_ok=True)
    with open(os.path.join(options.out, "benchmark_real.md"), "w") as file:
        file.write(text)
    with open(os.path.join(options.out, "benchmark_real.json"), "w") as file:
        settings = {**FIXED, **dict(s.split("=", 1) for s in options.set)}
        json.dump({"settings": settings, "runs": runs}, file, indent=1)
    print("\n" + text)


if __name__ == "__main__":
    main()
