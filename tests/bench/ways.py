#!/usr/bin/env python3
"""What rows of gradients, a number for each cell and gene, cost a linear decoder on a GPU, and what they
save: how long it takes an H100 without them and with, as expected of the kernels' instructions.

  cmake --build build/release --target gpu_roofline     (needs nvcc)
  tests/bench/ways.py --build build/release --out tests/bench
                                 writes ways.json and ways.md there, in 20 minutes
  tests/bench/ways.py --list build/release/tests/gpu/roofline/gpu_roofline_list --of FILE.json
                                 only: are the launches still those of the record?

Nothing is measured on a GPU: steps run and are counted as by roofline.py, once for each way that
the decoder can go (src/backend/gpu_decode.h), and roofline_model.py makes times of that. Which way
a run takes it measures itself (gpu/trial.h).
"""
import concurrent.futures
import json
import os
import re
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import part
from programs import Failed, version_of
from report import table, whole
from roofline import GENES, kernel_files
from roofline_counts import counted, run
from roofline_model import FLOORS, LEAST, LIKELY, MOST, REACHED, SLOW, expected, plain

WAYS = ["none", "kept", "wide"]  # by what they write
MADE_BY = "tests/bench/ways.py --build BUILD --out tests/bench"
# (likelihood, genes, minibatch): inputs, without one-hot columns
INPUTS = {("NB", 2000, 128): [10, 19, 20, 23, 24, 30, 39, 48, 64],
          ("NB", 2000, 256): [10, 19, 20],
          ("NB", 2000, 512): [10, 13, 14, 19],
          ("NB", 2000, 1024): [10, 13, 14, 19, 20, 39, 48, 64],
          ("NB", 2000, 4096): [10, 14, 20],
          ("NB", 10000, 128): [10, 13, 14, 20],
          ("ZINB", 2000, 128): [10, 20, 30],
          ("ZINB", 2000, 1024): [10, 13, 14, 20]}
# (likelihood, minibatch): inputs, categories of two factors
COLUMNS = {("NB", 128): [(10, 48, 1), (16, 48, 1), (10, 36, 12), (10, 36, 36)],
           ("NB", 256): [(10, 48, 1), (16, 48, 1), (10, 36, 12)],
           ("NB", 1024): [(14, 4, 1), (10, 48, 1), (16, 48, 1), (10, 36, 12), (10, 36, 36)],
           ("NB", 4096): [(10, 48, 1)],
           ("ZINB", 1024): [(10, 48, 1)]}
# likewise, with px_r by batch
BY_BATCH = {("NB", 128): [(10, 48, 1), (16, 48, 1)],
            ("NB", 1024): [(10, 4, 1), (10, 48, 1), (14, 4, 1)]}


def cases():
    """(likelihood, genes, minibatch, inputs, categories of one factor, of another, dispersion)"""
    return [(*key, n, 1, 1, "gene") for key, inputs in INPUTS.items() for n in inputs] + [
        (likelihood, 2000, minibatch, *how, dispersion)
        for dispersion, table in (("gene", COLUMNS), ("gene-batch", BY_BATCH))
        for (likelihood, minibatch), found in table.items() for how in found]


def ways_of(case):
    return WAYS if case[4] > 1 else ["none", "wide"]  # without columns nothing is kept for them


def arguments(case, way, percent):
    likelihood, genes, minibatch, inputs, one, other, dispersion = case
    return ("LDVAE-%s, %d latents" % (likelihood, inputs), one, minibatch, genes, percent, other,
            way, dispersion)


# --- the record ---------------------------------------------------------------------------------

def of_decoder(launches, genes, files):
    """Its kernels, and the products that have genes for rows, columns or terms."""
    return [l for l in launches if genes in l.get("product", ()) or
            any(name.startswith("decode_") for name in files.get(l.get("kernel"), "").split("/"))]


def check_ways(case, made):
    """No way is another."""
    plains = [[plain(l) for l in made[case, way]] for way in ways_of(case)]
    if any(one == other for k, one in enumerate(plains) for other in plains[:k]):
        raise Failed("two ways of %s are the same" % (case,))


def measure(options):
    files, wanted = kernel_files(), [(case, way) for case in cases() for way in ways_of(case)]
    count = counted(options.roofline, options.played)
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        waiting, made = {}, {}
        for case, way in sorted(wanted, key=lambda c: -c[0][1] * c[0][2]):
            waiting[case, way] = pool.submit(count, *arguments(case, way, GENES[case[1]]))
        for (case, way), future in waiting.items():
            made[case, way] = of_decoder(future.result()[1], case[1], files)
            print("  counted: %s %s" % (way, case), flush=True)
    for case in cases():
        check_ways(case, made)
    return {"percent": {str(k): v for k, v in GENES.items()}, "cases": [
        {"case": case, "ways": {way: made[case, way] for way in ways_of(case)}}
        for case in cases()]}


