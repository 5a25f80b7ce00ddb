#!/usr/bin/env python3
"""Carries a fitted model between atlasvi and scvi-tools (1.4.2).

    scvi_tools.py export MODEL.model.h5 OUT_DIR --adata IN.h5ad
        A model saved by atlasvi becomes a folder that scvi.model.SCVI.load or LinearSCVI.load opens
        with data of the model's genes in its order (dataset `genes` of MODEL.model.h5). scvi-tools
        makes a model's sizes from data, so IN.h5ad must have all genes, batches and covariates of
        the model. Needs scvi-tools.
    scvi_tools.py import SCVI_DIR OUT.model.h5
        A model that scvi-tools saved becomes a file for atlasvi's [model] load. Needs torch.
    scvi_tools.py dump SCVI_DIR OUT.npz
    scvi_tools.py import IN.npz OUT.model.h5
        The same in two steps, where atlasvi runs on a machine without torch: the second needs h5py
        and numpy alone.

--overwrite replaces an existing output. Both models give the same latent means, rho and loadings;
what only training needs (the optimiser's state, the history) stays behind.

Batches, labels and categories are matched by name. scvi-tools keeps categories without cells: their
columns are 0 after export, and come along on import. Tensors that scvi-tools has but does not use
(the library encoder with an observed library, zero inflation without ZINB, the dispersion head) are
filled with 0, or 1 for BatchNorm's weights and variances.

Refused by name, because the other side has nothing like it. Export: a linear decoder with
covariates, size factors, gene-cell dispersion, encode_covariates or LayerNorm in the encoders.
Import: gene_likelihood "normal", batch_representation "embedding", other activations or layers
(var_activation, extra_encoder_kwargs, extra_decoder_kwargs), models of other classes.
"""
import argparse
import json
import os
import re
import shutil
import sys
import zlib
from dataclasses import dataclass, field

import numpy as np

FORMAT, FORMAT_VERSION = "atlasvi-model", 1
# The [model] keys that define a model, with scvi-tools' defaults.
DEFAULTS = {
    "n_hidden": 128, "n_latent": 10, "n_layers": 1, "dropout_rate": 0.1, "dispersion": "gene",
    "gene_likelihood": "zinb", "latent_distribution": "normal", "use_observed_lib_size": True,
    "encode_covariates": False, "deeply_inject_covariates": True, "use_batch_norm": "both",
    "use_layer_norm": "none", "bias": False, "log_variational": True,
}
LINEAR_DEFAULTS = {**DEFAULTS, "gene_likelihood": "nb", "use_observed_lib_size": False}
KEYS = ("batch_key", "labels_key", "size_factor_key")


class Refused(Exception):
    """What the user is told in one line."""


@dataclass
class Model:
    """A fitted model, whoever fitted it. Tensors have scvi-tools' names and shapes."""

    linear: bool
    options: dict  # the keys of DEFAULTS
    genes: list
    batches: list  # [""] without a batch_key
    labels: list = field(default_factory=list)  # of gene-label dispersion
    categorical: dict = field(default_factory=dict)  # obs column: its categories
    continuous: list = field(default_factory=list)  # obs columns
    keys: dict = field(default_factory=dict)  # KEYS: obs columns or ""
    counts: str = "X"
    tensors: dict = field(default_factory=dict)

    @property
    def latent_library(self):
        return not self.options["use_observed_lib_size"] and not self.keys.get("size_factor_key")

    def factors(self):
        """Categories of the factors behind the one-hot columns, single ones included."""
        return [self.batches, *self.categorical.values()]

    def uses(self, name):
        if name.endswith("num_batches_tracked"):
            return False
        if name.startswith("l_encoder.") or name.startswith("library_log"):
            return self.latent_library
        if name.startswith("decoder.px_dropout_decoder."):
            return self.options["gene_likelihood"] == "zinb"
        if name.startswith("decoder.px_r_decoder."):
            return (self.options["dispersion"] == "gene-cell"
                    and self.options["gene_likelihood"] != "poisson")
        return True

    def sees_factors(self, name):
        """Whether a tensor is the weight of a layer whose last inputs are the one-hot columns."""
        layer = re.fullmatch(r"(\w+)\..*fc_layers\.Layer (\d+)\.0\.weight", name)
        if layer is None:
            return False
        if layer[1] != "decoder" and (self.linear or not self.options["encode_covariates"]):
            return False
        return layer[2] == "0" or self.options["deeply_inject_covariates"]


