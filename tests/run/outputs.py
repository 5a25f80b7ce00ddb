#!/usr/bin/env python3
"""What a run leaves behind, key by key: results, copy and append; what each output setting switches; history,
settings, split and log say what happened."""
import configparser
import json
import math
import os
import re

import anndata
import h5py
import numpy as np

import fitting as f
from fitting import ar

HISTORY = ["elbo_train", "elbo_validation", "reconstruction_loss_train",
           "reconstruction_loss_validation", "kl_local_train", "kl_local_validation", "train_loss",
           "validation_loss", "kl_weight", "learning_rate", "seconds", "cells_per_second"]
MATRICES = ["X_scvi", "X_scvi_denoised", "X_scvi_sample_rate"]
LDVAE = ["ldvae_batch_offsets", "ldvae_factors", "ldvae_intercept", "ldvae_loadings"]
CELLS, GENES = 200, 40


def contents(path):
    with f.open_output(path) as file:
        return {key: sorted(file[key]) for key in ("obsm", "varm", "uns")}


def history_of(path):
    with f.open_output(path) as file:
        names, values = f.columns_of(file["uns/atlasvi/history"])
        assert names == HISTORY, names
        return {name: values[:, j] for j, name in enumerate(names)}


def matrix(path, name):
    with f.open_output(path) as file:
        return file["obsm"][name][...]


def refused(result, code, message):
    fault = ar.fault_of(result, code, message)
    assert fault is None, f"{fault}\n{result}"


# ---- results mode ----

def check_results(place, data):
    path = place.fit(data, "results.h5ad", {"model.linear_decoder": "yes",
                                            "train.check_val_every_n_epoch": "3"})
    found = contents(path)
    assert found["obsm"] == MATRICES and found["varm"] == [], found
    assert found["uns"] == ["atlasvi", *LDVAE], found
    table, source = anndata.read_h5ad(path), anndata.read_h5ad(data)
    assert table.X is None and table.shape == source.shape
    assert list(table.obs.columns) == list(source.obs.columns)
    assert (table.obs["label"] == source.obs["label"]).all()
    assert (table.obs_names == source.obs_names).all() and (table.var_names == source.var_names).all()
    for name, columns in zip(MATRICES, (4, GENES, GENES)):
        assert table.obsm[name].shape == (CELLS, columns)
        assert table.obsm[name].dtype == np.float32 and np.isfinite(table.obsm[name]).all()
    ours = table.uns["atlasvi"]
    assert sorted(ours) == ["genes", "history", "input", "result", "settings", "split", "versions"], ours
    assert list(ours["genes"]) == list(source.var_names)
    assert ours["input"]["path"] == data and ours["input"]["size"] == os.path.getsize(data)
    assert len(ours["input"]["names_checksum"]) == 16
    assert "atlasvi" in ours["versions"] and "backend" in ours["versions"]
    split = ours["split"]
    assert split.shape == (CELLS,) and [int((split == k).sum()) for k in (0, 1, 2)] == [180, 20, 0]
    result = ours["result"]
    assert result["cells"] == "validation" and result["n_cells"] == 20
    f.near(result["elbo"], result["reconstruction_loss"] + result["kl_local"], 1e-9, "result")
    loadings = table.uns["ldvae_loadings"]
    assert list(loadings.columns) == [f"Z_{k}" for k in range(4)]
    assert list(loadings.index) == list(source.var_names)
    assert list(table.uns["ldvae_batch_offsets"].columns) == list(source.obs["batch"].cat.categories)
    check_history(history_of(path))
    table.write_h5ad(place.path("again.h5ad"))
    again = anndata.read_h5ad(place.path("again.h5ad"))
    assert (again.obsm["X_scvi"] == table.obsm["X_scvi"]).all()
    f.done("results mode, history, split")
    return path


