"""What parts of the benchmark that are commands of their own have in common."""
import argparse
import json
import os
import signal
import sys
import tempfile

from programs import Failed, Programs


def numbers(text):
    return [int(word) for word in text.split(",") if word]


def parser_of(doc):
    parser = argparse.ArgumentParser(description=doc,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--build", default="build/release", metavar="FOLDER", help="where the programs are built")
    add("--atlasvi", default=os.environ.get("ATLASVI"), metavar="PROGRAM")
    add("--mpirun", default=os.environ.get("MPIRUN", "mpirun"))
    add("--scvi-python", default=os.environ.get("ATLASVI_SCVI_PYTHON"), metavar="PYTHON")
    add("--threads", type=int, default=2, help="a rank")
    add("--ranks", type=int, default=1, help="of ours; scvi-tools gets ranks x threads threads")
    add("--cpus", type=numbers, default=[], help="cores for both programs")
    add("--set", nargs="*", default=[], metavar="section.key=value", help="more settings of ours")
    add("--rounds", type=int, default=3)
    add("--work", metavar="FOLDER", help="for simulated files and outputs, which may be large")
    add("--out", default=".", metavar="FOLDER", help="for the record and the table")
    add("--short", action="store_true", help="tiny; no speed is judged")
    return parser


def settle(options):
    """Finds the programs; what a part does not use is None."""
    options.atlasvi = os.path.abspath(options.atlasvi or
                                      os.path.join(options.build, "src/atlasvi"))
    options.phases = options.machine = None
    if not os.access(options.atlasvi, os.X_OK):
        sys.exit("no program at %s: build first, name the folder with --build" % options.atlasvi)
    if options.scvi_python and not os.access(options.scvi_python, os.X_OK):
        sys.exit("no python at %s" % options.scvi_python)


def main(options, name, measure, markdown, faults_of):
    """Writes NAME.json and NAME.md to --out; exit status 1 where the record has faults."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # with what it started
    settle(options)
    with tempfile.TemporaryDirectory(prefix="atlasvi-bench-", dir=options.work) as folder:
        programs = Programs(options, folder)
        try:
            record = {"atlasvi": programs.version(), **measure(programs, options)}
        except Failed as fault:
            sys.exit(str(fault))
        out = folder if options.short else options.out
        os.makedirs(out, exist_ok=True)
        with open(os.path.join(out, name + ".json"), "w") as file:
            file.write(json.dumps(record, indent=1) + "\n")
        text = record["atlasvi"] + "\n\n" + "\n".join(markdown(record))
        with open(os.path.join(out, name + ".md"), "w") as file:
            file.write(text)
        print("\n" + text)
        with open(os.path.join(out, name + ".json")) as file:
            faults = faults_of(json.load(file), options)
    for fault in faults:
        print("FAIL " + fault)
    return 1 if faults else 0


def phase(events, name, key="seconds_max"):
    """Seconds of a phase of a run; 0 where it has none."""
    return sum(e[key] for e in events["phase"] if e["name"] == name)
