"""The least time of what roofline_counts.py counts, on an H100, and the tables.

Every rate is the most that the chip can do by its specification, or an assumption that is named as
such: times are bounds from below, but for the time from one launch to the next, which is assumed."""
import re

from programs import Failed
from report import table, whole

SMS = 132            # multiprocessors of an H100 SXM: NVIDIA H100 architecture white paper
CLOCK = 1.7e9        # assumption: cycles a second when all work; the white paper's boost is higher
HBM = 3.35e12        # bytes/s of device memory: H100 data sheet, SXM
L2 = 5.5e12          # assumption: bytes/s from the second-level cache, published microbenchmarks
PORT = 64            # assumption: bytes a cycle between it and one multiprocessor, likewise
L1 = 128             # bytes a cycle of one multiprocessor's first level and shared memory: 32 banks
                     # of 4 bytes, CUDA programming guide
FLOAT32 = 67e12      # FLOP/s of products: data sheet
TF32 = 494.7e12      # likewise, on tensor cores, dense
# Operations a cycle of one multiprocessor, compute capability 9.0: CUDA programming guide,
# arithmetic instructions.
SINGLE, DOUBLE, SPECIAL, SHUFFLES = 128, 64, 16, 32
# Assumption: cuBLAS cuts a product into tiles of 64 x 64, and k into pieces of 256.
PRODUCT_TILE, PRODUCT_DEPTH = 64, 256
FLOORS = (2e-6, 4e-6)  # assumption: from the start of a launch in a CUDA graph to the next one's
CELLS = 1000000

# What an operation takes: (float32, float64, special) instructions. Of functions: the instructions
# that compute in the PTX of nvcc 13.0 for sm_90, on their usual path; divisions and roots, which are
# one instruction of PTX, by assumption. A fused one counts as two FLOP.
FUNCTIONS = {"single": (1, 0, 0), "fused": (1, 0, 0), "double": (0, 1, 0), "shuffle": (0, 0, 0),
             "divf": (9, 0, 1), "sqrtf": (8, 0, 1), "expf": (8, 0, 1), "logf": (24, 0, 1),
             "log1pf": (24, 0, 1), "expm1f": (26, 0, 1), "lgammaf": (100, 0, 2),
             "div": (0, 10, 1), "sqrt": (0, 10, 1), "exp": (4, 17, 0), "log": (6, 30, 1),
             "log1p": (6, 55, 2), "lgamma": (0, 150, 2), "sincos": (6, 40, 0), "sincosf": (40, 0, 0)}
TARGETS = {("LDVAE-NB", 128): 1.0, ("LDVAE-NB", 4096): 0.15, ("scVI-NB", 128): 1.5,
           ("scVI-NB", 4096): 0.3, ("scVI-ZINB", 128): 1.5, ("scVI-ZINB", 4096): 0.3}
SECTOR = 32
KINDS = ("product", "memset", "to device", "to host", "copy")  # besides kernels
COUNTS = ("bytes", "shared", "by_blocks", "sectors", "memory")  # each of loads and of stores


def instructions(launch):
    """(float32, float64, special, shuffles)"""
    sums = [0, 0, 0]
    for name, n in launch["operations"].items():
        sums = [s + n * each for s, each in zip(sums, FUNCTIONS[name])]
    return (*sums, launch["operations"].get("shuffle", 0))


