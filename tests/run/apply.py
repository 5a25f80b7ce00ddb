#!/usr/bin/env python3
"""A saved model applied to another file: genes, batches, covariates and labels are matched by name; the same cells get the same
codes; what does not fit is refused; training goes on from where it was."""
import os

import anndata
import numpy as np

import fitting as f
from fitting import ar

TOLERANCE = 1e-5
MATRICES = ("X_scvi", "X_scvi_denoised", "X_scvi_sample_rate")


def other_file(place, data, name, keep, extra_genes=7, drop=None, rename=None):
    """Cells `keep` of a file, its genes in another order and with strangers among them; batch categories in
    another order. `drop`: a gene left out; `rename`: (old, new) batch."""
    source = anndata.read_h5ad(data)[keep].copy()
    rng = np.random.default_rng(4)
    genes = [g for g in source.var_names if g != drop]
    strangers = [f"stranger_{i}" for i in range(extra_genes)]
    order = rng.permutation(genes + strangers)
    x = np.zeros((len(keep), len(order)), dtype=np.float32)
    counts = source.X.toarray()
    for j, gene in enumerate(order):
        x[:, j] = (rng.poisson(3.0, len(keep)) if gene in strangers
                   else counts[:, source.var_names.get_loc(gene)])
    obs = source.obs[["batch"]].astype(str)
    if rename is not None:
        obs["batch"] = obs["batch"].replace(*rename)
    obs["batch"] = obs["batch"].astype("category")
    obs["batch"] = obs["batch"].cat.reorder_categories(sorted(obs["batch"].cat.categories)[::-1])
    made = anndata.AnnData(x, obs=obs, dtype=np.float32)
    made.var_names = order
    made.var["highly_variable"] = rng.random(len(order)) < 0.5  # the model's genes count, not this
    made.write_h5ad(place.path(name))
    return place.path(name)


def matrices(path, rows=slice(None)):
    with f.open_output(path) as file:
        genes = [g if isinstance(g, str) else g.decode() for g in file["uns/atlasvi/genes"][...]]
        return {name: file["obsm"][name][...][rows] for name in MATRICES}, genes


def same(first, second, what):
    for name in MATRICES:
        scale = 1.0 if name == "X_scvi" else 0.0
        f.near(second[name], first[name], TOLERANCE * 10, f"{what}: {name}", TOLERANCE * scale)


def check_apply(place, data, what, model):
    fitted = place.fit(data, "fitted.h5ad", {**model, "output.overwrite": "yes"})
    saved = place.path("fitted.model.h5")
    with f.open_output(fitted) as file:
        levels, codes = f.categories(file["obs"], "batch")
    assert len(levels) == 3
    # cells of two of the three batches, out of order
    keep = np.random.default_rng(1).permutation(np.flatnonzero(codes != 1))[:90]
    other = other_file(place, data, "other.h5ad", keep)
    before = ar.sha256(saved)
    applied = place.fit(other, "applied.h5ad",
                        {"model.load": saved, "train.max_epochs": "0", "train.lr": None,
                         "model.n_latent": None, "model.n_hidden": None,
                         "output.overwrite": "yes"})
    first, genes = matrices(fitted, keep)
    second, applied_genes = matrices(applied)
    assert applied_genes == genes, "genes in the model's order"
    same(first, second, what)
    assert ar.sha256(saved) == before
    assert not os.path.exists(place.path("applied.model.h5")), "an applied model is not saved again"
    with f.open_output(applied) as file:
        assert "history" not in file["uns/atlasvi"]
        assert ("ldvae_loadings" in file["uns"]) == ("ldvae_loadings" in f.open_output(fitted)["uns"])
        if "ldvae_batch_offsets" in file["uns"]:
            assert f.columns_of(file["uns/ldvae_batch_offsets"])[0] == levels
    two = place.fit(other, "two.h5ad", {"model.load": saved, "train.max_epochs": "0",
                                        "output.overwrite": "yes"}, ranks=2)
    same(second, matrices(two)[0], what + ", two ranks")
    f.done(what)
    return fitted, saved


def refused(place, what, settings, code, message, ranks=0, check=False):
    settings = {"output.path": place.path("refused.h5ad"), "train.max_epochs": "0", **settings}
    if check:
        merged = {k: v for k, v in {**f.SMALL, **settings}.items() if v is not None}
        result = ar.run(["check", ar.write_ini(place.path("run.ini"), merged)])
    else:
        result = place.run(settings, ranks)
    fault = ar.fault_of(result, code, message)
    assert fault is None, f"{what}: {fault}\n{result}"
    assert not os.path.exists(place.path("refused.h5ad"))
    f.done(what)


