"""The encodings an .h5ad has had over the years, written with h5py from their description.

Everything here is deterministic: the same call writes the same bytes (but for the times that HDF5
puts into groups of the newest format).
"""
import hashlib

import h5py
import numpy as np

N_CELLS, N_GENES = 48, 30
VLEN = h5py.string_dtype("utf-8")
BATCHES = ["a", "b", "c"]
LABELS = ["alpha", "beta"]


def make_counts(n_cells=N_CELLS, n_genes=N_GENES, seed=20170814):
    """Small counts with zeros, no empty cell, every value below 128."""
    rng = np.random.RandomState(seed)
    mean = np.exp(rng.normal(0.3, 1.0, size=(1, n_genes)))
    counts = rng.poisson(mean * rng.gamma(0.7, 1.5, size=(n_cells, n_genes))).astype(np.int64)
    counts = np.minimum(counts, 120)
    counts[np.arange(n_cells), np.arange(n_cells) % n_genes] += 1
    return counts


COUNTS = make_counts()
CELLS = ["cell_%03d" % i for i in range(N_CELLS)]
GENES = ["gene_%03d" % g for g in range(N_GENES)]
# Neither sorted nor balanced; the first cell is not of the first batch.
BATCH = np.array([(1, 0, 2, 0, 1, 0)[i % 6] for i in range(N_CELLS)])
LABEL = np.array([(0, 1, 1)[i % 3] for i in range(N_CELLS)])


def obs_digest(index, batch, label):
    """What must be found again in the output's obs, in one number."""
    rows = ["%s\t%s\t%s" % row for row in zip(index, batch, label)]
    return hashlib.sha256("\n".join(rows).encode("utf-8", "surrogateescape")).hexdigest()


OBS_DIGEST = obs_digest(CELLS, [BATCHES[b] for b in BATCH], [LABELS[c] for c in LABEL])


def tag(node, kind, version, fixed=False):
    if fixed:  # attribute strings of fixed length, as R and Julia write them
        node.attrs.create("encoding-type", np.bytes_(kind))
        node.attrs.create("encoding-version", np.bytes_(version))
    else:
        node.attrs["encoding-type"] = kind
        node.attrs["encoding-version"] = version
    return node


def compress(counts, layout, index_type=np.int32, pointer_type=np.int32, data_type=np.float32):
    """(data, indices, indptr) of CSR or CSC."""
    dense = counts if layout == "csr" else counts.T
    major, minor = np.nonzero(dense)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(major, minlength=dense.shape[0]))])
    return (dense[major, minor].astype(data_type), minor.astype(index_type),
            indptr.astype(pointer_type))


def sparse_arrays(parent, name, data, indices, indptr, shape, layout="csr", shape_type=np.int64,
                  era="0.8", fixed=False, **options):
    """A sparse group from its three arrays; options go to data and indices (chunks, filters)."""
    group = parent.create_group(name)
    if era == "0.5":
        group.attrs["h5sparse_format"] = layout
        group.attrs["h5sparse_shape"] = np.array(shape, shape_type)
    else:
        tag(group, layout + "_matrix", "0.1.0", fixed)
        if shape is not None:
            group.attrs["shape"] = np.array(shape, shape_type)
    for key, values in (("data", data), ("indices", indices)):
        group.create_dataset(key, data=values, maxshape=(None,), **options)
    group.create_dataset("indptr", data=indptr, maxshape=(None,))
    return group


def sparse(parent, name, counts, layout="csr", index_type=np.int32, pointer_type=np.int32,
           data_type=np.float32, **options):
    arrays = compress(counts, layout, index_type, pointer_type, data_type)
    return sparse_arrays(parent, name, *arrays, counts.shape, layout, **options)


def dense(parent, name, values, tagged=True, **options):
    dataset = parent.create_dataset(name, data=values, **options)
    return tag(dataset, "array", "0.2.0") if tagged else dataset


def strings(parent, name, values, tagged=True, dtype=VLEN, **options):
    dataset = parent.create_dataset(name, data=np.array(values, dtype=object), dtype=dtype,
                                    **options)
    return tag(dataset, "string-array", "0.2.0") if tagged else dataset


def nullable(parent, name, kind, values, mask):
    """nullable-integer, nullable-boolean or nullable-string-array; mask TRUE is missing."""
    group = tag(parent.create_group(name), kind, "0.1.0")
    if kind == "nullable-string-array":
        strings(group, "values", values)
        group.attrs["na-value"] = "NaN"
    else:
        dense(group, "values", values)
    dense(group, "mask", np.array(mask, bool))
    return group


