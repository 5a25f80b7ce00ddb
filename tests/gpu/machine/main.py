"""A run on a machine with a GPU: facts, checks, benchmark; see ../run.sh, which starts this."""
import argparse
import os
import platform
import shlex
import shutil
import signal
import sys
import tempfile
import time
import types

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "..", "bench")]
import checks
import command
import device
import journal
import speed
import table
from programs import MPI_ENV

# Parts, and their shares of the time at most: what one does not need is the next one's.
PARTS = {"facts": 0.04, "ops": 0.13, "parity": 0.18, "sanitizer": 0.17, "speed": 0.48}
AT_THE_END = 5  # seconds kept for ending
FAILED, INCOMPLETE, NO_GPU = 1, 75, 77  # exit statuses
BUILDS = ("build/cuda", "build/release")  # looked for in this order


class Session:
    """What all parts have in common: the journal, the time that is left, files of counts."""

    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        self.began = time.monotonic()
        self.total = 60 * options.minutes - AT_THE_END
        for name, value in MPI_ENV.items():
            os.environ.setdefault(name, value)
        os.environ["TMPDIR"] = folder  # what programs leave goes with it
        self.programs = command.Programs(options.bundle, options.build, options.stand_in)
        try:
            self.device, self.no_device = device.find(), ""
        except device.NoDevice as fault:
            self.device, self.no_device = None, str(fault)
        self.bus = self.device["bus"] if self.device else None
        self.gpus = self.device["gpus"] if self.device else int(
            os.environ.get("AV_EMULATED_DEVICES", 1))
        self.making, self.maker, self.part_seconds = {}, None, 0
        version = command.run([self.programs.atlasvi, "--version"], 60)
        if version.status != 0:
            sys.exit("%s does not run: %s" % (self.programs.atlasvi, version.text or version.cut))
        try:
            self.journal = journal.Journal(options.out, self.assemble)
        except FileExistsError as fault:
            sys.exit("run.sh: there is a record of a session in %s: name another folder, and --assemble makes one "
                     "table of both" % fault.filename)
        self.journal.put("start", atlasvi=" ".join(version.text.splitlines()[0].split()),
                         version=version.text, device=self.device, no_device=self.no_device, minutes=options.minutes,
                         stand_in=bool(options.stand_in), short=options.short,
                         parts=options.parts)

    def assemble(self, lines):
        table.write(self.options.out, journal.assemble([lines]))

    # --- time ------------------------------------------------------------------------------------
    def left(self):
        return self.total - (time.monotonic() - self.began)

    def begin(self, name):
        names = list(PARTS)
        ahead = sum(PARTS[p] for p in self.options.parts if names.index(p) >= names.index(name))
        self.part_seconds = self.left() * PARTS[name] / ahead
        self.part_end = time.monotonic() + self.part_seconds

    def part_left(self):
        return min(self.left(), self.part_end - time.monotonic())

    def limit_of_run(self):
        """Of one run of the benchmark; a hang must not take all that is left."""
        return max(0.1, min(self.part_left(), max(60, 0.2 * self.total)))

    # --- lines -----------------------------------------------------------------------------------
    def check(self, part, name, status, seconds, note=""):
        self.journal.put("check", part=part, name=name, status=status, seconds=seconds, note=note)
        print("  %-9s %-60s %5.1f s  %s" % (status, name, seconds, note.splitlines()[0] if note
                                           else ""), flush=True)

    def leave_out(self, part, name, why, lacking=True):
        """`lacking`: without it the session is not complete."""
        self.journal.put("left_out", part=part, name=name, why=why, lacking=lacking)
        print("  left out  %s: %s" % (name, why), flush=True)

    def done(self, part, name):
        """What would be left out by this name is not."""
        self.journal.put("done", part=part, name=name)

    # --- counts -----------------------------------------------------------------------------------
    @property
    def words_of_maker(self):
        return os.path.join(self.folder, "simulated.txt")

    def cells_of(self, genes):
        return 200 if self.options.short else speed.CELLS[genes]

    def make_files(self):
        """In the background, one after the other, while the checks run."""
        genes = [speed.SHORT_GENES] if self.options.short else list(speed.CELLS)
        steps = []
        for n in genes:
            path = os.path.join(self.folder, "%d-genes.h5ad" % n)
            atlasvi, half, whole = map(shlex.quote, (self.programs.atlasvi, path + ".part", path))
            steps.append("%s simulate %s cells=%d genes=%d && mv %s %s" % (
                atlasvi, half, self.cells_of(n), n, half, whole))
            self.making[n] = path
        with open(self.words_of_maker, "w") as words, command.undisturbed():
            self.maker = command.start(["bash", "-c", " && ".join(steps)], words)

    def file_of(self, genes):
        path = self.making[genes]
        while not os.path.exists(path):
            if self.part_left() < 1 or self.maker.poll() not in (None, 0):
                with open(self.words_of_maker) as words:
                    raise speed.NoFile("its file has not been simulated: " + " ".join(words.read().split())[-300:])
            time.sleep(0.05)
        return path

    def bench_options(self):
        return types.SimpleNamespace(atlasvi=self.programs.atlasvi, phases=None, machine=None,
                                     mpirun=self.programs.mpirun, scvi_python=None, ranks=1,
                                     threads=len(os.sched_getaffinity(0)), cpus=[], set=[])


def first_line(argv):
    result = command.run(argv, 20)
    return result.text.strip() if result.status == 0 else "%s: %s" % (argv[0], result.last)


