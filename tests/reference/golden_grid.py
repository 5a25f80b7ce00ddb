"""The grid of make_golden.py: small models that cover the options, and their data.

Every configuration is DEFAULTS with some values changed. check_grid() refuses a grid in which an
option that scvi-tools 1.4.2 can run no longer occurs.
"""

import sys

import numpy as np

N_CELLS, N_GENES = 14, 9

# Options as atlasvi knows them. `categorical` is a list of numbers of categories, `library`
# "size_factor" stands for size_factor_key; `clip` 0 is none.
DEFAULTS = {
    "linear": False,
    "likelihood": "zinb",
    "dispersion": "gene",
    "latent_distribution": "normal",
    "library": "observed",
    "n_layers": 1,
    "n_hidden": 4,
    "n_latent": 3,
    "n_batches": 3,
    "n_labels": 0,
    "categorical": [],
    "n_continuous": 0,
    "encode_covariates": False,
    "deeply_inject_covariates": True,
    "use_batch_norm": "both",
    "use_layer_norm": "none",
    "bias": False,
    "log_variational": True,
    "dropout_rate": 0.0,
    "optimizer": "adam",
    "lr": 1e-3,
    "eps": 0.01,
    "weight_decay": 1e-6,
    "clip": 0.0,
    "update_only_decoder": False,
}


def ldvae(name, **changes):
    changed = {"linear": True, "likelihood": "nb", "library": "latent", **changes}
    return {"name": "ldvae_" + name, **DEFAULTS, **changed}


def scvi(name, **changes):
    return {"name": "scvi_" + name, **DEFAULTS, **changes}