def check_history(history):
    assert all(len(column) == 4 for column in history.values())
    # every third epoch and the last one are validated
    for name in HISTORY:
        holes = np.isnan(history[name])
        assert list(holes) == ([True, True, False, False] if "validation" in name else [False] * 4)
    f.near(history["kl_weight"], [0, 0.5, 1, 1], 1e-12, "KL weight of two epochs' warm-up")
    f.near(history["learning_rate"], [0.005] * 4, 1e-12, "learning rate")
    for which in ("train", "validation"):
        f.near(history["elbo_" + which],
               history["reconstruction_loss_" + which] + history["kl_local_" + which], 1e-9, which)
    full = history["kl_weight"] == 1
    f.near(history["train_loss"][full], history["elbo_train"][full], 1e-9, "loss at full weight")
    assert (history["train_loss"][:2] < history["elbo_train"][:2]).all()
    assert (history["seconds"] > 0).all()
    f.near(history["cells_per_second"] * history["seconds"], 180 // 64 * 64 + 52, 1e-6, "cells")


def check_settings(place, data, path):
    """The resolved settings are an INI file that makes the same run again."""
    text = anndata.read_h5ad(path).uns["atlasvi"]["settings"]
    parsed = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=";")
    parsed.read_string(text)
    assert parsed["model"]["n_latent"] == "4" and parsed["model"]["gene_likelihood"] == "nb"
    assert parsed["train"]["max_epochs"] == "4" and parsed["data"]["input"] == data
    with open(place.path("again.ini"), "w") as file:
        file.write(text)
    again = place.path("repeated.h5ad")
    result = ar.run([place.path("again.ini"), "output.path=" + again,
                     "output.model=" + place.path("repeated.model.h5")])
    assert result.code == 0, result
    f.near(matrix(again, "X_scvi"), matrix(path, "X_scvi"), 1e-4, "run again", 1e-4)
    f.done("settings make the same run again")


# ---- copy and append ----

def tree(path):
    """Every dataset's bytes and every attribute, by name."""
    found = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            value = item[()]
            found[name] = value.tobytes() if item.dtype.kind in "fiub" else repr(value)
        for key, value in item.attrs.items():
            found[f"{name}@{key}"] = repr(value)

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


def check_copy(place, data):
    before = ar.sha256(data)
    genes = ", ".join(f"gene_{g}" for g in (30, 2, 17, 5, 9, 11, 12, 13, 14, 3))
    path = place.fit(data, "copy.h5ad", {"output.mode": "copy", "model.linear_decoder": "yes",
                                         "data.subset_genes": genes, "data.empty_cells": "nan"})
    assert ar.sha256(data) == before
    old, new = tree(data), tree(path)
    changed = [k for k in old if new.get(k) != old[k]]
    assert not changed, changed
    table = anndata.read_h5ad(path)
    assert table.shape == (CELLS, GENES)
    used = [f"gene_{g}" for g in (30, 2, 17, 5, 9, 11, 12, 13, 14, 3)]
    assert list(table.uns["atlasvi"]["genes"]) == used
    assert list(table.uns["ldvae_loadings"].index) == used
    assert table.obsm["X_scvi_denoised"].shape == (CELLS, len(used))
    whole = table.varm["ldvae_loadings"]
    mine = table.var_names.isin(used)
    assert np.isnan(whole[~mine]).all()
    f.near(whole[[table.var_names.get_loc(g) for g in used]],
           table.uns["ldvae_loadings"].to_numpy(), 1e-7, "varm")
    f.done("copy mode, ten genes in their order")


def check_append(place, data):
    path = place.path("append.h5ad")
    with open(data, "rb") as source, open(path, "wb") as target:
        target.write(source.read())
    os.chmod(path, 0o640)
    link = place.path("link.h5ad")
    os.symlink("append.h5ad", link)
    settings = {"data.input": link, "output.mode": "append", "output.path": None,
                "output.model": place.path("append.model.h5"), "output.denoised": "no",
                "output.sample_rate": "no"}
    result = place.run(settings)
    assert result.code == 0, result
    assert os.path.islink(link) and os.stat(path).st_mode & 0o777 == 0o640
    old, new = tree(data), tree(path)
    assert all(new.get(k) == v for k, v in old.items())
    assert contents(path)["obsm"] == ["X_scvi", "true_z"]
    before = ar.sha256(path)
    refused(place.run({**settings, "output.model": place.path("second.model.h5")}), 73, "X_scvi")
    assert ar.sha256(path) == before
    result = place.run({**settings, "output.overwrite": "yes", "model.n_latent": "3"})
    assert result.code == 0, result
    assert matrix(path, "X_scvi").shape == (CELLS, 3)
    assert sorted(os.listdir(place.folder)).count("append.h5ad") == 1
    f.done("append mode: refused twice, then overwritten")


# ---- what settings switch ----

def check_switches(place, data):
    def outputs(**settings):
        path = place.fit(data, "switch.h5ad", {"output.overwrite": "yes", **settings})
        return contents(path)["obsm"], path

    assert outputs(**{"output.denoised": "no"})[0] == ["X_scvi", "X_scvi_sample_rate"]
    assert outputs(**{"output.sample_rate": "no"})[0] == ["X_scvi", "X_scvi_denoised"]
    assert outputs(**{"output.latent": "no"})[0] == MATRICES[1:]
    _, path = outputs(**{"output.denoised": "no", "output.sample_rate": "no", "output.latent": "no",
                         "output.loadings": "no", "model.linear_decoder": "yes"})
    assert contents(path) == {"obsm": [], "varm": [], "uns": ["atlasvi"]}
    refused(place.run({"data.input": data, "output.path": path}), 73, r"switch\.h5ad.*overwrite")
    f.done("latent, denoised, sample_rate, loadings, overwrite")


