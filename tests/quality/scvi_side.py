"""One fit by either program, measured by the same code. Needs scvi-tools.

Both programs read the same file: counts, batch, labels and the fixed split (held_out). Held-out
values do not come from the programs' histories: the fitted weights, ours read from the .model.h5
into a scvi-tools module (strictly, but for the tensors that the configuration does not use), are
evaluated by scvi-tools over the validation cells, DRAWS times with the same draws, w_kl = 1.
"""
import functools
import os
import warnings

import h5py
import numpy as np

import atlasrun as ar
import measures

DRAWS = 10


@functools.lru_cache(maxsize=1)
def read(path):
    import anndata
    return anndata.read_h5ad(path)


def quiet(folder):
    import logging
    import scvi
    import torch
    torch.set_num_threads(1)
    scvi.settings.logging_dir = folder  # a log is kept of every fit
    scvi.settings.verbosity = logging.ERROR
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")


def new_model(path, model, seed):
    """An untrained scvi-tools model of the file; its starting values come from the seed."""
    import scvi
    kind = scvi.model.LinearSCVI if model == "LDVAE" else scvi.model.SCVI
    data = read(path)
    kind.setup_anndata(data, batch_key="batch" if "batch" in data.obs else None)
    scvi.settings.seed = seed
    return kind(data, n_hidden=128, n_latent=10, n_layers=1, dropout_rate=0.1)


def rows_of(path, part):
    return np.flatnonzero((read(path).obs["held_out"] == part).to_numpy())


def held_out(fitted, path):
    """Means over the validation cells and DRAWS draws of the parts of the loss; and the sd of the
    reconstruction error from draw to draw."""
    import torch
    cells = rows_of(path, "validation")
    loader = fitted._make_data_loader(adata=fitted.adata, indices=cells, batch_size=len(cells))
    tensors = next(iter(loader))
    fitted.module.eval()
    torch.manual_seed(0)
    draws = []
    with torch.no_grad():
        for _ in range(DRAWS):
            loss = fitted.module(tensors, loss_kwargs={"kl_weight": 1.0})[2]
            parts = [*loss.reconstruction_loss.values()]
            parts += [loss.kl_local["kl_divergence_z"], loss.kl_local["kl_divergence_l"]]
            draws.append([float(p.double().mean()) for p in parts])
    reconstruction, kl_z, kl_l = np.mean(draws, axis=0).tolist()
    return {"elbo": reconstruction + kl_z + kl_l, "reconstruction": reconstruction, "kl_z": kl_z,
            "kl_l": kl_l}, float(np.std(draws, axis=0, ddof=1)[0])


def measured(z, path):
    obs = read(path).obs
    out = {}
    if "labels" in obs:
        out["label_accuracy"] = measures.label_accuracy(z, obs["labels"].cat.codes.to_numpy())
    if "batch" in obs:
        out["batch_mixing"] = measures.batch_mixing(z, obs["batch"].cat.codes.to_numpy())
    return out


def fit_theirs(path, model, seed, settings):
    fitted = new_model(path, model, seed)
    split = [rows_of(path, "train"), rows_of(path, "validation"), np.array([], dtype=int)]
    fitted.train(max_epochs=settings["epochs"], accelerator="cpu", batch_size=128,
                 datasplitter_kwargs={"external_indexing": split},
                 plan_kwargs={"lr": 1e-3, "n_epochs_kl_warmup": settings["warmup"]},
                 enable_progress_bar=False)
    train = float(np.asarray(fitted.history["elbo_train"])[-1, 0])
    return fitted, fitted.get_latent_representation(), {"train_elbo": train}


def used(name, module, model):
    """Whether the loss of the configuration depends on the tensor: others are not saved by us."""
    if name.endswith("num_batches_tracked") or name.startswith("decoder.px_r_decoder."):
        return False
    if name.startswith("l_encoder."):
        return not module.use_observed_lib_size
    if name.startswith("decoder.px_dropout_decoder."):
        return module.gene_likelihood == "zinb"
    return True


