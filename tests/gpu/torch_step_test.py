#!/usr/bin/env python3
"""machine/torch_step.py does what scvi-tools does: for LDVAE NB, scVI NB and scVI ZINB the same
weights, minibatches and seed give the same losses, gradients and weights over three steps, and the
minibatches are those of its loader. Bit for bit, since both are the same operations of PyTorch.

Needs scvi-tools: $ATLASVI_SCVI_PYTHON is a Python that has it; skipped (77) without.
"""
import os
import sys
import warnings

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "machine"))
CELLS, GENES = 300, 40
MODELS = [("LDVAE-NB", True, "nb"), ("scVI-NB", False, "nb"), ("scVI-ZINB", False, "zinb")]


def with_scvi_tools():
    """Goes on in the Python that has it."""
    python = os.environ.pop("ATLASVI_SCVI_PYTHON", "")
    if not python:
        print("skipped: ATLASVI_SCVI_PYTHON does not name a Python with scvi-tools")
        sys.exit(77)
    os.execv(python, [python, "-B", os.path.abspath(__file__), "--here"])


def fitted(linear, likelihood):
    """A model of theirs with data, and ours with the same weights."""
    import anndata
    import numpy as np
    import pandas
    import scipy.sparse
    import scvi
    import torch_step
    random = np.random.default_rng(3)
    counts = scipy.sparse.csr_matrix(random.poisson(0.7, (CELLS, GENES)).astype(np.float32))
    batch = random.integers(0, 2, CELLS)
    data = anndata.AnnData(counts, obs=pandas.DataFrame(
        {"batch": pandas.Categorical(batch.astype(str))}, index=[str(i) for i in range(CELLS)]))
    kind = scvi.model.LinearSCVI if linear else scvi.model.SCVI
    kind.setup_anndata(data, batch_key="batch")
    theirs = kind(data, n_hidden=128, n_latent=10, n_layers=1, dropout_rate=0.1,
                  gene_likelihood=likelihood)
    ours = torch_step.Model(GENES, 2, linear, likelihood,
                            torch_step.library_of(counts, batch, 2))
    if linear:
        for name in ("library_log_means", "library_log_vars"):
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs.module, name), rtol=1e-6)
    ours.load_state_dict(theirs.module.state_dict())
    return theirs, ours, counts, batch.reshape(-1, 1)


def check(name, linear, likelihood):
    import scvi
    import torch
    import torch_step
    torch.manual_seed(1)
    theirs, ours, counts, batch = fitted(linear, likelihood)
    plan = scvi.train.TrainingPlan(theirs.module)
    optimizers = [plan.configure_optimizers()["optimizer"], torch_step.optimizer_of(ours)]
    loader = theirs._make_data_loader(theirs.adata, indices=list(range(CELLS)), batch_size=100)
    modules = [theirs.module.train(), ours.train()]
    for step, tensors in enumerate(loader):
        x, own = torch_step.minibatch_on_host(counts, batch,
                                              list(range(100 * step, 100 * (step + 1))))
        if not torch.equal(x, tensors["X"]) or not torch.equal(own, tensors["batch"]):
            sys.exit("%s, minibatch %d is not what their loader gives" % (name, step))
        losses = []
        for i, module in enumerate(modules):
            torch.manual_seed(step)
            loss = theirs.module(tensors, loss_kwargs={"kl_weight": 0.3})[2].loss if i == 0 else \
                ours(x, own, 0.3)
            optimizers[i].zero_grad()
            loss.backward()
            losses.append(loss.item())
        gradients = [{k: p.grad for k, p in m.named_parameters() if p.grad is not None}
                     for m in modules]
        for optimizer in optimizers:
            optimizer.step()
        same("%s, step %d: gradient" % (name, step), *gradients)
        same("%s, step %d: weight" % (name, step), *(m.state_dict() for m in modules))
        if losses[0] != losses[1] or not losses[0] == losses[0]:
            sys.exit("%s, step %d: losses %r and %r" % (name, step, *losses))
    print("%s: the same losses, gradients and weights over %d steps, last loss %g" % (
        name, step + 1, losses[1]))


def same(what, theirs, ours):
    import torch
    if theirs.keys() != ours.keys():
        sys.exit("%s: there are %s" % (what, sorted(theirs.keys() ^ ours.keys())))
    for key in theirs:
        if not torch.equal(theirs[key], ours[key]):
            sys.exit("%s of %s differs, by up to %g" % (
                what, key, (theirs[key] - ours[key]).abs().max()))


def main():
    if sys.argv[1:] != ["--here"]:
        with_scvi_tools()
    warnings.simplefilter("ignore")
    for each in MODELS:
        check(*each)


main()
