"""Inputs that must be refused: the same line and status on all ranks, whatever their number."""
import os

import h5py
import numpy as np
import scipy.sparse as sp

import read_run
from h5ad_make import counts, frame, genes, new_file, put_dense, put_parts, put_sparse, tag
from read_run import Case

N, G = 60, 20
VALUES = counts(N, G)
BADDATA, IOERR, CONFIG = 65, 74, 78


class Maker:
    def __init__(self, folder):
        self.folder, self.cases = folder, []

    def path(self, name):
        return os.path.join(self.folder, name + ".h5ad")

    def file(self, name):
        return new_file(self.path(name), N, G)

    def refuse(self, name, code, text, settings=(), path=None, **more):
        self.cases.append(Case(name, path or self.path(name), settings, error=(code, text), **more))


def parts(layout="csr", values=VALUES):
    matrix = (sp.csr_matrix if layout == "csr" else sp.csc_matrix)(values)
    return [matrix.data.astype("f8"), matrix.indices.astype("i8"), matrix.indptr.astype("i8")]


def damaged(make):
    def sparse(name, text, edit, layout="csr", dtypes=("f4", "i8", "i8"), **options):
        pieces = parts(layout)
        edit(pieces)
        with make.file(name) as file:
            put_parts(file, "X", layout, pieces, VALUES.shape, dtypes=dtypes, **options)
        make.refuse(name, BADDATA, text)

    def put(which, where, value):
        return lambda pieces: pieces[which].__setitem__(where, value)

    row = int(np.searchsorted(parts()[2], 200, side="right")) - 1
    sparse("decreasing", "X: damaged: indptr decreases at row 40 (to 3)", put(2, 41, 3))
    sparse("negative", "indptr decreases", put(2, 41, -2147483000))
    sparse("index_high",
           "X: damaged: row %d refers to gene number 20, but there are 20 genes" % row,
           put(1, 200, G))
    sparse("index_wide", "gene number %d, but" % (2 ** 40), put(1, 200, 2 ** 40))
    sparse("index_negative", "gene number -1, but", put(1, 200, -1))
    sparse("row_high", "refers to row 60, but there are 60 rows", put(1, 200, N), layout="csc")
    sparse("row_negative", "refers to row -5, but there are 60 rows", put(1, 200, -5), layout="csc")
    sparse("decreasing_csc", "X: damaged: indptr decreases at column 4 (to 1)", put(2, 5, 1),
           layout="csc")
    sparse("starts_at_1", "X: damaged: indptr begins with 1 instead of 0", put(2, 0, 1))
    sparse("starts_at_1_csc", "X: damaged: indptr begins with 1 instead of 0", put(2, 0, 1),
           layout="csc")
    sparse("ends_early", "indptr ends at", put(2, N, parts()[2][N] - 1))
    sparse("ends_late_csc", "indptr says column 19 ends at", put(2, G, 10 ** 12), layout="csc")
    sparse("short_indices", "values in data but",
           lambda p: p.__setitem__(1, p[1][:-3]))
    sparse("short_indptr", "indptr has 60 values where the shape 60 x 20 needs 61",
           lambda p: p.__setitem__(2, p[2][:-1]))
    sparse("float_indptr", "X/indptr: holds no integers", lambda p: None, dtypes=("f4", "i4", "f8"))
    sparse("no_shape", 'X: no attribute "shape"', lambda p: None, shape_type=None)
    sparse("text_data", "X/data: holds no numbers", lambda p: None, dtypes=("S4", "i4", "i4"))


def not_matrices(make):
    with make.file("unmarked") as file:
        put_sparse(file, "X", "csr", VALUES)
        del file["X"].attrs["encoding-type"]
    make.refuse("unmarked", BADDATA, 'X: a group without "encoding-type"')
    with make.file("unknown") as file:
        put_sparse(file, "X", "csr", VALUES).attrs["encoding-type"] = "coo_matrix"
    make.refuse("unknown", BADDATA, 'X: encoding "coo_matrix" is not one of')
    with make.file("incomplete") as file:
        put_sparse(file, "X", "csr", VALUES)
        del file["X/indices"]
    make.refuse("incomplete", BADDATA, "X/indices: missing")
    with make.file("flat") as file:
        put_dense(file, "X", VALUES[:, 0], "f4")
    make.refuse("flat", BADDATA, "X: has 1 dimensions where 2 are needed")
    with make.file("text") as file:
        put_dense(file, "X", VALUES, "S3")
    make.refuse("text", BADDATA, "X: holds no numbers")
    with make.file("colours") as file:
        colours = h5py.special_dtype(enum=("i1", {"RED": 0, "BLUE": 1}))
        file.create_dataset("X", data=(VALUES > 0).astype("i1"), dtype=colours)
    make.refuse("colours", BADDATA, "X: an enumeration other than FALSE, TRUE")
    with make.file("filtered") as file:
        create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        create.set_chunk((N, G))
        create.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
        space = h5py.h5s.create_simple((N, G))
        data = h5py.h5d.create(file.id, b"X", h5py.h5t.IEEE_F32LE, space, create)
        data.write_direct_chunk((0, 0), b"\x28\xb5\x2f\xfd" + b"\0" * 60, 0)
    make.refuse("filtered", BADDATA, "32015")


