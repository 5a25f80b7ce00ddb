#!/usr/bin/env python3
"""Columns of obs, in every way they are stored, against what was put in: test_columns.py META_DUMP."""
import re

from cases import (  # first: it says which modules are missing
    AGE, CELLS, CODES, Dump, GENES, KEYS, LEVELS, N, SEX, SIZE, check, covariate_file, dump, fine, fnv, meta,
    path, refused, same, run)

import h5py
import numpy as np
import pandas as pd
import make_meta as mk

BYTEWISE = sorted(LEVELS)
BYTECODES = [BYTEWISE.index(LEVELS[c]) for c in CODES]


def column_case(name, make, expected_levels=None, expected_codes=None, refuse=None):
    file = "column_%s.h5ad" % re.sub(r"\W", "_", name)
    mk.base(path(file))
    mk.replace(path(file), "obs/batch", make, ["x", "batch"])
    reply = meta(file, "data.batch_key=batch")
    if refuse:
        refused(name, reply, 65, refuse)
    else:
        fine(name, reply, batch_levels=expected_levels, batch=expected_codes)
    return file


def test_columns():
    texts = [LEVELS[c] for c in CODES]
    for kind in ("i1", "i2", "i4", "i8", "u1"):
        column_case("codes " + kind, mk.categorical(CODES.astype(kind), LEVELS), LEVELS, CODES)
    holes = CODES.astype("i1")
    holes[[4, 9]] = -1
    refuse = r"obs/batch: 2 of 40 cells have no batch: cell_04, cell_09;"
    file = column_case("missing code", mk.categorical(holes, LEVELS), refuse=refuse)
    fine("missing label", meta(file, "data.labels_key=batch"), label=holes, label_levels=LEVELS)
    many = CODES.astype("i1")
    many[3:] = -1
    column_case("many missing", mk.categorical(many, LEVELS),
                refuse=r"37 of 40.*cell_03, cell_04, cell_05, cell_06, cell_07, \.\.\.;")
    beyond = CODES.copy()
    beyond[5] = 3
    column_case("code beyond", mk.categorical(beyond, LEVELS), refuse=r"code 3 in row 5 has no categ")
    beyond[5] = -2
    column_case("code below", mk.categorical(beyond, LEVELS), refuse=r"code -2 in row 5 has no categ")
    column_case("category twice", mk.categorical(CODES, ["a", "b", "a"]), refuse=r'"a" occurs twice')
    column_case("unused", mk.categorical(np.array([1, 3, 4])[CODES], ["q", "z", "r", "y", "a"]),
                ["z", "y", "a"], CODES)
    column_case("integer categories", mk.categorical(CODES, [30, 7, 200]), ["30", "7", "200"], CODES)
    column_case("float categories", mk.categorical(CODES, [0.5, 1.0, 1e-7]),
                ["0.5", "1.0", "1e-07"], CODES)
    column_case("bool categories", mk.categorical(CODES % 2, [False, True]),
                ["False", "True"], CODES % 2)
    column_case("nullable categories", mk.categorical(CODES, LEVELS, nullable=True), LEVELS, CODES)
    column_case("text", mk.texts(texts), BYTEWISE, BYTECODES)
    mask = np.arange(N) == 9
    column_case("nan text", mk.texts(["nan" if m else t for m, t in zip(mask, texts)]),
                refuse="1 of 40 cells have no batch: cell_09;")
    column_case("empty text is a level", mk.texts(["" if m else "q" for m in mask]), ["", "q"],
                (~mask).astype(int))
    numbers = np.array([7, 30, 200])[CODES]
    for kind in ("i1", "u1", "i4", "u8", "i8"):
        column_case("integers " + kind, mk.dataset((numbers - 10 * (kind == "i1") * (numbers > 99) * 10)
                                                   .astype(kind)),
                    ["7", "30", "100"] if kind == "i1" else ["7", "30", "200"], CODES)
    column_case("negative", mk.dataset(-numbers), ["-200", "-30", "-7"], 2 - CODES)
    column_case("huge", mk.dataset(np.full(N, 2**63 + 5, "u8")), refuse="too large")
    column_case("bool", mk.dataset(CODES == 1), ["False", "True"], (CODES == 1).astype(int))
    column_case("floats", mk.dataset(np.array([2.5, 10, -1], "f4")[CODES]), ["-1.0", "2.5", "10.0"],
                np.array([1, 2, 0])[CODES])
    column_case("half floats", mk.dataset(np.array([2.5, 10, -1], "f2")[CODES]),
                ["-1.0", "2.5", "10.0"], np.array([1, 2, 0])[CODES])
    column_case("float32 in decimal", mk.dataset(np.array([0.1, 0.2, 0.3], "f4")[CODES]),
                ["0.1", "0.2", "0.3"], CODES)
    column_case("float NaN", mk.dataset(np.where(mask, np.nan, numbers)), refuse="1 of 40.*cell_09")
    column_case("nullable integer", mk.nullable("nullable-integer", numbers, ~mask & mask),
                ["7", "30", "200"], CODES)
    column_case("nullable integer masked", mk.nullable("nullable-integer", numbers, mask),
                refuse="1 of 40.*cell_09")
    column_case("nullable boolean masked", mk.nullable("nullable-boolean", CODES == 1, mask),
                refuse="1 of 40.*cell_09")
    strings = np.array(texts, dtype=object)
    column_case("nullable text", mk.nullable("nullable-string-array", strings, ~mask & mask),
                BYTEWISE, BYTECODES)
    first = np.arange(N) < 3  # the first copy of each string is masked
    file = column_case("nullable text masked", mk.nullable("nullable-string-array", strings, first),
                       refuse="3 of 40.*cell_00, cell_01, cell_02;")
    fine("masked first copies", meta(file, "data.labels_key=batch"), label_levels=BYTEWISE,
         label=[-1] * 3 + BYTECODES[3:])
    column_case("one category", mk.categorical(0 * CODES, ["same", "unused"]), ["same"], [0] * N)
    check("one category is no batch", not meta("column_one_category.h5ad",
                                               "data.batch_key=batch")["has_batch"])
    column_case("wrong length", mk.dataset(np.arange(N - 1)), refuse="39 values where obs has 40 rows")
    column_case("two dimensions", mk.dataset(np.zeros((N, 2))), refuse="2 dimensions")
    column_case("awkward", lambda g, n: mk.tag(g.create_group(n), "awkward-array", "0.1.0"),
                refuse='obs/batch: stored as "awkward-array"')
    column_case("rec-array", lambda g, n: mk.tag(g.create_dataset(n, data=np.zeros(N, "i4,f4")),
                                                 "rec-array", "0.2.0"), refuse='"rec-array"')
    mk.base(path("unlisted.h5ad"))
    with h5py.File(path("unlisted.h5ad"), "r+") as f:
        f["obs"].attrs["column-order"] = np.array(["gone"], dtype=object)
        f["obs/extra"] = np.arange(3)
        mk.tag(f["uns"].create_group("thing"), "holographic", "9.9")
    refused("listed, absent", meta("unlisted.h5ad", "data.batch_key=gone"), 65, "not in the file")
    refused("there, not listed", meta("unlisted.h5ad", "data.batch_key=extra"), 78, "no column")
    fine("strange things unused", meta("unlisted.h5ad"))


