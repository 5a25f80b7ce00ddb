#!/usr/bin/env python3
"""Planted factors come back: 5,000 cells, 5 factors, LDVAE. Every canonical correlation between planted and
fitted gene-centred loadings is at least 0.9; below 0.5 when the genes are shuffled, and when every gene's counts
were shuffled over the cells before the fit (nothing to find).

usage: factors.py [genes [seeds]], default 500 genes, seeds 0 1 2; 2000 genes take longer.
"""
import importlib.util
import os
import sys

import anndata
import numpy as np

import fitting as f

SETTINGS = {"model.linear_decoder": "yes", "model.n_latent": "5", "model.n_hidden": "128",
            "train.max_epochs": "60", "train.n_epochs_kl_warmup": "30", "train.lr": "0.003",
            "train.batch_size": "128", "output.denoised": "no", "output.sample_rate": "no",
            "output.overwrite": "yes", "runtime.threads": None}


def load_jobs():
    """jobs/compare_factors.py as a module; its command line is tested beside it."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "jobs",
                        "compare_factors.py")
    text = open(path).read().rsplit("\nmain()", 1)[0]
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("compare", None))
    exec(compile(text, path, "exec"), module.__dict__)
    return module


def canonical(a, b):
    """Cosines of the principal angles of two column spaces, worked out here once more: square roots of the
    eigenvalues of Sa^-1 Sab Sb^-1 Sba."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    product = np.linalg.solve(a.T @ a, a.T @ b) @ np.linalg.solve(b.T @ b, b.T @ a)
    return np.sqrt(np.sort(np.clip(np.linalg.eigvals(product).real, 0, 1))[::-1])


def fitted_loadings(path):
    with f.open_output(path) as file:
        frame = file["uns/ldvae_loadings"]
        return f.index_of(frame), f.columns_of(frame)[1].astype(float)


def shuffle_cells(data, output, seed):
    """The same file with every gene's counts in another order of the cells."""
    table = anndata.read_h5ad(data)
    counts = np.random.default_rng(seed).permuted(table.X.toarray(), axis=0)
    keep = counts.sum(axis=1) > 0
    made = anndata.AnnData(counts[keep].astype(np.float32), obs=table.obs[["batch"]][keep],
                           var=table.var, dtype=np.float32)
    made.write_h5ad(output)
    return output


def check_noise(place, data, planted, seed):
    """A fit of counts without factors finds none."""
    nothing = shuffle_cells(data, place.path("nothing.h5ad"), seed)
    noise = fitted_loadings(place.fit(nothing, "noise.h5ad", SETTINGS, timeout=200))[1]
    largest = canonical(planted, noise).max()
    print(f"seed {seed}: cells shuffled {largest:.3f}", flush=True)
    assert largest < 0.5, largest


def check(place, compare, genes, seed, noise):
    data = place.simulate("planted.h5ad", cells=5000, genes=genes, factors=5, batches=2, seed=seed,
                          library_mean=genes * 0.8, overwrite="yes")
    names, planted = compare.read_planted(data)
    seeded = {**SETTINGS, "train.seed": str(seed)}
    found_names, found = fitted_loadings(place.fit(data, "fitted.h5ad", seeded, timeout=200))
    assert found_names == names and found.shape == (genes, 5)
    correlations = compare.canonical_correlations(planted, found)
    f.near(correlations, canonical(planted, found), 1e-6, "compare_factors.py")
    rows = np.random.default_rng(seed).permutation(genes)
    control = canonical(planted[rows], found)
    print(f"seed {seed}: {compare.row(correlations)}; genes shuffled {control.max():.3f}", flush=True)
    assert correlations.min() >= 0.9, correlations
    assert control.max() < 0.5, control
    if noise:
        check_noise(place, data, planted, seed)


def main():
    genes = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    seeds = [int(s) for s in sys.argv[2:]] or [0, 1, 2]
    place, compare = f.Place(), load_jobs()
    for seed in seeds:
        check(place, compare, genes, seed, seed == seeds[0])


main()
