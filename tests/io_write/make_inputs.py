"""Writes the inputs of the output tests: make_inputs.py FOLDER.

modern.h5ad  anndata 0.8, every kind of column, raw with more genes, layers, obsm, varm, uns
odd.h5ad     modern, with columns as other programs write them and some that cannot be kept
bare.h5ad    no obsm, varm, layers, uns
v07.h5ad     layout of anndata 0.7: references to __categories, untagged arrays, no obsm, varm
v06.h5ad     layout of anndata 0.6: compound obs and var, labels in uns
many.h5ad    5,000 obs columns: their list exceeds what an object header holds
"""
import shutil
import sys

import anndata
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

N, G, RAW = 257, 40, 60
folder = sys.argv[1]
rng = np.random.default_rng(5)


def obs_table():
    cells = [f"cell-{i}" for i in range(N)]
    cells[3] = "Zelle-ß-三"
    kinds = np.array(["B", "T naïve", "NK"])[rng.integers(0, 3, N)]
    gappy = pd.Series(kinds).where(rng.random(N) > 0.2)
    many = [f"donor {i % 200}" for i in range(N)]
    obs = pd.DataFrame(index=pd.Index(cells, name="barcode"))
    obs["kind"] = pd.Categorical(kinds, categories=["T naïve", "B", "NK", "unused"])
    obs["gappy"] = pd.Categorical(gappy)
    obs["stage"] = pd.Categorical(rng.integers(0, 3, N) * 10, categories=[20, 10, 0], ordered=True)
    obs["donor"] = pd.Categorical(many)
    obs["score"] = np.where(rng.random(N) < 0.1, np.nan, rng.normal(size=N))
    obs["half"] = rng.normal(size=N).astype(np.float16)
    obs["count"] = rng.integers(-5, 2**40, N)
    obs["small"] = rng.integers(0, 250, N).astype(np.uint8)
    obs["flag"] = rng.random(N) < 0.5
    obs["text"] = [f"note {i}" for i in range(N)]
    obs["maybe"] = pd.array([None if i % 7 == 0 else i for i in range(N)], dtype="Int64")
    perhaps = [None if i % 5 == 0 else i % 2 == 0 for i in range(N)]
    obs["perhaps"] = pd.array(perhaps, dtype="boolean")
    return obs


def var_table():
    var = pd.DataFrame(index=[f"gene{i}" for i in range(G)])
    var["highly_variable"] = np.arange(G) % 3 == 0
    var["symbol"] = [f"SYM {i}" for i in range(G)]
    var["mean"] = rng.random(G).astype(np.float32)
    var["rank"] = np.arange(G)[::-1].copy()
    var["chromosome"] = pd.Categorical([f"chr{i % 4}" for i in range(G)])
    return var


def modern():
    raw = sp.random(N, RAW, 0.3, "csr", random_state=1, data_rvs=lambda n: rng.integers(1, 9, n))
    raw = raw.astype(np.float32)
    names = [f"gene{i}" for i in range(G)] + [f"extra{i}" for i in range(RAW - G)]
    big = anndata.AnnData(raw, obs=obs_table(), var=pd.DataFrame(index=names))
    a = big[:, :G].copy()
    a.raw = big
    a.var = var_table()
    a.layers["counts"] = a.X.copy()
    a.obsm["X_pca"] = rng.normal(size=(N, 2))
    a.varm["PCs"] = rng.normal(size=(G, 2))
    a.uns["kind_colors"] = ["#ff0000", "#00ff00", "#0000ff", "#000000"]
    a.uns["log1p"] = {"base": 2.0}
    a.write_h5ad(f"{folder}/modern.h5ad", compression="gzip")
    return a


def tag(element, kind, version):
    element.attrs["encoding-type"] = kind
    element.attrs["encoding-version"] = version
    return element


def odd():
    path = f"{folder}/odd.h5ad"
    shutil.copy(f"{folder}/modern.h5ad", path)
    with h5py.File(path, "r+") as f:
        obs = f["obs"]
        order = list(obs.attrs["column-order"])
        reverse = h5py.enum_dtype({"TRUE": 0, "FALSE": 1}, basetype="u1")
        tag(obs.create_dataset("reversed", data=np.arange(N) % 2, dtype=reverse), "array", "0.2.0")
        for name, masked in (("words", False), ("words_gaps", True)):
            group = tag(obs.create_group(name), "nullable-string-array", "0.1.0")
            words = np.array([f"w{i % 4}" for i in range(N)], dtype=object)
            group.create_dataset("values", data=words, dtype=h5py.string_dtype())
            group.create_dataset("mask", data=(np.arange(N) % 4 == 1) & masked)
        group = tag(obs.create_group("wide_codes"), "categorical", "0.2.0")
        group.create_dataset("codes", data=np.arange(N) % 3, dtype="u8")
        group.create_dataset("categories", data=np.array(["x", "y", "z"], object),
                             dtype=h5py.string_dtype())
        group.attrs["ordered"] = False
        # the rest cannot be kept
        tag(obs.create_group("ragged"), "awkward-array", "0.1.0")
        obs.create_dataset("matrix", data=np.zeros((N, 2)))
        obs.create_dataset("short", data=np.zeros(N - 1))
        group = tag(obs.create_group("bad_codes"), "categorical", "0.2.0")
        group.create_dataset("codes", data=np.full(N, 7), dtype="i1")
        group.create_dataset("categories", data=np.array(["x"], object), dtype=h5py.string_dtype())
        group.attrs["ordered"] = False
        latin = np.array([b"caf\xe9"] * N)
        tag(obs.create_dataset("latin", data=latin), "string-array", "0.2.0")
        order += ["reversed", "words", "words_gaps", "wide_codes", "ragged", "matrix", "short",
                  "bad_codes", "latin", "absent"]
        obs.attrs["column-order"] = np.array(order, dtype=object)


