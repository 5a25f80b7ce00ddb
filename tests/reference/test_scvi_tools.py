#!/usr/bin/env python3
"""jobs/scvi_tools.py: a model carried between atlasvi and scvi-tools gives the same latent means,
rho, loadings and dispersions on the other side (largest difference 1e-5 of the largest value), both
ways.

    test_scvi_tools.py committed   models/*.npz, made by make_models.py with scvi-tools 1.4.2: each
                                   is imported and applied by the program; its tensors go back to
                                   what scvi-tools had; categories by name; refusals
    test_scvi_tools.py both        scvi-tools itself: $ATLASVI_SCVI_PYTHON is a Python that has it;
                                   without it status 77 (skipped)
"""
import copy
import os
import subprocess
import sys

import numpy as np

here = os.path.dirname(os.path.abspath(__file__))
source = os.path.join(here, "..", "..")
sys.path[:0] = [here, os.path.join(source, "jobs"), os.path.join(here, "..", "run")]
sys.dont_write_bytecode = True

import fitting as f  # noqa: E402
import scvi_tools  # noqa: E402
import small_models  # noqa: E402

TOLERANCE = 1e-5
# Means of 5000 draws, at both ends: six standard errors of a share with the largest spread, 0.5.
SAMPLED = 6 * 0.5 * np.sqrt(2 / 5000)
DATA_KEYS = ("data.counts", "data.batch_key", "data.labels_key", "data.size_factor_key")


def same(found, expected, what, tolerance=TOLERANCE):
    assert found.shape == expected.shape, f"{what}: shapes {found.shape} and {expected.shape}"
    difference = np.abs(found - expected).max() / np.abs(expected).max()
    assert difference <= tolerance, f"{what}: differ by {difference:.3g} of the largest value"


def theta_of(data, name, model):
    """theta of each cell from the columns of px_r, by name; {} where it is the same in all."""
    _, setup, options = small_models.MODELS[name]
    key = {"gene-batch": "batch_key", "gene-label": "labels_key"}.get(options.get("dispersion"))
    if key is None:
        return {}
    with f.open_output(model) as file:
        names = f.ar.element_strings(file["batches" if key == "batch_key" else "labels"])
        px_r = file["arrays/px_r"][...]
    with f.open_output(data) as file:
        levels, codes = f.categories(file["obs"], setup[key])
    return {"theta": np.exp(px_r[:, [names.index(levels[code]) for code in codes]]).T}


def results(path, data, name, model):
    with f.open_output(path) as file:
        out = {"latent": file["obsm/X_scvi"][...], "rho": file["obsm/X_scvi_denoised"][...]}
        if "ldvae_loadings" in file["uns"]:
            out["loadings"] = f.columns_of(file["uns/ldvae_loadings"])[1]
    return {**out, **theta_of(data, name, model)}


def compare(found, expected, name):
    assert set(found) == set(expected), f"{name}: {set(found)} and {set(expected)}"
    for key in found:
        sampled = key == "latent" and name == "scvi_ln"
        same(found[key], expected[key], f"{name}: {key}", SAMPLED if sampled else TOLERANCE)
    f.done(f"{name}: {', '.join(found)}")


def apply(place, data, name, model, ranks=0):
    """What the program computes with a model."""
    settings = {key: value for key, value in small_models.settings(name).items()
                if key in DATA_KEYS}
    output = place.fit(data, "applied.h5ad", {
        **{key: None for key in f.SMALL if key.startswith(("model.", "train.", "data."))},
        **settings, "model.load": model, "train.max_epochs": "0", "output.overwrite": "yes"}, ranks)
    return results(output, data, name, model)


# ---- committed values ----


def committed(name):
    path = os.path.join(here, "models", name + ".npz")
    with np.load(path) as file:
        expected = {key.partition("/")[2]: file[key] for key in file.files
                    if key.startswith("expected/")}
    return path, expected


def check_import(place, data, name):
    path, expected = committed(name)
    model = place.path(name + ".model.h5")
    arguments = ["import", path, model]
    assert scvi_tools.main(arguments) == 0
    assert scvi_tools.main(arguments) == 65, "an existing file stays"
    assert scvi_tools.main(arguments + ["--overwrite"]) == 0
    compare(apply(place, data, name, model), expected, name)
    compare(apply(place, data, name, model, ranks=2), expected, name)


