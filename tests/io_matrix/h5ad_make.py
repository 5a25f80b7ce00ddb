"""Small .h5ad files, written with h5py from the description of the format."""
import h5py
import numpy as np
import scipy.sparse as sp

TEXT = h5py.string_dtype("utf-8")


def tag(node, kind, version):
    node.attrs["encoding-type"] = kind
    node.attrs["encoding-version"] = version


def frame(parent, name, index, columns=None):
    group = parent.create_group(name)
    tag(group, "dataframe", "0.2.0")
    group.attrs["_index"] = "_index"
    columns = columns or {}
    group.attrs.create("column-order", list(columns), dtype=TEXT)
    group.create_dataset("_index", data=np.array(index, dtype=object), dtype=TEXT)
    tag(group["_index"], "string-array", "0.2.0")
    for key, values in columns.items():
        group.create_dataset(key, data=np.array(values, dtype=object), dtype=TEXT)
        tag(group[key], "string-array", "0.2.0")


def cells(n):
    return ["cell%d" % i for i in range(n)]


def genes(n):
    return ["g%d" % i for i in range(n)]


def new_file(path, n_rows, n_columns, obs=None, var=None, **options):
    """A file with obs and var and no matrix; the caller closes it."""
    file = h5py.File(path, "w", **options)
    tag(file, "anndata", "0.1.0")
    frame(file, "obs", cells(n_rows), obs)
    frame(file, "var", genes(n_columns), var)
    return file


def put_dense(parent, name, values, dtype, tagged=True, **storage):
    data = parent.create_dataset(name, data=np.asarray(values).astype(dtype), **storage)
    if tagged:
        tag(data, "array", "0.2.0")
    return data


def put_parts(parent, name, layout, parts, shape, dtypes=("f4", "i4", "i4"), shape_type="i8",
              storage=None):
    """A sparse group from (data, indices, indptr) as they are."""
    group = parent.create_group(name)
    tag(group, layout + "_matrix", "0.1.0")
    if shape_type is not None:
        group.attrs["shape"] = np.array(shape, dtype=shape_type)
    for key, part, dtype in zip(("data", "indices", "indptr"), parts, dtypes):
        options = dict(storage or {"chunks": True, "maxshape": (None,)})
        if len(part) == 0:
            options = {"chunks": (16,), "maxshape": (None,)}
        elif isinstance(options.get("chunks"), tuple):
            options["chunks"] = (min(options["chunks"][0], len(part)),)
        group.create_dataset(key, data=np.asarray(part).astype(dtype), **options)
    return group


def put_sparse(parent, name, layout, values, **options):
    matrix = (sp.csr_matrix if layout == "csr" else sp.csc_matrix)(values)
    return put_parts(parent, name, layout, (matrix.data, matrix.indices, matrix.indptr),
                     values.shape, **options)


def counts(n_rows, n_columns, seed=1, largest=300):
    """Count-like: half zeros, many ones, a few large; no empty cell."""
    rng = np.random.RandomState(seed)
    values = rng.poisson(rng.gamma(0.5, 2.0, size=(n_rows, n_columns))).astype(np.int64)
    values[rng.rand(n_rows, n_columns) < 0.02] = largest
    values[np.arange(n_rows), np.arange(n_rows) % n_columns] += 1
    return values


def messy(values, layout, seed=2):
    """(data, indices, indptr) of the same matrix: entries shuffled and split, zeros added."""
    rng = np.random.RandomState(seed)
    major = values if layout == "csr" else values.T
    data, indices, indptr = [], [], [0]
    for line in major:
        entries = []
        for j, v in enumerate(line):
            first = rng.randint(0, v + 1)
            entries += [(j, first), (j, v - first)] if rng.rand() < 0.5 else [(j, v)]
        entries = [e for e in entries if e[1] != 0 or rng.rand() < 0.3]
        rng.shuffle(entries)
        indices += [e[0] for e in entries]
        data += [e[1] for e in entries]
        indptr.append(len(data))
    return np.array(data), np.array(indices), np.array(indptr)
