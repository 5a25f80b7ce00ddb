"""Rows 1 to 15 and 20 of the table: encodings of the counts themselves."""
import anndata
import h5py
import numpy as np
import pandas as pd
import scipy.sparse

import layouts as lay
from layouts import COUNTS, GENES, N_CELLS, N_GENES


def standard(book, name, write_x, **options):
    """A file with the standard obs and var whose X is written by `write_x(file)`."""
    with lay.new_file(book.path(name), **options) as file:
        write_x(file)
        lay.standard_obs(file)
        lay.standard_var(file)
        lay.mappings(file)
    return name


def baseline(book):
    obs = pd.DataFrame({
        "batch": pd.Categorical.from_codes(lay.BATCH, lay.BATCHES),
        "cell_type": pd.Categorical.from_codes(lay.LABEL, lay.LABELS),
        "score": np.linspace(0, 1, N_CELLS), "passed": np.arange(N_CELLS) % 3 > 0,
        "note": ["n%d" % (i % 5) for i in range(N_CELLS)]}, index=lay.CELLS)
    obs["note"] = obs["note"].astype(object)
    var = pd.DataFrame({"length": np.arange(N_GENES)}, index=GENES)
    x = scipy.sparse.csr_matrix(COUNTS.astype(np.float32))
    data = anndata.AnnData(x, obs, var, obsm={"X_pca": np.ones((N_CELLS, 2))},
                           uns={"title": "baseline", "nested": {"n": 3}}, dtype=np.float32)
    data.write_h5ad(book.path("row01_csr_f32.h5ad"))
    book.case("baseline", "row01_csr_f32.h5ad", 1, like=None, ranks=[1, 2, 3])


def numeric_types(book):
    standard(book, "row02_dense_f64.h5ad", lambda f: lay.dense(f, "X", COUNTS.astype("f8")))
    book.case("dense", "row02_dense_f64.h5ad", 2, ranks=[1, 3])
    standard(book, "row03_csc_i64.h5ad", lambda f: lay.sparse(f, "X", COUNTS, "csc", np.int64,
                                                              np.int64, np.int64))
    book.case("csc", "row03_csc_i64.h5ad", 3, ranks=[1, 2, 3, 4, 5])

    standard(book, "row04_u16.h5ad", lambda f: lay.sparse(f, "X", COUNTS, "csr", np.uint16,
                                                          np.int32, np.uint16))
    book.case("uint16", "row04_u16.h5ad", 4)
    for kind in ("f2", "f8", "i1", "u1", "i2", "i4", "u4", "i8", "u8", ">f4", ">i4"):
        name = "row04_%s.h5ad" % kind.replace(">", "big_endian_")
        standard(book, name, lambda f: lay.sparse(f, "X", COUNTS, data_type=np.dtype(kind)))
        book.case("type " + kind, name, 4)
    large = COUNTS.copy()
    large[7, 3] = 2**24 + 1
    standard(book, "row04_large_i32.h5ad", lambda f: lay.sparse(f, "X", large, data_type=np.int32))
    book.case("integer over 2^24", "row04_large_i32.h5ad", 4, like=None)
    large[7, 3] = 2**24 + 2
    standard(book, "row04_large_f32.h5ad", lambda f: lay.sparse(f, "X", large))
    book.case("float32 over 2^24", "row04_large_f32.h5ad", 4, code=65, check="free",
              message=r"X\b.*(cell_007|row 7\b).*gene_003.*16777218")

    standard(book, "row05_i64.h5ad", lambda f: lay.sparse(f, "X", COUNTS, "csr", np.int64,
                                                          np.int64))
    book.case("int64 indices", "row05_i64.h5ad", 5)
    standard(book, "row05_u64.h5ad", lambda f: lay.sparse(f, "X", COUNTS, "csr", np.uint32,
                                                          np.uint64))
    book.case("unsigned indices", "row05_u64.h5ad", 5)

    ones = (COUNTS > 0).astype(np.int64)
    standard(book, "row06_ones_f32.h5ad", lambda f: lay.sparse(f, "X", ones))
    book.case("ones", "row06_ones_f32.h5ad", 6, like=None)
    standard(book, "row06_bool.h5ad", lambda f: lay.sparse(f, "X", ones, data_type=bool))
    book.case("bool", "row06_bool.h5ad", 6, like="ones")


def untidy_arrays(layout):
    """Counts as unsorted entries, some split in two, with explicit zeros."""
    rng = np.random.RandomState(5)
    dense = COUNTS if layout == "csr" else COUNTS.T
    data, indices, indptr = [], [], [0]
    for row in dense:
        entries = []
        for column, value in enumerate(row):
            if value > 1:
                entries += [(column, value - 1), (column, 1)]
            else:
                entries += [(column, value)] if value or column % 4 == 0 else []
        for at in rng.permutation(len(entries)):
            indices.append(entries[at][0])
            data.append(entries[at][1])
        indptr.append(len(data))
    return np.array(data, "f4"), np.array(indices, "i4"), np.array(indptr, "i4")


