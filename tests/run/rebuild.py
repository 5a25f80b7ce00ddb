#!/usr/bin/env python3
"""The loadings, intercept and the offsets of batches and covariates in an output are the decoder: from them,
X_scvi and obs alone every rho is rebuilt; signs and variance shares follow their rules; the saved model says
the same."""
import anndata
import h5py
import numpy as np
import pandas as pd

import fitting as f


def covariate_rows(obs, names):
    """For each cell a row over columns named "sex: female" (an indicator) or "age" (the number)."""
    columns = []
    for name in names:
        key, _, category = name.partition(": ")
        columns.append(obs[key].astype(str) == category if category else obs[key])
    return np.column_stack(columns).astype(float)


def rebuild(file, obs, softplus):
    """softmax(z L^T + O[batch] + x V^T + c), in double, from nothing but this file."""
    _, loadings = f.columns_of(file["uns/ldvae_loadings"])
    logits = file["obsm/X_scvi"][...].astype(float) @ loadings.T.astype(float)
    logits += file["uns/ldvae_intercept"][...].astype(float)
    if "ldvae_batch_offsets" in file["uns"]:
        names, offsets = f.columns_of(file["uns/ldvae_batch_offsets"])
        levels, codes = f.categories(file["obs"], "batch")
        logits += offsets.T.astype(float)[[names.index(levels[c]) for c in codes]]
    if "ldvae_covariate_offsets" in file["uns"]:
        names, offsets = f.columns_of(file["uns/ldvae_covariate_offsets"])
        logits += covariate_rows(obs, names) @ offsets.T.astype(float)
    if softplus:
        return np.logaddexp(0, logits)
    logits -= logits.max(axis=1, keepdims=True)
    rho = np.exp(logits)
    return rho / rho.sum(axis=1, keepdims=True)


def check_signs_and_shares(file):
    names, loadings = f.columns_of(file["uns/ldvae_loadings"])
    loadings = loadings.astype(float)
    weight = file["obsm/X_scvi_denoised"][...].astype(float).mean(axis=0)
    weight /= weight.sum()  # with size factors rho is no share
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


def check_model(file, model, n_latent, n_continuous):
    """The same tables from scvi-tools' tensors in the saved model: columns of the weight are factors,
    continuous covariates, batches, categories."""
    prefix = "arrays/decoder.factor_regressor.fc_layers.Layer 0."
    weight = model[prefix + "0.weight"][...].astype(float)
    bias = model[prefix + "0.bias"][...].astype(float) if prefix + "0.bias" in model else 0.0
    scale, shift = np.ones(len(weight)), bias
    if prefix + "1.weight" in model:
        gamma, beta, mean, variance = (
            model[prefix + "1." + name][...].astype(float)
            for name in ("weight", "bias", "running_mean", "running_var"))
        scale = gamma / np.sqrt(variance + 1e-3)
        shift = beta + scale * (bias - mean)
    _, loadings = f.columns_of(file["uns/ldvae_loadings"])
    f.near(loadings, scale[:, None] * weight[:, :n_latent], 1e-5, "loadings", 1e-6)
    f.near(file["uns/ldvae_intercept"][...], shift, 1e-5, "intercept", 1e-5)
    others = scale[:, None] * weight[:, n_latent:]
    at, left = n_continuous, weight.shape[1] - n_latent
    if "ldvae_batch_offsets" in file["uns"]:
        _, offsets = f.columns_of(file["uns/ldvae_batch_offsets"])
        f.near(offsets, others[:, at:at + offsets.shape[1]], 1e-5, "batch offsets", 1e-6)
        at += offsets.shape[1]
    if left > at or n_continuous:
        _, offsets = f.columns_of(file["uns/ldvae_covariate_offsets"])
        f.near(offsets, np.hstack([others[:, :n_continuous], others[:, at:]]), 1e-5,
               "covariate offsets", 1e-6)
        assert (np.abs(offsets).max(axis=0) > 1e-3).all(), "offsets of no weight"
        assert f.index_of(file["uns/ldvae_covariate_offsets"]) == \
            f.index_of(file["uns/ldvae_loadings"]), "genes"
    else:
        assert "ldvae_covariate_offsets" not in file["uns"]


