"""Whether the answers are right on this GPU: operations against the reference, whole runs against the
cpu backend, both under compute-sanitizer. Every check is one line of the journal."""
import glob
import os
import re
import shutil
import time

import command
from parity import ORDINARY, UNEVEN, Parity, load, models

TOOLS = ["memcheck", "racecheck", "synccheck", "initcheck"]
OPS = ["fold", "ops", "decode", "extremes"]
# not under the sanitizer, which is slow
MORE_OPS = ["staged", "sliced", "large", "staged_ops", "windows", "passes"]
# What compute-sanitizer says of a fault, and where it cannot work.
FOUND = re.compile(r"=+ (?:(?:Error|Warning): )?((?:Invalid|Uninitialized|Race|Barrier error|Potential|Program hit|"
                   r"Leaked).*)")
UNSUITED = re.compile(r"=+ (?:Error: )?(Device not supported.*)")
UNABLE = re.compile(r"=+ (?:Error: )?((?:Failed to initialize|Unable to|No attachable process|"
                    r"Internal Sanitizer Error).*)")


class OutOfTime(Exception):
    pass


def status_of(session, result):
    """A test that finds no GPU where there is one has failed."""
    may_skip = session.device is None or session.options.stand_in
    return "cut" if result.cut else "passed" if result.status == 0 else \
        "skipped" if result.status == 77 and may_skip else "failed"


def operations(session):
    """The gpu_device tests."""
    for name in OPS + MORE_OPS:
        path = session.programs.itself("gpu_device_" + name)
        if not os.path.exists(path):
            session.leave_out("ops", "gpu_device_" + name, "not built")
            continue
        limit = session.part_left()
        if limit < 2:
            session.leave_out("ops", "gpu_device_" + name, "out of time")
            continue
        result = command.run([os.path.join(session.programs.tests, "gpu_device_" + name)], limit)
        session.check("ops", "gpu_device_" + name, status_of(session, result), result.seconds,
                      "" if result.status == 0 else
                      "no end in %.0f s" % limit if result.cut else
                      result.last if result.status == 77 else result.text[-1500:])


def training(session):
    """Parity with the cpu backend (parity.py)."""
    began = time.monotonic()

    def run(argv, status=0):
        limit = session.part_left()
        if limit < 2:
            raise OutOfTime("out of time")
        result = command.run(argv, limit)
        if result.cut:
            raise OutOfTime("no end in %.0f s" % limit)
        if result.status != status:
            raise AssertionError("status %s: %s" % (result.status, result.text[-1500:]))
        return result.text

    def check(name, status, note):
        nonlocal began
        session.check("parity", name, status, time.monotonic() - began, note)
        began = time.monotonic()

    def put(name, passed, note):
        check(name, "passed" if passed else "failed", note)

    def attempt(what, job, *arguments):
        try:
            job(*arguments)
            session.done("parity", what)
        except OutOfTime as fault:
            session.leave_out("parity", what, str(fault))
        except (AssertionError, OSError, KeyError) as fault:
            put(what, False, str(fault)[:2000])

    parity = Parity(session.programs, run, session.folder, put,
                    lambda name, why: check(name, "skipped", why),
                    lambda name, why: session.leave_out("parity", name, why))
    shapes = [UNEVEN] if session.options.short else [ORDINARY, UNEVEN]
    for shape in shapes:
        for name, settings in models(parity.common).items():
            if session.options.short and name == "scVI NB":
                continue
            attempt("%s, %d cells" % (name, shape[0]), parity.case, shape, name, settings,
                    session.gpus)
    attempt("2 ranks on one GPU without gpu_sums = mpi", parity.refusal)


def sanitizer_path():
    places = [os.path.join(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin")]
    places += sorted(glob.glob("/usr/local/cuda*/bin"))
    return shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer",
                                                             path=":".join(places))


def small_run(session, name, settings):
    """Of the uneven file, for one epoch: every kernel, with short ends of everything."""
    ini = os.path.join(session.folder, "sanitizer-%s.ini" % name)
    data = os.path.join(session.folder, "sanitizer.h5ad")
    if not os.path.exists(data):
        made = command.run([session.programs.atlasvi, "simulate", data, "cells=%d" % UNEVEN[0],
                            "genes=%d" % UNEVEN[1], "factors=2", "batches=2"], 30)
        if made.status != 0:
            raise OSError("its file has not been simulated: %s" % made.last)
    with open(ini, "w") as file:
        file.write("[data]\ninput = %s\nbatch_key = batch\n[model]\nn_hidden = 12\nn_latent = 3\n"
                   "[train]\nmax_epochs = 2\nn_epochs_kl_warmup = 1\nbatch_size = %d\n"
                   "[output]\npath = %s.h5ad\noverwrite = yes\n[runtime]\nbackend = cuda\n"
                   "progress = none\n" % (data, UNEVEN[2], ini))
    return [session.programs.itself("atlasvi"), ini, *settings]


def judged(each, result, limit):
    """(status, note) of a command under a tool: one that passed has ended well, and the tool says that
    it found nothing. The status is None where the tool cannot work, and has found nothing either."""
    found = FOUND.search(result.text)
    if result.cut:
        return "cut", "no end in %.0f s; %s" % (limit, found.group(1) if found else "no error until then")
    good = "RACECHECK SUMMARY: 0 hazards" if each == "racecheck" else "ERROR SUMMARY: 0 errors"
    summaries = re.findall(r"=+ ?((?:ERROR|RACECHECK) SUMMARY: .*)", result.text)
    clean = bool(summaries) and summaries[-1].startswith(good)
    unable = UNSUITED.search(result.text) or (None if summaries else UNABLE.search(result.text))
    if unable and not found and (clean or not summaries):
        return None, unable.group(1)
    note = summaries[-1] if summaries else "the tool has not said how many errors there are"
    if result.status == 0 and clean:
        return "passed", note
    return "failed", note + "\n" + result.text[-1500:]


def sanitizer(session):
    tool = sanitizer_path()
    if tool is None:
        session.leave_out("sanitizer", "compute-sanitizer", "not on this machine")
        return
    session.done("sanitizer", "compute-sanitizer")
    runs = []
    for name, settings in load(session.programs).MODELS.items():
        try:
            runs += [("training, " + name, small_run(session, name, settings))]
        except OSError as fault:
            session.leave_out("sanitizer", "training, " + name, str(fault))
    jobs = [(each, run) for run in runs for each in TOOLS]
    jobs.sort(key=lambda job: TOOLS.index(job[0]))
    jobs += [(each, ("gpu_device_" + name, [session.programs.itself("gpu_device_" + name)]))
             for name in OPS[:1] for each in TOOLS]
    jobs += [(each, ("gpu_device_" + name, [session.programs.itself("gpu_device_" + name)]))
             for name in OPS[1:] for each in TOOLS[:2]]
    for each, (name, argv) in jobs:
        limit = min(session.part_left(), 0.35 * session.part_seconds)
        if limit < 3:
            session.leave_out("sanitizer", "%s of %s" % (each, name), "out of time")
            continue
        result = command.run(session.programs.under(
            [tool, "--tool", each, "--error-exitcode", "99", *argv]), limit)
        status, note = judged(each, result, limit)
        if status is None:
            session.leave_out("sanitizer", "%s of %s" % (each, name), note)
        else:
            session.check("sanitizer", "%s of %s" % (each, name), status, result.seconds, note)
