"""What the commands of the benchmark have in common: options, programs, records and tables."""
import argparse
import json
import os
import signal
import sys
import tempfile

from programs import Failed, Programs

# In a build. Every command needs the first, and says which of the others it needs.
PLACES = {"atlasvi": "src/atlasvi", "phases": "tests/bench/bench_phases",
          "machine": "tests/bench/bench_machine", "reader": "tests/bench/bench_read",
          "comm": "tests/bench/bench_comm", "packer": "tests/bench/bench_pack",
          "roofline": "tests/gpu/roofline/gpu_roofline",
          "played": "tests/gpu/roofline/gpu_roofline_played",
          "list": "tests/gpu/roofline/gpu_roofline_list"}


def words(text):
    return [word for word in text.split(",") if word]


def numbers(text):
    return [int(word) for word in words(text)]


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return value


def positives(text):
    return [positive(word) for word in words(text)]


def some_of(known):
    """The type of an option that takes names of these."""
    def names(text):
        found = words(text)
        if not found or set(found) - set(known):
            raise argparse.ArgumentTypeError("some of " + ",".join(known))
        return found
    return names


def parser_of(doc, helpers=(), without=()):
    """`helpers`: the other programs that are needed; `without`: options that would mean nothing."""
    parser = argparse.ArgumentParser(description=doc,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)

    def add(option, **how):
        if option not in without:
            parser.add_argument(option, **how)

    add("--build", default="build/release", metavar="FOLDER", help="where the programs are built")
    add("--atlasvi", default=os.environ.get("ATLASVI"), metavar="PROGRAM")
    for name in helpers:
        add("--" + name, metavar="PROGRAM", help=os.path.basename(PLACES[name]))
    add("--mpirun", default=os.environ.get("MPIRUN", "mpirun"))
    add("--scvi-python", default=os.environ.get("ATLASVI_SCVI_PYTHON"), metavar="PYTHON")
    add("--threads", type=positive, default=2, help="a rank")
    add("--ranks", type=positive, default=1,
        help="of ours; scvi-tools gets ranks x threads threads")
    add("--cpus", type=numbers, default=[], help="cores for all programs")
    add("--set", nargs="*", default=[], metavar="section.key=value", help="more settings of ours")
    add("--rounds", type=positive, default=3)
    add("--work", metavar="FOLDER", help="for simulated files and outputs, which may be large")
    add("--out", default=".", metavar="FOLDER", help="for the record and the table")
    add("--short", action="store_true", help="tiny; no speed is judged")
    add("--check", metavar="FILE.md", help="only: is it what FILE.json beside it says?")
    return parser


def settle(options):
    """Finds the programs; those that a command has no option for are None."""
    for name, place in PLACES.items():
        path = None
        if hasattr(options, name):
            path = os.path.abspath(getattr(options, name) or os.path.join(options.build, place))
            if not os.access(path, os.X_OK):
                sys.exit("no program at %s: build first, name the folder with --build" % path)
        setattr(options, name, path)
    if getattr(options, "scvi_python", None):
        options.scvi_python = os.path.abspath(options.scvi_python)  # runs begin in other folders
        if not os.access(options.scvi_python, os.X_OK):
            sys.exit("no python at %s" % options.scvi_python)


def save(programs, options, name, record):
    """Writes NAME.json to --out, and returns what it says."""
    record = {"atlasvi": programs.version(), **record}
    with open(os.path.join(options.out, name + ".json"), "w") as file:
        file.write(json.dumps(record, indent=1) + "\n")
    return record


def headed(markdown):
    """The text of a table with what made it above."""
    return lambda record: record["atlasvi"] + "\n\n" + "\n".join(markdown(record))


def check(path, name, text_of, command=None):
    """Ends the command where FILE.md is not what FILE.json beside it says, and says what makes both."""
    beside = os.path.splitext(path)[0] + ".json"
    try:
        with open(beside) as file:
            wanted = text_of(json.load(file))
        with open(path) as file:
            fault = "" if file.read() == wanted else "the text is another"
    except (OSError, ValueError, KeyError) as error:
        fault = "%s: %s" % (type(error).__name__, error)
    if fault:
        sys.exit("%s is not what %s says (%s): %s, and put both of its files there" % (
            path, beside, fault, command or "run tests/bench/%s.py --out FOLDER" % name))
    print("%s agrees with its record" % path)


def main(options, name, measure, text_of, faults_of):
    """Writes NAME.json and NAME.md to --out; exit status 1 where the record has faults."""
    if options.check:
        return check(options.check, name, text_of)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # with what it started
    settle(options)
    with tempfile.TemporaryDirectory(prefix="atlasvi-bench-", dir=options.work) as folder:
        if options.short:
            options.out = folder
        os.makedirs(options.out, exist_ok=True)
        programs = Programs(options, folder)
        try:
            record = save(programs, options, name, measure(programs, options))
        except Failed as fault:
            sys.exit(str(fault))
        path, text = os.path.join(options.out, name + ".md"), text_of(record)
        with open(path, "w") as file:
            file.write(text)
        print("\n" + text)
        check(path, name, text_of)
    faults = faults_of(record, options)
    for fault in faults:
        print("FAIL " + fault)
    return 1 if faults else 0


def phase(events, name):
    """Seconds of a phase of a run; 0 where it has none."""
    return sum(e["seconds_max"] for e in events["phase"] if e["name"] == name)


def rate_of(seconds, cells):
    """Cells/s of the epochs after the first, which warms up."""
    return cells * len(seconds[1:]) / sum(seconds[1:])


def our_rate(events):
    return rate_of([e["seconds"] for e in events["epoch"]], events["input"][0]["train_cells"])
