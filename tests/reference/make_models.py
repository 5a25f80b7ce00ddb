#!/usr/bin/env python3
"""scvi-tools' side of test_scvi_tools.py: the models of small_models.py. Needs scvi-tools 1.4.2.

    make_models.py train DATA.h5ad FOLDER     trains each, saves it to FOLDER/NAME, imports it to
                                              FOLDER/NAME.model.h5 and writes FOLDER/NAME.npz
    make_models.py load DATA.h5ad FOLDER      exports each FOLDER/NAME.model.h5 to FOLDER/NAME, has
                                              scvi-tools load that, and writes FOLDER/NAME.npz
    make_models.py state MODELS               the committed files: trains each on the file of
                                              small_models.py and dumps it to MODELS/NAME.npz

NAME.npz holds what scvi-tools computes with the model for every cell, in double: the latent means
(with latent_distribution ln those of 5000 draws), the rho decoded from the means of z and the
library, theta where it differs by batch or label, and the loadings of a linear decoder.
"""
import os
import sys
import tempfile
import warnings

import numpy as np

here = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path[:0] = [here, os.path.join(here, "..", "..", "jobs")]

import scvi_tools  # noqa: E402
from small_models import MODELS, SIZES, write_file  # noqa: E402


DRAWS = 5000  # get_latent_representation's, and atlasvi's output.latent_samples


def train(name, path):
    import anndata
    import scvi

    linear, setup, options = MODELS[name]
    scvi.settings.seed = 3
    adata = anndata.read_h5ad(path)
    kind = scvi.model.LinearSCVI if linear else scvi.model.SCVI
    kind.setup_anndata(adata, **setup)
    model = kind(adata, **SIZES, **options)
    model.train(max_epochs=8, batch_size=32, accelerator="cpu", plan_kwargs={"lr": 0.02},
                enable_progress_bar=False, logger=False)
    return model


def results(model):
    """Means of q(z), rho and loadings, in double and in one minibatch of all cells."""
    import torch

    module = model.module.double().eval()
    everything = next(iter(model._make_data_loader(model.adata, batch_size=model.adata.n_obs)))
    batch = {key: value.double() if value.is_floating_point() else value
             for key, value in everything.items()}
    as_float, torch.Tensor.float = torch.Tensor.float, torch.Tensor.double  # one-hot codes
    with torch.no_grad():
        found = module.inference(**module._get_inference_input(batch))
        found["z"] = module.z_encoder.z_transformation(found["qz"].mean)
        if found["ql"] is not None:
            found["library"] = found["ql"].mean
        px = module.generative(**module._get_generative_input(batch, found))["px"]
    torch.Tensor.float = as_float
    mean = found["qz"].mean
    if module.latent_distribution == "ln":  # as get_latent_representation does
        torch.manual_seed(1)
        mean = torch.softmax(found["qz"].sample((DRAWS,)), dim=-1).mean(dim=0)
    out = {"latent": mean.numpy(), "rho": px.scale.numpy()}
    if module.dispersion in ("gene-batch", "gene-label"):
        out["theta"] = px.theta.numpy()
    if hasattr(module, "get_loadings"):
        out["loadings"] = module.get_loadings()
    return out


def must(code):
    if code != 0:
        sys.exit(code)


def train_all(path, folder):
    for name in MODELS:
        place = os.path.join(folder, name)
        model = train(name, path)
        model.save(place)
        must(scvi_tools.main(["import", place, place + ".model.h5"]))
        np.savez(place + ".npz", **results(model))


def load_all(path, folder):
    import anndata
    import scvi

    for name, (linear, _, _) in MODELS.items():
        place = os.path.join(folder, name)
        kind = scvi.model.LinearSCVI if linear else scvi.model.SCVI
        must(scvi_tools.main(["export", place + ".model.h5", place, "--adata", path]))
        model = kind.load(place, adata=anndata.read_h5ad(path), accelerator="cpu")
        np.savez(place + ".npz", **results(model))


def dump_all(models):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "data.h5ad")
        write_file(path)
        for name in MODELS:
            place = os.path.join(folder, name)
            model = train(name, path)
            model.save(place)
            values = {f"expected/{key}": value.astype(np.float32)
                      for key, value in results(model).items()}
            scvi_tools.write_npz(scvi_tools.read_scvi(place),
                                 os.path.join(models, name + ".npz"), **values)


def main():
    warnings.simplefilter("ignore")
    commands = {("train", 4): train_all, ("load", 4): load_all, ("state", 3): dump_all}
    command = commands.get((sys.argv[1] if len(sys.argv) > 1 else "", len(sys.argv)))
    if command is None:
        sys.exit(__doc__)
    command(*sys.argv[2:])


if __name__ == "__main__":
    main()
