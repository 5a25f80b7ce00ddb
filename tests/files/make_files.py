#!/usr/bin/env python3
"""Writes every test file of the input table, and what a reader must make of it.

  make_files.py FOLDER      the files, and FOLDER/expected.json
  make_files.py --verify FOLDER   the same, then reads them back with anndata where it can

The rows are those of the table of known .h5ad layouts: 1-15 and 20 encodings of the counts
(rows_matrix.py), 16-19 and 21-29 dataframes and whole-file eras (rows_frame.py), 30-33 files that
are damaged, locked or of another format (rows_other.py). check_files.py runs the program on them.
"""
import hashlib
import json
import os
import sys

import layouts as lay
import rows_frame
import rows_matrix
import rows_other


class Book:
    """The files written and the cases to run on them."""

    def __init__(self, folder):
        self.folder = folder
        self.cases = []

    def path(self, name):
        return os.path.join(self.folder, name)

    def case(self, name, file, row, settings=None, code=0, message=None, like="baseline",
             ranks=(1,), inspect=0, check="same", obs=lay.OBS_DIGEST, **more):
        """A run on `file` with `settings` added to the standard ones.

        code: exit status; message: expression that its one error line matches (or, for code 0 and
        key `warning`, a warning). like: the case whose X_scvi must be found again. inspect: exit
        status of `inspect` ("free": 0 or code; None: not run). check: exit status of `check`
        ("same" as the run; "free": 0 or the same, for what only the values show). obs: digest of
        names, batch and cell_type in the output. more: warning, genes, nan_rows, limits,
        tolerance, hold (another process has the file open), missing (the file is never written).
        """
        if any(case["name"] == name for case in self.cases):
            raise ValueError("two cases named " + name)
        assert (code == 0) == (message is None), name
        self.cases.append(dict(
            name=name, file=file, row=row, settings=settings or {}, code=code, message=message,
            like=like if code == 0 else None, ranks=list(ranks), inspect=inspect, check=check,
            obs=obs if code == 0 else None, **more))

    def digest(self, name):
        path = self.path(name)
        if not os.path.isfile(path):
            return None
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()


def expand(matrix):
    """Dense values; scipy's own conversion refuses some mixtures of types legal on disk."""
    import numpy as np
    if not hasattr(matrix, "indptr"):
        return np.asarray(matrix)
    by_row = matrix.format == "csr"
    dense = np.zeros(matrix.shape if by_row else matrix.shape[::-1])
    major = np.repeat(np.arange(len(matrix.indptr) - 1), np.diff(matrix.indptr.astype(np.int64)))
    np.add.at(dense, (major, matrix.indices.astype(np.int64)), matrix.data.astype(float))
    return dense if by_row else dense.T


def verify(book):
    """The generator's own check: anndata must see the same counts where it can read the file."""
    import anndata
    import numpy as np

    seen, unread = 0, []
    for name in sorted({c["file"] for c in book.cases if c["like"] == "baseline"}):
        try:
            data = anndata.read_h5ad(book.path(name))
        except Exception as error:
            unread.append("%s (%s)" % (name, str(error).strip().splitlines()[0]))
            continue
        if data.shape != lay.COUNTS.shape:
            raise SystemExit("%s: shape %s" % (name, data.shape))
        if any(c["file"] == name and "data.counts" not in c["settings"] and c["like"] == "baseline"
               for c in book.cases):
            if not np.array_equal(expand(data.X), lay.COUNTS):
                raise SystemExit("%s: anndata sees other counts" % name)
        seen += 1
    print("anndata %s reads %d files as meant; cannot read:" % (anndata.__version__, seen))
    print("\n".join("  " + line for line in unread))


def main():
    arguments = [a for a in sys.argv[1:] if a != "--verify"]
    if len(arguments) != 1:
        raise SystemExit(__doc__)
    os.makedirs(arguments[0], exist_ok=True)
    book = Book(arguments[0])
    for rows in (rows_matrix, rows_frame, rows_other):
        rows.write(book)
    digests = {name: book.digest(name) for name in sorted({c["file"] for c in book.cases})}
    with open(book.path("expected.json"), "w") as file:
        json.dump({"cases": book.cases, "sha256": digests}, file, indent=1, sort_keys=True)
    rows = sorted({c["row"] for c in book.cases})
    print("%d files, %d cases, rows %s" % (len(digests), len(book.cases), rows))
    if rows != list(range(1, 34)):
        raise SystemExit("rows without a case: %s" % (set(range(1, 34)) - set(rows)))
    if "--verify" in sys.argv:
        verify(book)


if __name__ == "__main__":
    main()
