#!/usr/bin/env python3
"""tests/gpu/run.sh where there is no GPU: it says so and ends with 77; with the emulated module in the
place of libatlasvi_cuda.so its commands work, and what they find is in record and table; what is left
out for want of time, of a tool or of a file has an exit status of its own; ended by SIGTERM or killed it leaves
what it has found and nothing that runs on, and no later session overwrites that; only records that belong
together are put together.

  run_test.py BUILD STAND_IN      STAND_IN: the folder of the emulated module, or "none"
"""
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
RUN = os.path.join(HERE, "run.sh")
PARTS = ["ops", "parity", "sanitizer", "speed"]
sys.path.insert(0, os.path.join(HERE, "machine"))
# of every model, where there are two GPUs and mpirun
PARITY = ["cuda as cpu", "cuda with rows of gradients as cpu", "the same bytes again", "the same bytes without CUDA graphs",
          "the same bytes with counts streamed", "the same bytes twice with reproducible = strict",
          "cuda on 2 ranks that share a GPU as cpu", "2 GPUs through NCCL as one",
          "2 GPUs through NCCL, the same bytes twice with reproducible = strict"]


def fail(what, text=""):
    sys.exit("error: %s\n%s" % (what, text))


def expect(holds, what, text=""):
    if not holds:
        fail(what, text)


