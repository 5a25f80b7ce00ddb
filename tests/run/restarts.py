#!/usr/bin/env python3
"""n_restarts: each fit is the one that a run with its seed makes alone, the best stays, and the likeness of the
factors is worked out here once more. Planted factors of different strength are stable, superfluous ones are not."""
import itertools
import json

import anndata
import numpy as np
import pandas

import fitting as f

# Where it is offered, the same bits for any ranks; else for the same ranks.
STRICT = f.SMALL["runtime.backend"] in ("auto", "cpu")
EPOCHS = 90
SETTINGS = {"data.batch_key": None, "train.split_key": "fold", "model.linear_decoder": "yes", "model.n_latent": "4",
            "model.n_hidden": "16", "train.max_epochs": str(EPOCHS), "train.n_epochs_kl_warmup": "5", "train.lr": "0.01",
            "train.batch_size": "32", "output.denoised": "no", "output.sample_rate": "no", "output.overwrite": "yes",
            "runtime.reproducible": "strict" if STRICT else "run"}
PLANTED = (1.4, 0.6)  # strengths; as many genes each, none in common


def plant(path, cells=800, genes=60):
    rng = np.random.default_rng(3)
    z = rng.standard_normal((cells, len(PLANTED)))
    loadings = np.zeros((genes, len(PLANTED)))
    for k, strength in enumerate(PLANTED):
        loadings[20 * k:20 * (k + 1), k] = strength * rng.choice([-1, 1], 20)
    logits = z @ loadings.T + rng.normal(0, 0.5, genes)
    rho = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    counts = rng.poisson(rng.lognormal(6, 0.3, cells)[:, None] * rho)
    fold = np.where(rng.random(cells) < 0.8, "train", "validation")
    lone = np.where(np.arange(cells) == 5, "b", "a")
    made = anndata.AnnData(counts.astype(np.float32), obs=pandas.DataFrame({"fold": fold, "lone": lone}, index=[f"c{i}" for i in range(cells)]),
                           dtype=np.float32)
    made.write_h5ad(path)
    return loadings


def frame_of(path, name):
    with f.open_output(path) as file:
        names, values = f.columns_of(file[name])
        return {column: values[:, j] for j, column in enumerate(names)}


def output_of(path):
    """Everything but times and the settings."""
    found = {}
    with f.open_output(path) as file:
        for link in ("obsm/X_scvi", "uns/ldvae_loadings", "uns/ldvae_intercept", "uns/atlasvi/history"):
            item = file.get(link)
            if item is not None and link.count("/") == 1 and not hasattr(item, "shape") or "history" in link:
                found.update({f"{link}/{name}": item[name][...] for name in item.attrs["column-order"]
                              if name not in ("seconds", "cells_per_second")})
            elif item is not None:
                found[link] = item[...]
    return found


def same(first, second, what):
    assert first.keys() == second.keys() and len(first) > 5
    for name, value in first.items():
        if STRICT or "ranks" not in what:
            np.testing.assert_array_equal(second[name], value, err_msg=f"{what}: {name}")
        else:
            f.near(second[name], value, 1e-3, f"{what}: {name}", 1e-3)


def loadings_of(path):
    with f.open_output(path) as file:
        return f.columns_of(file["uns/ldvae_loadings"])[1].astype(float)


def cosines(a, b):
    a, b = (x - x.mean(axis=0) for x in (a, b))
    return np.abs((a / np.linalg.norm(a, axis=0)).T @ (b / np.linalg.norm(b, axis=0)))


def likeness(a, b):
    """Of each factor of a to its partner, over all pairings the one with the largest total."""
    table = cosines(a, b)
    best = max(itertools.permutations(range(table.shape[1])),
               key=lambda order: sum(table[i, j] for i, j in enumerate(order)))
    return table[np.arange(len(best)), best]