def untidy(book):
    for layout in ("csr", "csc"):
        name = "row07_untidy_%s.h5ad" % layout
        standard(book, name, lambda f: lay.sparse_arrays(f, "X", *untidy_arrays(layout),
                                                         COUNTS.shape, layout))
        book.case("untidy " + layout, name, 7, ranks=[1, 2])


def sized(book, name, counts, layout="csr"):
    n = counts.shape[0]
    with lay.new_file(book.path(name)) as file:
        if layout == "dense":
            lay.dense(file, "X", counts.astype("f4"))
        else:
            lay.sparse(file, "X", counts, layout)
        lay.standard_obs(file, lay.CELLS[:n], lay.BATCH[:n], lay.LABEL[:n])
        lay.standard_var(file)
        lay.mappings(file)
    return lay.obs_digest(lay.CELLS[:n], [lay.BATCHES[b] for b in lay.BATCH[:n]],
                          [lay.LABELS[c] for c in lay.LABEL[:n]])


def empty(book):
    for layout in ("csr", "csc"):
        name = "row08_nnz0_%s.h5ad" % layout
        sized(book, name, np.zeros_like(COUNTS), layout)
        book.case("nnz 0 " + layout, name, 8, code=65, ranks=[1, 2], check="free",
                  message=r"48.*(empty|without counts|no counts).*|(empty|no counts).*48")
        book.case("nnz 0 kept " + layout, name, 8, {"data.empty_cells": "nan"}, code=65,
                  ranks=[1, 2], check="free", message=r"(training|train)")
    ends = COUNTS.copy()
    ends[:2] = 0
    ends[-3:] = 0
    sized(book, "row08_empty_ends.h5ad", ends)
    book.case("empty ends refused", "row08_empty_ends.h5ad", 8, code=65, ranks=[1, 3], check="free",
              message=r"X\b.*\b5 of 48 cells.*rows 0, 1, 45, 46, 47.*empty_cells")
    book.case("empty ends kept", "row08_empty_ends.h5ad", 8, {"data.empty_cells": "nan"},
              ranks=[1, 2, 3], like=None, nan_rows=[0, 1, 45, 46, 47])
    few = {"train.train_size": "0.8"}
    for layout in ("csr", "csc", "dense"):
        name = "row08_five_cells_%s.h5ad" % layout
        digest = sized(book, name, COUNTS[:5], layout)
        book.case("five cells " + layout, name, 8, few,
                  ranks=[1, 3] if layout == "dense" else [1, 7], obs=digest,
                  like=None if layout == "csr" else "five cells csr")


def broken(book):
    def file(name, change, shape=COUNTS.shape):
        arrays = [np.array(a) for a in lay.compress(COUNTS, "csr")]
        changed = change(*arrays)
        standard(book, name, lambda f: lay.sparse_arrays(f, "X", *changed, shape))

    def refused(name, row, message, ranks=(1,)):
        book.case(name, name + ".h5ad", row, code=65, message=message, ranks=list(ranks),
                  inspect="free", check="free")

    def pointer(at, value):
        def change(data, indices, indptr):
            indptr[at] = value
            return data, indices, indptr
        return change

    at = lay.compress(COUNTS, "csr")[2]
    file("row09_indptr_decreasing.h5ad", pointer(18, at[17] - 3))
    refused("row09_indptr_decreasing", 9, r"X.*indptr.*\b1[78]\b", [1, 2])
    file("row09_indptr_overflow.h5ad", pointer(18, -2147483000))
    refused("row09_indptr_overflow", 9, r"X.*indptr.*\b1[78]\b")
    file("row09_indptr_start.h5ad", pointer(0, 2))
    refused("row09_indptr_start", 9, r"X.*indptr")
    standard(book, "row09_csc_decreasing.h5ad", lambda f: csc_decreasing(f))
    refused("row09_csc_decreasing", 9, r"X.*indptr", [1, 2])

    def index(value):
        def change(data, indices, indptr):
            indices[indptr[40] + 1] = value
            return data, indices, indptr
        return change

    file("row10_index_beyond.h5ad", index(N_GENES))
    refused("row10_index_beyond", 10, r"X\b.*row 40\b.*gene.*\b30\b", [1, 2, 3])
    file("row10_index_negative.h5ad", index(-1))
    refused("row10_index_negative", 10, r"X\b.*row 40\b.*gene.*-1\b")
    file("row10_data_longer.h5ad", lambda d, i, p: (np.append(d, d[:3]), np.append(i, i[:3]), p))
    refused("row10_data_longer", 10, r"X.*(indptr|data)")
    file("row10_lengths_differ.h5ad", lambda d, i, p: (d, i[:-1], p))
    refused("row10_lengths_differ", 10, r"X.*(data|indices)")
    file("row10_indptr_short.h5ad", lambda d, i, p: (d, i, p[:-1]))
    refused("row10_indptr_short", 10, r"X.*indptr")
    standard(book, "row10_csc_beyond.h5ad", lambda f: csc_beyond(f))
    refused("row10_csc_beyond", 10, r"X\b.*gene number 29\b.*row 48\b", [1, 2])

    file("row11_shape_i32.h5ad", lambda d, i, p: (d, i, p))
    with h5py.File(book.path("row11_shape_i32.h5ad"), "r+") as f:
        f["X"].attrs["shape"] = np.array(COUNTS.shape, np.int32)
    book.case("shape int32", "row11_shape_i32.h5ad", 11)
    file("row11_shape_missing.h5ad", lambda d, i, p: (d, i, p), None)
    refused("row11_shape_missing", 11, r"X.*shape")
    file("row11_shape_wrong.h5ad", lambda d, i, p: (d, i, p), (N_CELLS + 1, N_GENES))
    refused("row11_shape_wrong", 11, r"X.*(shape|rows|indptr|cells)")