# ---- atlasvi's file ----


def text_list(dataset):
    values = np.asarray(dataset[()]).ravel()
    return [v.decode() if isinstance(v, bytes) else str(v) for v in values]


def settings_of(text):
    """Section and key -> value of the INI text, comments dropped."""
    found, section = {}, ""
    for line in text.splitlines():
        head = re.match(r"\s*\[(\w+)\]", line)
        entry = re.match(r"(\w+) =(.*)", line)
        if head:
            section = head[1]
        elif entry:
            found[section, entry[1]] = re.sub(r"\s;.*", "", entry[2]).strip()
    return found


def as_type(text, example):
    if isinstance(example, bool):
        return text in ("yes", "true", "on", "1")
    return type(example)(text)


def read_atlasvi(path):
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise Refused(f"{path}: cannot be read as a model: {error}") from error
    with file:
        found = file.attrs.get("format", "")
        if (found.decode() if isinstance(found, bytes) else found) != FORMAT:
            raise Refused(f"{path}: not a model saved by atlasvi (.model.h5)")
        if int(file.attrs["format-version"]) != FORMAT_VERSION:
            raise Refused(f"{path}: of a format version that this script does not know")
        lists = {name: text_list(file[name]) if name in file else []
                 for name in ("genes", "batches", "labels", "categorical_covariates",
                              "continuous_covariates")}
        categories = {key: text_list(file[f"categories/{c}"])
                      for c, key in enumerate(lists["categorical_covariates"])}
        settings = settings_of(text_list(file["settings"])[0])
        tensors = {name: item[()].astype(np.float32) for name, item in file["arrays"].items()}
    try:
        linear = as_type(settings["model", "linear_decoder"], False)
        options = {key: as_type(settings["model", key], value) for key, value in DEFAULTS.items()}
    except KeyError as error:
        section, key = error.args[0]
        raise Refused(f"{path}: its settings lack [{section}] {key}") from error
    return Model(linear, options, lists["genes"], lists["batches"], lists["labels"], categories,
                 lists["continuous_covariates"],
                 {key: settings.get(("data", key), "") for key in KEYS},
                 settings.get(("data", "counts"), "X"), tensors)


def entry(name):
    """A name of a list in INI text."""
    plain = name and not re.search(r'^[@;\s]|[,"]|\s$', name)
    return name if plain else '"' + name.replace('"', '""') + '"'


def settings_text(model):
    def shown(value):
        return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)

    lines = ["[data]", f"counts = {model.counts}"]
    lines += [f"{key} = {model.keys[key]}" for key in KEYS if model.keys.get(key)]
    for key, names in (("categorical_covariate_keys", list(model.categorical)),
                       ("continuous_covariate_keys", model.continuous)):
        if names:
            lines.append(f"{key} = " + ", ".join(map(entry, names)))
    for name in [model.counts, *model.keys.values(), *model.categorical, *model.continuous]:
        if re.search(r"[\r\n]|\s;|^;", name or ""):
            raise Refused(f"the obs column or layer {name!r} cannot be written into settings")
    lines += ["", "[model]", f"linear_decoder = {shown(model.linear)}"]
    lines += [f"{key} = {shown(value)}" for key, value in model.options.items()]
    return "\n".join(lines) + "\n"


def add_checksum(path):
    """The line behind the file's end by which atlasvi knows that it is whole."""
    with open(path, "r+b") as file:
        content = file.read()
        line = f"\natlasvi crc32 {zlib.crc32(content):08x} of {len(content):19d} bytes {'':10}\n"
        file.write(line.encode())


def write_atlasvi(model, path):
    import h5py

    text = h5py.string_dtype()
    tensors = {name: values for name, values in model.tensors.items() if model.uses(name)}
    n = len(model.batches)
    for name, value in (("library_log_means", 0.0), ("library_log_vars", 1.0)):
        tensors.setdefault(name, np.full((1, n), value))
    if not (tensors["library_log_vars"] > 0.0).all():
        raise Refused("a batch's log library size has variance 0 (a batch of one cell?): atlasvi "
                      "takes no such prior")
    with h5py.File(path, "w") as file:
        file.attrs["format"] = FORMAT
        file.attrs["format-version"] = np.int64(FORMAT_VERSION)
        file.attrs["exact"] = np.int64(0)
        lists = {"genes": model.genes, "batches": model.batches, "labels": model.labels,
                 "categorical_covariates": list(model.categorical),
                 "continuous_covariates": model.continuous, "settings": [settings_text(model)]}
        lists |= {f"categories/{c}": names
                  for c, names in enumerate(model.categorical.values())}
        for name, values in lists.items():
            if values:
                file.create_dataset(name, data=values, dtype=text)
        arrays = file.create_group("arrays", track_order=True)
        for name, values in tensors.items():
            arrays.create_dataset(name, data=np.asarray(values, dtype=np.float32))
    add_checksum(path)


