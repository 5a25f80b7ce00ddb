"""Faults of writing: exit status, one line that says what happened, no temporary left, the input
and whatever was there before unharmed.

test_faults.py WRITE_DRIVER
"""
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
DRIVER = os.path.abspath(sys.argv[1])
checked = skipped = 0


def launch(ranks):
    return [] if ranks == 1 else [os.environ["MPIRUN"], "--bind-to", "none", "-n", str(ranks)]


def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


class Place:
    """A folder with an input; what else is in it at the end is a fault, or asked for."""

    def __init__(self, source, folder):
        self.folder = folder
        self.input = os.path.join(folder, "in.h5ad")
        self.output = os.path.join(folder, "out.h5ad")
        shutil.copy(source, self.input)

    def run(self, *arguments, action="results", ranks=1, prefix=(), driver=DRIVER):
        command = [*launch(ranks), *prefix, driver, action, f"data.input={self.input}"]
        if not any(a.startswith("output.path=") for a in arguments):
            command.append(f"output.path={self.output}")
        return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60)

    def refused(self, title, code, pattern, *arguments, **options):
        global checked
        before = {name: digest(os.path.join(self.folder, name)) for name in os.listdir(self.folder)
                  if os.path.isfile(os.path.join(self.folder, name))}
        entries = sorted(os.listdir(self.folder))
        done = self.run(*arguments, **options)
        lines = [line for line in done.stderr.splitlines() if line.startswith("atlasvi: error:")]
        what = f"{title}: exit status {done.returncode}, {done.stderr!r}"
        assert done.returncode == code, what
        assert len(lines) == 1 and re.search(pattern, lines[0]), what
        assert "HDF5-DIAG" not in done.stderr, what
        assert sorted(os.listdir(self.folder)) == entries, (title, os.listdir(self.folder))
        for name, old in before.items():
            assert digest(os.path.join(self.folder, name)) == old, f"{title}: {name} changed"
        checked += 1

    def works(self, title, *arguments, **options):
        global checked
        done = self.run(*arguments, **options)
        assert done.returncode == 0, f"{title}: exit status {done.returncode}, {done.stderr}"
        assert not [n for n in os.listdir(self.folder) if n.endswith(".tmp")], title
        checked += 1


def skip(reason):
    global skipped
    skipped += 1
    print("skipped:", reason)


def targets(place):
    both = {"action": "preflight"}, {}
    for options in both:
        extra = ["bytes=1000"] if options else []
        missing = os.path.join(place.folder, "none", "out.h5ad")
        place.refused("directory missing", 73, "none does not exist", f"output.path={missing}",
                      *extra, **options)
        place.refused("directory is a file", 73, "in.h5ad is not a directory",
                      f"output.path={place.input}/out.h5ad", *extra, **options)
        with open(place.output, "w") as file:
            file.write("precious")
        place.refused("exists", 73, "out.h5ad: exists already.*overwrite = yes", *extra, ranks=2,
                      **options)
        os.remove(place.output)
        os.mkdir(place.output)
        place.refused("a directory", 73, "out.h5ad.*a directory of that name",
                      "output.overwrite=yes", *extra, **options)
        os.rmdir(place.output)
        os.symlink("nowhere", place.output)
        place.refused("a link to nothing", 73, "out.h5ad: .*symbolic link.*leads nowhere", *extra,
                      **options)
        os.remove(place.output)
    place.refused("output is the input", 78, r"output.*path.*is the input itself.*append",
                  "bytes=1000", f"output.path={place.folder}/./in.h5ad", "output.overwrite=yes",
                  action="preflight")
    place.refused("model is the output", 78, "model.*choose another path", "bytes=1000",
                  f"output.model={place.output}", action="preflight")
    place.refused("too little space", 74, r"not enough space.*needed 4.*free",
                  "bytes=4000000000000000000", action="preflight", ranks=2)
    place.refused("limit seen in advance", 74, r"file-size limit.*needed 5 MB, allowed 1 MB",
                  "bytes=5000000", "limit=1000000", action="preflight")
    real = os.path.join(place.folder, "real.h5ad")
    open(real, "w").close()
    os.symlink("real.h5ad", place.output)
    place.works("overwrite through a link", "output.overwrite=yes")
    assert os.path.islink(place.output) and os.path.getsize(real) > 0
    os.remove(place.output)
    os.remove(real)
    model = os.path.join(place.folder, "out.model.h5")
    place.works("model", f"output.model={model}", action="model", ranks=2)
    place.refused("model exists", 73, "out.model.h5: exists already", f"output.model={model}",
                  action="model")
    place.refused("model exists, seen in advance", 73, "out.model.h5: exists already", "bytes=1000",
                  f"output.model={model}", action="preflight")
    os.remove(model)


