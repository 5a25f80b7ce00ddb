"""What the tests of whole runs share: a folder, simulated data, fits and their outputs.

Environment: ATLASVI, MPIRUN; ATLASVI_TEST_BACKEND (default auto) names another backend.
"""
import importlib.util
import os
import sys
import tempfile

import h5py
import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "files"))
sys.dont_write_bytecode = True

import atlasrun as ar  # noqa: E402

SMALL = {"data.batch_key": "batch", "model.n_latent": "4", "model.n_hidden": "16",
         "train.max_epochs": "4", "train.n_epochs_kl_warmup": "2", "train.lr": "0.005",
         "train.batch_size": "64", "runtime.progress": "none", "runtime.threads": "1",
         "runtime.backend": os.environ.get("ATLASVI_TEST_BACKEND", "auto")}


def load_script(name):
    """A script of jobs/ as a module, without its command line."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "jobs", name)
    specification = importlib.util.spec_from_file_location(name.rsplit(".", 1)[0], path)
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


class Place:
    """A temporary folder in which runs are made; deleted at the end."""

    def __init__(self):
        ar.require_program()
        self.temporary = tempfile.TemporaryDirectory(prefix="atlasvi-run-")
        self.folder = self.temporary.name

    def path(self, name):
        return os.path.join(self.folder, name)

    def simulate(self, name, **settings):
        result = ar.run(["simulate", self.path(name), *(f"{k}={v}" for k, v in settings.items())])
        assert result.code == 0, result
        return self.path(name)

    def run(self, settings, ranks=0, **options):
        """A run of SMALL with `settings` on top; a value None leaves a key out."""
        merged = {k: v for k, v in {**SMALL, **settings}.items() if v is not None}
        return ar.run([ar.write_ini(self.path("run.ini"), merged)], ranks=ranks, **options)

    def fit(self, data, output, settings=None, ranks=0, **options):
        """A run that must succeed; the path of its output."""
        result = self.run({"data.input": data, "output.path": self.path(output), **(settings or {})},
                          ranks, **options)
        assert result.code == 0, result
        assert not ar.STACKS.search(result.out + result.err), result
        return self.path(output)


def text_of(item):
    value = item[()]
    return value.decode() if isinstance(value, bytes) else value


def index_of(frame):
    return ar.element_strings(frame[frame.attrs["_index"]])


def columns_of(frame):
    """Names in their order, and the columns beside each other (rows, columns)."""
    names = list(frame.attrs["column-order"])
    return names, np.column_stack([frame[name][...] for name in names])


def categories(frame, name):
    """A categorical's levels and codes."""
    return ar.element_strings(frame[name]["categories"]), frame[name]["codes"][...]


def near(found, expected, relative, what, absolute=0.0):
    np.testing.assert_allclose(found, expected, rtol=relative, atol=absolute, err_msg=what)


def done(what):
    print("ok:", what, flush=True)


def open_output(path):
    return h5py.File(path, "r")


def tensors_of(path):
    """The arrays of a saved model by scvi-tools' names."""
    with h5py.File(path, "r") as file:
        return {name: item[...] for name, item in file["arrays"].items()}