def check_refusals(place, data, saved):
    keep = np.arange(60)
    unknown = other_file(place, data, "unknown.h5ad", keep, rename=("batch_2", "batch_9"))
    refused(place, "an unknown batch", {"data.input": unknown, "model.load": saved}, 65,
            r'unknown\.h5ad: batch "batch_9" is not one the model knows \(batch_0, batch_1, batch_2\); rename it, or leave its cells out$')
    lacking = other_file(place, data, "lacking.h5ad", keep, drop="gene_11")
    refused(place, "a missing gene", {"data.input": lacking, "model.load": saved}, [65, 78],
            r"gene_11")
    whole = {"data.input": data, "model.load": saved}
    refused(place, "other settings", {**whole, "model.n_latent": "5"}, 78,
            r"run\.ini:\d+: \[model\] n_latent: .*fitted\.model\.h5")
    refused(place, "no batch_key", {**whole, "data.batch_key": None}, 78,
            r"the model has 3 batches; .*batch_key")
    fewer = ", ".join(f"gene_{g}" for g in range(1, 60))
    refused(place, "fewer genes", {**whole, "data.subset_genes": fewer}, 78,
            r"the model has 60 genes, the data 59")
    refused(place, "genes in another order", {**whole, "data.subset_genes": fewer + ", gene_0"}, 78,
            r"gene 0 of the model is gene_0, but the data gives gene_1 there")
    refused(place, "no such model", {"data.input": data, "model.load": place.path("none.h5")}, 66,
            r"none\.h5: no such file")
    refused(place, "not a model", {"data.input": data, "model.load": data}, 65,
            r"not a model saved by atlasvi")


# ---- covariates, size factors, labels ----

FULL = {"data.categorical_covariate_keys": "sex, site", "data.continuous_covariate_keys": "age"}


def with_columns(place, data, name):
    """The file with two categorical covariates, a continuous one, size factors and cell states."""
    table = anndata.read_h5ad(data)
    rng = np.random.default_rng(5)
    table.obs["sex"] = np.array(["male", "female"])[rng.integers(0, 2, table.n_obs)]
    table.obs["site"] = np.array(["x", "y", "z"])[rng.integers(0, 3, table.n_obs)]
    table.obs["age"] = rng.normal(0, 1, table.n_obs)
    table.obs["sizes"] = np.asarray(table.X.sum(axis=1)).ravel() / 300
    table.obs["state"] = np.array(["T", "B"])[rng.integers(0, 2, table.n_obs)]
    table.write_h5ad(place.path(name))
    return place.path(name)


def part_of(place, data, name, keep, change=None):
    """Cells `keep` with every category in another order; `change` edits obs."""
    table = anndata.read_h5ad(data)[keep].copy()
    for column in ("batch", "sex", "site", "state"):
        values = table.obs[column].astype(str)
        table.obs[column] = values.astype("category").cat.reorder_categories(
            sorted(values.unique())[::-1])
    if change is not None:
        change(table.obs)
    table.write_h5ad(place.path(name))
    return place.path(name)


def check_covariates(place, data):
    fitted = place.fit(data, "cov.h5ad", {**FULL, "model.linear_decoder": "yes",
                                          "model.encode_covariates": "yes"})
    apply = {"model.load": place.path("cov.model.h5"), "train.max_epochs": "0",
             "output.overwrite": "yes"}
    obs = anndata.read_h5ad(data).obs
    keep = np.flatnonzero((obs["site"] != "y").to_numpy())[::-1][:80]  # two of three sites
    first, _ = matrices(fitted, keep)
    other = part_of(place, data, "cov_part.h5ad", keep)
    for what, settings in (
            ("keys of the model", {}),
            ("keys in another order", {"data.categorical_covariate_keys": "site, sex",
                                       "data.continuous_covariate_keys": "age"})):
        applied = place.fit(other, "cov_applied.h5ad", {**apply, **settings}, ranks=2)
        same(first, matrices(applied)[0], "covariates by name, " + what)
        with f.open_output(applied) as file, f.open_output(fitted) as old:
            names, offsets = f.columns_of(file["uns/ldvae_covariate_offsets"])
            old_names, old_offsets = f.columns_of(old["uns/ldvae_covariate_offsets"])
            assert names == old_names and (offsets == old_offsets).all()
    f.done("covariates of an applied model")
    more = place.fit(other, "cov_more.h5ad", {**apply, "train.max_epochs": "2"})
    assert os.path.exists(place.path("cov_more.model.h5"))
    assert np.isfinite(losses(more)).all()

    def sex_x(table):
        table["sex"] = table["sex"].astype(str).replace("male", "other")

    unknown = {"data.input": part_of(place, data, "cov_x.h5ad", keep, sex_x), **apply}
    refused(place, "an unknown category", unknown, 65,
            r'cov_x\.h5ad: obs\[sex\] "other" is not one the model knows \(female, male\); rename it, or leave its cells out$')
    refused(place, "an unknown category, two ranks", unknown, 65, r'obs\[sex\] "other"', ranks=2)
    refused(place, "an unknown category, check", unknown, 65, r'obs\[sex\] "other"', check=True)
    refused(place, "a missing column", {
        "data.input": part_of(place, data, "cov_lack.h5ad", keep, lambda t: t.drop(
            columns="age", inplace=True)), **apply}, 78,
            r'run\.ini:\d+: \[model\] load \(its continuous_covariate_keys\): .*obs has no column "age"')
    refused(place, "other covariates", {"data.input": other, **apply,
                                        "data.categorical_covariate_keys": "sex"}, 78,
            r"run\.ini:\d+: \[data\] categorical_covariate_keys: .*other covariates \(sex, site\)")
    refused(place, "batch_key is a covariate", {"data.input": other, **apply, "data.batch_key": "sex"},
            78, r'run\.ini:\d+: \[model\] load \(its categorical_covariate_keys\): "sex" is the batch_key already; batch_key must '
            r"name another column$")


