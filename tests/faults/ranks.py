#!/usr/bin/env python3
"""A rank that fails alone, is killed or is told to stop; numbers that run away. Nothing hangs."""
import os
import signal
import subprocess
import time

from scene import NO_SHIM, SHIM, Scene, ar

END = 10  # seconds in which everything must have ended


def one_rank_fails(scene):
    if not SHIM:
        scene.skip("one rank failing (%s)" % NO_SHIM)
        return
    # Large enough that every rank reads several times.
    name = "program=" + os.path.basename(ar.PROGRAM)
    for ranks in (2, 3):
        for after in (1, 3):
            for rank in range(ranks):
                plan = "rank=%d,call=pread|read,after=%d,times=all,errno=EIO,path=counts.h5ad"
                env = {"LD_PRELOAD": SHIM, "ATLASVI_SHIM": plan % (rank, after) + "," + name}
                place = scene.new_folder()
                result = ar.run([scene.ini(place, {})], ranks=ranks, env=env, timeout=END)
                title = "rank %d of %d cannot read from its read %d on" % (rank, ranks, after)
                if "shim: rank" not in result.err and after > 1 and result.code == 0:
                    continue  # it did not read that often
                problem = ar.fault_of(result, 74, r"counts\.h5ad: (?!.*HDF5_USE_FILE_LOCKING)")
                if "shim: rank" not in result.err:
                    problem = "the fault never came"
                scene.judge(title, problem or scene.left_in(place), result)
    for ranks, rank in ((1, 0), (2, 1), (3, 2)):
        env = {"LD_PRELOAD": SHIM, "ATLASVI_SHIM":
               "rank=%d,call=malloc,after=1,times=all,size=20000000,%s" % (rank, name)}
        place = scene.new_folder()
        # Wide layers: the parameters of a rank are larger than the block that cannot be had.
        result = ar.run([scene.ini(place, {"model.n_hidden": "8192", "model.n_layers": "2",
                                           "runtime.backend": "cpu", "train.max_epochs": "1"})],
                        ranks=ranks, env=env, timeout=30)
        problem = ar.fault_of(result, 71, r"(?i)memory")
        if "shim: rank" not in result.err:
            problem = "the fault never came"
        scene.judge("rank %d of %d has no memory" % (rank, ranks), problem or scene.left_in(place),
                    result)


def start_long(scene, place, ranks, settings=None):
    """A run that would take hours, past its start; returns the process and its log."""
    log = place + ".log"
    ini = scene.ini(place, {"train.max_epochs": "10000000", "runtime.progress": "lines",
                            "runtime.backend": "cpu", "runtime.log": place + ".jsonl",
                            **(settings or {})})
    with open(log, "wb") as file:
        process = subprocess.Popen(ar.argv_of([ini], ranks), stdout=file, stderr=subprocess.STDOUT,
                                   stdin=subprocess.DEVNULL, env=ar.environment(),
                                   start_new_session=True)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        if os.path.exists(place + ".jsonl"):
            with open(place + ".jsonl") as file:
                if '"epoch"' in file.read():
                    return process, log
        time.sleep(0.05)
    return process, log


def end_of(process, log):
    """(exit status or None, seconds, text)"""
    start = time.monotonic()
    try:
        code = process.wait(timeout=END)
    except subprocess.TimeoutExpired:
        code = None
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    with open(log, errors="replace") as file:
        return code, time.monotonic() - start, file.read()


def ranks_of(launcher):
    """Process ids of the program's ranks under this launcher, in order."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open("/proc/%s/stat" % entry) as file:
                    text = file.read()
            except OSError:
                continue
            name, rest = text[text.index("(") + 1:].rsplit(")", 1)
            if int(rest.split()[1]) == launcher and name == os.path.basename(ar.PROGRAM)[:15]:
                found.append(int(entry))
    return sorted(found)


def running(pid):
    """A process that has ended but that nobody has waited for (state Z) does not run."""
    try:
        with open("/proc/%d/stat" % pid) as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def alive(pids, seconds):
    """Those of the processes that still run when the time since the fault is used up."""
    deadline = time.monotonic() + END - seconds
    while time.monotonic() < deadline and any(running(p) for p in pids):
        time.sleep(0.05)
    return [p for p in pids if running(p)]


def killed(scene):
    for ranks, victim in ((1, 0), (2, 0), (2, 1), (3, 1)):
        place = scene.new_folder()
        process, log = start_long(scene, place, ranks)
        pids = ranks_of(process.pid)
        title = "kill -9 of rank %d of %d" % (victim, ranks)
        if len(pids) != ranks:
            code, _, text = end_of(process, log)
            scene.judge(title, "found ranks %s, status %s" % (pids, code), text)
            continue
        os.kill(pids[victim], signal.SIGKILL)
        code, seconds, text = end_of(process, log)
        problem = None
        if code is None or code == 0:
            problem = "exit status %s after %.1f s" % (code, seconds)
        elif alive(pids, seconds):
            problem = "ranks %s still run" % alive(pids, END)
        scene.judge(title, problem or scene.left_in(place), text)


def told_to_stop(scene):
    for ranks, number in ((0, signal.SIGINT), (0, signal.SIGTERM), (2, signal.SIGINT),
                          (2, signal.SIGTERM)):
        place = scene.new_folder()
        process, log = start_long(scene, place, ranks)
        pids = ranks_of(process.pid) if ranks else [process.pid]
        process.send_signal(number)
        code, seconds, text = end_of(process, log)
        problem = None
        if code is None or code == 0:
            problem = "exit status %s after %.1f s" % (code, seconds)
        elif alive(pids, seconds):
            problem = "ranks %s still run" % alive(pids, END)
        elif ar.STACKS.search(text):
            problem = "a stack or crash reached the user"
        whom = "the launcher of %d" % ranks if ranks else "one rank"
        scene.judge("%s to %s" % (number.name, whom), problem or scene.left_in(place), text)


def not_a_number(scene):
    # Steps of a thousand in every weight: the likelihood leaves float and double alike.
    for backend in ("reference", "cpu"):
        for linear in ("no", "yes"):
            scene.refused("NaN in training, %s, linear %s" % (backend, linear), {
                "runtime.backend": backend, "model.linear_decoder": linear, "train.lr": "1000",
                "train.eps": "1e-30", "train.max_epochs": "20",
                "model.use_observed_lib_size": "no"}, 76, r"(?i)(epoch|step).*",
                ranks=(0, 2) if backend == "cpu" else (0,))


def main():
    scene = Scene()
    for part in (not_a_number, one_rank_fails, killed, told_to_stop):
        part(scene)
    scene.finish()


if __name__ == "__main__":
    main()
