"""Whole training runs on the GPU against the same on the CPU, and against themselves.

What holds on 1, 2 and 3 ranks of one machine (tests/run/invariance.py) holds here: the losses of the
first epoch within 1e-5 of the cpu backend's (relative), those of five epochs within 1e-3, also of two
ranks that share a GPU by summing through the host, and of two GPUs beside one; the same bytes again in
a second run, with CUDA graphs or without, and with counts streamed."""
import contextlib
import json
import os
import sys

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
FIRST, ALL = 1e-5, 1e-3
EPOCHS = 5
ALWAYS = "runtime.gpu_rows=always"
STRICT = ["runtime.reproducible=strict"]
NO_DEVICE = 69  # exit status of the program
# cells, genes, minibatch: an ordinary file, and an uneven one with a short last minibatch
ORDINARY, UNEVEN = (3000, 500, 128), (131, 60, 50)


def models(common):
    return {"LDVAE NB": common.MODELS["ldvae"], "scVI ZINB, 2 layers": common.MODELS["scvi"],
            "scVI NB": ["model.linear_decoder=no", "model.gene_likelihood=nb"]}


def deviations(common, expected, found):
    """(of the first epoch, of all): the largest relative ones of the history."""
    ours, theirs = common.history(expected), common.history(found)
    if ours.keys() != theirs.keys() or not any(k.endswith("elbo_train") for k in ours):
        raise AssertionError("histories of %s and %s" % (sorted(ours), sorted(theirs)))
    first = most = 0.0
    for key, values in ours.items():
        a, b = np.atleast_1d(values), np.atleast_1d(theirs[key])
        if a.shape != b.shape or not np.array_equal(np.isfinite(a), np.isfinite(b)):
            raise AssertionError("%s is not alike" % key)
        off = np.abs(a - b) / np.maximum(np.abs(a), 1e-30)
        off = np.where(np.isfinite(a) & (a != b), off, 0)
        first, most = max(first, float(off[0])), max(most, float(off.max()))
    return first, most


def difference(expected, found):
    """The array that differs most in bytes; empty if none does."""
    if expected.keys() != found.keys():
        return "other arrays"
    off = [key for key, value in expected.items() if value.tobytes() != found[key].tobytes()]
    return "%d arrays differ, %s first" % (len(off), sorted(off)[0]) if off else ""


def load(programs):
    """tests/run/invariance.py, for these programs."""
    os.environ["ATLASVI"], os.environ["MPIRUN"] = programs.atlasvi, programs.mpirun or ""
    place = os.path.join(HERE, "..", "..", "run")
    if place not in sys.path:
        sys.path.insert(0, place)
    import invariance
    return invariance


@contextlib.contextmanager
def one_gpu():
    """For the programs that are started meanwhile, whether it is real or emulated."""
    kept = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "AV_EMULATED_DEVICES")}
    os.environ.update(CUDA_VISIBLE_DEVICES=(kept["CUDA_VISIBLE_DEVICES"] or "0").split(",")[0],
                      AV_EMULATED_DEVICES="1")
    try:
        yield
    finally:
        for name, value in kept.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


