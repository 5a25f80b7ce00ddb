"""Inputs that must be read: every layout, type, chunking and selection."""
import os

import h5py
import numpy as np
import scipy.sparse as sp

import read_run
from h5ad_make import counts, frame, genes, messy, new_file, put_dense, put_parts, put_sparse
from read_run import Case

N, G = 50, 20
VALUES = counts(N, G)
GZIP = {"compression": "gzip", "shuffle": True, "fletcher32": True}


class Maker:
    def __init__(self, folder):
        self.folder, self.cases = folder, []

    def path(self, name):
        return os.path.join(self.folder, name + ".h5ad")

    def add(self, name, matrix=VALUES, settings=(), **more):
        path = more.pop("path", self.path(name))
        self.cases.append(Case(name, path, settings, matrix=matrix, **more))

    def file(self, name, n_rows=N, n_columns=G, **options):
        return new_file(self.path(name), n_rows, n_columns, **options)


def sparse_variants(make):
    variants = {  # name: (layout, dtypes, options)
        "csr_f4": ("csr", ("f4", "i4", "i4"), {}),
        "csr_u2_u2": ("csr", ("u2", "u2", "i4"), {}),
        "csr_i8_i8": ("csr", ("f4", "i8", "i8"), {}),
        "csr_big_endian": ("csr", (">f4", ">i4", ">i8"), {}),
        "csr_u8_indptr": ("csr", ("u4", "u4", "u8"), {}),
        "csr_shape_i4": ("csr", ("f4", "i4", "i4"), {"shape_type": "i4"}),
        "csr_shape_f8": ("csr", ("f4", "i4", "i4"), {"shape_type": "f8"}),
        "csr_gzip": ("csr", ("f4", "i4", "i4"), {"storage": dict(GZIP, chunks=(37,))}),
        "csr_lzf": ("csr", ("f4", "i4", "i4"), {"storage": dict(compression="lzf", chunks=(53,))}),
        "csr_contiguous": ("csr", ("f8", "i4", "i4"), {"storage": {"chunks": None}}),
        "csc_f4": ("csc", ("f4", "i4", "i4"), {}),
        "csc_i8": ("csc", ("i8", "i8", "i8"), {}),
        "csc_gzip": ("csc", ("f4", "i4", "i4"), {"storage": dict(GZIP, chunks=(41,))}),
    }
    for dtype in ("f2", "f8", "i1", "i2", "i4", "u1", "u4", "u8"):
        variants["csr_data_" + dtype] = ("csr", (dtype, "i4", "i4"), {})
    small = np.minimum(VALUES, 100)
    for name, (layout, dtypes, options) in variants.items():
        values = small if dtypes[0] in ("i1", "u1") else VALUES
        with make.file(name) as file:
            put_sparse(file, "X", layout, values, dtypes=dtypes, **options)
        make.add(name, matrix=values)
    for layout in ("csr", "csc"):
        with make.file("messy_" + layout) as file:
            put_parts(file, "X", layout, messy(VALUES, layout), VALUES.shape)
        make.add("messy_" + layout)


def booleans(make):
    """TRUE and FALSE by name, whatever their codes."""
    ones = (VALUES > 0).astype(np.int64)
    matrix = sp.csr_matrix(ones)
    usual = h5py.special_dtype(enum=("i1", {"FALSE": 0, "TRUE": 1}))
    reverse = h5py.special_dtype(enum=("u1", {"TRUE": 0, "FALSE": 1}))
    for name, dtype, data in (("bool", usual, matrix.data),
                              ("bool_reversed", reverse, 1 - matrix.data)):
        with make.file(name) as file:
            group = put_parts(file, "X", "csr", (matrix.data, matrix.indices, matrix.indptr),
                              ones.shape, storage={"chunks": None})
            del group["data"]
            group.create_dataset("data", data=data, dtype=dtype)
        make.add(name, matrix=ones)


