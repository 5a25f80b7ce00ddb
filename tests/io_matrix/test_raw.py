"""CSR read in the types it is stored in by several threads: storages, and odd rows among plain."""
import os
import struct
import zlib

import h5py
import numpy as np
import scipy.sparse as sp

import read_run
from h5ad_make import new_file, put_parts
from read_run import Case

N, G = 900, 120
BADDATA, IOERR = 65, 74
SMALL, LARGER = (60000, 0, 0), (400000, 0, 0)  # many stretches of rows a thread; a few


def plain(seed=4):
    """Counts from 1 up, some beyond 8 bits, one beyond 16; empty rows at both ends and within."""
    rng = np.random.RandomState(seed)
    values = rng.poisson(rng.gamma(0.3, 2.0, size=(N, G))).astype(np.int64)
    values[rng.rand(N, G) < 0.002] = 300
    values[450, 60] = 70000
    values[[0, 1, 400, 401, N - 1]] = 0
    return values


VALUES = plain()
MATRIX = sp.csr_matrix(VALUES)


class Maker:
    def __init__(self, folder):
        self.folder, self.cases = folder, []

    def write(self, name, parts=None, dtypes=("f4", "i4", "i4"), data=None, indices=None, **options):
        """X of (data, indices, indptr); data, indices: how each is stored."""
        parts = parts or (MATRIX.data, MATRIX.indices, MATRIX.indptr)
        path = os.path.join(self.folder, name + ".h5ad")
        with new_file(path, N, G, **options) as file:
            group = put_parts(file, "X", "csr", parts, (N, G), dtypes)
            for key, storage in (("data", data), ("indices", indices or data)):
                if storage is not None:
                    values = group[key][...]
                    del group[key]
                    group.create_dataset(key, data=values, **storage)
        return path

    def add(self, name, path, threads=(1, 3), settings=(), **expected):
        for n in threads:
            self.cases.append(Case("%s_%d" % (name, n), path, [
                "runtime.threads=%d" % n, "data.empty_cells=nan", *settings], **expected))

    def read(self, name, parts=None, matrix=MATRIX, settings=(), raw=None, **options):
        self.add(name, self.write(name, parts, **options), matrix=matrix, settings=settings, raw=raw)


def storages(make):
    gzip, shuffled = dict(compression="gzip"), dict(compression="gzip", shuffle=True)
    kinds = {"contiguous": {}, "chunked": dict(chunks=(700,)),
             "gzip": dict(gzip, chunks=(701,)), "gzip_shuffle": dict(shuffled, chunks=(513,)),
             "shuffle": dict(shuffle=True, chunks=(600,)),
             "lzf": dict(compression="lzf", chunks=(800,)),
             "lzf_shuffle": dict(compression="lzf", shuffle=True, chunks=(333,)),
             "fletcher": dict(gzip, fletcher32=True, chunks=(700,)),
             "scaled": dict(scaleoffset=0, chunks=(700,), dtype="i4"),
             "one_chunk": dict(shuffled, chunks=(MATRIX.nnz,)),
             "tiny_chunks": dict(gzip, chunks=(7,))}
    for name, storage in kinds.items():
        raw = None if name == "one_chunk" else name not in ("fletcher", "scaled")
        make.read("s_" + name, data=storage, raw=raw)
        make.read("latest_" + name, data=dict(storage, maxshape=(None,) if storage else None),
                  libver="latest", raw=raw)
    make.read("mixed", data=dict(gzip, chunks=(700,)), indices=dict(chunks=(901,)), raw=True)
    make.read("mixed_other", data={}, indices=dict(shuffled, chunks=(257,)), dtypes=("f8", "i8", "i8"),
              raw=True)
    make.read("user_block", data={}, userblock_size=1024, raw=False)
    make.read("user_block_chunks", data=dict(gzip, chunks=(701,)), userblock_size=512, raw=False)


def elsewhere(make):
    """A soft link through an external one: the other file's counts, not the bytes at their place."""
    for name, storage in (("contiguous", {}), ("gzip", dict(compression="gzip", chunks=(701,)))):
        other = make.write("other_" + name, (MATRIX.data * 2, MATRIX.indices, MATRIX.indptr),
                           data=storage)
        path = make.write("through_" + name, data=storage)
        with h5py.File(path, "r+") as file:
            del file["X"]
            file["away"] = h5py.ExternalLink(os.path.basename(other), "/")
            file["X"] = h5py.SoftLink("/away/X")
            file.create_dataset("padding", data=np.ones(8 * MATRIX.nnz, "f4"))
        make.add("through_" + name, path, matrix=MATRIX * 2, raw=True)


