#!/usr/bin/env python3
"""Metadata of .h5ad files in every layout, against what was put in: test_meta.py META_DUMP."""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

try:
    import h5py
    import numpy as np
    import pandas as pd

    import make_meta as mk
except ImportError as missing:
    print("skipped: %s" % missing)
    sys.exit(77)

DUMP = sys.argv[1]
N, G, CELLS, GENES, CODES, LEVELS = mk.N, mk.G, mk.CELLS, mk.GENES, mk.CODES, mk.LEVELS
BYTEWISE = sorted(LEVELS)
BYTECODES = [BYTEWISE.index(LEVELS[c]) for c in CODES]
faults = []
n_checks = 0


class Dump:
    """A running meta_dump."""

    def __init__(self, ranks=1, **how):
        command = [DUMP]
        if ranks > 1:
            command = [os.environ.get("MPIRUN", "mpirun"), "--bind-to", "none", "-n", str(ranks), DUMP]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **how)

    def __call__(self, *words):
        self.process.stdin.write(("\t".join(words) + "\n").encode())
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("meta_dump ended at: " + " ".join(words))
        reply = json.loads(line.decode("utf-8", "surrogateescape"))
        check("HDF5 objects left open by " + " ".join(words), reply["left_open"] == 0,
              reply["left_open"])
        return reply

    def close(self):
        self.process.stdin.close()
        return self.process.wait(timeout=30)


def check(name, good, seen=""):
    global n_checks
    n_checks += 1
    if not good:
        faults.append(name)
        print("FAILED %s: %s" % (name, str(seen)[:600]))


def same(name, seen, expected):
    check(name, seen == expected, "%r is not %r" % (seen, expected))


def refused(name, reply, code, pattern):
    """One line of error that matches, and its code."""
    good = (reply["status"] == code and "\n" not in reply["error"]
            and re.search(pattern, reply["error"]) is not None)
    check(name, good, "%s %s (wanted %d, %s)" % (reply["status"], reply["error"], code, pattern))


def fine(name, reply, **expected):
    check(name, reply["status"] == 0, reply["error"])
    for key, value in expected.items():
        if reply["status"] == 0:
            value = value.tolist() if isinstance(value, np.ndarray) else value
            same(name + "." + key, reply[key], value)
    return reply


folder = tempfile.mkdtemp(prefix="atlasvi-meta-")
dump = Dump()


def path(name):
    return os.path.join(folder, name)


def meta(file, *settings):
    return dump("meta", "data.input=" + path(file), *settings)


def fnv(names):
    value = 14695981039346656037
    for byte in b"".join(n.encode() + b"\0" for n in names):
        value = ((value ^ byte) * 1099511628211) % 2**64
    return "%016x" % value


def test_baseline():
    obs = pd.DataFrame({"batch": pd.Categorical.from_codes(CODES, LEVELS), "label": ["t", "s"] * 20},
                       index=CELLS)
    mk.base(path("base.h5ad"), obs)
    reply = fine("baseline", meta("base.h5ad", "data.batch_key=batch", "data.labels_key=label"),
                 n_cells=N, n_file_genes=G, n_genes=G, genes=GENES, gene_column=np.arange(G),
                 gene_var=np.arange(G), batch_levels=LEVELS, batch=CODES, has_batch=True,
                 label_levels=["s", "t"], label=[1, 0] * 20, split=None, layout=0, n_local=N,
                 n_stored=mk.COUNTS.nnz, checksum=fnv(CELLS + GENES), warnings="",
                 input_bytes=os.path.getsize(path("base.h5ad")), input_path=path("base.h5ad"))
    with h5py.File(path("base.h5ad")) as f:
        same("stored bytes", reply["stored_bytes"],
             sum(f["X"][k].id.get_storage_size() for k in ("data", "indices", "indptr")))
    same("weights", reply["weights"], (np.diff(mk.COUNTS.indptr) + 16.0).tolist())
    fine("no keys", meta("base.h5ad"), batch_levels=[""], batch=[0] * N, has_batch=False, label=None,
         label_levels=[])
    refused("no column", meta("base.h5ad", "data.batch_key=bach"), 78,
            r'batch_key: .*base.h5ad: obs has no column "bach"; did you mean "batch"\?.*batch, label')
    refused("no label column", meta("base.h5ad", "data.labels_key=zzzzzz"), 78, r"labels_key.*zzzzzz")
    refused("empty layer name", meta("base.h5ad", "data.counts=layers/"), 78,
            r'\[data\] counts: "layers/" names no layer; say layers/NAME$')
    refused("no layer", meta("base.h5ad", "data.counts=layers/q"), 78, r"layers/q")
    refused("no split column", meta("base.h5ad", "train.split_key=q"), 78, r"\[train\] split_key.*\bq\b")
    wide = pd.DataFrame({"column_%02d" % i: np.arange(N) for i in range(13)}, index=CELLS)
    mk.base(path("wide.h5ad"), wide)
    refused("many columns", meta("wide.h5ad", "data.batch_key=batch"), 78,
            r"column_09 and 3 more$")