CONFIGURATIONS = [
    ldvae("default"),
    ldvae("zinb_gene_batch", likelihood="zinb", dispersion="gene-batch", library="observed",
          n_layers=2),
    ldvae("poisson", likelihood="poisson", n_batches=1, log_variational=False),
    ldvae("nb_gene_batch", dispersion="gene-batch", n_layers=2, log_variational=False),
    ldvae("zinb_one_batch", likelihood="zinb", library="observed", n_batches=1),
    ldvae("gene_label", dispersion="gene-label", n_labels=2),
    ldvae("zinb_gene_label", likelihood="zinb", dispersion="gene-label", n_labels=3,
          library="observed", n_batches=1),
    ldvae("bias", bias=True, weight_decay=0.01),
    ldvae("zinb_bias", likelihood="zinb", bias=True, library="observed", n_batches=1),
    ldvae("no_norm", likelihood="zinb", use_batch_norm="encoder"),
    ldvae("no_norm_bias", dispersion="gene-batch", use_batch_norm="encoder", bias=True,
          library="observed"),
    ldvae("no_norm_one_batch", likelihood="poisson", use_batch_norm="encoder", n_batches=1),
    ldvae("ln", likelihood="zinb", latent_distribution="ln"),
    ldvae("ln_no_norm", latent_distribution="ln", use_batch_norm="encoder", n_layers=2),
    ldvae("one_factor", n_latent=1),
    ldvae("narrow", n_hidden=2, n_latent=5, n_layers=2, likelihood="zinb"),
    ldvae("dropout", dropout_rate=0.3, n_layers=2),
    ldvae("adamw_clip", optimizer="adamw", weight_decay=0.05, clip=2.0),
    ldvae("decoder_only", update_only_decoder=True, likelihood="zinb", library="observed"),
    scvi("default", n_batches=1),
    scvi("zinb_gene_batch", dispersion="gene-batch", library="latent", n_layers=2),
    scvi("nb_gene_batch", likelihood="nb", dispersion="gene-batch", log_variational=False),
    scvi("poisson", likelihood="poisson", library="latent", n_layers=2),
    scvi("nb_one_batch", likelihood="nb", dispersion="gene-batch", n_layers=2, n_batches=1),
    scvi("gene_label", dispersion="gene-label", n_labels=2),
    scvi("nb_gene_label", likelihood="nb", dispersion="gene-label", n_labels=3, library="latent",
         n_batches=1),
    scvi("gene_cell", dispersion="gene-cell"),
    scvi("nb_gene_cell", likelihood="nb", dispersion="gene-cell", library="latent", n_layers=2,
         n_batches=1),
    scvi("poisson_gene_cell", likelihood="poisson", dispersion="gene-cell"),
    scvi("ln", latent_distribution="ln", library="latent"),
    scvi("nb_ln", likelihood="nb", latent_distribution="ln", n_continuous=1, n_batches=1),
    scvi("size_factor", library="size_factor"),
    scvi("nb_size_factor", likelihood="nb", library="size_factor", dispersion="gene-cell",
         n_layers=2),
    scvi("poisson_size_factor", likelihood="poisson", library="size_factor", n_batches=1),
    scvi("covariates", categorical=[2, 1], n_continuous=2, n_layers=2),
    scvi("shallow", categorical=[2, 1], n_continuous=2, n_layers=2, likelihood="nb",
         deeply_inject_covariates=False),
    scvi("encode_deep", categorical=[2, 1], n_continuous=2, n_layers=2, library="latent",
         encode_covariates=True),
    scvi("encode_shallow", categorical=[2, 3], n_continuous=1, n_layers=2, library="latent",
         encode_covariates=True, deeply_inject_covariates=False, likelihood="nb"),
    scvi("encode_one_batch", categorical=[3], n_batches=1, encode_covariates=True,
         log_variational=False),
    scvi("encode_continuous", n_continuous=2, n_batches=1, encode_covariates=True,
         likelihood="poisson"),
    scvi("norm_encoder", use_batch_norm="encoder", n_layers=2),
    scvi("norm_decoder", use_batch_norm="decoder", use_layer_norm="encoder", library="latent"),
    scvi("norm_none", use_batch_norm="none", n_layers=2, library="latent"),
    scvi("layer_norm", use_batch_norm="none", use_layer_norm="both", library="latent",
         likelihood="nb", n_layers=2),
    scvi("both_norms", use_layer_norm="both", n_layers=2, library="latent"),
    scvi("mixed_norms", use_batch_norm="encoder", use_layer_norm="decoder", likelihood="nb",
         encode_covariates=True, categorical=[2]),
    scvi("one_latent", n_latent=1, library="latent"),
    scvi("narrow", n_hidden=2, n_latent=5, likelihood="nb", n_layers=2),
    scvi("dropout", dropout_rate=0.2, n_layers=2, library="latent"),
    scvi("dropout_layer_norm", dropout_rate=0.4, n_layers=2, use_layer_norm="encoder",
         n_hidden=10, n_batches=1),
    scvi("adamw", optimizer="adamw", weight_decay=0.05, eps=1e-3, lr=3e-3),
    scvi("weight_decay", weight_decay=0.1, eps=0.1, lr=2e-3, likelihood="nb"),
    scvi("clip", clip=1.5, library="latent"),
    scvi("clip_unreached", clip=1000.0, weight_decay=0.1),
    scvi("decoder_only", update_only_decoder=True, n_layers=2, dropout_rate=0.2,
         dispersion="gene-batch", weight_decay=0.1),
]

