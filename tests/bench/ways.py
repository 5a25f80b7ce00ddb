#!/usr/bin/env python3
"""Whether a linear decoder on a GPU should write rows of its gradients, a number for each cell and
gene: how long it takes an H100 without them and with, as expected of the kernels' instructions.

  cmake --build build/release --target gpu_roofline     (needs nvcc)
  cmake -B build/broad -DCMAKE_BUILD_TYPE=Release -DATLASVI_DECODE_WIDTH=72
  cmake --build build/broad --target gpu_roofline       kernels of more inputs than the program has
  tests/bench/ways.py --build build/release --broad build/broad --out tests/bench
                                 writes ways.json and ways.md there, in 20 minutes
  tests/bench/ways.py --list build/release/tests/gpu/roofline/gpu_roofline_list --of FILE.json
                                 only: does the program take what the record says is fastest?

Nothing is measured on a GPU: steps run and are counted as by roofline.py, once for each way that
the decoder can be made to go (src/backend/gpu_decode.h), and roofline_model.py makes times of that.
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

WIDTH, BROAD = 40, 72  # AV_GPU_DECODE_WIDTH, and that of the second build
WAYS = ["none", "kept", "wide"]  # by what they write
ALIKE = 1.10  # a way that writes fewer rows may take so many times as long
MADE_BY = "tests/bench/ways.py --build BUILD --broad BROAD --out tests/bench"
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


def width(case):
    """Rows of w, and c, that tiles has as inputs if no rows are written."""
    _, _, _, inputs, one, other, _ = case
    columns = [n for n in (one, other) if n > 1]
    walked = max(columns) if columns and inputs + 1 + sum(columns) > 20 else 0
    return inputs + 1 + sum(columns) - walked


def arguments(case, way, percent):
    likelihood, genes, minibatch, inputs, one, other, dispersion = case
    return ("LDVAE-%s, %d latents" % (likelihood, inputs), one, minibatch, genes, percent, other,
            way, dispersion)


# --- the record ---------------------------------------------------------------------------------

def of_decoder(launches, genes, files):
    """Its kernels, and the products that have genes for rows, columns or terms."""
    return [l for l in launches if genes in l.get("product", ()) or
            any(name.startswith("decode_") for name in files.get(l.get("kernel"), "").split("/"))]


def check_way(case, way, made):
    """A build that is not broad goes another way than it was asked for."""
    mine = [plain(l) for l in made[case, way]]
    if (way == "wide") != any("product" in l for l in mine) or any(
            mine == [plain(l) for l in made[case, other]] for other in WAYS
            if other != way and (case, other) in made):
        raise Failed("%s is not the way %s: is --broad a build with ATLASVI_DECODE_WIDTH=%d?" % (
            case, way, BROAD))


def measure(options):
    files, wanted = kernel_files(), [(case, way) for case in cases() for way in ways_of(case)]
    narrow = counted(options.roofline, options.played)
    broad = counted(*[os.path.join(options.broad, part.PLACES[name])
                      for name in ("roofline", "played")])
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        waiting = {}
        for case, way in sorted(wanted, key=lambda c: -c[0][1] * c[0][2]):
            one = broad if way == "none" and width(case) > WIDTH else narrow
            waiting[case, way] = pool.submit(one, *arguments(case, way, GENES[case[1]]))
        made = {}
        for (case, way), future in waiting.items():
            made[case, way] = of_decoder(future.result()[1], case[1], files)
            check_way(case, way, made)
            print("  counted: %s %s" % (way, case), flush=True)
    return {"percent": {str(k): v for k, v in GENES.items()}, "widths": [WIDTH, BROAD], "cases": [
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


def fault_of(entry, taken):
    """What speaks against a way: another is faster; or it writes more, and is not."""
    expected_of = {way: times(launches)[0] for way, launches in entry["ways"].items()}
    if expected_of[taken] > ALIKE * min(expected_of.values()):
        return "%s is faster" % best(entry)
    less = [way for way in WAYS[:WAYS.index(taken)] if way in expected_of]
    if any(expected_of[way] <= expected_of[taken] for way in less):
        return "it writes rows, and is no faster"
    return None


def taken_by(program, entry, files):
    """The way whose launches the program's are when it chooses."""
    case = tuple(entry["case"])
    listed = run(program, *arguments(case, "chosen", 0.01))[1]
    now = [plain(l) for l in of_decoder(listed, case[1], files)]
    for way, launches in entry["ways"].items():
        if now == [plain(l) for l in launches]:
            return way
    raise Failed("the decoder of %s launches what no way of the record has. Count anew: %s" % (
        case, MADE_BY))


