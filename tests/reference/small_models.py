"""A small file of cells and models over it that scvi-tools can hold, for test_scvi_tools.py and
make_models.py. Between them the models have every tensor and every kind of category."""
import numpy as np

N_CELLS, N_GENES = 90, 24

# Keyword arguments of setup_anndata and of the model's class.
MODELS = {
    "ldvae": (True, {"batch_key": "batch"},
              {"gene_likelihood": "zinb", "dispersion": "gene-batch", "n_layers": 2}),
    "ldvae_plain": (True, {"labels_key": "state"},
                    {"dispersion": "gene-label", "n_labels": 3, "use_observed_lib_size": True,
                     "use_batch_norm": False, "bias": True, "log_variational": False}),
    "scvi": (False, {"batch_key": "batch", "labels_key": "state",
                     "categorical_covariate_keys": ["donor", "chip", "lane"],
                     "continuous_covariate_keys": ["age", "share, %"]},
             {"gene_likelihood": "nb", "dispersion": "gene-label", "n_layers": 2,
              "use_observed_lib_size": False, "encode_covariates": True,
              "use_layer_norm": "both"}),
    "scvi_sizes": (False, {"batch_key": "lane", "size_factor_key": "size",
                           "categorical_covariate_keys": ["donor"], "layer": "raw"},
                   {"dispersion": "gene-cell", "n_layers": 2, "use_batch_norm": "encoder",
                    "deeply_inject_covariates": False}),
    "scvi_ln": (False, {}, {"gene_likelihood": "poisson", "latent_distribution": "ln"}),
}
SIZES = {"n_hidden": 8, "n_latent": 3}


def settings(name):
    """The same model as settings of atlasvi."""
    linear, setup, options = MODELS[name]
    yes_no = {True: "yes", False: "no"}
    chosen = {"linear_decoder": yes_no[linear], **SIZES}
    for key, value in options.items():
        if key == "use_batch_norm" and linear:
            value = "both" if value else "encoder"
        if key != "n_labels":
            chosen[key] = yes_no.get(value, value) if isinstance(value, bool) else value
    out = {f"model.{key}": str(value) for key, value in chosen.items()}
    for key, value in setup.items():
        if key == "layer":
            out["data.counts"] = f"layers/{value}"
        elif isinstance(value, list):
            out[f"data.{key}"] = ", ".join(f'"{v}"' if "," in v else v for v in value)
        else:
            out[f"data.{key}"] = value
    return out


def write_file(path):
    """Categories out of order, one of a single cell group, one without cells, whole numbers."""
    import anndata
    import pandas

    random = np.random.default_rng(8)
    batch = random.integers(0, 2, N_CELLS)
    state = random.integers(0, 3, N_CELLS)
    level = np.exp(random.normal(0.3, 1.0, N_GENES) + random.normal(0, 0.7, (3, N_GENES))[state]
                   + random.normal(0, 0.4, (2, N_GENES))[batch])
    counts = random.poisson(level * random.gamma(3.0, 1 / 3, (N_CELLS, 1))).astype(np.float32)
    counts[:, 0] += 1  # no cell is empty
    names = np.array(["late", "early"])[batch]
    obs = pandas.DataFrame({
        "batch": pandas.Categorical(names, categories=["late", "ghost", "early"]),
        "state": np.array(["T", "B", "NK"])[state],
        "donor": np.array(["d10", "d2", "d1"])[random.integers(0, 3, N_CELLS)],
        "chip": "v3",
        "lane": random.integers(1, 3, N_CELLS) * 9,  # 9 and 18: "18" sorts before "9"
        "age": random.normal(0, 1, N_CELLS).round(3),
        "share, %": random.random(N_CELLS).round(3),
        "size": counts.sum(axis=1) / 40,
    }, index=[f"cell{i}" for i in range(N_CELLS)])
    var = pandas.DataFrame(index=[f"gene{g}" for g in random.permutation(N_GENES)])
    adata = anndata.AnnData(counts, obs=obs, var=var)
    adata.layers["raw"] = counts
    adata.write_h5ad(path)
