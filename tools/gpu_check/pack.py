"""Packs what tools/gpu-check runs on a machine that has nothing: stripped programs and tests for a GPU, and the shared
libraries they need that such a machine lacks, Open MPI with its plugins among them. One archive and its manifest; unpacked
beside, never into /, for each run."""
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile

ARCHIVE = "programs.tar.gz"
MAX_BYTES = 48 << 20  # of the archive: with the repository's 14 MiB less than 64 MiB
PROGRAMS = ("tailor", "tailor-coordinator", "tailor-worker-cuda", "gpu-bench")
# The machine's own: of the C library, of the driver, and of CUDA (they come with torch, or a Toolkit).
THERE = re.compile(r"^(ld-linux.*|lib(c|m|dl|rt|pthread|resolv|util|nss_.*|anl)\.so.*|linux-vdso.*|lib(cuda|cudart|cublasLt"
                   r"|cublas|nccl|nvidia-.*)\.so.*)$")
# Plugins of Open MPI that need hardware or libraries which no such machine has; without them it uses shared memory and TCP.
LEFT_OUT = re.compile(r"libfabric|libpsm|libucp|libucs|libuct|libibverbs|librdmacm|libefa|libpmi\.|libpmi2|liboshmem|libcuda|libgfortran"
                      r"|libcollx|libopamgt|libcxi")


def tests_of(build, label):
    """The tests of a build with that label whose programs are built, as ctest knows them; `program` is the word of `command`
    that is the test's own (others start it: mpirun)."""
    if shutil.which("ctest") is None:
        return []
    done = subprocess.run(["ctest", "--test-dir", build, "--show-only=json-v1", "-L", f"^{label}$"], capture_output=True,
                          text=True, check=False)
    if done.returncode != 0:
        return []
    found, folder = [], pathlib.Path(build).resolve() / "tests"
    for test in json.loads(done.stdout)["tests"]:
        command = test.get("command", [])
        own = [i for i, word in enumerate(command) if pathlib.Path(word).parent == folder and os.access(word, os.X_OK)]
        if own:
            properties = {item["name"]: item["value"] for item in test.get("properties", [])}
            environment = dict(item.split("=", 1) for item in properties.get("ENVIRONMENT", []))
            found.append({"name": test["name"], "command": command, "program": own[0], "environment": environment})
    return found


def libraries_of(path):
    """{name: file} of what the loader takes for `path`, all the way down."""
    text = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
    return {name: file for name, file in re.findall(r"^\s*(\S+) => (\S+) ", text, re.M)}


def mpi_folders():
    """Where this machine's Open MPI has its plugins and its help."""
    text = subprocess.run(["ompi_info", "--parsable", "--path", "all"], capture_output=True, text=True, check=True).stdout
    return {name: pathlib.Path(value) for name, value in re.findall(r"^path:(\w+):(.*)$", text, re.M)}


def strip(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["strip", "--strip-unneeded", "-o", target, os.path.realpath(source)], check=True)


def pack_mpi(out, wanted):
    """mpirun with the plugins whose libraries can be had, in a tree that OPAL_PREFIX names."""
    folders = mpi_folders()
    tree = out / "openmpi"
    for name in ("mpirun", "orted"):
        program = pathlib.Path(os.path.realpath(shutil.which(name)))
        strip(program, tree / "bin" / name)
        wanted.update(libraries_of(program))
    prefix = folders["prefix"]

    def inside(folder):
        return tree / folder.relative_to(prefix)

    for plugin in sorted(folders["pkglibdir"].glob("openmpi*/mca_*.so")) + sorted(folders["pkglibdir"].glob("mca_*.so")):
        needs = libraries_of(plugin)
        if any(LEFT_OUT.match(name) for name in needs):
            continue
        strip(plugin, inside(plugin))
        wanted.update(needs)
    shutil.copytree(folders["pkgdatadir"], inside(folders["pkgdatadir"]))
    settings = folders["sysconfdir"] / "openmpi-mca-params.conf"
    (tree / "etc").mkdir()
    (tree / "etc" / settings.name).write_text(
        (settings.read_text(encoding="utf-8") if settings.exists() else "") +
        "\n# One host: nothing is started through ssh, which need not be there.\nplm = isolated\n", encoding="utf-8")
    return {name: str(path) for name, path in folders.items()}


def fill(build, tests, out):
    """Puts all of it into `out`; gives the manifest's part."""
    wanted, packed = {}, []
    for name in PROGRAMS:
        wanted.update(libraries_of(build / "bin" / name))
        strip(build / "bin" / name, out / "bin" / name)
    for test in tests:
        command = list(test["command"])
        program = pathlib.Path(command[test["program"]])
        wanted.update(libraries_of(program))
        strip(program, out / "tests" / program.name)
        command[test["program"]] = f"tests/{program.name}"
        packed.append({**test, "command": command})
    mpi = pack_mpi(out, wanted)
    for name, file in sorted(wanted.items()):
        if not THERE.match(name):
            strip(file, out / "lib" / name)
    return {"glibc": glibc_needed(out), "tests": packed, "open_mpi_of": mpi}


def make(root, build, out, commit, build_first):
    """Fills `out`. Gives the exit status."""
    if build_first:
        subprocess.run([root / "launch/setup", "--build", "cuda", "cuda_tests", *PROGRAMS], check=True)
    tests = tests_of(build, "gpu")
    if not tests:
        print(f"gpu-check: no test of {build} is for a GPU; build its target cuda_tests", file=sys.stderr)
        return 2
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as tree:
        facts = fill(build, tests, pathlib.Path(tree))
        files = {str(path.relative_to(tree)): path.stat().st_size for path in sorted(pathlib.Path(tree).rglob("*"))
                 if path.is_file()}
        with tarfile.open(out / ARCHIVE, "w:gz", compresslevel=6) as archive:
            archive.add(tree, arcname=".")
    (out / "manifest.json").write_text(json.dumps({"commit": commit, **facts, "files": files}, indent=1) + "\n",
                                       encoding="utf-8")
    size = (out / ARCHIVE).stat().st_size
    print(f"gpu-check: {len(files)} files of {sum(files.values()) / 2**20:.1f} MiB, {size / 2**20:.1f} MiB packed in {out} "
          f"(allowed {MAX_BYTES >> 20})")
    return 0 if size <= MAX_BYTES else 1


def glibc_needed(tree):
    """The newest version of the C library that a file names, (2, 34)."""
    return max((int(major), int(minor)) for path in tree.rglob("*") if path.is_file()
               for major, minor in re.findall(rb"\0GLIBC_(\d+)\.(\d+)", path.read_bytes()))


def unpack(folder, out):
    """The programs of `folder` into `out`; gives the manifest. Ends where this machine's C library is too old for them."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    needed, here = manifest["glibc"], platform.libc_ver()[1]
    if here and [int(word) for word in here.split(".")[:2]] < needed:
        raise SystemExit(f"gpu-check: the packed programs need glibc {needed[0]}.{needed[1]}, and this machine has {here}; "
                         "pack where it is older, or build here with launch/setup --build cuda")
    with tarfile.open(folder / ARCHIVE) as archive:
        archive.extractall(out)  # our own
    return manifest


def unpacked_test(test, folder, mpirun):
    """A packed test as it is run from `folder`."""
    command = list(test["command"])
    if test["program"] != 0:
        command[0] = str(mpirun)
    command[test["program"]] = str(folder / command[test["program"]])
    return {**test, "command": command}
