#!/usr/bin/env python3
"""Writes golden.json: what scvi-tools computes, in float64, for the models of golden_grid.py.

Pinned: scvi-tools 1.4.2, torch 2.5.1 (other versions are refused; numpy of any version).

    python3 -m venv env && env/bin/pip install scvi-tools==1.4.2 torch==2.5.1
    env/bin/python tests/reference/make_golden.py tests/reference/golden.json

test_golden.c reads the file; nobody needs scvi-tools to run it.

What differs from scvi-tools as its users run it:
  * modules are converted to float64, and data are given in it; where scvi-tools casts to float32
    (the one-hot codes that choose the dispersion of a batch or label and the library prior, the
    prior's buffers) `.float()` keeps float64. The prior itself is registered before, in float32;
  * the noise of z and l comes from the same counters as in atlasvi (Philox4x32-10, Box-Muller),
    put in the place of torch's generator in Normal.rsample;
  * torch's dropout masks have no counters: atlasvi's, with atlasvi's scale (the inverse of a
    probability that is a multiple of 1/65536), are multiplied in the place of nn.Dropout;
  * update_only_decoder: scvi-tools takes q(z) from minified data, that is, from its encoder in
    evaluation mode. Here the encoders are put into evaluation mode and get no gradients.
Starting values are random with three decimals, and also BatchNorm's weights, biases and running
statistics differ from 1 and 0, so that no term drops out.

Recorded for each configuration (tensors under scvi-tools' names and in its shapes; tensors that the
configuration does not use are left out; numbers() says how they are written):
  start        parameters and running statistics
  losses       sums over the minibatch's cells of nll, KL(z), KL(l) in the first step
  intermediates   of the first step: of each layer of an FCLayers the output of its Linear
               (NAME.linear), BatchNorm (.batch_norm), LayerNorm (.layer_norm) and Dropout
               (.dropout; without it the layer ends in the ReLU of what is recorded last); mean
               and variance of q(z), q(l); z (as the decoder sees it), the log library l, rho, and
               per cell nll, KL(z), KL(l)
  gradients    of nll + KL_WEIGHT KL(z) + KL(l), summed over the cells, in the first step (before
               clipping)
  change_1, change_5   parameters and running statistics after 1 and 5 steps of the optimiser on the
               same minibatch (loss: mean over its cells; new noise each step; gradients clipped
               as Lightning does, by clip_grad_norm_) minus `start`
  evaluation   the losses after 5 steps in evaluation mode, with one draw; evaluation_cells: (cells,
               3), of each cell
  outputs      after 5 steps, evaluation mode, z and l at their means: mean and variance of q(z) and
               q(l), rho, mu, theta ((G); (cells, G) with gene-batch, -label and -cell), pi (ZINB),
               loadings (LDVAE)
"""

import json
import math
import sys

import numpy as np

from golden_draws import DROPOUT_PURPOSE, SEED, check_philox, dropout_mask, noise
from golden_grid import (CONFIGURATIONS, N_CELLS, N_GENES, batch_codes, check_grid, make_counts,
                         make_facts)

SCVI_VERSION = "1.4.2"
TORCH_VERSION = "2.5.1"

MINIBATCH = [12, 3, 0, 7, 11, 5, 2, 13, 9, 6]
STEPS = 5
KL_WEIGHT = 0.3
TRAIN_PURPOSE, TRAIN_EPOCH = 5, 3  # AV_DRAW_LATENT; the first step's epoch, one more each step
EVALUATION_PURPOSE, EVALUATION_EPOCH = 7, 1  # AV_DRAW_POSTERIOR


# ---- starting values ----


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
        self.epoch = 0
        torch.distributions.Normal.rsample = lambda normal, *_: self.draw(normal)

    def load(self, purpose, epoch, row):
        z, l = noise(purpose, epoch, MINIBATCH, row["n_latent"])
        self.waiting = [z, l] if row["library"] == "latent" else [z]
        self.epoch = epoch

    def draw(self, normal):
        eps = self.torch.from_numpy(self.waiting.pop(0))
        if eps.shape != normal.loc.shape:
            sys.exit(f"make_golden.py: a draw of shape {tuple(normal.loc.shape)} was not expected")
        return normal.loc + eps * normal.scale