def number_case(name, make, expected=None, refuse=None):
    """A column as a continuous covariate."""
    file = "number_%s.h5ad" % re.sub(r"\W", "_", name)
    mk.base(path(file))
    mk.replace(path(file), "obs/v", make, ["x", "v"])
    reply = meta(file, KEYS["num"] + "v")
    if refuse:
        refused(name, reply, 65, refuse)
    else:
        fine(name, reply, continuous=list(map(float, expected)), continuous_names=["v"])
    return file


def size_case(name, values, refuse):
    file = "size_%s.h5ad" % re.sub(r"\W", "_", name)
    mk.base(path(file))
    mk.replace(path(file), "obs/v", mk.dataset(values), ["x", "v"])
    refused(name, meta(file, KEYS["size"] + "v"), 65, refuse)


def test_numbers():
    mask = np.arange(N) == 9
    half = np.arange(N) / 2
    for kind in ("f2", "f4", "f8"):
        number_case("reals " + kind, mk.dataset(half.astype(kind)), half)
    for kind in ("i1", "u1", "i4", "u8", "i8"):
        number_case("whole " + kind, mk.dataset(np.arange(N).astype(kind)), np.arange(N))
    number_case("bool", mk.dataset(mask), mask)
    number_case("nullable", mk.nullable("nullable-integer", np.arange(N), ~mask & mask), np.arange(N))
    file = number_case("nullable masked", mk.nullable("nullable-integer", np.arange(N), mask),
                       refuse=r"obs/v: 1 of 40 cells have no finite value: cell_09; give them one")
    numbers = fine("NaN where masked", dump("numbers", path(file), "obs", "v"))["numbers"]
    same("NaN where masked", [i for i, v in enumerate(numbers) if v is None], [9])
    holes = half.copy()
    holes[[3, 7, 8, 9, 11, 12]] = [np.nan, np.inf, -np.inf, 1e39, -1e300, np.nan]
    number_case("not finite", mk.dataset(holes),
                refuse=r"obs/v: 6 of 40 cells have no finite value: cell_03, cell_07, cell_08, cell_09, "
                       r"cell_11, \.\.\.;")
    number_case("text", mk.texts(["1.5"] * N), refuse=r"obs/v: is text, but must be numeric; .*astype")
    number_case("categorical", mk.categorical(CODES, [0.5, 1.5, 2.5]),
                refuse=r"obs/v: is a categorical, but must be numeric; .*astype")
    number_case("two dimensions", mk.dataset(np.zeros((N, 2))), refuse="2 dimensions")
    for title, bad in (("zero", 0), ("negative", -1), ("nan", np.nan), ("infinite", np.inf),
                       ("too large", 1e39)):
        values = SIZE.copy()
        values[[2, 39]] = bad
        size_case(title, values, r"obs/v: 2 of 40 cells have no positive, finite size factor: "
                                 r"cell_02, cell_39;")
    size_case("bool size", mask, "39 of 40 cells have no positive")


