"""Generates the package's protobuf and gRPC modules from proto/parallax/v1.

    python3 generate_stubs.py OUTPUT

writes OUTPUT/parallax_client/v1/*_pb2.py, their .pyi and *_pb2_grpc.py. Needs Debian's
protobuf-compiler and protobuf-compiler-grpc, or any protoc and grpc_python_plugin.

The generated modules import each other as `parallax.v1`; here they live inside the
package, so that installing it claims no other name.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROTO_ROOT = Path(__file__).resolve().parents[2] / "proto"
GENERATED_PACKAGE = "parallax.v1"
PACKAGE = "parallax_client.v1"


def generate(output: Path) -> None:
    """Raises FileNotFoundError if a tool is missing, CalledProcessError if protoc fails."""
    target = output.joinpath(*PACKAGE.split("."))
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        _run_protoc(Path(scratch))
        for file in Path(scratch, *GENERATED_PACKAGE.split(".")).iterdir():
            text = re.sub(
                rf"^from {re.escape(GENERATED_PACKAGE)} import",
                f"from {PACKAGE} import",
                file.read_text(encoding="utf-8"),
                flags=re.MULTILINE,
            )
            (target / file.name).write_text(text, encoding="utf-8")
    (target / "__init__.py").write_text(
        '"""Generated from proto/parallax/v1: the messages and stubs of the contract."""\n',
        encoding="utf-8",
    )


def _run_protoc(output: Path) -> None:
    files = sorted(path.relative_to(PROTO_ROOT) for path in PROTO_ROOT.glob("parallax/v1/*.proto"))
    subprocess.run(
        [
            _tool("protoc"),
            f"--proto_path={PROTO_ROOT}",
            f"--python_out={output}",
            f"--pyi_out={output}",
            f"--grpc_python_out={output}",
            f"--plugin=protoc-gen-grpc_python={_tool('grpc_python_plugin')}",
            *map(str, files),
        ],
        check=True,
    )


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise FileNotFoundError(
            f"{name} is missing; Debian: apt-get install protobuf-compiler protobuf-compiler-grpc"
        )
    return path


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    generate(Path(sys.argv[1]))
