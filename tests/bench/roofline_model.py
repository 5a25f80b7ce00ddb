"""Times of what roofline_counts.py counts, on an H100. Tables: roofline_table.py.

The least: every rate is the most that the chip can do by its specification, or an assumption that
is named as such: bounds from below, but for the time from one launch to the next, which is assumed.
The expected: machine instructions at rates that are assumptions throughout."""
import re

from programs import Failed

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
START = 2e-6  # assumption: of the host, to start a kernel by itself, as scvi-tools does
# What is expected. Assumptions: (the share of each rate above, and of the instructions that
# schedulers can issue, that kernels reach; instructions a cycle of a warp that waits for its own
# results alone: 4 to 5 cycles each in arithmetic, by published microbenchmarks). Likely, and slow.
REACHED, SLOW = (0.65, 0.2), (0.45, 0.12)
SCHEDULERS, WARP = 4, 32  # of a multiprocessor, each one instruction of a warp a cycle: white paper
# What blocks of one multiprocessor share, compute capability 9.0: CUDA programming guide.
REGISTERS, SHARED, WARPS, BLOCKS, BLOCK_SHARED = 65536, 228 * 1024, 64, 32, 1024
REQUESTS = 1  # a cycle and multiprocessor: warps' loads, stores and shuffles, by the same guide
LEAST, LIKELY, MOST, LONGEST, ASKED = range(5)  # of a launch's "issue"
CELLS = 1000000

# What an operation takes: (float32, float64, special) instructions. Of functions: the instructions
# that compute in the PTX of nvcc 13.0 for sm_90, on their usual path; divisions and roots, which are
# one instruction of PTX, by assumption. A fused one counts as two FLOP.
FUNCTIONS = {"single": (1, 0, 0), "fused": (1, 0, 0), "double": (0, 1, 0), "shuffle": (0, 0, 0),
             "divf": (9, 0, 1), "sqrtf": (8, 0, 1), "expf": (8, 0, 1), "logf": (24, 0, 1),
             "log1pf": (24, 0, 1), "expm1f": (26, 0, 1), "lgammaf": (100, 0, 2),
             "div": (0, 10, 1), "sqrt": (0, 10, 1), "exp": (4, 17, 0), "log": (6, 30, 1),
             "log1p": (6, 55, 2), "lgamma": (0, 150, 2), "sincos": (6, 40, 0), "sincosf": (40, 0, 0)}
SECTOR = 32
KINDS = ("product", "memset", "to device", "to host", "copy")  # besides kernels
# Counts of a launch, each so many numbers; the first five: of loads and of stores.
COUNTS = {"bytes": 2, "shared": 2, "by_blocks": 2, "sectors": 2, "memory": 2, "issue": 5}


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


def warps_of(launch):
    """Of a block; of a scheduler, of all blocks that a multiprocessor has at a time."""
    registers, static = launch["holds"]
    warps = -(-launch["block"][0] * launch["block"][1] * launch["block"][2] // WARP)
    room = min(REGISTERS // (-(-registers // 8) * 8 * WARP * warps), WARPS // warps, BLOCKS,
               SHARED // (static + launch["room"] + BLOCK_SHARED))
    return warps, warps * min(room, -(-blocks_of(launch) // SMS)) / SCHEDULERS


def issue_seconds(launch, which=LIKELY, rates=REACHED):
    """Of a kernel: of the multiprocessor with most blocks, or of the longest warp."""
    issue, (reached, alone) = launch["issue"], rates
    most = -(-blocks_of(launch) // SMS) / blocks_of(launch)  # the share of one
    rate = SCHEDULERS * min(reached, alone * warps_of(launch)[1])
    return max(issue[which] * most / rate, issue[ASKED] * most / (REQUESTS * reached),
               issue[LONGEST] / alone) / CLOCK


def expected(launch, floor, which=LIKELY, rates=REACHED):
    """As if nothing of a launch ran beside the launch itself."""
    found = max(limits(launch).values()) / rates[0]
    return floor + max(found, issue_seconds(launch, which, rates) if "kernel" in launch else 0.0)


def expected_step(case, floor, which=LIKELY, rates=REACHED):
    return sum(expected(launch, floor, which, rates) for launch in case["launches"])


def steps_of(case):
    return -(-CELLS // case["minibatch"])


def expected_epochs(case):
    """(from below, expected, from above)"""
    return [steps_of(case) * expected_step(case, *how) for how in (
        (FLOORS[0], LEAST), (FLOORS[0], LIKELY), (FLOORS[1], MOST, SLOW))]


def seconds(launch, floor, precision=FLOAT32):
    return max(floor, *limits(launch, precision).values())


def step(case, floor, precision=FLOAT32):
    return sum(seconds(launch, floor, precision) for launch in case["launches"])


def epoch(case, floor, precision=FLOAT32):
    return step(case, floor, precision) * steps_of(case)


def name_of(launch):
    for kind in KINDS:
        if kind in launch:
            size = launch[kind]
            return "%s %s" % (kind, " x ".join(map(str, size)) if kind == "product" else size)
    return launch["kernel"].strip("()")


# --- larger steps -------------------------------------------------------------------------------

def plain(launch):
    """What was launched, without what was counted."""
    return {k: v for k, v in launch.items() if k not in (*COUNTS, "operations", "holds")}


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
    sums = {name: [sum(launch[name][i] for launch in launches) for i in range(n)]
            for name, n in COUNTS.items()}
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
        small, low = 0, {**{name: [0] * n for name, n in COUNTS.items()}, "operations": {}}
    line = lambda a, b: along(minibatch, small, a, large, b, among)
    found = {name: [line(low[name][i], high[name][i]) for i in range(n)]
             for name, n in COUNTS.items()}
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
        if "holds" in high[name][0]:
            counts["holds"] = high[name][min(at, len(high[name]) - 1)]["holds"]
        found.append({**launch, **counts})
    return found


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