def check_linear(place, data, planted):
    log = place.path("log.jsonl")
    result = place.run({"data.input": data, "output.path": place.path("all.h5ad"), "runtime.log": log, **SETTINGS,
                        "runtime.progress": "lines", "train.n_restarts": "4", "train.seed": "7"}, timeout=200)
    assert result.code == 0, result
    table = frame_of(place.path("all.h5ad"), "uns/atlasvi/restarts")
    assert list(table) == ["seed", "epochs", "elbo", "chosen"]
    assert list(table["seed"]) == [7, 8, 9, 10] and (table["epochs"] == EPOCHS).all() and len(set(table["elbo"])) == 4
    chosen = int(np.argmin(table["elbo"]))
    assert list(table["chosen"]) == [r == chosen for r in range(4)], table
    loadings = []
    for r in range(4):  # each restart on its own
        alone = place.fit(data, "alone.h5ad", {**SETTINGS, "train.seed": str(7 + r), "runtime.log": place.path(f"{r}.jsonl")}, timeout=100)
        loadings.append(loadings_of(alone))
        with open(place.path(f"{r}.jsonl")) as file:
            elbo, = (e["elbo"] for e in map(json.loads, file) if e["event"] == "result")
        f.near(table["elbo"][r], elbo, 5e-3, f"seed {7 + r}: other draws")
        if r == chosen:
            same(output_of(place.path("all.h5ad")), output_of(alone), "the chosen fit")
    f.done(f"the best of four, seed {7 + chosen}")
    expected = np.mean([likeness(loadings[chosen], loadings[r]) for r in range(4) if r != chosen], axis=0)
    factors = frame_of(place.path("all.h5ad"), "uns/ldvae_factors")
    assert list(factors) == ["variance_share", "rank", "stability", "stable"]
    f.near(factors["stability"], expected, 1e-5, "stability")
    assert list(factors["stable"]) == list(expected >= 0.8)
    found = cosines(planted, loadings[chosen])
    for k in range(len(PLANTED)):
        at = int(np.argmax(found[k]))
        assert found[k, at] > 0.9 and factors["stable"][at] == 1, f"planted {k}: {found[k]}, {factors}"
    assert factors["stable"].sum() == len(PLANTED), factors
    f.done("stability " + " ".join(f"{s:.2f}" for s in factors["stability"]))
    check_said(result.out, log, table, chosen, factors)


def check_said(out, log, table, chosen, factors):
    for r in range(4):
        assert f"\nrestart {r + 1} of 4\n" in out, out
        assert f"restart {r + 1} of 4, seed {7 + r}: negative ELBO {table['elbo'][r]:.4f} after {EPOCHS} epochs" in out, out
        line, = (x for x in out.splitlines() if x.startswith(f"  {r + 1:3d}  seed {7 + r}"))
        assert line.endswith(f"{table['elbo'][r]:.4f}" + ("  kept" if r == chosen else "")), line
    assert out.count(" unstable  up:") == (factors["stable"] == 0).sum(), out
    with open(log) as file:
        events = [json.loads(line) for line in file]
    fits = [e for e in events if e["event"] == "restart"]
    assert [e["seed"] for e in fits] == [7, 8, 9, 10]
    f.near([e["elbo"] for e in fits], table["elbo"], 1e-14, "elbo in the log")
    kept, = (e for e in events if e["event"] == "chosen")
    result, = (e for e in events if e["event"] == "result")
    assert (kept["number"], kept["seed"], kept["elbo"]) == (chosen + 1, 7 + chosen, result["elbo"]), kept
    assert [e["restart"] for e in events if e["event"] == "epoch"] == [r for r in (1, 2, 3, 4) for _ in range(EPOCHS)]
    f.done("report and log")


def check_ranks(place, data):
    short = {**SETTINGS, "train.batch_size": "128", "train.n_restarts": "3", "train.max_epochs": "6"}
    stops = {"model.linear_decoder": "no", "model.init": "scvi", "train.n_epochs_kl_warmup": "0", "train.keep": "best",
             "train.early_stopping": "yes", "train.early_stopping_patience": "1",
             "train.early_stopping_monitor": "elbo_train", "train.lr": "0.04", "train.max_epochs": "30"}
    for model in ({}, stops):
        place.fit(data, "one.h5ad", {**short, **model})
        table = frame_of(place.path("one.h5ad"), "uns/atlasvi/restarts")
        with f.open_output(place.path("one.h5ad")) as file:
            assert ("uns/ldvae_factors" in file) == (not model)
            assert len(file["uns/atlasvi/history/elbo_train"]) == table["epochs"][table["chosen"] == 1][0]
        assert not model or len(set(table["epochs"])) > 1, f"{table}: the same epochs for all"
        for ranks in (1, 2, 3):
            place.fit(data, "more.h5ad", {**short, **model}, ranks)
            same(output_of(place.path("one.h5ad")), output_of(place.path("more.h5ad")), f"{ranks} ranks")
            other = frame_of(place.path("more.h5ad"), "uns/atlasvi/restarts")
            same({f"{n} {i}": table[n][i] for n in table for i in range(3)},
                 {f"{n} {i}": other[n][i] for n in table for i in range(3)}, f"{ranks} ranks: table")
            if not model:
                f.near(frame_of(place.path("more.h5ad"), "uns/ldvae_factors")["stability"],
                       frame_of(place.path("one.h5ad"), "uns/ldvae_factors")["stability"], 0 if STRICT else 1e-2, "stability")
    f.done("1, 2 and 3 ranks")


