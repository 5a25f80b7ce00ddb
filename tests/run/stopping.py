#!/usr/bin/env python3
"""Early stopping, the falling learning rate and keep = best in whole runs: what the history of a run without
them foretells, by the rules of Lightning and torch written down here once more, is what happens, with any ranks."""
import json
import math

import numpy as np

import fitting as f
from fitting import ar

# Where it is offered, the same bits for any ranks; else for the same ranks.
STRICT = f.SMALL["runtime.backend"] in ("auto", "cpu")
EXACT = {"runtime.reproducible": "strict" if STRICT else "run"}
LONG = {**EXACT, "train.max_epochs": "40", "train.lr": "0.02", "train.train_size": "0.6"}
STOPS = {"train.early_stopping": "yes", "train.early_stopping_patience": "4"}
FALLS = {"train.reduce_lr_on_plateau": "yes", "train.lr_patience": "1"}
TIMES = ("seconds", "cells_per_second")


def lightning(values, patience, min_delta=0.0, warmup=0, largest=False):
    """The epoch after which training ends (None: it does not); an epoch with NaN is no check."""
    best, waited, checks = math.inf, 0, 0
    for epoch, value in enumerate(values, 1):
        if math.isnan(value):
            continue
        checks += 1
        value = -value if largest else value
        if checks <= warmup:
            continue
        if value + min_delta < best:
            best, waited = value, 0
        else:
            waited += 1
            if waited >= patience:
                return epoch
    return None


def torch_rates(values, lr, factor, patience, least=0.0):
    """The learning rate used in each epoch."""
    best, waited, rates = math.inf, 0, []
    for value in values:
        rates.append(lr)
        if math.isnan(value):
            continue
        if value < best:
            best, waited = value, 0
        else:
            waited += 1
        if waited > patience:
            waited, lower = 0, max(lr * factor, least)
            lr = lower if lr - lower > 1e-8 else lr
    return rates


def history_of(path):
    with f.open_output(path) as file:
        names, values = f.columns_of(file["uns/atlasvi/history"])
        return {name: values[:, j] for j, name in enumerate(names)}


def latent_of(path):
    with f.open_output(path) as file:
        return file["obsm/X_scvi"][...]


def events(path, name):
    with open(path) as file:
        return [event for event in map(json.loads, file) if event["event"] == name]


class Fits:
    def __init__(self, place, data):
        self.place, self.data, self.n = place, data, 0

    def __call__(self, settings, ranks=0):
        """History, codes, the log's path and what was printed."""
        self.n += 1
        output, log = self.place.path(f"{self.n}.h5ad"), self.place.path(f"{self.n}.jsonl")
        result = self.place.run({"data.input": self.data, "output.path": output, "runtime.log": log,
                                 "output.denoised": "no", "output.sample_rate": "no", **LONG, **settings}, ranks)
        assert result.code == 0, result
        return history_of(output), latent_of(output), log, result.out

    def refused(self, settings, message):
        result = self.place.run({"data.input": self.data, "output.path": self.place.path("no.h5ad"), **settings})
        fault = ar.fault_of(result, 78, message)
        assert fault is None, f"{fault}\n{result}"


def same_lines(found, expected, n, what):
    for name in expected:
        if name not in TIMES:
            assert len(found[name]) == n, f"{what}: {len(found[name])} epochs, expected {n}"
            np.testing.assert_array_equal(found[name], expected[name][:n], err_msg=f"{what}: {name}")


def check_stopping(fit):
    full, codes, _, _ = fit({})
    assert len(full["elbo_validation"]) == 40
    assert (full["learning_rate"] == 0.02).all()
    seen = set()
    for extra, column, rule in (
            ({}, "elbo_validation", {}),
            ({"train.early_stopping_min_delta": "0.5"}, "elbo_validation", {"min_delta": 0.5}),
            ({"train.early_stopping_warmup_epochs": "17"}, "elbo_validation", {"warmup": 17}),
            ({"train.early_stopping_monitor": "train_loss"}, "train_loss", {}),
            ({"train.early_stopping_monitor": "kl_local_validation", "train.early_stopping_mode": "max"},
             "kl_local_validation", {"largest": True})):
        n = lightning(full[column], 4, **rule)
        assert n is not None and n < 40, f"{extra}: the settings of this test stop nothing"
        found, _, log, out = fit({**STOPS, **extra})
        same_lines(found, full, n, str(extra))
        event, = events(log, "early_stopping")
        assert (event["epoch"], event["monitor"]) == (n, column), event
        assert f"stopped early after epoch {n}: {column} has not improved for 4 checks; best " in out, out
        seen.add(n)
    assert len(seen) > 2, f"stopping epochs {seen}: these cases tell too little apart"
    found, last, log, out = fit({**STOPS, "train.early_stopping_patience": "39"})
    same_lines(found, full, 40, "patience that lasts")
    assert not events(log, "early_stopping") and "stopped early" not in out
    assert np.array_equal(last, codes)
    f.done("early stopping, its monitors, min_delta, warm-up and mode")


