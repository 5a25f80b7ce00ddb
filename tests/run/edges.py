#!/usr/bin/env python3
"""Shapes and numbers at the edge, as whole runs of both decoders on 1 and 2 ranks: each must end with finite
results, the same on both numbers of ranks (strict), and do what model.md says of it.

usage: edges.py [case ...]; all cases without arguments.
"""
import sys

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

import fitting as f

ar = f.ar
DECODERS = {"ldvae": {"model.linear_decoder": "yes"}, "scvi": {"model.linear_decoder": "no"}}
TIMES = ("seconds", "cells_per_second")


def counts(cells, genes, seed=0, mean=1.0):
    """Negative binomial counts with two groups of cells; no cell is empty."""
    random = np.random.default_rng(seed)
    level = mean * random.gamma(1.0, 1.0, genes) * np.exp(
        0.5 * random.normal(size=genes)[None, :] * (np.arange(cells) % 2)[:, None])
    x = random.negative_binomial(2.0, 2.0 / (2.0 + level)).astype(np.float32)
    x[np.arange(cells), np.arange(cells) % genes] += 1
    return x


def write(place, name, x, **columns):
    obs = pd.DataFrame({k: pd.Categorical(v) if np.asarray(v).dtype.kind in "UO" else v
                        for k, v in columns.items()}, index=["c%d" % i for i in range(x.shape[0])])
    var = pd.DataFrame(index=["g%d" % i for i in range(x.shape[1])])
    path = place.path(name)
    anndata.AnnData(sp.csr_matrix(x), obs=obs, var=var, dtype=np.float32).write_h5ad(path)
    return path


def arrays(path):
    """Every float array of the results by name."""
    found = {}
    with f.open_output(path) as file:
        def keep(name, item):
            if getattr(item, "dtype", None) is not None and item.dtype.kind == "f" and \
                    name.split("/")[-1] not in TIMES:
                found[name] = item[()]
        file["obsm"].visititems(lambda n, i: keep("obsm/" + n, i))
        file["uns"].visititems(lambda n, i: keep("uns/" + n, i))
    assert any(name.endswith("elbo_train") for name in found), sorted(found)
    return found


def finite(found, what, but=("validation",)):
    for name, values in found.items():
        if not any(part in name for part in but):
            assert np.all(np.isfinite(values)), (what, name)


def fits(place, data, what, settings=None, decoders=DECODERS, but=()):
    """Fits with each decoder on 1 and 2 ranks in strict mode; the arrays by decoder."""
    results = {}
    for decoder, model in decoders.items():
        merged = {"data.batch_key": None, "runtime.reproducible": "strict",
                  "output.overwrite": "yes", **model, **(settings or {})}
        one = arrays(place.fit(data, "one.h5ad", merged))
        two = arrays(place.fit(data, "two.h5ad", merged, ranks=2))
        assert one.keys() == two.keys(), what
        for name in one:
            assert np.array_equal(one[name], two[name], equal_nan=True), (what, decoder, name)
        finite(one, (what, decoder), but)
        results[decoder] = one
    return results


def many_genes(place):
    """More than 65,536 genes: gene numbers need more than 16 bits."""
    genes = 66_000
    random = np.random.default_rng(5)
    x = sp.random(40, genes, density=0.002, random_state=5, format="lil", dtype=np.float32)
    x[x.nonzero()] = random.integers(1, 5, x.nnz)
    x[:, genes - 1] = 7.0  # the last gene is everywhere, the one before nowhere
    x[:, genes - 2] = 0.0
    found = fits(place, write(place, "many.h5ad", x.tocsr()), "66,000 genes",
                 {"train.max_epochs": "2", "model.n_hidden": "8", "model.n_latent": "2"})
    for decoder, results in found.items():
        rho = results["obsm/X_scvi_denoised"]
        assert rho.shape == (40, genes), decoder
        assert np.all(rho[:, genes - 1] > 20 * rho[:, genes - 2]), decoder


def narrow(place):
    """One latent dimension; more latent dimensions than hidden units; one hidden unit."""
    data = write(place, "narrow.h5ad", counts(90, 20))
    for latent, hidden in ((1, 8), (12, 4), (3, 1)):
        found = fits(place, data, (latent, hidden),
                     {"model.n_latent": str(latent), "model.n_hidden": str(hidden)})
        for results in found.values():
            assert results["obsm/X_scvi"].shape == (90, latent)


