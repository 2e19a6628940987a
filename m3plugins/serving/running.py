"""The service in a process of its own, until it is told to end."""

from __future__ import annotations

import json
import logging
import signal
import socket

import uvicorn

from m3plugins.encoding.encoder import M3Encoder
from m3plugins.serving.app import create_app
from m3plugins.serving.options import ServiceOptions

logger = logging.getLogger("m3plugins.serving")


def run(encoder: M3Encoder, options: ServiceOptions, *, host: str, port: int) -> int:
    """Listens and answers until SIGTERM or SIGINT; requests that were accepted are answered first.

    Args:
        encoder: Encodes.
        options: The limits.
        host: Address to listen at.
        port: Port to listen at; 0 is a free one, which the log tells.

    Returns:
        An exit code.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        address = f"[{host}]" if ":" in host else host
        config = uvicorn.Config(
            create_app(encoder, options),
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=int(options.drain_s),
            server_header=False,
        )
        logger.info(json.dumps({"serves": encoder.name, "at": f"http://{address}:{listening.getsockname()[1]}"}))
        server = uvicorn.Server(config)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)  # uvicorn raises what it was told to end by once more, when it has
        server.run(sockets=[listening])
    return 0 if server.started else 1