def save(path, record):
    """A line for each launch."""
    begins = r'(\{"case"|"(none|kept|wide)": \[|\{"(kernel|product)")'
    text = re.sub(begins, r"\n\1", json.dumps(record))
    with open(path, "w") as file:
        file.write(text + "\n")


# --- times --------------------------------------------------------------------------------------

def times(launches):
    """Of the decoder: (expected, from below, from above)"""
    return [sum(expected(launch, *how) for launch in launches) for how in (
        (FLOORS[0], LIKELY, REACHED), (FLOORS[0], LEAST, REACHED), (FLOORS[1], MOST, SLOW))]


def best(entry):
    return min(entry["ways"], key=lambda way: times(entry["ways"][way])[0])


def check_launches(options, record):
    """What the program launches now is what was counted."""
    files = kernel_files()

    def differs(entry):
        case = tuple(entry["case"])
        return [way for way, launches in entry["ways"].items()
                if [plain(l) for l in of_decoder(run(
                    options.list, *arguments(case, way, 0.01))[1], case[1], files)] !=
                [plain(l) for l in launches]]

    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for entry, ways in zip(record["cases"], pool.map(differs, record["cases"])):
            if ways:
                sys.exit("the decoder of %s launches something else than %s has, if its way is %s. "
                         "Count anew: %s" % (tuple(entry["case"]), options.of, ways[0], MADE_BY))
    print("%d decoders launch what %s has" % (len(record["cases"]), options.of))


# --- the table ----------------------------------------------------------------------------------

def rows_bytes(entry, way):
    """Of rows that a way writes first, and changes after: those of each head."""
    likelihood, genes, minibatch = entry["case"][:3]
    heads = 2 if likelihood == "ZINB" else 1
    return 0 if way == "none" else 4 * heads * minibatch * (-(-genes // 32) * 32)


def cell_of(entry, way):
    if way not in entry["ways"]:
        return "-"
    text = "%.1f (%.1f - %.1f)" % tuple(1e6 * t for t in times(entry["ways"][way]))
    return "**%s**" % text if way == best(entry) else text


def row(entry):
    likelihood, genes, minibatch, inputs, one, other, dispersion = entry["case"]
    columns = " + ".join(str(n) for n in (one, other) if n > 1) or "-"
    columns += ", px_r by batch" if dispersion == "gene-batch" else ""
    least = {way: times(launches)[0] for way, launches in entry["ways"].items()}
    return ["LDVAE-" + likelihood, columns, whole(minibatch), whole(genes), str(inputs),
            *[cell_of(entry, way) for way in WAYS], "%.1f" % (rows_bytes(entry, "wide") / 1e6),
            "%.2f" % (least["none"] / min(least.values()))]


def markdown(record):
    share = ", ".join("%s %% of %s genes" % (percent, whole(int(genes)))
                      for genes, percent in sorted(record["percent"].items()))
    return [
        "## Rows of gradients in a linear decoder", "",
        "**Worked out from counts of instructions, bytes and FLOP; not measured on a GPU.** What the "
        "decoder of a training step takes on an H100, us, with all of its kernels and products "
        "(the rest of the step is the same), if it writes gradients on logits, a number for each "
        "cell and gene, nowhere (none); for sums over one-hot columns alone (kept); or everywhere, "
        "with logits by cuBLAS in the same place (wide). Expected, and from below to above, as in "
        "roofline.md, which says how. Bold: what takes least. MB of such rows; and the time without "
        "them over the least. A run writes none, until its own first steps have been faster with them "
        "on its own GPU (`gpu_rows`).", "",
        "Each way was compiled and ran. Products of cuBLAS are worked out, not counted, as one launch "
        "each; where ways differ by less than that may be off, either may be the faster. Counts that "
        "are not 0: %s." % share, "",
        *table(["model", "columns", "minibatch", "genes", "inputs", *WAYS, "rows, MB",
                "none over least"], [row(entry) for entry in record["cases"]], 2)]


def write(options, record):
    """FILE.json and its table."""
    save(os.path.join(options.out, "ways.json"), record)
    with open(os.path.join(options.out, "ways.md"), "w") as file:
        file.write(part.headed(markdown)(record))
    return 0


def parse():
    parser = part.parser_of(__doc__, ["roofline", "played", "list"],
                            without=("--mpirun", "--scvi-python", "--threads", "--ranks", "--cpus",
                                     "--set", "--rounds", "--work", "--short"))
    add = parser.add_argument
    add("--of", metavar="FILE.json", help="with --list: a record to compare with")
    add("--jobs", type=part.positive, default=2, help="steps that are counted at a time")
    return parser.parse_args()


def main(options):
    if options.check:
        return part.check(options.check, "ways", part.headed(markdown))
    if options.of:
        options.list = os.path.abspath(options.list)
        with open(options.of) as file:
            return check_launches(options, json.load(file))
    part.settle(options)
    return write(options, {"atlasvi": version_of(options.atlasvi), **measure(options)})


if __name__ == "__main__":
    try:
        sys.exit(main(parse()))
    except Failed as fault:
        sys.exit(str(fault))