def test_covariates():
    covariate_file("cov.h5ad")
    lists = [KEYS["cat"] + "sex, site,plate,good", KEYS["num"] + "age,days"]
    both = np.column_stack([AGE, np.arange(N)]).ravel().tolist()
    codes = [(SEX == "m").astype(int), np.arange(N) // 10, np.arange(N) % 4,
             (np.arange(N) % 4 == 0).astype(int)]
    expected = dict(
        categorical_names=["sex", "site", "plate", "good"], continuous_names=["age", "days"],
        categorical_levels=[["f", "m"], ["z", "y", "x", "w"], ["0", "5", "10", "15"],
                            ["False", "True"]],
        categorical=[c.tolist() for c in codes])
    reply = fine("covariates", meta("cov.h5ad", "data.batch_key=batch", *lists, KEYS["size"] + "size"),
                 continuous=both, size_factor=SIZE, batch=CODES, warnings="",
                 checksum=fnv(CELLS + GENES), **expected)
    plain = meta("cov.h5ad", "data.batch_key=batch")
    same("checksum knows nothing of covariates", reply["checksum"], plain["checksum"])
    for key in ("categorical", "categorical_names", "categorical_levels", "continuous_names"):
        same("none: " + key, plain[key], [])
    same("none: numbers", [plain["continuous"], plain["size_factor"]], [None, None])

    # one value everywhere: kept, and said
    reply = fine("constant", meta("cov.h5ad", KEYS["cat"] + "same", KEYS["num"] + "level"),
                 categorical_levels=[["all"]], continuous=[7.5] * N)
    for pattern in (r'obs/same: is "all" in every cell, so this covariate has no effect\n',
                    r"obs/level: is 7\.5 in every cell, so this covariate has no effect\n"):
        check("constant " + pattern, re.search(pattern, reply["warnings"]), reply["warnings"])

    # numbers as categories: taken, and said
    warned = "; if it holds numbers, name it in continuous_covariate_keys\n"
    reply = fine("numbers as categories", meta("cov.h5ad", KEYS["cat"] + "age"))
    check("said", "obs/age: has 40 categories for 40 cells" + warned in reply["warnings"], reply["warnings"])
    reply = fine("few categories", meta("cov.h5ad", KEYS["cat"] + "sex,plate"))
    check("not said", warned not in reply["warnings"], reply["warnings"])

    for kind, where in (("cat", "categorical_covariate_keys"), ("num", "continuous_covariate_keys"),
                        ("size", "size_factor_key")):
        refused("absent " + kind, meta("cov.h5ad", KEYS[kind] + "agee"), 78,
                where + r': .*obs has no column "agee"; did you mean "age"\?')
    reply = meta("cov.h5ad", "data.batch_key=bach", KEYS["cat"] + "sexx,site", KEYS["num"] + "agee")
    same("all absent at once", [reply["status"], len(reply["error"].split("\n"))], [78, 3])
    for kind, where in (("cat", "categorical"), ("num", "continuous")):
        refused("twice " + kind, meta("cov.h5ad", KEYS[kind] + "age,days,age"), 78,
                where + "_covariate_keys.*age.* is listed twice")
        refused("batch again " + kind, meta("cov.h5ad", "data.batch_key=batch", KEYS[kind] + "batch"), 78,
                where + r'_covariate_keys: "batch" is the batch_key already; batch_key must name another column$')
    holes = CODES.astype("i1")
    holes[[4, 9]] = -1
    mk.replace(path("cov.h5ad"), "obs/hole", mk.categorical(holes, LEVELS), ["sex", "hole", "age"])
    refused("missing code", meta("cov.h5ad", KEYS["cat"] + "sex,hole"), 65,
            r"obs/hole: 2 of 40 cells have no value: cell_04, cell_09; give them one or leave them out$")


