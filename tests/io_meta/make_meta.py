"""Small .h5ad files, one layout or oddity each, for the tests of metadata.

Files that anndata 0.8 can write are written by it; other layouts with h5py, from their description.
"""
import os

import anndata
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

N, G = 40, 12
CELLS = ["cell_%02d" % i for i in range(N)]
GENES = ["G%d" % j for j in range(G)]
LEVELS = ["b10", "b1", "b2"]  # category order, which is not that of the bytes
CODES = np.arange(N) % 3
TEXT = h5py.string_dtype()
COUNTS = sp.csr_matrix(np.random.default_rng(1).poisson(0.7, (N, G)).astype("f4"))


def tag(item, kind, version):
    item.attrs["encoding-type"] = kind
    item.attrs["encoding-version"] = version
    return item


def base(path, obs=None, var=None, **more):
    """Written by anndata itself."""
    obs = pd.DataFrame({"x": np.arange(N)}, index=CELLS) if obs is None else obs
    var = pd.DataFrame({"y": np.arange(G)}, index=GENES) if var is None else var
    anndata.AnnData(X=COUNTS, obs=obs, var=var, dtype="float32").write_h5ad(path, **more)


def replace(path, link, make, columns=None):
    """Replaces or adds an element; make(group, name) writes it."""
    with h5py.File(path, "r+") as f:
        parent, name = link.rsplit("/", 1)
        if link in f:
            del f[link]
        item = make(f[parent], name)
        if columns is not None:
            f[parent].attrs["column-order"] = np.array(columns, dtype=object)
        return item


def categorical(codes, levels, **how):
    def make(g, name):
        c = tag(g.create_group(name), "categorical", "0.2.0")
        c.attrs["ordered"] = False
        tag(c.create_dataset("codes", data=codes), "array", "0.2.0")
        if how.get("nullable"):
            n = tag(c.create_group("categories"), "nullable-string-array", "0.1.0")
            n["values"] = np.array(levels, dtype=object)
            n["mask"] = np.zeros(len(levels), bool)
        else:
            data = np.array(levels, dtype=object if isinstance(levels[0], str) else None)
            c.create_dataset("categories", data=data)
    return make


def nullable(kind, values, mask):
    def make(g, name):
        c = tag(g.create_group(name), kind, "0.1.0")
        c["values"] = values if values.dtype != object else values.astype(object)
        c["mask"] = mask
    return make


def dataset(data, **how):
    def make(g, name):
        tag(g.create_dataset(name, data=data, **how), "array", "0.2.0")
    return make


def texts(values):
    def make(g, name):
        tag(g.create_dataset(name, data=np.array(values, dtype=object), dtype=TEXT),
            "string-array", "0.2.0")
    return make


def fixed_bytes(values, width, padding, cset):
    """Strings of fixed width with the padding and character set that HDF5 can state."""
    def make(g, name):
        kind = h5py.h5t.C_S1.copy()
        kind.set_size(width)
        kind.set_strpad(padding)
        kind.set_cset(cset)
        fill = b" " if padding == h5py.h5t.STR_SPACEPAD else b"\0"
        data = np.array([v.ljust(width, fill) for v in values], "S%d" % width)
        space = h5py.h5s.create_simple((len(values),))
        ident = h5py.h5d.create(g.id, name.encode(), kind, space)
        ident.write(h5py.h5s.ALL, h5py.h5s.ALL, data, mtype=kind)
    return make


def raw_vlen(values, charset):
    """Bytes as they are, whatever character set is stated."""
    def make(g, name):
        g.create_dataset(name, data=np.array(values, dtype=object), dtype=h5py.string_dtype(charset))
    return make


def old_sparse(f, link):
    g = f.create_group(link)
    g.attrs["h5sparse_format"] = "csr"
    g.attrs["h5sparse_shape"] = COUNTS.shape
    g["data"], g["indices"], g["indptr"] = COUNTS.data, COUNTS.indices, COUNTS.indptr


def compound(path, index="index", vlen=False):
    """anndata 0.6 and older."""
    text = TEXT if vlen else "S8"
    with h5py.File(path, "w") as f:
        old_sparse(f, "X")
        old_sparse(f, "raw.X")
        obs = np.zeros(N, [("n", "f4"), (index, text), ("batch", "i1"), ("shared", "i1"),
                           ("one", "i1"), ("flag", "?"), ("word", text)])
        obs[index] = np.array(CELLS, dtype=object if vlen else "S8")
        obs["batch"], obs["shared"] = CODES, np.arange(N) % 2
        obs["word"] = np.array(["w%d" % (i % 2) for i in range(N)], dtype=object if vlen else "S8")
        obs["n"] = np.arange(N) / 4
        f["obs"] = obs
        var = np.zeros(G, [("index", text), ("shared", "i4"), ("highly_variable", "?")])
        var["index"] = np.array(GENES, dtype=object if vlen else "S8")
        var["shared"] = np.arange(G) * 100  # beyond the list in uns, which is that of obs
        var["highly_variable"] = np.arange(G) % 4 == 0
        f["var"] = var
        raw = np.zeros(G, [("index", text), ("kind", "i1")])
        raw["index"] = np.array(GENES, dtype=object if vlen else "S8")
        raw["kind"] = np.arange(G) % 2
        f["raw.var"] = raw
        f["uns/batch_categories"] = np.array(LEVELS, "S")
        f["uns/shared_categories"] = np.array(["even", "odd"], "S")
        f["uns/one_categories"] = np.array(["only"], "S")
        f["raw.cat/kind_categories"] = np.array(["coding", "other"], "S")


