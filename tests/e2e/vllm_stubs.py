"""Stubs of VllmEngine: with PARALLAX_VLLM_STUBS=package (make test-gateway) those of the gateway's
own package, with any other value those in that folder (deploy/package/pack_for_gpu.sh), else
generated from proto/vllm, so that `make test` needs no registry."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile

from server_process import REPOSITORY


def _generate() -> str:
    folder = tempfile.mkdtemp(prefix="parallax-vllm-stubs-")
    subprocess.run(
        [
            "protoc",
            f"--proto_path={REPOSITORY / 'proto'}",
            f"--python_out={folder}",
            f"--grpc_python_out={folder}",
            f"--plugin=protoc-gen-grpc_python={shutil.which('grpc_python_plugin')}",
            "vllm/common.proto",
            "vllm/vllm_engine.proto",
        ],
        check=True,
    )
    return folder


if os.environ.get("PARALLAX_VLLM_STUBS") == "package":
    from smg_grpc_proto import vllm_engine_pb2 as pb
    from smg_grpc_proto import vllm_engine_pb2_grpc as rpc
    from smg_grpc_proto.generated import common_pb2 as common
else:
    _given = os.environ.get("PARALLAX_VLLM_STUBS")
    _folder = _given or _generate()
    sys.path.insert(0, _folder)
    try:
        from vllm import common_pb2 as common
        from vllm import vllm_engine_pb2 as pb
        from vllm import vllm_engine_pb2_grpc as rpc
    finally:
        sys.path.remove(_folder)
        if not _given:
            shutil.rmtree(_folder)

__all__ = ["common", "pb", "rpc"]
