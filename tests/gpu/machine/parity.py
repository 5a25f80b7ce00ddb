"""Whole training runs on the GPU against the same on the CPU, and against themselves.

What holds on 1, 2 and 3 ranks of one machine (tests/run/invariance.py) holds here: the losses of the
first epoch within 1e-5 of the cpu backend's (relative), those of five epochs within 1e-3; the same
bytes again in a second run, and with CUDA graphs or without."""
import os
import sys

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
FIRST, ALL = 1e-5, 1e-3
EPOCHS = 5
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
    os.environ["ATLASVI"], os.environ["MPIRUN"] = programs.atlasvi, programs.mpirun
    place = os.path.join(HERE, "..", "..", "run")
    if place not in sys.path:
        sys.path.insert(0, place)
    import invariance
    return invariance


class Parity:
    """`put`: called with name, whether it passed, and a note, of every check."""

    def __init__(self, programs, run, folder, put, graphs):
        self.common = load(programs)
        self.folder, self.put, self.graphs = folder, put, graphs
        self.common.run = run  # limited in time

    def fit(self, data, backend, more=(), ranks=1):
        path = self.common.fit(self.folder, data, "parity", ranks, [
            *self.settings, "runtime.backend=" + backend, *more], *self.sizes)
        return self.common.read(path)

    def case(self, shape, name, settings):
        cells, genes, minibatch = shape
        data = os.path.join(self.folder, "%d.h5ad" % cells)
        if not os.path.exists(data):
            self.common.run([self.common.ATLASVI, "simulate", data, "cells=%d" % cells,
                             "genes=%d" % genes, "factors=2", "batches=2"])
        self.sizes = (12, 3) if shape == UNEVEN else (128, 10)  # hidden, latent
        self.settings = [*settings, "runtime.threads=1", "train.batch_size=%d" % minibatch, "train.seed=4",
                         "train.n_epochs_kl_warmup=3", "train.max_epochs=%d" % EPOCHS]
        what = "%s, %d cells x %d genes, minibatch %d" % (name, cells, genes, minibatch)
        expected = self.fit(data, "cpu")
        found = self.fit(data, "cuda")
        self.compare(what + ": cuda as cpu", expected, found)
        again = difference(found, self.fit(data, "cuda"))
        self.put(what + ": the same bytes again", not again, again)
        if self.graphs:
            other = difference(found, self.fit(data, "cuda", ["runtime.cuda_graphs=no"]))
            self.put(what + ": the same bytes without CUDA graphs", not other, other)
        if shape == UNEVEN:
            shared = self.fit(data, "cuda", self.common.SHARED_GPU, ranks=2)
            self.compare(what + ": cuda on 2 ranks as cpu", expected, shared)

    def compare(self, what, expected, found):
        first, most = deviations(self.common, expected, found)
        self.put(what, first <= FIRST and most <= ALL,
                 "losses off by %.1e after 1 epoch, %.1e after %d" % (first, most, EPOCHS))