def check_seldom(fit):
    """Patience counts checks: every third epoch has one."""
    seldom = {"train.check_val_every_n_epoch": "3", "train.early_stopping_patience": "2"}
    full = fit({"train.check_val_every_n_epoch": "3"})[0]
    n = lightning(full["elbo_validation"], 2)
    assert n is not None and n % 3 == 0 and n < 40, n
    same_lines(fit({**STOPS, **seldom})[0], full, n, "every third epoch")
    f.done("checks every third epoch")


def check_plateau(fit):
    for extra, factor, least in (({}, 0.6, 0.0), ({"train.lr_factor": "0.5", "train.lr_min": "0.004"}, 0.5, 0.004)):
        found, _, log, out = fit({**FALLS, **extra})
        rates = torch_rates(found["elbo_validation"], 0.02, factor, 1, least)
        f.near(found["learning_rate"], rates, 1e-12, "learning rates")
        falls = int((np.diff(rates) < 0).sum())
        assert falls >= 2 and falls == len([e for e in events(log, "learning_rate") if e["epoch"] < 40])
        assert out.count("learning rate lowered to") == falls, out
        assert least == 0.0 or found["learning_rate"].min() == least
    f.done("the learning rate falls")


def check_ranks(fit):
    both = {**STOPS, **FALLS, "train.keep": "best", "train.early_stopping_patience": "5"}
    one, codes, _, _ = fit(both)
    n = len(one["elbo_validation"])
    assert n < 40 and one["learning_rate"][-1] < 0.02, "the settings of this test decide nothing"
    assert lightning(one["elbo_validation"], 5) == n
    f.near(one["learning_rate"], torch_rates(one["elbo_validation"], 0.02, 0.6, 1), 1e-12, "both: rates")
    for ranks in (1, 2, 3):
        found, other, _, _ = fit(both, ranks)
        if STRICT:
            same_lines(found, one, n, f"{ranks} ranks")
            assert np.array_equal(other, codes), f"{ranks} ranks: other codes"
        else:
            assert len(found["elbo_validation"]) == n, f"{ranks} ranks"
            f.near(found["learning_rate"], one["learning_rate"], 1e-12, f"{ranks} ranks")
            f.near(other, codes, 1e-4, f"{ranks} ranks", 1e-4)
    f.done(f"1, 2 and 3 ranks stop after epoch {n}")


def check_best(fit):
    """The parameters kept are those of a run that ends with the best epoch."""
    for model in ({}, {"model.linear_decoder": "yes"}):
        for extra, column, pick in (
                ({}, "elbo_validation", np.argmin),
                ({"train.early_stopping_monitor": "elbo_train"}, "elbo_train", np.argmin),
                ({"train.early_stopping_monitor": "kl_local_validation", "train.early_stopping_mode": "max"},
                 "kl_local_validation", np.argmax)):
            found, codes, log, out = fit({**model, "train.keep": "best", **extra})
            assert len(found[column]) == 40
            best = int(pick(found[column])) + 1
            event, = events(log, "kept")
            assert (event["epoch"], event["monitor"]) == (best, column), event
            assert abs(event["value"] - found[column][best - 1]) < 1e-9
            assert f"kept the parameters of epoch {best}: {column} " in out, out
            short, expected, short_log, _ = fit({**model, "train.max_epochs": str(best)})
            same_lines(short, found, best, "up to the best epoch")
            assert np.array_equal(codes, expected), f"{model} {column}: not the parameters of epoch {best}"
            assert events(log, "result")[0]["elbo"] == events(short_log, "result")[0]["elbo"]
            if best < 40:
                assert not np.array_equal(codes, fit(model)[1]), "best and last are the same"
    f.done("keep = best")


