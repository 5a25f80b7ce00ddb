"""Real files in varied encodings, where they are present, compared with scipy."""
import os
import sys

import h5py
import scipy.sparse as sp

import read_run
from read_run import Case

FILES = [  # file, counts, further settings, obs column for the batch or None
    ("kang_pbmc_ifnb.h5ad", "X", "batch"),
    ("hto_celllines.h5ad", "layers/counts", "replicate"),
    ("zilionis_dc_legacy.h5ad", "X", "batch"),
    ("scirpy_wu2020_200_v0_6.h5ad", "X", "batch"),
    ("scvijl_pbmc_muonjl.h5ad", "X", None),
    ("scvijl_pbmc_muonjl.h5ad", "layers/counts", None),
    ("marques_oligos_Rwritten.h5ad", "X", "region"),
    ("scvi_pbmc_10k_protein_v3.h5ad", "X", None),
]


def load(path, link):
    with h5py.File(path, "r") as file:
        node = file[link]
        if isinstance(node, h5py.Dataset):
            return sp.csr_matrix(node[:])
        kind = node.attrs.get("encoding-type", node.attrs.get("h5sparse_format"))
        kind = kind.decode() if isinstance(kind, bytes) else str(kind)
        shape = tuple(node.attrs.get("shape", node.attrs.get("h5sparse_shape")))
        make = sp.csr_matrix if kind.startswith("csr") else sp.csc_matrix
        return make((node["data"][:], node["indices"][:], node["indptr"][:]), shape=shape).tocsr()


def run(program, folder):
    where = os.path.join(os.environ["SOURCE"], "..", "shared", "data")
    found = [f for f in FILES if os.path.exists(os.path.join(where, f[0]))]
    if not found:
        print("skipped: no files in", where)
        sys.exit(77)
    cases = []
    for name, link, batch in found:
        path = os.path.join(where, name)
        settings = ["data.counts=" + link, "data.use_highly_variable_genes=no",
                    "data.empty_cells=nan"]
        settings += ["data.batch_key=" + batch] if batch else []
        cases.append(Case(name + ":" + link, path, settings, matrix=load(path, link)))
    path = os.path.join(where, "hto_celllines.h5ad")
    if os.path.exists(path):
        cure = "; layers/counts holds counts: set [data] counts = layers/counts"
        cases.append(Case("hto X", path, error=(65, cure)))
    read_run.run_all(program, cases, (1, 2, 3), [read_run.DEFAULT], folder)
    read_run.run_all(program, cases, (3,), [(100000, 50000, 1)], folder)
    print(len(cases), "readings of", len({f[0] for f in found}), "files")
