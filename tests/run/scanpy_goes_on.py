#!/usr/bin/env python3
"""scanpy carries on with an output: neighbours and clusters on X_scvi, a plot's ingredients, the file written again.

usage: scanpy_goes_on.py BUILD_FOLDER; skipped, with the reason, where scanpy cannot be had.
"""
import os
import subprocess
import sys

import fitting as f

CODE = """
import sys, anndata, scanpy as sc
from importlib.metadata import version
table = anndata.read_h5ad(sys.argv[1])
sc.pp.neighbors(table, use_rep="X_scvi", n_neighbors=15)
sc.tl.umap(table, maxiter=20)
graph = table.obsp["connectivities"].tocoo()
label = table.obs["label"].to_numpy()
same = graph.data[label[graph.row] == label[graph.col]].sum() / graph.data.sum()
print("scanpy", version("scanpy"), "anndata", version("anndata"), "neighbours of the same label: %.3f" % same)
assert graph.shape == (table.n_obs, table.n_obs)
assert same > 0.5, same  # 0.2 by chance: five labels
assert table.uns["atlasvi"]["history"]["elbo_train"].iloc[-1] > 0
table.write_h5ad(sys.argv[2])
assert (anndata.read_h5ad(sys.argv[2]).obsm["X_scvi"] == table.obsm["X_scvi"]).all()
"""


def main():
    source = os.environ.get("SOURCE", os.path.join(os.path.dirname(__file__), "..", ".."))
    made = subprocess.run([os.path.join(source, "tests", "python_env.sh"), sys.argv[1]],
                          capture_output=True, text=True)
    if made.returncode != 0:
        print(made.stderr.strip())
        sys.exit(made.returncode)
    place = f.Place()
    data = place.simulate("data.h5ad", cells=600, genes=120, batches=2, library_mean=500,
                          label_strength=0.95)
    for mode in ("results", "copy"):
        output = place.fit(data, mode + ".h5ad",
                           {"model.linear_decoder": "yes", "output.mode": mode,
                            "train.max_epochs": "40", "train.n_epochs_kl_warmup": "20"})
        ran = subprocess.run([made.stdout.strip(), "-c", CODE, output, place.path("again.h5ad")],
                             capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        print(mode, ran.stdout.strip())


main()