def check_faults(fit):
    nothing = "needs validation cells, and the split leaves none; lower train.train_size"
    all_train = {"train.train_size": "1.0"}
    fit.refused({**STOPS, **all_train}, rf"early_stopping: elbo_validation {nothing}, or monitor elbo_train$")
    fit.refused({"train.keep": "best", **all_train}, rf"keep: the best elbo_validation {nothing}")
    fit.refused({**FALLS, **all_train}, rf"reduce_lr_on_plateau: elbo_validation {nothing}$")
    fit({**STOPS, **all_train, "train.keep": "best", "train.early_stopping_monitor": "elbo_train"})
    fit.refused({"train.early_stopping_patience": "4"},
                r"run.ini:\d+: \[train\] early_stopping_patience: has no effect without early_stopping = yes; "
                "add it, or remove this key$")
    fit.refused({"train.early_stopping_monitor": "elbo_train"},
                "has no effect without early_stopping = yes or keep = best")
    fit.refused({"train.lr_factor": "0.5"}, "has no effect without reduce_lr_on_plateau = yes")
    fit({**STOPS, **FALLS, "train.early_stopping": "no", "train.reduce_lr_on_plateau": "no", "train.max_epochs": "1"})
    fit.refused({**FALLS, "train.lr_min": "0.5"}, r"lr_min: 0\.5 is above lr, 0\.005 on line \d+$")
    fit.refused({**STOPS, "train.max_epochs": "5", "train.check_val_every_n_epoch": "6"},
                r"check_val_every_n_epoch: 6 is above max_epochs, 5 on line \d+: early_stopping would see the "
                "validation cells only once$")
    fit.refused({"train.early_stopping": "yes", "train.early_stopping_monitor": "elbo"},
                "early_stopping_monitor: .*elbo_validation")
    fit.refused({**FALLS, "train.lr_scheduler_metric": "elbo_train"}, "lr_scheduler_metric: ")
    fit.refused({**FALLS, "train.lr_factor": "1"}, "lr_factor: ")
    f.done("faults")


def check_warmup(place, data):
    """Warm-up that cannot finish is said with the weight that the history ends with; `check` says it too."""
    epochs, steps = 5, 3  # 144 training cells, 64 a minibatch, a last one of 16
    base = {"data.input": data, "output.path": place.path("warm.h5ad"), "output.overwrite": "yes",
            "train.max_epochs": str(epochs), "train.train_size": "0.6", "train.n_epochs_kl_warmup": None}
    told = ("KL warm-up does not finish: the last epoch has kl_weight %g of %g; lower train.n_%s_kl_warmup "
            "(%d, half of the %s, is a good choice)")
    for settings, message in (
            ({"train.n_epochs_kl_warmup": "4"}, None),
            ({"train.n_epochs_kl_warmup": "5"}, told % (0.8, 1, "epochs", 2, "epochs")),
            ({"train.n_epochs_kl_warmup": "8", "train.max_kl_weight": "0.5", "train.min_kl_weight": "0.1"},
             told % (0.3, 0.5, "epochs", 2, "epochs")),
            ({"train.n_steps_kl_warmup": str(epochs * steps - 1)}, None),
            ({"train.n_steps_kl_warmup": "20"}, told % (0.7, 1, "steps", 7, "steps"))):
        run = place.run({**base, **settings})
        assert run.code == 0, run
        merged = {k: v for k, v in {**f.SMALL, **base, **settings}.items() if v is not None}
        plan = ar.run(["check", ar.write_ini(place.path("plan.ini"), merged)])
        for result in (run, plan):
            warned = [w for w in result.lines("warning") if "warm-up" in w]
            assert warned == ([] if message is None else [message]), (settings, result)
        with f.open_output(place.path("warm.h5ad")) as file:
            last = file["uns/atlasvi/history/kl_weight"][-1]
        highest = float(settings.get("train.max_kl_weight", 1))
        f.near(last, float(message.split()[10]) if message else highest, 1e-12, "the last epoch's weight")
    f.done("warm-up that cannot finish")


def main():
    place = f.Place()
    fit = Fits(place, place.simulate("data.h5ad", cells=240, genes=40, factors=3, batches=2, seed=5))
    check_stopping(fit)
    check_seldom(fit)
    check_plateau(fit)
    check_ranks(fit)
    check_best(fit)
    check_faults(fit)
    check_warmup(place, place.path("data.h5ad"))


main()
