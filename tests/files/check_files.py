#!/usr/bin/env python3
"""Runs the program on every test file of make_files.py and compares with what must come out.

  check_files.py [--keep FOLDER] [--only WORD] [--jobs N]

For each file: `atlasvi inspect FILE`; for each case on it `atlasvi check RUN.ini` (where it is the
file's first, or a refusal) and a short run on each number of ranks that the case names. Files that
hold the baseline's counts must give the baseline's latent space; files that cannot be used must be
refused with one line, the right exit status, no stack and nothing left behind. A
results file (results.json) lists every run with its command.
"""
import argparse
import collections
import concurrent.futures
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

import atlasrun as ar
import layouts as lay

HERE = os.path.dirname(os.path.abspath(__file__))
HOLDER = ("import h5py, sys\nf = h5py.File(sys.argv[1], 'r+')\nprint('held', flush=True)\n"
          "sys.stdin.read()")


def run_alone(arguments, prefix=()):
    """The program without a launcher, and without the daemon that Open MPI would start for it: a
    quarter of a second less for each of several hundred runs. It then needs a folder of its own."""
    with tempfile.TemporaryDirectory() as own:
        return ar.run(arguments, prefix=prefix,
                      env={"OMPI_MCA_ess_singleton_isolated": "1", "TMPDIR": own})


