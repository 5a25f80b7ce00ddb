#!/usr/bin/env python3
"""Frames: their index, genes that are chosen, flagged or of raw, the split: test_frames.py META_DUMP."""
from cases import CELLS, G, GENES, N, check, fine, meta, path, refused, same, run  # first: it says which modules are missing

import h5py
import numpy as np
import pandas as pd
import make_meta as mk


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


run(190, test_attributes, test_genes, test_flags, test_raw, test_split)
