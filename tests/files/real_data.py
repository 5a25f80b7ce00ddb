#!/usr/bin/env python3
"""Real files of varied encodings: both models, 1 and 2 ranks, read back by anndata.

Skipped (77) where ../shared/data does not lie beside the source tree.
"""
import concurrent.futures
import os
import shutil
import sys
import tempfile
import warnings

sys.dont_write_bytecode = True
import anndata
import numpy as np
import pandas as pd

import atlasrun as ar
import real_files as real

warnings.simplefilter("ignore")
SETTINGS = {"train.max_epochs": "2", "train.batch_size": "256", "model.n_latent": "4",
            "model.n_hidden": "16", "runtime.backend": "cpu", "runtime.threads": "1",
            "runtime.progress": "none"}


def has_matrices(name):
    """Denoised output of the small files only: the others would take most of the test's time."""
    return os.path.getsize(real.path_of(name)) < 1.7e6


def problem_of(path, name, linear):
    _, batch, labels = real.FILES[name]
    source, matrices = real.path_of(name), has_matrices(name)
    new = anndata.read_h5ad(path)
    old = anndata.read_h5ad(source, backed="r")
    n = old.n_obs
    flagged = old.var.get("highly_variable")
    genes = list(old.var_names if flagged is None else old.var_names[flagged.astype(bool)])
    if list(new.obs_names) != list(old.obs_names):
        return "obs names differ"
    if list(new.var_names) != genes or list(new.uns["atlasvi"]["genes"]) != genes:
        return "%d genes used, expected %d" % (new.n_vars, len(genes))
    z = new.obsm["X_scvi"]
    if z.shape != (n, 4) or not np.isfinite(z).all() or np.ptp(z) == 0:
        return "X_scvi %s is misshapen, not finite or constant" % (z.shape,)
    for key in ("X_scvi_denoised", "X_scvi_sample_rate"):
        if matrices and (key not in new.obsm or new.obsm[key].shape != (n, len(genes)) or
                         not np.isfinite(new.obsm[key]).all()):
            return "%s is missing, misshapen or not finite" % key
    for column in filter(None, (labels, batch)):
        if list(new.obs[column].astype(str)) != list(old.obs[column].astype(str)):
            return "obs[%r] differs" % column
    history = new.uns["atlasvi"]["history"]
    if not isinstance(history, pd.DataFrame) or len(history) != 2 or \
            not np.isfinite(history["elbo_train"]).all():
        return "history is not two finite epochs"
    if linear:
        loadings = new.uns["ldvae_loadings"]
        if list(loadings.index) != genes or not np.isfinite(loadings.values).all():
            return "loadings are misshapen or not finite"
    return None


def fit(folder, name, linear, ranks):
    counts, batch, labels = real.FILES[name]
    source = real.path_of(name)
    out = os.path.join(folder, "%s-%s-%d.h5ad" % (name, linear, ranks))
    matrices = "yes" if has_matrices(name) else "no"
    ini = ar.write_ini(out + ".ini", {
        **SETTINGS, "data.input": source, "data.counts": counts, "data.batch_key": batch,
        "data.labels_key": labels, "model.linear_decoder": linear, "output.path": out,
        "output.denoised": matrices, "output.sample_rate": matrices})
    result = ar.run([ini], ranks=0 if ranks == 1 else ranks, timeout=120)
    title = "%s, linear %s, %d ranks" % (name, linear, ranks)
    if result.code != 0:
        return title, result, "exit status %d" % result.code, None
    if ar.STACKS.search(result.out + result.err):
        return title, result, "a stack reached the user", None
    return title, result, None, out


def refused(folder):
    """The file whose X is log-normalised: the message says where the counts are."""
    source = real.path_of("hto_celllines.h5ad")
    out = os.path.join(folder, "never.h5ad")
    ini = ar.write_ini(out + ".ini", {**SETTINGS, "data.input": source, "output.path": out})
    for ranks in (0, 2):
        result = ar.run([ini], ranks=ranks)
        problem = ar.fault_of(result, 65, r"hto_celllines\.h5ad: X\b.*layers/counts")
        if not problem and os.path.exists(out):
            problem = "output left"
        yield "hto_celllines.h5ad, X is not counts, %d" % ranks, result, problem


def main():
    ar.require_program()
    real.require_files()
    folder = tempfile.mkdtemp(prefix="atlasvi-real-")
    digests = {name: ar.sha256(real.path_of(name)) for name in real.FILES}
    failures = []

    def judge(title, result, problem):
        print("%-60s %5.1f s  %s" % (title, result.seconds, problem or "ok"), flush=True)
        if problem:
            failures.append(title)
            print(result)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        runs = [(name, linear, ranks, pool.submit(fit, folder, name, linear, ranks))
                for name in real.FILES for linear in ("no", "yes") for ranks in (1, 2)]
        first = {}
        for name, linear, ranks, future in runs:
            title, result, problem, out = future.result()
            if out and not problem:
                problem = problem_of(out, name, linear == "yes")
            if out and not problem:
                z = ar.latent(out)
                other = first.setdefault((name, linear), z)
                problem = ar.far(z, other, 2e-2)  # two epochs in float: equal but for rounding
                problem = problem and "1 and 2 ranks: " + problem
                os.unlink(out)
            judge(title, result, problem)
    for title, result, problem in refused(folder):
        judge(title, result, problem)
    for name, digest in digests.items():
        if ar.sha256(real.path_of(name)) != digest:
            failures.append(name + " was changed")
    shutil.rmtree(folder)
    print("%d failed: %s" % (len(failures), failures))
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
