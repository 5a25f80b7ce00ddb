#!/usr/bin/env python3
"""Rows 34 and 35: anndata reads back results added to a file; a killed run leaves the original.

Results, copy and append modes on the baseline, a dense file and one of anndata 0.7: everything that
was in the file is still there and equal, the new elements have the right shapes, anndata has
nothing to say about them, and the file survives being subset and written again.
"""
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings

sys.dont_write_bytecode = True
import anndata
import numpy as np

import atlasrun as ar
import layouts as lay
import rows_frame
import rows_matrix

FAILURES = []


def judge(title, problem, result=None):
    print("%s: %s" % (title, problem or "ok"))
    if problem:
        FAILURES.append(title)
        if result is not None:
            print(result)


class Files:
    """Stands in for the book of cases: only the files are wanted."""

    def __init__(self, folder):
        self.folder = folder

    def path(self, name):
        return os.path.join(self.folder, name)

    def case(self, *unused, **unused_too):
        pass


def values_of(matrix):
    return matrix.toarray() if hasattr(matrix, "toarray") else np.asarray(matrix)


def kept(old, new):
    """Everything of the input is in the output, equal."""
    if not np.array_equal(values_of(old.X), values_of(new.X)):
        return "X changed"
    for frame in ("obs", "var"):
        a, b = getattr(old, frame), getattr(new, frame)
        if not a.equals(b[a.columns]):
            return "%s changed" % frame
    for mapping in ("obsm", "layers", "varm"):
        for key, value in getattr(old, mapping).items():
            if not np.array_equal(values_of(value), values_of(getattr(new, mapping)[key])):
                return "%s[%r] changed" % (mapping, key)
    missing = set(old.uns) - set(new.uns)
    return "uns lost %s" % missing if missing else None


def read_back(title, before, path, mode, linear):
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        old = anndata.read_h5ad(before)
        n_old = len(heard)
        new = anndata.read_h5ad(path)
        if len(heard) - n_old > n_old:
            return "anndata warns: %s" % [str(w.message) for w in heard[n_old:]]
    n, g = lay.COUNTS.shape
    if mode != "results":
        problem = kept(old, new)
        if problem:
            return problem
    for key, shape in (("X_scvi", (n, 2)), ("X_scvi_denoised", (n, g)),
                       ("X_scvi_sample_rate", (n, g))):
        if key not in new.obsm or new.obsm[key].shape != shape:
            return "obsm[%r] is missing or misshapen" % key
        if not np.isfinite(new.obsm[key]).all():
            return "obsm[%r] is not finite" % key
    if not np.allclose(new.obsm["X_scvi_denoised"].sum(1), 1, atol=1e-3):
        return "denoised frequencies of a cell do not add up to 1"
    if linear and (list(new.uns["ldvae_loadings"].index) != lay.GENES or
                   list(new.uns["ldvae_loadings"].columns) != ["Z_0", "Z_1"]):
        return "ldvae_loadings has other rows or columns"
    if linear and mode != "results" and new.varm["ldvae_loadings"].shape != (g, 2):
        return "varm ldvae_loadings is missing or misshapen"
    if list(new.uns["atlasvi"]["genes"]) != lay.GENES or "history" not in new.uns["atlasvi"]:
        return "uns[atlasvi] lacks genes or history"
    again = path + ".again.h5ad"
    part = new[::2, [3, 1, 7] if mode != "results" else slice(None)].copy()
    part.write_h5ad(again)
    back = anndata.read_h5ad(again)
    if not np.array_equal(back.obsm["X_scvi"], new.obsm["X_scvi"][::2]):
        return "X_scvi changed when written again"
    os.unlink(again)
    return None


