"""Rows 16 to 19 and 21 to 29: obs and var in every era, and the columns that a run asks for."""
import h5py
import numpy as np

import layouts as lay
from layouts import BATCH, BATCHES, CELLS, COUNTS, GENES, LABEL, LABELS, N_CELLS, N_GENES

NO_BATCH = {"data.batch_key": ""}


def plain(book, name, obs=None, var=None):
    """Counts as the baseline; obs and var are written by the functions given, or standard."""
    with lay.new_file(book.path(name)) as f:
        lay.sparse(f, "X", COUNTS)
        (obs or lay.standard_obs)(f)
        (var or lay.standard_var)(f)
        lay.mappings(f)
    return name


def before_07(book):
    codes = [("batch", BATCH.astype("i1")), ("n_counts", COUNTS.sum(1).astype("f4")),
             ("cell_type", LABEL.astype("i1"))]
    genes = [("n_cells", (COUNTS > 0).sum(0))]

    def file(name, write_x, index_name="index", vlen=False, one_label=False):
        with h5py.File(book.path(name), "w") as f:
            write_x(f)
            columns = codes + ([("donor", np.zeros(N_CELLS, "i1"))] if one_label else [])
            lay.compound_frame(f, "obs", CELLS, columns, index_name, vlen)
            lay.compound_frame(f, "var", GENES, genes + [("batch", np.arange(N_GENES) % 7)],
                               index_name, vlen)
            uns = f.create_group("uns")
            uns["batch_categories"] = np.array(BATCHES, "S") if not vlen else np.array(
                BATCHES, dtype=object)
            uns["cell_type_categories"] = np.array(LABELS, "S")
            if one_label:
                uns["donor_categories"] = np.array(["only"], "S")
            uns["n_pcs"] = np.array([2])
            f["obsm"] = np.zeros(N_CELLS, [("X_pca", "f4", (2,))])
            lay.sparse_arrays(f, "raw.X", *lay.compress(COUNTS, "csr"), COUNTS.shape, era="0.5")
            lay.compound_frame(f, "raw.var", GENES, genes, index_name, vlen)

    def h5sparse(layout):
        return lambda f: lay.sparse_arrays(f, "X", *lay.compress(COUNTS, layout), COUNTS.shape,
                                           layout, era="0.5")
    file("row16_v050_csr.h5ad", h5sparse("csr"))
    book.case("0.5", "row16_v050_csr.h5ad", 16, ranks=[1, 2])
    book.case("0.5 raw", "row16_v050_csr.h5ad", 16, {"data.counts": "raw/X"})
    book.case("0.5 copy refused", "row16_v050_csr.h5ad", 16, {"output.mode": "copy"},
              code=[65, 73, 78], message=r"(?i)(0\.6|compound).*results")
    file("row16_v060_csc.h5ad", h5sparse("csc"), vlen=True, one_label=True)
    book.case("0.6 csc", "row16_v060_csc.h5ad", 16)
    book.case("0.6 one label", "row16_v060_csc.h5ad", 16, {"data.batch_key": "donor"},
              like="no batch")

    def dense_06(f):
        lay.dense(f, "X", COUNTS.astype("f4"), tagged=False).attrs["sparse_format"] = "csr"
    file("row16_v060_dense.h5ad", dense_06, index_name="obs_names")
    book.case("0.6 dense", "row16_v060_dense.h5ad", 16)


