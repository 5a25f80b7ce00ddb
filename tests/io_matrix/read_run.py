"""Runs read_dump over many inputs at once and compares what the ranks got with scipy."""
import os
import subprocess
import sys

import numpy as np
import scipy.sparse as sp


def scramble(x):
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xbf58476d1ce4e5b9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94d049bb133111eb)
    return x ^ (x >> np.uint64(31))


def row_digests(matrix):
    """Number, sum and digest of each row's entries, as read_dump.c computes them."""
    matrix = sp.csr_matrix(matrix, dtype=np.float64, copy=True)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    matrix.sort_indices()
    bits = matrix.data.astype(np.float32).view(np.uint32).astype(np.uint64)
    mixed = scramble((matrix.indices.astype(np.uint64) << np.uint64(32)) | bits)
    before = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed, dtype=np.uint64)])
    digest = before[matrix.indptr[1:]] - before[matrix.indptr[:-1]]
    return np.diff(matrix.indptr), np.asarray(matrix.sum(axis=1)).ravel(), digest


class Case:
    """One input: settings and either the matrix expected or (exit status, text of the error)."""

    def __init__(self, name, path, settings=(), matrix=None, error=None, limits=None, genes=None,
                 batch=None, label=None, split=None, ranks=None,
                 raw=None):
        self.name, self.path, self.settings = name, path, list(settings)
        self.matrix, self.error, self.genes = matrix, error, genes
        self.limits, self.ranks, self.raw = limits, ranks, raw
        self.facts = [batch, label, split]
        self.expected = None if matrix is None else row_digests(matrix)


DEFAULT, TINY = (0, 0, 0), (100, 64, 1)
failures = []


def check(condition, *message):
    if not condition:
        failures.append(" ".join(str(m) for m in message))
        print("FAILED:", failures[-1])
    return condition


class Result:
    """What all ranks wrote about one case."""

    def __init__(self, stem, n_ranks):
        with open(stem + ".status") as status:
            self.code = int(status.readline())
            self.text = status.read().strip()
        self.ranks = [open("%s.%d" % (stem, r)).read().splitlines() for r in range(n_ranks)]

    def lines(self, kind):
        return [line.split(" ") for rank in self.ranks for line in rank
                if line.startswith(kind + " ")]


def compare(case, result, where):
    """The rows of all ranks together are the expected matrix, each row once and in order."""
    if not check(result.code == 0, where, "exit status", result.code, result.text):
        return
    rows = result.lines("row")
    n, sums, digest = case.expected
    check([int(r[1]) for r in rows] == list(range(case.matrix.shape[0])), where, "rows")
    check([int(r[2]) for r in rows] == list(n), where, "entries per row")
    check([float(r[3]) for r in rows] == list(sums), where, "row sums")
    check([int(r[4], 16) for r in rows] == [int(d) for d in digest], where, "row digests")
    check(all(o[1] == "fine" for o in result.lines("order")), where, "order within rows")
    for column, fact in zip((5, 6, 7), case.facts):
        if fact is not None:
            check([int(r[column]) for r in rows] == list(fact), where, "facts in column", column)
    if case.genes is not None:
        check([g[1] for g in result.lines("gene")] == list(case.genes), where, "gene names")
    dense_zero = np.asarray(abs(sp.csr_matrix(case.matrix)).sum(axis=0)).ravel() == 0
    expected = [case.matrix.shape[0], case.matrix.shape[1], None, int(n.sum()),
                int((np.asarray(n) == 0).sum()), int(dense_zero.sum())]
    if case.raw is not None:
        raw = sum(int(r[1]) for r in result.lines("raw"))
        check(raw == (case.matrix.shape[0] if case.raw else 0), where, raw, "rows read past HDF5")
    for total in result.lines("total"):
        for want, got in zip(expected, total[1:]):
            check(want is None or want == int(got), where, "totals", expected, total)


def launch(program, cases, n_ranks, limits, folder, through_mpirun=False):
    """All cases in one launch; returns {name: Result} and the warnings {name: [line]}.

    Peak memory is only meaningful through mpirun: a child's ru_maxrss begins with that of the
    process that started it.
    """
    jobs = os.path.join(folder, "jobs")
    stems = {}
    with open(jobs, "w") as out:
        for i, case in enumerate(cases):
            stems[case.name] = os.path.join(folder, "out%d" % i)
            sizes = case.limits or limits
            fields = [stems[case.name]] + [str(s) for s in sizes]
            out.write("\t".join(fields + ["data.input=" + case.path] + case.settings) + "\n")
    command = [program, jobs]
    if n_ranks > 1 or through_mpirun:
        command = [os.environ["MPIRUN"], "--bind-to", "none", "-n", str(n_ranks)] + command
    run = subprocess.run(command, stderr=subprocess.PIPE, universal_newlines=True, timeout=120)
    if not check(run.returncode == 0, n_ranks, "ranks: status", run.returncode, run.stderr[-2000:]):
        sys.exit(1)
    check("runtime error" not in run.stderr, "sanitizer:", run.stderr[-2000:])
    warnings, current = {}, None
    for line in run.stderr.splitlines():
        if line.startswith("job "):
            current = [c.name for c in cases if stems[c.name] == line[4:]][0]
            warnings[current] = []
        elif line.startswith("atlasvi: warning: ") and current is not None:
            warnings[current].append(line)
    return {name: Result(stem, n_ranks) for name, stem in stems.items()}, warnings


def run_all(program, cases, rank_counts, limit_list, folder):
    """Every case with all numbers of ranks and limits; errors always read the same."""
    texts, first_warnings = {}, {}
    for n_ranks in rank_counts:
        for limits in limit_list:
            chosen = [c for c in cases if c.ranks is None or n_ranks in c.ranks]
            results, warnings = launch(program, chosen, n_ranks, limits, folder)
            for case in chosen:
                where = "%s (%d ranks, limits %s):" % (case.name, n_ranks, limits)
                result = results[case.name]
                if case.error is None:
                    compare(case, result, where)
                    first_warnings.setdefault(case.name, warnings[case.name])
                    check(warnings[case.name] == first_warnings[case.name], where, "warnings")
                    continue
                code, text = case.error
                check(result.code == code and text in result.text and "\n" not in result.text,
                      where, "wanted", code, text, "got", result.code, result.text)
                check(all(r[0].startswith("failed %d " % code) for r in result.ranks), where,
                      "not all ranks failed alike")
                texts.setdefault(case.name, result.text)
                check(result.text == texts[case.name], where, "text differs:", result.text, "|",
                      texts[case.name])
    return texts, first_warnings
