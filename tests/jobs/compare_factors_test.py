"""jobs/compare_factors.py on files whose answer is known: rotated loadings are found, others are not."""
import os
import subprocess
import sys
import tempfile

try:
    import h5py
    import numpy as np
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

SCRIPT = os.path.join(os.environ["SOURCE"], "jobs", "compare_factors.py")
rng = np.random.default_rng(1)
GENES, FACTORS = 300, 4
planted = rng.normal(size=(GENES, FACTORS)) * (rng.random((GENES, FACTORS)) < 0.3)
names = [f"gene_{i}" for i in range(GENES)]


def frame(parent, name, index, columns):
    group = parent.create_group(name)
    group.attrs["_index"] = "_index"
    group.attrs["column-order"] = list(columns)
    group["_index"] = index
    for column, values in columns.items():
        group[column] = values


def fitted(path, loadings, order):
    with h5py.File(path, "w") as file:
        uns = file.create_group("uns")
        frame(uns, "ldvae_loadings", [names[i] for i in order],
              {f"Z_{k}": loadings[order, k].astype("f4") for k in range(loadings.shape[1])})
        frame(uns, "atlasvi/history", ["0", "1"],
              {"elbo_train": np.array([90.5, 80.25]), "elbo_validation": np.array([91.5, 85.0]),
               "seconds": np.array([1.0, 2.0])})


def run(expect, *arguments):
    done = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)
    assert done.returncode == expect, (done.returncode, done.stdout, done.stderr)
    return done


with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    with h5py.File("true.h5ad", "w") as file:
        file["varm/true_loadings"] = planted.astype("f4")
        frame(file, "var", names, {})
    rotation = rng.normal(size=(FACTORS, FACTORS))
    rotated = planted @ rotation + np.arange(FACTORS)  # any invertible map, any offset
    fitted("same.h5ad", rotated, rng.permutation(GENES)[:250])
    out = run(0, "true.h5ad", "same.h5ad", "--at-least", "0.9").stdout
    assert "250 genes" in out and "  1.000 1.000 1.000 1.000\n" in out, out
    assert "85.0 after epoch 2" in out and "training: 3.0 s for 2 epochs" in out, out

    # a fit equal to the truth with factor 2 alone turned over: names its top gene and the factor
    turned = planted * [1, 1, -1, 1]
    fitted("turned.h5ad", turned, np.arange(GENES))
    line = [l for l in run(0, "true.h5ad", "turned.h5ad").stdout.splitlines() if "Z_2" in l][0]
    centred = turned[:, 2] - turned[:, 2].mean()
    top = int(np.argmax(np.abs(centred)))
    assert f"Z_2  {'+' if centred[top] > 0 else '-'}gene_{top} " in line, line
    assert line.endswith("(most like planted factor 2: -1.00)"), line

    fitted("other.h5ad", rng.normal(size=(GENES, FACTORS)), np.arange(GENES))
    assert "not recovered" in run(1, "true.h5ad", "other.h5ad", "--at-least", "0.9").stderr
    half = np.column_stack([planted[:, :2], rng.normal(size=(GENES, 2))])
    fitted("half.h5ad", half, np.arange(GENES))
    assert "not recovered" in run(1, "true.h5ad", "half.h5ad", "--at-least", "0.9").stderr
    assert "linear_decoder" in run(65, "true.h5ad", "true.h5ad").stderr
    assert "not made by" in run(65, "same.h5ad", "same.h5ad").stderr
    run(66, "true.h5ad", "absent.h5ad")
    os.chdir("/")
print("ok")