def version_07(book):
    def file(name, write_x, reference=True, tagged=True, **options):
        with h5py.File(book.path(name), "w") as f:
            write_x(f)
            obs = lay.dataframe(f, "obs", ["batch", "cell_type", "score"], version="0.1.0")
            lay.strings(obs, "_index", CELLS, tagged=False, **options)
            lay.old_categorical(obs, "batch", BATCH, BATCHES, reference, **options)
            lay.old_categorical(obs, "cell_type", LABEL, LABELS, reference, **options)
            obs.create_dataset("score", data=np.linspace(0, 1, N_CELLS), **options)
            var = lay.dataframe(f, "var", [], index_name="index", version="0.1.0")
            lay.strings(var, "index", GENES, tagged=False)
            f.create_group("uns").create_dataset("title", data="old")
            pca = f.create_group("obsm").create_dataset("X_pca", data=np.zeros((N_CELLS, 2)))
            pca.attrs["note"] = "untagged"
    lzf = dict(compression="lzf", chunks=(16,))
    file("row17_v078_csr_lzf.h5ad", lambda f: lay.sparse(f, "X", COUNTS, compression="lzf"), **lzf)
    book.case("0.7.8 lzf", "row17_v078_csr_lzf.h5ad", 17, ranks=[1, 2])
    file("row17_v070_dense.h5ad", lambda f: lay.dense(f, "X", COUNTS.astype("f4"), tagged=False))
    book.case("0.7.0 dense", "row17_v070_dense.h5ad", 17)
    file("row17_null_reference.h5ad", lambda f: lay.sparse(f, "X", COUNTS), reference=None)
    book.case("null reference", "row17_null_reference.h5ad", 17)

    def plain_integers(f):
        obs = lay.dataframe(f, "obs", ["batch", "cell_type"], version="0.1.0")
        lay.strings(obs, "_index", CELLS, tagged=False)
        obs["batch"] = BATCH.astype("i4") * 4 + 2  # 2, 6, 10: not in the order of the text
        obs["cell_type"] = LABEL.astype("i4")
    plain(book, "row17_seurat_integers.h5ad", plain_integers)
    book.case("plain integers", "row17_seurat_integers.h5ad", 17, obs=lay.obs_digest(
        CELLS, BATCH * 4 + 2, LABEL))


def without_x(book):
    def file(name, null):
        with lay.new_file(book.path(name)) as f:
            lay.standard_obs(f)
            lay.standard_var(f)
            lay.mappings(f)
            lay.sparse(f["layers"], "counts", COUNTS)
            if null:
                lay.tag(f.create_dataset("X", data=h5py.Empty("f4")), "null", "0.1.0")
    for row, name, null in ((18, "row18_no_x.h5ad", False), (19, "row19_null_x.h5ad", True)):
        file(name, null)
        title = "null X" if null else "no X"
        book.case(title, name, row, code=78, ranks=[1, 2], message=r"no X\b.*layers/counts")
        book.case(title + ", layer", name, row, {"data.counts": "layers/counts"})


def batch_columns(book):
    def obs_with(write, extra=()):
        def obs(f):
            group = lay.dataframe(f, "obs", ["batch", "cell_type", *extra])
            lay.strings(group, "_index", CELLS)
            lay.categorical(group, "cell_type", LABEL, LABELS)
            write(group)
        return obs

    def digest(values):
        return lay.obs_digest(CELLS, values, [LABELS[c] for c in LABEL])

    def good(title, row, write, like="baseline", obs=lay.OBS_DIGEST, settings=None):
        name = "row%d_%s.h5ad" % (row, title.replace(" ", "_").replace(",", ""))
        plain(book, name, obs_with(write))
        book.case(title, name, row, settings, like=like, obs=obs)

    def missing(title, row, write, cell="cell_009", count=r"\b1\b", settings=None):
        name = "row%d_%s.h5ad" % (row, title.replace(" ", "_"))
        plain(book, name, obs_with(write))
        book.case(title, name, row, settings, code=65, ranks=[1, 2], check="free",
                  message=r"batch.*(%s.*%s|%s.*%s)" % (count, cell, cell, count))

    holes = BATCH.copy()
    holes[9] = -1
    for kind in ("i1", "i2", "i4", "u1", "i8"):
        good("codes " + kind, 21, lambda g: lay.categorical(g, "batch", BATCH, BATCHES, kind))
    missing("code missing", 21, lambda g: lay.categorical(g, "batch", holes, BATCHES))
    missing("code beyond", 21, lambda g: lay.categorical(
        g, "batch", np.where(holes < 0, 7, BATCH), BATCHES), cell="(cell_009|7)", count="")
    good("unused categories", 21, lambda g: lay.categorical(
        g, "batch", np.array([1, 3, 4])[BATCH], ["never", "a", "unused", "b", "c"]))
    wide = ["level_%03d" % i for i in range(300)]
    good("codes i2 wide", 21, lambda g: lay.categorical(
        g, "batch", np.array([4, 150, 299])[BATCH], wide, "i2"),
        obs=digest([wide[(4, 150, 299)[b]] for b in BATCH]))

    texts = [BATCHES[b] for b in BATCH]
    good("strings", 22, lambda g: lay.strings(g, "batch", texts))
    numbers = np.array([2, 10, 300])[BATCH]  # numeric order is not that of the text
    good("integers", 22, lambda g: lay.dense(g, "batch", numbers), obs=digest(numbers))
    good("ordered", 22, lambda g: lay.categorical(g, "batch", BATCH, BATCHES, ordered=True))
    good("integer categories", 22, lambda g: lay.categorical(g, "batch", BATCH, [2, 10, 300]),
         obs=digest(numbers))
    good("nullable categories", 22, lambda g: lay.categorical(
        g, "batch", BATCH, BATCHES, nullable_categories=True))
    good("nullable integer", 22, lambda g: lay.nullable(
        g, "batch", "nullable-integer", numbers, np.zeros(N_CELLS)), obs=digest(numbers))
    good("nullable string", 22, lambda g: lay.nullable(
        g, "batch", "nullable-string-array", texts, np.zeros(N_CELLS)))
    good("one category", 22, lambda g: lay.categorical(g, "batch", 0 * BATCH, ["same"]),
         like="no batch", obs=digest(["same"] * N_CELLS))
    single = np.where(np.arange(N_CELLS) == 5, 1, 0)
    good("batch of one cell", 22, lambda g: lay.categorical(g, "batch", single, BATCHES[:2]),
         like=None, obs=digest([BATCHES[b] for b in single]))
    mask = np.arange(N_CELLS) == 9
    missing("nullable integer masked", 22, lambda g: lay.nullable(
        g, "batch", "nullable-integer", numbers, mask))
    missing("nullable string masked", 22, lambda g: lay.nullable(
        g, "batch", "nullable-string-array", texts, mask))
    missing("float NaN", 22, lambda g: lay.dense(g, "batch", np.where(mask, np.nan, numbers)))
    missing("nan text", 22, lambda g: lay.strings(
        g, "batch", [("nan" if m else t) for m, t in zip(mask, texts)]))

    book.case("no batch", "row01_csr_f32.h5ad", 22, NO_BATCH, like=None)
    book.case("no such column", "row01_csr_f32.h5ad", 22, {"data.batch_key": "bach"}, code=78,
              ranks=[1, 2], message=r"batch_key.*bach\b.*\bbatch\b")
    book.case("column of var", "row01_csr_f32.h5ad", 22, {"data.batch_key": "length"}, code=78,
              message=r"batch_key.*length")


