#!/usr/bin/env python3
"""What `atlasvi check` says of the memory of GPUs, on a machine that need have none, nor the cuda backend.

Expected sizes are made here from the numbers of cells and stored values: at most 4 bytes a value (2 for the
gene, 2 for the count), 8 a cell for where its values begin, 4 for each fact of a cell. The limits that the
answers belong to are the sums that `check` itself prints.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile

ATLASVI = os.environ["ATLASVI"]
CELLS, GENES = 130000, 60  # more than a minibatch's worth of the largest rows, several times


def check(program, folder, *arguments):
    done = subprocess.run([program, "check", os.path.join(folder, "run.ini"), *arguments],
                          capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def figure(text, name):
    """The first number of a line of the plan, in GB."""
    found = re.findall(rf"^  {name} +(?:at most )?([0-9.]+) GB", text, re.MULTILINE)
    assert len(found) == 1, (name, text)
    return float(found[0])


def near(found, expected, what):
    assert abs(found - expected) <= 0.0006, f"{what}: {found}, not {expected}"


def sizes(folder):
    status, text, errors = check(ATLASVI, folder)
    assert status in (0, 69), (status, errors)  # 69: the backend was not built
    stored = int(re.search(r"([0-9,]+) stored values", text).group(1).replace(",", ""))
    near(figure(text, "counts"), 1e-9 * (4 * stored + 8 * (CELLS + 1)), "counts")
    near(figure(text, "facts of cells"), 1e-9 * 4 * 3 * CELLS, "facts of cells")  # size, batch twice
    whole = figure(text, "in all")
    parts = [figure(text, name) for name in ("counts", "facts of cells", "model", "CUDA and NCCL")]
    assert abs(whole - sum(parts)) < 0.003, (whole, parts)
    assert figure(text, "smallest GPU") == -(-whole // 1), text
    streamed = float(re.search(r"in all .*; ([0-9.]+) if the counts are streamed", text).group(1))
    assert streamed < whole - 0.002, text
    status, text, errors = check(ATLASVI, folder, "--ranks", "8")
    near(figure(text, "counts"), 1e-9 * (4 * stored + 8 * CELLS) / 8, "counts of one rank of 8")
    return whole, streamed


def answers(folder, whole, streamed):
    for limit, wanted in ((whole + 0.001, "the counts stay there"),
                          ((whole + streamed) / 2, "the counts are streamed from the host's memory"),
                          (streamed - 0.001, "NOT enough even if the counts are streamed: more ranks, or a "
                                             "smaller train.batch_size")):
        _, text, _ = check(ATLASVI, folder, f"runtime.gpu_memory={limit:.6f}")
        near(figure(text, "its memory"), limit, "its memory")
        assert f"GB; {wanted}\n" in text, (limit, text)
        assert "smallest GPU" not in text, text
    _, text, _ = check(ATLASVI, folder, "runtime.backend=cpu")
    assert "GPU" not in text.split("\nInput\n")[1], text


def without_module(folder):
    """The plan, and then what is missing."""
    alone = os.path.join(folder, "alone")
    os.mkdir(alone)
    program = shutil.copy(ATLASVI, alone)
    os.environ.pop("LD_LIBRARY_PATH", None)
    status, text, errors = check(program, folder, "runtime.gpu_memory=80")
    assert status == 69 and "[runtime] backend = cuda: not in this build" in errors, (status, errors)
    assert "GB; the counts stay there\n" in text, text


def bad_keys(folder):
    for settings, wanted in ((["runtime.gpu_memory=-1"], "gpu_memory: -1 is out of range"),
                             (["runtime.gpu_memory=much"], r"gpu_memory: .*much"),
                             (["runtime.gpu_memory=80", "runtime.backend=cpu"],
                              "gpu_memory: a limit needs backend = cuda"),
                             (["runtime.gpu_rows=sometimes"], "gpu_rows: .*sometimes"),
                             (["runtime.gpu_rows=never", "runtime.backend=cpu"],
                              "gpu_rows: never needs backend = cuda"),
                             (["runtime.precision=tf32", "runtime.backend=cpu"],
                              "precision: tf32 needs backend = cuda; the others compute in float32")):
        status, _, errors = check(ATLASVI, folder, *settings)
        assert status == 78 and re.search(wanted, errors), (settings, status, errors)


def main():
    with tempfile.TemporaryDirectory() as folder:
        data = os.path.join(folder, "data.h5ad")
        subprocess.run([ATLASVI, "simulate", data, f"cells={CELLS}", f"genes={GENES}", "factors=2", "batches=2"],
                       check=True, stdout=subprocess.DEVNULL)
        with open(os.path.join(folder, "run.ini"), "w") as file:
            file.write(f"[data]\ninput = {data}\nbatch_key = batch\n[output]\npath = {folder}/out.h5ad\n"
                       "[runtime]\nbackend = cuda\n")
        answers(folder, *sizes(folder))
        without_module(folder)
        bad_keys(folder)
    print("check: memory of GPUs as it should be")


if __name__ == "__main__":
    sys.exit(main())