def facts(session):
    put = lambda name, value: session.journal.put("fact", name=name, value=value)
    put("cpu", "%d cores, %s" % (len(os.sched_getaffinity(0)), speed_of_cpu()))
    put("system", "%s, %s, Python %s" % (platform.platform(), " ".join(platform.libc_ver()),
                                         platform.python_version()))
    module = session.programs.itself("libatlasvi_cuda.so")
    linked = command.run(session.programs.under(["ldd", module]), 20).text
    put("module", [line.strip() for line in linked.splitlines()
                   if any(n in line for n in ("cudart", "cublas", "nccl", "not found"))])
    if session.device:
        put("nvidia_smi", first_line([
            "nvidia-smi", "--query-gpu=name,driver_version,memory.total,memory.used,clocks.sm,"
            "clocks.max.sm,clocks.mem,power.limit,temperature.gpu,utilization.gpu,ecc.mode.current,"
            "compute_mode,persistence_mode", "--format=csv"]))
    for name in ("torch", "scvi"):
        put(name, first_line([sys.executable, "-c",
                              "from importlib.metadata import version; print(version('%s'))" % (
                                  {"scvi": "scvi-tools"}.get(name, name))]).splitlines()[-1])


def speed_of_cpu():
    with open("/proc/cpuinfo") as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return names[0] if names else "unknown processor"


def benchmark(session):
    speed.Speed(session).all()


WORK = {"facts": facts, "ops": checks.operations, "parity": checks.training,
        "sanitizer": checks.sanitizer, "speed": benchmark}


def run_parts(session):
    stand_in = session.options.stand_in
    if session.device or stand_in:
        session.make_files()
    for name in PARTS:
        if name not in session.options.parts:
            continue
        print("== %s, %.0f s left" % (name, session.left()), flush=True)
        if session.device is None and name != "facts" and not stand_in:
            session.leave_out(name, name, "skipped: " + session.no_device, lacking=False)
            continue
        session.begin(name)
        try:
            WORK[name](session)
        except Exception as fault:  # of ours: the other parts are worth having all the same
            session.check(name, name, "failed", 0.0, "%s: %s" % (type(fault).__name__, fault))


def options_of(arguments):
    parser = argparse.ArgumentParser(prog="run.sh", description=__doc__)
    parser.add_argument("out", metavar="OUT", help="folder for gpu.jsonl, gpu.json and gpu.md")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--bundle", metavar="FOLDER", help="made by bundle.sh")
    where.add_argument("--build", metavar="FOLDER", help="default: the bundle that this lies in, or "
                       "%s, the first with the cuda backend" % " or ".join(BUILDS))
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--parts", default=",".join(PARTS), help="some of " + ",".join(PARTS),
                        type=lambda text: [p for p in text.split(",")])
    parser.add_argument("--short", action="store_true", help="tiny; no speed is judged")
    parser.add_argument("--stand-in", metavar="FOLDER", help="with another libatlasvi_cuda.so, "
                        "which needs no GPU: shows that this command works, and no speed")
    parser.add_argument("--assemble", metavar="FILE.jsonl", nargs="+", help="only: gpu.json and "
                        "gpu.md from what one or more sessions, cut short or not, have left")
    options = parser.parse_args(arguments)
    if isinstance(options.parts, str):
        options.parts = options.parts.split(",")
    unknown = set(options.parts) - set(PARTS)
    if unknown or options.minutes <= 0:
        parser.error("no part %s" % ", ".join(unknown) if unknown else "no time")
    if not (options.bundle or options.build or options.assemble):
        find_programs(options)
    return options


def find_programs(options):
    """Those of the bundle or source tree that this file lies in."""
    tree = os.path.abspath(os.path.join(HERE, "..", "..", ".."))
    if os.path.exists(os.path.join(tree, "programs", "atlasvi")):
        options.bundle = tree
        return
    for build in (os.path.join(tree, name) for name in BUILDS):
        if os.path.exists(os.path.join(build, "src", "libatlasvi_cuda.so")):
            options.build = build
            return
    sys.exit("run.sh: no cuda backend in %s of %s: build it with `cmake --preset cuda && cmake --build "
             "--preset cuda`, or name a place with --build or --bundle" % (" or ".join(BUILDS), tree))


def status_of(session):
    lines = session.journal.lines
    lacks = journal.lacking([lines])
    checks_made = journal.of(lines, "check")
    failed = [line for line in checks_made if line["status"] == "failed"
              or (line["status"] == "cut" and line["part"] == "ops")]  # what hangs is not well
    failed += [line for kind in ("speed", "precision", "kernels")
               for line in journal.of(lines, kind) if line.get("error")]
    if session.device is None:
        print("skipped: %s" % session.no_device)
    print("%d failed, %d left out for want of time or of a tool" % (len(failed), lacks))
    return FAILED if failed else INCOMPLETE if lacks else NO_GPU if session.device is None else 0


def end(session, how):
    session.journal.put("end", how=how, seconds=time.monotonic() - session.began)


def leave(number, _):
    for each in command.SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)


def main():
    options = options_of(sys.argv[1:])
    if options.assemble:
        try:
            os.makedirs(options.out, exist_ok=True)
            table.write(options.out, journal.assemble([journal.read(path) for path in options.assemble]))
        except (OSError, ValueError) as fault:
            sys.exit("run.sh: nothing was assembled: %s" % fault)
        return 0
    for number in command.SIGNALS:
        signal.signal(number, leave)
    folder = tempfile.mkdtemp(prefix="atlasvi-gpu-")
    session = None
    try:
        session = Session(options, folder)
        run_parts(session)
        end(session, "incomplete" if journal.lacking([session.journal.lines]) else "complete")
        return status_of(session)
    except SystemExit as fault:
        if session is None:
            raise
        end(session, "cut short by a signal")
        return fault.code
    finally:
        for number in command.SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if session is not None and session.maker is not None:
            command.stop(session.maker)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