def check_rest(place, data):
    """Without held-out cells the training cells decide; one fit has no table; fits that fail are left out."""
    few = {**SETTINGS, "train.max_epochs": "2"}
    out = place.run({"data.input": data, "output.path": place.path("few.h5ad"), **few, "train.n_restarts": "2",
                     "train.split_key": None, "train.train_size": "1.0"}).out
    assert "\nRestarts, by the negative ELBO a training cell\n" in out and "\nResult, 800 training cells" in out, out
    place.fit(data, "few.h5ad", few)
    with f.open_output(place.path("few.h5ad")) as file:
        assert "uns/atlasvi/restarts" not in file and list(file["uns/ldvae_factors"].attrs["column-order"]) == ["variance_share", "rank"]
    bad = place.run({"data.input": data, "output.path": place.path("bad.h5ad"), **few, "train.n_restarts": "2",
                     "train.lr": "1000", "train.seed": "5"})
    assert bad.code == 76 and len(bad.lines("error")) == 1, bad
    assert bad.lines("error")[0].startswith("training failed in each of 2 restarts"), bad
    told = [w for w in bad.lines("warning") if "left out" in w]
    assert len(told) == 2 and all(w.startswith(f"restart {r} of 2 is left out: training failed in epoch")
                                  for r, w in enumerate(told, 1)), told
    lone = place.run({"data.input": data, "output.path": place.path("lone.h5ad"), **few, "train.n_restarts": "3", "data.batch_key": "lone"})
    assert lone.code == 0 and len([w for w in lone.lines("warning") if "log library size" in w]) == 1, lone
    f.done("the rest")


def check_failures(place, data):
    """A fit that fails numerically is left out, be it the first or the last; the other is as it is alone."""
    wild = {**SETTINGS, "model.init": "scvi", "model.use_batch_norm": "none", "train.max_epochs": "6", "train.lr": "8",
            "train.eps": "1e-8", "output.denoised": None}
    codes, seed = [], 0
    while not {(0, 76), (76, 0)} <= set(zip(codes, codes[1:])):
        assert seed < 60, f"no seeds of both kinds: {codes}"
        codes.append(place.run({"data.input": data, "output.path": place.path("alone.h5ad"), **wild, "train.seed": str(seed)}).code)
        seed += 1
    assert set(codes) == {0, 76}, codes
    pairs = list(zip(codes, codes[1:]))
    for codes_now in ((0, 76), (76, 0)):
        first = pairs.index(codes_now)
        good = codes_now.index(0)
        alone = place.fit(data, "alone.h5ad", {**wild, "train.seed": str(first + good)})
        for ranks in (0, 2):
            both = place.run({"data.input": data, "output.path": place.path("both.h5ad"), **wild, "train.seed": str(first),
                              "train.n_restarts": "2"}, ranks)
            assert both.code == 0 and not f.ar.STACKS.search(both.out + both.err), both
            told, = (w for w in both.lines("warning") if "left out" in w)
            assert told.startswith(f"restart {2 - good} of 2 is left out: training failed"), told
            table = frame_of(place.path("both.h5ad"), "uns/atlasvi/restarts")
            assert list(table["seed"]) == [first + good] and list(table["chosen"]) == [1], table
            if ranks == 0:
                same(output_of(alone), output_of(place.path("both.h5ad")), f"the {('first', 'last')[1 - good]} fails")
    f.done("a fit that fails, first and last")


def main():
    place = f.Place()
    data = place.path("data.h5ad")
    planted = plant(data)
    check_linear(place, data, planted)
    check_ranks(place, data)
    check_rest(place, data)
    check_failures(place, data)


main()
