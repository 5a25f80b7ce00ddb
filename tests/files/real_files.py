"""The real files that may lie beside the source tree, where their counts are, and their columns."""
import os
import sys

FOLDER = os.path.join(os.environ.get("SOURCE", os.path.join(os.path.dirname(__file__), "..", "..")),
                      "..", "shared", "data")
# file: counts, batch_key, labels_key
FILES = {
    "kang_pbmc_ifnb.h5ad": ("X", "batch", "cell_type"),
    "hto_celllines.h5ad": ("layers/counts", "replicate", "cell_type"),
    "zilionis_dc_legacy.h5ad": ("X", "batch", "cell_type"),
    "scirpy_wu2020_200_v0_6.h5ad": ("X", "batch", "cluster_orig"),
    "scvijl_pbmc_muonjl.h5ad": ("X", "", "cell_type"),
    "marques_oligos_Rwritten.h5ad": ("X", "region", "cell_type"),
    "scvi_pbmc_10k_protein_v3.h5ad": ("X", "", ""),
}


def require_files():
    missing = [name for name in FILES if not os.path.exists(os.path.join(FOLDER, name))]
    if missing:
        print("skipped: not in %s: %s" % (os.path.normpath(FOLDER), ", ".join(missing)))
        sys.exit(77)


def path_of(name):
    return os.path.normpath(os.path.join(FOLDER, name))
