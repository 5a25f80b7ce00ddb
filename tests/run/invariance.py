#!/usr/bin/env python3
"""The answer does not depend on the number of ranks: 1, 2 and 3 ranks of the program itself.

usage: invariance.py reference|cpu|cuda|strict

reference: history within 1e-10 (relative) after 5 epochs; cpu: 1e-5 after 1 epoch, 1e-3 after 5;
cuda: as cpu, and beside one rank of it, the ranks sharing a GPU, and with a GPU each; the same bytes again, also where the
emulation (tests/gpu) runs threads and blocks in another order, and where counts are streamed; strict:
identical bytes of model, latent codes, decoded means and history for 1, 2, 3 ranks x 1, 2 threads.
On an even and an uneven number of cells, a short last minibatch, a last minibatch of two cells (left out),
and fewer cells than make sense, for both decoders. The one-rank run is what the others are compared with;
that its numbers are right is the business of other tests.
"""
import json
import os
import subprocess
import sys
import tempfile

import h5py
import numpy as np

ATLASVI = os.environ["ATLASVI"]
MPIRUN = os.environ["MPIRUN"]

# cells, batch size: even; uneven with a short last minibatch; last minibatch of 2 cells; tiny
SIZES = [(120, 36), (131, 50), (113, 50), (7, 128)]
MODELS = {
    "ldvae": ["model.linear_decoder=yes", "model.gene_likelihood=nb"],
    "scvi": ["model.linear_decoder=no", "model.gene_likelihood=zinb", "model.n_layers=2",
             "model.dispersion=gene-batch"],
}
SHARED_GPU = ["runtime.gpu_sums=mpi"]
TIMES = ("seconds", "cells_per_second")


def run(command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\nstatus {done.returncode}\n{done.stdout}\n{done.stderr}")


def fit(folder, data, name, ranks, settings, hidden=12, latent=3):
    path = os.path.join(folder, name + ".h5ad")
    ini = os.path.join(folder, "run.ini")
    with open(ini, "w") as file:
        file.write(f"[data]\nbatch_key = batch\n[model]\nn_hidden = {hidden}\nn_latent = {latent}\n"
                   "[output]\noverwrite = yes\n[runtime]\nprogress = none\n")
    launch = [] if ranks == 1 else [MPIRUN, "--bind-to", "none", "-n", str(ranks)]
    run([*launch, ATLASVI, ini, f"data.input={data}", f"output.path={path}", *settings])
    return path


def read(path):
    """Every array of results and model, by name."""
    arrays = {}

    def keep(prefix):
        def visit(name, item):
            if isinstance(item, h5py.Dataset) and item.dtype.kind in "fiu":
                if name.split("/")[-1] not in TIMES:
                    arrays[prefix + name] = item[()]
        return visit

    with h5py.File(path) as file:
        for key in ("obsm", "uns"):
            file[key].visititems(keep(key + "/"))
    with h5py.File(path.replace(".h5ad", ".model.h5")) as file:
        file.visititems(keep("model/"))
    assert len(arrays) > 20, sorted(arrays)
    return arrays


def history(arrays):
    return {k: v for k, v in arrays.items() if "/history/" in k and not k.endswith("_index")}


def compare_history(one, many, tolerance, what):
    ours = history(one)
    assert any(k.endswith("elbo_train") for k in ours), sorted(ours)
    for key, expected in ours.items():
        np.testing.assert_allclose(many[key], expected, rtol=tolerance, atol=0, err_msg=f"{what} {key}")


def compare_bytes(one, many, what):
    assert one.keys() == many.keys(), what
    for key, expected in one.items():
        if expected.tobytes() != many[key].tobytes():
            worst = np.nanmax(np.abs(expected - many[key]))
            sys.exit(f"{what}: {key} differs, by up to {worst}")


def check_streamed(folder, data, name, ranks, settings, resident):
    """Counts that "do not fit" give the bytes of those that do; the log says which it was."""
    log = os.path.join(folder, "streamed.log")
    streamed = fit(folder, data, "streamed", ranks, [*settings, "runtime.gpu_memory=1e-9", f"runtime.log={log}"])
    compare_bytes(resident, read(streamed), f"{name}, {ranks} ranks, counts streamed")
    with open(log) as file:
        told = [e for e in map(json.loads, file) if e["event"] == "gpu_memory"]
    os.remove(log)
    assert [e["streamed_ranks"] for e in told] == [ranks], told


def check(mode, folder, data, batch_size, name, model):
    common = [*model, f"train.batch_size={batch_size}", "train.n_epochs_kl_warmup=3", "train.seed=4"]
    if mode == "strict":
        settings = [*common, "runtime.backend=cpu", "runtime.reproducible=strict", "train.max_epochs=3"]
        one = read(fit(folder, data, "one", 1, [*settings, "runtime.threads=1"]))
        for ranks, threads in ((1, 2), (2, 1), (2, 2), (3, 1), (3, 2)):
            path = fit(folder, data, "many", ranks, [*settings, f"runtime.threads={threads}"])
            compare_bytes(one, read(path), f"{name}, {ranks} ranks x {threads} threads")
        return
    for epochs, tolerance in ((5, 1e-10),) if mode == "reference" else ((1, 1e-5), (5, 1e-3)):
        each = [*common, "runtime.threads=1", f"train.max_epochs={epochs}"]
        settings = [*each, f"runtime.backend={mode}", *(SHARED_GPU if mode == "cuda" else [])]
        beside = [*each, "runtime.backend=cpu"] if mode == "cuda" else settings
        one = read(fit(folder, data, "one", 1, beside))
        for ranks in (1, 2, 3) if mode == "cuda" else (2, 3):
            path = fit(folder, data, "many", ranks, settings)
            compare_history(one, read(path), tolerance, f"{name}, {epochs} epochs, {ranks} ranks")
    if mode == "cuda":
        os.environ["AV_EMULATED_DEVICES"] = "3"
        own = read(fit(folder, data, "own", 3, [s for s in settings if s not in SHARED_GPU]))
        del os.environ["AV_EMULATED_DEVICES"]
        compare_history(one, own, tolerance, f"{name}, {epochs} epochs, 3 ranks with a GPU each")
        os.environ["AV_EMULATED_ORDER"] = "descending"
        again = read(fit(folder, data, "again", 3, settings))
        del os.environ["AV_EMULATED_ORDER"]
        compare_bytes(read(path), again, f"{name}, 3 ranks, again")
        check_streamed(folder, data, name, 3, settings, read(path))
        # one rank, whose passes are played from graphs
        check_streamed(folder, data, name, 1, settings, read(fit(folder, data, "many", 1, settings)))


def main():
    mode = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        for cells, batch_size in SIZES:
            data = os.path.join(folder, f"{cells}.h5ad")
            run([ATLASVI, "simulate", data, f"cells={cells}", "genes=60", "factors=2", "batches=2"])
            for model, settings in MODELS.items():
                check(mode, folder, data, batch_size, f"{model}, {cells} cells", settings)
                print(f"{mode}: {model}, {cells} cells, minibatch {batch_size}: same answer")


if __name__ == "__main__":
    main()