def recorded_sizes(make):
    """B-tree keys that say another length of a chunk than it has."""
    def write(name, change, **storage):
        path = make.write(name, data=dict(storage, chunks=(700,)))
        with open(path, "rb") as file:
            image = bytearray(file.read())
        at, changed = image.find(b"TREE"), 0
        while at >= 0:
            if image[at + 4] == 1:  # of chunks: key = length, mask, 2 offsets; then an address
                for k in range(struct.unpack_from("<H", image, at + 6)[0]):
                    key = at + 24 + 32 * k
                    length, = struct.unpack_from("<I", image, key)
                    if struct.unpack_from("<Q", image, key + 24)[0] + change(length) <= len(image):
                        struct.pack_into("<I", image, key, change(length))
                        changed += 1
            at = image.find(b"TREE", at + 4)
        read_run.check(changed > 10, name, "no chunk was changed")
        with open(path, "wb") as file:
            file.write(image)
        return path

    for name, change in (("long", lambda n: 8 * n), ("short", lambda n: 16)):
        make.add("plain_" + name, write("plain_" + name, change), matrix=MATRIX, raw=True)
    make.add("gzip_long", write("gzip_long", lambda n: 8 * n, compression="gzip"), matrix=MATRIX)
    make.add("gzip_longer", write("gzip_longer", lambda n: n + 40, compression="gzip"), matrix=MATRIX,
             raw=True)
    path = write("gzip_short", lambda n: 16, compression="gzip")
    make.add("gzip_short", path, error=(IOERR, path + ": X: inflate() failed"))
    path = write("shuffle_short", lambda n: 16, shuffle=True)
    make.add("shuffle_short", path, error=(IOERR, path + ": X: damaged: a chunk of the wrong size"))


def giant_extents(make):
    """One row said to have 2^60 or 2^61 entries, the first of them no gene."""
    for power, dtype in ((60, "8"), (61, "4")):
        path = make.write("giant_%d" % power)
        with h5py.File(path, "r+") as file:
            group = file["X"]
            for key, kind in (("data", "f"), ("indices", "i")):
                del group[key]
                group.create_dataset(key, (2 ** power,), kind + dtype, chunks=(1000,))
            group["indices"][0] = 5000
            pointer = np.zeros(N + 1, "i8")
            pointer[450:] = 2 ** power
            del group["indptr"]
            group["indptr"] = pointer
        make.add("giant_%d" % power, path, error=(
            BADDATA, "X: damaged: row 449 refers to gene number 5000, but there are 120 genes"))


