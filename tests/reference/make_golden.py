#!/usr/bin/env python3
"""Writes golden.json: what scvi-tools computes, in float64, for a grid of small models.

Pinned: scvi-tools 1.4.2, torch 2.5.1 (other versions are refused; numpy of any version).

    python3 -m venv env && env/bin/pip install scvi-tools==1.4.2 torch==2.5.1
    env/bin/python tests/reference/make_golden.py tests/reference/golden.json

test_golden.c reads the file; nobody needs scvi-tools to run it.

What differs from scvi-tools as its users run it:
  * modules are converted to float64; where scvi-tools casts to float32 (the one-hot codes that
    choose the dispersion and the library prior, the prior's buffers) `.float()` keeps float64;
  * the noise of z and l comes from the same counters as in atlasvi (Philox4x32-10, Box-Muller),
    put in the place of torch's generator in Normal.rsample;
  * dropout_rate = 0: torch's masks have no counters.
Starting values are random with three decimals, and also BatchNorm's weights, biases and running
statistics differ from 1 and 0, so that no term drops out.

Recorded for each configuration (tensors under scvi-tools' names and in its shapes; tensors that the
configuration does not use are left out):
  start        parameters and running statistics
  losses       sums over the minibatch's cells of nll, KL(z), KL(l) in the first step
  gradients    of nll + KL_WEIGHT KL(z) + KL(l), summed over the cells, in the first step
  change_1, change_5   parameters and running statistics after 1 and 5 steps of Adam on the same
               minibatch (loss: mean over its cells; new noise each step) minus `start`
  evaluation   the losses after 5 steps in evaluation mode, with one draw
  outputs      after 5 steps, evaluation mode, z and l at their means: mean and variance of q(z) and
               q(l), rho, mu, theta ((G), or (cells, G) with gene-batch), pi (ZINB), loadings
               (LDVAE)
"""

import json
import math
import sys

import numpy as np

SCVI_VERSION = "1.4.2"
TORCH_VERSION = "2.5.1"

N_CELLS, N_GENES, N_HIDDEN, N_LATENT = 14, 11, 4, 3
MINIBATCH = [12, 3, 0, 7, 11, 5, 2, 13, 9, 1, 6]
STEPS = 5
KL_WEIGHT = 0.3
ADAM = {"lr": 1e-3, "eps": 0.01, "weight_decay": 1e-6}
SEED = 20_240_607
TRAIN_PURPOSE, TRAIN_EPOCH = 5, 3  # AV_DRAW_LATENT; the first step's epoch, one more each step
EVALUATION_PURPOSE, EVALUATION_EPOCH = 7, 1  # AV_DRAW_POSTERIOR
LIBRARY_INDEX = 0x80000000

# name, linear, likelihood, dispersion, latent library, layers, batches, log_variational
CONFIGURATIONS = [
    ("ldvae_default", True, "nb", "gene", True, 1, 3, True),
    ("ldvae_zinb_gene_batch", True, "zinb", "gene-batch", False, 2, 3, True),
    ("ldvae_poisson", True, "poisson", "gene", True, 1, 1, False),
    ("ldvae_nb_gene_batch", True, "nb", "gene-batch", True, 2, 3, False),
    ("ldvae_zinb_one_batch", True, "zinb", "gene", False, 1, 1, True),
    ("scvi_default", False, "zinb", "gene", False, 1, 1, True),
    ("scvi_zinb_gene_batch", False, "zinb", "gene-batch", True, 2, 3, True),
    ("scvi_nb_gene_batch", False, "nb", "gene-batch", False, 1, 3, False),
    ("scvi_poisson", False, "poisson", "gene", True, 2, 3, True),
    ("scvi_nb_one_batch", False, "nb", "gene-batch", False, 2, 1, True),
]


# ---- random counters, as src/math/rng.h and src/backend/draws.h define them ----


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
            sys.exit("make_golden.py: Philox4x32-10 does not give its known answers")


