"""scvi-tools' side of the benchmark: one process, one fit. Run by bench.py with the python that has
scvi-tools; the task comes as JSON in the first argument, the result goes as JSON to task["result"].

task["do"]:
  prepare  a copy of a file with what both programs read: counts as X, batch, held_out
  speed    trains all cells; seconds of each epoch
  quality  trains for the default number of epochs; seconds of training, without validation, and
           held-out ELBO of each epoch
  latent, normalized
           trains one epoch; seconds of get_latent_representation or get_normalized_expression for
           all cells, with default arguments and ("fair") with task["batch_size"]
  loader   medians of seconds, of the thread's CPU time and by the clock, of a minibatch of the
           loader; of all of the file's cells, task["steps"] minibatches; and of copying its dense
           counts, 4 MiB at a time, to where they have been copied to before
  dispatch likewise of a step of training where there is next to nothing to compute, without its
           loader; and how many operations that are no views it dispatches
"""
import json
import logging
import sys
import time
import warnings

import numpy as np


def peak_bytes():
    with open("/proc/self/status") as file:
        line = next(x for x in file if x.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


def watch():
    """A callback that keeps the seconds of every epoch, from the end of the one before, without
    those of validation."""
    import lightning.pytorch as lightning

    class Watch(lightning.Callback):
        def __init__(self):
            self.seconds, self.validation, self.inside = [], 0.0, 0.0

        def on_train_start(self, trainer, module):
            self.last = time.perf_counter()

        def on_validation_start(self, trainer, module):
            self.inside = time.perf_counter()

        def on_validation_end(self, trainer, module):
            self.validation += time.perf_counter() - self.inside

        def on_train_epoch_end(self, trainer, module):
            now = time.perf_counter()
            self.seconds.append(now - self.last - self.validation)
            self.last, self.validation = now, 0.0

    return Watch()


def quiet(task):
    import scvi
    scvi.settings.verbosity = logging.ERROR
    scvi.settings.seed = task["seed"]
    scvi.settings.logging_dir = task["folder"]
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")


def model_of(task):
    import anndata
    import scvi
    import torch
    torch.set_num_threads(task["threads"])
    quiet(task)
    kind = scvi.model.LinearSCVI if task["linear"] else scvi.model.SCVI
    data = anndata.read_h5ad(task["file"])
    if "first_cells" in task:
        data = data[:task["first_cells"]].copy()
    batch = "batch" in data.obs and task.get("batch", True)
    kind.setup_anndata(data, batch_key="batch" if batch else None)
    return kind(data, n_hidden=128, n_latent=10, n_layers=1, dropout_rate=0.1,
                gene_likelihood=task["likelihood"])


def speed(task):
    model = model_of(task)
    seen = watch()
    began = time.perf_counter()
    model.train(max_epochs=task["epochs"], accelerator=task.get("accelerator", "cpu"),
                batch_size=task["minibatch"], train_size=1.0, validation_size=0.0,
                enable_progress_bar=False, callbacks=[seen])
    return {"epoch_seconds": seen.seconds, "train_seconds": time.perf_counter() - began,
            "cells": model.adata.n_obs}


def quality(task):
    model = model_of(task)
    held_out = (model.adata.obs["held_out"] == "validation").to_numpy()
    split = [np.flatnonzero(~held_out), np.flatnonzero(held_out), np.array([], dtype=int)]
    seen = watch()
    model.train(max_epochs=task["epochs"] or None, accelerator="cpu", batch_size=task["minibatch"],
                datasplitter_kwargs={"external_indexing": split}, check_val_every_n_epoch=1,
                enable_progress_bar=False, callbacks=[seen])
    elbo = np.asarray(model.history["elbo_validation"], dtype=float)[:, 0]
    return {"epoch_seconds": seen.seconds, "elbo_validation": elbo.tolist(),
            "cells": model.adata.n_obs, "genes": model.adata.n_vars}


def infer(task):
    """The best of two calls each: the first of a process also makes torch's buffers."""
    model = model_of(task)
    model.train(max_epochs=1, accelerator="cpu", batch_size=task["minibatch"], train_size=1.0,
                validation_size=0.0, enable_progress_bar=False)
    call = model.get_latent_representation if task["do"] == "latent" else \
        model.get_normalized_expression

    def seconds(**arguments):
        best = float("inf")
        for _ in range(2):
            began = time.perf_counter()
            made = call(**arguments)
            best = min(best, time.perf_counter() - began)
            if made.shape[0] != model.adata.n_obs:
                raise RuntimeError("%d rows of %d" % (made.shape[0], model.adata.n_obs))
        return best

    return {"cells": model.adata.n_obs, "seconds": seconds(),
            "fair_seconds": seconds(batch_size=task["batch_size"])}


class Clock:
    """Seconds from one call of tick() to the next, or of each begin() to its tick(); the first tenth
    of them are left out."""

    def __init__(self):
        self.last, self.times = None, []

    def begin(self):
        self.last = np.array([time.thread_time(), time.perf_counter()])

    def tick(self):
        last = self.last
        self.begin()
        if last is not None:
            self.times.append(self.last - last)

    def medians(self):
        return np.median(self.times[len(self.times) // 10:], axis=0)


def named(seconds):
    return {"cpu_seconds": float(seconds[0]), "wall_seconds": float(seconds[1])}


def minibatches(model, minibatch, steps):
    """As train() makes them: shuffled, no worker processes."""
    from scvi.dataloaders import AnnDataLoader
    while steps > 0:
        for made in AnnDataLoader(model.adata_manager, batch_size=minibatch, shuffle=True):
            if steps > 0:
                yield made
            steps -= 1


def loader_medians(model, minibatch, steps):
    """Of a minibatch, and of staging it: as CUDA copies what is not pinned."""
    making, staging = Clock(), Clock()
    room = np.zeros(1 << 20, np.float32)
    made = minibatches(model, minibatch, steps)
    for _ in range(steps):
        making.begin()
        counts = next(made)["X"].numpy().reshape(-1)
        making.tick()
        staging.begin()
        for at in range(0, counts.size, room.size):
            piece = counts[at:at + room.size]
            np.copyto(room[:piece.size], piece)
        staging.tick()
    return making.medians(), staging.medians()


def loader(task):
    model = model_of(task)
    counts = model.adata.X
    made, staged = loader_medians(model, task["minibatch"], task["steps"])
    return {**named(made), "staging_seconds": float(staged[0]),
            "cells": counts.shape[0], "genes": counts.shape[1],
            "percent": 100.0 * counts.nnz / (counts.shape[0] * counts.shape[1])}


def nearly_empty_model(task, minibatch):
    """A model of 8 genes, with cells for so many steps."""
    import anndata
    import scipy.sparse
    import scvi
    import torch
    torch.set_num_threads(1)
    quiet(task)
    counts = np.random.default_rng(0).poisson(2.0, (minibatch * task["steps"], 8)) + 1
    data = anndata.AnnData(scipy.sparse.csr_matrix(counts, dtype=np.float32))
    kind = scvi.model.LinearSCVI if task["linear"] else scvi.model.SCVI
    kind.setup_anndata(data)
    return kind(data, n_hidden=8, n_latent=2, n_layers=1, dropout_rate=0.1,
                gene_likelihood=task["likelihood"])


def watch_steps(at):
    """A callback with a clock of steps, which counts the operations of step `at`."""
    import lightning.pytorch as lightning
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        operations = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            views = any(r.alias_info is not None and not r.alias_info.is_write
                        for r in func._schema.returns)
            self.operations += 0 if views else 1
            return func(*args, **(kwargs or {}))

    class Watch(lightning.Callback):
        def __init__(self):
            self.clock, self.count = Clock(), Count()

        def on_train_batch_start(self, trainer, module, batch, index):
            if index == at:
                self.count.__enter__()

        def on_train_batch_end(self, trainer, module, outputs, batch, index):
            if index == at:
                self.count.__exit__(None, None, None)
            self.clock.tick()

    return Watch()


def dispatch(task):
    import torch
    minibatch = 4
    model = nearly_empty_model(task, minibatch)
    seen = watch_steps(task["steps"] // 2)

    def adam(parameters):  # train()'s, as it is on a GPU
        return torch.optim.Adam(parameters, lr=1e-3, eps=0.01, weight_decay=1e-6, foreach=True)

    model.train(max_epochs=1, accelerator="cpu", batch_size=minibatch, train_size=1.0,
                validation_size=0.0, enable_progress_bar=False, callbacks=[seen],
                plan_kwargs={"optimizer": "Custom", "optimizer_creator": adam})
    alone, _ = loader_medians(model, minibatch, task["steps"])
    return {**named(seen.clock.medians() - alone), "operations": seen.count.operations}


def prepare(task):
    """One cell in ten is held out, the same whoever asks."""
    import anndata
    import pandas
    import scipy.sparse
    data = anndata.read_h5ad(task["file"])
    where = task["counts"]
    counts = data.X if where == "X" else data.raw.X if where == "raw/X" else \
        data.layers[where.split("/", 1)[1]]
    counts = scipy.sparse.csr_matrix(counts, dtype=np.float32)
    if task["genes"]:
        order = np.argsort(-np.asarray(counts.sum(0)).ravel(), kind="stable")[:task["genes"]]
        counts = counts[:, np.sort(order)]
    keep = np.flatnonzero(np.asarray(counts.sum(1)).ravel() > 0)
    obs = pandas.DataFrame(index=["cell%d" % i for i in keep])
    if task["batch_key"]:
        values = data.obs[task["batch_key"]].astype(str).to_numpy()[keep]
        obs["batch"] = pandas.Categorical(values)
    part = ["validation" if i % 10 == 3 else "train" for i in range(len(keep))]
    obs["held_out"] = pandas.Categorical(part)
    var = pandas.DataFrame(index=["gene%d" % g for g in range(counts.shape[1])])
    anndata.AnnData(counts[keep], obs=obs, var=var).write_h5ad(task["copy"])
    return {"cells": len(keep), "genes": counts.shape[1], "batch": bool(task["batch_key"])}


def main():
    task = json.loads(sys.argv[1])
    result = {"speed": speed, "quality": quality, "prepare": prepare, "latent": infer,
              "normalized": infer, "loader": loader, "dispatch": dispatch}[task["do"]](task)
    if task["do"] != "prepare":
        from importlib.metadata import version
        result.update(peak_bytes=peak_bytes(), scvi=version("scvi-tools"), torch=version("torch"))
    with open(task["result"], "w") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main()