# ---- scvi-tools' folder, and the .npz between ----


def flat_init(init):
    """The constructor's arguments from what scvi-tools saved."""
    flat = dict(init["non_kwargs"])
    for more in init["kwargs"].values():
        flat |= more
    return flat


def refuse_scvi(name, init, registry):
    if name not in ("SCVI", "LinearSCVI"):
        raise Refused(f"a model of class {name}: only SCVI and LinearSCVI can be imported")
    if registry.get("setup_method_name") != "setup_anndata":
        raise Refused("the model was not set up from an AnnData")
    for key, only in (("batch_representation", "one-hot"), ("var_activation", None),
                      ("extra_encoder_kwargs", None), ("extra_decoder_kwargs", None)):
        if (init.get(key) or only) != only:
            raise Refused(f"{key} = {init[key]!r}: atlasvi has nothing like it")
    if init.get("gene_likelihood") == "normal":
        raise Refused('gene_likelihood = "normal": atlasvi has nothing like it')


def options_of(linear, init):
    options = {key: init.get(key, value)
               for key, value in (LINEAR_DEFAULTS if linear else DEFAULTS).items()}
    if linear:  # these have no effect there; the BatchNorm of its encoders cannot be switched off
        options["use_batch_norm"] = "both" if init.get("use_batch_norm", True) else "encoder"
        options |= {"use_layer_norm": "none", "encode_covariates": False,
                    "deeply_inject_covariates": True}
    return {key: as_type(str(v), DEFAULTS[key]) if not isinstance(v, bool) else v
            for key, v in options.items()}


def read_scvi(folder):
    import torch

    path = os.path.join(folder, "model.pt")
    if not os.path.exists(path):
        raise Refused(f"{folder}: no model.pt in it: not a model saved by scvi-tools")
    saved = torch.load(path, map_location="cpu", weights_only=False)
    registry = saved["attr_dict"]["registry_"]
    init = flat_init(saved["attr_dict"]["init_params_"])
    refuse_scvi(registry["model_name"], init, registry)
    linear = registry["model_name"] == "LinearSCVI"
    fields = {name: part["state_registry"]
              for name, part in registry["field_registries"].items()}
    setup = registry["setup_args"]

    def names(values):
        return [str(v) for v in values]

    model = Model(linear, options_of(linear, init), names(saved["var_names"]),
                  names(fields["batch"]["categorical_mapping"]) if setup["batch_key"] else [""],
                  keys={key: setup.get(key) or "" for key in KEYS},
                  counts=f"layers/{setup['layer']}" if setup["layer"] else "X")
    covariates = fields.get("extra_categorical_covs", {})
    model.categorical = {key: names(covariates["mappings"][key])
                         for key in covariates.get("field_keys", [])}
    model.continuous = names(fields.get("extra_continuous_covs", {}).get("columns", []))
    model.tensors = {name: value.numpy() for name, value in saved["model_state_dict"].items()
                     if hasattr(value, "numpy")}
    if model.options["dispersion"] == "gene-label":
        model.labels = (names(fields["labels"]["categorical_mapping"]) if setup["labels_key"]
                        else ["0"])
        model.tensors["px_r"] = model.tensors["px_r"][:, :len(model.labels)]  # n_labels by hand
    return model


def write_npz(model, path, **more):
    facts = {key: value for key, value in vars(model).items() if key != "tensors"}
    arrays = {f"tensors/{name}": value for name, value in model.tensors.items()}
    np.savez_compressed(path, facts=np.array(json.dumps(facts)), **arrays, **more)


