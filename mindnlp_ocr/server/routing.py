"""Routing of requests to the replica that has read the same image before, or that stores the document.

This uses Ray Serve's router with consistent hashing: if that replica is busy, the request goes to the next one on the ring,
which is the same for all requests with this image. When a replica is added or removed, only its share of the images moves.
"""

import hashlib
import re

from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter
from ray.serve.request_router import PendingRequest, RunningReplica

DOCUMENT = re.compile(r"/v1/documents/doc-(\w+)-[0-9a-f]{32}(?:/|$)")
PINNED = "replica "
# The first image in the JSON of a chat request. The body may have many MiB, so only the replica parses it.
IMAGE = re.compile(rb'"(?:image_url|url)"\s*:\s*"([^"]+)"')


def session_of(path: str, body: bytes) -> str:
    """Return a key that requests for the same replica share, or "" if any replica will do."""
    if held := DOCUMENT.match(path):
        return PINNED + held[1]
    image = IMAGE.search(body) if path == "/v1/chat/completions" else None
    return hashlib.sha256(image[1]).hexdigest() if image else ""


class Router(ConsistentHashRouter):
    """Chooses a replica by the image or the document of a request, else the one with the fewest requests."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Return groups of replicas in the order in which they are tried."""
        session = pending_request.metadata.session_id if pending_request else ""
        if session and not session.startswith(PINNED):
            return await super().choose_replicas(candidate_replicas, pending_request)
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True  # if all replicas are busy, try again later
        name = session.removeprefix(PINNED)
        holder = [replica for replica in candidate_replicas if replica.replica_id.unique_id == name]
        return [holder or candidate_replicas]  # without the holder, any replica can answer 404