def limits(place):
    """RLIMIT_FSIZE: what fails may be a table, a matrix, a chunk, or the close."""
    message = r"writing failed: File too large: needed at least .*\(ulimit -f\); nothing"
    for limit in (2000, 20000, 100000, 3000000, 13000000):
        for compression in (0, 4):
            wide = "wide=30000"
            if limit == 13000000 and compression:
                continue  # compressed it fits
            place.refused(f"limit {limit}, gzip {compression}", 74, message, wide,
                          f"output.compression={compression}", f"limit={limit}")
    for limit in (1000, 100000, 250000):
        place.refused(f"copy, limit {limit}", 74, message, "output.mode=copy", f"limit={limit}")
        place.refused(f"append, limit {limit}", 74, message, "output.mode=append", f"limit={limit}")
    for limit in (1000, 2000000):
        place.refused(f"model, limit {limit}", 74, message,
                      f"output.model={place.folder}/m.h5", f"limit={limit}", action="model")
    place.refused("limit, 2 ranks", 74, message, "wide=30000", "limit=9000000", ranks=2)


def full_disk(source):
    with tempfile.TemporaryDirectory() as folder:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", folder],
                                 capture_output=True, check=False)
        if mounted.returncode != 0:
            skip("a full disk (a tmpfs cannot be mounted here)")
            return
        try:
            place = Place(source, folder)
            message = (r"No space left on device \(disk full\?\): needed at least .*, free .*; "
                       "nothing was left")
            for compression in (0, 1):
                place.refused("disk full", 74, message, "wide=30000",
                              f"output.compression={compression}")
            place.refused("disk full, 3 ranks", 74, message, "wide=30000", ranks=3)
            place.refused("disk full, append", 74, message, "wide=30000", "output.mode=append")
            place.refused("disk full, model", 74, message,
                          f"output.model={folder}/m.h5", action="model")
            place.refused("disk too small", 74, "not enough space on its disk: needed 2.5 MB, free",
                          "bytes=2500000", action="preflight")
            place.refused("disk too small for a copy", 74, "not enough space", "bytes=1800000",
                          "output.mode=copy", action="preflight")
            place.works("what fits")
        finally:
            subprocess.run(["umount", folder], check=True)


def unprivileged(source):
    prefix = []
    with tempfile.TemporaryDirectory() as folder:
        driver = DRIVER
        if os.geteuid() == 0:
            if shutil.which("setpriv") is None:
                skip("no permission (root, and no setpriv)")
                return
            prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
            driver = shutil.copy(DRIVER, os.path.join(folder, "driver"))
        os.chmod(folder, 0o755)
        inner = os.path.join(folder, "inner")
        os.mkdir(inner)
        place = Place(source, inner)
        os.chmod(place.input, 0o644)
        options = {"prefix": ["env", "TMPDIR=/tmp", *prefix], "driver": driver}
        for action in ("preflight", "results"):
            extra = ["bytes=1000"] if action == "preflight" else []
            os.chmod(inner, 0o555)
            place.refused("no permission in the directory", 73,
                          "no permission to write in the directory", *extra, action=action,
                          **options)
            place.refused("append without permission", 73, "no permission", "output.mode=append",
                          *extra, action=action, **options)
            os.chmod(inner, 0o777)
            open(place.output, "w").close()
            os.chmod(place.output, 0o444)
            place.refused("write-protected output", 73, "cannot be replaced: it is write-protected",
                          "output.overwrite=yes", *extra, action=action, **options)
            os.chmod(place.output, 0o644)
            os.remove(place.output)
        place.works("with permission", **options)


