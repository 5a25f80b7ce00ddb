"""Running the program as a user does, and judging how it ended.

Shared by tests/files and tests/faults. Environment: ATLASVI (the program), MPIRUN (the launcher),
SOURCE (the source tree).
"""
import hashlib
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time

import h5py
import numpy as np

PROGRAM = os.environ.get("ATLASVI", "atlasvi")
LAUNCHER = os.environ.get("MPIRUN", "mpirun")
# The last one saves 0.2 s a start: no fast network is looked for.
MPI_ENV = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
           "OMPI_MCA_rmaps_base_oversubscribe": "1",
           "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
           "OMPI_MCA_pml": "ob1"}
# A fast fit of a small model; no test looks at more than its numbers being the same.
QUICK = {"data.batch_key": "batch", "data.labels_key": "cell_type", "model.n_latent": "2",
         "model.n_hidden": "8", "train.max_epochs": "1", "train.batch_size": "16",
         "train.train_size": "0.9", "output.denoised": "no", "output.sample_rate": "no",
         "runtime.backend": "reference", "runtime.threads": "1", "runtime.progress": "none"}
# What must never reach a user.
STACKS = re.compile(r"HDF5-DIAG|Process received signal|Segmentation fault|AddressSanitizer"
                    r"|runtime error:|Traceback|^#\d{3}: |H5[A-Z][a-z]+.*line \d+ in ", re.M)


class Result:
    def __init__(self, argv, code, out, err, seconds, peak):
        self.argv, self.code, self.out, self.err = argv, code, out, err
        self.seconds, self.peak = seconds, peak

    def lines(self, kind):
        """The text of the lines 'atlasvi: KIND: text'."""
        start = "atlasvi: %s: " % kind
        return [line[len(start):] for line in (self.out + "\n" + self.err).splitlines()
                if line.startswith(start)]

    @property
    def command(self):
        return " ".join(shlex.quote(a) for a in self.argv)

    def __str__(self):
        return "%s\n  exit %d after %.1f s\n%s" % (
            self.command, self.code, self.seconds,
            "".join("  | %s\n" % line for line in (self.out + self.err).splitlines()[-25:]))


def argv_of(arguments, ranks=0, program=None):
    """ranks = 0: the program itself; otherwise through the launcher."""
    launcher = [LAUNCHER, "--bind-to", "none", "-n", str(ranks)] if ranks else []
    return launcher + [program or PROGRAM, *map(str, arguments)]


def environment(extra=None):
    return {**os.environ, **MPI_ENV, "OMP_NUM_THREADS": "1", **(extra or {})}


def run(arguments, ranks=0, timeout=60, env=None, prefix=(), program=None, cwd=None, before=None,
        keep_signals=True):
    """Runs to the end; a run that does not end in time is killed and has code 124."""
    argv = list(prefix) + argv_of(arguments, ranks, program)
    start = time.monotonic()
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, env=environment(env), cwd=cwd,
                               preexec_fn=before, restore_signals=keep_signals,
                               start_new_session=True)
    try:
        out, err = process.communicate(timeout=timeout)
        code = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        code = 124
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return Result(argv, code, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"),
                  time.monotonic() - start, peak)


def write_ini(path, settings):
    """settings: {"section.key": value}; empty values are left out."""
    sections = {}
    for name, value in settings.items():
        section, key = name.split(".", 1)
        if value != "":
            sections.setdefault(section, []).append("%s = %s" % (key, value))
    with open(path, "w") as file:
        for section, lines in sections.items():
            file.write("[%s]\n%s\n\n" % (section, "\n".join(lines)))
    return path


def fault_of(result, code, message, name=None):
    """Why `result` is not one clean refusal with this code and message; None if it is."""
    codes = code if isinstance(code, list) else [code]
    errors = result.lines("error")
    if result.code not in codes:
        return "exit status %d, expected %s" % (result.code, codes)
    if STACKS.search(result.out + result.err):
        return "a stack or crash reached the user"
    if len(errors) != 1:
        return "%d error lines, expected one" % len(errors)
    if not re.search(message, errors[0]):
        return "message %r does not match %r" % (errors[0], message)
    if name is not None and name not in errors[0]:
        return "message %r does not name %s" % (errors[0], name)
    return None


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def latent(path):
    with h5py.File(path, "r") as file:
        return file["obsm/X_scvi"][...]


def far(a, b, tolerance):
    """The largest difference if a and b differ by more than the tolerance, else None."""
    if a.shape != b.shape:
        return "shapes %s and %s" % (a.shape, b.shape)
    if not np.array_equal(np.isnan(a), np.isnan(b)):
        return "NaN in different places"
    difference = np.nanmax(np.abs(a - b) / (1 + np.abs(b)), initial=0.0)
    return None if difference <= tolerance else "difference %.3g" % difference


def element_strings(node):
    """Strings of an index or column as the output has it, bytes that are not UTF-8 kept."""
    if isinstance(node, h5py.Group):
        kind = node.attrs.get("encoding-type")
        if kind == "categorical":
            levels = element_strings(node["categories"])
            return [levels[c] if c >= 0 else None for c in node["codes"][...]]
        return element_strings(node["values"])
    values = node[...]
    if "categories" in node.attrs:
        levels = element_strings(node.file[node.attrs["categories"]])
        return [levels[c] for c in values]
    return [v.decode("utf-8", "surrogateescape") if isinstance(v, bytes) else str(v)
            for v in values]


def frame_strings(path, frame, column=None):
    """A column of obs or var of an output, or its index (column None)."""
    with h5py.File(path, "r") as file:
        group = file[frame]
        name = column or group.attrs["_index"]
        return element_strings(group[name])


def require_program():
    """Ends the test as skipped where there is no program to run, saying so."""
    if not os.access(PROGRAM, os.X_OK):
        print("skipped: no program at %s (set ATLASVI)" % PROGRAM)
        sys.exit(77)
