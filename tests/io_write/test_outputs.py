"""Writes outputs in all modes on 1 to 3 ranks and has anndata read them.

test_outputs.py WRITE_DRIVER [PYTHON_ENV_SCRIPT BUILD_FOLDER]: with this python's anndata, or with
the newest one, in the environment that the script makes.
"""
import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
DRIVER = sys.argv[1]
MODERN = ["kind", "gappy", "stage", "donor", "score", "half", "count", "small", "flag", "text",
          "maybe", "perhaps"]
V07 = [c for c in MODERN if c not in ("maybe", "perhaps", "half")]
V06 = ["kind", "gappy", "score", "flag", "text", "count"]
VAR = ["highly_variable", "symbol", "mean", "rank", "chromosome"]


def run(ranks, *arguments):
    launch = [] if ranks == 1 else [os.environ["MPIRUN"], "--bind-to", "none", "-n", str(ranks)]
    done = subprocess.run([*launch, DRIVER, "results", *arguments], capture_output=True, text=True,
                          timeout=60)
    lines = [line for line in done.stderr.splitlines() if line.startswith("atlasvi:")]
    if done.returncode != 0:
        sys.exit(f"{arguments} on {ranks} ranks: exit status {done.returncode}: {done.stderr}")
    return lines


def warned(lines, *words):
    found = [line for line in lines if all(word in line for word in words)]
    assert len(found) == 1, (words, lines)


def write_all(folder):
    """Every case: what is written, and what must come out."""
    truth = f"{folder}/modern.h5ad"
    cases = []

    def case(name, ranks, mode="results", genes="all", columns=MODERN, var=VAR, wide=0, extra=()):
        output = f"{folder}/out{len(cases)}.h5ad"
        lines = run(ranks, f"data.input={folder}/{name}", f"output.path={output}",
                    f"output.mode={mode}", f"genes={genes}", f"wide={wide}", *extra)
        warned(lines, "warning", "uns/ldvae_batch_offsets: 2 column names changed", '"ctrl/1"')
        cases.append({"output": output, "input": f"{folder}/{name}", "truth": truth, "mode": mode,
                      "genes": genes, "columns": columns, "var": var, "wide": wide,
                      "unknown": name in ("odd.h5ad", "v06.h5ad")})
        return lines

    for ranks in (1, 2, 3):
        assert len(case("modern.h5ad", ranks)) == 1
    case("modern.h5ad", 2, wide=30000)  # several rounds, of unequal length
    case("modern.h5ad", 3, wide=30000, extra=["output.compression=4"])
    case("modern.h5ad", 1, genes="some", extra=["output.compression=1"])
    case("modern.h5ad", 2, genes="raw")
    kept = MODERN + ["reversed", "words", "words_gaps", "wide_codes", "latin"]
    lines = case("odd.h5ad", 1, columns=kept)
    left = [line for line in lines if "columns of obs left out" in line]
    assert len(left) == 1, lines
    for name in ("obs/ragged", "awkward-array", "obs/matrix", "obs/short", "obs/bad_codes",
                 "obs/absent"):
        assert name in left[0], (name, left)
    warned(lines, "obs/latin", "taken as Latin-1")
    case("bare.h5ad", 1)
    case("v07.h5ad", 1, columns=V07)
    case("v06.h5ad", 2, columns=V06, var=["mean", "chromosome"])
    for name in ("modern.h5ad", "bare.h5ad", "v07.h5ad"):
        case(name, 2, mode="copy", genes="some")
    case("modern.h5ad", 1, mode="copy", genes="raw", extra=["output.compression=4"])
    return cases


def check_many(folder):
    """5,000 columns: more than fits an object header."""
    run(1, f"data.input={folder}/many.h5ad", f"output.path={folder}/out_many.h5ad")
    code = ("import anndata, sys; a = anndata.read_h5ad(sys.argv[1]); "
            "assert a.obs.shape == (3, 5000); assert a.obs['column 4321'].tolist() == [4321] * 3")
    return [code, f"{folder}/out_many.h5ad"]


def scanpy_goes_on(python, output):
    code = ("import anndata, scanpy as sc, sys; a = anndata.read_h5ad(sys.argv[1]); "
            "sc.pp.neighbors(a, use_rep='X_scvi'); print(a.obsp['connectivities'].shape)")
    subprocess.run([python, "-c", code, output], check=True, timeout=200)


def main():
    try:
        import anndata  # noqa: F401
    except ImportError:
        print("skipped: this python has no anndata (python3-anndata), which makes the inputs")
        sys.exit(77)
    python = sys.executable
    if len(sys.argv) > 2:
        made = subprocess.run(sys.argv[2:4], stdout=subprocess.PIPE, text=True)
        if made.returncode != 0:
            sys.exit(made.returncode)
        python = made.stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, f"{HERE}/make_inputs.py", folder], check=True)
        cases = write_all(folder)
        with open(f"{folder}/cases.json", "w") as file:
            json.dump(cases, file)
        subprocess.run([python, f"{HERE}/check_outputs.py", f"{folder}/cases.json"], check=True)
        subprocess.run([python, "-c", *check_many(folder)], check=True)
        if len(sys.argv) > 2:
            scanpy_goes_on(python, cases[0]["output"])


main()
