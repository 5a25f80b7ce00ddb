#!/usr/bin/env python3
"""What rounding of the dense products' factors does to a fit.

usage: precision.py [FILE.h5ad EPOCHS [section.key=value ...]]

Trains scVI with runtime.precision = float32, tf32 and bf16 on the cuda backend, from the same start and
seed, and prints the negative ELBO of held-out cells and its distance from float32's. Without a file: on
simulated counts, failing where the distance is more than 1e-3 (tf32) or 1e-2 (bf16) of it, or nothing at
all, or where a decoder that is linear or has few inputs has any, though it is told to take products. On
a GPU or its emulation, which rounds factors as tensor cores do, and no other.
"""
import json
import os
import subprocess
import sys
import tempfile

ATLASVI = os.environ["ATLASVI"]
MOST = {"float32": 0.0, "tf32": 1e-3, "bf16": 1e-2}


def run(*command):
    done = subprocess.run([ATLASVI, *command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\nstatus {done.returncode}\n{done.stdout}\n{done.stderr}")


def held_out(folder, data, precision, settings):
    ini, log = os.path.join(folder, "run.ini"), os.path.join(folder, "run.log")
    with open(ini, "w") as file:
        file.write("[output]\noverwrite = yes\n[runtime]\nprogress = none\n")
    run(ini, f"data.input={data}", f"output.path={folder}/out.h5ad", "runtime.backend=cuda",
        f"runtime.precision={precision}", f"runtime.log={log}", *settings)
    with open(log) as file:
        epochs = [e for e in map(json.loads, file) if e["event"] == "epoch"]
    os.remove(log)
    return epochs[-1]["elbo_validation"]


def check_never_rounded(folder, data):
    """Decoders that need no products, and may take them (gpu_rows): linear ones, and of few inputs."""
    linear = "model.linear_decoder=yes"
    for model in ([linear, "model.n_latent=14"], [linear, "model.n_latent=44"], ["model.linear_decoder=no"]):
        settings = ["train.max_epochs=1", "train.batch_size=64", "runtime.gpu_rows=always", "model.n_hidden=16",
                    *model]
        exact, found = (held_out(folder, data, p, settings) for p in ("float32", "bf16"))
        if exact != found:
            sys.exit(f"{model}: {found} with bf16, {exact} without")


def main():
    with tempfile.TemporaryDirectory() as folder:
        if len(sys.argv) > 2:
            data, settings = sys.argv[1], [f"train.max_epochs={sys.argv[2]}", *sys.argv[3:]]
        else:
            data = os.path.join(folder, "small.h5ad")
            settings = ["train.max_epochs=8", "train.batch_size=64", "model.n_hidden=48"]
            run("simulate", data, "cells=400", "genes=90", "factors=3")
            check_never_rounded(folder, data)
        settings = ["model.linear_decoder=no", "model.gene_likelihood=zinb", *settings]
        exact = held_out(folder, data, "float32", settings)
        for precision, most in MOST.items():
            found = held_out(folder, data, precision, settings)
            off = abs(found - exact) / abs(exact)
            print(f"{precision:8} negative ELBO of held-out cells {found:.4f}, {off:.1e} from float32's")
            if len(sys.argv) < 3 and not (off <= most and (off > 0.0) == (most > 0.0)):
                sys.exit(f"{precision}: {off} is not between 0 and {most}")


if __name__ == "__main__":
    main()
