"""The copies that both programs read: counts, batch, labels and the fixed split, nothing else.

Unused categories are dropped, because scvi-tools counts them as batches and we do not. Rows whose
index leaves 3 after division by 10 are for validation, all others for training.
"""
import numpy as np

import real_files as real

SIMULATED = "simulated"


def simulated():
    """A small set for trying the script: three groups, two batches."""
    rng = np.random.RandomState(5)
    cells, genes = 300, 90
    group, batch = rng.randint(0, 3, cells), rng.randint(0, 2, cells)
    level = rng.normal(0, 1, genes)[None, :] + 1.2 * rng.normal(0, 1, (3, genes))[group]
    level += 0.3 * rng.normal(0, 1, (2, genes))[batch]
    mean = np.exp(level)
    mean *= rng.lognormal(6, 0.3, (cells, 1)) / mean.sum(1, keepdims=True)
    counts = rng.poisson(mean * rng.gamma(2, 0.5, mean.shape))
    return counts, np.array(["b%d" % b for b in batch]), np.array(["g%d" % g for g in group])


def counts_of(data, where):
    return data.X if where == "X" else data.layers[where.split("/", 1)[1]]


def write_copy(name, path):
    import anndata
    import pandas
    import scipy.sparse
    if name == SIMULATED:
        counts, batch, labels = simulated()
        columns = {"batch": batch, "labels": labels}
    else:
        where, batch_key, labels_key = real.FILES[name + ".h5ad"]
        data = anndata.read_h5ad(real.path_of(name + ".h5ad"))
        counts = counts_of(data, where)
        columns = {new: data.obs[old].to_numpy()
                   for new, old in (("batch", batch_key), ("labels", labels_key)) if old}
    n = counts.shape[0]
    obs = pandas.DataFrame(index=["cell%d" % i for i in range(n)])
    for column, values in columns.items():
        obs[column] = pandas.Categorical(np.asarray(values, dtype=object))
    part = ["validation" if i % 10 == 3 else "train" for i in range(n)]
    obs["held_out"] = pandas.Categorical(part)
    var = pandas.DataFrame(index=["gene%d" % g for g in range(counts.shape[1])])
    whole = scipy.sparse.csr_matrix(counts, dtype=np.float32)
    anndata.AnnData(whole, obs=obs, var=var).write_h5ad(path)