def check_checksum(place, data, name):
    model = place.path(name + ".model.h5")
    with open(model, "r+b") as file:
        file.seek(-200, os.SEEK_END)
        file.write(b"?")
    result = place.run({"data.input": data, "model.load": model, "train.max_epochs": "0",
                        "output.path": place.path("none.h5ad")})
    assert result.code == 65 and "damaged" in result.err, f"the checksum is not seen: {result}"


def check_back(place, name):
    """From our file to scvi-tools' tensors: those it uses as they were, the others filled."""
    there = scvi_tools.read_npz(committed(name)[0])
    back = scvi_tools.read_atlasvi(place.path(name + ".model.h5"))
    for key in ("linear", "options", "genes", "batches", "labels", "categorical", "continuous",
                "counts"):
        assert getattr(there, key) == getattr(back, key), f"{name}: {key}"
    shapes = {tensor: value.shape for tensor, value in there.tensors.items()}
    everything = [list(range(len(names))) for names in back.factors()]
    state = scvi_tools.their_state(back, shapes, everything, list(range(len(back.labels))))
    assert list(state) == list(there.tensors)
    unused = 0
    for tensor, value in state.items():
        if there.uses(tensor):
            np.testing.assert_array_equal(value, there.tensors[tensor], f"{name}: {tensor}")
        else:
            unused += 1
            assert np.isin(value, (0.0, 1.0)).all(), f"{name}: {tensor}"
    assert unused > 0
    f.done(f"{name}: tensors of scvi-tools and back, {unused} filled")


def check_categories():
    """Columns follow their names: theirs are the same in reverse, with one without cells."""
    model = scvi_tools.read_npz(committed("scvi")[0])
    shapes = {name: value.shape for name, value in model.tensors.items()}
    moved = copy.deepcopy(model)
    places, labels = [], list(range(len(model.labels)))
    for names in model.factors():
        theirs = ["none of these", *reversed(names)] if len(names) > 1 else names
        places.append(scvi_tools.places("", names, theirs, set(names)))
    widths = [len(p) for p in places if len(p) > 1]
    before = [len(names) for names in model.factors() if len(names) > 1]
    for name, shape in shapes.items():
        if model.sees_factors(name):
            shapes[name] = (shape[0], shape[1] - sum(before) + sum(widths))
        elif name.startswith("library_log"):
            shapes[name] = (1, len(places[0]))
    state = scvi_tools.their_state(moved, shapes, places, labels)
    seen = 0
    for name, value in model.tensors.items():
        if not model.sees_factors(name) or not model.uses(name):
            continue
        at_ours = value.shape[1] - sum(before)
        at = at_ours
        np.testing.assert_array_equal(state[name][:, :at], value[:, :at])
        for old, new in zip(before, widths):
            block = state[name][:, at:at + new]
            assert (block[:, 0] == 0.0).all(), "no cells, no effect"
            np.testing.assert_array_equal(block[:, 1:], value[:, at_ours:at_ours + old][:, ::-1])
            at, at_ours = at + new, at_ours + old
        seen += 1
    assert seen == 5, f"{seen} layers see the covariates"  # 2 + 1 of the encoders, 2 of the decoder
    means = state["library_log_means"][0]
    np.testing.assert_array_equal(means[1:], model.tensors["library_log_means"][0][::-1])
    assert means[0] == 0.0 and state["library_log_vars"][0, 0] == 1.0
    f.done("categories by name")


def refusal(call, *arguments):
    try:
        call(*arguments)
    except scvi_tools.Refused as error:
        return str(error)
    return "not refused"