def environment(folder, more):
    """Without a GPU even where there is one; what is left in TMPDIR is seen."""
    kept = {k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"}
    return {**kept, "CUDA_VISIBLE_DEVICES": "", "TMPDIR": folder, "PYTHON3": sys.executable, **more}


def start(folder, *arguments, **more):
    """`more`: of the environment. On a machine that is busy with other things time must not lack."""
    out = os.path.join(folder, "out")
    return out, subprocess.Popen([RUN, out, "--minutes", "30", *arguments], env=environment(folder, more), text=True,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def run(folder, *arguments, **more):
    out, process = start(folder, *arguments, **more)
    text = process.communicate(timeout=600)[0]
    return out, process.returncode, text


def record_of(out):
    """gpu.json, which gpu.md has to agree with."""
    import table
    with open(os.path.join(out, "gpu.json")) as file:
        record = json.load(file)
    with open(os.path.join(out, "gpu.md")) as file:
        text = file.read()
    expect(text == table.text_of(record), "gpu.md is not what gpu.json says", text)
    return record, text


def running(word):
    """Commands of the processes that have this word among theirs."""
    found = []
    for number in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/cmdline" % number, "rb") as file:
                words = file.read()
        except OSError:
            continue
        if word.encode() in words and b"command.run(" not in words and int(number) != os.getpid():
            found.append(words.replace(b"\0", b" ").decode("utf-8", "replace"))
    return found


def nothing_left(word, name, patience=15):
    until = time.monotonic() + patience
    while found := running(word):
        expect(time.monotonic() < until, name + " left processes", "\n".join(found))
        time.sleep(0.1)


def every_test(_):
    """The tests for a device that are built are those that are run."""
    import checks
    with open(os.path.join(HERE, "CMakeLists.txt")) as file:
        text = file.read()
    built = re.findall(r"av_add_device_test\((\w+)", text) + re.search(r"set\(checks (.*)\)", text).group(1).split()
    expect(len(built) > 5 and sorted(built) == sorted(checks.OPS + checks.MORE_OPS), "checks.py has other tests of a "
           "device than CMakeLists.txt", "%s\n%s" % (sorted(checks.OPS + checks.MORE_OPS), sorted(built)))
    print("every test for a device that is built is run")


def without_gpu(folder, build):
    out, status, text = run(folder, "--build", build)
    expect(status == 77, "exit status %d without a GPU" % status, text)
    expect("skipped: no GPU" in text, "no word of the GPU", text)
    record, table = record_of(out)
    left = {line["name"]: line["why"] for line in record["left_out"]}
    expect(set(left) == set(PARTS) and all("no GPU" in why for why in left.values()),
           "not every part says that it was skipped", str(left))
    expect("Not measured on a GPU" in table and record["end"]["how"] == "complete", "table", table)
    check = subprocess.run([sys.executable, "-B", os.path.join(HERE, "machine", "table.py"), "--check",
                            os.path.join(out, "gpu.md")], text=True, capture_output=True)
    expect(check.returncode == 1 and "nothing was measured" in check.stderr,
           "a table without measurements may stand in README", check.stderr)
    print("without a GPU: 77, and every part skipped")


def killed(folder):
    """What a command has started ends with it, however it ends."""
    words = ["sleep", "297.%d" % os.getpid()]
    process = subprocess.Popen([sys.executable, "-B", "-c", "import sys, command\ncommand.run(%r, 300)"
                                % words], cwd=os.path.join(HERE, "machine"))
    until = time.monotonic() + 30
    while not running(words[1]):
        expect(time.monotonic() < until, "nothing was started")
        time.sleep(0.05)
    process.kill()
    process.wait()
    nothing_left(words[1], "a command that was killed", 2)
    print("killed: what was started is gone")


def wrong_use(folder, build):
    for words in (["--build", folder], ["--parts", "nonsense"], ["--minutes", "0"],
                  ["--bundle", folder, "--build", build]):
        _, status, text = run(folder, *words)
        expect(status in (1, 2) and text.strip() and "Traceback" not in text,
               "%s: status %d" % (words, status), text)
    print("wrong use is refused")


def lacking(record):
    return [line["name"] for line in record["left_out"] if line["lacking"]]


def standing_in(folder, build, stand_in):
    """With two GPUs."""
    path = with_sanitizer(folder, """
  racecheck) echo "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)" ;;
  *) echo "========= ERROR SUMMARY: 0 errors" ;;""")
    out, status, text = run(folder, "--build", build, "--stand-in", stand_in, "--short",
                            AV_EMULATED_DEVICES="2", PATH=path)
    record, table = record_of(out)
    lacks = lacking(record)
    expect(set(lacks) <= {"the training step in PyTorch"}, "left out", str(lacks))
    expect(status == (75 if lacks else 77), "exit status %d with the stand-in" % status, text)
    parity = [c for c in record["checks"] if c["part"] == "parity"]
    expect(len(parity) == 2 * len(PARITY) + 1 and all(c["status"] == "passed" for c in parity),
           "parity", str(parity))
    names = [c["name"].split("minibatch 50: ")[-1] for c in parity]
    expect(all(names.count(words) == 2 for words in PARITY), "parity", str(names))
    expect("an error that names it" in parity[-1]["name"], "two ranks on one GPU", str(parity[-1]))
    expect(all(c["status"] == "skipped" for c in record["checks"] if c["part"] == "ops"), "ops", text)
    sanitized = [c["status"] for c in record["checks"] if c["part"] == "sanitizer"]
    expect(sanitized == 18 * ["passed"], "compute-sanitizer", text)
    models = {case["model"]: case["sides"]["atlasvi"] for case in record["speed"]}
    expect(set(models) == {"LDVAE-NB", "scVI-ZINB", "scVI-NB"} and
           all(side["median"] > 0 for side in models.values()), "speed", str(models))
    precisions = [(p["precision"], p["elbo_validation"] > 0) for p in record["precision"]]
    expect(precisions == [(p, True) for p in ("float32", "tf32", "bf16")], str(precisions))
    expect([[*w["ways"]] for w in record["ways"]] == [["no rows", "rows"]], "ways", str(record["ways"]))
    expect("no speed here means anything" in table, "the table looks measured", table)
    if importlib.util.find_spec("torch"):
        expect(all(case["sides"]["torch host"]["median"] > 0 and
                   case["sides"]["torch resident"]["median"] > 0 for case in record["speed"]),
               "PyTorch", table)
    nothing_left(folder, "a whole run")
    expect(sorted(os.listdir(folder)) == ["bin", "out"], "files were left", str(os.listdir(folder)))
    print("with the stand-in: %d checks, %d cases" % (len(record["checks"]), len(models)))


def with_sanitizer(folder, cases):
    """A PATH with a compute-sanitizer that says what these cases of its tool's name say."""
    os.mkdir(os.path.join(folder, "bin"))
    path = os.path.join(folder, "bin", "compute-sanitizer")
    with open(path, "w") as file:
        file.write("#!/bin/bash\ncase $2 in%s\nesac\n" % cases)
    os.chmod(path, 0o755)
    return os.path.dirname(path) + ":" + os.environ["PATH"]


def unsound(folder, build, stand_in):
    """compute-sanitizer ends well, but finds something, or does not say that it found nothing; where it
    cannot work that is no fault of the program."""
    path = with_sanitizer(folder, """
  memcheck) case $* in *gpu_device_*) echo "========= ERROR SUMMARY: 0 errors"; exit 1 ;; esac ;;
  racecheck) echo "========= Unable to say where"
    echo "========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)" ;;
  synccheck) echo "========= Error: Device not supported. Please refer to the documentation"
    echo "========= ERROR SUMMARY: 0 errors" ;;
  initcheck) echo "========= Uninitialized __global__ memory read of size 4 bytes"
    echo "========= Unable to read the rest"
    echo "========= ERROR SUMMARY: 1 error" ;;""")
    out, status, text = run(folder, "--build", build, "--stand-in", stand_in, "--short", "--parts", "sanitizer",
                            PATH=path)
    record, _ = record_of(out)
    notes = {c["name"]: c["note"] for c in record["checks"] if c["status"] == "failed"}
    left = {line["name"]: line["why"] for line in record["left_out"]}
    expect(status == 1 and len(notes) == len(record["checks"]) == 15, "exit status %d" % status, text)
    for name, note in notes.items():
        tool, what = name.split(" of ")
        expected = {"memcheck": "ERROR SUMMARY: 0" if "device" in what else "the tool has not said",
                    "racecheck": "RACECHECK SUMMARY: 1", "initcheck": "ERROR SUMMARY: 1"}[tool]
        expect(note.startswith(expected), name, note)
    expect(len(left) == 3 and all(name.startswith("synccheck of ") and why.startswith("Device not supported")
                                  for name, why in left.items()), "a device that is not supported", str(left))
    print("compute-sanitizer passes nothing that it does not call clean")


def instead(folder, build, condition, commands):
    """A build whose program runs `commands` where `condition` holds, and else is that of `build`."""
    os.makedirs(os.path.join(folder, "build", "src"))
    path = os.path.join(folder, "build", "src", "atlasvi")
    with open(path, "w") as file:
        file.write('#!/bin/bash\nif %s; then %s; fi\nexec "%s" "$@"\n'
                   % (condition, commands, os.path.join(build, "src", "atlasvi")))
    os.chmod(path, 0o755)
    return os.path.join(folder, "build")


def hanging(folder, build, stand_in):
    """A program that never ends, and does not listen to SIGTERM: the session ends in its time."""
    made = instead(folder, build, '[ "$1" != simulate ] && [ "$1" != --version ]',
                   "trap '' TERM; while :; do sleep 1; done")
    began, seconds = time.monotonic(), 24
    out, status, text = run(folder, "--build", made, "--stand-in", stand_in, "--short", "--parts", "parity,speed",
                            "--minutes", str(seconds / 60))
    took = time.monotonic() - began
    record, _ = record_of(out)
    expect(took <= seconds and status in (1, 75), "%.1f s of %d, exit status %d" % (took, seconds, status), text)
    expect(record["end"] is not None and not record["speed"], str(record))
    nothing_left(folder, "a session with a program that hangs")
    print("a program that hangs: ended after %.1f of %d s" % (took, seconds))


def without_files(folder, build, stand_in):
    """Nothing could be simulated: every job says so, the others go on, and none of them has failed."""
    made = instead(folder, build, '[ "$1" = simulate ]', "echo no space is left; exit 1")
    out, status, text = run(folder, "--build", made, "--stand-in", stand_in, "--short", "--parts", "speed")
    record, _ = record_of(out)
    left = [line["name"] for line in record["left_out"] if line["why"].endswith("simulated: no space is left")]
    expect(status == 75 and not record["checks"] and not record["speed"], "exit status %d without files" % status, text)
    expect(len(left) == 7 and "scVI-ZINB in bf16" in left and "ways of 10 latents, minibatch 32" in left,
           "without files", str(left))
    print("without files: 75, and all that they were for is named")


def session(out, name, *lines, how="complete", gpu="a GPU", version="revision this\nBLAS of its CPU"):
    """A record with these lines."""
    path = os.path.join(out, name + ".jsonl")
    gpu = {"name": gpu, "multiprocessors": 1, "bytes": 10 ** 9, "driver_cuda": "13.0"}
    lines = [{"kind": "start", "atlasvi": "atlasvi", "version": version, "device": gpu, "stand_in": False,
              "short": False}, *lines]
    lines += [{"kind": "end", "how": how, "seconds": 1.0}] if how else []
    with open(path, "w") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    return path


def assembled(folder):
    """Records of several sessions: what one has left out and another has is not left out."""
    out = os.path.join(folder, "out")
    os.mkdir(out)

    def assemble(*paths):
        done = subprocess.run([RUN, out, "--assemble", *paths], env=environment(folder, {}), text=True,
                              capture_output=True)
        expect("Traceback" not in done.stderr, "assembling", done.stderr)
        return done.stderr if done.returncode else record_of(out)

    def out_of_time(name):
        return {"kind": "left_out", "part": "ops", "name": name, "why": "out of time", "lacking": True}

    def checked(name, status="passed"):
        return {"kind": "check", "part": "ops", "name": name, "status": status, "seconds": 1.0, "note": ""}

    first = session(out, "first", checked("a"), checked("b", "cut"), out_of_time("c"), out_of_time("d"),
                    how="incomplete")
    some = session(out, "some", checked("b"), checked("c"), version="revision  this\nBLAS of another CPU")
    rest = session(out, "rest", {"kind": "done", "part": "ops", "name": "d"}, checked("e"))
    late = session(out, "late", out_of_time("c"), how="incomplete")
    others = session(out, "others", checked("c"), checked("d"))
    killed = session(out, "killed", checked("d"), how=None)
    signalled = session(out, "signalled", checked("d"), how="cut short by a signal")
    for paths, how, left in (([first], "incomplete", ["c", "d"]), ([first, some], "incomplete", ["d"]),
                             ([first, rest], "incomplete", ["c"]), ([rest, some, first], "complete", []),
                             ([first, others], "incomplete", []),
                             ([first, late], "incomplete", ["c", "d"]),
                             ([first, some, signalled], "cut short by a signal", []),
                             ([first, some, killed], None, [])):
        record, table = assemble(*paths)
        found = record["end"] and record["end"]["how"], [line["name"] for line in record["left_out"]]
        expect(found == (how, left), "assembled of %s" % paths, str(found))
        expect(("what follows is not all" in table) == (how != "complete"), "the table of %s" % paths, table)
        expect(("Of %d sessions" % len(paths) in table) == (len(paths) > 1), "how many sessions", table)
    for more, words in (({"gpu": "another GPU"}, "different GPUs: a GPU, another GPU"),
                        ({"version": "revision that"}, "different programs: revision that, revision this")):
        told = assemble(first, session(out, "unlike", checked("c"), **more))
        expect(words in str(told), "no word of %s" % words, str(told))
    expect("one session is there twice" in str(assemble(first, some, first)), "a session was counted twice")
    with open(os.path.join(out, "none.jsonl"), "w"):
        expect("no record of a session" in str(assemble(first, out + "/none.jsonl")), "an empty record was taken")
    print("records of sessions are put together where they belong together")


def again(folder, build):
    """A folder with a record is not used again."""
    out = run(folder, "--build", build, "--parts", "facts")[0]
    with open(os.path.join(out, "gpu.jsonl")) as file:
        lines = file.read()
    _, status, text = run(folder, "--build", build, "--parts", "facts")
    expect(status == 1 and "name another folder" in text, "exit status %d where there is a record" % status, text)
    with open(os.path.join(out, "gpu.jsonl")) as file:
        expect(file.read() == lines, "a record was overwritten")
    print("a record is never overwritten")


def incomplete(folder, build, stand_in):
    """On one GPU, without mpirun; and with no time at all."""
    words = ["--build", build, "--stand-in", stand_in, "--short", "--parts"]
    out, status, text = run(folder, *words, "parity", MPIRUN="no-mpirun-here")
    record, table = record_of(out)
    lacks = lacking(record)
    expect(status == 75, "exit status %d without mpirun" % status, text)
    expect(len(lacks) == 3 and all("rank" in name for name in lacks), "without mpirun", str(lacks))
    statuses = {c["name"].split("minibatch 50: ")[-1]: c["status"] for c in record["checks"]}
    expect(statuses == {words: "skipped" if "NCCL as" in words else "passed" for words in PARITY
                        if "share" not in words and "NCCL, " not in words},
           "without mpirun, on one GPU", str(statuses))
    expect("The session was incomplete: what follows is not all." in table, "table", table)
    os.rename(out, out + " of parity")
    out, status, text = run(folder, *words, "parity,speed", "--minutes", "0.09")
    record, table = record_of(out)
    expect(status == 75, "exit status %d without time" % status, text)
    expect(len(record["left_out"]) > 5 and not record["checks"] and not record["speed"], str(record))
    expect("The session was incomplete: what follows is not all." in table, "table", table)
    print("without mpirun, or time: 75, and what is left out is named")


def ended(folder, build, stand_in, number):
    """In the middle of the training runs."""
    out, process = start(folder, "--build", build, "--stand-in", stand_in, "--short",
                         "--parts", "facts,parity")
    lines = os.path.join(out, "gpu.jsonl")
    until = time.monotonic() + 120
    while not os.path.exists(lines) or b'"check"' not in open(lines, "rb").read():
        expect(process.poll() is None and time.monotonic() < until, "no check was made")
        time.sleep(0.05)
    process.send_signal(number)
    text = process.communicate(timeout=120)[0]
    if number == signal.SIGTERM:
        expect(process.returncode == 143, "exit status %d" % process.returncode, text)
        record, table = record_of(out)
        expect(record["end"]["how"] == "cut short by a signal", str(record["end"]))
    else:
        with open(lines, "a") as file:
            file.write('{"kind": "check", "part": "par')  # as a write that was cut off would be
        for name in ("gpu.json", "gpu.md"):
            os.unlink(os.path.join(out, name))
        made = subprocess.run([RUN, out, "--assemble", lines], env=environment(folder, {}), text=True,
                              capture_output=True)
        expect(made.returncode == 0, "not assembled", made.stderr)
        record, table = record_of(out)
        expect(record["end"] is None, str(record["end"]))
    expect("what follows is not all" in table, "the table looks complete", table)
    expect(len(record["checks"]) >= 1 and record["start"]["version"], str(record))
    nothing_left(folder, signal.Signals(number).name)
    print("ended by %s: %d checks are kept, nothing runs on" % (
        signal.Signals(number).name, len(record["checks"])))


def main():
    build, stand_in = sys.argv[1:]
    sys.dont_write_bytecode = True
    jobs = [every_test, killed, assembled, lambda folder: without_gpu(folder, build),
            lambda folder: wrong_use(folder, build), lambda folder: again(folder, build)]
    if stand_in == "none":
        print("note: no emulated module was built: only what needs no module is tested")
    else:
        jobs += [lambda folder: unsound(folder, build, stand_in),
                 lambda folder: without_files(folder, build, stand_in),
                 lambda folder: hanging(folder, build, stand_in),
                 lambda folder: standing_in(folder, build, stand_in),
                 lambda folder: incomplete(folder, build, stand_in),
                 lambda folder: ended(folder, build, stand_in, signal.SIGTERM),
                 lambda folder: ended(folder, build, stand_in, signal.SIGKILL)]
    for job in jobs:
        with tempfile.TemporaryDirectory(prefix="a user's ") as folder:
            job(folder)


main()
