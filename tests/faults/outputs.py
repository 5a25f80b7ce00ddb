#!/usr/bin/env python3
"""Faults of the output: it exists, its folder does not, no permission, no space, in any mode."""
import os
import resource
import shutil
import subprocess

from scene import NO_SHIM, SHIM, Scene, ar



def ordinary(scene):
    place = scene.new_folder()
    existing = os.path.join(place, "out.h5ad")
    with open(existing, "wb") as file:
        file.write(b"precious")
    scene.refused("output exists", {}, 73, r"out\.h5ad: exists already.*overwrite = yes",
                  folder=place, kept=["out.h5ad"], watch=existing)
    place = scene.new_folder()
    with open(os.path.join(place, "out.model.h5"), "wb") as file:
        file.write(b"precious model")
    scene.refused("model exists", {}, 73, r"out\.model\.h5: exists already", folder=place,
                  ranks=(0, 2), kept=["out.model.h5"], watch=os.path.join(place, "out.model.h5"))
    place = scene.new_folder()
    os.mkdir(os.path.join(place, "out.h5ad"))
    scene.refused("output is a folder", {"output.overwrite": "yes"}, 73, r"out\.h5ad.*directory",
                  folder=place, ranks=(0,), kept=["out.h5ad"])
    scene.refused("folder missing", {"output.path": scene.path("none", "out.h5ad")}, 73,
                  r"none/out\.h5ad: cannot be created.*none.*does not exist")
    scene.refused("folder is a file", {"output.path": scene.input + "/out.h5ad"}, 73,
                  r"out\.h5ad: cannot be created", ranks=(0, 2))
    scene.refused("model's folder missing", {"output.model": scene.path("none", "m.h5")}, 73,
                  r"none/m\.h5", ranks=(0, 2))
    scene.refused("log's folder missing", {"runtime.log": scene.path("none", "run.jsonl")}, 73,
                  r"none/run\.jsonl", ranks=(0, 2))

    place = scene.new_folder()
    for turn in range(2):
        result = ar.run([scene.ini(place, {"output.overwrite": "yes"})], ranks=2)
        scene.judge("overwrite, turn %d" % turn, None if result.code == 0 else "exit status %d"
                    % result.code, result)


def unprivileged(scene):
    """As somebody who may not write everywhere: root may."""
    prefix, program = [], None
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            scene.skip("no permission (root, and no setpriv to be somebody else)")
            return
        prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        program = scene.path("atlasvi")
        shutil.copy(ar.PROGRAM, program)
        os.chmod(program, 0o755)
        os.chmod(scene.folder, 0o755)
        os.chmod(scene.input, 0o644)
    home = scene.new_folder(0o777)
    options = {"prefix": prefix, "program": program, "env": {"HOME": home, "TMPDIR": home}}
    closed = scene.new_folder(0o555)
    for ranks in (0, 2):
        scene.refused("no permission in the folder", {}, 73,
                      r"out\.h5ad: cannot be created: no permission", ranks=(ranks,), folder=closed,
                      **options)
    place = scene.new_folder(0o777)
    secret = scene.path("secret.h5ad")
    shutil.copy(scene.input, secret)
    os.chmod(secret, 0)
    scene.refused("no permission to read", {"data.input": secret}, 66,
                  r"secret\.h5ad: no permission to read", ranks=(0, 2), folder=place, **options)
    existing = os.path.join(place, "out.h5ad")
    with open(existing, "wb") as file:
        file.write(b"precious")
    os.chmod(existing, 0o444)
    scene.refused("write-protected output", {"output.overwrite": "yes"}, 73,
                  r"out\.h5ad: cannot be replaced", ranks=(0,), folder=place, kept=["out.h5ad"],
                  watch=existing, **options)
    closed_input = scene.new_folder(0o555)
    os.chmod(closed_input, 0o755)
    shutil.copy(scene.input, os.path.join(closed_input, "in.h5ad"))
    os.chmod(closed_input, 0o555)
    scene.refused("append where nothing may be written", {
        "data.input": os.path.join(closed_input, "in.h5ad"), "output.mode": "append",
        "output.path": "", "output.model": os.path.join(home, "m.h5")}, 73,
        r"in\.h5ad.*permission", ranks=(0,), folder=closed_input, kept=["in.h5ad"], **options)
    # The same user in a folder of their own: what was refused above was the permission.
    place = scene.new_folder(0o777)
    result = ar.run([scene.ini(place, {})], **options)
    scene.judge("unprivileged run", None if result.code == 0 else "exit status %d" % result.code,
                result)


WIDE = {"output.denoised": "yes", "output.sample_rate": "yes"}