def check_size_factors(place, data):
    fitted = place.fit(data, "size.h5ad", {"data.size_factor_key": "sizes",
                                           "model.linear_decoder": "yes"})
    keep = np.arange(0, 400, 5)
    other = part_of(place, data, "size_part.h5ad", keep)
    apply = {"data.input": other, "model.load": place.path("size.model.h5")}
    applied = place.fit(other, "size_applied.h5ad", {**apply, "train.max_epochs": "0",
                                                     "data.size_factor_key": "sizes"})
    same(matrices(fitted, keep)[0], matrices(applied)[0], "size factors")
    refused(place, "no size factors", apply, 78,
            r"size\.model\.h5: the model was fitted with size factors \(obs\[sizes\]\); .*size_factor_key")
    f.done("size factors of an applied model")


def check_labels(place, data):
    """dispersion = gene-label: labels by name; without them rho, mu and codes are there all the same."""
    fitted = place.fit(data, "label.h5ad", {"data.labels_key": "state",
                                            "model.dispersion": "gene-label"})
    keep = np.arange(1, 400, 5)
    first, _ = matrices(fitted, keep)
    apply = {"model.load": place.path("label.model.h5"), "train.max_epochs": "0",
             "output.overwrite": "yes"}

    def plasma(table):
        table["state"] = table["state"].astype(str).replace("B", "plasma")

    known = part_of(place, data, "label_known.h5ad", keep)
    strange = part_of(place, data, "label_strange.h5ad", keep, plasma)
    for what, other, settings in (("known labels", known, {"data.labels_key": "state"}),
                                  ("no labels", known, {}),
                                  ("unknown labels", strange, {"data.labels_key": "state"})):
        for ranks in (0, 2):
            applied = place.fit(other, "label_applied.h5ad", {**apply, **settings}, ranks)
            same(first, matrices(applied)[0], what)
    further = {"model.load": apply["model.load"], "train.max_epochs": "1"}
    refused(place, "further training, no labels", {"data.input": known, **further}, 78,
            r"dispersion is by label: .*labels_key")
    refused(place, "further training, unknown labels",
            {"data.input": strange, **further, "data.labels_key": "state"}, 65,
            r'label obs\[state\] "plasma" is not one the model knows \(B, T\); rename it')
    f.done("labels of an applied model")


def losses(path):
    with f.open_output(path) as file:
        names, values = f.columns_of(file["uns/atlasvi/history"])
        return values[:, names.index("elbo_train")]


def check_continue(place, data, saved, fitted, model):
    """Training goes on: from the fitted values, not from the start."""
    more = place.fit(data, "more.h5ad", {"model.load": saved, "train.max_epochs": "3",
                                         "train.n_epochs_kl_warmup": "0", **model})
    first, then = losses(fitted), losses(more)
    assert len(then) == 3
    assert then[0] < first[0] - 0.5 * (first[0] - first[-1]), (first, then)
    assert os.path.exists(place.path("more.model.h5"))
    assert np.abs(matrices(more)[0]["X_scvi"] - matrices(fitted)[0]["X_scvi"]).max() > 1e-3
    f.done("training goes on from a saved model")


def main():
    place = f.Place()
    data = place.simulate("data.h5ad", cells=400, genes=60, factors=3, batches=3)
    check_apply(place, data, "scVI, observed library",
                {"model.gene_likelihood": "nb", "model.n_layers": "2"})
    check_apply(place, data, "LDVAE, ZINB by batch",
                {"model.linear_decoder": "yes", "model.gene_likelihood": "zinb",
                 "model.dispersion": "gene-batch"})
    linear = {"model.linear_decoder": "yes"}
    fitted, saved = check_apply(place, data, "LDVAE", linear)
    check_refusals(place, data, saved)
    check_continue(place, data, saved, fitted, {})
    full = with_columns(place, data, "full.h5ad")
    check_covariates(place, full)
    check_size_factors(place, full)
    check_labels(place, full)


main()
