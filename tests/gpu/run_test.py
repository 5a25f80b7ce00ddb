#!/usr/bin/env python3
"""tests/gpu/run.sh where there is no GPU: it says so and ends with 77; with the emulated module in the
place of libatlasvi_cuda.so its commands work, and what they find is in record and table; what is left
out for want of time or of a tool has an exit status of its own; ended by SIGTERM or killed it leaves
what it has found and nothing that runs on.

  run_test.py BUILD STAND_IN      STAND_IN: the folder of the emulated module, or "none"
"""
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
RUN = os.path.join(HERE, "run.sh")
PARTS = ["ops", "parity", "sanitizer", "speed"]
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
    sys.path.insert(0, os.path.join(HERE, "machine"))
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
    out, status, text = run(folder, "--build", build, "--stand-in", stand_in, "--short",
                            AV_EMULATED_DEVICES="2")
    record, table = record_of(out)
    may_lack = {"the training step in PyTorch", "compute-sanitizer"}
    lacks = lacking(record)
    expect(set(lacks) <= may_lack, "left out", str(lacks))
    expect(status == (75 if lacks else 77), "exit status %d with the stand-in" % status, text)
    parity = [c for c in record["checks"] if c["part"] == "parity"]
    expect(len(parity) == 2 * len(PARITY) + 1 and all(c["status"] == "passed" for c in parity),
           "parity", str(parity))
    names = [c["name"].split("minibatch 50: ")[-1] for c in parity]
    expect(all(names.count(words) == 2 for words in PARITY), "parity", str(names))
    expect("an error that names it" in parity[-1]["name"], "two ranks on one GPU", str(parity[-1]))
    expect(all(c["status"] == "skipped" for c in record["checks"] if c["part"] == "ops"), "ops", text)
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
    expect(os.listdir(folder) == ["out"], "files were left", str(os.listdir(folder)))
    print("with the stand-in: %d checks, %d cases" % (len(record["checks"]), len(models)))


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
    expect(len(record["checks"]) >= 1 and record["facts"]["version"], str(record))
    nothing_left(folder, signal.Signals(number).name)
    print("ended by %s: %d checks are kept, nothing runs on" % (
        signal.Signals(number).name, len(record["checks"])))


def main():
    build, stand_in = sys.argv[1:]
    sys.dont_write_bytecode = True
    jobs = [killed, lambda folder: without_gpu(folder, build),
            lambda folder: wrong_use(folder, build)]
    if stand_in == "none":
        print("note: no emulated module was built: only what needs no module is tested")
    else:
        jobs += [lambda folder: standing_in(folder, build, stand_in),
                 lambda folder: incomplete(folder, build, stand_in),
                 lambda folder: ended(folder, build, stand_in, signal.SIGTERM),
                 lambda folder: ended(folder, build, stand_in, signal.SIGKILL)]
    for job in jobs:
        with tempfile.TemporaryDirectory() as folder:
            job(folder)


main()