def normals4(purpose, cell, epoch, index):
    mixed = (SEED + (purpose << 54)) & (2**64 - 1)
    counter = (cell & 0xFFFFFFFF, cell >> 32, epoch, index)
    words = philox4x32_10(counter, (mixed & 0xFFFFFFFF, mixed >> 32))
    out = []
    for pair in range(2):
        u = (words[2 * pair] + 0.5) / 2.0**32
        v = (words[2 * pair + 1] + 0.5) / 2.0**32
        radius = math.sqrt(-2.0 * math.log(u))
        out += [radius * math.cos(2.0 * math.pi * v), radius * math.sin(2.0 * math.pi * v)]
    return out


def noise(purpose, epoch):
    """Standard normals of z (cells, K) and l (cells, 1) of the minibatch."""
    z = [
        [normals4(purpose, cell, epoch, k // 4)[k % 4] for k in range(N_LATENT)]
        for cell in MINIBATCH
    ]
    l = [[normals4(purpose, cell, epoch, LIBRARY_INDEX)[0]] for cell in MINIBATCH]
    return np.array(z), np.array(l)


# ---- data and starting values ----


def make_counts():
    random = np.random.default_rng(1)
    level = 0.2 + 3.0 * random.random(N_GENES)[None, :] * (0.3 + random.random(N_CELLS)[:, None])
    counts = random.negative_binomial(1.5, 1.5 / (1.5 + level))
    counts[:, 4] = 0  # a gene without counts
    counts[12, 7] = 40
    counts[np.arange(N_CELLS), np.arange(N_CELLS) % 4] += 1  # no cell is empty
    return counts


def batch_codes(n_batches):
    return np.arange(N_CELLS) % n_batches


def scatter(state, seed):
    """Fills a state dict in place; see the top."""
    random = np.random.default_rng(seed)
    for name, tensor in state.items():
        shape = tuple(tensor.shape)
        if name.startswith("library_log") or name.endswith("num_batches_tracked"):
            continue
        if name.endswith("running_var") or (name.endswith(".1.weight") and len(shape) == 1):
            values = random.uniform(0.5, 1.5, shape)
        elif len(shape) == 2 and name != "px_r":
            values = random.uniform(-1.2, 1.2, shape) / math.sqrt(shape[1])
        else:
            values = random.uniform(-0.7, 0.7, shape)
        tensor.copy_(tensor.new_tensor(np.round(values, 3)))


# ---- scvi-tools ----


class FixedNoise:
    """Stands in for torch.distributions.Normal.rsample: z first, then l."""

    def __init__(self, torch):
        self.torch = torch
        self.waiting = []
        torch.distributions.Normal.rsample = lambda normal, *_: self.draw(normal)

    def load(self, purpose, epoch, latent_library):
        z, l = noise(purpose, epoch)
        self.waiting = [z, l] if latent_library else [z]

    def draw(self, normal):
        eps = self.torch.from_numpy(self.waiting.pop(0))
        if eps.shape != normal.loc.shape:
            sys.exit(f"make_golden.py: a draw of shape {tuple(normal.loc.shape)} was not expected")
        return normal.loc + eps * normal.scale


def registered_prior(scvi, counts, n_batches):
    """Mean and variance of log library that scvi-tools registers for LinearSCVI."""
    import anndata
    import pandas

    obs = pandas.DataFrame(
        {"batch": [f"b{code}" for code in batch_codes(n_batches)]},
        index=[f"cell{i}" for i in range(N_CELLS)],
    )
    data = anndata.AnnData(counts.astype(np.float32), obs=obs)
    scvi.model.LinearSCVI.setup_anndata(data, batch_key="batch")
    module = scvi.model.LinearSCVI(data, n_hidden=N_HIDDEN, n_latent=N_LATENT).module
    return module.library_log_means.double().numpy(), module.library_log_vars.double().numpy()


def make_module(scvi, row, prior):
    name, linear, likelihood, dispersion, latent_library, layers, batches, log1p = row
    options = {
        "n_input": N_GENES,
        "n_batch": batches,
        "n_hidden": N_HIDDEN,
        "n_latent": N_LATENT,
        "dropout_rate": 0.0,
        "dispersion": dispersion,
        "log_variational": log1p,
        "gene_likelihood": likelihood,
        "use_observed_lib_size": not latent_library,
        "library_log_means": prior[0],
        "library_log_vars": prior[1],
        "n_layers_encoder" if linear else "n_layers": layers,
    }
    module = (scvi.module.LDVAE if linear else scvi.module.VAE)(**options).double()
    seed = [ord(letter) for letter in name]
    scatter(module.state_dict(), seed)
    return module


def used(row, name):
    latent_library, likelihood = row[4], row[2]
    if name.endswith("num_batches_tracked") or name.startswith("library_log"):
        return False
    if name.startswith("l_encoder.") and not latent_library:
        return False
    if name.startswith("decoder.px_dropout_decoder."):
        return likelihood == "zinb"
    return not name.startswith("decoder.px_r_decoder.")  # gene-cell


def state_of(row, module):
    return {
        name: tensor.detach().numpy().copy()
        for name, tensor in module.state_dict().items()
        if used(row, name)
    }


def sums(output):
    kl = output.kl_local
    return [
        float(output.reconstruction_loss_sum),
        float(kl["kl_divergence_z"].sum()),
        float(kl["kl_divergence_l"].sum()),
    ]


def gradients_of(row, module, n):
    out = {}
    for name, parameter in module.named_parameters():
        if used(row, name):
            missing = parameter.grad is None  # px_r with Poisson
            out[name] = np.zeros(parameter.shape) if missing else n * parameter.grad.numpy()
    return out


def difference(after, before):
    return {name: after[name] - before[name] for name in after}


def outputs_of(torch, row, module, tensors, fixed):
    linear, likelihood, dispersion, latent_library = row[1:5]
    fixed.load(EVALUATION_PURPOSE, EVALUATION_EPOCH, latent_library)
    with torch.no_grad():
        inference = module.inference(**module._get_inference_input(tensors))
        inference["z"] = inference["qz"].mean
        if latent_library:
            inference["library"] = inference["ql"].mean
        px = module.generative(**module._get_generative_input(tensors, inference))["px"]
    out = {"z_mean": inference["qz"].mean, "z_variance": inference["qz"].variance}
    if latent_library:
        out |= {"l_mean": inference["ql"].mean, "l_variance": inference["ql"].variance}
    out |= {"rho": px.scale, "mu": px.rate if likelihood == "poisson" else px.mu}
    if likelihood != "poisson":
        out["theta"] = px.theta if dispersion == "gene-batch" else px.theta.reshape(-1)[:N_GENES]
    if likelihood == "zinb":
        out["pi"] = px.zi_probs
    if linear:
        out["loadings"] = torch.from_numpy(module.get_loadings())
    return {name: value.numpy() for name, value in out.items()}


def run(torch, scvi, fixed, row, counts, prior):
    n = len(MINIBATCH)
    batches, latent_library = row[6], row[4]
    module = make_module(scvi, row, prior[batches])
    tensors = {
        "X": torch.from_numpy(counts[MINIBATCH].astype(np.float64)),
        "batch": torch.from_numpy(batch_codes(batches)[MINIBATCH][:, None]),
        "labels": torch.zeros((n, 1), dtype=torch.int64),
    }
    start = state_of(row, module)
    record = {"start": start}
    adam = torch.optim.Adam(module.parameters(), **ADAM)
    module.train()
    for step in range(STEPS):
        fixed.load(TRAIN_PURPOSE, TRAIN_EPOCH + step, latent_library)
        adam.zero_grad()
        output = module(tensors, loss_kwargs={"kl_weight": KL_WEIGHT})[2]
        output.loss.backward()
        if step == 0:
            record["losses"] = sums(output)
            record["gradients"] = gradients_of(row, module, n)
        adam.step()
        if step in (0, STEPS - 1):
            record[f"change_{step + 1}"] = difference(state_of(row, module), start)
    module.eval()
    fixed.load(EVALUATION_PURPOSE, EVALUATION_EPOCH, latent_library)
    with torch.no_grad():
        record["evaluation"] = sums(module(tensors)[2])
    record["outputs"] = outputs_of(torch, row, module, tensors, fixed)
    return record


# ---- the file ----


def numbers(values):
    """Rounded to 1e-11 of the largest value, below the test's tolerance."""
    array = np.asarray(values, dtype=np.float64).ravel()
    quantum = max(1e-11 * float(np.abs(array).max(initial=0.0)), 1e-17)
    places = math.ceil(-math.log10(quantum))
    return "[" + ",".join(f"{round(v, places):.15g}" for v in array.tolist()) + "]"


def table(arrays):
    return "{\n" + ",\n".join(f'{json.dumps(k)}:{numbers(v)}' for k, v in arrays.items()) + "}"


def configuration_text(row, record):
    keys = ("name", "linear", "likelihood", "dispersion", "latent_library", "n_layers",
            "n_batches", "log_variational")
    parts = [f"{json.dumps(k)}:{json.dumps(v)}" for k, v in zip(keys, row)]
    for name, value in record.items():
        text = table(value) if isinstance(value, dict) else json.dumps(value)
        parts.append(f"{json.dumps(name)}:{text}")
    return "{" + ",\n".join(parts) + "}"


def file_text(counts, prior, records):
    facts = {
        "made_by": f"make_golden.py, scvi-tools {SCVI_VERSION}, torch {TORCH_VERSION}",
        "n_cells": N_CELLS, "n_genes": N_GENES, "n_hidden": N_HIDDEN, "n_latent": N_LATENT,
        "minibatch": MINIBATCH, "steps": STEPS, "kl_weight": KL_WEIGHT, **ADAM, "seed": SEED,
        "train_purpose": TRAIN_PURPOSE, "train_epoch": TRAIN_EPOCH,
        "evaluation_purpose": EVALUATION_PURPOSE, "evaluation_epoch": EVALUATION_EPOCH,
        "counts": counts.ravel().tolist(),
    }
    parts = [f"{json.dumps(k)}:{json.dumps(v, separators=(',', ':'))}" for k, v in facts.items()]
    for n_batches, (means, variances) in prior.items():
        both = np.stack([means.ravel(), variances.ravel()], axis=1)
        parts.append(f'"prior_{n_batches}":{json.dumps(both.ravel().tolist())}')
    rows = ",\n".join(configuration_text(row, record) for row, record in records)
    parts.append(f'"configurations":[\n{rows}]')
    return "{" + ",\n".join(parts) + "}\n"


def main():
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} FILE.json")
    import scvi
    import torch

    found = (scvi.__version__, torch.__version__.split("+")[0])
    if found != (SCVI_VERSION, TORCH_VERSION):
        sys.exit(f"make_golden.py: needs scvi-tools {SCVI_VERSION} and torch {TORCH_VERSION}, "
                 f"not {found[0]} and {found[1]}")
    check_philox()
    torch.set_num_threads(1)
    counts = make_counts()
    prior = {n: registered_prior(scvi, counts, n) for n in (1, 3)}
    torch.Tensor.float = torch.Tensor.double  # see the top
    fixed = FixedNoise(torch)
    records = [(row, run(torch, scvi, fixed, row, counts, prior)) for row in CONFIGURATIONS]
    with open(sys.argv[1], "w", encoding="ascii") as file:
        file.write(file_text(counts, prior, records))


if __name__ == "__main__":
    main()
