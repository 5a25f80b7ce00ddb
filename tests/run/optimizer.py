#!/usr/bin/env python3
"""One step of Adam and AdamW, with and without clipping, worked out here once more from a saved model: the first
step tells the gradient, p - p' = lr g / (|g| + eps), which the other settings must follow. And update_only_decoder."""
import numpy as np

import fitting as f

LR, EPS = 1e-3, 1.0
# In double, so that the saved models are exact. One minibatch of all cells, the KL term at its full weight.
STEP = {"runtime.backend": "reference", "train.train_size": "1.0", "train.batch_size": "400", "train.max_epochs": "1",
        "train.n_epochs_kl_warmup": "0", "train.lr": str(LR), "train.eps": str(EPS), "train.weight_decay": "0",
        "output.denoised": "no", "output.sample_rate": "no", "output.overwrite": "yes", "model.load": "start.model.h5"}
FIXED = ("running_mean", "running_var", "library_log_means", "library_log_vars")


def is_trained(name):
    return not name.endswith(FIXED)


class Steps:
    def __init__(self, place, data):
        self.place, self.data = place, data
        start = {**STEP, "model.load": None, "model.use_observed_lib_size": "no", "model.gene_likelihood": "nb"}
        place.fit(data, "start.h5ad", start)
        self.start = f.tensors_of(place.path("start.model.h5"))

    def __call__(self, settings=None):
        self.place.fit(self.data, "step.h5ad", {**STEP, "model.load": self.place.path("start.model.h5"), **(settings or {})})
        return f.tensors_of(self.place.path("step.model.h5"))

    def near(self, settings, expected, what):
        """expected: name -> value of every trained tensor."""
        found = self(settings)
        for name in self.start:
            if is_trained(name):
                f.near(found[name], expected(name), 1e-11, f"{what}: {name}", 1e-14)
        f.done(what)


def check_steps(step):
    plain, start = step(), step.start
    trained = [name for name in start if is_trained(name)]
    update = {name: (start[name] - plain[name]) / LR for name in trained}
    gradient = {name: EPS * u / (1 - np.abs(u)) for name, u in update.items()}
    length = np.sqrt(sum((g**2).sum() for g in gradient.values()))
    assert length > 1, f"gradient of length {length}: too small for this test"
    still = [name for name in trained if np.abs(gradient[name]).max() < 1e-6]
    assert all(name.endswith("Layer 0.0.bias") for name in still), still  # BatchNorm takes these away

    def adam(name, scale=1.0, decay=0.0, decoupled=0.0):
        g = scale * gradient[name] + decay * start[name]
        return start[name] * (1 - LR * decoupled) - LR * g / (np.abs(g) + EPS)

    step.near({"train.weight_decay": "0.5"}, lambda name: adam(name, decay=0.5), "Adam with weight decay")
    step.near({"train.weight_decay": "0.5", "train.optimizer": "adamw"}, lambda name: adam(name, decoupled=0.5), "AdamW")
    third = {"train.gradient_clip_val": repr(length / 3)}
    scale = length / 3 / (length + 1e-6)
    step.near(third, lambda name: adam(name, scale), "clipped to a third")
    step.near({**third, "train.weight_decay": "0.5"}, lambda name: adam(name, scale, decay=0.5),
              "clipped before weight decay")
    step.near({**third, "train.weight_decay": "0.5", "train.optimizer": "adamw"},
              lambda name: adam(name, scale, decoupled=0.5), "clipped AdamW")
    longer = step({"train.gradient_clip_val": repr(length * 1.01)})
    assert all(np.array_equal(longer[name], plain[name]) for name in trained), "a short gradient was clipped"
    f.done("a gradient that is short enough")
    single = step({**third, "train.weight_decay": "0.5", "train.optimizer": "adamw", "runtime.backend": "auto"})
    for name in trained:
        f.near(single[name], adam(name, scale, decoupled=0.5), 1e-4, f"float: {name}", 2e-6)
    f.done("the same in float")


def check_decoder_only(place, data):
    """The encoders' tensors keep their bits and the codes stay, whatever the optimizer does."""
    harsh = {"train.update_only_decoder": "yes", "train.optimizer": "adamw", "train.weight_decay": "0.5",
             "train.lr": "0.02", "train.max_epochs": "6", "train.batch_size": "64", "train.train_size": "0.8",
             "train.batch_norm_statistics": "recomputed", "train.gradient_clip_val": "10"}
    for model in ({}, {"model.linear_decoder": "yes"}):
        place.fit(data, "start.h5ad", {**model, "output.overwrite": "yes", "train.max_epochs": "2", "train.lr": "0.05"})
        start = f.tensors_of(place.path("start.model.h5"))
        load = {"model.load": place.path("start.model.h5"), "output.overwrite": "yes"}
        for ranks in (0, 2):
            path = place.fit(data, "further.h5ad", {**load, **harsh}, ranks)
            further = f.tensors_of(place.path("further.model.h5"))
            n = {"encoder": 0, "decoder": 0}
            for name, value in start.items():
                if "encoder." in name:
                    n["encoder"] += 1
                    assert np.array_equal(further[name], value), f"{name} has changed"
                elif not name.startswith("library") and not np.array_equal(further[name], value):
                    n["decoder"] += 1
            assert n["encoder"] >= 10 and n["decoder"] >= 5, n
            with f.open_output(path) as now, f.open_output(place.path("start.h5ad")) as before:
                assert np.array_equal(now["obsm/X_scvi"][...], before["obsm/X_scvi"][...]), "other codes"
                elbo = now["uns/atlasvi/history/elbo_train"][...]
                assert elbo[-1] < elbo[0], elbo
    f.done("update_only_decoder")


def check_loaded(place, data):
    """An applied model is judged by all cells; a model must be fitted or loaded."""
    saved = {"model.load": place.path("start.model.h5"), "train.max_epochs": "0", "output.overwrite": "yes"}
    out = place.run({"data.input": data, "output.path": place.path("applied.h5ad"), **saved}).out
    assert "\nResult, all 400 cells: negative ELBO " in out and "held-out" not in out, out
    for settings, message in (
            ({"train.max_epochs": "0"}, r"max_epochs: 0 would leave the model untrained; name a model to apply"),
            ({"train.update_only_decoder": "yes"}, r"update_only_decoder: the encoders would stay random; name "),
            ({**saved, "train.max_epochs": "2", "train.n_restarts": "2"}, r"n_restarts: every restart would begin with ")):
        result = place.run({"data.input": data, "output.path": place.path("no.h5ad"), **settings})
        fault = f.ar.fault_of(result, 78, message)
        assert fault is None, f"{fault}\n{result}"
    f.done("loaded models and faults")


def main():
    place = f.Place()
    data = place.simulate("data.h5ad", cells=400, genes=40, factors=3, batches=2, seed=5)
    check_steps(Steps(place, data))
    check_decoder_only(place, data)
    check_loaded(place, data)


main()