def read_npz(path):
    try:
        with np.load(path, allow_pickle=False) as file:
            tensors = {name.partition("/")[2]: file[name] for name in file.files
                       if name.startswith("tensors/")}
            return Model(**json.loads(str(file["facts"])), tensors=tensors)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused(f"{path}: not a file that `dump` wrote: {error}") from error


# ---- export ----


def refuse_export(model):
    options = model.options
    if not model.linear:
        return
    for has, what in (
        (model.categorical, "categorical covariates"),
        (model.continuous, "continuous covariates"),
        (model.keys.get("size_factor_key"), "size factors"),
        (options["dispersion"] == "gene-cell", "gene-cell dispersion"),
        (options["encode_covariates"] and len(model.batches) > 1, "encode_covariates"),
        (options["use_layer_norm"] in ("both", "encoder"), "LayerNorm in the encoders"),
    ):
        if has:
            raise Refused(f"a linear decoder with {what}: scvi-tools' LinearSCVI has none")


def places(what, ours, theirs, present):
    """Index in `ours` of each of their categories, -1 for one without cells."""
    for name in ours:
        if name not in theirs:
            raise Refused(f'{what} "{name}" of the model is in no cell of the file: scvi-tools '
                          "makes its columns from the file's categories")
    for name in theirs:
        if name not in ours and name in present:
            raise Refused(f'{what} "{name}" is not one the model knows: {", ".join(ours)}')
    return [ours.index(name) if name in ours else -1 for name in theirs]


def taken(values, axis, place, dead):
    """Columns `place` of an array, `dead` where it is -1."""
    moved = np.take(values, [max(p, 0) for p in place], axis=axis)
    return np.where(np.array(place).reshape(-1, *[1] * (values.ndim - 1 - axis)) < 0, dead, moved)


def their_columns(model, name, values, factor_places, label_places):
    """A tensor of ours with the columns in scvi-tools' order and number."""
    if name.startswith("library_log"):
        return taken(values, 1, factor_places[0], 1.0 if name.endswith("vars") else 0.0)
    if name == "px_r" and values.ndim == 2:
        by_label = model.options["dispersion"] == "gene-label"
        return taken(values, 1, label_places if by_label else factor_places[0], 0.0)
    if not model.sees_factors(name):
        return values
    widths = [len(f) if len(f) > 1 else 0 for f in model.factors()]
    at = values.shape[1] - sum(widths)
    parts = [values[:, :at]]
    for width, place in zip(widths, factor_places):
        block = values[:, at:at + width] if width > 0 else np.zeros((len(values), 1))
        if len(place) > 1:
            parts.append(taken(block, 1, place, 0.0))
        at += width
    return np.concatenate(parts, axis=1)


def their_state(model, shapes, factor_places, label_places):
    """Values for each of scvi-tools' tensors, given their shapes."""
    unknown = [name for name in model.tensors
               if name not in shapes and not name.startswith("library_log")]
    if unknown:
        raise Refused(f"scvi-tools has no tensor {unknown[0]} in such a model")
    state = {}
    for name, shape in shapes.items():
        if model.uses(name) and name in model.tensors:
            values = their_columns(model, name, model.tensors[name], factor_places, label_places)
        elif model.uses(name):
            raise Refused(f"the model has no tensor {name}")
        else:
            one = name.endswith("running_var") or re.search(r"Layer \d+\.1\.weight$", name)
            values = np.full(shape, 1.0 if one else 0.0)
        if tuple(values.shape) != tuple(shape):
            raise Refused(f"{name} is {tuple(values.shape)}, in scvi-tools {tuple(shape)}")
        state[name] = values
    return state


def data_of(model, path):
    import anndata

    adata = anndata.read_h5ad(path)
    if model.counts == "raw/X":
        obs = adata.obs
        adata = adata.raw.to_adata()
        adata.obs = obs
    if not adata.var_names.is_unique:
        raise Refused(f"{path}: gene names are not unique")
    missing = [gene for gene in model.genes if gene not in adata.var_names]
    if missing:
        raise Refused(f"{path}: has no gene {missing[0]}, which the model has")
    columns = [*model.keys.values(), *model.categorical, *model.continuous]
    lacking = [name for name in columns if name and name not in adata.obs]
    if lacking:
        raise Refused(f"{path}: no obs column {lacking[0]}, which the model was fitted with")
    return adata[:, model.genes].copy()