def types(make):
    small = sp.csr_matrix(np.minimum(VALUES, 100))
    for dtype in ("f4", "f8", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", ">f4", ">i4"):
        matrix = small if dtype in ("i1", "u1", "f2", "i2", "u2") else MATRIX
        parts = (matrix.data, matrix.indices, matrix.indptr)
        for index in ("i4", "u4", "i8", "u8", "u2", ">i4"):
            if dtype in ("f4", "i8") or index == "i4":
                make.read("t_%s_%s" % (dtype.replace(">", "be"), index.replace(">", "be")), parts,
                          matrix, dtypes=(dtype, index, "i4"), data={})
    many = sp.csr_matrix(VALUES * 97 % 1009)  # 16-bit codes
    make.read("wide_codes", (many.data, many.indices, many.indptr), many, data={})
    late = VALUES.copy()  # more than one value in 64 needs 16 bits, from the middle on
    late[600:] *= 1000
    late = sp.csr_matrix(late)
    for dtype in ("f4", "i4", "i8"):
        make.read("late_wide_" + dtype, (late.data, late.indices, late.indptr), late, data={},
                  dtypes=(dtype, "i4", "i4"))


def odd_rows(make):
    """Rows in disorder, with genes twice and zeros, among plain ones."""
    data, indices, indptr = MATRIX.data.copy(), MATRIX.indices.copy(), MATRIX.indptr
    for row in (5, 77, 78, 500, 898):
        rows = slice(indptr[row], indptr[row + 1])
        data[rows], indices[rows] = data[rows][::-1].copy(), indices[rows][::-1].copy()
    for row in (9, 333):
        indices[indptr[row] + 1] = indices[indptr[row]]
    data[indptr[200]:indptr[200] + 3] = 0
    expected = sp.csr_matrix((data, indices, indptr), shape=(N, G))
    for name, storage in (("contiguous", {}), ("gzip", dict(compression="gzip", chunks=(500,)))):
        make.read("odd_" + name, (data, indices, indptr), expected, data=storage)
    order = list(range(3, G, 4))
    for name, chosen in (("some", order), ("reversed", order[::-1])):
        genes = ["g%d" % g for g in chosen]
        make.read("genes_" + name, (data, indices, indptr), expected[:, chosen],
                  ["data.subset_genes=" + ",".join(genes)], data={})
    halves = (MATRIX.data * 0.5, MATRIX.indices, MATRIX.indptr)
    make.read("fractions", halves, MATRIX * 0.5, ["data.allow_non_counts=yes"], data={})
    long_row = sp.csr_matrix((np.ones(50 * G), np.tile(np.arange(G), 50),
                              np.r_[0, np.full(N, 50 * G)]), shape=(N, G))
    make.read("long_row", (long_row.data, long_row.indices, long_row.indptr), long_row, data={})


def chunks_of_their_own(make):
    """Chunks written as the file format allows, though few programs do."""
    n, chunk = MATRIX.nnz, 600
    values = MATRIX.data.astype("<f4")

    def write(name, pieces, mask, n_written, **filters):
        path = make.write(name, data=dict(chunks=(chunk,), compression="gzip"))
        with h5py.File(path, "r+") as file:
            del file["X/data"]
            data = file["X"].create_dataset("data", (n,), "<f4", chunks=(chunk,), **filters)
            for c in range(n_written):
                raw = np.zeros(chunk, "<f4")
                part = values[c * chunk:(c + 1) * chunk]
                raw[:len(part)] = part
                data.id.write_direct_chunk((c * chunk,), pieces(c, raw.tobytes()), mask(c))
        return path

    gzip = dict(compression="gzip", shuffle=True)
    shuffle = lambda b: np.frombuffer(b, "u1").reshape(-1, 4).T.tobytes()
    n_chunks = -(-n // chunk)
    # Bit i of the mask: filter i (0 shuffle, 1 gzip) was left out.
    ways = [lambda b: zlib.compress(shuffle(b)), zlib.compress, shuffle, lambda b: b]
    path = write("masks", lambda c, b: ways[c % 4](b), lambda c: c % 4, n_chunks, **gzip)
    make.add("masks", path, matrix=MATRIX)
    path = write("holes", lambda c, b: zlib.compress(shuffle(b)), lambda c: 0, n_chunks - 2,
                 fillvalue=3, **gzip)
    filled = MATRIX.copy().astype("f8")
    filled.data[(n_chunks - 2) * chunk:] = 3
    make.add("holes", path, matrix=filled)

    def refused(name, damage, text, **filters):
        path = write(name, lambda c, b: damage(c, zlib.compress(shuffle(b))), lambda c: 0, n_chunks,
                     **(filters or gzip))
        make.add(name, path, error=(IOERR, path + ": X: " + text))

    refused("damaged", lambda c, b: b[:40] + b"\xff" * 40 + b[80:] if c == 5 else b, "inflate() failed")
    refused("cut", lambda c, b: b[:len(b) // 2] if c == n_chunks - 1 else b, "inflate() failed")
    refused("no_gzip", lambda c, b: b"\0" * 100 if c == 2 else b, "inflate() failed")


def bad_rows(make):
    """The first in the file's order, whichever thread comes upon it first."""
    def refuse(name, which, changes, text, dtypes=("f4", "i4", "i4")):
        parts = [MATRIX.data.astype("f8"), MATRIX.indices.astype("i8"), MATRIX.indptr]
        for row, value in changes:
            parts[which][parts[2][row] + 1] = value
        for kind, storage in (("", {}), ("_gzip", dict(compression="gzip", chunks=(500,)))):
            path = make.write(name + kind, parts, dtypes, data=storage)
            make.add(name + kind, path, error=(BADDATA, text))

    refuse("index_high", 1, [(800, 5000), (321, G), (850, -1)],
           "X: damaged: row 321 refers to gene number 120, but there are 120 genes")
    refuse("index_wide", 1, [(321, 2 ** 40)],
           "row 321 refers to gene number %d, but" % 2 ** 40, ("f4", "i8", "i8"))
    refuse("index_negative", 1, [(700, -7)], "row 700 refers to gene number -7, but")
    for name, value, text in (("negative", -2, "-2 is negative"), ("nan", np.nan, "is not a number"),
                              ("fraction", 1.5, "1.5 is not a whole number"),
                              ("infinite", np.inf, "inf is infinite"),
                              ("large", 2.0 ** 24 + 2, "16777218 is above 2^24")):
        refuse(name, 0, [(870, 0.25), (123, value), (600, -1)], "X: row 123 (cell123), gene g")
        refuse(name + "_text", 0, [(870, value), (123, value)], text)
        refuse(name + "_number", 0, [(870, value), (123, value)], " (first of 2 such values); ")


def run(program, folder):
    make = Maker(folder)
    for part in (storages, types, elsewhere, recorded_sizes, giant_extents, odd_rows, chunks_of_their_own, bad_rows):
        part(make)
    read_run.run_all(program, make.cases, (1, 2), [SMALL, LARGER], folder)
    read_run.run_all(program, make.cases, (3,), [read_run.DEFAULT], folder)