def added_to(files, name, linear):
    latents = []
    for mode, ranks in (("results", 0), ("copy", 2), ("append", 3)):
        folder = tempfile.mkdtemp(dir=files.folder)
        source = os.path.join(folder, "in.h5ad")
        shutil.copy(files.path(name), source)
        out = source if mode == "append" else os.path.join(folder, "out.h5ad")
        settings = {**ar.QUICK, "data.input": source, "output.mode": mode,
                    "output.path": "" if mode == "append" else out, "output.denoised": "yes",
                    "output.sample_rate": "yes", "model.linear_decoder": linear}
        ini = ar.write_ini(os.path.join(folder, "run.ini"), settings)
        title = "row 34, %s, %s mode, linear %s" % (name, mode, linear)
        os.chmod(source, 0o640)
        digest = ar.sha256(source)
        result = ar.run([ini], ranks=ranks)
        if result.code != 0:
            judge(title, "exit status %d" % result.code, result)
            continue
        problem = read_back(title, files.path(name), out, mode, linear == "yes")
        if not problem and mode != "append" and ar.sha256(source) != digest:
            problem = "the input was changed"
        if not problem and mode == "append" and os.stat(source).st_mode & 0o777 != 0o640:
            problem = "the file's mode was not kept"
        latents.append(ar.latent(out))
        judge(title, problem, result)
        if mode == "append":
            digest = ar.sha256(source)
            again = ar.run([ini])
            problem = ar.fault_of(again, 73, r"(X_scvi|ldvae|atlasvi|model).*overwrite")
            changed = None if ar.sha256(source) == digest else "the file was changed"
            judge(title + ", again", problem or changed, again)
            again = ar.run([ini, "output.overwrite=yes"])
            judge(title + ", overwritten", "exit status %d" % again.code if again.code else
                  read_back(title, files.path(name), out, mode, linear == "yes"), again)
    differences = [ar.far(z, latents[0], 1e-5) for z in latents]
    judge("row 34, %s, linear %s: one answer in every mode" % (name, linear),
          next((d for d in differences if d), None))


def killed_in_place(files):
    """SIGKILL as soon as the temporary is there: the original is as it was."""
    folder = tempfile.mkdtemp(dir=files.folder)
    source = os.path.join(folder, "in.h5ad")
    counts = lay.make_counts(6000, 500, seed=9)
    with lay.new_file(source) as file:
        lay.sparse(file, "X", counts)
        lay.strings(lay.dataframe(file, "obs", []), "_index", ["c%d" % i for i in range(6000)])
        lay.standard_var(file, ["g%d" % i for i in range(500)])
        lay.mappings(file)
    digest = ar.sha256(source)
    settings = {**ar.QUICK, "data.input": source, "data.batch_key": "", "data.labels_key": "",
                "output.mode": "append", "output.path": "", "output.denoised": "yes",
                "output.sample_rate": "yes", "output.overwrite": "yes", "runtime.backend": "cpu",
                "train.batch_size": "1024", "output.model": os.path.join(files.folder, "m.h5")}
    ini = ar.write_ini(os.path.join(files.folder, "in_place.ini"), settings)
    caught = 0
    for ranks, delay in ((0, 0.0), (0, 0.05), (2, 0.0), (2, 0.1)):
        for name in set(os.listdir(folder)) - {"in.h5ad"}:
            os.unlink(os.path.join(folder, name))
        process = subprocess.Popen(ar.argv_of([ini], ranks), stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL, env=ar.environment(),
                                   start_new_session=True)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if len(os.listdir(folder)) > 1:
                time.sleep(delay)
                break
            time.sleep(0.001)
        left = set(os.listdir(folder)) - {"in.h5ad"}
        caught += bool(left)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        title = "row 35, killed %.2f s into writing, %s" % (
            delay, "%d ranks" % ranks if ranks else "no launcher")
        # without a temporary the run had come to its rename before it was killed
        left = set(os.listdir(folder)) - {"in.h5ad"}
        intact = ar.sha256(source) == digest or not left
        judge(title, None if intact else "the original was changed")
        if ar.sha256(source) != digest:
            break
    judge("row 35, killed while the temporary was there", None if caught >= 1 else
          "caught only %d times" % caught)
    for name in set(os.listdir(folder)) - {"in.h5ad"}:
        os.unlink(os.path.join(folder, name))
    result = ar.run([ini], ranks=2)
    judge("row 35, and then to the end", None if result.code == 0 and
          ar.latent(source).shape == (6000, 2) else "exit status %d" % result.code, result)


def main():
    ar.require_program()
    folder = tempfile.mkdtemp(prefix="atlasvi-back-")
    files = Files(folder)
    rows_matrix.baseline(files)
    rows_matrix.standard(files, "row02.h5ad", lambda f: lay.dense(f, "X", lay.COUNTS.astype("f8")))
    rows_frame.version_07(files)
    print("anndata %s" % anndata.__version__)
    for name in ("row01_csr_f32.h5ad", "row02.h5ad", "row17_v078_csr_lzf.h5ad"):
        added_to(files, name, "yes")
    added_to(files, "row01_csr_f32.h5ad", "no")
    killed_in_place(files)
    shutil.rmtree(folder)
    print("%d failed" % len(FAILURES))
    sys.exit(1 if FAILURES else 0)


if __name__ == "__main__":
    main()