def load_ours(module, path, model, batches):
    """Puts the arrays of our model file into scvi-tools' module. What is not in both is an error.
    Returns the largest difference between the two programs' library priors."""
    import torch
    with h5py.File(path, "r") as file:
        arrays = {name: node[...] for name, node in file["arrays"].items()}
        ours = [b.decode() for b in file["batches"][...]]
    if batches is not None and ours != batches:
        raise SystemExit("batches of %s: %s, scvi-tools has %s" % (path, ours, batches))
    state = module.state_dict()
    prior = 0.0
    for name in ("library_log_means", "library_log_vars"):
        if name in state and name in arrays:
            prior = max(prior, float(np.abs(arrays[name] - state[name].numpy()).max()))
    wanted = {n for n in state if used(n, module, model) and not n.startswith("library_log")}
    given = {n for n in arrays if not n.startswith("library_log")}
    if wanted != given:
        raise SystemExit("tensors of %s: not there %s, not known %s" % (
            path, sorted(wanted - given), sorted(given - wanted)))
    for name in wanted:
        if tuple(state[name].shape) != arrays[name].shape:
            raise SystemExit("shape of %s in %s" % (name, path))
        state[name] = torch.from_numpy(np.asarray(arrays[name], dtype=np.float32))
    module.load_state_dict(state, strict=True)
    module.eval()
    return prior


def fit_ours(path, model, seed, settings, folder):
    data = read(path)
    out = os.path.join(folder, "out.h5ad")
    values = {
        "data.input": path, "data.batch_key": "batch" if "batch" in data.obs else "",
        "data.use_highly_variable_genes": "no",
        "model.linear_decoder": "yes" if model == "LDVAE" else "no", "model.init": "scvi",
        "model.n_hidden": "128", "model.n_latent": "10", "model.n_layers": "1",
        "model.dropout_rate": "0.1",
        "train.max_epochs": str(settings["epochs"]), "train.batch_size": "128", "train.lr": "1e-3",
        "train.n_epochs_kl_warmup": str(settings["warmup"]), "train.split_key": "held_out",
        "train.batch_norm_statistics": "running", "train.seed": str(seed),
        "output.path": out, "output.overwrite": "yes", "output.denoised": "no",
        "output.sample_rate": "no", "runtime.progress": "none", "runtime.threads": "1"}
    values.update(s.split("=", 1) for s in settings["set"])
    ini = ar.write_ini(os.path.join(folder, "run.ini"), values)
    result = ar.run([ini], timeout=3600)
    if result.code != 0:
        raise SystemExit("%s" % result)
    fitted = new_model(path, model, 0)
    batches = data.obs["batch"].cat.categories.tolist() if "batch" in data.obs else None
    prior = load_ours(fitted.module, os.path.join(folder, "out.model.h5"), model, batches)
    fitted.is_trained_ = True
    z = ar.latent(out)
    there = fitted.get_latent_representation()
    with h5py.File(out, "r") as file:
        history = file["uns/atlasvi/history"]
        last = {name: float(history[name][-1])
                for name in ("elbo_train", "elbo_validation", "reconstruction_loss_validation")}
    return fitted, z, {"train_elbo": last["elbo_train"],
                       "own_elbo": last["elbo_validation"],
                       "own_reconstruction": last["reconstruction_loss_validation"],
                       "latent_difference": float(np.abs(z - there).max()),
                       "prior_difference": prior}


def one_run(task, settings, folder):
    """Fits, measures, leaves the loadings of a linear decoder in the folder."""
    quiet(folder)
    path = os.path.join(folder, task["file"] + ".h5ad")
    name = run_name(task)
    if task["program"] == "ours":
        scratch = os.path.join(folder, name)
        os.makedirs(scratch, exist_ok=True)
        fitted, z, facts = fit_ours(path, task["model"], task["seed"], settings, scratch)
    else:
        fitted, z, facts = fit_theirs(path, task["model"], task["seed"], settings)
    if task["model"] == "LDVAE":
        np.save(os.path.join(folder, name + ".npy"), fitted.module.get_loadings())
    losses, draw_sd = held_out(fitted, path)
    if task["program"] == "ours":
        facts["draw_sd"] = draw_sd
    return {**task, **losses, **measured(z, path), **facts}


def run_name(task):
    return "%s-%s-%s-%d" % (task["file"], task["model"], task["program"], task["seed"])