def check_samples(place, data):
    """Draws: rho and mu of a draw go together, and their average over many is near the mean path."""
    def fit(name, n):
        return place.fit(data, name, {"output.n_samples": n, "output.overwrite": "yes",
                                      "model.init": "scvi"})

    mean, one, many = fit("mean.h5ad", None), fit("one.h5ad", "1"), fit("many.h5ad", "60")
    assert (matrix(mean, "X_scvi") == matrix(one, "X_scvi")).all()
    ratio = matrix(one, "X_scvi_sample_rate") / matrix(one, "X_scvi_denoised")
    f.near(ratio, np.broadcast_to(ratio[:, :1], ratio.shape), 1e-4, "one draw of l for both")
    far = {}
    for name, path in (("one", one), ("many", many)):
        rho = matrix(path, "X_scvi_denoised")
        f.near(rho.astype(float).sum(axis=1), 1.0, 1e-5, "sum of rho")
        far[name] = np.abs(np.log(rho / matrix(mean, "X_scvi_denoised"))).mean()
    assert 1e-3 < far["many"] < 0.6 * far["one"], far
    f.done("n_samples")


def check_compression(place, data):
    plain = place.fit(data, "plain.h5ad")
    packed = place.fit(data, "packed.h5ad", {"output.compression": "4"})
    with h5py.File(plain) as a, h5py.File(packed) as b:
        for name in MATRICES[1:]:
            assert a["obsm"][name].compression is None
            assert b["obsm"][name].compression == "gzip" and b["obsm"][name].compression_opts == 4
            assert b["obsm"][name].id.get_storage_size() < a["obsm"][name].id.get_storage_size()
            f.near(b["obsm"][name][...], a["obsm"][name][...], 1e-3, name, 1e-6)
    f.done("compression")


def check_empty_cells(place, data):
    table = anndata.read_h5ad(data)
    empty = [0, 7, 113, CELLS - 1]
    counts = table.X.toarray()
    counts[empty] = 0
    path = place.path("empty.h5ad")
    anndata.AnnData(counts, obs=table.obs, var=table.var, dtype=np.float32).write_h5ad(path)
    refused(place.run({"data.input": path, "output.path": place.path("no.h5ad")}), 65,
            r"4 of 200 cells have no counts.*0, 7, 113, 199.*empty_cells")
    for ranks in (0, 2):
        made = place.fit(path, "nan.h5ad", {"data.empty_cells": "nan", "output.overwrite": "yes",
                                            "model.linear_decoder": "yes"}, ranks)
        rows = np.zeros(CELLS, dtype=bool)
        rows[empty] = True
        for name in MATRICES:
            values = matrix(made, name)
            assert np.isnan(values[rows]).all() and np.isfinite(values[~rows]).all(), name
        split = anndata.read_h5ad(made).uns["atlasvi"]["split"]
        assert (split[rows] == -1).all() and (split[~rows] >= 0).all()
        assert (split == 0).sum() == math.ceil(0.9 * (CELLS - 4))
        assert np.isfinite(history_of(made)["elbo_validation"]).all()
    f.done("empty cells")


def check_split_key(place, data):
    table = anndata.read_h5ad(data)
    says = np.array(["train", "validation", "test"])[np.arange(CELLS) % 4 % 3]
    table.obs["part"] = says
    path = place.path("parts.h5ad")
    table.write_h5ad(path)
    made = place.fit(path, "split.h5ad", {"train.split_key": "part"})
    split = anndata.read_h5ad(made).uns["atlasvi"]["split"]
    assert [["train", "validation", "test"][s] for s in split] == list(says)
    f.done("split_key")


