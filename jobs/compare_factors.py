#!/usr/bin/python3
"""Compares the loadings of a fit with those a data set was simulated from.

usage: compare_factors.py SIMULATED.h5ad FITTED.h5ad [--top N] [--at-least R]

Prints the canonical correlations between planted and fitted gene-centred loadings (1: the same
factors up to rotation), those of a control with shuffled genes, the top genes of each fitted factor,
and the ELBO and times of the run. With --at-least, exit status 1 unless every correlation is that
large and every one of the control below 0.5.
"""
import argparse
import sys

import h5py
import numpy as np


def text(values):
    return [v.decode() if isinstance(v, bytes) else str(v) for v in values]


def index_of(frame):
    """Row names of a dataframe group."""
    element = frame[frame.attrs["_index"]]
    return text(element["values"] if isinstance(element, h5py.Group) else element[()])


def columns_of(frame):
    """Name -> values of a dataframe's numeric columns, in their order."""
    return {name: frame[name][()] for name in text(frame.attrs["column-order"])
            if isinstance(frame[name], h5py.Dataset)}


def fail(message):
    print(f"atlasvi: error: {message}", file=sys.stderr)
    sys.exit(65)


def open_file(path):
    try:
        return h5py.File(path)
    except OSError as error:
        print(f"atlasvi: error: {path}: {error}", file=sys.stderr)
        sys.exit(66)


def read_planted(path):
    with open_file(path) as file:
        if "varm/true_loadings" not in file:
            fail(f"{path}: no varm/true_loadings: not made by `atlasvi simulate`")
        return index_of(file["var"]), file["varm/true_loadings"][()].astype(float)


def read_fitted(path):
    """Gene names, loadings (genes, factors), history (name -> values)."""
    with open_file(path) as file:
        if "uns/ldvae_loadings" not in file:
            fail(f"{path}: no uns/ldvae_loadings: fit with linear_decoder = yes")
        frame = file["uns/ldvae_loadings"]
        loadings = np.column_stack(list(columns_of(frame).values())).astype(float)
        history = {}
        if "uns/atlasvi/history" in file:
            history = columns_of(file["uns/atlasvi/history"])
        return index_of(frame), loadings, history


def canonical_correlations(a, b):
    a, b = (np.linalg.qr(m - m.mean(axis=0))[0] for m in (a, b))
    return np.clip(np.linalg.svd(a.T @ b, compute_uv=False), 0, 1)


def row(values):
    return " ".join(f"{v:.3f}" for v in values)


def print_genes(genes, fitted, planted, top):
    """Each fitted factor: its largest centred loadings, and the planted factor it is most like."""
    centred = fitted - fitted.mean(axis=0)
    truth = planted - planted.mean(axis=0)
    likeness = (centred.T @ truth) / np.outer(np.linalg.norm(centred, axis=0) + 1e-300,
                                              np.linalg.norm(truth, axis=0) + 1e-300)
    print("top genes of each fitted factor, with the sign of their loading")
    for k in range(fitted.shape[1]):
        best = np.argsort(-np.abs(centred[:, k]))[:top]
        names = " ".join(f"{'+' if centred[g, k] > 0 else '-'}{genes[g]}" for g in best)
        j = int(np.argmax(np.abs(likeness[k])))
        print(f"  Z_{k}  {names}   (most like planted factor {j}: {likeness[k, j]:+.2f})")


def print_history(history):
    if not history:
        return
    epochs = len(next(iter(history.values())))
    for name, what in (("elbo_validation", "held-out"), ("elbo_train", "training")):
        values = history.get(name)
        if values is not None and np.isfinite(values[-1]):
            print(f"negative ELBO of {what} cells: {values[0]:.1f} after epoch 1, "
                  f"{values[-1]:.1f} after epoch {epochs} (lower is better)")
    if "seconds" in history:
        print(f"training: {np.nansum(history['seconds']):.1f} s for {epochs} epochs")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("simulated")
    parser.add_argument("fitted")
    parser.add_argument("--top", type=int, default=6, help="genes a factor (default 6)")
    parser.add_argument("--at-least", type=float, help="smallest canonical correlation accepted")
    options = parser.parse_args()

    names, loadings = read_planted(options.simulated)
    genes, fitted, history = read_fitted(options.fitted)
    position = {name: i for i, name in enumerate(names)}
    if any(gene not in position for gene in genes):
        fail(f"{options.fitted}: has genes that {options.simulated} has not")
    planted = loadings[[position[gene] for gene in genes]]

    found = canonical_correlations(planted, fitted)
    shuffled = np.random.default_rng(0).permutation(len(genes))
    control = canonical_correlations(planted, fitted[shuffled])
    print(f"recovered factors: canonical correlations of planted and fitted loadings, "
          f"{len(genes)} genes")
    print(f"  {row(found)}")
    print(f"  control (genes shuffled): {row(control)}")
    print_genes(genes, fitted, planted, options.top)
    print_history(history)
    if options.at_least is not None and (found.min() < options.at_least or control.max() >= 0.5):
        print(f"atlasvi: error: factors not recovered: smallest {found.min():.3f}, "
              f"wanted {options.at_least:g}; largest of the control {control.max():.3f}",
              file=sys.stderr)
        sys.exit(1)


main()