def test_labels_needed():
    """dispersion = gene-label: every cell that is trained on or validated needs a label."""
    holes = CODES.astype("i1")
    holes[[4, 9]] = -1
    parts = np.where(holes < 0, "test", "train")
    mk.base(path("labels.h5ad"), pd.DataFrame(
        {"label": pd.Categorical.from_codes(holes, LEVELS), "part": parts,
         "part2": np.where(np.arange(N) == 4, "test", "train")}, index=CELLS))
    words = ("data.labels_key=label", "model.dispersion=gene-label")
    want = r"obs/label: %s of 40 cells have no label, which dispersion = gene-label needs: %s; give them"
    refused("label missing", meta("labels.h5ad", *words), 65, want % (2, "cell_04, cell_09"))
    refused("label missing, no training", meta("labels.h5ad", *words, "train.max_epochs=0"), 65,
            want % (2, "cell_04, cell_09"))
    refused("label missing, one test cell", meta("labels.h5ad", *words, "train.split_key=part2"), 65,
            want % (1, "cell_09"))
    fine("test cells need none", meta("labels.h5ad", *words, "train.split_key=part"), label=holes)
    fine("other dispersion", meta("labels.h5ad", words[0]), label=holes)
    fine("applied", meta("labels.h5ad", *words, "model.load=m.h5", "train.max_epochs=0"), label=holes)
    refused("trained further", meta("labels.h5ad", *words, "model.load=m.h5"), 65, want % (2, "cell_04, cell_09"))


def test_slabs():
    """Each of several ranks holds its own cells of every column, and the design of them."""
    covariate_file("slab.h5ad")
    words = ("read", "data.input=" + path("slab.h5ad"), "data.batch_key=batch", "data.labels_key=plate",
             KEYS["cat"] + "sex,same,plate", KEYS["num"] + "age,days", KEYS["size"] + "size")
    first = [0, 3, 5, 9]  # batch, sex, plate; the constant one has no columns
    columns = np.column_stack([CODES, 3 + (SEX == "m"), 5 + np.arange(N) % 4])
    numbers = np.column_stack([AGE, np.arange(N)])
    for n in (1, 3):
        ranks = Dump(n)
        parts = fine("slabs of %d" % n, ranks(*words))["ranks"]
        same("number of slabs", len(parts), n)
        at = 0
        for part in parts:
            rows = slice(at, at + part["n_local"])
            for key, value in (("first", at), ("batch", CODES[rows]), ("design_first", first),
                               ("label", np.arange(N)[rows] % 4), ("size_factor", SIZE[rows]),
                               ("design_column", columns[rows].ravel()),
                               ("design_continuous", numbers[rows].ravel()),
                               ("continuous", numbers[rows].ravel()),
                               ("categorical_levels", [["f", "m"], ["all"], ["0", "5", "10", "15"]])):
                value = value.tolist() if isinstance(value, np.ndarray) else value
                same("slab at %d of %d: %s" % (at, n, key), part[key], value)
            at += part["n_local"]
        same("all cells", at, N)
        check("several share them", n == 1 or all(0 < p["n_local"] < N for p in parts))
        # without any: no columns at all
        bare = fine("bare", ranks(*words[:2]))["ranks"]
        same("no design", [(p["design_first"], p["design_column"]) for p in bare], [([0], [])] * n)
        refused("agreed", ranks(*words[:2], KEYS["num"] + "no"), 78, '"no"')
        same("ranks end well", ranks.close(), 0)


run(330, test_columns, test_numbers, test_covariates, test_labels_needed, test_slabs)