def bare():
    path = f"{folder}/bare.h5ad"
    shutil.copy(f"{folder}/modern.h5ad", path)
    with h5py.File(path, "r+") as f:
        for name in ("obsm", "varm", "obsp", "varp", "layers", "uns", "raw"):
            if name in f:
                del f[name]


def v07(a):
    text = h5py.string_dtype()
    with h5py.File(f"{folder}/v07.h5ad", "w") as f:
        x = tag(f.create_group("X"), "csr_matrix", "0.1.0")
        x.attrs["shape"] = a.shape
        for part in ("data", "indices", "indptr"):
            x.create_dataset(part, data=getattr(a.X, part))
        for name, table in (("obs", a.obs), ("var", a.var)):
            group = tag(f.create_group(name), "dataframe", "0.1.0")
            columns = [c for c in table.columns if c not in ("maybe", "perhaps", "half")]
            group.attrs["_index"] = "_index"
            group.attrs["column-order"] = np.array(columns, dtype=object)
            group.create_dataset("_index", data=table.index.to_numpy(object), dtype=text)
            for c in columns:
                if isinstance(table[c].dtype, pd.CategoricalDtype):
                    levels = table[c].cat.categories.to_numpy()
                    kind = text if levels.dtype == object else None
                    labels = group.create_dataset(f"__categories/{c}", data=levels, dtype=kind)
                    labels.attrs["ordered"] = table[c].cat.ordered
                    codes = group.create_dataset(c, data=table[c].cat.codes.to_numpy())
                    codes.attrs["categories"] = labels.ref
                elif table[c].dtype == object:
                    group.create_dataset(c, data=table[c].to_numpy(object), dtype=text)
                else:
                    group.create_dataset(c, data=table[c].to_numpy())
        f.create_group("uns").create_dataset("kind_colors", data=np.array(["#f00"], object),
                                             dtype=text)


def v06(a):
    text = h5py.string_dtype()
    with h5py.File(f"{folder}/v06.h5ad", "w") as f:
        x = f.create_group("X")
        x.attrs["h5sparse_format"] = "csr"
        x.attrs["h5sparse_shape"] = a.shape
        for part in ("data", "indices", "indptr"):
            x.create_dataset(part, data=getattr(a.X, part))
        kind = [("index", "S20"), ("kind", "i1"), ("gappy", "i1"), ("score", "f8"), ("flag", "?"),
                ("text", text), ("count", "i8")]
        obs = np.zeros(N, dtype=kind)
        obs["index"] = [s.encode() for s in a.obs_names]
        for c in ("kind", "gappy"):
            obs[c] = a.obs[c].cat.codes
        for c in ("score", "flag", "text", "count"):
            obs[c] = a.obs[c]
        f.create_dataset("obs", data=obs)
        var = np.zeros(G, dtype=[("index", "S20"), ("mean", "f4"), ("chromosome", "i1")])
        var["index"] = [s.encode() for s in a.var_names]
        var["mean"] = a.var["mean"]
        var["chromosome"] = a.var["chromosome"].cat.codes
        f.create_dataset("var", data=var)
        uns = f.create_group("uns")
        for table, c in ((a.obs, "kind"), (a.obs, "gappy"), (a.var, "chromosome")):
            uns.create_dataset(f"{c}_categories", data=table[c].cat.categories.to_numpy(object),
                               dtype=text)


def many():
    columns = [f"column {i}" for i in range(5000)]
    a = anndata.AnnData(np.ones((3, 4), np.float32), obs=pd.DataFrame(index=["a", "b", "c"]))
    a.write_h5ad(f"{folder}/many.h5ad")
    with h5py.File(f"{folder}/many.h5ad", "r+") as f:
        obs = f["obs"]
        index = obs["_index"][:]
        del f["obs"]
        create = h5py.h5p.create(h5py.h5p.GROUP_CREATE)
        create.set_attr_creation_order(h5py.h5p.CRT_ORDER_TRACKED)
        obs = h5py.Group(h5py.h5g.create(f.id, b"obs", gcpl=create))
        tag(obs, "dataframe", "0.2.0")
        obs.attrs["_index"] = "_index"
        obs.attrs["column-order"] = np.array(columns, dtype=object)
        tag(obs.create_dataset("_index", data=index, dtype=h5py.string_dtype()), "string-array",
            "0.2.0")
        for i, c in enumerate(columns):
            tag(obs.create_dataset(c, data=np.full(3, i, "f4")), "array", "0.2.0")


data = modern()
odd()
bare()
v07(data)
v06(data)
many()