def csc_decreasing(file):
    data, indices, indptr = lay.compress(COUNTS, "csc")
    indptr[12] = indptr[11] - 1
    return lay.sparse_arrays(file, "X", data, indices, indptr, COUNTS.shape, "csc")


def csc_beyond(file):
    data, indices, indptr = lay.compress(COUNTS, "csc")
    indices[-1] = N_CELLS
    return lay.sparse_arrays(file, "X", data, indices, indptr, COUNTS.shape, "csc")


def filters(book):
    gzip = dict(compression="gzip", compression_opts=4)
    standard(book, "row12_gzip_odd.h5ad", lambda f: lay.sparse(
        f, "X", COUNTS, chunks=(37,), shuffle=True, fletcher32=True, **gzip))
    book.case("gzip", "row12_gzip_odd.h5ad", 12, ranks=[1, 2, 3, 4, 5, 6, 7])
    standard(book, "row12_gzip_dense.h5ad", lambda f: lay.dense(
        f, "X", COUNTS.astype("f4"), chunks=(7, 11), **gzip))
    book.case("gzip dense", "row12_gzip_dense.h5ad", 12, ranks=[1, 2])
    standard(book, "row12_gzip_csc.h5ad", lambda f: lay.sparse(f, "X", COUNTS, "csc", chunks=(41,),
                                                               **gzip))
    book.case("gzip csc", "row12_gzip_csc.h5ad", 12, ranks=[2])

    def lzf(name, write_x):
        with lay.new_file(book.path(name)) as f:
            write_x(f)
            lay.standard_obs(f, compression="lzf", chunks=(11,))
            lay.standard_var(f)
            lay.mappings(f)
    lzf("row14_lzf_csr.h5ad", lambda f: lay.sparse(f, "X", COUNTS, chunks=(64,), compression="lzf",
                                                   shuffle=True))
    book.case("lzf", "row14_lzf_csr.h5ad", 14, ranks=[1, 2])
    lzf("row14_lzf_dense.h5ad", lambda f: lay.dense(f, "X", COUNTS.astype("u2"), compression="lzf"))
    book.case("lzf dense", "row14_lzf_dense.h5ad", 14)

    def zstd(f):
        group = lay.sparse(f, "X", COUNTS)
        values = group["data"][...]
        del group["data"]
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_obj_track_times(False)
        creation.set_chunk(values.shape)
        creation.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
        space = h5py.h5s.create_simple(values.shape)
        data = h5py.h5d.create(group.id, b"data", h5py.h5t.IEEE_F32LE, space, creation)
        data.write_direct_chunk((0,), b"\x28\xb5\x2f\xfd" + values.tobytes()[:200])
    standard(book, "row15_zstd.h5ad", zstd)
    book.case("zstd", "row15_zstd.h5ad", 15, code=65, ranks=[1, 2], inspect="free",
              message=r"X/data.*32015.*(HDF5_PLUGIN_PATH|h5repack)")