def dense_variants(make):
    shapes = {"contiguous": {}, "tiles": dict(GZIP, chunks=(7, 3)),
              "rows": dict(GZIP, chunks=(1, G)), "columns": dict(GZIP, chunks=(N, 1)),
              "strips": {"chunks": (13, 20)},
              "one": dict(GZIP, chunks=(N, G)), "wide": dict(compression="lzf", chunks=(3, 15))}
    for name, storage in shapes.items():
        with make.file("dense_" + name) as file:
            put_dense(file, "X", VALUES, "f8" if name == "contiguous" else "f4", **storage)
        make.add("dense_" + name)
        make.add("dense_%s_genes" % name, path=make.path("dense_" + name),
                 matrix=VALUES[:, [17, 2, 3, 11]],
                 settings=["data.subset_genes=g17,g2,g3,g11", "data.empty_cells=nan"],
                 genes=["g17", "g2", "g3", "g11"])
    for dtype in ("u2", "i8", "f2", ">f8", "u8"):
        name = "dense_" + dtype.replace(">", "be_")
        with make.file(name) as file:
            put_dense(file, "X", VALUES, dtype)
        make.add(name)
    with make.file("dense_marked_sparse") as file:  # anndata 0.6
        put_dense(file, "X", VALUES, "f4", tagged=False).attrs["sparse_format"] = "csr"
    make.add("dense_marked_sparse")


def selections(make):
    """Genes in the order asked for; flags; cells' facts; other matrices of the file."""
    flags = np.array(["True" if g % 3 == 0 else "False" for g in range(G)])
    obs = {"batch": ["b%d" % (i * 7 % 3) for i in range(N)],
           "kind": ["k%d" % (i % 2) for i in range(N)],
           "part": [("train", "validation", "test")[i % 3] for i in range(N)]}
    facts = dict(batch=[i * 7 % 3 for i in range(N)], label=[i % 2 for i in range(N)],
                 split=[i % 3 for i in range(N)])
    for layout in ("csr", "csc"):
        name = "select_" + layout
        with make.file(name, obs=obs, var={"highly_variable": flags}) as file:
            put_sparse(file, "X", layout, VALUES, storage=dict(GZIP, chunks=(41,)))
        chosen = [g for g in range(G) if g % 3 == 0]
        quiet = ["data.empty_cells=nan"]
        make.add(name, matrix=VALUES[:, chosen], genes=["g%d" % g for g in chosen],
                 settings=quiet + ["data.batch_key=batch", "data.labels_key=kind",
                                   "train.split_key=part"], **facts)
        order = [19, 0, 5, 4]
        make.add(name + "_order", path=make.path(name), matrix=VALUES[:, order],
                 settings=quiet + ["data.subset_genes=g19,g0,g5,g4"],
                 genes=["g%d" % g for g in order])
        make.add(name + "_last", path=make.path(name), matrix=VALUES[:, [19]],
                 settings=quiet + ["data.subset_genes=g19"])
    more = counts(N, G + 9, seed=5)
    with make.file("places") as file:
        put_dense(file, "X", np.log1p(VALUES), "f4")
        put_sparse(file.create_group("layers"), "counts", "csr", VALUES)
        put_sparse(file["layers"], "by_column", "csc", VALUES, dtypes=("u2", "i4", "i4"))
        raw = file.create_group("raw")
        put_sparse(raw, "X", "csr", more)
        frame(raw, "var", genes(G + 9))
    make.add("layer", path=make.path("places"), settings=["data.counts=layers/counts"])
    make.add("layer_csc", path=make.path("places"), settings=["data.counts=layers/by_column"])
    make.add("raw", path=make.path("places"), matrix=more, settings=["data.counts=raw/X"],
             genes=genes(G + 9))
    make.add("integers_allowed", path=make.path("places"),
             settings=["data.counts=layers/by_column", "data.allow_non_counts=yes"])
    make.add("fractions", path=make.path("places"), matrix=np.log1p(VALUES).astype("f4"),
             settings=["data.allow_non_counts=yes"])