def check_refusals():
    linear = scvi_tools.read_npz(committed("ldvae")[0])
    dense = scvi_tools.read_npz(committed("scvi")[0])
    for change, message in (
        ({"categorical": {"donor": ["a", "b"]}}, "categorical covariates"),
        ({"continuous": ["age"]}, "continuous covariates"),
        ({"keys": {"size_factor_key": "size"}}, "size factors"),
        ({"options": {**linear.options, "dispersion": "gene-cell"}}, "gene-cell dispersion"),
        ({"options": {**linear.options, "encode_covariates": True}}, "encode_covariates"),
        ({"options": {**linear.options, "use_layer_norm": "both"}}, "LayerNorm in the encoders"),
    ):
        model = copy.copy(linear)
        vars(model).update(change)
        wanted = f"a linear decoder with {message}: scvi-tools' LinearSCVI has none"
        assert refusal(scvi_tools.export, model, "nowhere", "none.h5ad") == wanted
    assert refusal(scvi_tools.refuse_export, dense) == "not refused"
    assert refusal(scvi_tools.refuse_export, linear) == "not refused"
    registry = {"setup_method_name": "setup_anndata"}
    for name, init, message in (
        ("SCANVI", {}, "a model of class SCANVI"),
        ("SCVI", {"gene_likelihood": "normal"}, 'gene_likelihood = "normal"'),
        ("SCVI", {"batch_representation": "embedding"}, "batch_representation = 'embedding'"),
        ("SCVI", {"extra_decoder_kwargs": {"activation_fn": 1}}, "extra_decoder_kwargs"),
    ):
        assert message in refusal(scvi_tools.refuse_scvi, name, init, registry)
    assert refusal(scvi_tools.refuse_scvi, "SCVI", {"batch_representation": "one-hot"},
                   registry) == "not refused"
    unknown = refusal(scvi_tools.places, "batch", ["a", "b"], ["a", "b", "c"], {"c"})
    assert unknown == 'batch "c" is not one the model knows: a, b'
    assert 'batch "b" of the model' in refusal(scvi_tools.places, "batch", ["a", "b"], ["a"], {"a"})
    for path in (os.path.abspath(__file__), "no such file"):
        assert "cannot be read as a model" in refusal(scvi_tools.read_atlasvi, path)
        assert "not a file that" in refusal(scvi_tools.read_npz, path)
    f.done("refusals")


def check_committed(place, data):
    for name in small_models.MODELS:
        check_import(place, data, name)
        check_back(place, name)
    check_checksum(place, data, "ldvae")
    check_categories()
    check_refusals()


# ---- scvi-tools itself ----


def scvi_python(python, command, data, folder):
    result = subprocess.run([python, os.path.join(here, "make_models.py"), command, data, folder],
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            check=False)
    assert result.returncode == 0, result.stdout[-4000:]


def loaded(path):
    with np.load(path) as file:
        return dict(file)


def check_both(place, data, python):
    theirs, ours = place.path("theirs"), place.path("ours")
    os.makedirs(theirs)
    os.makedirs(ours)
    scvi_python(python, "train", data, theirs)
    for name in small_models.MODELS:
        path = os.path.join(theirs, name)
        compare(apply(place, data, name, path + ".model.h5"), loaded(path + ".npz"), name)
    f.done("trained by scvi-tools, applied by atlasvi")
    fitted = {}
    for name in small_models.MODELS:
        settings = {**{key: None for key in f.SMALL if key.startswith(("model.", "data."))},
                    **small_models.settings(name)}
        output = place.fit(data, os.path.join("ours", name + ".h5ad"), {
            **settings, "train.lr": "0.02", "train.batch_size": "32"})
        model = os.path.join(ours, name + ".model.h5")
        fitted[name] = results(output, data, name, model)
    scvi_python(python, "load", data, ours)
    for name in small_models.MODELS:
        compare(loaded(os.path.join(ours, name + ".npz")), fitted[name], name)
    f.done("trained by atlasvi, loaded by scvi-tools")


def main():
    python = os.environ.get("ATLASVI_SCVI_PYTHON", "")
    if sys.argv[1:] not in (["committed"], ["both"]):
        sys.exit(__doc__)
    if sys.argv[1] == "both" and not python:
        print("skipped: ATLASVI_SCVI_PYTHON does not name a Python with scvi-tools")
        sys.exit(77)
    place = f.Place()
    data = place.path("data.h5ad")
    small_models.write_file(data)
    if sys.argv[1] == "committed":
        check_committed(place, data)
    else:
        check_both(place, data, python)


if __name__ == "__main__":
    main()