def highly_variable(book):
    chosen = np.arange(N_GENES) % 3 != 1
    kept = [g for g, c in zip(GENES, chosen) if c]
    with lay.new_file(book.path("row23_subset.h5ad")) as f:
        lay.sparse(f, "X", COUNTS[:, chosen])
        lay.standard_obs(f)
        lay.standard_var(f, kept)
    book.case("subset", "row23_subset.h5ad", 23, like=None, genes=kept)

    def file(title, write):
        name = "row23_%s.h5ad" % title.replace(" ", "_")

        def var(f):
            write(lay.standard_var(f, extra=["highly_variable"]))
        return plain(book, name, var=var)

    def good(title, write, settings=None, like="subset", genes=kept):
        book.case("flag " + title, file(title, write), 23, settings, like=like, genes=genes)

    def reversed_enum(group):
        kind = h5py.enum_dtype({"TRUE": 0, "FALSE": 1}, basetype="u1")
        group.create_dataset("highly_variable", data=(~chosen).astype("u1"), dtype=kind)
        lay.tag(group["highly_variable"], "array", "0.2.0")
    key = "highly_variable"
    good("enum", lambda g: lay.dense(g, key, chosen))
    good("uint8", lambda g: lay.dense(g, key, chosen.astype("u1")))
    good("float", lambda g: lay.dense(g, key, chosen.astype("f8")))
    good("nullable", lambda g: lay.nullable(g, key, "nullable-boolean", chosen, np.zeros(N_GENES)))
    good("text categories", lambda g: lay.categorical(g, key, chosen, ["False", "True"]))
    good("text", lambda g: lay.strings(g, key, [str(c) for c in chosen]))
    good("reversed enum", reversed_enum)
    good("switched off", lambda g: lay.dense(g, key, chosen),
         {"data.use_highly_variable_genes": "no"}, "baseline", GENES)
    good("overruled by names", lambda g: lay.dense(g, key, ~chosen),
         {"data.subset_genes": ",".join(kept)})

    name = "row01_csr_f32.h5ad"
    picked = [i for i, c in enumerate(chosen) if c]
    book.case("genes by number", name, 23, {"data.subset_genes": ",".join(map(str, picked))},
              like="subset", genes=kept)
    book.case("genes of csc", "row03_csc_i64.h5ad", 23, {"data.subset_genes": ",".join(kept)},
              like="subset", genes=kept, ranks=[1, 3])
    book.case("genes of dense", "row02_dense_f64.h5ad", 23, {"data.subset_genes": ",".join(kept)},
              like="subset", genes=kept)
    backwards = kept[::-1]
    with lay.new_file(book.path("row23_backwards.h5ad")) as f:
        lay.sparse(f, "X", COUNTS[:, chosen][:, ::-1])
        lay.standard_obs(f)
        lay.standard_var(f, backwards)
    book.case("backwards", "row23_backwards.h5ad", 23, like=None, genes=backwards)
    book.case("genes in order given", name, 23, {"data.subset_genes": ",".join(backwards)},
              like="backwards", genes=backwards)
    book.case("genes missing", name, 23, {"data.subset_genes": "gene_001,gene_x,gene_y"}, code=78,
              message=r"subset_genes.*gene_x.*gene_y")
    book.case("gene twice", name, 23, {"data.subset_genes": "gene_001,gene_002,gene_001"}, code=78,
              message=r"subset_genes.*gene_001")
    book.case("gene number beyond", name, 23, {"data.subset_genes": "1,30"}, code=78,
              message=r"subset_genes.*\b30\b")
    book.case("flag named but absent", name, 23, {"data.highly_variable_key": "hvg"}, code=78,
              message=r"highly_variable_key.*hvg.*subset_genes")
    holes = chosen.astype("f8")
    holes[4] = np.nan
    masked = np.arange(N_GENES) == 4
    for title, write in (
            ("float NaN", lambda g: lay.dense(g, key, holes)),
            ("nullable masked",
             lambda g: lay.nullable(g, key, "nullable-boolean", chosen, masked))):
        book.case("flag " + title, file(title, write), 23, code=65, check="free",
                  message=r"highly_variable.*(\b1\b|gene_004)")
    book.case("flag all false", file("none", lambda g: lay.dense(g, key, np.zeros(N_GENES, bool))),
              23, code=[65, 78], message=r"highly_variable", check="free")