def emptiness(make):
    nan = ["data.empty_cells=nan"]
    for layout in ("csr", "csc"):
        with make.file("none_" + layout) as file:
            put_sparse(file, "X", layout, np.zeros((N, G), np.int64))
        make.add("none_" + layout, matrix=np.zeros((N, G)), settings=nan)
        values = VALUES.copy()
        values[[0, 1, 20, N - 1]] = 0
        values[:, [0, 7, G - 1]] = 0
        values[np.arange(2, 20), 1] += 1
        with make.file("ends_" + layout) as file:
            put_sparse(file, "X", layout, values)
        make.add("ends_" + layout, matrix=values, settings=nan)
        with make.file("few_" + layout, 3, 4) as file:
            put_sparse(file, "X", layout, counts(3, 4))
        make.add("few_" + layout, matrix=counts(3, 4))
    with make.file("few_dense", 2, 3) as file:
        put_dense(file, "X", counts(2, 3), "f4", **dict(GZIP, chunks=(2, 3)))
    make.add("few_dense", matrix=counts(2, 3))


def large_values(make):
    values = np.zeros((N, G))
    values[:, 0] = 1
    values[np.arange(40), 1 + np.arange(40) % 19] = 2.0 ** np.arange(40) + 1
    for layout, dtype in (("csr", "f8"), ("csc", "i8"), ("dense", "u8")):
        with make.file("large_" + layout) as file:
            if layout == "dense":
                put_dense(file, "X", values, dtype)
            else:
                put_sparse(file, "X", layout, values, dtypes=(dtype, "i4", "i4"))
        make.add("large_" + layout, matrix=values)
    limit = values.copy()
    limit[7, 3] = 2.0 ** 24
    limit = np.minimum(limit, 2.0 ** 24)
    with make.file("limit_f4") as file:
        put_sparse(file, "X", "csr", limit)
    make.add("limit_f4", matrix=limit)
    rounded = np.minimum(values, 4096)
    with make.file("rounded_f2") as file:
        put_sparse(file, "X", "csr", rounded, dtypes=("f2", "i4", "i4"))
    make.add("rounded_f2", matrix=rounded.astype("f2").astype("f8"))


def old_files(make):
    """h5sparse marks, raw.X, newest superblock, more than 65,536 genes."""
    matrix = sp.csr_matrix(VALUES)
    with make.file("h5sparse", libver="latest") as file:
        for name in ("X", "raw.X"):
            group = file.create_group(name)
            group.attrs["h5sparse_format"] = "csr"
            group.attrs["h5sparse_shape"] = np.array(VALUES.shape)
            for key in ("data", "indices", "indptr"):
                group.create_dataset(key, data=getattr(matrix, key))
        index = np.zeros(G, dtype=[("index", "S8")])
        index["index"] = [g.encode() for g in genes(G)]
        file.create_dataset("raw.var", data=index)
    make.add("h5sparse")
    make.add("h5sparse_raw", path=make.path("h5sparse"), settings=["data.counts=raw/X"])
    rng = np.random.RandomState(3)
    wide = sp.random(12, 70000, density=0.002, random_state=rng, format="csr")
    wide.data = np.ceil(wide.data * 500)
    for layout in ("csr", "csc"):
        with make.file("wide_" + layout, 12, 70000) as file:
            put_sparse(file, "X", layout, wide)
        make.add("wide_" + layout, matrix=wide, ranks=(1, 3))


def run(program, folder):
    make = Maker(folder)
    for part in (sparse_variants, booleans, dense_variants, selections, emptiness, large_values,
                 old_files):
        part(make)
    tiny_not_wide = [c for c in make.cases if not c.name.startswith("wide")]
    _, warnings = read_run.run_all(program, make.cases, (1, 2, 3), [read_run.DEFAULT], folder)
    read_run.run_all(program, tiny_not_wide, (1, 3, 5), [read_run.TINY], folder)
    compressed = [c for c in tiny_not_wide
                  if any(part in c.name for part in ("gzip", "tiles", "few", "none"))]
    read_run.run_all(program, compressed, (7,), [(1000, 4000, 0)], folder)

    def warned(name, text):
        found = [w for w in warnings[name] if text in w]
        read_run.check(len(found) == 1, name, "should warn once:", text, warnings[name])

    warned("ends_csr", "3 of 20 genes have no count in any cell (first: g0)")
    warned("ends_csc", "4 cells have no counts over the genes used")
    warned("rounded_f2", "stored as 16-bit floats")
    read_run.check(warnings["csr_f4"] == [], "csr_f4 should not warn", warnings["csr_f4"])
