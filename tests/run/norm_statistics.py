#!/usr/bin/env python3
"""batch_norm_statistics = recomputed: the statistics saved with a model are those of all its training cells, worked
out here from its weights and the counts; the weights are those of a run without it; any ranks give the same."""
import anndata
import numpy as np

import fitting as f

RECOMPUTED = {"train.batch_norm_statistics": "recomputed"}
# 513 training cells: minibatches of 512 would leave one over
SETTINGS = {"train.train_size": "513", "model.n_layers": "2", "train.lr": "0.02", "output.denoised": "no",
            "output.sample_rate": "no", "output.overwrite": "yes"}
EPS = 1e-3


def moments(x):
    return x.mean(axis=0), x.var(axis=0, ddof=1)


def training_rows(path):
    with f.open_output(path) as file:
        rows = np.flatnonzero(file["uns/atlasvi/split"][...] == 0)
        codes = f.categories(file["obs"], "batch")[1]
    assert len(rows) == 513
    return rows, codes


def check_encoder(saved, counts, stem, tolerance):
    """Layer after layer, each with the statistics of those before it."""
    x = np.log1p(counts)
    for layer in range(2):
        at = f"{stem}.encoder.fc_layers.Layer {layer}"
        if f"{at}.0.weight" not in saved:
            assert layer == 1 and stem == "l_encoder"
            return
        x = x @ saved[f"{at}.0.weight"].T.astype(float) + saved[f"{at}.0.bias"]
        mean, variance = moments(x)
        f.near(saved[f"{at}.1.running_mean"], mean, tolerance, f"{at}: mean", tolerance)
        f.near(saved[f"{at}.1.running_var"], variance, tolerance, f"{at}: variance", tolerance)
        x = (x - saved[f"{at}.1.running_mean"]) / np.sqrt(saved[f"{at}.1.running_var"] + EPS)
        x = np.maximum(x * saved[f"{at}.1.weight"] + saved[f"{at}.1.bias"], 0.0)


def check_linear_decoder(saved, codes, z_mean, tolerance):
    """mean = W m and variance = w' C w for some m, C whose parts that belong to the batches are known; m's others are
    the mean of one draw of z a cell."""
    at = "decoder.factor_regressor.fc_layers.Layer 0"
    w = saved[f"{at}.0.weight"].astype(float)
    n, share = len(codes), np.bincount(codes) / len(codes)
    n_latent = w.shape[1] - len(share)
    m, left = np.linalg.lstsq(w, saved[f"{at}.1.running_mean"], rcond=None)[:2]
    assert left.size == 1 and left[0] < tolerance**2 * len(w), left
    f.near(m[n_latent:], share, 0, "shares of the batches", tolerance)
    f.near(m[:n_latent], z_mean.mean(axis=0), 0, "mean of z", 0.3)
    upper = np.triu_indices(w.shape[1])
    products = np.stack([np.outer(row, row)[upper] for row in w]) * np.where(upper[0] == upper[1], 1, 2)
    c, left = np.linalg.lstsq(products, saved[f"{at}.1.running_var"] * (n - 1) / n, rcond=None)[:2]
    assert left.size == 1 and left[0] < tolerance**2 * len(w), left
    covariance = np.zeros((w.shape[1],) * 2)
    covariance[upper] = c
    f.near(np.triu(covariance)[n_latent:, n_latent:], np.triu(np.diag(share) - np.outer(share, share)), 0,
           "covariance of the batches", 100 * tolerance)


def check_values(place, data, counts):
    exact = {**SETTINGS, **RECOMPUTED, "runtime.backend": "reference"}
    for what, settings in (
            ("scVI", {}),
            # random columns of the batches: those that start at 0 always add up to 0
            ("LDVAE", {"model.linear_decoder": "yes", "model.n_latent": "3", "model.init": "scvi"}),
            ("keep = best", {"train.keep": "best", "train.max_epochs": "10", "train.lr": "0.2"}),
            ("early stopping", {"train.early_stopping": "yes", "train.early_stopping_patience": "1",
                                "train.max_epochs": "20", "train.lr": "0.2"})):
        path = place.fit(data, "fit.h5ad", {**exact, **settings})
        saved = f.tensors_of(place.path("fit.model.h5"))
        rows, codes = training_rows(path)
        for stem in ("z_encoder", "l_encoder"):
            if f"{stem}.mean_encoder.bias" in saved:
                check_encoder(saved, counts[rows], stem, 1e-9)
        if what == "LDVAE":
            with f.open_output(path) as file:
                check_linear_decoder(saved, codes[rows], file["obsm/X_scvi"][...][rows], 1e-8)
        if what == "early stopping":
            with f.open_output(path) as file:
                assert len(file["uns/atlasvi/history/elbo_train"]) < 20
        f.done(what)


def check_option(place, data):
    """It changes the statistics only, and nothing of a model that is applied."""
    for model in ({}, {"model.linear_decoder": "yes", "model.latent_distribution": "ln"}):  # ln: no signs to flip
        place.fit(data, "plain.h5ad", {**SETTINGS, **model, "train.batch_norm_statistics": "running"})
        place.fit(data, "fit.h5ad", {**SETTINGS, **model})  # the default
        plain, saved = (f.tensors_of(place.path(f"{name}.model.h5")) for name in ("plain", "fit"))
        for name, value in saved.items():
            moved = not np.array_equal(value, plain[name])
            assert moved == name.endswith(("running_mean", "running_var")), f"{name}: moved is {moved}"
        place.fit(data, "applied.h5ad", {**RECOMPUTED, "model.load": place.path("plain.model.h5"), "output.overwrite": "yes",
                                         "train.max_epochs": "0", "output.model": place.path("applied.model.h5")})
        applied = f.tensors_of(place.path("applied.model.h5"))
        assert all(np.array_equal(applied[name], value) for name, value in plain.items()), "an applied model changed"
    f.done("statistics alone")


def check_ranks(place, data):
    for model in ({}, {"model.linear_decoder": "yes"}):
        strict = {**SETTINGS, **RECOMPUTED, **model, "runtime.backend": "cpu", "runtime.reproducible": "strict"}
        place.fit(data, "one.h5ad", strict)
        one = f.tensors_of(place.path("one.model.h5"))
        for ranks in (2, 3):
            place.fit(data, "more.h5ad", strict, ranks)
            more = f.tensors_of(place.path("more.model.h5"))
            assert all(np.array_equal(more[name], value) for name, value in one.items()), f"{ranks} ranks differ"
    f.done("1, 2 and 3 ranks")


def main():
    place = f.Place()
    data = place.simulate("data.h5ad", cells=570, genes=40, factors=3, batches=2, seed=5)
    counts = anndata.read_h5ad(data).X.toarray().astype(float)
    check_values(place, data, counts)
    check_option(place, data)
    check_ranks(place, data)


main()
