"""The HTTP service of an encoder; needs `m3plugins[serve]`."""

from m3plugins.serving.app import create_app
from m3plugins.serving.options import ServiceOptions

__all__ = ["ServiceOptions", "create_app"]