def one_gene(place):
    """One gene: softmax over it is 1, whatever the model is; the rate is then the library size."""
    x = counts(80, 1, mean=5.0)
    found = fits(place, write(place, "gene.h5ad", x), "one gene")
    for decoder, results in found.items():
        assert np.all(results["obsm/X_scvi_denoised"] == 1.0), decoder
    np.testing.assert_allclose(found["scvi"]["obsm/X_scvi_sample_rate"], x, rtol=1e-5)


def unseen_batch(place):
    """A batch of which no cell is trained on has results, and keeps its starting dispersion (without weight decay)."""
    x = counts(120, 15)
    batch = np.where(np.arange(120) < 20, "late", np.where(np.arange(120) % 2, "a", "b"))
    split = np.where(batch == "late", "validation", "train")
    data = write(place, "unseen.h5ad", x, batch=batch, split=split)
    for dispersion in ("gene", "gene-batch"):
        found = fits(place, data, "unseen batch", {"data.batch_key": "batch", "train.split_key": "split",
                                                  "train.train_size": None,
                                                  "model.dispersion": dispersion})
        for results in found.values():
            assert results["obsm/X_scvi"].shape == (120, 4)
            assert np.all(np.isfinite([v for k, v in results.items() if "validation" in k]))
    px_r = []
    for epochs in ("1", "4"):
        path = place.fit(data, "epochs.h5ad", {
            "data.batch_key": "batch", "train.split_key": "split", "train.max_epochs": epochs,
            "model.dispersion": "gene-batch", "train.weight_decay": "0", "output.overwrite": "yes"})
        with f.open_output(path.replace(".h5ad", ".model.h5")) as file:
            assert f.ar.element_strings(file["batches"]) == ["a", "b", "late"]
            px_r.append(file["arrays/px_r"][...])
    assert np.array_equal(px_r[0][:, 2], px_r[1][:, 2]), "trained on no cell"
    assert (px_r[0][:, :2] != px_r[1][:, :2]).any(axis=0).all()


def short_last(place):
    """A last minibatch of one or two cells is left out, one of three is trained on: the history's means are over
    the cells used, and which are left out differs by epoch."""
    for cells, used in ((65, 64), (66, 64), (67, 67)):
        data = write(place, "short%d.h5ad" % cells, counts(cells, 12))
        fits(place, data, (cells, used), {"train.train_size": "1.0", "train.batch_size": "32"},
             but=("validation",))
        for name in ("one.h5ad", "two.h5ad"):
            with f.open_output(place.path(name)) as file:
                history = file["uns/atlasvi/history"]
                trained = history["cells_per_second"][...] * history["seconds"][...]
            f.near(trained, np.full(4, used), 1e-6, "%d cells: those trained on" % cells)


def large_counts(place):
    """Counts over 65,535 and near the largest float that is a whole number are kept exactly."""
    x = counts(60, 10)
    x[3, 2], x[4, 5], x[5, 5], x[6, 1] = 65_535, 65_536, 70_001, 16_777_216
    found = fits(place, write(place, "large.h5ad", x), "large counts", {"train.lr": "0.001"})
    library = x.sum(axis=1)
    rate = found["scvi"]["obsm/X_scvi_sample_rate"]  # observed library: rates add up to it
    np.testing.assert_allclose(rate.sum(axis=1), library, rtol=1e-4)


def many_batches(place):
    """5,000 batches, most of one cell: their number does not make the decoder slow or large."""
    cells = 6000
    x = counts(cells, 12)
    batch = np.array(["s%04d" % (i % 5000) for i in range(cells)])
    found = fits(place, write(place, "batches.h5ad", x, batch=batch), "5,000 batches",
                 {"data.batch_key": "batch", "train.max_epochs": "1", "model.n_latent": "3",
                  "model.dispersion": "gene-batch", "output.denoised": "no",
                  "output.sample_rate": "no"})
    with_offsets = [k for k in found["ldvae"] if k.startswith("uns/ldvae_batch_offsets/")]
    assert len(with_offsets) == 5000, len(with_offsets)