def check_plan(place, data):
    """`atlasvi check` shows what the model will see, and finds what a run would stop at."""
    table = anndata.read_h5ad(data)
    table.obs["age"] = np.linspace(0, 1, CELLS)
    table.obs["sizes"] = 1.5
    path = place.path("plan.h5ad")
    table.write_h5ad(path)

    def plan(**settings):
        merged = {**f.SMALL, "data.input": path, "output.path": place.path("none.h5ad"), **settings}
        return ar.run(["check", ar.write_ini(place.path("plan.ini"), merged)])

    shown = plan(**{"data.categorical_covariate_keys": "label", "data.size_factor_key": "sizes",
                    "data.continuous_covariate_keys": "age"})
    assert shown.code == 0, shown
    for line in (r"covariate +obs\[label\], \d+ categories", r"covariate +obs\[age\], continuous",
                 r"size factors +obs\[sizes\]"):
        assert re.search("\n  " + line + "\n", shown.out), (line, shown)
    assert not re.search("covariate  |size factors  ", plan().out)

    def memory(**settings):
        text = plan(**{"runtime.backend": "cpu", "model.n_hidden": "4096", **settings}).out
        return float(re.search(r"model ([0-9.]+) MiB", text).group(1))

    plain = memory()
    # a copy of the parameters is 8 bytes each; gradients in double are 4 more
    copy = memory(**{"train.keep": "best"}) - plain
    wider = memory(**{"runtime.reproducible": "strict"}) - plain
    assert wider > 1 and 1.8 < copy / wider < 2.3, (plain, copy, wider)
    whole = {"train.train_size": "1.0"}
    refused(plan(**whole, **{"train.early_stopping": "yes"}), 78,
            r"\[train\] early_stopping: elbo_validation needs validation cells")
    assert plan(**whole, **{"train.early_stopping": "yes",
                            "train.early_stopping_monitor": "elbo_train"}).code == 0
    for key in ("categorical_covariate_keys", "continuous_covariate_keys", "size_factor_key"):
        refused(plan(**{"data." + key: "agee"}), 78,
                r'\[data\] %s: .*has no column "agee"; did you mean "age"' % key)
    refused(plan(**{"data.counts": "layers/"}), 78, r"\[data\] counts: .*names no layer")
    assert not os.path.exists(place.path("none.h5ad"))
    f.done("check: covariates, memory, early stopping")


def check_log(place, data):
    log = place.path("run.jsonl")
    path = place.fit(data, "logged.h5ad", {"runtime.log": log, "train.train_size": "1.0"}, ranks=2)
    events = [json.loads(line) for line in open(log)]
    epochs = [e for e in events if e["event"] == "epoch"]
    history = history_of(path)
    assert [e["epoch"] for e in epochs] == [1, 2, 3, 4]
    f.near([e["elbo_train"] for e in epochs], history["elbo_train"], 1e-12, "log")
    # no validation cells: nothing to show, and the result is of the training cells
    assert np.isnan(history["elbo_validation"]).all()
    assert all(e["elbo_validation"] is None for e in epochs)
    result = next(e for e in events if e["event"] == "result")
    assert result["cells"] == "training" and result["n_cells"] == CELLS
    f.near(result["elbo"], result["reconstruction_loss"] + result["kl_local"], 1e-9, "result")
    with f.open_output(path) as file:
        written = file["uns/atlasvi/result"]
        assert f.text_of(written["cells"]) == "training" and written["n_cells"][()] == CELLS
        assert written["elbo"][()] == result["elbo"]
    kinds = [e["event"] for e in events]
    assert kinds[0] == "start" and kinds[-1] == "end" and kinds.count("output") == 2
    told = next(e for e in events if e["event"] == "communication")
    assert told["ranks"] == 2 and told["operations"] > 2 and told["bytes_mean"] > 1000
    assert 0 < told["seconds_min"] <= told["seconds_max"] < told["step_seconds"]
    assert told["timed"] == "operations" and told["ahead_seconds"] > 0 and told["waited_seconds"] >= 0
    assert events[0]["ranks"] == 2 and all("time" in e for e in events)
    place.fit(data, "logged.h5ad", {"runtime.log": log, "output.overwrite": "yes"})
    assert len(open(log).readlines()) > len(events), "a second run is added to the log"
    failed = place.run({"data.input": data, "output.path": place.path("logged.h5ad"),
                        "runtime.log": log})
    refused(failed, 73, "logged.h5ad")
    last = json.loads(open(log).readlines()[-1])
    assert last["event"] == "error" and last["status"] == 73 and "logged.h5ad" in last["message"]
    f.done("log; train_size 1.0")


def main():
    place = f.Place()
    data = place.simulate("data.h5ad", cells=CELLS, genes=GENES, factors=3, batches=2)
    path = check_results(place, data)
    check_copy(place, data)
    check_append(place, data)
    check_switches(place, data)
    check_samples(place, data)
    check_compression(place, data)
    check_empty_cells(place, data)
    check_split_key(place, data)
    check_plan(place, data)
    check_log(place, data)
    check_settings(place, data, path)


main()