def names(book):
    def obs_named(index_name, write_index, columns=("batch", "cell_type")):
        def obs(f):
            group = lay.dataframe(f, "obs", list(columns), index_name)
            write_index(group, index_name)
            lay.categorical(group, "batch", BATCH, BATCHES)
            lay.categorical(group, "cell_type", LABEL, LABELS)
        return obs

    def var_named(index_name, write_index, columns=()):
        def var(f):
            write_index(lay.dataframe(f, "var", list(columns), index_name), index_name)
        return var

    def null_strings(values):
        return lambda g, n: lay.nullable(g, n, "nullable-string-array", values,
                                         [False] * len(values))
    plain(book, "row24_v013.h5ad", obs_named("_index", null_strings(CELLS)),
          var_named("_index", null_strings(GENES)))
    book.case("0.13 index", "row24_v013.h5ad", 24, ranks=[1, 2], genes=GENES)
    plain(book, "row24_gene_id.h5ad", var=var_named(
        "gene_id", lambda g, n: lay.strings(g, n, GENES), ["gene_id"]))
    book.case("index is a column", "row24_gene_id.h5ad", 24, genes=GENES)
    plain(book, "row24_integer_index.h5ad", obs_named(
        "index", lambda g, n: lay.dense(g, n, np.arange(N_CELLS) + 100)))
    texts = ([BATCHES[b] for b in BATCH], [LABELS[c] for c in LABEL])
    book.case("integer index", "row24_integer_index.h5ad", 24,
              obs=lay.obs_digest(np.arange(N_CELLS) + 100, *texts))

    def bytes_case(title, make, names_seen, warning=None, **how):
        rows = [make(i) for i in range(N_CELLS)]
        name = "row25_%s.h5ad" % title.replace(" ", "_")
        plain(book, name, obs_named("_index", lambda g, n: lay.raw_strings(g, n, rows, **how)))
        book.case(title, name, 25, obs=lay.obs_digest(names_seen, *texts), warning=warning)
    bytes_case("fixed ascii", lambda i: CELLS[i].encode(), CELLS, width=8)
    bytes_case("space padded", lambda i: CELLS[i].encode(), CELLS, width=12, space_padded=True)
    accents = ["z\u00e9ll\u00e9_%02d" % i for i in range(N_CELLS)]
    bytes_case("utf8 flagged ascii", lambda i: accents[i].encode(), accents)
    bytes_case("utf8 fixed", lambda i: accents[i].encode(), accents, width=16, ascii_flag=False)
    latin = [a.encode("latin-1") for a in accents]
    # Results must be readable by anndata, which wants UTF-8; a copy keeps every byte.
    bytes_case("latin1", lambda i: latin[i], accents, ascii_flag=False, warning=r"(?i)UTF-?8")
    kept = [b.decode("utf-8", "surrogateescape") for b in latin]
    book.case("latin1 copied", "row25_latin1.h5ad", 25, {"output.mode": "copy"},
              obs=lay.obs_digest(kept, *texts), warning=r"(?i)UTF-?8")

    plain(book, "row26_unwritten_index.h5ad", obs_named(
        "_index", lambda g, n: g.create_dataset(n, (N_CELLS,), dtype=lay.VLEN)))
    book.case("unwritten index", "row26_unwritten_index.h5ad", 26, ranks=[1, 2],
              obs=lay.obs_digest([""] * N_CELLS, *texts))

    twice = list(GENES)
    twice[20] = twice[4]
    cells = list(CELLS)
    cells[3] = cells[2]
    plain(book, "row27_duplicates.h5ad", obs_named("_index", lambda g, n: lay.strings(g, n, cells)),
          var_named("_index", lambda g, n: lay.strings(g, n, twice)))
    book.case("duplicate names", "row27_duplicates.h5ad", 27, obs=lay.obs_digest(cells, *texts),
              warning=r"(gene_004|cell_002)")
    book.case("duplicate gene asked for", "row27_duplicates.h5ad", 27, code=[65, 78],
              settings={"data.subset_genes": "gene_001,gene_004,gene_009"}, message=r"gene_004")
    book.case("duplicates not asked for", "row27_duplicates.h5ad", 27, like=None, check="same",
              settings={"data.subset_genes": ",".join(GENES[5:20])}, obs=None,
              genes=GENES[5:20])


