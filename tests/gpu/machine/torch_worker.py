"""Times torch_step.py: a process that stays, so that PyTorch starts once and its runs can take turns
with ours. A task a line on stdin, as JSON; an answer a line on the descriptor --answers names.

task: file (.h5ad of atlasvi simulate), linear, likelihood, minibatch, seconds, cells, way:
  host      minibatches cut from CSR on the host and copied to the GPU, as scvi-tools does
  resident  the counts as a dense matrix on the GPU, no checks of values, fused Adam: the best case
  compiled  resident, with torch.compile
answer: cells_per_second (median of three stretches after a warm-up), steps, gpu_bytes, or error
"""
import json
import os
import statistics
import sys
import time

import h5py
import numpy as np
import scipy.sparse
import torch

import torch_step

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def synchronize():
    if DEVICE == "cuda":
        torch.cuda.synchronize()


class Data:
    """One file at a time."""

    def __init__(self, path, cells):
        self.key = path, cells
        with h5py.File(path) as file:
            rows = file["X/indptr"][:cells + 1]
            shape = len(rows) - 1, file["var/_index"].shape[0]
            self.counts = scipy.sparse.csr_matrix(
                (file["X/data"][:rows[-1]], file["X/indices"][:rows[-1]], rows), shape=shape)
            self.batch = file["obs/batch/codes"][:cells].reshape(-1, 1)
            self.n_batch = file["obs/batch/categories"].shape[0]
        self.dense = None

    def on_device(self):
        if self.dense is None:
            self.dense = torch.empty(self.counts.shape, device=DEVICE)
            for begin in range(0, self.counts.shape[0], 8192):
                part = self.counts[begin:begin + 8192].toarray()
                self.dense[begin:begin + len(part)] = torch.from_numpy(part)
            self.own = torch.from_numpy(self.batch.astype(np.int64)).to(DEVICE)
        return self.dense, self.own


def minibatches(data, way, minibatch):
    """Endless."""
    n_cells = data.counts.shape[0]
    if way == "host":
        for rows in torch_step.orders(n_cells, minibatch):
            x, batch = torch_step.minibatch_on_host(data.counts, data.batch, rows)
            yield x.to(DEVICE), batch.to(DEVICE)
    dense, own = data.on_device()
    while True:
        order = torch.randperm(n_cells, device=DEVICE)
        for begin in range(0, n_cells - minibatch + 1, minibatch):
            rows = order[begin:begin + minibatch]
            yield dense[rows], own[rows]


def stepper(task, data):
    torch.manual_seed(0)
    checked = task["way"] == "host"
    library = torch_step.library_of(data.counts, data.batch.ravel(), data.n_batch)
    model = torch_step.Model(data.counts.shape[1], data.n_batch, task["linear"], task["likelihood"],
                             library, checked=checked).to(DEVICE).train()
    fused = {"fused": True} if not checked and DEVICE == "cuda" else {}
    optimizer = torch_step.optimizer_of(model, **fused)
    loss_of = torch.compile(model, dynamic=False) if task["way"] == "compiled" else model
    source = minibatches(data, task["way"], task["minibatch"])

    def steps(n):
        for _ in range(n):
            x, batch = next(source)
            optimizer.zero_grad()
            loss = loss_of(x, batch, 1.0)
            loss.backward()
            optimizer.step()
        return loss

    return steps


def seconds_of(steps, n):
    synchronize()
    began = time.perf_counter()
    steps(n)
    synchronize()
    return time.perf_counter() - began


def measure(task, data):
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    steps = stepper(task, data)
    seconds_of(steps, 3)  # starts libraries, compiles
    per_step = seconds_of(steps, 3) / 3
    n = max(1, min(5000, round(task["seconds"] / 3 / per_step)))
    seconds = statistics.median(seconds_of(steps, n) for _ in range(3))
    loss = float(steps(1))
    if not np.isfinite(loss):
        raise RuntimeError("the loss is %r" % loss)
    return {"cells_per_second": n * task["minibatch"] / seconds, "steps": 3 * n, "loss": loss,
            "gpu_bytes": torch.cuda.max_memory_reserved() if DEVICE == "cuda" else None,
            "torch": torch.__version__, "device": DEVICE}


def main():
    answers = os.fdopen(int(sys.argv[sys.argv.index("--answers") + 1]), "w")
    data = None
    for line in sys.stdin:
        task = json.loads(line)
        try:
            if data is None or data.key != (task["file"], task["cells"]):
                data = None  # before the next takes its memory
                data = Data(task["file"], task["cells"])
            answer = measure(task, data)
        except Exception as error:  # whatever PyTorch throws is the answer
            answer = {"error": "%s: %s" % (type(error).__name__, str(error)[:500])}
        if DEVICE == "cuda":
            torch.cuda.empty_cache()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
