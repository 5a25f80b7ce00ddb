"""Running both programs and the measuring ones on the same cores."""
import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
PINS = ["scvi-tools==1.4.2", "torch==2.5.1"]
MPI_ENV = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
           "OMPI_MCA_rmaps_base_oversubscribe": "1"}
# name: (linear decoder, likelihood); otherwise the defaults that both programs share
MODELS = {"LDVAE-NB": (True, "nb"), "scVI-ZINB": (False, "zinb"), "scVI-NB": (False, "nb"),
          "LDVAE-ZINB": (True, "zinb")}


class Failed(Exception):
    pass


def version_of(atlasvi):
    done = subprocess.run([atlasvi, "--version"], stdout=subprocess.PIPE, check=True)
    return " ".join(done.stdout.decode().splitlines()[0].split())


def make_environment(folder, pip_options):
    """A venv with the pinned versions; made once. Returns its python."""
    python = os.path.join(folder, "bin", "python")
    done = os.path.join(folder, "complete")
    if not os.path.exists(done):
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", *pip_options, *PINS], check=True)
        subprocess.run([python, "-c", "import scvi"], check=True)
        with open(done, "w") as file:
            file.write("\n".join(PINS) + "\n")
    return python


def load():
    """Processes that run or wait, of the last minute."""
    return os.getloadavg()[0]


def cpu_name():
    facts = {}
    with open("/proc/cpuinfo") as file:
        for line in file:
            name, _, value = line.partition(":")
            facts.setdefault(name.strip(), value.strip())
    return ", ".join([facts.get("model name", "unknown")] + [
        "%s %s" % (name[4:] if name.startswith("cpu ") else name, facts[name])
        for name in ("cpu family", "model") if name in facts])


class Programs:
    """Where the programs are, and what all runs have in common."""

    def __init__(self, options, folder):
        self.folder = os.path.abspath(folder)
        self.atlasvi, self.phases, self.machine = options.atlasvi, options.phases, options.machine
        self.mpirun = options.mpirun
        self.scvi_python = options.scvi_python
        self.ranks, self.threads = options.ranks, options.threads
        allowed = sorted(os.sched_getaffinity(0))
        self.cpus = options.cpus or allowed[:self.ranks * self.threads]
        self.settings = options.set
        self.seed = 0

    def call(self, argv, extra=None):
        """Standard output of a command on our cores; OpenMP's settings are the command's own."""
        env = {k: v for k, v in os.environ.items()
               if not k.startswith(("OMP_", "GOMP_", "MKL_", "OPENBLAS_"))}
        env.update(MPI_ENV, **(extra or {}))
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env,
                              cwd=self.folder, stdin=subprocess.DEVNULL,
                              preexec_fn=lambda: os.sched_setaffinity(0, self.cpus))
        if done.returncode != 0:
            raise Failed("%s\nexit status %d\n%s%s" % (
                " ".join(argv), done.returncode, done.stdout.decode("utf-8", "replace")[-2000:],
                done.stderr.decode("utf-8", "replace")[-4000:]))
        return done.stdout.decode("utf-8", "replace")

    def across(self, ranks, argv):
        """The command for so many ranks."""
        return [self.mpirun, "--bind-to", "none", "-n", str(ranks), *argv] if ranks > 1 else argv

    def version(self):
        return version_of(self.atlasvi)

    def simulate(self, path, cells, genes):
        self.call([self.atlasvi, "simulate", path, "cells=%d" % cells, "genes=%d" % genes])

    def measure_machine(self, genes, nonzeros, seconds):
        before = load()
        text = self.call([self.machine, str(self.ranks * self.threads), str(genes),
                          str(max(1, round(nonzeros))), str(seconds)])
        return {**json.loads(text), "load": before}

    def ours(self, values, timed=False):
        """One run. Events of its log by name; with `timed` the lines of bench_phases too."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            log, lines = os.path.join(folder, "log"), os.path.join(folder, "phases")
            every = {"output.path": os.path.join(folder, "out.h5ad"), "output.denoised": "no",
                     "output.sample_rate": "no", "runtime.progress": "none", "runtime.log": log,
                     "runtime.threads": str(self.threads), "train.seed": str(self.seed),
                     "runtime.backend": "cpu", **values}
            every.update(s.split("=", 1) for s in self.settings)
            ini = os.path.join(folder, "run.ini")
            with open(ini, "w") as file:
                for key, value in every.items():
                    section, name = key.split(".", 1)
                    file.write("[%s]\n%s = %s\n" % (section, name, value))
            argv = self.across(self.ranks, [self.phases if timed else self.atlasvi, ini])
            before = load()
            self.call(argv, {"ATLASVI_BENCH_PHASES": lines} if timed else None)
            events = {}
            with open(log) as file:
                for line in file:
                    event = json.loads(line)
                    events.setdefault(event["event"], []).append(event)
            result = {"events": events, "load": before}
            if timed:
                with open(lines) as file:
                    result["lines"] = [json.loads(line) for line in file]
        return result

    def theirs(self, task):
        before = load()
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            result = os.path.join(folder, "result.json")
            task = {"threads": self.ranks * self.threads, "seed": self.seed, "folder": folder,
                    "result": result, **task}
            self.call([self.scvi_python, "-B", os.path.join(HERE, "scvi_worker.py"),
                       json.dumps(task)])
            with open(result) as file:
                return {**json.load(file), "load": before}


def model_settings(model, minibatch, epochs):
    """Ours, as both programs' shared defaults have it."""
    linear, likelihood = MODELS[model]
    values = {"model.linear_decoder": "yes" if linear else "no",
              "model.gene_likelihood": likelihood, "model.n_hidden": "128",
              "model.n_latent": "10", "model.n_layers": "1", "model.dropout_rate": "0.1",
              "train.batch_size": str(minibatch)}
    if epochs:
        values["train.max_epochs"] = str(epochs)
    return values


def training_settings(path, model, minibatch, epochs, batch="batch"):
    """Ours on all cells of a file; an empty `batch`: without batches."""
    values = {"data.input": path, "data.batch_key": batch, "train.train_size": "1.0",
              "train.batch_norm_statistics": "running", **model_settings(model, minibatch, epochs)}
    return {key: value for key, value in values.items() if value != ""}
