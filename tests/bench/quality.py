"""Time to quality: seconds of training until the held-out negative ELBO is what scvi-tools has
after its default number of epochs.

Both programs train on the same copy of a file with the same held-out cells, and evaluate after
every epoch with BatchNorm's running statistics, full KL weight and one draw a cell. The seconds are
those of training alone, without evaluation; ours contain the making of starting values. scvi-tools
may reach its last value earlier: that moment counts for it, and its whole time stands beside.
"""
import os

from programs import MODELS, model_settings


def reached(seconds, elbo, target):
    """(seconds, epoch from 1) of the first epoch at least as good; (None, None) if none is."""
    passed = 0.0
    for epoch, (more, value) in enumerate(zip(seconds, elbo), 1):
        passed += more
        if value is not None and value <= target:
            return passed, epoch
    return None, None


def ours(programs, copy, model, minibatch, epochs, batch):
    values = {"data.input": copy, "data.batch_key": "batch" if batch else "",
              "train.split_key": "held_out", **model_settings(model, minibatch, epochs)}
    run = programs.ours({k: v for k, v in values.items() if v != ""})
    lines = run["events"]["epoch"]
    start = next(e["seconds_max"] for e in run["events"]["phase"]
                 if e["name"] == "starting values")
    seconds = [e["seconds"] for e in lines]
    seconds[0] += start
    return {"seconds": seconds, "elbo": [e["elbo_validation"] for e in lines], "start": start,
            "load": run["load"]}


def compare(programs, file, model, minibatch, options):
    linear, likelihood = MODELS[model]
    copy = os.path.join(programs.folder, "quality.h5ad")
    facts = programs.theirs({"do": "prepare", "file": file, "copy": copy,
                             "counts": options.quality_counts, "batch_key": options.quality_batch,
                             "genes": options.quality_genes})
    there = programs.theirs({"do": "quality", "file": copy, "linear": linear,
                             "likelihood": likelihood, "minibatch": minibatch,
                             "epochs": options.quality_epochs})
    epochs = len(there["elbo_validation"])
    here = ours(programs, copy, model, minibatch, epochs, facts["batch"])
    os.remove(copy)
    target = there["elbo_validation"][-1]
    their_seconds, their_epoch = reached(there["epoch_seconds"], there["elbo_validation"], target)
    our_seconds, our_epoch = reached(here["seconds"], here["elbo"], target)
    return {"file": os.path.basename(file), "cells": facts["cells"], "genes": facts["genes"],
            "model": model, "minibatch": minibatch, "epochs": epochs, "target": target,
            "theirs": {"seconds": their_seconds, "epoch": their_epoch,
                       "all_seconds": sum(there["epoch_seconds"]), "load": there["load"]},
            "ours": {"seconds": our_seconds, "epoch": our_epoch,
                     "all_seconds": sum(here["seconds"]), "starting_values": here["start"],
                     "best": min(here["elbo"]), "last": here["elbo"][-1], "load": here["load"]},
            "ratio": their_seconds / our_seconds if our_seconds else None,
            "history": {"theirs": {"seconds": there["epoch_seconds"],
                                   "elbo_validation": there["elbo_validation"]},
                        "ours": {"seconds": here["seconds"], "elbo_validation": here["elbo"]}}}