class Checker:
    def __init__(self, folder):
        self.folder = folder
        with open(os.path.join(folder, "expected.json")) as file:
            expected = json.load(file)
        self.cases, self.digests = expected["cases"], expected["sha256"]
        self.latents = {}
        self.records = []

    def record(self, case, what, result, problem):
        self.records.append({"case": case["name"], "row": case["row"], "what": what,
                             "command": result.command, "code": result.code,
                             "seconds": round(result.seconds, 2), "problem": problem,
                             "text": str(result) if problem else None})

    def inspect(self, case, file):
        wanted = case["inspect"]
        if wanted is None:
            return
        result = run_alone(["inspect", file])
        if wanted == "same" or (wanted == "free" and result.code != 0):
            message = case["message"] if wanted == "same" else "."
            problem = ar.fault_of(result, case["code"], message)
        elif result.code != 0 or ar.STACKS.search(result.out + result.err):
            problem = "exit status %d, expected 0" % result.code
        else:
            problem = None if "obs" in result.out else "says nothing of obs"
        self.record(case, "inspect", result, problem)

    def check(self, case, ini):
        result = run_alone(["check", ini])
        if case["check"] == "free" and result.code == 0:
            problem = "a stack" if ar.STACKS.search(result.out + result.err) else None
        elif case["code"] == 0:
            problem = None if result.code == 0 else "exit status %d, expected 0" % result.code
        else:
            problem = ar.fault_of(result, case["code"], case["message"])
        left = sorted(set(os.listdir(os.path.dirname(ini))) - {"run.ini"})
        self.record(case, "check", result, problem or ("check left %s" % left if left else None))

    def good_run(self, case, result, out):
        if result.code != 0:
            return "exit status %d, expected 0" % result.code
        if ar.STACKS.search(result.out + result.err):
            return "a stack or crash reached the user"
        warnings = result.lines("warning")
        if case.get("warning") and not any(re.search(case["warning"], w) for w in warnings):
            return "no warning matches %r: %s" % (case["warning"], warnings)
        if case["obs"]:
            seen = lay.obs_digest(*(ar.frame_strings(out, "obs", c)
                                    for c in (None, "batch", "cell_type")))
            if seen != case["obs"]:
                return "names, batch or cell_type in the output are not the input's"
        if case.get("genes") and ar.frame_strings(out, "var") != case["genes"]:
            return "genes used are %s" % ar.frame_strings(out, "var")
        z = ar.latent(out)
        empty = case.get("nan_rows", [])
        bad = [i for i in range(len(z)) if (z[i] != z[i]).any() != (i in empty)]
        if bad:
            return "rows %s of X_scvi: NaN or not" % bad
        limits = case.get("limits")
        if limits and result.seconds > limits["seconds"]:
            return "took %.1f s" % result.seconds
        if limits and self.peak_of(out) > limits["bytes"]:
            return "took %.0f MB" % (self.peak_of(out) / 1e6)
        others = self.latents.setdefault(case["name"], {})
        others[len(others)] = z
        difference = ar.far(z, others[0], case.get("tolerance", 1e-5))
        return "differs from the case's first run: %s" % difference if difference else None

    @staticmethod
    def peak_of(out):
        with open(os.path.join(os.path.dirname(out), "peak")) as file:
            return int(file.read()) * 1024

    def one_run(self, case, ini, ranks):
        folder = os.path.dirname(ini)
        out = os.path.join(folder, "out.h5ad")
        # One rank alone runs as a user's first try does: without a launcher.
        prefix = []
        if case.get("limits"):
            prefix = [sys.executable, os.path.join(HERE, "peak.py"), os.path.join(folder, "peak")]
        if ranks == 1:
            result = run_alone([ini], prefix)
        else:
            result = ar.run([ini], ranks=ranks, prefix=prefix)
        if case["code"] == 0:
            problem = self.good_run(case, result, out)
            left = sorted(set(os.listdir(folder)) -
                          {"run.ini", "out.h5ad", "out.model.h5", "out.h5ad.model.h5", "peak"})
        else:
            problem = ar.fault_of(result, case["code"], case["message"])
            left = sorted(set(os.listdir(folder)) - {"run.ini"})
        if left and not problem:
            problem = "left behind: %s" % left
        self.record(case, "run on %d" % ranks, result, problem)

    def first_of_file(self, case):
        return next(c for c in self.cases if c["file"] == case["file"]) is case

    def run_case(self, case):
        file = os.path.join(self.folder, case["file"])
        holder = None
        if case.get("hold"):
            holder = subprocess.Popen([sys.executable, "-c", HOLDER, file], stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE)
            holder.stdout.readline()
        try:
            if self.first_of_file(case):
                self.inspect(case, file)
            for turn, ranks in enumerate(case["ranks"]):
                with tempfile.TemporaryDirectory(dir=self.folder) as folder:
                    settings = {**ar.QUICK, "data.input": file,
                                "output.path": os.path.join(folder, "out.h5ad"), **case["settings"]}
                    ini = ar.write_ini(os.path.join(folder, "run.ini"), settings)
                    if turn == 0 and (case["code"] != 0 or self.first_of_file(case)):
                        self.check(case, ini)
                    self.one_run(case, ini, ranks)
        finally:
            if holder:
                holder.stdin.close()
                holder.wait()

    def compare(self):
        """Every case that has a model to be like is like it."""
        for case in self.cases:
            if case["like"] and case["name"] in self.latents:
                z = self.latents[case["name"]][0]
                if case["like"] not in self.latents:
                    problem = "no result of %r to compare with" % case["like"]
                else:
                    problem = ar.far(z, self.latents[case["like"]][0], case.get("tolerance", 1e-5))
                self.records.append({"case": case["name"], "row": case["row"], "what": "like " +
                                     case["like"], "command": "", "code": 0, "seconds": 0,
                                     "problem": problem, "text": None})
        # A comparison that could not fail would say nothing: other counts give another answer.
        z = [v[0] for k, v in self.latents.items() if k in ("baseline", "ones", "no batch")]
        if any(ar.far(a, b, 1e-3) is None for a, b in zip(z, z[1:])):
            raise SystemExit("different inputs gave the same latent space")

    def unchanged(self):
        for name, digest in self.digests.items():
            if digest and ar.sha256(os.path.join(self.folder, name)) != digest:
                yield name


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--keep", help="folder for the files (default: a temporary one)")
    parser.add_argument("--only", default="", help="only cases whose name contains this word")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    ar.require_program()
    folder = options.keep or tempfile.mkdtemp(prefix="atlasvi-files-")
    subprocess.run([sys.executable, "-B", os.path.join(HERE, "make_files.py"), "--verify", folder],
                   check=True)
    checker = Checker(folder)
    needed = {c["like"] for c in checker.cases if options.only in c["name"]}
    cases = [c for c in checker.cases if options.only in c["name"] or c["name"] in needed]
    # Long ones first, so that the two workers end together.
    cases.sort(key=lambda c: -sum(c["ranks"]) - 100 * bool(c.get("limits")))
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(checker.run_case, cases))
    checker.compare()
    changed = list(checker.unchanged())
    failed = [r for r in checker.records if r["problem"]]
    results = os.path.join(options.keep or os.getcwd(), "results.json")
    with open(results, "w") as file:
        json.dump(checker.records, file, indent=1)
    for record in sorted(failed, key=lambda r: (r["row"], r["case"])):
        print("\nrow %d, %s, %s: %s" % (record["row"], record["case"], record["what"],
                                        record["problem"]))
        print(record["text"] or "", end="")
    rows = collections.Counter(r["row"] for r in checker.records if not r["problem"])
    print("\n%d checks, %d failed; passed by row: %s" % (
        len(checker.records), len(failed), " ".join("%d:%d" % i for i in sorted(rows.items()))))
    for name in changed:
        print("input changed: %s" % name)
    if not options.keep:
        shutil.rmtree(folder)
    elif failed:
        print("files are in %s, runs in %s" % (folder, results))
    sys.exit(1 if failed or changed else 0)


if __name__ == "__main__":
    main()
