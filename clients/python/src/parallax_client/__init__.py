"""Client of parallax-server: completions over gRPC.

    from parallax_client import Client

    with Client("127.0.0.1:50051") as client:
        for chunk in client.stream("Once upon a time", max_tokens=64):
            print(chunk.text, end="", flush=True)

`Client` blocks; `AsyncClient` has the same methods for asyncio. Answers are the messages of
proto/parallax/v1 (in `parallax_client.v1`); failed calls raise grpc.RpcError, whose code()
and details() are those of the contract.
"""

from parallax_client.aio import AsyncClient, AsyncStream
from parallax_client.channel import TlsOptions
from parallax_client.client import Client, Stream
from parallax_client.health import ServingStatus
from parallax_client.perplexity import Perplexity
from parallax_client.request import build_request
from parallax_client.retry import RetryPolicy

__all__ = [
    "AsyncClient",
    "AsyncStream",
    "Client",
    "Perplexity",
    "RetryPolicy",
    "ServingStatus",
    "Stream",
    "TlsOptions",
    "build_request",
]
