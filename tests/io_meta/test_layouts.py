#!/usr/bin/env python3
"""Metadata of files of all ages, filters and kinds of text, against what was put in: test_layouts.py META_DUMP."""
import os

from cases import CELLS, CODES, G, GENES, LEVELS, N, check, dump, fine, fnv, meta, path, refused, same, run  # first: it says which modules are missing

import h5py
import numpy as np
import pandas as pd
import make_meta as mk


def test_baseline():
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


run(240, test_baseline, shards_of_many, test_eras, test_lzf_data, test_strings)
