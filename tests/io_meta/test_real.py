#!/usr/bin/env python3
"""Real files of many writers, against anndata: test_real.py META_DUMP. Skipped where they are not."""
import json
import os
import subprocess
import sys
import warnings

SOURCE = os.environ.get("SOURCE", os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
DATA = os.path.join(SOURCE, "../shared/data")
try:
    import anndata
    import numpy as np
    import pandas as pd
except ImportError as missing:
    print("skipped: %s" % missing)
    sys.exit(77)
FILES = {  # counts, batch, labels
    "hto_celllines": ("layers/counts", "replicate", "cell_type"),
    "kang_pbmc_ifnb": ("X", "batch", "cell_type"),
    "marques_oligos_Rwritten": ("X", "chip", "age"),
    "scirpy_wu2020_200_v0_6": ("X", "batch", "IR_VJ_1_v_gene"),
    "scvi_pbmc_10k_protein_v3": ("X", None, "n_genes"),
    "scvijl_pbmc_muonjl": ("layers/counts", None, "cell_type"),
    "zilionis_dc_legacy": ("X", "library", "major_cell_type"),
}
present = [name for name in FILES if os.path.isfile(os.path.join(DATA, name + ".h5ad"))]
if not present:
    print("skipped: none of the real files is in %s" % DATA)
    sys.exit(77)


dump = subprocess.Popen([sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def ask(*words):
    dump.stdin.write(("\t".join(words) + "\n").encode())
    dump.stdin.flush()
    return json.loads(dump.stdout.readline())


def factor(column):
    """Levels and codes that a reader must find, by pandas."""
    c = column.astype("category").cat.remove_unused_categories()
    drop = [x for x in c.cat.categories if x == "nan"]
    c = c.cat.remove_categories(drop)
    return [str(x) for x in c.cat.categories], c.cat.codes.tolist()


n_faults = 0


def same(name, what, seen, expected):
    global n_faults
    if seen != expected:
        n_faults += 1
        print("FAILED %s %s: %.200r is not %.200r" % (name, what, seen, expected))


warnings.simplefilter("ignore")
for name in present:
    path = os.path.join(DATA, name + ".h5ad")
    counts, batch, label = FILES[name]
    a = anndata.read_h5ad(path)
    settings = ["data.input=" + path, "data.counts=" + counts, "data.labels_key=" + label]
    reply = ask("meta", *settings, *(["data.batch_key=" + batch] if batch else []))
    same(name, "status", (reply["status"], reply["error"], reply["left_open"]), (0, "", 0))
    if reply["status"] != 0:
        continue
    chosen = np.arange(a.n_vars)
    if "highly_variable" in a.var:
        chosen = np.nonzero(a.var["highly_variable"].values.astype(bool))[0]
    same(name, "shape", (reply["n_cells"], reply["n_file_genes"]), a.shape)
    same(name, "genes", reply["genes"], [str(g) for g in a.var_names[chosen]])
    same(name, "columns", reply["gene_column"], chosen.tolist())
    levels, codes = factor(a.obs[label])
    same(name, "labels", (reply["label_levels"], reply["label"]), (levels, codes))
    levels, codes = factor(a.obs[batch]) if batch else ([""], [0] * a.n_obs)
    same(name, "batch", (reply["batch_levels"], reply["batch"]), (levels, codes))
    text = ask("inspect", path)
    same(name, "inspect", text["status"], 0)
    same(name, "counts found", "\ncounts = " in text["text"], True)
    print("%s: read as anndata %s reads it" % (name, anndata.__version__))
dump.stdin.close()
same("meta_dump", "end", dump.wait(timeout=60), 0)
print("%d of %d files, %d faults" % (len(present), len(FILES), n_faults))
sys.exit(1 if n_faults else 0)