def single_count(place):
    """Cells of one count, all of them or some."""
    every = np.zeros((50, 9), np.float32)
    every[np.arange(50), np.arange(50) % 9] = 1.0
    fits(place, write(place, "single.h5ad", every), "library of one")
    some = counts(50, 9, mean=20.0)
    some[:5] = every[:5]
    fits(place, write(place, "some.h5ad", some), "a few libraries of one")


def extreme_model(place, fitted, name):
    """The model of a fit with dispersions from far below to far above what a float's exp holds."""
    carrier = f.load_script("scvi_tools.py")
    model = carrier.read_atlasvi(fitted.replace(".h5ad", ".model.h5"))
    wanted = [n for n in ("px_r", "decoder.px_r_decoder.bias",
                          "decoder.px_r_decoder.fc_layers.Layer 0.1.bias") if n in model.tensors]
    assert len(wanted) == 1, wanted
    values = model.tensors[wanted[0]]
    extremes = np.resize([-300.0, -90.0, -30.0, 0.0, 30.0, 90.0, 300.0], values.shape[0])
    model.tensors[wanted[0]] = np.broadcast_to(extremes[(...,) + (None,) * (values.ndim - 1)],
                                               values.shape).astype(np.float32)
    path = place.path(name)
    carrier.write_atlasvi(model, path)
    return path


def extreme_dispersion(place):
    """Dispersions whose exp is 0 or infinite in float (theta to 0, and to the Poisson limit): trained further,
    no loss, parameter or result is anything but a finite number."""
    x = counts(80, 12)
    x[:, 0], x[:, 1], x[:, 2] = 7.0, 0.0, 0.0
    x[0, 1] = 5000.0
    batch = np.where(np.arange(80) % 7 == 0, "few", "many")
    data = write(place, "extreme.h5ad", x, batch=batch, kind=np.where(np.arange(80) % 3, "x", "y"))
    keys = {"data.batch_key": "batch", "data.labels_key": "kind"}
    for dispersion in ("gene", "gene-batch", "gene-label", "gene-cell"):
        for likelihood in ("nb", "zinb"):
            for decoder, model in DECODERS.items():
                fitted = place.fit(data, "start.h5ad", {
                    **keys, **model, "model.dispersion": dispersion, "output.overwrite": "yes",
                    "model.gene_likelihood": likelihood})
                start = extreme_model(place, fitted, "extreme-%s-%s-%s.model.h5" %
                                      (dispersion, likelihood, decoder))
                fits(place, data, (dispersion, likelihood), {
                    **keys, "model.load": start, "model.n_latent": None, "model.n_hidden": None,
                    "train.max_epochs": "3", "train.n_epochs_kl_warmup": "1"}, {decoder: {}})


def far_covariates(place):
    """Held-out cells whose covariates make a float overflow: no result is passed on as if it were one. On a
    scale that a float holds the same run is fine."""
    held_out = np.arange(60) % 6 == 0
    for value, code in ((3e38, 76), (3.0, 0)):
        data = write(place, "far.h5ad", counts(60, 9), split=np.where(held_out, "validation", "train"),
                     near=np.linspace(-1, 1, 60), far=np.where(held_out, value, np.linspace(-1, 1, 60)))
        for ranks in (0, 2):
            result = place.run({
                "data.input": data, "output.path": place.path("far_out.h5ad"), "output.overwrite": "yes",
                "data.batch_key": None, "data.continuous_covariate_keys": "near, far", "model.encode_covariates": "yes",
                "model.use_batch_norm": "none", "train.split_key": "split"}, ranks)
            assert result.code == code, (value, result)
            fault = ar.fault_of(result, 76, "^training failed: the negative ELBO of the validation cells is not "
                                r"finite; try continuous covariates on the scale of 1, or a smaller train\.lr \(now 0\.005\)$")
            assert code == 0 or fault is None, (fault, result)


CASES = [far_covariates, many_genes, narrow, one_gene, unseen_batch, short_last, large_counts, many_batches,
         single_count, extreme_dispersion]


def main():
    place = f.Place()
    chosen = [c for c in CASES if not sys.argv[1:] or c.__name__ in sys.argv[1:]]
    assert chosen, "no such case"
    for case in chosen:
        case(place)
        f.done(case.__name__)


main()