def replace_dropout(torch, fixed, row, module):
    """The first layers of the z and l encoders lie side by side in layer 0."""

    class CounterDropout(torch.nn.Module):
        def __init__(self, layer, first_unit):
            super().__init__()
            self.layer, self.first_unit = layer, first_unit

        def forward(self, x):
            if not self.training:
                return x
            mask = dropout_mask(row["dropout_rate"], fixed.epoch, MINIBATCH, self.layer,
                                self.first_unit, x.shape[1])
            return x * torch.from_numpy(mask)

    replaced = 0
    for encoder, first_unit in ((module.z_encoder, 0), (module.l_encoder, row["n_hidden"])):
        for number, layer in enumerate(encoder.encoder.fc_layers):
            for place, part in enumerate(layer):
                if isinstance(part, torch.nn.Dropout):
                    layer[place] = CounterDropout(number, first_unit if number == 0 else 0)
                    replaced += 1
    if replaced != (row["n_layers"] + 1 if row["dropout_rate"] > 0 else 0):
        sys.exit("make_golden.py: dropout is not where it was expected")


class Watch:
    """Keeps what the layers of every FCLayers put out."""

    KINDS = {"Linear": "linear", "BatchNorm1d": "batch_norm", "LayerNorm": "layer_norm",
             "CounterDropout": "dropout"}

    def __init__(self, module):
        self.seen = {}
        self.hooks = []
        for name, part in module.named_modules():
            stack, found, place = name.rpartition(".fc_layers.Layer ")
            if found and "." not in place:
                for layer in part:
                    kind = self.KINDS.get(type(layer).__name__)
                    if kind is not None:
                        key = f"{name}.{kind}"
                        self.hooks.append(layer.register_forward_hook(self.keep(key)))

    def keep(self, key):
        def hook(_, __, output):
            self.seen[key] = output.detach().numpy().copy()

        return hook

    def stop(self):
        for hook in self.hooks:
            hook.remove()


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
    module = scvi.model.LinearSCVI(data, n_hidden=4, n_latent=3).module
    return module.library_log_means.double().numpy(), module.library_log_vars.double().numpy()


def make_module(scvi, row, prior):
    options = {
        "n_input": N_GENES,
        "n_batch": row["n_batches"],
        "n_labels": row["n_labels"],
        "n_hidden": row["n_hidden"],
        "n_latent": row["n_latent"],
        "dropout_rate": row["dropout_rate"],
        "dispersion": row["dispersion"],
        "log_variational": row["log_variational"],
        "gene_likelihood": row["likelihood"],
        "latent_distribution": row["latent_distribution"],
        "use_observed_lib_size": row["library"] != "latent",
        "library_log_means": prior[0],
        "library_log_vars": prior[1],
    }
    if row["linear"]:
        options |= {
            "n_layers_encoder": row["n_layers"],
            "use_batch_norm": row["use_batch_norm"] == "both",
            "bias": row["bias"],
        }
    else:
        options |= {
            "n_layers": row["n_layers"],
            "n_continuous_cov": row["n_continuous"],
            "n_cats_per_cov": row["categorical"],
            "encode_covariates": row["encode_covariates"],
            "deeply_inject_covariates": row["deeply_inject_covariates"],
            "use_batch_norm": row["use_batch_norm"],
            "use_layer_norm": row["use_layer_norm"],
            "use_size_factor_key": row["library"] == "size_factor",
        }
    module = (scvi.module.LDVAE if row["linear"] else scvi.module.VAE)(**options).double()
    scatter(module.state_dict(), [ord(letter) for letter in row["name"]])
    return module


def minibatch_of(torch, scvi, row, counts, facts):
    keys = scvi.REGISTRY_KEYS
    labels = facts[f"label_{row['n_labels']}"] if row["n_labels"] > 0 else np.zeros(N_CELLS, int)
    tensors = {
        keys.X_KEY: counts.astype(np.float64),
        keys.BATCH_KEY: batch_codes(row["n_batches"])[:, None],
        keys.LABELS_KEY: labels[:, None],
    }
    if row["categorical"]:
        codes = [facts[f"category_{n}"] for n in row["categorical"]]
        tensors[keys.CAT_COVS_KEY] = np.stack(codes, axis=1)
    if row["n_continuous"] > 0:
        tensors[keys.CONT_COVS_KEY] = facts["continuous"][:, :row["n_continuous"]]
    if row["library"] == "size_factor":
        tensors[keys.SIZE_FACTOR_KEY] = facts["size_factor"][:, None]
    return {key: torch.from_numpy(values[MINIBATCH]) for key, values in tensors.items()}


