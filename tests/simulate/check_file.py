"""The simulated file, read by anndata: its counts against the distribution its own truth describes."""
import hashlib
import os
import resource
import subprocess
import sys
import tempfile


def peak_memory(program):
    """MB, of a run over 100,000 cells. A child inherits its parent's peak: measure while that is small."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([program, os.path.join(folder, "large.h5ad"), "cells=100000", "genes=1000",
                        "library_mean=100"], check=True, stdout=subprocess.DEVNULL)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


PEAK = peak_memory(sys.argv[1])

try:
    import anndata
    import h5py
    import numpy as np
    import scipy.sparse
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

PROGRAM = sys.argv[1]


def simulate(path, *settings, threads="2", expect=0):
    done = subprocess.run([PROGRAM, path, *settings], capture_output=True, text=True,
                          env=dict(os.environ, OMP_NUM_THREADS=threads))
    assert done.returncode == expect, (done.returncode, done.stdout, done.stderr)
    return done


def z_scores(observed, mean, variance, what, largest=5.5):
    z = (observed - mean) / np.sqrt(variance)
    n = len(z)
    mean_square = np.mean(z ** 2)
    print(f"  {what}: {n} z-scores, mean {z.mean():.3f}, mean square {mean_square:.3f}, "
          f"largest {np.abs(z).max():.2f}")
    assert np.abs(z).max() < largest, what
    # for heavy-tailed sums the mean square has a wider spread than 2/n: 8 of those
    assert abs(mean_square - 1) < 8 * np.sqrt(2 / n), what


def expected(adata):
    """(mean, variance, P(0)) of every count, from the file alone."""
    s = adata.uns["simulation"]
    loadings = np.asarray(adata.varm["true_loadings"], dtype=float)
    offsets = np.asarray(adata.varm["true_batch_offsets"], dtype=float).reshape(adata.n_vars, -1)
    batch = adata.obs["batch"].cat.codes.to_numpy()
    logits = (np.asarray(adata.obsm["true_z"], dtype=float) @ loadings.T + offsets[:, batch].T
              + adata.var["true_intercept"].to_numpy().astype(float))
    rho = np.exp(logits - logits.max(axis=1, keepdims=True))
    rho /= rho.sum(axis=1, keepdims=True)
    mu = adata.obs["true_library"].to_numpy()[:, None] * rho
    if s["likelihood"] == "poisson":
        assert "true_dispersion" not in adata.var
        return mu, mu, np.exp(-mu)
    theta = adata.var["true_dispersion"].to_numpy().astype(float)
    variance = mu + mu ** 2 / theta
    p0 = np.exp(-theta * np.log1p(mu / theta))
    if s["likelihood"] == "zinb":
        pi = s["dropout"]
        return ((1 - pi) * mu, (1 - pi) * (variance + pi * mu ** 2), pi + (1 - pi) * p0)
    return mu, variance, p0


def check_counts(path):
    adata = anndata.read_h5ad(path)
    assert scipy.sparse.isspmatrix_csr(adata.X) and adata.X.dtype == np.float32
    assert adata.X.has_sorted_indices and (adata.X.data > 0).all()
    assert (adata.X.data == np.floor(adata.X.data)).all()
    x = adata.X.toarray().astype(float)
    mean, variance, p0 = expected(adata)
    z_scores(x.sum(axis=0), mean.sum(axis=0), variance.sum(axis=0), "total of a gene")
    z_scores(x.sum(axis=1), mean.sum(axis=1), variance.sum(axis=1), "total of a cell")
    seen = (p0 * (1 - p0)).sum(axis=0) > 20  # where a normal approximation holds
    if seen.any():
        z_scores((x == 0).sum(axis=0)[seen], p0.sum(axis=0)[seen],
                 (p0 * (1 - p0)).sum(axis=0)[seen], "zeros of a gene")
    # dispersion: squared residuals over their expectation, all genes together
    ratio = ((x - mean) ** 2 / variance).mean()
    print(f"  squared residual over variance: {ratio:.4f}")
    assert abs(ratio - 1) < 0.05
    return adata


def check_truth(adata):
    s = adata.uns["simulation"]
    z = np.asarray(adata.obsm["true_z"], dtype=float)
    n, k = z.shape
    assert (k, adata.n_vars, n) == (s["factors"], s["genes"], s["cells"])
    assert np.abs(z.mean(axis=0)).max() < 5 / np.sqrt(n)
    assert np.abs(np.cov(z.T) - np.eye(k)).max() < 8 / np.sqrt(n)
    for name, categories in ("batch", s["batches"]), ("label", s["labels"]):
        share = adata.obs[name].value_counts(normalize=True)
        assert len(share) == categories
        assert np.abs(share - 1 / categories).max() < 5 * np.sqrt(1 / categories / n)
    log_library = np.log(adata.obs["true_library"])
    for batch, values in log_library.groupby(adata.obs["batch"]):
        assert abs(values.std() - s["library_sd"]) < 5 * s["library_sd"] / np.sqrt(2 * len(values))
    assert abs(np.exp(log_library).mean() / s["library_mean"] - 1) < 0.05
    loadings = np.asarray(adata.varm["true_loadings"], dtype=float)
    offsets = np.asarray(adata.varm["true_batch_offsets"], dtype=float)
    assert np.abs(loadings.mean(axis=0)).max() < 1e-6
    assert np.abs(offsets.mean(axis=0)).max() < 1e-6 and np.abs(offsets.mean(axis=1)).max() < 1e-6
    assert abs(adata.var["true_intercept"].mean()) < 1e-6
    markers = (np.abs(loadings) > 5 * s["loading_noise"]).mean()
    assert 0.8 * s["marker_fraction"] < markers < 1.05 * s["marker_fraction"]
    # cell types are clusters: within them z varies less than over all
    within = np.mean([np.var(z[(adata.obs["label"] == c).to_numpy()], axis=0)
                      for c in adata.obs["label"].cat.categories])
    assert abs(within - (1 - s["label_strength"] ** 2 * min(1, (s["labels"] - 1) / k))) < 0.1


def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def same_content(a, b):
    with h5py.File(a) as left, h5py.File(b) as right:
        names = []
        left.visit(names.append)
        others = []
        right.visit(others.append)
        assert names == others
        for name in names:
            if isinstance(left[name], h5py.Dataset):
                assert left[name].dtype == right[name].dtype
                assert np.array_equal(left[name][()], right[name][()]), name


def main():
    print("nb, defaults")
    done = simulate("nb.h5ad", "library_sd=0.3", "cells=2500")
    adata = check_counts("nb.h5ad")
    check_truth(adata)
    line = done.stdout.strip()
    assert line.startswith(f"atlasvi: simulated 2500 cells x 2000 genes, {adata.X.nnz} non-zeros ("), line
    assert line.endswith(": nb.h5ad") and 0.05 < adata.X.nnz / 5e6 < 0.1, line
    adata[100:200, ::3].copy().write_h5ad("again.h5ad")
    assert np.array_equal(anndata.read_h5ad("again.h5ad").X.toarray(), adata.X[100:200, ::3].toarray())

    print("zinb, many counts, one batch")
    simulate("zinb.h5ad", "likelihood=zinb", "dropout=0.3", "library_mean=5000", "cells=1500",
             "genes=150", "batches=1", "gene_mean_sd=1", "factor_strength=0.3", "seed=5")
    adata = check_counts("zinb.h5ad")
    assert not np.asarray(adata.varm["true_batch_offsets"]).any()

    print("poisson, three batches, more labels than an int8 holds")
    simulate("poisson.h5ad", "likelihood=poisson", "library_mean=3000", "cells=1500", "genes=300",
             "batches=3", "labels=200", "factors=2", "compression=4")
    adata = check_counts("poisson.h5ad")
    assert adata.obs["label"].cat.codes.dtype == np.int16
    with h5py.File("poisson.h5ad") as file:
        assert file["X/data"].compression == "gzip" and file["X/data"].compression_opts == 4
        assert file["X/indices"].dtype == file["X/indptr"].dtype == np.int32

    print("threads and blocks")
    small = ("cells=400", "genes=500", "seed=3")
    simulate("t1.h5ad", *small, threads="1")
    simulate("t3.h5ad", *small, threads="3")
    assert digest("t1.h5ad") == digest("t3.h5ad")
    simulate("block.h5ad", "--block", "37", *small)
    same_content("t1.h5ad", "block.h5ad")
    simulate("t1.h5ad", "cells=400", "genes=500", "seed=4", "overwrite=yes")
    assert digest("t1.h5ad") != digest("t3.h5ad")

    print("memory")
    print(f"  peak with 100,000 cells {PEAK:.0f} MB")
    assert PEAK < 250
    assert sorted(os.listdir(".")) == ["again.h5ad", "block.h5ad", "nb.h5ad", "poisson.h5ad",
                                       "t1.h5ad", "t3.h5ad", "zinb.h5ad"]


with tempfile.TemporaryDirectory() as folder:
    PROGRAM = os.path.abspath(PROGRAM)
    os.chdir(folder)
    main()
    os.chdir("/")