def categorical(parent, name, codes, categories, code_type=np.int8, ordered=False,
                nullable_categories=False):
    group = tag(parent.create_group(name), "categorical", "0.2.0")
    group.attrs["ordered"] = np.bool_(ordered)
    dense(group, "codes", np.asarray(codes, code_type))
    if nullable_categories:
        nullable(group, "categories", "nullable-string-array", categories,
                 [False] * len(categories))
    elif isinstance(categories[0], str):
        strings(group, "categories", categories)
    else:
        dense(group, "categories", np.asarray(categories))
    return group


def old_categorical(parent, name, codes, categories, reference=True, **options):
    """0.7: integers that point to <dataframe>/__categories/<name>."""
    labels = parent.require_group("__categories").create_dataset(
        name, data=np.array(categories, dtype=object), dtype=VLEN)
    labels.attrs["ordered"] = np.bool_(False)
    dataset = parent.create_dataset(name, data=np.asarray(codes, np.int8), **options)
    if reference:
        dataset.attrs["categories"] = labels.ref
    elif reference is None:
        dataset.attrs.create("categories", h5py.Reference(), dtype=h5py.ref_dtype)
    return dataset


def dataframe(parent, name, columns, index_name="_index", version="0.2.0", fixed=False):
    """An empty dataframe group; the caller writes its index and the columns named."""
    group = tag(parent.create_group(name), "dataframe", version, fixed)
    if fixed:
        group.attrs.create("_index", np.bytes_(index_name))
        group.attrs.create("column-order", np.array(columns, "S"))
    else:
        group.attrs["_index"] = index_name
        if columns:
            group.attrs.create("column-order", np.array(columns, dtype=object), dtype=VLEN)
        else:
            group.attrs["column-order"] = np.array([], np.float64)  # as anndata writes it
    return group


def standard_obs(file, cells=None, batch=None, label=None, extra=(), **options):
    """obs with batch and cell_type, encoded as by 0.8; extra names are the caller's to write."""
    obs = dataframe(file, "obs", ["batch", "cell_type", *extra])
    strings(obs, "_index", CELLS if cells is None else cells, **options)
    categorical(obs, "batch", BATCH if batch is None else batch, BATCHES)
    categorical(obs, "cell_type", LABEL if label is None else label, LABELS)
    return obs


def standard_var(file, genes=None, extra=(), name="var"):
    var = dataframe(file, name, list(extra))
    strings(var, "_index", GENES if genes is None else genes)
    return var


def mappings(file, names=("layers", "obsm", "obsp", "uns", "varm", "varp")):
    for name in names:
        if name not in file:
            tag(file.create_group(name), "dict", "0.1.0")


def new_file(path, **options):
    """An empty 0.8 file; X, obs and var are the caller's."""
    file = h5py.File(path, "w", **options)
    return tag(file, "anndata", "0.1.0")


def compound_frame(parent, name, index, columns, index_name="index", vlen=False):
    """<= 0.6: a compound dataset; columns are numeric arrays (categoricals as codes)."""
    text = VLEN if vlen else "S%d" % max(len(i) for i in index)
    kind = np.dtype([(index_name, text)] + [(key, np.asarray(v).dtype) for key, v in columns])
    table = np.zeros(len(index), kind)
    table[index_name] = index if vlen else [i.encode() for i in index]
    for key, values in columns:
        table[key] = values
    return parent.create_dataset(name, data=table)


def raw_strings(parent, name, byte_rows, space_padded=False, ascii_flag=True, width=None):
    """A dataset of strings whose bytes are given: fixed (width) or variable, any character set."""
    if width is None:
        dtype = h5py.string_dtype("ascii" if ascii_flag else "utf-8")
        dataset = parent.create_dataset(name, (len(byte_rows),), dtype=dtype)
        dataset[:] = np.array(byte_rows, dtype=object)
        return dataset
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(width)
    kind.set_strpad(h5py.h5t.STR_SPACEPAD if space_padded else h5py.h5t.STR_NULLPAD)
    kind.set_cset(h5py.h5t.CSET_ASCII if ascii_flag else h5py.h5t.CSET_UTF8)
    space = h5py.h5s.create_simple((len(byte_rows),))
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_obj_track_times(False)
    dataset = h5py.h5d.create(parent.id, name.encode(), kind, space, creation)
    filler = b" " if space_padded else b"\0"
    block = np.frombuffer(b"".join(row.ljust(width, filler) for row in byte_rows), np.uint8)
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, block, mtype=kind)
    return h5py.Dataset(dataset)