def limited(scene):
    """A file-size limit, as ulimit -f sets it. (Without a launcher: that has files of its own.)"""
    small = {"PMIX_MCA_gds": "hash"}  # or the MPI library needs shared files of 5 MB

    def limit(size):
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    scene.refused("file-size limit seen before training", WIDE, 74, r"\.h5.*(ulimit -f|limit)",
                  ranks=(0,), before=limit(3000), env=small)
    # Room for what is announced and for the model, but not for names and tags beside the numbers.
    place = scene.new_folder()
    result = ar.run([scene.ini(place, WIDE)], before=limit(40000), env=small)
    problem = ar.fault_of(result, 74, r"out\.h5ad: .*(ulimit -f|limit)")
    if not problem and not os.path.exists(os.path.join(place, "out.model.h5")):
        problem = "the fitted model was not kept"
    scene.judge("file-size limit met while writing",
                problem or scene.left_in(place, ["out.model.h5"]), result)
    place = scene.new_folder()
    result = ar.run([scene.ini(place, WIDE)], before=limit(400000), env=small)
    scene.judge("file-size limit that is large enough",
                None if result.code == 0 else "exit status %d" % result.code, result)


def shim_faults(scene):
    """Failures of single system calls, half way through the outputs."""
    if not SHIM:
        scene.skip("failing system calls (%s)" % NO_SHIM)
        return

    def failing(title, plan, code, message, ranks, kept=(), settings=None):
        env = {"LD_PRELOAD": SHIM, "ATLASVI_SHIM": plan + ",program=" +
               os.path.basename(ar.PROGRAM)}
        place = scene.new_folder()
        result = ar.run([scene.ini(place, {**WIDE, **(settings or {})})], ranks=ranks, env=env)
        problem = ar.fault_of(result, code, message)
        if "shim: rank" not in result.err:
            problem = "the fault never came"
        scene.judge("%s (%d)" % (title, ranks), problem or scene.left_in(place, kept), result)
    model = ["out.model.h5"]
    for ranks in (0, 2, 3):
        for after in (1, 4, 12):
            failing("disk full at write %d of the output" % after,
                    "rank=0,call=pwrite|write,times=all,errno=ENOSPC,path=out.h5ad,after=%d"
                    % after, 74, r"out\.h5ad: .*(?i:no space left)", ranks, model)
        failing("disk full in the model", "rank=0,call=pwrite|write,times=all,errno=ENOSPC,"
                "path=out.model.h5", 74, r"out\.model\.h5: .*(?i:no space left)", ranks)
    failing("quota", "rank=0,call=pwrite|write,times=all,errno=EDQUOT,path=out.h5ad,after=3", 74,
            r"out\.h5ad: .*(?i:quota)", 2, model)
    failing("I/O error at fsync", "rank=0,call=fsync,errno=EIO,path=out.h5ad", 74,
            r"out\.h5ad: .*(?i:input/output error)", 2, model)
    failing("rename fails", "rank=0,call=rename,errno=EACCES,path=out.h5ad", [73, 74],
            r"out\.h5ad: ", 2, model)
    failing("disk full in copy mode", "rank=0,call=pwrite|write,times=all,errno=ENOSPC,"
            "path=out.h5ad,after=2", 74, r"out\.h5ad: .*(?i:no space left)", 2, model,
            {"output.mode": "copy"})


def small_disk(scene):
    """A small file system of our own, in a mount namespace that ends with the run."""
    script = ('mount -t tmpfs -o size=$1 none "$2" && shift && place=$1 && shift && '
              '"$@"; code=$?; ls -A "$place" >"$place.list"; exit $code')
    unshare = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    probe = scene.new_folder()
    if subprocess.run([*unshare, "sh", "-c", script, "sh", "64k", probe, "true"],
                      stderr=subprocess.DEVNULL, check=False).returncode != 0:
        scene.skip("a small tmpfs (it cannot be mounted here)")
        return
    for title, size, settings, kept in (
            ("disk too small, seen before training", "12k", WIDE, []),
            ("disk too small for the results", "40k", WIDE, ["out.model.h5"]),
            ("disk too small for a copy", "40k", {"output.mode": "copy"}, ["out.model.h5"])):
        for ranks in (0, 2):
            place = scene.new_folder()
            result = ar.run([scene.ini(place, settings)], ranks=ranks,
                            prefix=[*unshare, "sh", "-c", script, "sh", size, place])
            problem = ar.fault_of(result, 74, r"\.h5.*(?i:space|full).*free")
            if not problem and "before" in title and "elbo_train" in result.out:
                problem = "it was seen after training"
            with open(place + ".list") as file:
                left = sorted(set(file.read().split()) - set(kept))
            problem = problem or ("left behind: %s" % left if left else None)
            scene.judge("%s (%d)" % (title, ranks), problem, result)


def main():
    scene = Scene()
    for part in (ordinary, unprivileged, limited, shim_faults, small_disk):
        part(scene)
    scene.finish()


if __name__ == "__main__":
    main()