def all_taken(options, record):
    """The way of each case."""
    files = kernel_files()
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        return list(pool.map(lambda entry: taken_by(options.list, entry, files), record["cases"]))


def check_choice(options, record):
    for entry, taken in zip(record["cases"], all_taken(options, record)):
        fault = fault_of(entry, taken)
        if fault or taken != entry["taken"]:
            sys.exit("of %s the decoder takes the way %s (%s: %s), but %s" % (
                tuple(entry["case"]), taken, options.of, entry["taken"],
                fault or "the table says another: tests/bench/ways.py --list PROGRAM --take FILE"))
    print("%d decoders take the fastest way, by %s" % (len(record["cases"]), options.of))


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
    return "**%s**" % text if way == entry["taken"] else text


def row(entry):
    likelihood, genes, minibatch, inputs, one, other, dispersion = entry["case"]
    columns = " + ".join(str(n) for n in (one, other) if n > 1) or "-"
    columns += ", px_r by batch" if dispersion == "gene-batch" else ""
    fastest = best(entry)
    least = {way: times(launches)[0] for way, launches in entry["ways"].items()}
    more = least[entry["taken"]] / least[fastest]
    return ["LDVAE-" + likelihood, columns, entry["taken"], whole(minibatch), whole(genes),
            str(inputs), *[cell_of(entry, way) for way in WAYS],
            "%.1f" % (rows_bytes(entry, "wide") / 1e6), "%.2f" % more]


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
        "roofline.md, which says how. Bold: what the program takes (src/backend/gpu_decode.c). MB of "
        "such rows, and the expected time of what it takes over that of the fastest: it writes rows "
        "only where that is faster, and takes at most %.2f times the fastest." % ALIKE, "",
        "Each way was compiled and ran; kernels for more than %d inputs, columns beside the largest "
        "factor, and c, which the program does not have, are of a build with "
        "ATLASVI_DECODE_WIDTH=%d. Products of cuBLAS are worked out, not counted, as one launch each; where "
        "ways differ by less than that may be off, either may be the faster. Counts that are not 0: "
        "%s." % (*record["widths"], share), "",
        *table(["model", "columns", "taken", "minibatch", "genes", "inputs", *WAYS, "rows, MB",
                "over fastest"], [row(entry) for entry in record["cases"]], 3)]


def write(options, record):
    """FILE.json with what the program takes, and its table."""
    for entry, taken in zip(record["cases"], all_taken(options, record)):
        entry["taken"] = taken
    path = options.take or os.path.join(options.out, "ways.json")
    save(path, record)
    with open(os.path.splitext(path)[0] + ".md", "w") as file:
        file.write(part.headed(markdown)(record))
    return 0


def parse():
    parser = part.parser_of(__doc__, ["roofline", "played", "list"],
                            without=("--mpirun", "--scvi-python", "--threads", "--ranks", "--cpus",
                                     "--set", "--rounds", "--work", "--short"))
    add = parser.add_argument
    add("--broad", default="build/broad", metavar="FOLDER", help="the second build")
    add("--of", metavar="FILE.json", help="with --list: a record to compare with")
    add("--take", metavar="FILE.json", help="with --list: only what the program takes, anew")
    add("--jobs", type=part.positive, default=2, help="steps that are counted at a time")
    return parser.parse_args()


def main(options):
    if options.check:
        return part.check(options.check, "ways", part.headed(markdown))
    if options.of or options.take:
        options.list = os.path.abspath(options.list)
        with open(options.of or options.take) as file:
            record = json.load(file)
        return check_choice(options, record) if options.of else write(options, record)
    part.settle(options)
    return write(options, {"atlasvi": version_of(options.atlasvi), **measure(options)})


if __name__ == "__main__":
    try:
        sys.exit(main(parse()))
    except Failed as fault:
        sys.exit(str(fault))