def shards_of_many():
    """More cells than shards: every weight, from the definition of the shards."""
    import scipy.sparse as sp
    import anndata
    n = 2500
    x = sp.random(n, 5, 0.4, "csr", np.float32, np.random.default_rng(3))
    anndata.AnnData(x, dtype="float32").write_h5ad(path("many.h5ad"))
    bounds = [n * v // 1024 for v in range(1025)]
    rows = np.diff(x.indptr) + 16.0
    fine("shard weights", meta("many.h5ad"),
         weights=[rows[a:b].sum() for a, b in zip(bounds, bounds[1:])])


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


KEYS = {"cat": "data.categorical_covariate_keys=", "num": "data.continuous_covariate_keys=",
        "size": "data.size_factor_key="}
SEX = np.array(["m", "f"])[np.arange(N) % 2]
AGE = np.arange(N) / 16 - 1  # exact in few digits, as the reply prints them
SIZE = np.arange(N) / 32 + 0.5


def covariate_file(name):
    """Batch, covariates of many kinds, size factors; as anndata writes them."""
    mk.base(path(name), pd.DataFrame({
        "batch": pd.Categorical.from_codes(CODES, LEVELS), "sex": SEX,
        "site": pd.Categorical.from_codes(np.array([0, 2, 3, 4])[np.arange(N) // 10],
                                          ["z", "unused", "y", "x", "w"]),
        "plate": np.arange(N) % 4 * 5, "good": np.arange(N) % 4 == 0, "age": AGE, "size": SIZE,
        "same": "all", "level": np.full(N, 7.5), "days": np.arange(N)}, index=CELLS))


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


def test_eras():
    for vlen in (False, True):
        for index in ("index", "smp_names"):
            name = "compound_%d_%s.h5ad" % (vlen, index)
            mk.compound(path(name), index, vlen)
            kept = [g for j, g in enumerate(GENES) if j % 4 == 0]
            fine(name, meta(name, "data.batch_key=batch", "data.labels_key=word"), batch_levels=LEVELS,
                 batch=CODES, label_levels=["w0", "w1"], label=np.arange(N) % 2, genes=kept,
                 checksum=fnv(CELLS + kept))
            fine(name + " raw", meta(name, "data.counts=raw/X", "data.batch_key=shared"),
                 batch_levels=["even", "odd"], batch=np.arange(N) % 2, genes=kept,
                 gene_var=np.arange(0, G, 4), gene_column=np.arange(0, G, 4))
    name = "compound_0_index.h5ad"
    fine("one label", dump("factor", path(name), "obs", "one"), levels=["only"], codes=[0] * N,
         columns=["n", "batch", "shared", "one", "flag", "word"])
    fine("codes beyond stay numbers", dump("factor", path(name), "var", "shared"),
         levels=[str(100 * j) for j in range(G)], codes=np.arange(G))
    fine("raw.cat", dump("factor", path(name), "raw.var", "kind"), levels=["coding", "other"])
    for reference in ("object", "null", "none"):
        name = "v07_%s.h5ad" % reference
        mk.version_07(path(name), reference)
        fine(name, meta(name, "data.batch_key=batch"), batch_levels=LEVELS, batch=CODES)
    fine("SeuratDisk integers", meta("v07_none.h5ad", "data.batch_key=plain"),
         batch_levels=["7", "30", "200"], batch=CODES)
    mk.base(path("lzf.h5ad"), compression="lzf")
    with h5py.File(path("lzf.h5ad")) as f:
        same("lzf file uses lzf", f["obs/_index"].compression, "lzf")
    fine("lzf", meta("lzf.h5ad"), genes=GENES, checksum=fnv(CELLS + GENES))
    mk.base(path("latest.h5ad"))
    with h5py.File(path("latest.h5ad")) as old, h5py.File(path("latest2.h5ad"), "w",
                                                           libver="latest") as new:
        for key in old:
            old.copy(key, new)
    fine("superblock 3", meta("latest2.h5ad"), genes=GENES)
    mk.unknown_filter(path("latest.h5ad"), "obs/x", 32015)
    refused("zstd", meta("latest.h5ad", "data.batch_key=x"), 65,
            r"obs/x: compressed with zstd \(HDF5 filter 32015\).*HDF5_PLUGIN_PATH.*h5repack")
    fine("zstd not needed", meta("latest.h5ad"))


def test_lzf_data():
    """Chunks that lzf shrinks, chunks that it cannot, with shuffle and fletcher32, odd chunk sizes."""
    rng = np.random.default_rng(5)
    values = np.concatenate([np.repeat(np.arange(500), 20), rng.integers(-2**62, 2**62, 3001)])
    for title, how in (("plain", {}), ("shuffle", dict(shuffle=True)), ("sum", dict(fletcher32=True))):
        with h5py.File(path("base.h5ad"), "r+") as f:
            f.require_group("uns").create_dataset("lzf_" + title, data=values, compression="lzf",
                                                  chunks=(777,), **how)
        fine("lzf " + title, dump("names", path("base.h5ad"), "uns/lzf_" + title),
             names=[str(v) for v in values])
    # A damaged chunk is an error of the file, not a crash.
    with h5py.File(path("base.h5ad"), "r+") as f:
        d = f["uns"].create_dataset("lzf_bad", data=np.zeros(4000, "i8"), compression="lzf",
                                    chunks=(4000,))
        d.id.write_direct_chunk((0,), b"\xff" * 64, 0)
    refused("lzf damaged", dump("names", path("base.h5ad"), "uns/lzf_bad"), 74, "damaged lzf")


def test_strings():
    t = h5py.h5t
    plain = [c.encode() for c in CELLS]
    accents = ["z\u00e9ll\u00e9_%02d" % i for i in range(N)]
    utf8 = [a.encode() for a in accents]
    latin = [a.encode("latin-1") for a in accents]
    cases = [("null term", mk.fixed_bytes(plain, 12, t.STR_NULLTERM, t.CSET_ASCII), CELLS),
             ("full width", mk.fixed_bytes(plain, 7, t.STR_NULLPAD, t.CSET_ASCII), CELLS),
             ("space pad", mk.fixed_bytes(plain, 11, t.STR_SPACEPAD, t.CSET_UTF8), CELLS),
             ("utf8 as ascii fixed", mk.fixed_bytes(utf8, 16, t.STR_NULLPAD, t.CSET_ASCII), accents),
             ("utf8 as ascii vlen", mk.raw_vlen(utf8, "ascii"), accents),
             ("vlen utf8", mk.raw_vlen(utf8, "utf-8"), accents),
             ("latin1", mk.raw_vlen(latin, "utf-8"),
              [b.decode("utf-8", "surrogateescape") for b in latin]),
             ("never written", lambda g, n: g.create_dataset(n, (N,), mk.TEXT), [""] * N),
             ("integers", lambda g, n: g.create_dataset(n, data=np.arange(N) - 5),
              [str(i - 5) for i in range(N)]),
             ("gone nullable", mk.nullable("nullable-string-array", np.array(CELLS, dtype=object),
                                           np.zeros(N, bool)), CELLS),
             ("categorical", mk.categorical(np.arange(N), CELLS), CELLS)]
    for title, make, expected in cases:
        name = "index_%s.h5ad" % title.replace(" ", "_")
        mk.base(path(name))
        mk.replace(path(name), "obs/_index", make)
        reply = fine(title, dump("names", path(name), "obs/_index"), names=expected)
        warned = "not UTF-8" in reply["warnings"]
        same(title + " warns", warned, title == "latin1")
        reply = fine(title + " as index", meta(name))
        if title == "latin1":
            check("one warning", reply["warnings"].count("UTF-8") == 1, reply["warnings"])
        if title == "never written":
            check("repeats warned", "cell names repeat" in reply["warnings"], reply["warnings"])
    for bad, good in ((b"\xc0\x80", False), (b"\xed\xa0\x80", False), (b"\xf4\x90\x80\x80", False),
                      (b"\xe2\x82", False), (b"\xe2\x82\xac", True), (b"\xf0\x9f\x92\xa9", True)):
        mk.base(path("utf8.h5ad"))
        mk.replace(path("utf8.h5ad"), "obs/_index", mk.raw_vlen([bad] * N, "utf-8"))
        reply = dump("names", path("utf8.h5ad"), "obs/_index")
        same("UTF-8 %r" % bad, "not UTF-8" not in reply["warnings"], good)
    big = ["name_%07d" % i for i in range(1200000 // 12)] + ["x" * 100000]
    mk.base(path("big.h5ad"))
    mk.replace(path("big.h5ad"), "uns/big", mk.texts(big))
    fine("many blocks", dump("names", path("big.h5ad"), "uns/big"), names=big)
    mk.replace(path("big.h5ad"), "uns/one", lambda g, n: g.create_dataset(n, data="alone"))
    fine("scalar", dump("names", path("big.h5ad"), "uns/one"), names=["alone"])
    mk.replace(path("big.h5ad"), "uns/r", lambda g, n: g.create_dataset(
        n, data=np.array([0, 1, 2], "u1"),
        dtype=h5py.enum_dtype({"FALSE": 0, "TRUE": 1, "NA": 2}, basetype="u1")))
    fine("R's NA", dump("names", path("big.h5ad"), "uns/r"), missing=[0, 0, 1])
    refused("not text", dump("names", path("big.h5ad"), "X"), 65, "csr_matrix")


def test_attributes():
    """Attribute strings of every kind; index names of every kind."""
    for title, kind in (("vlen ascii", h5py.string_dtype("ascii")), ("fixed utf8", "fixed"),
                        ("fixed ascii", "S10"), ("one element", "one")):
        name = "attr_%s.h5ad" % title.replace(" ", "_")
        mk.base(path(name))
        with h5py.File(path(name), "r+") as f:
            def change(item):
                for key in ("encoding-type", "encoding-version", "_index"):
                    if key in item.attrs:
                        value = item.attrs[key]
                        if kind == "one":
                            item.attrs[key] = np.array([value], dtype=object)
                        elif kind == "fixed":
                            item.attrs.create(key, value, dtype=h5py.string_dtype(length=20))
                        else:
                            item.attrs.create(key, value.encode() if kind == "S10" else value,
                                              dtype=("S%d" % len(value)) if kind == "S10" else kind)
            change(f)
            f.visititems(lambda _, item: change(item))
            f["obs"].attrs.create("column-order", np.array([b"x"], "S4"))
        fine(title, meta(name, "data.batch_key=x"), genes=GENES)
    var = pd.DataFrame({"a": np.arange(G)}, index=pd.Index(GENES, name="gene_id"))
    mk.base(path("gene_id.h5ad"), var=var)
    with h5py.File(path("gene_id.h5ad"), "r+") as f:
        same("index name", f["var"].attrs["_index"], "gene_id")
        f["var"].attrs["column-order"] = np.array(["gene_id", "a"], dtype=object)
    fine("index listed", meta("gene_id.h5ad"), genes=GENES)
    mk.base(path("no_columns.h5ad"), pd.DataFrame(index=CELLS), pd.DataFrame(index=GENES))
    with h5py.File(path("no_columns.h5ad"), "r+") as f:
        f["obs"].attrs["column-order"] = np.zeros(0)
    refused("no columns", meta("no_columns.h5ad", "data.batch_key=b"), 78, "has no columns")
    for title, change, pattern in (
            ("no index attribute", lambda f: f["obs"].attrs.pop("_index"), "not a dataframe"),
            ("index gone", lambda f: f["obs"].pop("_index"), 'row names "_index"'),
            ("two indices", lambda f: f["obs"].attrs.__setitem__(
                "_index", np.array(["a", "b"], dtype=object)), "holds 2 strings"),
            ("number as index", lambda f: f["obs"].attrs.__setitem__("_index", 3), "where text"),
            ("rows differ", lambda f: mk.texts(CELLS[1:])(f["obs"], "_index") if f["obs"].pop("_index")
             else None, "40 rows where obs has 39")):
        name = "frame_%s.h5ad" % title.replace(" ", "_")
        mk.base(path(name))
        with h5py.File(path(name), "r+") as f:
            change(f)
        refused(title, meta(name), 65, pattern)
    mk.base(path("repeats.h5ad"), pd.DataFrame(index=["a", "a"] + CELLS[2:]),
            pd.DataFrame(index=["G0"] + GENES[:-1]))
    warnings = fine("repeats", meta("repeats.h5ad"))["warnings"]
    check("warns of cells", 'cell names repeat (first: "a")' in warnings, warnings)
    check("warns of genes", '"G0"' in warnings and "1 of 12 gene names repeat" in warnings, warnings)


def test_genes():
    file = "base.h5ad"

    def genes(name, text, *more, **expected):
        fine(name, meta(file, "data.subset_genes=" + text, *more), **expected)
    genes("names", "G7,G2,G11", genes=["G7", "G2", "G11"], gene_column=[7, 2, 11],
          gene_var=[7, 2, 11])
    genes("indices", "7,2,11", genes=["G7", "G2", "G11"], gene_column=[7, 2, 11])
    for name, text, code, pattern in (
            ("gene missing", "G1,GX9,H2", 78, r"subset_genes: 2 of 3 genes are not in .*var: GX9, H2; "
                                              r'did you mean "G9" for "GX9"'),
            ("case", "g1", 78, 'did you mean "G1" for "g1"'),
            ("nothing near", "ENSG00000", 78, 'its names look like "G0"'),
            ("many missing", ",".join("gone%d" % i for i in range(25)), 78, r"gone19 and 5 more"),
            ("twice", "G1,G2,G1", 78, r"subset_genes: .*G1\b.*listed twice"),
            ("index twice", "1,2,01", 78, r'subset_genes: gene "01" is listed twice'),
            ("index beyond", "1,12", 78, r"index 12 is outside 0 to 11"),
            ("index below", "1,-1", 78, r"index -1 is outside"),
            ("mixed", "1,G2", 78, r"1 of 2 genes are not in .*var: 1;")):
        refused(name, meta(file, "data.subset_genes=" + text), code, pattern)
    mk.base(path("numbers.h5ad"), var=pd.DataFrame(index=[str(100 - j) for j in range(G)]))
    fine("integers that are names", meta("numbers.h5ad", "data.subset_genes=95,100"),
         gene_column=[5, 0])
    fine("integers that are no names", meta("numbers.h5ad", "data.subset_genes=5,0"),
         gene_column=[5, 0], genes=["95", "100"])
    refused("repeat asked for", meta("repeats.h5ad", "data.subset_genes=G0"), 65,
            'gene "G0" occurs more than once')
    fine("repeat not asked for", meta("repeats.h5ad", "data.subset_genes=G1,G5"), gene_column=[2, 6])


def test_flags():
    flags = np.arange(G) % 3 == 1
    kept = [GENES[j] for j in range(G) if flags[j]]
    enum = h5py.enum_dtype({"TRUE": 0, "FALSE": 1}, basetype="u1")
    none = np.zeros(G, bool)
    mask = np.arange(G) == 4
    holes = np.where(mask, -1, flags).astype("i1")
    missing = r"var/highly_variable: 1 of 12 rows are .*missing \(first: row 4\)"
    cases = [
        ("enum", mk.dataset(flags), None),
        ("uint8", mk.dataset(flags.astype("u1")), None),
        ("int64", mk.dataset(flags.astype("i8")), None),
        ("float", mk.dataset(flags.astype("f4")), None),
        ("nullable", mk.nullable("nullable-boolean", flags, none), None),
        ("categorical", mk.categorical(flags.astype("i1"), ["False", "True"]), None),
        ("bool categorical", mk.categorical(flags.astype("i1"), [False, True]), None),
        ("text", mk.texts([str(f) for f in flags]), None),
        ("R text", mk.texts([str(f).upper() for f in flags]), None),
        ("reversed enum", lambda g, n: g.create_dataset(n, data=(~flags).astype("u1"), dtype=enum), None),
        ("nan", mk.dataset(np.where(mask, np.nan, flags)), missing),
        ("masked", mk.nullable("nullable-boolean", flags, mask), missing),
        ("code missing", mk.categorical(holes, ["False", "True"]), missing),
        ("two", mk.dataset(flags * 2), "value 2 in row 1 is neither 0 nor 1"),
        ("words", mk.texts(["yes"] * G), 'value "yes" in row 0 is neither True nor False'),
        ("strange", lambda g, n: mk.tag(g.create_group(n), "awkward-array", "0.1.0"), "awkward-array"),
        ("no gene", mk.dataset(none), "flags none of the 12 genes.*use_highly_variable_genes = no")]
    for title, make, refuse in cases:
        name = "flag_%s.h5ad" % title.replace(" ", "_")
        mk.base(path(name))
        mk.replace(path(name), "var/highly_variable", make, ["y", "highly_variable"])
        reply = meta(name)
        if refuse:
            refused("flag " + title, reply, 65, refuse)
        else:
            fine("flag " + title, reply, genes=kept, gene_column=np.nonzero(flags)[0],
                 gene_var=np.nonzero(flags)[0])
    name = "flag_enum.h5ad"
    fine("flag off", meta(name, "data.use_highly_variable_genes=no"), genes=GENES)
    fine("flag overruled", meta(name, "data.subset_genes=G0"), genes=["G0"])
    fine("other flag", meta(name, "data.highly_variable_key=y", "data.use_highly_variable_genes=no"))
    refused("flag key absent", meta(name, "data.highly_variable_key=hvg"), 78,
            r'highly_variable_key.*var has no column "hvg".*subset_genes')
    fine("flag absent", meta("base.h5ad"), genes=GENES)


def test_raw():
    raw = ["r%d" % j for j in range(8)]
    var = ["r6", "r1", "r3", "r0"]
    mk.with_raw(path("raw.h5ad"), raw, var, [True, False, True, True])
    fine("raw flagged", meta("raw.h5ad", "data.counts=raw/X"), genes=["r6", "r3", "r0"],
         gene_column=[6, 3, 0], gene_var=[0, 2, 3], n_file_genes=8)
    fine("raw all", meta("raw.h5ad", "data.counts=raw/X", "data.use_highly_variable_genes=no"),
         genes=raw, gene_var=[3, 1, -1, 2, -1, -1, 0, -1])
    fine("raw subset", meta("raw.h5ad", "data.counts=raw/X", "data.subset_genes=r7,r1"),
         gene_column=[7, 1], gene_var=[-1, 1])
    fine("X of the same", meta("raw.h5ad"), genes=["r6", "r3", "r0"], gene_column=[0, 2, 3])
    mk.with_raw(path("raw2.h5ad"), raw, ["r6", "new"], [True, True])
    refused("flagged gene not in raw", meta("raw2.h5ad", "data.counts=raw/X"), 65,
            'raw/var: gene "new", flagged in .*var, is not in it')
    mk.with_raw(path("raw3.h5ad"), ["r0", "r1", "r1"], ["r0", "r1"], [True, True])
    refused("raw repeats", meta("raw3.h5ad", "data.counts=raw/X"), 65, '"r1" occurs more than once')
    mk.with_raw(path("raw4.h5ad"), ["r0", "r1", "r1"], ["r0", "r1"], [True, False])
    fine("raw repeats elsewhere", meta("raw4.h5ad", "data.counts=raw/X"), gene_column=[0])
    mk.with_raw(path("raw5.h5ad"), ["r0", "r1", "r1"], ["r0", "r1"])
    fine("repeat has no row", meta("raw5.h5ad", "data.counts=raw/X"), gene_var=[0, -1, -1])
    mk.with_raw(path("raw6.h5ad"), ["r0", "r1", "r1"], ["r0", "r1", "r1"])
    fine("same tables", meta("raw6.h5ad", "data.counts=raw/X"), gene_var=[0, 1, 2])
    mk.replace(path("raw6.h5ad"), "raw/var/highly_variable", mk.dataset(np.array([1, 0, 1], bool)),
               ["highly_variable"])
    fine("flag of raw/var", meta("raw6.h5ad", "data.counts=raw/X"), gene_column=[0, 2])
    fine("flag of raw/var is not X's", meta("raw6.h5ad"), n_genes=3)


def test_split():
    words = np.array(["train", "validation", "test", "Val", "valid"])
    expected = np.array([0, 1, 2, 1, 1])
    which = np.arange(N) % 5
    mk.base(path("split.h5ad"), pd.DataFrame({
        "text": words[which], "cat": pd.Categorical(words[which]), "x": np.arange(N),
        "odd": np.where(which == 2, "dev", np.where(which == 1, "eval", "train")),
        "gap": pd.Categorical(np.where(which == 2, None, "train"))}, index=CELLS))
    for key in ("text", "cat"):
        fine("split " + key, meta("split.h5ad", "train.split_key=" + key), split=expected[which])
    refused("split words", meta("split.h5ad", "train.split_key=odd"), 65,
            r'obs/odd: holds "dev" and 1 more where only train')
    refused("split gap", meta("split.h5ad", "train.split_key=gap"), 65, "row 2 has no value")


def test_files():
    mk.foreign(folder)
    for name, code, pattern in (
            ("absent.h5ad", 66, "absent.h5ad: no such file$"),
            ("whole.h5ad/x", 66, "not a directory"),
            ("store.zarr", 65, "a zarr store"), ("v3.zarr", 65, "a zarr store"),
            ("folder", 66, "a directory"), ("empty.h5ad", 65, "not an HDF5 file: it is empty"),
            ("text.h5ad", 65, "not an HDF5 file"), ("packed.h5ad", 65, "gunzip"),
            ("page.h5ad", 65, "web page"), ("lfs.h5ad", 65, "git lfs pull"),
            ("short.h5ad", 65, "truncated"), ("half.h5ad", 65, "truncated"),
            ("newer.h5ad", 65, r"newer HDF5 format \(superblock 7\).*HDF5 1\."),
            ("broken.h5ad", 65, "damaged"), ("tenx3.h5", 65, "10x"), ("tenx2.h5", 65, "10x"),
            ("some.loom", 65, "loom"), ("some.h5mu", 65, "MuData"), ("some.h5seurat", 65, "h5Seurat"),
            ("before05.h5ad", 65, "before 0.5"), ("other.h5", 65, "without /obs"),
            ("no_var.h5ad", 65, "without /var")):
        refused(name, meta(name), code, pattern)
        refused("inspect " + name, dump("inspect", path(name)), code, pattern)
    fine("parallel open of one", dump("parallel", path("whole.h5ad")))
    refused("parallel open of none", dump("parallel", path("absent.h5ad")), 66, "no such file")
    with h5py.File(path("whole.h5ad"), "r+"):
        refused("locked", meta("whole.h5ad"), 74, "locked.*HDF5_USE_FILE_LOCKING=FALSE")
    fine("lock gone", meta("whole.h5ad"))
    for link, expected in (("X", True), ("X/data", True), ("X/data/no", False), ("no/data", False),
                           ("obs", True), ("/obs/_index", True), ("layers/no", False)):
        fine("exists " + link, dump("exists", path("whole.h5ad"), link), exists=expected)
    mk.base(path("links.h5ad"))
    with h5py.File(path("links.h5ad"), "r+") as f:
        f["obs/far"] = h5py.ExternalLink("nowhere.h5", "/there")
        f["obs/soft"] = h5py.SoftLink("/nowhere")
        layout = h5py.VirtualLayout((N,), "i8")
        layout[:] = h5py.VirtualSource("nowhere.h5", "x", (N,))
        f["obs"].create_virtual_dataset("virtual", layout)
        f["obs"].create_dataset("outside", (N,), "i8", external=[("nowhere.raw", 0, 8 * N)])
        f["obs"].attrs["column-order"] = np.array(["far", "soft", "virtual", "outside"], dtype=object)
    for key, pattern in (("far", 'link to "/there" in the file "nowhere.h5"'),
                         ("soft", 'link to "/nowhere", which does not exist'),
                         ("virtual", "a virtual dataset"), ("outside", "external storage")):
        refused(key, meta("links.h5ad", "data.batch_key=" + key), 65, "obs/%s: .*%s" % (key, pattern))
    fine("links unused", meta("links.h5ad"))
    text = fine("inspect links", dump("inspect", path("links.h5ad")))["text"]
    same("all said", text.count("cannot be used"), 4)


def test_permission():
    os.chmod(folder, 0o755)
    os.chmod(path("whole.h5ad"), 0)
    if os.getuid() != 0:
        refused("permission", meta("whole.h5ad"), 66, "no permission")
        os.chmod(path("whole.h5ad"), 0o644)
        return

    def become_nobody():
        os.setgid(65534)
        os.setuid(65534)
    copy = path("copy_of_dump")
    shutil.copy(DUMP, copy)  # the build folder may be closed to others
    os.chmod(copy, 0o755)
    other = subprocess.run([copy], input=("inspect\t%s\n" % path("whole.h5ad")).encode(), cwd="/",
                           stdout=subprocess.PIPE, preexec_fn=become_nobody, timeout=60,
                           env=dict(os.environ, HOME="/nonexistent", TMPDIR="/tmp"))
    reply = json.loads(other.stdout.splitlines()[0]) if other.stdout else {"status": -1, "error": ""}
    refused("permission", reply, 66, "no permission")
    os.chmod(path("whole.h5ad"), 0o644)


def test_inspect():
    obs = pd.DataFrame({"n": np.linspace(0, 1, N), "donor": pd.Categorical.from_codes(CODES, LEVELS),
                        "batch_id": ["p", "q"] * 20, "leiden": pd.Categorical(CODES.astype(str)),
                        "hole": pd.Categorical.from_codes(np.where(CODES == 1, -1, 0), ["a"])},
                       index=CELLS)
    mk.base(path("inspect.h5ad"), obs)
    mk.replace(path("inspect.h5ad"), "layers/counts", mk.dataset(mk.COUNTS.toarray().astype("u2")))
    mk.replace(path("inspect.h5ad"), "layers/zero", mk.dataset(np.zeros((N, G))))
    with h5py.File(path("inspect.h5ad"), "r+") as f:
        f["X/data"][7] = 0.5
        f["obsm/X_pca"] = np.zeros((N, 3))
        f["uns/neighbors/params"] = 1
    text = fine("inspect", dump("inspect", path("inspect.h5ad")))["text"]
    for pattern in (r"X +CSR +float32 +40 x 12 +%d values .*not counts: holds 0.5\n" % mk.COUNTS.nnz,
                    r"layers/counts +dense +uint16 .*counts, largest %d\n" % mk.COUNTS.max(),
                    r"layers/zero +dense +float64 .*only zeros\n", r"obs: 40 rows \(cell_00, ",
                    r"n +float64 +0 to 1\n", r"donor +categorical +3 categories: b10, b1, b2\n",
                    r"batch_id +categorical +2 categories: p, q\n",
                    r"hole +categorical +1 category: a; 13 missing\n", r"y +int64 +12 different: 0, 1, ",
                    r"obsm +X_pca \(40 x 3\)\n", r"uns +neighbors\n",
                    r"\n\[data\]\ninput = .*inspect.h5ad\ncounts = layers/counts\nbatch_key = batch_id\n"
                    r"# other columns that could be the batch: donor \(3\)\nlabels_key = leiden\n"):
        check("inspect " + pattern, re.search(pattern, text), text)
    with h5py.File(path("inspect.h5ad"), "r+") as f:
        f["layers/counts"][3, 3] = 1
        del f["layers/counts"]
    text = dump("inspect", path("inspect.h5ad"))["text"]
    check("no counts", "# no matrix of this file holds raw counts" in text, text)
    mk.compound(path("inspect_old.h5ad"))
    text = fine("inspect 0.6", dump("inspect", path("inspect_old.h5ad")))["text"]
    for pattern in ("0.6 and older", r"raw/X +CSR", r"batch +categorical +3 categories: b10, b1, b2",
                    r"raw.var: 12 rows"):
        check("inspect 0.6 " + pattern, re.search(pattern, text), text)


def test_ranks():
    """Three ranks: rank 0 holds the cells, all hold the rest; errors are everyone's."""
    ranks = Dump(3)
    words = ("meta", "data.input=" + path("base.h5ad"), "data.batch_key=batch", "data.labels_key=label")
    alone = dump(*words)
    reply = fine("three ranks", ranks(*words), batch=CODES)
    last = reply.pop("last", {})
    for key in alone:
        same("ranks " + key, reply[key], alone[key])
    for key in last:
        if key not in ("batch", "label", "split", "n_local", "categorical", "continuous",
                       "size_factor"):
            same("last rank " + key, last[key], alone[key])
    same("last rank has no cells", [last.get(k) for k in ("batch", "label", "split", "n_local")],
         [None, None, None, 0])
    refused("error of three", ranks("meta", "data.input=" + path("absent.h5ad")), 66, "no such file")
    refused("error of three", ranks(*words[:2], "data.batch_key=no"), 78, '"no"')
    fine("parallel", ranks("parallel", path("base.h5ad")))
    refused("parallel damaged", ranks("parallel", path("short.h5ad")), 65, "truncated")
    refused("parallel absent", ranks("parallel", path("absent.h5ad")), 66, "no such file")
    fine("still alive", ranks(*words))
    same("ranks end well", ranks.close(), 0)


try:
    for test in (test_baseline, shards_of_many, test_columns, test_numbers, test_covariates,
                 test_labels_needed, test_slabs, test_eras, test_lzf_data, test_strings,
                 test_attributes, test_genes, test_flags, test_raw, test_split, test_files,
                 test_permission, test_inspect, test_ranks):
        test()
    same("ends well", dump.close(), 0)
finally:
    shutil.rmtree(folder)
print("%d checks, %d failed" % (n_checks, len(faults)))
sys.exit(1 if faults or n_checks < 950 else 0)