def other_writers(book):
    with h5py.File(book.path("row28_fixed_attributes.h5ad"), "w") as f:
        lay.sparse(f, "X", COUNTS, fixed=True)
        obs = lay.dataframe(f, "obs", ["batch", "cell_type"], fixed=True)
        lay.strings(obs, "_index", CELLS, tagged=False)
        lay.strings(obs, "batch", [BATCHES[b] for b in BATCH], tagged=False)
        lay.strings(obs, "cell_type", [LABELS[c] for c in LABEL], tagged=False)
        var = lay.dataframe(f, "var", ["n"], fixed=True)
        lay.strings(var, "_index", GENES, tagged=False)
        var["n"] = np.arange(N_GENES)
    book.case("fixed attributes", "row28_fixed_attributes.h5ad", 28, ranks=[1, 2])
    with h5py.File(book.path("row28_no_tags.h5ad"), "w") as f:
        f["X"] = COUNTS.astype("f4")
        for frame, index in (("obs", CELLS), ("var", GENES)):
            group = f.create_group(frame)
            group.attrs["_index"] = "index"
            columns = ["batch", "cell_type"] if frame == "obs" else ["n"]
            group.attrs.create("column-order", np.array(columns, dtype=object), dtype=lay.VLEN)
            lay.strings(group, "index", index, tagged=False)
        lay.strings(f["obs"], "batch", [BATCHES[b] for b in BATCH], tagged=False)
        lay.strings(f["obs"], "cell_type", [LABELS[c] for c in LABEL], tagged=False)
        f["var/n"] = np.arange(N_GENES)
    book.case("no tags", "row28_no_tags.h5ad", 28)

    def strange_batch(f):
        obs = lay.dataframe(f, "obs", ["batch", "cell_type"])
        lay.strings(obs, "_index", CELLS)
        lay.tag(obs.create_group("batch"), "awkward-array", "0.1.0")
        lay.categorical(obs, "cell_type", LABEL, LABELS)
    plain(book, "row29_strange_batch.h5ad", strange_batch)
    book.case("strange batch", "row29_strange_batch.h5ad", 29, code=[65, 78], ranks=[1, 2],
              message=r"batch.*awkward-array", check="same")
    book.case("strange column unused", "row29_strange_batch.h5ad", 29, NO_BATCH, like="no batch",
              obs=None)
    plain(book, "row29_strange_uns.h5ad")
    with h5py.File(book.path("row29_strange_uns.h5ad"), "r+") as f:
        lay.tag(f["uns"].create_group("thing"), "holographic", "9.9.9")
        lay.tag(f["obsm"].create_group("cloud"), "awkward-array", "0.1.0")
        f["surplus"] = np.arange(3)
    book.case("strange uns", "row29_strange_uns.h5ad", 29)


def write(book):
    for part in (before_07, version_07, without_x, batch_columns, highly_variable, names,
                 other_writers):
        part(book)
