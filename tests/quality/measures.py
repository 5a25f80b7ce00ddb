"""What is measured on a fit, and the bounds put on it. numpy is imported by what needs it.

  label_accuracy   share of labelled cells whose label most of their 15 nearest other labelled cells
                   have (Euclidean, latent means of all cells; a tie goes to the nearer's label)
  batch_mixing     mean over all cells of the entropy of the batches among the 15 nearest other
                   cells, over the entropy of the batches of all cells: 0 apart, 1 mixed
  subspace         distance of two sets of loadings (genes x factors): each column less its mean
                   (softmax does not see it), then the mean sine of the principal angles between the
                   column spaces: 0 the same space, 1 at right angles
"""
import math
import statistics

NEIGHBOURS = 15
LESS, MORE = "at most", "at least"
QUANTITIES = (  # key, name, direction, decimals
    ("elbo", "held-out negative ELBO", LESS, 2),
    ("reconstruction", "held-out reconstruction error", LESS, 2),
    ("label_accuracy", "label accuracy", MORE, 3),
    ("batch_mixing", "batch mixing", MORE, 3),
    ("subspace", "distance of loadings to theirs", LESS, 3),
)


def neighbours(z, count):
    """(N, count) indices of the nearest other rows of z, nearest first."""
    import numpy as np
    z = np.asarray(z, dtype=np.float64)
    square = (z * z).sum(1)
    found = []
    for first in range(0, len(z), 1000):
        rows = np.arange(first, min(first + 1000, len(z)))
        distance = square[rows, None] + square[None, :] - 2 * z[rows] @ z.T
        distance[np.arange(len(rows)), rows] = np.inf
        near = np.argpartition(distance, count, axis=1)[:, :count]
        order = np.argsort(np.take_along_axis(distance, near, 1), axis=1, kind="stable")
        found.append(np.take_along_axis(near, order, 1))
    return np.concatenate(found)


def label_accuracy(z, labels):
    """labels: code of each cell, below 0 where unknown."""
    import numpy as np
    labels = np.asarray(labels)
    known = labels >= 0
    codes = labels[known]
    votes = codes[neighbours(z[known], NEIGHBOURS)]
    hits = 0
    for cell, row in enumerate(votes):
        counts = np.bincount(row)
        winner = next(v for v in row if counts[v] == counts.max())
        hits += int(winner == codes[cell])
    return hits / len(codes)


def entropy(counts):
    """In nats, of each row."""
    import numpy as np
    share = counts / counts.sum(-1, keepdims=True)
    return -(share * np.log(np.where(share > 0, share, 1.0))).sum(-1)


def batch_mixing(z, batches):
    import numpy as np
    batches = np.asarray(batches)
    number = int(batches.max()) + 1
    near = batches[neighbours(z, NEIGHBOURS)]
    counts = np.stack([(near == b).sum(1) for b in range(number)], axis=1).astype(float)
    overall = entropy(np.bincount(batches, minlength=number).astype(float))
    return float(entropy(counts).mean() / overall)


def subspace_distance(a, b):
    import numpy as np

    def basis(loadings):
        loadings = np.asarray(loadings, dtype=np.float64)
        return np.linalg.qr(loadings - loadings.mean(0))[0]

    cosines = np.linalg.svd(basis(a).T @ basis(b), compute_uv=False).clip(0, 1)
    return float(np.sqrt(1 - cosines ** 2).mean())


def judge(quantity, theirs, ours):
    """theirs and ours: values over the seeds (for subspace: over the pairs of theirs, and of ours
    with theirs). Gives means, sds, the bound and whether it holds."""
    mean_t, mean_o = statistics.fmean(theirs), statistics.fmean(ours)
    sd_t, sd_o = (statistics.stdev(v) if len(v) > 1 else 0.0 for v in (theirs, ours))
    if quantity in ("elbo", "reconstruction"):
        bound = mean_t + max(2 * sd_t, 0.005 * abs(mean_t))
    else:
        bound = mean_t + (0.02 if quantity == "subspace" else -0.02)
    direction = next(d for k, _, d, _ in QUANTITIES if k == quantity)
    holds = mean_o <= bound if direction == LESS else mean_o >= bound
    return {"theirs": mean_t, "theirs_sd": sd_t, "ours": mean_o, "ours_sd": sd_o, "bound": bound,
            "holds": bool(holds and math.isfinite(mean_o) and math.isfinite(bound))}


def self_check():
    """Known answers of everything above."""
    import numpy as np
    rng = np.random.RandomState(0)
    apart = np.vstack([rng.normal(0, 1, (60, 3)), rng.normal(30, 1, (60, 3))])
    sides = np.repeat([0, 1], 60)
    assert label_accuracy(apart, sides) == 1.0
    assert label_accuracy(apart, rng.permutation(sides)) < 0.75
    assert label_accuracy(apart, np.concatenate([[-1], sides[1:]])) == 1.0
    assert batch_mixing(apart, sides) == 0.0
    assert 0.85 < batch_mixing(apart, np.arange(120) % 2) <= 1.0
    assert abs(entropy(np.array([[3.0, 3.0, 0.0]]))[0] - math.log(2)) < 1e-12
    loadings = rng.normal(0, 1, (50, 3))
    turned = loadings @ rng.normal(0, 1, (3, 3)) + 7.0
    assert subspace_distance(loadings, turned) < 1e-6
    centred = np.linalg.qr(np.hstack([np.ones((50, 1)), loadings]))[0][:, 1:]
    assert abs(subspace_distance(centred[:, :1], centred[:, 1:2]) - 1) < 1e-9
    half = centred[:, :1] + centred[:, 1:2]  # 45 degrees
    assert abs(subspace_distance(centred[:, :1], half) - math.sqrt(0.5)) < 1e-9
    # 2 sd wide, then 0.5 % wide
    assert judge("elbo", [99, 100, 101], [102.0])["holds"]
    assert not judge("elbo", [99, 100, 101], [102.1])["holds"]
    assert judge("reconstruction", [100, 100, 100], [100.49])["holds"]
    assert not judge("reconstruction", [100, 100, 100], [100.51])["holds"]
    assert judge("label_accuracy", [0.9], [0.881])["holds"]
    assert not judge("label_accuracy", [0.9], [0.879])["holds"]
    assert not judge("batch_mixing", [0.9], [float("nan")])["holds"]
    assert judge("subspace", [0.3, 0.5], [0.419])["holds"]
    assert not judge("subspace", [0.3, 0.5], [0.421])["holds"]


if __name__ == "__main__":
    self_check()
    print("measures: known answers found")
