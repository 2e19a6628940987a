"""A gRPC gateway in front of Milvus Lite: what a server sees of its clients, and how clients take its faults."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc

Fault = grpc.StatusCode | bytes
"""A status, or an answer."""


@dataclass
class Gateway(grpc.GenericRpcHandler):
    """Forwards every call, bytes in, bytes out.

    Attributes:
        channel: To Milvus Lite.
        uri: Where clients find the gateway.
        faults: What the next calls of a method get instead, by method.
        seen: Each call's method with its metadata.
    """

    channel: grpc.Channel
    uri: str = ""
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        method = details.method.rpartition("/")[2]

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            metadata = dict(context.invocation_metadata())
            self.seen.append((method, metadata))
            if self.faults.get(method):
                fault = self.faults[method].pop(0)
                return fault if isinstance(fault, bytes) else context.abort(fault, "the gateway's fault")
            passed_on = [("dbname", metadata["dbname"])] if metadata.get("dbname") else []
            try:
                return self.channel.unary_unary(details.method)(request, metadata=passed_on)
            except grpc.RpcError as err:
                context.abort(err.code(), err.details())

        return grpc.unary_unary_rpc_method_handler(answer)


@contextmanager
def gateway(
    path: Path, listen: str = "127.0.0.1:0", credentials: grpc.ServerCredentials | None = None
) -> Iterator[Gateway]:
    """A gateway to the Milvus Lite of this file; with credentials it speaks TLS."""
    from milvus_lite.server_manager import server_manager_instance

    lite = server_manager_instance.start_and_get_uri(str(path))
    sizes = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
    with grpc.insecure_channel(lite.removeprefix("http://"), options=sizes) as channel:
        handler = Gateway(channel)
        server = grpc.server(ThreadPoolExecutor(8), handlers=[handler], options=sizes)
        port = server.add_secure_port(listen, credentials) if credentials else server.add_insecure_port(listen)
        scheme = "https" if credentials else "http"
        handler.uri = listen if listen.startswith("unix:") else f"{scheme}://{listen.partition(':')[0]}:{port}"
        server.start()
        yield handler
        server.stop(None).wait()
    server_manager_instance.release_server(str(path))
