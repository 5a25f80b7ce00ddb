"""The tables of roofline.md: what a step moves, computes and issues, and the times of it."""
from host import FASTER
from host import epochs as host_epochs
from report import table, whole
from roofline_model import (SMS, CLOCK, HBM, L2, L1, FLOAT32, TF32, SINGLE, DOUBLE, SPECIAL,
                            SHUFFLES, PRODUCT_TILE, PRODUCT_DEPTH, FLOORS, START, REACHED, SLOW,
                            SCHEDULERS, LIKELY, LONGEST, SECTOR, instructions, blocks_of,
                            level2_bytes, limits, level1_seconds, warps_of, expected,
                            expected_step, expected_epochs, seconds, step, epoch, name_of,
                            extrapolated, completed)

TARGETS = {("LDVAE-NB", 128): 1.0, ("LDVAE-NB", 4096): 0.15, ("scVI-NB", 128): 1.5,
           ("scVI-NB", 4096): 0.3, ("scVI-ZINB", 128): 1.5, ("scVI-ZINB", 4096): 0.3}
TIMES, DEFAULT_MINIBATCH = 30, 128  # as fast as scvi-tools, where that is its default: the target

MEGA = lambda n: "%.1f" % (n / 1e6)
MICRO = lambda s: "%.1f" % (s * 1e6)
TOLD = ("bytes", "sectors", "memory")


def method(record):
    reached, alone = REACHED
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
        "Not in the least time: waits for memory and barriers within a block, warps that diverge, "
        "addresses, integers and random numbers, what a second wave of blocks leaves idle, the host. "
        "The second least time of an epoch, with %s us a launch, says how much hangs on that." %
        MICRO(FLOORS[1]), "",
        "The expected time has the machine instructions in it, all of them: the kernels' PTX, as nvcc "
        "compiles it, is played on the emulated device (tests/gpu/roofline/played.h; it has to compute "
        "what the kernels' C++ computes), where a warp issues a basic block as often as the lane that "
        "enters it most often; ptxas's line table says how many instructions it made of each block "
        "(tests/gpu/roofline/play.py; left out are slow paths of divisions and such, and of shuffles for "
        "lanes that have parted). What remains uncertain is how often each of several copies of a "
        "block runs: from below all run for as few times as the copies allow, from above each runs "
        "every time. A launch then takes the assumed %s us and, as if nothing of it ran beside that, "
        "the longest of" % MICRO(FLOORS[0]), "",
        "- what the least time is made of, at %.2f of those rates (assumed);" % reached,
        "- instructions of the multiprocessor with most blocks: %d schedulers issue one a cycle each at "
        "%.2f of that, or, with few warps, %.1f a cycle and warp (assumed: a warp alone waits 5 cycles "
        "for each of its results); as many blocks at a time as registers and shared memory allow;" % (
            SCHEDULERS, reached, alone),
        "- its loads, stores and shuffles of warps, one a cycle, at %.2f of that;" % reached,
        "- the instructions of the longest warp, %.1f a cycle." % alone, "",
        "The range of an epoch: instructions from below; and instructions from above, with %s us a "
        "launch, at %.2f and %.2f in the place of %.2f and %.2f. A target is called excluded if the "
        "least time is above it; expected if the expected time is not; expected from above as well if "
        "the range is not; otherwise it is not excluded, and not expected. None of these words is a "
        "measurement. What the host does between epochs (the next order of the cells, losses) is left out." % (MICRO(FLOORS[1]), *SLOW, *REACHED), ""] + told(record)


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
            "%.2f" % (time(guess, FLOORS[0]) / time(case, FLOORS[0]))
            for time in (step, expected_step)])
    return ["Counts of steps marked ~ lie on lines through those of the two largest minibatches that "
            "were counted, launch by launch; the launches themselves are listed for every step. Such "
            "lines through the smaller steps, over what was counted:", ""] + table(
        ["model", "minibatch", "genes", "bytes of threads", "sectors", "memory", "least time",
         "expected"], rows, 1)


