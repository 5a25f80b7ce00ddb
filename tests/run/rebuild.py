#!/usr/bin/env python3
"""The loadings, intercept and batch offsets in an output are the decoder: from them and X_scvi alone every
rho is rebuilt; signs and variance shares follow their rules; the saved model says the same."""
import h5py
import numpy as np

import fitting as f


def rebuild(file):
    """softmax(z L^T + O[batch] + c), in double, from nothing but this file."""
    _, loadings = f.columns_of(file["uns/ldvae_loadings"])
    logits = file["obsm/X_scvi"][...].astype(float) @ loadings.T.astype(float)
    logits += file["uns/ldvae_intercept"][...].astype(float)
    if "ldvae_batch_offsets" in file["uns"]:
        names, offsets = f.columns_of(file["uns/ldvae_batch_offsets"])
        levels, codes = f.categories(file["obs"], "batch")
        logits += offsets.T.astype(float)[[names.index(levels[c]) for c in codes]]
    logits -= logits.max(axis=1, keepdims=True)
    rho = np.exp(logits)
    return rho / rho.sum(axis=1, keepdims=True)


def check_signs_and_shares(file):
    names, loadings = f.columns_of(file["uns/ldvae_loadings"])
    loadings = loadings.astype(float)
    weight = file["obsm/X_scvi_denoised"][...].astype(float).mean(axis=0)
    centred = loadings - weight @ loadings
    largest = centred[np.abs(centred).argmax(axis=0), np.arange(len(names))]
    assert (largest > 0).all(), largest
    z = file["obsm/X_scvi"][...].astype(float)
    share = z.var(axis=0) * (weight[:, None] * centred ** 2).sum(axis=0)
    share /= share.sum()
    frame = file["uns/ldvae_factors"]
    assert f.index_of(frame) == names == [f"Z_{k}" for k in range(len(names))]
    f.near(frame["variance_share"][...], share, 1e-4, "variance shares")
    rank = frame["rank"][...]
    assert sorted(rank) == list(range(1, len(names) + 1)), rank
    assert (np.diff(frame["variance_share"][...][np.argsort(rank)]) <= 0).all(), rank


def check_model(file, model, n_latent):
    """The same tables from scvi-tools' tensors in the saved model."""
    prefix = "arrays/decoder.factor_regressor.fc_layers.Layer 0."
    weight, gamma, beta, mean, variance = (
        model[prefix + name][...].astype(float)
        for name in ("0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var"))
    scale = gamma / np.sqrt(variance + 1e-3)
    _, loadings = f.columns_of(file["uns/ldvae_loadings"])
    f.near(loadings, scale[:, None] * weight[:, :n_latent], 1e-5, "loadings", 1e-6)
    f.near(file["uns/ldvae_intercept"][...], beta - scale * mean, 1e-5, "intercept", 1e-5)
    if weight.shape[1] > n_latent:
        _, offsets = f.columns_of(file["uns/ldvae_batch_offsets"])
        f.near(offsets, scale[:, None] * weight[:, n_latent:], 1e-5, "batch offsets", 1e-6)


def check(place, data, what, settings, ranks=0):
    output = place.fit(data, what + ".h5ad", {"model.linear_decoder": "yes", **settings}, ranks)
    with f.open_output(output) as file, h5py.File(output.replace(".h5ad", ".model.h5")) as model, \
            h5py.File(data) as source:
        denoised = file["obsm/X_scvi_denoised"][...]
        assert denoised.dtype == np.float32 and (denoised > 0).all()
        f.near(rebuild(file), denoised, 1e-4, "rho rebuilt")
        f.near(denoised.astype(float).sum(axis=1), 1.0, 1e-5, "sum of rho")
        ratio = file["obsm/X_scvi_sample_rate"][...].astype(float) / denoised
        f.near(ratio, np.broadcast_to(ratio[:, :1], ratio.shape), 1e-4, "exp(l) along a row")
        if settings.get("model.use_observed_lib_size") == "yes":
            counts = np.add.reduceat(source["X/data"][...], source["X/indptr"][:-1])
            f.near(ratio[:, 0], counts, 1e-4, "exp(l) is the observed total")
        else:
            assert ratio[:, 0].std() / ratio[:, 0].mean() > 0.05, "exp(l) hardly differs"
        check_signs_and_shares(file)
        check_model(file, model, int(f.SMALL["model.n_latent"]))
    f.done(what)


def main():
    place = f.Place()
    one = place.simulate("one.h5ad", cells=300, genes=60, factors=3, batches=1)
    three = place.simulate("three.h5ad", cells=310, genes=70, factors=3, batches=3,
                           batch_strength=0.8)
    check(place, one, "one batch", {})
    check(place, three, "no batch_key", {"data.batch_key": None, "model.gene_likelihood": "poisson"})
    check(place, three, "three batches", {"train.seed": "3"})
    check(place, three, "three batches, ZINB, observed library",
          {"model.gene_likelihood": "zinb", "model.use_observed_lib_size": "yes",
           "model.dispersion": "gene-batch"})
    check(place, three, "three batches, two ranks", {"model.init": "scvi"}, ranks=2)


main()
