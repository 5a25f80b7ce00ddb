#!/usr/bin/env python3
"""Which instructions only warps that have parted issue: sass.parted on words made by hand, in the
encoding that nvdisasm shows of branches for sm_90: the offset / 4 in bits 16 to 23 and from 34 on,
the predicate in 12 to 15, and .DIV as 2 in 32 and 33."""
import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from sass import parted

SHUFFLE, OTHER, ALWAYS = 0x7389, 0x7221, 7


def branch(at, to, apart=False, predicate=ALWAYS):
    offset = (to - at - 1) * 16 // 4
    return 0x947 | predicate << 12 | (offset & 0xff) << 16 | (2 << 32 if apart else 0) | (
        offset >> 8 << 34) % (1 << 64)


def check(words, expected):
    found = [i for i, apart in enumerate(parted(words)) if apart]
    if found != expected:
        sys.exit("parted: %s, expected %s" % (found, expected))


def main():
    # as nvdisasm has them: BRA.DIV at 0x43d0 to 0x4840, @P0 BRA at 0x100 to 0x540
    if branch(0x43d, 0x484, apart=True) | 4 << 24 != 0x0000000604187947:
        sys.exit("another encoding of BRA.DIV")
    if branch(0x10, 0x54, predicate=0) != 0x00000004000c0947:
        sys.exit("another encoding of BRA")
    # two shuffles, each with a path at the end; one of them has a branch within
    words = [OTHER, branch(1, 6, apart=True), SHUFFLE, branch(3, 9, apart=True), SHUFFLE,
             branch(5, 0, predicate=1),
             SHUFFLE, OTHER, branch(8, 2), SHUFFLE, branch(10, 9, predicate=1), branch(11, 4), OTHER]
    check(words, [6, 7, 8, 9, 10, 11])
    # far away, and two branches to the same path; a branch that warps take together is none
    far = [OTHER] * 3000
    far[0], far[5], far[7], far[2900] = (branch(0, 2900, apart=True), branch(5, 2000),
                                         branch(7, 2900, apart=True), branch(2900, 1))
    check(far, [2900])
    print("as expected")


if __name__ == "__main__":
    main()