def verdict(case):
    target = TARGETS.get((case["model"], case["minibatch"]))
    if target is None or case["genes"] != 2000:
        return "-"
    _, likely, most = expected_epochs(case)
    return "%.2f: %s" % (target, "excluded" if epoch(case, FLOORS[0]) > target else
                         "expected, from above as well" if most <= target else
                         "expected" if likely <= target else "not excluded, not expected")


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
    rows = []
    for case in record["cases"]:
        low, likely, high = expected_epochs(case)
        rows.append(first_cells(case) + [
            "%d" % len(case["launches"]), MICRO(step(case, 0.0)), MICRO(step(case, FLOORS[0])),
            "%.3f" % epoch(case, FLOORS[0]), "%.3f" % epoch(case, FLOORS[1]),
            "%.3f" % epoch(case, FLOORS[0], TF32), MICRO(expected_step(case, FLOORS[0])),
            "%.3f" % likely, "%.3f - %.3f" % (low, high), verdict(case)])
    low, high = (MICRO(floor) for floor in FLOORS)
    return ["## Least and expected time of an epoch", "",
            "**Worked out for an H100 SXM, not measured: nothing was measured on a GPU.** Of 1,000,000 "
            "cells, from what the kernels' own code launches, moves, computes and issues in a step when "
            "the tests run it on a CPU. Launches: kernels, products of cuBLAS, fills and copies. Least, "
            "a bound from below by published rates: of a step, us, of the work alone, and if a launch "
            "takes no less than %s us (assumed); of an epoch, s, so, if it takes no less than %s us, "
            "and with products in tf32. Expected, by counts of machine instructions at assumed rates: "
            "of a step, us; of an epoch, s; range, s. Then the target, s, and what these times say of "
            "it. ~: by lines through smaller minibatches." % (low, high),
            ""] + table(
        ["model", "minibatch", "genes", "launches", "least work, us", "step, us", "epoch, s",
         "%s us a launch" % high, "tf32", "expected step, us", "epoch, s", "range, s",
         "target, s"], rows)


def called(ratios):
    """Of (this host, a faster one): what they say of TIMES."""
    here, faster = (ratio >= TIMES for ratio in ratios)
    return "expected, beside the faster host as well" if faster else "expected" if here else \
        "not shown"


REPORTED = """What is reported of scvi-tools on GPUs, cells/s, whatever GPU, host and minibatch: 26,100 (its own tutorial on an RTX
3090: 90 % of 18,641 cells x 1,200 genes, ZINB, minibatch 128, 400 epochs in 257 s: quick_start/api_overview.ipynb of
https://github.com/scverse/scvi-tutorials at 7b04f3a); 24,500 (3,684,849 cells x 6,319 genes, 150 s an epoch:
https://github.com/haniffalab/skin_fibroblast_atlas/issues/2); above 20,200 (35 million cells, 100 epochs in less than
2 days: https://github.com/scverse/scvi-tools/issues/2726)."""


def pairs(record, host):
    """(model, minibatch), scvi-tools' epochs beside both hosts, ours: low, likely, high."""
    cases = {(c["model"], c["minibatch"]): c for c in record["cases"]
             if c["genes"] == host["host_settings"]["genes"] and c["batches"] == 1}
    return [(key, theirs, expected_epochs(cases[key]))
            for key, theirs in host_epochs(host, START).items() if key in cases]


