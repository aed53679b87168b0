"""Which replica answers a request: the one that has read its image before, or holds its document.

Ray Serve's own router by consistent hashing does the rest: where that replica has its hands full, the request goes to one of
the next on the ring, which the same image will meet as well; and of the images of a replica that has gone, or of a new one,
no others move.
"""

import hashlib
import re

from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter
from ray.serve.request_router import PendingRequest, RunningReplica

DOCUMENT = re.compile(r"/v1/documents/doc-(\w+)-[0-9a-f]{32}(?:/|$)")
PINNED = "replica "
# The first image of a chat request, as its JSON has it: the body may hold many MiB, and is parsed where it is answered.
IMAGE = re.compile(rb'"(?:image_url|url)"\s*:\s*"([^"]+)"')


def session_of(path: str, body: bytes) -> str:
    """What requests have in common that meet the same replica; "" where any replica will do."""
    if held := DOCUMENT.match(path):
        return PINNED + held[1]
    image = IMAGE.search(body) if path == "/v1/chat/completions" else None
    return hashlib.sha256(image[1]).hexdigest() if image else ""


class Router(ConsistentHashRouter):
    """Chooses by the image; by the document where it has been sent; or else the replica with the fewest requests."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Replicas, in the order in which they are asked."""
        session = pending_request.metadata.session_id if pending_request else ""
        if session and not session.startswith(PINNED):
            return await super().choose_replicas(candidate_replicas, pending_request)
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True  # where all have their hands full, ask again later
        name = session.removeprefix(PINNED)
        holder = [replica for replica in candidate_replicas if replica.replica_id.unique_id == name]
        return [holder or candidate_replicas]  # where the holder has gone, any other can say so