def absent(make):
    with make.file("no_x") as file:
        put_sparse(file.create_group("layers"), "counts", "csr", VALUES)
        raw = file.create_group("raw")
        put_sparse(raw, "X", "csr", VALUES)
        frame(raw, "var", genes(G))
        file["layers"].create_dataset("hollow", dtype="f4", data=h5py.Empty("f4"))
    text = "the file has layers/counts, layers/hollow, raw/X"
    make.refuse("no_x", CONFIG, "no X; " + text)
    make.refuse("no_layer", CONFIG, "no layers/foo; " + text, ["data.counts=layers/foo"],
                make.path("no_x"))
    make.refuse("null_layer", CONFIG, "no layers/hollow; ", ["data.counts=layers/hollow"],
                make.path("no_x"))
    with make.file("null_x") as file:
        tag(file.create_dataset("X", data=h5py.Empty("f4")), "null", "0.1.0")
    make.refuse("null_x", CONFIG, "no X; the file has no matrix at all")
    with make.file("elsewhere") as file:
        file["X"] = h5py.ExternalLink("missing.h5", "/X")
    make.refuse("elsewhere", BADDATA, 'X: "X" is a link into another file')
    with make.file("elsewhere_part") as file:
        put_sparse(file, "X", "csr", VALUES)
        del file["X/data"]
        file["X/data"] = h5py.ExternalLink("no_x.h5ad", "/layers/counts/data")
    make.refuse("elsewhere_part", BADDATA, "link into another file")
    with make.file("virtual") as file:
        layout = h5py.VirtualLayout((N, G), "f4")
        layout[:] = h5py.VirtualSource(make.path("no_x"), "absent", (N, G))
        file.create_virtual_dataset("X", layout)
    make.refuse("virtual", BADDATA, "X: a virtual dataset")
    with make.file("dangling") as file:
        file["X"] = h5py.SoftLink("/nowhere")
    make.refuse("dangling", BADDATA, "nowhere")


def bad_values(make):
    """Two bad values: the one in the earlier row is shown, the number is that of both."""
    def write(file, layout, values, dtype="f8"):
        if layout == "dense":
            put_dense(file, "X", values, dtype, chunks=(7, 6))
        else:
            put_sparse(file, "X", layout, values, dtypes=(dtype, "i4", "i4"))

    kinds = {"negative": (-3, "-3 is negative", "f8"), "nan": (np.nan, "nan is not a number", "f4"),
             "infinite": (np.inf, "inf is infinite", "f4"),
             "fraction": (0.25, "0.25 is not a whole number", "f8"),
             "float_limit": (2.0 ** 24 + 2, "16777218 is above 2^24", "f4"),
             "double_limit": (2.0 ** 53, "is too large to be exact", "f8"),
             "integer_limit": (2 ** 53 + 1, "is too large to be exact", "i8"),
             "negative_integer": (-1, "-1 is negative", "i2")}
    for name, (value, text, dtype) in kinds.items():
        for layout in ("csr", "csc", "dense"):
            values = VALUES.astype("i8" if dtype[0] == "i" else "f8")
            values[47, 2] = value
            values[31, 13] = value
            case = "%s_%s" % (name, layout)
            with make.file(case) as file:
                write(file, layout, values, dtype)
            where = "X: row 31 (cell31), gene g13: "
            make.refuse(case, BADDATA, where)
            make.refuse(case + "_text", BADDATA, text, path=make.path(case))
            make.refuse(case + "_number", BADDATA, "(first of 2 such values)", path=make.path(case))
            # Genes not used may hold anything: g13 left out, the later row is the first.
            make.refuse(case + "_genes", BADDATA, "X: row 47 (cell47), gene g2: ",
                        ["data.subset_genes=g5,g2"], make.path(case))
    for name in ("negative", "nan", "infinite"):
        make.refuse(name + "_allowed", BADDATA, "X: row 31", ["data.allow_non_counts=yes"],
                    make.path(name + "_csr"))
    make.refuse("fraction_alone", BADDATA,
                "no other matrix of the file holds counts; to accept fractions set [data] "
                "allow_non_counts = yes", path=make.path("fraction_csr"))
    make.refuse("negative_alone", BADDATA, "such values); no other matrix of the file holds counts",
                path=make.path("negative_dense"))
    make.refuse("float_limit_cure", BADDATA, "if it is a count, store the matrix as integers",
                path=make.path("float_limit_csc"))