def one_chunk(book):
    """One chunk for the whole dataset, as R writers made it: 50 MB and more once unpacked."""
    chunk = 13200000  # float32: 52.8 MB
    standard(book, "row13_one_chunk_csr.h5ad", lambda f: lay.sparse(
        f, "X", COUNTS, chunks=(chunk,), shuffle=True, compression="gzip", compression_opts=1))
    limits = {"seconds": 20, "bytes": 500e6}
    book.case("one chunk", "row13_one_chunk_csr.h5ad", 13, ranks=[1, 2], limits=limits)

    n, g, used = 20000, 700, list(range(3, 700, 24))
    rng = np.random.RandomState(3)
    counts = np.zeros((n, g), np.float32)
    counts[:, used] = rng.poisson(0.8, size=(n, len(used)))
    counts[np.arange(n), [used[i % len(used)] for i in range(n)]] += 1
    names = ["wide_%03d" % i for i in range(g)]
    subset = {"data.subset_genes": ",".join(names[i] for i in used), "runtime.backend": "cpu",
              "train.batch_size": "1024", "data.batch_key": "", "data.labels_key": ""}

    def file(name, write_x):
        with lay.new_file(book.path(name)) as f:
            write_x(f)
            lay.strings(lay.dataframe(f, "obs", []), "_index", ["c%d" % i for i in range(n)])
            lay.standard_var(f, names)
    file("row13_one_chunk_dense.h5ad", lambda f: lay.dense(
        f, "X", counts, chunks=(n, g), compression="gzip", compression_opts=1))
    file("row13_reference.h5ad", lambda f: lay.sparse(f, "X", counts))
    book.case("20,000 cells", "row13_reference.h5ad", 13, subset, like=None, obs=None)
    book.case("one chunk dense", "row13_one_chunk_dense.h5ad", 13, subset, like="20,000 cells",
              ranks=[1, 2], limits=limits, obs=None, tolerance=1e-4)


def normalised(book):
    """Row 20: X normalised, counts in layers; raw/X with more genes in another order."""
    rng = np.random.RandomState(11)
    extra = ["extra_%d" % i for i in range(9)]
    order = rng.permutation(N_GENES + len(extra))
    raw_names = [(GENES + extra)[i] for i in order]
    raw = np.hstack([COUNTS, lay.make_counts(N_CELLS, len(extra), seed=4)])[:, order]
    size = COUNTS.sum(1, keepdims=True)
    logged = np.log1p(COUNTS / size * 1e4)

    def file(name, second):
        with lay.new_file(book.path(name)) as f:
            lay.sparse(f, "X", logged)
            lay.standard_obs(f)
            lay.standard_var(f)
            lay.mappings(f)
            lay.sparse(f["layers"], "counts", COUNTS, data_type=np.uint16)
            if second is not None:
                lay.dense(f["layers"], "scaled", second)
            group = f.create_group("raw")
            lay.tag(group, "raw", "0.1.0")
            lay.sparse(group, "X", raw)
            lay.standard_var(group, raw_names)
    name = "row20_normalised.h5ad"
    file(name, COUNTS - 2.0)
    book.case("normalised", name, 20, code=65, ranks=[1, 2], check="free",
              message=r"X\b.*(cell_0\d\d|row \d+).*gene_0\d\d.*\d\.\d+.*layers/counts")
    book.case("layer", name, 20, {"data.counts": "layers/counts"}, ranks=[1, 2])
    book.case("negative", name, 20, {"data.counts": "layers/scaled"}, code=65, check="free",
              message=r"layers/scaled.*(cell_0\d\d|row \d+).*gene_0\d\d.*-\d")
    book.case("negative allowed", name, 20, code=65, check="free",
              message=r"layers/scaled.*gene_0\d\d.*-\d.*negative",
              settings={"data.counts": "layers/scaled", "data.allow_non_counts": "yes"})
    book.case("fractions allowed", name, 20, {"data.allow_non_counts": "yes"}, like=None,
              ranks=[1, 2])
    book.case("no such layer", name, 20, {"data.counts": "layers/count"}, code=78,
              message=r"layers/count\b.*layers/counts")
    book.case("raw", name, 20, {"data.counts": "raw/X"}, like="raw as X", ranks=[1, 2],
              genes=raw_names)
    with lay.new_file(book.path("row20_raw_as_x.h5ad")) as f:
        lay.sparse(f, "X", raw)
        lay.standard_obs(f)
        lay.standard_var(f, raw_names)
    book.case("raw as X", "row20_raw_as_x.h5ad", 20, like=None, genes=raw_names)
    for value, text in ((np.nan, "nan"), (np.inf, "inf")):
        bad = COUNTS.astype("f4")
        bad[33, 21] = value
        bad_name = "row20_%s.h5ad" % text
        standard(book, bad_name, lambda f: lay.dense(f, "X", bad))
        book.case(text + " value", bad_name, 20, {"data.allow_non_counts": "yes"}, code=65,
                  ranks=[1, 3], check="free",
                  message=r"(?i)X\b.*(cell_033|row 33).*gene_021.*" + text)


def write(book):
    for part in (baseline, numeric_types, untidy, empty, broken, filters, one_chunk, normalised):
        part(book)