def fills(place):
    """One rank cannot fill its rows, in the first or a later round: nobody waits for it."""
    for ranks, fail_rank, row in ((1, 0, 0), (2, 0, 80), (2, 1, 0), (3, 1, 70), (3, 2, 0)):
        for begin in (0, 1):
            place.refused(f"fill fails on rank {fail_rank} of {ranks}", 76,
                          f"fill failed on rank {fail_rank} at row {row}", "wide=60000",
                          f"fail_rank={fail_rank}", f"fail_row={row}", f"fail_begin={begin}", ranks=ranks)
    # 34 rows a round: the third fails while the first is being written
    for ranks in (1, 2):
        place.refused(f"fill fails while a thread writes, {ranks}", 76,
                      "fill failed on rank 0 at row 80", "wide=60000", "fail_rank=0",
                      "fail_row=80", "slow=50", ranks=ranks)
    before = sorted(os.listdir(place.folder))
    place.works("discard", "discard=1", ranks=2)
    assert sorted(os.listdir(place.folder)) == before


def appending(source):
    """append: keys of ours, links, mode and owner; what is refused."""
    with tempfile.TemporaryDirectory() as folder:
        place = Place(source, folder)
        link = os.path.join(folder, "link.h5ad")
        os.symlink("in.h5ad", link)
        os.chmod(place.input, 0o640)
        owner = 65534 if os.geteuid() == 0 else os.geteuid()
        os.chown(place.input, owner, -1)
        size = os.path.getsize(place.input)
        place.input = link
        place.works("append", "output.mode=append", ranks=2)
        place.input = os.path.join(folder, "in.h5ad")
        facts = os.stat(place.input)
        assert os.path.islink(link) and facts.st_mode & 0o7777 == 0o640 and facts.st_uid == owner
        assert facts.st_size > size
        for options in ({"action": "preflight"}, {}):
            place.refused("append twice", 73, "in.h5ad: has obsm/X_scvi already.*overwrite = yes",
                          "output.mode=append", *(["bytes=9"] if options else []), **options)
        place.refused("copy of results", 73, "has obsm/X_scvi already", "output.mode=copy")
        place.works("append, overwrite", "output.mode=append", "output.overwrite=yes", "genes=some",
                    "output.denoised=no")
        import h5py
        with h5py.File(place.input) as file:
            assert "X_scvi_denoised" not in file["obsm"], "stale results remain"
            assert len(file["uns/atlasvi/genes"]) == 14
            assert "X_pca" in file["obsm"] and "kind_colors" in file["uns"]
        # a user's own key that only begins like ours is left alone
        with h5py.File(place.input, "r+") as file:
            file["obsm"].create_dataset("X_scvi_umap", data=[[1.0, 2.0]])
        place.works("append, a user's key", "output.mode=append", "output.overwrite=yes")
        with h5py.File(place.input) as file:
            assert file["obsm/X_scvi_umap"][0, 1] == 2.0


def old_files(source):
    with tempfile.TemporaryDirectory() as folder:
        place = Place(source, folder)
        for mode in ("copy", "append"):
            for options in ({"action": "preflight"}, {}):
                place.refused(f"{mode} of a 0.6 file", 78,
                              "0.6 or older.*obs is a table.*mode = results",
                              f"output.mode={mode}", *(["bytes=9"] if options else []), **options)


def main():
    try:
        import anndata  # noqa: F401
        import h5py  # noqa: F401
    except ImportError:
        print("skipped: this python has no anndata (python3-anndata), which makes the inputs")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, f"{HERE}/make_inputs.py", folder], check=True)
        modern = f"{folder}/modern.h5ad"
        with tempfile.TemporaryDirectory() as inner:
            place = Place(modern, inner)
            targets(place)
            limits(place)
            fills(place)
        full_disk(modern)
        unprivileged(modern)
        appending(modern)
        old_files(f"{folder}/v06.h5ad")
    print(checked, "checked,", skipped, "skipped")


main()