class Parity:
    """`run`: runs a command within the time, AssertionError if its exit status is not the one given;
    returns what it printed. `put`: called with name, whether it passed, and a note, of every check;
    `skip`: with name and why, and `leave_out` where that is for want of something."""

    def __init__(self, programs, run, folder, put, skip, leave_out):
        self.common = load(programs)
        self.run, self.folder = run, folder
        self.put, self.skip, self.leave_out = put, skip, leave_out
        self.has_mpirun = programs.mpirun is not None
        self.common.run = run

    def fit_file(self, backend, more=(), ranks=1):
        """Which way the decoder goes is not left to its times, which differ from run to run."""
        rows = [] if backend != "cuda" or ALWAYS in more else ["runtime.gpu_rows=never"]
        return self.common.fit(self.folder, self.data, "parity", ranks, [
            *self.settings, "runtime.backend=" + backend, *rows, *more], *self.sizes)

    def fit(self, backend, more=(), ranks=1):
        return self.common.read(self.fit_file(backend, more, ranks))

    def prepare(self, shape, name, settings):
        cells, genes, minibatch = shape
        self.data = os.path.join(self.folder, "%d.h5ad" % cells)
        if not os.path.exists(self.data):
            self.common.run([self.common.ATLASVI, "simulate", self.data, "cells=%d" % cells,
                             "genes=%d" % genes, "factors=2", "batches=2"])
        self.sizes = (12, 3) if shape == UNEVEN else (128, 10)  # hidden, latent
        self.settings = [*settings, "runtime.threads=1", "train.batch_size=%d" % minibatch, "train.seed=4",
                         "train.n_epochs_kl_warmup=3", "train.max_epochs=%d" % EPOCHS]
        self.what = "%s, %d cells x %d genes, minibatch %d: " % (name, cells, genes, minibatch)

    def case(self, shape, name, settings, gpus):
        """A model, with all that can be seen on so many GPUs."""
        self.prepare(shape, name, settings)
        expected = self.fit("cpu")
        found = self.fit("cuda")
        self.near("cuda as cpu", expected, found)
        self.near("cuda with rows of gradients as cpu", expected, self.fit("cuda", [ALWAYS]))
        self.same("the same bytes again", found, self.fit("cuda"))
        self.same("the same bytes without CUDA graphs", found,
                  self.fit("cuda", ["runtime.cuda_graphs=no"]))
        self.streamed(found)
        if shape == UNEVEN:
            self.same("the same bytes twice with reproducible = strict",
                      self.fit("cuda", STRICT), self.fit("cuda", STRICT))
            self.sharing(expected)
            self.through_nccl(found, gpus)

    # --- one way each -----------------------------------------------------------------------------
    def streamed(self, resident):
        """Counts that do not fit what may be used of the GPU: that they were streamed is in the log."""
        log = os.path.join(self.folder, "streamed.jsonl")
        found = self.fit("cuda", ["runtime.gpu_memory=1e-9", "runtime.log=" + log])
        with open(log) as file:
            told = [e for e in map(json.loads, file) if e["event"] == "gpu_memory"]
        os.unlink(log)
        if [e["streamed_ranks"] for e in told] != [1]:
            self.put(self.what + "counts streamed", False, "they were not: %s" % told)
        else:
            self.same("the same bytes with counts streamed", resident, found)

    def sharing(self, expected):
        """Two ranks on one GPU, which sum through the host because it was asked for."""
        if self.can_start("cuda on 2 ranks that share a GPU as cpu"):
            with one_gpu():
                self.near("cuda on 2 ranks that share a GPU as cpu", expected,
                          self.fit("cuda", self.common.SHARED_GPU, ranks=2))

    def through_nccl(self, alone, gpus):
        name = "2 GPUs through NCCL as one"
        if gpus < 2:
            self.skip(self.what + name, "there is one GPU")
        elif self.can_start(name):
            found = self.fit("cuda", STRICT, ranks=2)
            self.near(name, alone, found)
            self.same("2 GPUs through NCCL, the same bytes twice with reproducible = strict", found,
                      self.fit("cuda", STRICT, ranks=2))

    def refusal(self):
        """Two ranks on one GPU, and nobody has asked for sums through the host."""
        self.prepare(UNEVEN, *next(iter(models(self.common).items())))
        self.what, said = "", []
        name = "2 ranks on one GPU without gpu_sums = mpi: an error that names it"
        if self.can_start(name):
            self.common.run = lambda argv: said.append(self.run(argv, NO_DEVICE))
            with one_gpu():
                self.fit_file("cuda", ranks=2)
            self.common.run = self.run
            names_it = "gpu_sums = mpi" in said[0]
            self.put(name, names_it, "" if names_it else said[0][-1500:])

    # --- what was found ---------------------------------------------------------------------------
    def near(self, what, expected, found):
        first, most = deviations(self.common, expected, found)
        self.put(self.what + what, first <= FIRST and most <= ALL,
                 "losses off by %.1e after 1 epoch, %.1e after %d" % (first, most, EPOCHS))

    def same(self, what, expected, found):
        other = difference(expected, found)
        self.put(self.what + what, not other, other)

    def can_start(self, what):
        """More ranks than one."""
        if not self.has_mpirun:
            self.leave_out(self.what + what, "there is no mpirun")
        return self.has_mpirun