def cures(make):
    logged = np.log1p(VALUES)
    with make.file("cure_layer") as file:
        put_dense(file, "X", logged, "f4")
        put_dense(file.create_group("layers"), "also_logged", logged, "f4")
        put_sparse(file["layers"], "counts", "csc", VALUES)
    make.refuse("cure_layer", BADDATA,
                "; layers/counts holds counts: set [data] counts = layers/counts")
    make.refuse("cure_layer_from_layer", BADDATA, "; layers/counts holds counts",
                ["data.counts=layers/also_logged"], make.path("cure_layer"))
    with make.file("cure_raw") as file:
        put_sparse(file, "X", "csr", logged)
        put_dense(file.create_group("layers"), "zero", 0 * logged, "f4")
        raw = file.create_group("raw")
        put_dense(raw, "X", counts(N, G + 5), "u2")
        frame(raw, "var", genes(G + 5))
    make.refuse("cure_raw", BADDATA, "; raw/X holds counts: set [data] counts = raw/X")
    with make.file("cure_x") as file:
        put_sparse(file, "X", "csr", VALUES)
        put_dense(file.create_group("layers"), "scaled", logged - 1, "f4")
    make.refuse("cure_x", BADDATA, "; X holds counts: set [data] counts = X",
                ["data.counts=layers/scaled"])
    with make.file("cure_broken") as file:  # a damaged matrix is no cure, and no obstacle
        put_sparse(file, "X", "csr", logged)
        put_sparse(file.create_group("layers"), "counts", "csr", VALUES)
        del file["layers/counts/indices"]
    make.refuse("cure_broken", BADDATA, "no other matrix of the file holds counts")


def empty_cells(make):
    values = VALUES.copy()
    values[[3, 17, 18, 30, 44, 58, 59]] = 0
    for layout in ("csr", "csc"):
        with make.file("empty_" + layout) as file:
            put_sparse(file, "X", layout, values)
        make.refuse("empty_" + layout, BADDATA,
                    "X: 7 of 60 cells have no counts over the 20 genes used (rows 3, 17, 18, 30, "
                    "44, ...); remove them, or set [data] empty_cells = nan")
    values = VALUES.copy()
    values[33, :2] = 0
    values[:33, 0] += 1
    values[34:, 1] += 1
    with make.file("empty_chosen") as file:
        put_dense(file, "X", values, "f4")
    make.refuse("empty_chosen", BADDATA,
                "1 of 60 cells have no counts over the 2 genes used (row 33)",
                ["data.subset_genes=g0,g1"])


def corrupt_blocks(make):
    """Bytes overwritten in one compressed chunk near the end, which one rank reads."""
    storage = dict(compression="gzip", fletcher32=True)
    for layout in ("csr", "csc", "dense"):
        name = "corrupt_" + layout
        with make.file(name) as file:
            if layout == "dense":
                put_dense(file, "X", VALUES, "f4", chunks=(10, G), **storage)
            else:
                put_sparse(file, "X", layout, VALUES, storage=dict(storage, chunks=(64,)))
        with h5py.File(make.path(name), "r") as file:
            data = file["X"] if layout == "dense" else file["X/data"]
            chunk = data.id.get_chunk_info(data.id.get_num_chunks() - 2)
        with open(make.path(name), "r+b") as raw:
            raw.seek(chunk.byte_offset + 8)
            raw.write(b"\xff" * (chunk.size - 16))
        make.refuse(name, IOERR, make.path(name) + ": X: ")


def run(program, folder):
    make = Maker(folder)
    for part in (damaged, not_matrices, absent, bad_values, cures, empty_cells, corrupt_blocks):
        part(make)
    read_run.run_all(program, make.cases, (1, 2, 3), [read_run.DEFAULT], folder)
    # Tiny blocks; with the smallest "giant" size rank 0 reads single chunks for the others.
    read_run.run_all(program, make.cases, (3,), [read_run.TINY], folder)
