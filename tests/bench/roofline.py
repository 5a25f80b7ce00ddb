#!/usr/bin/env python3
"""What a training step moves, computes and issues on a GPU, and the time that takes on an H100: the
least there is, and what is expected.

  cmake --build build/release --target gpu_roofline     (needs nvcc)
  tests/bench/roofline.py --build build/release --out tests/bench
                                 writes roofline.json and roofline.md there, in some minutes
  tests/bench/roofline.py --table tests/bench/roofline.json
                                 only: its table, after host.json beside it was made anew (host.py)
  tests/bench/roofline.py --check tests/bench/roofline.md
                                 only: is it what the records say, and are the targets still expected?
  tests/bench/roofline.py --list build/release/tests/gpu/roofline/gpu_roofline_list --of FILE.json
                                 only: do the steps still launch what the record has, and is the
                                 kernels' code what it was, but for comments?

Nothing is measured on a GPU. Whole steps of the model run on the emulated device of the tests
(tests/gpu/emulation), where every launch, and every access and operation of the kernels' own code,
is counted (tests/gpu/roofline/count.h); then again as nvcc and ptxas compile them, for the machine
instructions that warps issue (tests/gpu/roofline/played.h). roofline_model.py makes times of both.
"""
import concurrent.futures
import hashlib
import json
import os
import re
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import part
from programs import Failed, version_of
from roofline_counts import counted, run
from roofline_model import plain
from roofline_table import markdown, unmet

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.join(HERE, "..", "..")
KERNELS = os.path.join(SOURCE, "gpu", "kernels")
GENES = {2000: 7.0, 10000: 1.9}  # and the percentage of counts that are not 0
MINIBATCHES = [128, 1024, 4096, 16384]
NAMES = ["LDVAE-NB", "scVI-NB", "scVI-ZINB"]
BESIDE = [("LDVAE-NB", 48), ("LDVAE-NB, 30 latents", 1)]  # other ways of the linear decoder
ANEW = "Count anew: cmake --build BUILD --target gpu_roofline && tests/bench/roofline.py --build BUILD --out " \
    "tests/bench; then tests/docs/readme.py write"


def cases():
    found = [(model, 1, minibatch, genes) for genes in GENES for model in NAMES
             for minibatch in MINIBATCHES]
    found += [(model, 2, minibatch, 2000) for model in NAMES for minibatch in (128, 1024)]
    return found + [(model, batches, minibatch, 2000) for model, batches in BESIDE
                    for minibatch in (128, 4096)]


# --- the record ---------------------------------------------------------------------------------

def is_counted(options, minibatch, genes):
    return minibatch * genes <= options.most


def count_steps(options, wanted):
    """{case: facts and launches}, the largest first."""
    one = counted(options.roofline, options.played)
    found = {}
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        waiting = {case: pool.submit(one, *case, GENES[case[3]])
                   for case in sorted(wanted, key=lambda c: -c[2] * c[3])}
        for case, future in waiting.items():
            found[case] = future.result()
            print("  counted: %s, %d batch(es), minibatch %d, %d genes" % case, flush=True)
    return found


def measure(options):
    small = [case for case in cases() if case[2] * case[3] <= options.most]
    if max(GENES) * MINIBATCHES[1] > options.most:
        raise Failed("--most: two minibatches of %d genes have to be counted" % max(GENES))
    listed = {case: run(options.list, *case, 0.01) for case in cases() if case not in small}
    made = count_steps(options, small)
    record = {"percent": {str(k): v for k, v in GENES.items()}, "files": kernel_files(),
              "cases": []}
    for case in cases():
        facts, launches = made[case] if case in made else listed[case]
        if case not in made:
            facts.pop("nonzeros")  # of counts that are there for the list alone
        model, batches, minibatch, genes = case
        record["cases"].append({"model": model, "batches": batches, "minibatch": minibatch,
                                "genes": genes, "counted": case in made, **facts,
                                "launches": launches})
    record["code"] = digest_of(record)
    return record


def save(options, record):
    """As part.save, with a line for each launch."""
    flat = []

    def held(value):
        flat.append(json.dumps(value))
        return "@%d@" % (len(flat) - 1)
    lines = [{**case, "launches": [held(launch) for launch in case["launches"]]}
             for case in record["cases"]]
    text = json.dumps({"atlasvi": version_of(options.atlasvi), **record, "cases": lines}, indent=1)
    text = re.sub('"@([0-9]+)@"', lambda found: flat[int(found.group(1))], text)
    with open(os.path.join(options.out, "roofline.json"), "w") as file:
        file.write(text + "\n")