def version_07(path, reference):
    """Dataframe 0.1.0; reference: "object", "null" or "none" (no attribute)."""
    base(path)
    with h5py.File(path, "r+") as f:
        for key in list(f.attrs):
            del f.attrs[key]
        obs = f["obs"]
        obs.attrs["encoding-version"] = "0.1.0"
        for item in obs.values():
            for key in list(item.attrs):
                del item.attrs[key]
        obs["batch"] = CODES.astype("i1")
        obs["__categories/batch"] = np.array(LEVELS, dtype=object)
        obs["__categories/batch"].attrs["ordered"] = False
        if reference != "none":
            target = obs["__categories/batch"].ref if reference == "object" else h5py.Reference()
            obs["batch"].attrs.create("categories", target, dtype=h5py.ref_dtype)
        obs["plain"] = np.array([7, 30, 200])[CODES]
        obs.attrs["column-order"] = np.array(["batch", "plain"], dtype=object)


def with_raw(path, raw_genes, var_genes, flags=None):
    """raw/X over raw_genes, X over var_genes; raw/var rows know their own column by name."""
    x = sp.csr_matrix(np.ones((N, len(raw_genes)), "f4"))
    with h5py.File(path, "w") as f:
        tag(f, "anndata", "0.1.0")
        for frame, index in (("obs", CELLS), ("var", var_genes), ("raw/var", raw_genes)):
            g = tag(f.create_group(frame), "dataframe", "0.2.0")
            g.attrs["_index"] = "_index"
            g.attrs["column-order"] = np.array([], dtype="f8")
            texts(index)(g, "_index")
        if flags is not None:
            dataset(np.array(flags))(f["var"], "highly_variable")
            f["var"].attrs["column-order"] = np.array(["highly_variable"], dtype=object)
        for link, matrix in (("raw/X", x), ("X", x[:, :len(var_genes)])):
            g = tag(f.create_group(link), "csr_matrix", "0.1.0")
            g.attrs["shape"] = matrix.shape
            g["data"], g["indices"], g["indptr"] = matrix.data, matrix.indices, matrix.indptr


def unknown_filter(path, link, number):
    """Gives a dataset a filter that nobody has; its one chunk is stored as it is."""
    with h5py.File(path, "r+") as f:
        data = f[link][()]
        tags = dict(f[link].attrs)
        del f[link]
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk(data.shape)
        plist.set_filter(number, h5py.h5z.FLAG_OPTIONAL, (1, 2))
        kind = h5py.h5t.py_create(data.dtype, logical=True)
        ident = h5py.h5d.create(f.id, link.encode(), kind, h5py.h5s.create_simple(data.shape), plist)
        ident.write_direct_chunk((0,) * data.ndim, data.tobytes(), 0)
        for key, value in tags.items():
            f[link].attrs[key] = value


def foreign(folder):
    """Files that are not .h5ad: name -> expected words."""
    def path(name):
        return os.path.join(folder, name)
    os.makedirs(path("store.zarr"))
    open(path("store.zarr/.zgroup"), "w").close()
    os.makedirs(path("v3.zarr"))
    open(path("v3.zarr/zarr.json"), "w").close()
    os.makedirs(path("folder"))
    for name, content in (("empty.h5ad", b""), ("text.h5ad", b"a,b\n1,2\n"),
                          ("packed.h5ad", b"\x1f\x8b\x08rest"), ("page.h5ad", b"<html></html>"),
                          ("lfs.h5ad", b"version https://git-lfs.github.com/spec/v1\n")):
        with open(path(name), "wb") as f:
            f.write(content)
    base(path("whole.h5ad"))
    with open(path("whole.h5ad"), "rb") as f:
        whole = f.read()
    for name, content in (("short.h5ad", whole[:-1]), ("half.h5ad", whole[:len(whole) // 2]),
                          ("newer.h5ad", whole[:8] + b"\x07" + whole[9:]),
                          ("broken.h5ad", whole[:96] + b"\xee" * 4000 + whole[4096:])):
        with open(path(name), "wb") as f:
            f.write(content)
    layouts = {
        "tenx3.h5": ["matrix/barcodes", "matrix/data", "matrix/features/id"],
        "tenx2.h5": ["GRCh38/barcodes", "GRCh38/genes", "GRCh38/data"],
        "some.loom": ["matrix", "col_attrs/CellID", "row_attrs/Gene"],
        "some.h5mu": ["mod/rna/X", "obs/_index", "var/_index"],
        "some.h5seurat": ["assays/RNA/counts", "meta.data/index"],
        "before05.h5ad": ["X_csr_data", "smp", "var"],
        "other.h5": ["something"],
        "no_var.h5ad": ["obs/_index", "X"],
    }
    for name, links in layouts.items():
        with h5py.File(path(name), "w") as f:
            for link in links:
                f[link] = np.arange(3)