def used(row, name):
    if name.endswith("num_batches_tracked") or name.startswith("library_log"):
        return False
    if name.startswith("l_encoder."):
        return row["library"] == "latent"
    if name.startswith("decoder.px_dropout_decoder."):
        return row["likelihood"] == "zinb"
    if name.startswith("decoder.px_r_decoder."):
        return row["dispersion"] == "gene-cell" and row["likelihood"] != "poisson"
    return True


def state_of(row, module):
    return {
        name: tensor.detach().numpy().copy()
        for name, tensor in module.state_dict().items()
        if used(row, name)
    }


def cells_of(output):
    """(cells, 3): nll, KL(z), KL(l)."""
    kl = output.kl_local
    nll = output.reconstruction_loss["reconstruction_loss"]
    columns = (nll, kl["kl_divergence_z"], kl["kl_divergence_l"])
    return np.stack([column.detach().numpy() for column in columns], axis=1)


def gradients_of(row, module, n):
    out = {}
    for name, parameter in module.named_parameters():
        if used(row, name):
            missing = parameter.grad is None  # px_r with Poisson; frozen
            out[name] = np.zeros(parameter.shape) if missing else n * parameter.grad.numpy()
    return out


def difference(after, before):
    return {name: after[name] - before[name] for name in after}


def posteriors_of(inference):
    out = {"z_mean": inference["qz"].mean, "z_variance": inference["qz"].variance}
    if inference["ql"] is not None:
        out |= {"l_mean": inference["ql"].mean, "l_variance": inference["ql"].variance}
    return out


def intermediates_of(row, watch, inference, generative, output, tensors):
    out = {name: value for name, value in watch.seen.items() if used(row, name)}
    library = inference["library"]
    if row["library"] == "size_factor":
        library = tensors["size_factor"].log()
    values = posteriors_of(inference)
    values |= {"z": inference["z"], "l": library, "rho": generative["px"].scale}
    out |= {name: value.detach().numpy() for name, value in values.items()}
    return {**out, "cells": cells_of(output)}


def outputs_of(torch, row, module, tensors, fixed):
    fixed.load(EVALUATION_PURPOSE, EVALUATION_EPOCH, row)
    with torch.no_grad():
        inference = module.inference(**module._get_inference_input(tensors))
        inference["z"] = module.z_encoder.z_transformation(inference["qz"].mean)
        if row["library"] == "latent":
            inference["library"] = inference["ql"].mean
        px = module.generative(**module._get_generative_input(tensors, inference))["px"]
    poisson = row["likelihood"] == "poisson"
    out = posteriors_of(inference)
    out |= {"rho": px.scale, "mu": px.rate if poisson else px.mu}
    if not poisson:
        out["theta"] = px.theta.reshape(-1)[:N_GENES] if row["dispersion"] == "gene" else px.theta
    if row["likelihood"] == "zinb":
        out["pi"] = px.zi_probs
    if row["linear"]:
        out["loadings"] = torch.from_numpy(module.get_loadings())
    return {name: value.numpy() for name, value in out.items()}


def optimizer_of(torch, row, module):
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[row["optimizer"]]
    return kind(module.parameters(), **{key: row[key] for key in ("lr", "eps", "weight_decay")})


def clip(torch, row, module):
    """clip_grad_norm_, and that it does, or does not, do anything."""
    if row["clip"] > 0.0:
        norm = float(torch.nn.utils.clip_grad_norm_(module.parameters(), row["clip"]))
        if (norm > row["clip"]) != (row["name"] != "scvi_clip_unreached"):
            sys.exit(f"make_golden.py: {row['name']}: gradient of length {norm}")


def train_mode(row, module):
    module.train()
    for part in (module.z_encoder, module.l_encoder):
        if row["update_only_decoder"]:
            part.eval().requires_grad_(False)