def kernel_files():
    """{kernel: the files that launch it}"""
    found = {}
    for name in sorted(os.listdir(KERNELS)):
        with open(os.path.join(KERNELS, name)) as file:
            for kernel in re.findall(r"AV_LAUNCH\((\(.*?\)(?=,)|\w+)", file.read()):
                found.setdefault(kernel, []).append(name)
    return {kernel: "/".join(names) for kernel, names in found.items()}


def digest_of(record):
    """Of the code, without comments, of the files whose kernels a step launches, and of all that they include."""
    launched = {launch.get("kernel") for case in record["cases"] for launch in case["launches"]}
    waiting = sorted({os.path.join(KERNELS, name) for kernel, names in record["files"].items()
                      for name in names.split("/") if kernel in launched})
    codes = {}
    while waiting:
        path = os.path.realpath(waiting.pop())
        if path in codes:
            continue
        with open(path) as file:
            codes[path] = " ".join(re.sub(r"/\*.*?\*/|//[^\n]*", " ", file.read(), flags=re.DOTALL).split())
        for name in re.findall('#include "([^"]+)"', codes[path]):
            waiting += [found for folder in ("gpu", "src")
                        if os.path.exists(found := os.path.join(SOURCE, folder, name))]
    return hashlib.sha256("\n".join(codes[path] for path in sorted(codes)).encode()).hexdigest()


def read(path):
    with open(path) as file:
        return json.load(file)


def check_lists(options):
    """The launches of every step that was counted, and its kernels' code, against the record's."""
    record = read(options.of)
    cases_then = [case for case in record["cases"] if case["counted"]]
    for case in cases_then:
        what = (case["model"], case["batches"], case["minibatch"], case["genes"])
        now = [plain(l) for l in run(options.list, *what, 0.01)[1]]
        then = [plain(l) for l in case["launches"]]
        if now != then:
            different = [pair for pair in zip(then + [None] * len(now), now + [None] * len(then))
                         if pair[0] != pair[1]]
            sys.exit("a step of %s, %d batch(es), minibatch %d, %d genes launches %d times, in %s "
                     "%d; the first that differs: %s, there %s. %s" % (
                         *what, len(now), options.of, len(then), different[0][1], different[0][0],
                         ANEW))
    if record["code"] != digest_of(record):
        sys.exit("the kernels of a step are no more those that %s has counted. %s" % (options.of, ANEW))
    print("%d steps launch what %s has" % (len(cases_then), options.of))


def write_table(path, host):
    """FILE.md of FILE.json."""
    text = text_with(host)(read(path))
    path = os.path.splitext(path)[0] + ".md"
    with open(path, "w") as file:
        file.write(text)
    print(path)
    return 0


def text_with(host):
    """The table of a record, beside scvi-tools by the record of host.py, if there is one."""
    of_host = read(host) if os.path.exists(host) else None
    return part.headed(lambda record: markdown(record, of_host))


def check_targets(options):
    """With default settings each target is expected to be met, by the record and that of host.py."""
    faults = unmet(read(os.path.splitext(options.check)[0] + ".json"), read(options.host))
    if faults:
        sys.exit("targets that are not expected to be met:\n" + "\n".join(faults))
    print("with default settings every target is expected to be met")


def parse():
    parser = part.parser_of(__doc__, ["roofline", "played", "list"],
                            without=("--mpirun", "--scvi-python", "--threads", "--ranks", "--cpus",
                                     "--set", "--rounds", "--work", "--short"))
    add = parser.add_argument
    add("--of", metavar="FILE.json", help="with --list: a record to compare with")
    add("--table", metavar="FILE.json", help="only: its table")
    add("--host", metavar="FILE.json", default=os.path.join(HERE, "host.json"),
        help="the record of host.py (that beside this program)")
    add("--jobs", type=part.positive, default=2, help="steps that are counted at a time")
    add("--most", type=part.positive, default=12000000,
        help="cells x genes of a step that is counted; larger ones are extrapolated")
    return parser.parse_args()


def main(options):
    if options.check:
        part.check(options.check, "roofline", text_with(options.host),
                   "run tests/bench/roofline.py --out FOLDER, or only --table FILE.json")
        return check_targets(options)
    if options.table:
        return write_table(options.table, options.host)
    if options.of:
        options.list = os.path.abspath(options.list)
        return check_lists(options)
    part.settle(options)
    save(options, measure(options))
    return write_table(os.path.join(options.out, "roofline.json"), options.host)


if __name__ == "__main__":
    try:
        sys.exit(main(parse()))
    except Failed as fault:
        sys.exit(str(fault))
