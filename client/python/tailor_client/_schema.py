"""Finds the protobuf module of proto/api.proto, which is generated, not committed.

In this order: the folder named by TAILOR_PYTHON_PROTO; beside this file (an installed package); the newest build
folder of the checkout this file lies in (build/*/python); else `protoc` makes it in build/python of that checkout.
"""

import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys

_HERE = pathlib.Path(__file__).resolve().parent
_ROOT = _HERE.parents[2]
_NAME = "api_pb2.py"


def _candidates():
    if "TAILOR_PYTHON_PROTO" in os.environ:
        yield pathlib.Path(os.environ["TAILOR_PYTHON_PROTO"]) / _NAME
    yield _HERE / _NAME
    schema = _ROOT / "proto" / "api.proto"
    oldest = schema.stat().st_mtime if schema.exists() else 0
    built = [p for p in _ROOT.glob("build/*/python/" + _NAME) if p.stat().st_mtime >= oldest]
    yield from sorted(built, key=lambda p: p.stat().st_mtime, reverse=True)
    made = _ROOT / "build" / "python" / _NAME
    if made.exists() and made.stat().st_mtime >= oldest:
        yield made


def _generate():
    protoc = shutil.which("protoc")
    schema = _ROOT / "proto" / "api.proto"
    if protoc is None or not schema.exists():
        raise ImportError(
            "tailor_client needs api_pb2.py: build Tailor once, or install protoc, or point TAILOR_PYTHON_PROTO at it")
    out = _ROOT / "build" / "python"
    out.mkdir(parents=True, exist_ok=True)
    subprocess.run([protoc, f"--python_out={out}", f"-I{schema.parent}", schema.name], check=True)
    return out / _NAME


def _load():
    path = next((p for p in _candidates() if p.exists()), None) or _generate()
    spec = importlib.util.spec_from_file_location("tailor_client._api_pb2", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


api = _load()
