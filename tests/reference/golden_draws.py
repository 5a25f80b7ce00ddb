"""Random draws from atlasvi's counters, as src/math/rng.h and src/backend/draws.h define them."""

import math
import sys

import numpy as np

SEED = 20_240_607
DROPOUT_PURPOSE = 4
LIBRARY_INDEX = 0x80000000


def philox4x32_10(counter, key):
    """Salmon et al. 2011."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    mask = 0xFFFFFFFF
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & mask, (p0 >> 32) ^ c3 ^ k1, p0 & mask
        k0, k1 = (k0 + 0x9E3779B9) & mask, (k1 + 0xBB67AE85) & mask
    return c0, c1, c2, c3


def check_philox():
    """Known answers published with Random123 (kat_vectors)."""
    ones = 0xFFFFFFFF
    known = [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ones,) * 4, (ones,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ]
    for counter, key, answer in known:
        if philox4x32_10(counter, key) != answer:
            sys.exit("golden_draws.py: Philox4x32-10 does not give its known answers")


def random4(purpose, cell, epoch, index):
    mixed = (SEED + (purpose << 54)) & (2**64 - 1)
    counter = (cell & 0xFFFFFFFF, cell >> 32, epoch, index)
    return philox4x32_10(counter, (mixed & 0xFFFFFFFF, mixed >> 32))


def normals4(purpose, cell, epoch, index):
    words = random4(purpose, cell, epoch, index)
    out = []
    for pair in range(2):
        u = (words[2 * pair] + 0.5) / 2.0**32
        v = (words[2 * pair + 1] + 0.5) / 2.0**32
        radius = math.sqrt(-2.0 * math.log(u))
        out += [radius * math.cos(2.0 * math.pi * v), radius * math.sin(2.0 * math.pi * v)]
    return out


def noise(purpose, epoch, cells, n_latent):
    """Standard normals of z (cells, K) and l (cells, 1)."""
    z = [
        [normals4(purpose, cell, epoch, k // 4)[k % 4] for k in range(n_latent)]
        for cell in cells
    ]
    l = [[normals4(purpose, cell, epoch, LIBRARY_INDEX)[0]] for cell in cells]
    return np.array(z), np.array(l)


def dropout_mask(rate, epoch, cells, layer, first_unit, n):
    """(cells, n): 0 for a dropped unit, else the scale of a kept one."""
    threshold = int(rate * 65536.0 + 0.5)
    scale = 65536.0 / (65536.0 - threshold)
    mask = np.empty((len(cells), n))
    for i, cell in enumerate(cells):
        for j in range(n):
            unit = first_unit + j
            words = random4(DROPOUT_PURPOSE, cell, epoch, (layer << 24) + unit // 8)
            field = (words[unit % 8 // 2] >> (16 * (unit % 2))) & 0xFFFF
            mask[i, j] = 0.0 if field < threshold else scale
    return mask
