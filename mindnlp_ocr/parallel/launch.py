"""What msrun tells each process that it starts, in the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.ops.cores import usable_cores

EXAMPLE = "msrun --worker_num {0} --local_worker_num {0} --join True tools/infer.py"


@dataclass(frozen=True)
class Launch:
    """One process of a run: the scheduler, or one of the workers.

    Attributes:
        rank: of a worker; None where MindSpore is to number them.
        ranks: how many workers there are.
        host, port: where the scheduler listens.
        seconds: for all processes to come.
    """

    scheduler: bool
    rank: int | None
    ranks: int
    host: str
    port: int
    seconds: float

    @property
    def threads(self) -> int | None:
        """Of each worker, where all are on this machine, as a loopback address says; None where nobody knows."""
        if self.host != "localhost" and not self.host.startswith("127."):
            return None
        return min(usable_cores(), max(1, (os.cpu_count() or 1) // self.ranks))  # msrun --bind_core has divided them already

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Launch | None":
        """None where msrun did not start this process.

        Raises:
            SetupError: the environment is not as msrun leaves it.
        """
        role = environment.get("MS_ROLE")
        if role not in ("MS_SCHED", "MS_WORKER"):
            return None
        try:
            # RANK_ID is no help: without --node_rank a worker inherits the scheduler's.
            rank = int(environment["MS_NODE_ID"]) if role == "MS_WORKER" and "MS_NODE_ID" in environment else None
            ranks, port = int(environment["MS_WORKER_NUM"]), int(environment["MS_SCHED_PORT"])
            seconds = float(environment.get("MS_TOPO_TIMEOUT", 600))
            host = environment["MS_SCHED_HOST"]
        except (KeyError, ValueError) as error:
            raise SetupError(
                f"MS_ROLE is {role}, but the rest that msrun sets is missing or wrong ({error}): start with msrun, or unset "
                "MS_ROLE"
            ) from error
        if ranks < 1 or (rank is not None and not 0 <= rank < ranks):
            raise SetupError(f"MS_NODE_ID is {rank}, MS_WORKER_NUM {ranks}: start with msrun, or unset MS_ROLE")
        return cls(role == "MS_SCHED", rank, ranks, host, port, seconds if seconds >= 0 else float("inf"))