# What must occur; scvi-tools cannot run for LDVAE what is in the second list only: gene-cell,
# size factors, covariates, encoders that see the batch, LayerNorm and encoders without BatchNorm.
BOTH = {
    "likelihood": ["nb", "zinb", "poisson"],
    "dispersion": ["gene", "gene-batch", "gene-label"],
    "latent_distribution": ["normal", "ln"],
    "library": ["observed", "latent"],
    "n_layers": [1, 2],
    "n_batches": [1, 3],
    "n_latent": [1, 3],
    "log_variational": [True, False],
    "use_batch_norm": ["both", "encoder"],
    "optimizer": ["adam", "adamw"],
    "update_only_decoder": [False, True],
}
WANTED = {
    True: {**BOTH, "bias": [True, False]},
    False: {
        **BOTH,
        "dispersion": ["gene", "gene-batch", "gene-label", "gene-cell"],
        "library": ["observed", "latent", "size_factor"],
        "categorical": [[], [2, 1], [2, 3]],
        "n_continuous": [0, 1, 2],
        "use_batch_norm": ["both", "encoder", "decoder", "none"],
        "use_layer_norm": ["both", "encoder", "decoder", "none"],
    },
}
# Combinations that must occur for both decoders, and for scVI alone.
TOGETHER_BOTH = {
    "n_hidden < n_latent": lambda c: c["n_hidden"] < c["n_latent"],
    "dropout in two layers": lambda c: c["dropout_rate"] > 0 and c["n_layers"] > 1,
    "gradient clipping": lambda c: c["clip"] > 0,
    "weight decay that shows": lambda c: c["weight_decay"] >= 0.01,
}
TOGETHER = {
    True: {
        **TOGETHER_BOTH,
        "bias with BatchNorm": lambda c: c["bias"] and c["use_batch_norm"] == "both",
        "bias without": lambda c: c["bias"] and c["use_batch_norm"] != "both",
        "neither": lambda c: not c["bias"] and c["use_batch_norm"] != "both",
    },
    False: {
        **TOGETHER_BOTH,
        "covariates in the encoders, deep": lambda c: c["encode_covariates"]
        and c["deeply_inject_covariates"] and c["n_layers"] > 1 and c["categorical"],
        "covariates in the encoders, first layers only": lambda c: c["encode_covariates"]
        and not c["deeply_inject_covariates"] and c["n_layers"] > 1 and c["categorical"],
        "covariates in the decoder alone, first layer only": lambda c: not c["encode_covariates"]
        and not c["deeply_inject_covariates"] and c["n_layers"] > 1 and c["categorical"],
        "another eps": lambda c: c["eps"] != DEFAULTS["eps"],
        "another lr": lambda c: c["lr"] != DEFAULTS["lr"],
        "no norm at all": lambda c: c["use_batch_norm"] == c["use_layer_norm"] == "none",
        "LayerNorm in both encoders": lambda c: c["use_layer_norm"] in ("both", "encoder")
        and c["library"] == "latent",
        "gene-cell with ZINB": lambda c: c["dispersion"] == "gene-cell"
        and c["likelihood"] == "zinb",
        "gene-cell with NB": lambda c: c["dispersion"] == "gene-cell" and c["likelihood"] == "nb",
        "both norms in one layer": lambda c: c["use_batch_norm"] == c["use_layer_norm"] == "both",
    },
}


def check_grid():
    names = [c["name"] for c in CONFIGURATIONS]
    faults = [f"{name} occurs twice" for name in set(names) if names.count(name) > 1]
    for linear, decoder in ((True, "LDVAE"), (False, "scVI")):
        grid = [c for c in CONFIGURATIONS if c["linear"] == linear]
        for key, values in WANTED[linear].items():
            faults += [f"{decoder}: no configuration with {key} = {value}"
                       for value in values if all(c[key] != value for c in grid)]
        faults += [f"{decoder}: no configuration with {what}"
                   for what, holds in TOGETHER[linear].items() if not any(map(holds, grid))]
    if faults:
        sys.exit("golden_grid.py: " + "\n".join(faults))


# ---- the data ----


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


def make_facts():
    """What is known of the cells besides batch and counts; a configuration uses some of it."""
    random = np.random.default_rng(2)
    facts = {f"label_{n}": random.permutation(N_CELLS) % n for n in (2, 3)}
    facts |= {f"category_{n}": random.permutation(N_CELLS) % n for n in (1, 2, 3)}
    facts["continuous"] = np.round(random.normal(0.3, 1.0, (N_CELLS, 2)), 3)
    facts["size_factor"] = np.round(np.exp(random.normal(1.5, 0.8, N_CELLS)), 3)
    return facts
