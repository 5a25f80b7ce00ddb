#!/usr/bin/env python3
"""The counts of kernels that are known by hand (planted.cu).

usage: test_count.py PROGRAM (gpu_roofline_planted)

1,000 floats are 125 sectors of 32 bytes, whole blocks of 128 threads touch 16 of each array and the
eighth, of 104, 13: 125 as well; the one number s is another sector in each of the 8 blocks.
"""
import json
import os
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "bench"))
from roofline_counts import operations, operations_by_block

N, SECTORS, BLOCKS = 1000, 125, 8
AXPY = {"kernel": "axpy", "bytes": [3 * 4 * N, 4 * N], "shared": [0, 0],
        "by_blocks": [2 * SECTORS + BLOCKS, SECTORS], "sectors": [2 * SECTORS + 1, SECTORS]}
FILL = 60 << 20
EXPECTED = [
    # nothing is in the cache; then everything; then 60 MB have come between
    {**AXPY, "memory": [2 * SECTORS + 1, 0], "operations": {"fused": N}},
    {**AXPY, "memory": [0, 0], "operations": {"fused": N}},
    {"memset": FILL, "bytes": [0, FILL], "sectors": [0, FILL // 32], "memory": [0, 0],
     "operations": {}},
    # c is loaded again from a register; all 1,024 threads store to shared memory; a, b are gone, and
    # so is c, which is written back
    {"kernel": "exponentials", "bytes": [2 * 4 * N, 4 * N], "shared": [4 * N, 4 * 1024],
     "by_blocks": [2 * SECTORS, SECTORS], "sectors": [2 * SECTORS, SECTORS],
     "memory": [2 * SECTORS, SECTORS],
     "operations": {"expf": N, "divf": N, "single": 2 * N}},
]


def main(program):
    done = subprocess.run([program], stdout=subprocess.PIPE, check=True)
    launches = [json.loads(line) for line in done.stdout.decode().splitlines()]
    table = operations_by_block(program)
    if len(launches) != len(EXPECTED):
        sys.exit("%d launches, expected %d" % (len(launches), len(EXPECTED)))
    for number, (launch, expected) in enumerate(zip(launches, EXPECTED)):
        launch["operations"] = operations(table, launch.pop("visits", {}))
        for key, value in expected.items():
            if launch.get(key) != value:
                sys.exit("launch %d, %s: %s, expected %s" % (number, key, launch.get(key), value))
    print("%d launches are counted as by hand" % len(launches))


if __name__ == "__main__":
    main(sys.argv[1])
