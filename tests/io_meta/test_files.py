#!/usr/bin/env python3
"""Files that are no .h5ad, damaged, linked or closed to us; inspect; several ranks: test_files.py META_DUMP."""
import json
import os
import re
import shutil
import subprocess

from cases import (  # first: it says which modules are missing
    CELLS, CODES, DUMP, Dump, G, LEVELS, N, check, dump, fine, folder, meta, path, refused, same, run)

import h5py
import numpy as np
import pandas as pd
import make_meta as mk


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


run(215, test_files, test_permission, test_inspect, test_ranks)