def run(torch, scvi, fixed, row, counts, facts, prior):
    module = make_module(scvi, row, prior[row["n_batches"]])
    replace_dropout(torch, fixed, row, module)
    tensors = minibatch_of(torch, scvi, row, counts, facts)
    start = state_of(row, module)
    record = {"start": start}
    optimizer = optimizer_of(torch, row, module)
    train_mode(row, module)
    watch = Watch(module)
    for step in range(STEPS):
        fixed.load(TRAIN_PURPOSE, TRAIN_EPOCH + step, row)
        optimizer.zero_grad()
        inference, generative, output = module(tensors, loss_kwargs={"kl_weight": KL_WEIGHT})
        output.loss.backward()
        if step == 0:
            record["losses"] = cells_of(output).sum(axis=0).tolist()
            record["intermediates"] = intermediates_of(row, watch, inference, generative, output,
                                                       tensors)
            record["gradients"] = gradients_of(row, module, len(MINIBATCH))
            watch.stop()
        clip(torch, row, module)
        optimizer.step()
        if step in (0, STEPS - 1):
            record[f"change_{step + 1}"] = difference(state_of(row, module), start)
    module.eval()
    fixed.load(EVALUATION_PURPOSE, EVALUATION_EPOCH, row)
    with torch.no_grad():
        cells = cells_of(module(tensors)[2])
    record["evaluation"] = cells.sum(axis=0).tolist()
    record["evaluation_cells"] = cells
    record["outputs"] = outputs_of(torch, row, module, tensors, fixed)
    return record


# ---- the file ----


def numbers(values):
    """Integers n behind a number p of decimal places: n / 10^p are the values, rounded to 2e-11 of
    the largest, below the test's tolerance. This takes a third less room than the values."""
    array = np.asarray(values, dtype=np.float64).ravel()
    quantum = max(4e-11 * float(np.abs(array).max(initial=0.0)), 1e-17)
    places = max(math.ceil(-math.log10(quantum)), 0)
    while places > 0 and all(round(v, places - 1) == v for v in array.tolist()):
        places -= 1
    whole = (round(v * 10.0**places) for v in array.tolist())
    return "[" + ",".join(map(str, [places, *whole])) + "]"


def table(arrays):
    return "{\n" + ",\n".join(f'{json.dumps(k)}:{numbers(v)}' for k, v in arrays.items()) + "}"


def configuration_text(row, record):
    parts = [",".join(f"{json.dumps(k)}:{json.dumps(v)}" for k, v in row.items())]
    for name, value in record.items():
        if isinstance(value, dict):
            text = table(value)
        else:
            text = numbers(value) if isinstance(value, np.ndarray) else json.dumps(value)
        parts.append(f"{json.dumps(name)}:{text}")
    return "{" + ",\n".join(parts) + "}"


def file_text(counts, facts, prior, records):
    values = {
        "made_by": f"make_golden.py, scvi-tools {SCVI_VERSION}, torch {TORCH_VERSION}",
        "n_cells": N_CELLS, "n_genes": N_GENES, "minibatch": MINIBATCH, "steps": STEPS,
        "kl_weight": KL_WEIGHT, "seed": SEED, "dropout_purpose": DROPOUT_PURPOSE,
        "train_purpose": TRAIN_PURPOSE, "train_epoch": TRAIN_EPOCH,
        "evaluation_purpose": EVALUATION_PURPOSE, "evaluation_epoch": EVALUATION_EPOCH,
        "counts": counts.ravel().tolist(),
        **{name: value.ravel().tolist() for name, value in facts.items()},
    }
    parts = [f"{json.dumps(k)}:{json.dumps(v, separators=(',', ':'))}" for k, v in values.items()]
    for n_batches, (means, variances) in prior.items():
        both = np.stack([means.ravel(), variances.ravel()], axis=1)
        parts.append(f'"prior_{n_batches}":{json.dumps(both.ravel().tolist())}')
    rows = ",\n".join(configuration_text(row, record) for row, record in records)
    parts.append(f'"configurations":[\n{rows}]')
    return "{" + ",\n".join(parts) + "}\n"


def main():
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} FILE.json")
    check_grid()
    import scvi
    import torch

    found = (scvi.__version__, torch.__version__.split("+")[0])
    if found != (SCVI_VERSION, TORCH_VERSION):
        sys.exit(f"make_golden.py: needs scvi-tools {SCVI_VERSION} and torch {TORCH_VERSION}, "
                 f"not {found[0]} and {found[1]}")
    check_philox()
    torch.set_num_threads(1)
    counts, facts = make_counts(), make_facts()
    prior = {n: registered_prior(scvi, counts, n) for n in (1, 3)}
    torch.Tensor.float = torch.Tensor.double  # see the top
    fixed = FixedNoise(torch)
    records = [(row, run(torch, scvi, fixed, row, counts, facts, prior))
               for row in CONFIGURATIONS]
    with open(sys.argv[1], "w", encoding="ascii") as file:
        file.write(file_text(counts, facts, prior, records))


if __name__ == "__main__":
    main()
