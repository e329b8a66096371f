"""Python client of Tailor's request API: pyzmq and protobuf, nothing else. See docs/api.md."""

from ._client import Accepted, Client, Finished, Rejected, RequestFailed, TokenChunk, Unavailable

__all__ = ["Accepted", "Client", "Finished", "Rejected", "RequestFailed", "TokenChunk", "Unavailable"]