def set_up(model, adata):
    """A fresh model of scvi-tools with our sizes."""
    import scvi

    options = dict(model.options)
    labels = options["dispersion"] == "gene-label"
    setup = {
        "layer": model.counts[len("layers/"):] if model.counts.startswith("layers/") else None,
        "batch_key": None if model.batches == [""] else model.keys["batch_key"] or None,
        "labels_key": (model.keys["labels_key"] or None) if labels else None,
    }
    bias = options.pop("bias")
    if model.linear:
        for key in ("encode_covariates", "deeply_inject_covariates", "use_layer_norm"):
            options.pop(key)
        options["use_batch_norm"] = options["use_batch_norm"] in ("both", "decoder")
        options["bias"] = bias
        kind = scvi.model.LinearSCVI
    else:
        setup |= {
            "size_factor_key": model.keys["size_factor_key"] or None,
            "categorical_covariate_keys": list(model.categorical) or None,
            "continuous_covariate_keys": model.continuous or None,
        }
        kind = scvi.model.SCVI
    kind.setup_anndata(adata, **setup)
    if model.linear and labels:
        registry = kind._get_most_recent_anndata_manager(adata)
        options["n_labels"] = len(registry.get_state_registry("labels").categorical_mapping)
    return kind(adata, **options)


def category_places(model, theirs, adata):
    """places() of every factor and of the labels."""
    registries = theirs.registry["field_registries"]

    def of(what, key, ours, mapping):
        return places(what, ours, [str(v) for v in mapping], {str(v) for v in adata.obs[key]})

    batch = registries["batch"]["state_registry"]["categorical_mapping"]
    factors = [[0] if model.batches == [""]
               else of("batch", model.keys["batch_key"], model.batches, batch)]
    for key, ours in model.categorical.items():
        mapping = registries["extra_categorical_covs"]["state_registry"]["mappings"][key]
        factors.append(of(f"{key}:", key, ours, mapping))
    labels = []
    if model.options["dispersion"] == "gene-label":
        mapping = registries["labels"]["state_registry"]["categorical_mapping"]
        labels = ([0] if not model.keys["labels_key"]
                  else of("label", model.keys["labels_key"], model.labels, mapping))
    return factors, labels


def export(model, folder, path):
    refuse_export(model)
    import torch

    adata = data_of(model, path)
    theirs = set_up(model, adata)
    shapes = {name: tuple(value.shape) for name, value in theirs.module.state_dict().items()}
    state = their_state(model, shapes, *category_places(model, theirs, adata))
    like = theirs.module.state_dict()
    theirs.module.load_state_dict({name: torch.as_tensor(np.ascontiguousarray(value),
                                                         dtype=like[name].dtype)
                                   for name, value in state.items()}, strict=True)
    theirs.is_trained_ = True
    theirs.save(folder)


# ---- command line ----


def written_whole(path, overwrite, write):
    """Calls write(temporary) and puts the result, a file or a folder, in the place of `path`."""
    if os.path.exists(path) and not overwrite:
        raise Refused(f"{path}: exists; --overwrite replaces it")
    root, ending = os.path.splitext(path.rstrip("/"))
    temporary = f"{root}.unfinished-{os.getpid()}{ending}"
    try:
        write(temporary)
        if os.path.isdir(path):
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        if os.path.isdir(temporary):
            shutil.rmtree(temporary)
        elif os.path.exists(temporary):
            os.remove(temporary)


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("export", "import", "dump"))
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--adata", help="export: the .h5ad with the model's genes and obs columns")
    parser.add_argument("--overwrite", action="store_true")
    chosen = parser.parse_args(arguments)
    if (chosen.command == "export") != (chosen.adata is not None):
        parser.error("--adata goes with export, and export needs it")
    try:
        if chosen.command == "export":
            model = read_atlasvi(chosen.source)
            write = lambda path: export(model, path, chosen.adata)  # noqa: E731
        else:
            from_npz = chosen.source.endswith(".npz")
            model = read_npz(chosen.source) if from_npz else read_scvi(chosen.source)
            to = write_npz if chosen.command == "dump" else write_atlasvi
            write = lambda path: to(model, path)  # noqa: E731
        written_whole(chosen.target, chosen.overwrite, write)
    except Refused as refusal:
        print(f"scvi_tools.py: {refusal}", file=sys.stderr)
        return 65
    except ImportError as error:
        print(f"scvi_tools.py: {chosen.command} needs {error.name}", file=sys.stderr)
        return 69
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