def tiles_of(launch):
    m, n, _ = launch["product"]
    return -(-m // PRODUCT_TILE) * -(-n // PRODUCT_TILE)


def blocks_of(launch):
    if "product" in launch:
        return tiles_of(launch) * -(-launch["product"][2] // PRODUCT_DEPTH)
    if "kernel" in launch:
        x, y, z = launch["grid"]
        return x * y * z
    return SMS


def level2_bytes(launch):
    if "product" in launch:
        m, n, k = launch["product"]
        stored = m * n * (2 if launch["added"] else 1)
        return 4 * (tiles_of(launch) * 2 * PRODUCT_TILE * k + stored)
    return SECTOR * sum(launch["by_blocks"] if "kernel" in launch else launch["sectors"])


def limits(launch, precision=FLOAT32):
    """Seconds that each thing that a launch needs would take by itself."""
    sms = min(SMS, blocks_of(launch))
    ports = sms * PORT * CLOCK
    found = {"memory": SECTOR * sum(launch["memory"]) / min(HBM, ports),
             "L2": level2_bytes(launch) / min(L2, ports)}
    if "product" in launch:
        m, n, k = launch["product"]
        found["FLOP"] = 2 * m * n * k / (precision * sms / SMS)
    elif "kernel" in launch:
        a_second = sms * CLOCK
        single, double, special, shuffles = instructions(launch)
        found["float32"] = (single + double + special + shuffles) / (SINGLE * a_second)
        found["float64"] = double / (DOUBLE * a_second)
        found["special"] = special / (SPECIAL * a_second)
        found["shuffles"] = shuffles / (SHUFFLES * a_second)
    return found


def level1_seconds(launch):
    """If no two lanes of a warp shared a load. Those that read the same words do, in a way that the
    counts do not tell: this is no bound."""
    return sum(launch["bytes"] + launch["shared"]) / (L1 * CLOCK * min(SMS, blocks_of(launch)))


def seconds(launch, floor, precision=FLOAT32):
    return max(floor, *limits(launch, precision).values())


def step(case, floor, precision=FLOAT32):
    return sum(seconds(launch, floor, precision) for launch in case["launches"])


def epoch(case, floor, precision=FLOAT32):
    return step(case, floor, precision) * -(-CELLS // case["minibatch"])


def name_of(launch):
    for kind in KINDS:
        if kind in launch:
            size = launch[kind]
            return "%s %s" % (kind, " x ".join(map(str, size)) if kind == "product" else size)
    return launch["kernel"].strip("()")


# --- larger steps -------------------------------------------------------------------------------

def plain(launch):
    """What was launched, without what was counted."""
    return {k: v for k, v in launch.items() if k not in COUNTS and k != "operations"}


def name_without_sizes(launch):
    """Template arguments follow from sizes."""
    kind = next((k for k in KINDS if k in launch), "kernel")
    return re.sub("<.*>", "", launch["kernel"]) if kind == "kernel" else kind


def by_name(launches):
    found = {}
    for launch in launches:
        found.setdefault(name_without_sizes(launch), []).append(launch)
    return found


def added(launches):
    """Counts of all of them together."""
    sums = {name: [sum(launch[name][i] for launch in launches) for i in range(2)]
            for name in COUNTS}
    operations = {}
    for launch in launches:
        for name, n in launch["operations"].items():
            operations[name] = operations.get(name, 0) + n
    return {**sums, "operations": operations}


def along(minibatch, small, low, large, high, among):
    """A line through two counts; never below 0. A share of it."""
    return max(0, round((high + (high - low) * (minibatch - large) / (large - small)) / among))


def between_steps(minibatch, small, low, large, high, among=1):
    """Counts (or None: there were none) of minibatches of two sizes, drawn on to a third. What only
    the large one has is taken as proportional."""
    if low is None:
        small, low = 0, {**{name: [0, 0] for name in COUNTS}, "operations": {}}
    line = lambda a, b: along(minibatch, small, a, large, b, among)
    found = {name: [line(low[name][i], high[name][i]) for i in range(2)] for name in COUNTS}
    found["operations"] = {name: line(low["operations"].get(name, 0), n)
                           for name, n in high["operations"].items()}
    return found


def extrapolated(minibatch, launches, small, large):
    """Counts for launches as listed, from steps (minibatch, launches) of two sizes: launch by launch
    where there are as many of a name, else all of a name together, in equal shares (of rows that
    are worked on in pieces)."""
    low, high = by_name(small[1]), by_name(large[1])
    listed, seen, found = by_name(launches), {}, []
    for launch in launches:
        name = name_without_sizes(launch)
        n = len(listed[name])
        if name not in high:
            raise Failed("no step of %d cells has %s: count larger ones (--most)" % (large[0], name))
        at = seen[name] = seen.get(name, -1) + 1
        if len(high[name]) == n:
            before = low[name][at] if len(low.get(name, [])) == n else None
            counts = between_steps(minibatch, small[0], before, large[0], high[name][at])
        else:
            before = added(low[name]) if name in low else None
            counts = between_steps(minibatch, small[0], before, large[0], added(high[name]), n)
        found.append({**launch, **counts})
    return found


# --- tables -------------------------------------------------------------------------------------

MEGA = lambda n: "%.1f" % (n / 1e6)
MICRO = lambda s: "%.1f" % (s * 1e6)
TOLD = ("bytes", "sectors", "memory")


def method(record):
    shares = ", ".join("%s genes with %s %% of the counts not 0" % (whole(int(g)), p)
                       for g, p in record["percent"].items())
    return [
        "## How it is worked out", "",
        "**Nothing here was measured on a GPU.** Launches, bytes and operations are counted from the "
        "kernels' own code on the emulated device of the tests (tests/gpu/roofline/count.h), in the "
        "second step of a model with default settings on drawn counts: %s. Times are what an H100 "
        "SXM needs at least for that by its published rates (tests/bench/roofline_model.py has them "
        "all, with sources): for each launch the longest of what follows, and no less than the "
        "assumed %s us from one launch of a CUDA graph to the next; then summed." % (
            shares, MICRO(FLOORS[0])), "",
        "- memory: sectors of 32 bytes that the 50 MB second-level cache does not hold since "
        "earlier launches, %.2f TB/s;" % (HBM / 1e12),
        "- L2: sectors that differ within a block, summed over blocks, %.1f TB/s (assumed); products "
        "are cut into tiles of %d x %d, and those into pieces of %d to sum over (assumed);" % (
            L2 / 1e12, PRODUCT_TILE, PRODUCT_TILE, PRODUCT_DEPTH),
        "- float32, float64, special functions, shuffles: %d, %d, %d, %d a cycle and multiprocessor; "
        "float32 counts all four, which are issued one after the other;" % (
            SINGLE, DOUBLE, SPECIAL, SHUFFLES),
        "- FLOP, of products: %.0f TFLOP/s in float32 (%.0f in tf32);" % (FLOAT32 / 1e12,
                                                                          TF32 / 1e12),
        "- all but memory of as many multiprocessors as there are blocks, of %d, at %.1f GHz "
        "(assumed)." % (SMS, CLOCK / 1e9), "",
        "Not in it: waits for memory and barriers within a block, warps that diverge, addresses, "
        "integers and random numbers, what a second wave of blocks leaves idle, the host. Kernels "
        "that wait rather than work take longer than the least time: the second figure of an epoch, "
        "with %s us a launch, says how much hangs on that." % MICRO(FLOORS[1]), ""] + told(record)


def told(record):
    """How far lines through smaller steps miss a counted one."""
    found = {(c["model"], c["batches"], c["genes"], c["minibatch"]): c for c in record["cases"]
             if c["counted"]}
    rows = []
    for (model, batches, genes, minibatch), case in sorted(found.items()):
        smaller = sorted(k for k in found if k[:3] == (model, batches, genes) and k[3] < minibatch)
        if len(smaller) < 2:
            continue
        guess = {"launches": extrapolated(minibatch, case["launches"], *[
            (k[3], found[k]["launches"]) for k in smaller[-2:]])}
        total = lambda of, name: sum(sum(launch[name]) for launch in of["launches"])
        rows.append([model, whole(minibatch), whole(genes)] + [
            "%.2f" % (total(guess, name) / total(case, name)) for name in TOLD] + [
            "%.2f" % (step(guess, FLOORS[0]) / step(case, FLOORS[0]))])
    return ["Counts of steps marked ~ lie on lines through those of the two largest minibatches that "
            "were counted, launch by launch; the launches themselves are listed for every step. Such "
            "lines through the smaller steps, over what was counted:", ""] + table(
        ["model", "minibatch", "genes", "bytes of threads", "sectors", "memory", "time"], rows, 1)


def verdict(case):
    target = TARGETS.get((case["model"], case["minibatch"]))
    if target is None or case["genes"] != 2000:
        return "-"
    two, four = (epoch(case, floor) <= target for floor in FLOORS)
    return "%.2f: %s" % (target, "met" if four else "met by the first" if two else "missed")


def heaviest(case, n=3):
    sums = {}
    for launch in case["launches"]:
        name = "products" if "product" in launch else name_of(launch).split("<")[0].split(" ")[0]
        sums[name] = sums.get(name, 0.0) + seconds(launch, FLOORS[0])
    top = sorted(sums, key=lambda name: -sums[name])[:n]
    return ", ".join("%s %s" % (name, MICRO(sums[name])) for name in top)


def first_cells(case):
    return [case["model"] + (", %d batches" % case["batches"] if case["batches"] > 1 else ""),
            whole(case["minibatch"]), whole(case["genes"]) + ("" if case["counted"] else " ~")]


def epochs(record):
    rows = [first_cells(case) + [
        "%d" % len(case["launches"]), MICRO(step(case, 0.0)), MICRO(step(case, FLOORS[0])),
        "%.3f" % epoch(case, FLOORS[0]), "%.3f" % epoch(case, FLOORS[1]),
        "%.3f" % epoch(case, FLOORS[0], TF32), verdict(case)] for case in record["cases"]]
    low, high = (MICRO(floor) for floor in FLOORS)
    return ["## Least time of an epoch", "",
            "**A bound from below by published rates of an H100 SXM, not a measurement: nothing was "
            "measured on a GPU.** Of 1,000,000 cells, from what the kernels' own code launches, moves "
            "and computes in a step when the tests run it on a CPU. Launches: kernels, products of "
            "cuBLAS, fills and copies. Least time of a step, us: of the work alone, and if a launch "
            "takes no less than %s us (assumed). Of an epoch, s: so; if it takes no less than %s us; "
            "so with products in tf32. Whether a target is met by both. ~: by lines through smaller "
            "minibatches." % (low, high),
            ""] + table(
        ["model", "minibatch", "genes", "launches", "work, us", "step, us", "epoch, s",
         "%s us a launch" % high, "tf32", "target, s"], rows)


def summary(record):
    rows = []
    for case in record["cases"]:
        launches = case["launches"]
        of = lambda what: sum(what(launch) for launch in launches)
        rows.append(first_cells(case) + [
            "%d" % of(lambda l: max(limits(l).values()) > FLOORS[0]),
            "%d" % of(lambda l: "kernel" in l and blocks_of(l) < SMS),
            MEGA(of(lambda l: sum(l["bytes"]))), MEGA(of(level2_bytes)),
            MEGA(of(lambda l: SECTOR * sum(l["sectors"]))),
            MEGA(of(lambda l: SECTOR * sum(l["memory"]))),
            MEGA(of(lambda l: sum(instructions(l)))),
            MEGA(of(lambda l: 2 * l["product"][0] * l["product"][1] * l["product"][2]
                    if "product" in l else 0)), heaviest(case)])
    return ["## What a step moves and computes", "",
            "Launches that need more than %s us; kernels of fewer blocks than multiprocessors. MB: of "
            "all threads, past the second level, that differ within a launch, of memory. Millions: "
            "instructions that compute, FLOP of products. The launches that take most, us."
            % MICRO(FLOORS[0]), ""] + table(
        ["model", "minibatch", "genes", "long", "few blocks", "threads, MB", "L2", "differ",
         "memory", "compute, M", "FLOP, M", "most"], rows)


def kernel_rows(case, files):
    rows = []
    for launch in case["launches"]:
        found = limits(launch)
        bound = max(found, key=lambda k: found[k])
        kernel = "kernel" in launch
        rows.append([
            name_of(launch), files.get(launch.get("kernel"), "-"),
            whole(blocks_of(launch)) if kernel or "product" in launch else "-",
            whole(launch["block"][0]) if kernel else "-",
            *["%.3f" % (n / 1e6) for n in (
                sum(launch["bytes"]), sum(launch["shared"]), level2_bytes(launch),
                SECTOR * sum(launch["sectors"]), SECTOR * sum(launch["memory"]))],
            *["%.3f" % (n / 1e6) for n in instructions(launch)],
            "%.2f" % (1e6 * found[bound]), bound if found[bound] > 0 else "-",
            "%.2f" % (1e6 * level1_seconds(launch)) if kernel else "-"])
    return rows


def kernels(record):
    lines = ["## Launches of a step", "",
             "In their order. MB: of threads, of shared memory, past the second level, that differ in "
             "the launch, of memory. Millions of operations: float32, float64, special, shuffles. "
             "The least time, us, and what needs it; beside it, not in it, what the first level and "
             "shared memory would take if lanes never shared a load, %d bytes a cycle." % L1]
    for case in record["cases"]:
        if case["genes"] == 2000 and case["minibatch"] in (128, 4096) and case["batches"] == 1:
            lines += ["", "### %s, minibatch %s" % (case["model"], whole(case["minibatch"])), ""]
            lines += table(["launch", "file", "blocks", "threads", "threads, MB", "shared", "L2",
                            "differ", "memory", "float32, M", "float64", "special", "shuffles",
                            "us", "bound", "L1, us"], kernel_rows(case, record["files"]), 2)[:-1]
    return lines + [""]


def completed(record):
    """The record with counts for the steps that were too large to count."""
    made = {(c["model"], c["batches"], c["genes"], c["minibatch"]): c["launches"]
            for c in record["cases"] if c["counted"]}
    cases = []
    for case in record["cases"]:
        if not case["counted"]:
            like = (case["model"], case["batches"], case["genes"])
            sizes = sorted(key[3] for key in made if key[:3] == like)[-2:]
            case = {**case, "launches": extrapolated(case["minibatch"], case["launches"], *[
                (size, made[(*like, size)]) for size in sizes])}
        cases.append(case)
    return {**record, "cases": cases}


def markdown(record):
    record = completed(record)
    return epochs(record) + method(record) + summary(record) + kernels(record)