def check(place, data, what, settings, ranks=0, covariates=None):
    """covariates: the columns that uns/ldvae_covariate_offsets must have."""
    output = place.fit(data, what + ".h5ad", {"model.linear_decoder": "yes", **settings}, ranks)
    obs = anndata.read_h5ad(output).obs
    sizes = settings.get("data.size_factor_key")
    n_continuous = len([c for c in covariates or [] if ": " not in c])
    with f.open_output(output) as file, h5py.File(output.replace(".h5ad", ".model.h5")) as model, \
            h5py.File(data) as source:
        denoised = file["obsm/X_scvi_denoised"][...]
        assert denoised.dtype == np.float32 and (denoised > 0).all()
        f.near(rebuild(file, obs, sizes is not None), denoised, 1e-4, "rho rebuilt")
        if covariates is not None:
            assert f.columns_of(file["uns/ldvae_covariate_offsets"])[0] == covariates
        if sizes is None:
            f.near(denoised.astype(float).sum(axis=1), 1.0, 1e-5, "sum of rho")
        ratio = file["obsm/X_scvi_sample_rate"][...].astype(float) / denoised
        f.near(ratio, np.broadcast_to(ratio[:, :1], ratio.shape), 1e-4, "exp(l) along a row")
        if sizes is not None:
            f.near(ratio[:, 0], obs[sizes], 1e-4, "exp(l) is the size factor")
        elif settings.get("model.use_observed_lib_size") == "yes":
            counts = np.add.reduceat(source["X/data"][...], source["X/indptr"][:-1])
            f.near(ratio[:, 0], counts, 1e-4, "exp(l) is the observed total")
        else:
            assert ratio[:, 0].std() / ratio[:, 0].mean() > 0.05, "exp(l) hardly differs"
        check_signs_and_shares(file)
        check_model(file, model, int(f.SMALL["model.n_latent"]), n_continuous)
    f.done(what)


def with_covariates(place, data, name):
    """The file with two categorical covariates, one of a single category, two continuous, size factors."""
    table = anndata.read_h5ad(data)
    n = table.n_obs
    rng = np.random.default_rng(11)
    table.obs["sex"] = np.array(["male", "female"])[rng.integers(0, 2, n)]
    table.obs["site"] = pd.Categorical.from_codes(rng.integers(0, 3, n),
                                                                ["north/1", "south", "east: far"])
    table.obs["all"] = "same"
    table.obs["age"] = rng.normal(0, 1, n)
    table.obs["days"] = rng.integers(-2, 3, n)
    table.obs["sizes"] = np.asarray(table.X.sum(axis=1)).ravel() / 300
    table.write_h5ad(place.path(name))
    return place.path(name)


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
    full = with_covariates(place, three, "full.h5ad")
    keys = {"data.categorical_covariate_keys": "sex, all", "data.continuous_covariate_keys": "age"}
    sexes = ["sex: female", "sex: male"]
    check(place, full, "covariates", keys, covariates=["age", *sexes])
    check(place, full, "two numbers and sizes, two ranks",
          {"data.continuous_covariate_keys": "days, age", "data.size_factor_key": "sizes"}, ranks=2,
          covariates=["days", "age"])
    check(place, full, "covariates, no batch, encoded, gene-cell",
          {**keys, "data.batch_key": None, "model.encode_covariates": "yes",
           "model.dispersion": "gene-cell"}, covariates=["age", *sexes])
    check(place, full, "covariates, bias, no BatchNorm in the decoder",
          {**keys, "model.bias": "yes", "model.use_batch_norm": "encoder"}, covariates=["age", *sexes])
    # names that HDF5 cannot link are changed, and said
    path = place.fit(full, "site.h5ad", {"model.linear_decoder": "yes",
                                         "data.categorical_covariate_keys": "sex, site",
                                         "data.continuous_covariate_keys": "age"})
    with f.open_output(path) as file:
        names, offsets = f.columns_of(file["uns/ldvae_covariate_offsets"])
        assert names == ["age", *sexes, "site: north_1", "site: south", "site: east: far"], names
        assert offsets.shape == (70, 6)
        obs = anndata.read_h5ad(path).obs
        obs["site"] = obs["site"].astype(str).replace("north/1", "north_1")
        f.near(rebuild(file, obs, False), file["obsm/X_scvi_denoised"][...], 1e-4, "two factors")
    f.done("two categorical covariates and one continuous")


main()
