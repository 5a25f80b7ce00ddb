"""Rows 30 to 33: links and storage elsewhere, newer formats, locked, damaged and foreign files."""
import os

import h5py
import numpy as np

import layouts as lay
from layouts import COUNTS, GENES
from rows_matrix import standard


def elsewhere(book):
    def refused(name, message, ranks=(1, 3), **more):
        book.case(name, name + ".h5ad", 30, code=[65, 66, 74], message=message, ranks=list(ranks),
                  inspect="free", **more)

    def link(f):
        f["X"] = h5py.ExternalLink("row30_absent.h5", "/X")
    standard(book, "row30_external_link.h5ad", link)
    refused("row30_external_link", r"X\b.*(external|link).*")

    def virtual(source):
        def write_x(f):
            layout = h5py.VirtualLayout(COUNTS.shape, "f4")
            layout[...] = h5py.VirtualSource(source, "X", COUNTS.shape, "f4")
            lay.tag(f.create_virtual_dataset("X", layout), "array", "0.2.0")
        return write_x
    standard(book, "row30_virtual.h5ad", virtual("row30_absent.h5"))
    refused("row30_virtual", r"X\b.*virtual")

    def external_storage(f):
        lay.tag(f.create_dataset("X", COUNTS.shape, "f4",
                                 external=[("row30_absent.raw", 0, COUNTS.size * 4)]),
                "array", "0.2.0")
    standard(book, "row30_external_storage.h5ad", external_storage)
    refused("row30_external_storage", r"X\b.*external")


def newer(book):
    standard(book, "row31_superblock3.h5ad", lambda f: lay.sparse(f, "X", COUNTS), libver="latest")
    book.case("superblock 3", "row31_superblock3.h5ad", 31, ranks=[1, 2])
    standard(book, "row31_superblock3_dense.h5ad", lambda f: lay.dense(
        f, "X", COUNTS.astype("i4"), chunks=(9, 30), compression="gzip"), libver="latest")
    book.case("superblock 3 dense", "row31_superblock3_dense.h5ad", 31)


def locked(book):
    standard(book, "row32_locked.h5ad", lambda f: lay.sparse(f, "X", COUNTS))
    book.case("locked", "row32_locked.h5ad", 32, code=[65, 66, 74], ranks=[1, 2], hold=True,
              inspect="same", message=r"(?i)row32_locked.h5ad.*HDF5_USE_FILE_LOCKING")


def foreign(book):
    def refused(name, message, code=(65, 66), **more):
        book.case(name, name, 33, code=list(code), message=message, inspect="same",
                  ranks=[1, 2], **more)

    standard(book, "row33_whole.h5ad", lambda f: lay.sparse(f, "X", COUNTS))
    with open(book.path("row33_whole.h5ad"), "rb") as file:
        whole = file.read()
    os.unlink(book.path("row33_whole.h5ad"))
    for name, content in (("row33_truncated.h5ad", whole[:-1]),
                          ("row33_half.h5ad", whole[:len(whole) // 2]),
                          ("row33_text.h5ad", b"gene,cell,count\n1,2,3\n"),
                          ("row33_empty.h5ad", b"")):
        with open(book.path(name), "wb") as file:
            file.write(content)
    refused("row33_truncated.h5ad", r"(?i)truncated")
    refused("row33_half.h5ad", r"(?i)truncated")
    refused("row33_text.h5ad", r"(?i)not an? HDF5")
    refused("row33_empty.h5ad", r"(?i)(not an? HDF5|empty)")
    refused("row33_absent.h5ad", r"(?i)row33_absent.*(no such file|does not exist|not found)", [66])

    os.makedirs(book.path("row33_zarr.h5ad/X"), exist_ok=True)
    with open(book.path("row33_zarr.h5ad/.zgroup"), "w") as file:
        file.write('{"zarr_format": 2}\n')
    refused("row33_zarr.h5ad", r"(?i)zarr")
    os.makedirs(book.path("row33_folder.h5ad"), exist_ok=True)
    refused("row33_folder.h5ad", r"(?i)(directory|folder)")

    with h5py.File(book.path("row33_10x_v3.h5"), "w") as f:
        data, indices, indptr = lay.compress(COUNTS.T, "csc", np.int64, np.int64, np.int32)
        group = f.create_group("matrix")
        for key, values in (("data", data), ("indices", indices), ("indptr", indptr),
                            ("shape", np.array(COUNTS.T.shape, np.int32)),
                            ("barcodes", np.array(lay.CELLS, "S")),
                            ("features/id", np.array(GENES, "S")),
                            ("features/name", np.array(GENES, "S"))):
            group[key] = values
    refused("row33_10x_v3.h5", r"(?i)10x")
    with h5py.File(book.path("row33.loom"), "w") as f:
        f.attrs["LOOM_SPEC_VERSION"] = "3.0.0"
        f["matrix"] = COUNTS.T.astype("f4")
        f["row_attrs/Gene"] = np.array(GENES, "S")
        f["col_attrs/CellID"] = np.array(lay.CELLS, "S")
        f.create_group("layers")
    refused("row33.loom", r"(?i)loom")
    with h5py.File(book.path("row33.h5mu"), "w", userblock_size=512) as f:
        lay.tag(f, "MuData", "0.1.0")
        lay.dataframe(f, "obs", [])
        rna = f.create_group("mod/rna")
        lay.sparse(rna, "X", COUNTS)
    with open(book.path("row33.h5mu"), "r+b") as file:
        file.write(b"MuData (format-version=0.1.0;creator=muon;creator-version=0.1.2)")
    refused("row33.h5mu", r"(?i)(h5mu|MuData)")
    with h5py.File(book.path("row33_pre_05.h5ad"), "w") as f:
        data, indices, indptr = lay.compress(COUNTS, "csr")
        f["X_csr_data"], f["X_csr_indices"], f["X_csr_indptr"] = data, indices, indptr
        f["X_csr_shape"] = np.array(COUNTS.shape)
        lay.compound_frame(f, "smp", lay.CELLS, [("n", np.arange(48))], "smp_names")
        lay.compound_frame(f, "var", GENES, [("n", np.arange(30))], "var_names")
    refused("row33_pre_05.h5ad", r"(?i)(0\.5|anndata)")
    with h5py.File(book.path("row33_other.h5"), "w") as f:
        f["something"] = np.arange(4)
    refused("row33_other.h5", r"(?i)(obs|anndata|h5ad)")


def write(book):
    for part in (elsewhere, newer, locked, foreign):
        part(book)
