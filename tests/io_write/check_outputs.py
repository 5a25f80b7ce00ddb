"""Reads outputs with this python's anndata and compares them with what was asked for.

check_outputs.py CASES.json, a list of {"output", "input", "truth", "mode", "genes", "columns",
"wide", "unknown"}: truth is the modern file whose obs and var the input shares; columns the obs
columns that the output must have; unknown: the input holds what anndata cannot read.
"""
import json
import sys
import warnings
from importlib.metadata import version

import anndata
import h5py
import numpy as np
import pandas as pd
from pandas.testing import assert_frame_equal, assert_series_equal


def read(path):
    """The file, and the set of warnings that reading it gave."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = anndata.read_h5ad(path)
    return data, {(w.category.__name__, str(w.message)) for w in caught}


def used_genes(truth, kind):
    names = list(truth.var_names)
    if kind == "some":
        return names[::3][::-1]
    return list(truth.raw.var_names) if kind == "raw" else names


def check_obs(got, truth, columns):
    assert list(got.columns) == columns, list(got.columns)
    assert list(got.index) == list(truth.index)
    for c in columns:
        if c in truth:
            assert_series_equal(got[c], truth[c], check_names=False, check_index=False)
    n = np.arange(len(got))
    if "reversed" in columns:  # codes 0, 1, 0, ... of an enum in which 0 is TRUE
        assert got["reversed"].dtype == bool and (got["reversed"] == (n % 2 == 0)).all()
        words = [f"w{i % 4}" for i in n]
        assert list(got["words"].astype(str)) == words
        gaps = got["words_gaps"]
        assert (gaps.isna() == (n % 4 == 1)).all()
        present = [w for i, w in enumerate(words) if i % 4 != 1]
        assert list(gaps[~gaps.isna()].astype(str)) == present
        assert list(got["wide_codes"].astype(str)) == ["xyz"[i % 3] for i in n]
        assert (got["latin"].astype(str) == "café").all()


def check_var(got, truth, genes):
    assert list(got.index) == genes
    known = [g in truth.index for g in genes]
    rows = truth.loc[[g for g in genes if g in truth.index]]
    if all(known):
        assert_frame_equal(got, rows, check_names=False)
        return
    assert list(got.columns) == list(truth.columns)
    for c in got.columns:
        assert got[c][known].astype(object).tolist() == rows[c].astype(object).tolist(), c
        assert got[c][~np.array(known)].isna().all(), c


def check_ours(data, genes, case):
    n, g = data.n_obs, len(genes)
    cell, gene = np.arange(n)[:, None], np.arange(g)[None, :]
    expected = (cell + gene / 256).astype(np.float32)
    expected[(cell + gene) % 97 == 0] = np.nan
    latent = (cell + np.arange(3)[None, :] / 16).astype(np.float32)
    for key, value in (("X_scvi", latent), ("X_scvi_denoised", expected),
                       ("X_scvi_sample_rate", -expected)):
        got = data.obsm[key]
        assert isinstance(got, np.ndarray) and got.dtype == np.float32, (key, got.dtype)
        np.testing.assert_array_equal(got, value, err_msg=key)
    if case["wide"]:
        wide = (cell * 1000 + np.arange(case["wide"])[None, :]).astype(np.float32)
        np.testing.assert_array_equal(data.obsm["X_wide"], wide)
    square = (np.arange(g)[:, None] - np.arange(3)[None, :]).astype(np.float32)
    loadings = data.uns["ldvae_loadings"]
    assert list(loadings.index) == genes and list(loadings.columns) == ["Z_0", "Z_1", "Z_2"]
    assert (loadings.dtypes == np.float32).all()
    np.testing.assert_array_equal(loadings, square)
    np.testing.assert_array_equal(data.uns["ldvae_square"], square)
    offsets = data.uns["ldvae_batch_offsets"]
    assert list(offsets.columns) == ["ctrl_1_1", "ctrl_1", "stim", "_"], list(offsets.columns)
    np.testing.assert_array_equal(offsets, np.arange(g)[:, None] - np.arange(4)[None, :])
    np.testing.assert_array_equal(data.uns["ldvae_intercept"], np.arange(g) / 4)
    rows = np.full((data.n_vars, 3), np.nan, np.float32)
    for i, name in enumerate(genes):
        if name in data.var_names:
            rows[data.var_names.get_loc(name)] = square[i]
    np.testing.assert_array_equal(data.varm["ldvae_loadings"], rows)
    ours = data.uns["atlasvi"]
    assert list(ours["genes"]) == genes
    assert ours["settings"] == "[model]\nn_latent = 3 ; naïve\n"
    assert ours["input"]["path"] == case["input"]
    assert ours["input"]["bytes"] > 0 and ours["input"]["share"] == 0.25
    assert ours["split"].dtype == np.int8
    np.testing.assert_array_equal(ours["split"], np.arange(n) % 3)
    history = ours["history"]
    assert list(history.columns) == ["elbo_train", "kl_weight"]
    assert history["elbo_train"].tolist() == [300.5, 250.25]
    assert history["kl_weight"].tolist() == [0, 1] and list(history.index.astype(int)) == [0, 1]


def check_tags(path, mode):
    """Every element of ours is tagged; nothing else is in the root."""
    legal = set("X layers obs var obsm varm obsp varp uns raw".split())
    with h5py.File(path) as f:
        assert set(f) <= legal, set(f)
        if mode == "results":
            assert f.attrs["encoding-type"] == "anndata" and f.attrs["encoding-version"] == "0.1.0"

        def visit(name, element):
            if "scvi" in name or "ldvae" in name or mode == "results":
                assert "encoding-type" in element.attrs, name
                assert "encoding-version" in element.attrs, name

        f.visititems(visit)


def same_bytes(a, b, path):
    if isinstance(a, h5py.Group):
        for key in a:
            if not (path + "/" + key).lstrip("/").startswith(
                    ("obsm/X_scvi", "varm/ldvae", "uns/ldvae", "uns/atlasvi")):
                same_bytes(a[key], b[key], path + "/" + key)
    else:
        assert a.dtype == b.dtype and a.shape == b.shape and a.chunks == b.chunks, path
        assert a.compression == b.compression, path
        if a.dtype.kind != "O" or h5py.check_string_dtype(a.dtype):
            assert a[()].tobytes() == b[()].tobytes() if a.dtype.kind != "O" else (
                np.array_equal(a[()], b[()])), path
    for key in a.attrs:
        if not isinstance(a.attrs[key], h5py.Reference):
            assert np.array_equal(a.attrs[key], b.attrs[key]), (path, key)


def rewrite(data, path, seen):
    """Column and row subsets, and another write and read, change nothing and warn of nothing."""
    part = data[:, : data.n_vars // 2].copy()
    assert part.obsm["X_scvi"].shape == data.obsm["X_scvi"].shape
    rows = data[np.arange(data.n_obs) % 2 == 0].copy()
    np.testing.assert_array_equal(rows.obsm["X_scvi_denoised"], data.obsm["X_scvi_denoised"][::2])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data.write_h5ad(path)
    new = {(w.category.__name__, str(w.message)) for w in caught} - seen
    again, on_reading = read(path)
    new |= on_reading - seen
    assert not new, new
    np.testing.assert_array_equal(again.obsm["X_scvi_denoised"], data.obsm["X_scvi_denoised"])
    assert_frame_equal(again.uns["ldvae_loadings"], data.uns["ldvae_loadings"])
    assert_frame_equal(again.obs, data.obs)


def check(case):
    truth, truth_warnings = read(case["truth"])
    data, caught = read(case["output"])
    input_warnings = set() if case["unknown"] else read(case["input"])[1]
    assert not caught - input_warnings - truth_warnings, caught
    genes = used_genes(truth, case["genes"])
    if case["mode"] == "results":
        assert data.X is None
        check_obs(data.obs, truth.obs, case["columns"])
        if case["var"]:
            check_var(data.var, truth.var[case["var"]], genes)
    else:
        with h5py.File(case["input"]) as a, h5py.File(case["output"]) as b:
            same_bytes(a, b, "")
    check_ours(data, genes, case)
    check_tags(case["output"], case["mode"])
    rewrite(data, case["output"] + ".again", input_warnings | truth_warnings)


print("anndata", version("anndata"), "h5py", h5py.__version__, "pandas", pd.__version__)
with open(sys.argv[1]) as file:
    cases = json.load(file)
for one in cases:
    try:
        check(one)
    except Exception:
        print("FAILED:", one)
        raise
print(len(cases), "outputs as they should be")
