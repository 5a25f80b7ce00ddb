#!/usr/bin/env python3
"""The counts of kernels that are known by hand (planted.cu).

usage: test_count.py PROGRAM (gpu_roofline_planted)
       test_count.py --played PROGRAM (gpu_roofline_planted_played)

1,000 floats are 125 sectors of 32 bytes, whole blocks of 128 threads touch 16 of each array and the
eighth, of 104, 13: 125 as well; the one number s is another sector in each of the 8 blocks.

Played, they are what nvcc made of them, which the numbers here do not know but for what it cannot
change: all 32 warps issue the same instructions, but in rounds(), where a warp goes on until its
last lane has ended: 31 warps go round 32 times, and the last one's 8 lanes 8 times.
"""
import json
import math
import os
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "bench"))
from roofline_counts import operations, operations_by_block

N, SECTORS, BLOCKS, WARPS = 1000, 125, 8, 32
ROUNDS = sum(i % 32 + 1 for i in range(N))
AXPY = {"kernel": "axpy", "bytes": [3 * 4 * N, 4 * N], "shared": [0, 0],
        "by_blocks": [2 * SECTORS + BLOCKS, SECTORS], "sectors": [2 * SECTORS + 1, SECTORS],
        "operations": {"fused": N}}
FILL = 60 << 20
EXPECTED = [
    # nothing is in the cache; then everything; then 60 MB have come between
    {**AXPY, "memory": [2 * SECTORS + 1, 0]},
    {**AXPY, "memory": [0, 0]},
    {"memset": FILL, "bytes": [0, FILL], "sectors": [0, FILL // 32], "memory": [0, 0],
     "operations": {}},
    # c is loaded again from a register; all 1,024 threads store to shared memory; a, b are gone, and
    # so is c, which is written back
    {"kernel": "exponentials", "bytes": [2 * 4 * N, 4 * N], "shared": [4 * N, 4 * 1024],
     "by_blocks": [2 * SECTORS, SECTORS], "sectors": [2 * SECTORS, SECTORS],
     "memory": [2 * SECTORS, SECTORS],
     "operations": {"expf": N, "divf": N, "single": 2 * N}},
    {"kernel": "rounds", "shared": [0, 0], "operations": {"fused": ROUNDS}},
    AXPY,
]
# What planted.c fills a, b and s with, and what comes of it, to float32's rounding. The last block is
# turned round with 24 threads that have no number: its first 24 numbers meet those.
A = [-1 + 0.25 * (i % 9) for i in range(N)]
B = [1 + 0.5 * (i % 7) for i in range(N)]
S = 2.0
RESULTS = [
    sum(math.exp(a) / b - a for a, b in zip(A, B)) + sum(A) - sum(A[896:920]),
    sum(S * sum(A[(i + 7 * k) % N] for k in range(i % 32 + 1)) for i in range(N)),
    sum(S * a + b for a, b in zip(A, B))]
# Requests of warps: loads of a, s and b, and a store; of the one in rounds, 1,000 loads of a, where
# s is loaded once and the sum stored by each.
PLAYED = [("axpy", 4 * WARPS), ("axpy", 4 * WARPS), ("exponentials", 5 * WARPS),
          ("rounds", 31 * 32 + 8 + 2 * WARPS), ("axpy", 4 * WARPS)]


def check_results(found):
    if any(abs(a - b) > 1e-5 * abs(b) for a, b in zip(found, RESULTS)):
        sys.exit("computed %s, expected %s" % (found, RESULTS))


def check_played(launches):
    for launch, (name, requests) in zip(launches, PLAYED):
        low, likely, high = launch["issued"]
        if (launch["kernel"], launch["requests"]) != (name, requests):
            sys.exit("%s: expected %s with %d requests" % (launch, name, requests))
        if not low <= likely <= high or likely < requests:
            sys.exit("%s: not in order" % launch)
        if name != "rounds" and likely != WARPS * launch["longest"]:
            sys.exit("%s: expected as much of each of %d warps" % (launch, WARPS))
        # of one warp: more than its requests, and not much more than these few lines can take
        if not requests / WARPS < launch["longest"] < (20 if name == "rounds" else 15) * requests / WARPS:
            sys.exit("%s: expected other numbers of the longest warp" % launch)


def check_counted(launches, table):
    for number, (launch, expected) in enumerate(zip(launches, EXPECTED)):
        launch["operations"] = operations(table, launch.pop("visits", {}))
        for key, value in expected.items():
            if launch.get(key) != value:
                sys.exit("launch %d, %s: %s, expected %s" % (number, key, launch.get(key), value))


def main(program, played):
    done = subprocess.run([program], stdout=subprocess.PIPE, check=True)
    *launches, facts = [json.loads(line) for line in done.stdout.decode().splitlines()]
    if len(launches) != len(PLAYED if played else EXPECTED):
        sys.exit("%d launches, not as many as expected" % len(launches))
    if played:
        check_played(launches)
    else:
        check_counted(launches, operations_by_block(program))
    check_results(facts["results"])
    print("%d launches are counted as by hand" % len(launches))


if __name__ == "__main__":
    main(sys.argv[-1], "--played" in sys.argv)