def beside(record, host):
    rows = []
    for key, theirs, (low, likely, high) in pairs(record, host):
        ratios = [seconds / likely for seconds in theirs]
        rows.append([key[0], whole(key[1]), *["%.1f" % t for t in theirs], "%.3f" % likely,
                     *["%.0f" % r for r in ratios],
                     "%.0f - %.0f" % (theirs[1] / high, theirs[0] / low), called(ratios)])
    return ["## Beside scvi-tools on such a GPU", "",
            "**Worked out, not measured on a GPU.** What scvi-tools takes of its host alone, measured "
            "on a CPU (tests/bench/host.md), and %s us (assumed) for each operation that starts a kernel, "
            "as if its GPU worked in no time, over the expected time of ours. An epoch of 1,000,000 "
            "cells, seconds: scvi-tools, so, beside the host that was measured and beside one %d times as "
            "fast; ours, expected. Times as fast, beside the one and the other; from the faster host and "
            "our range from above to the slower and from below. Then what that says of %d times: not "
            "shown does not mean less, as what scvi-tools' GPU takes is left out. Its default minibatch "
            "is %d." % (MICRO(START), FASTER, TIMES, DEFAULT_MINIBATCH),
            ""] + table(
        ["model", "minibatch", "scvi-tools, s", "faster host", "ours, s", "ratio", "faster host",
         "range", "%d times" % TIMES], rows, 1) + REPORTED.splitlines() + [""]


def unmet(record, host):
    """Targets that are not expected to be met, of models with default settings; scvi-tools' time beside
    the host that was measured."""
    record = completed(record)
    ours = {(c["model"], c["minibatch"]): expected_epochs(c)[1]
            for c in record["cases"] if c["genes"] == 2000 and c["batches"] == 1}
    faults = ["%s, minibatch %d: %.3f s an epoch, not %.2f" % (*key, ours[key], most)
              for key, most in TARGETS.items() if ours[key] > most]
    ratios = {key: theirs[0] / likely for key, theirs, (_, likely, _) in pairs(record, host)}
    return faults + ["%s, minibatch %d: %.1f times as fast as scvi-tools, not %d" % (
        *key, ratios[key], TIMES)
        for key in TARGETS if key[1] == DEFAULT_MINIBATCH and ratios[key] < TIMES]


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
            MEGA(of(lambda l: sum(instructions(l)))), MEGA(of(lambda l: l["issue"][LIKELY])),
            MEGA(of(lambda l: 2 * l["product"][0] * l["product"][1] * l["product"][2]
                    if "product" in l else 0)), heaviest(case)])
    return ["## What a step moves and computes", "",
            "Launches that need more than %s us; kernels of fewer blocks than multiprocessors. MB: of "
            "all threads, past the second level, that differ within a launch, of memory. Millions: "
            "instructions of threads that compute, instructions of warps, FLOP of products. The launches "
            "whose least time is longest, us."
            % MICRO(FLOORS[0]), ""] + table(
        ["model", "minibatch", "genes", "long", "few blocks", "threads, MB", "L2", "differ",
         "memory", "compute, M", "warps, M", "FLOP, M", "most"], rows)


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
            "%.2f" % (1e6 * level1_seconds(launch)) if kernel else "-",
            "%.3f" % (launch["issue"][LIKELY] / 1e6), whole(launch["issue"][LONGEST]),
            "%.1f" % warps_of(launch)[1] if kernel else "-",
            "%.2f" % (1e6 * expected(launch, 0.0))])
    return rows


def kernels(record):
    lines = ["## Launches of a step", "",
             "In their order. MB: of threads, of shared memory, past the second level, that differ in "
             "the launch, of memory. Millions of operations: float32, float64, special, shuffles. "
             "The least time, us, and what needs it; beside it, not in it, what the first level and "
             "shared memory would take if lanes never shared a load, %d bytes a cycle. Instructions of "
             "warps, millions, and of the longest warp; warps of a scheduler; the expected time, us, "
             "beyond the launch's own." % L1]
    for case in record["cases"]:
        if case["genes"] == 2000 and case["minibatch"] in (128, 4096) and case["batches"] != 2:
            lines += ["", "### %s, minibatch %s" % tuple(first_cells(case)[:2]), ""]
            lines += table(["launch", "file", "blocks", "threads", "threads, MB", "shared", "L2",
                            "differ", "memory", "float32, M", "float64", "special", "shuffles",
                            "us", "bound", "L1, us", "warps, M", "longest", "warps", "expected, us"],
                           kernel_rows(case, record["files"]), 2)[:-1]
    return lines + [""]


def markdown(record, host):
    record = completed(record)
    return epochs(record) + (beside(record, host) if host else []) + method(record) + \
        summary(record) + kernels(record)
