"""One compressed chunk for the whole data set, as R wrote them: bounded time and memory."""
import os

import numpy as np
import scipy.sparse as sp

import read_run
from h5ad_make import new_file, put_dense, put_parts
from read_run import Case

MIB = 1 << 20
N, G, ROW = 4500, 4000, 2000  # 9,000,000 entries: 69 MiB of float64 in one chunk
STORAGE = dict(compression="gzip", compression_opts=1, shuffle=True)


def big_matrix():
    rng = np.random.RandomState(11)
    starts = rng.randint(0, 2, size=(N, 1))
    columns = (starts + 2 * np.arange(ROW)[None, :]).astype("i4")
    data = rng.poisson(0.7, size=(N, ROW)) + 1.0
    return sp.csr_matrix((data.ravel(), columns.ravel(), np.arange(N + 1) * ROW), shape=(N, G))


def write(folder, matrix):
    cases = []
    for layout in ("csr", "csc", "dense"):
        path = os.path.join(folder, layout + ".h5ad")
        if layout == "dense":
            matrix = matrix[:, :G // 2]
        with new_file(path, *matrix.shape) as file:
            if layout == "dense":
                put_dense(file, "X", matrix.toarray(), "f8", chunks=matrix.shape, **STORAGE)
            else:
                stored = matrix.tocsc() if layout == "csc" else matrix
                group = put_parts(file, "X", layout, ([], [], stored.indptr), matrix.shape,
                                  dtypes=("f8", "i4", "i4"))
                for key in ("data", "indices"):
                    del group[key]
                    part = getattr(stored, key)
                    group.create_dataset(key, data=part, chunks=part.shape, **STORAGE)
        cases.append(Case(layout, path, matrix=matrix))
    return cases


def run(program, folder):
    cases = write(folder, big_matrix())
    for n_ranks in (1, 3):
        for case in cases:
            results, _ = read_run.launch(program, [case], n_ranks, read_run.DEFAULT, folder,
                                         through_mpirun=True)
            result = results[case.name]
            read_run.compare(case, result, "%s (%d ranks)" % (case.name, n_ranks))
            slabs = result.lines("slab")
            seconds = max(float(s[7]) for s in slabs)
            peaks = [int(s[6]) / MIB for s in slabs]
            print(case.name, n_ranks, "ranks: %.2f s, peak MiB" % seconds,
                  ["%.0f" % p for p in peaks])
            read_run.check(seconds < 20, case.name, n_ranks, "ranks took", seconds, "s")
            # Rank 0: the chunks (69 + 34 MiB), packed and unpacked, blocks, its slab (26).
            read_run.check(peaks[0] < 400, case.name, "rank 0 took MiB", peaks[0])
            for peak in peaks[1:]:  # the others: no chunk at all
                read_run.check(peak < 150, case.name, "a rank that does not read took MiB", peak)
