"""The environment variables that msrun sets in every process that it starts."""

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
        rank: rank of a worker; None if MindSpore assigns the ranks.
        ranks: number of workers.
        host, port: address of the scheduler.
        seconds: timeout for all processes to connect.
    """

    scheduler: bool
    rank: int | None
    ranks: int
    host: str
    port: int
    seconds: float

    @property
    def threads(self) -> int | None:
        """Number of threads of each worker if all are on this machine (the address is loopback), else None."""
        if self.host != "localhost" and not self.host.startswith("127."):
            return None
        return min(
            usable_cores(), max(1, (os.cpu_count() or 1) // self.ranks)
        )  # msrun --bind_core may have divided the cores already

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Launch | None":
        """Read the environment; return None if msrun did not start this process.

        Raises:
            SetupError: the variables of msrun are incomplete or inconsistent.
        """
        role = environment.get("MS_ROLE")
        if role not in ("MS_SCHED", "MS_WORKER"):
            return None
        try:
            # RANK_ID is not usable: without --node_rank, a worker inherits that of the scheduler.
            rank = int(environment["MS_NODE_ID"]) if role == "MS_WORKER" and "MS_NODE_ID" in environment else None
            ranks, port = int(environment["MS_WORKER_NUM"]), int(environment["MS_SCHED_PORT"])
            seconds = float(environment.get("MS_TOPO_TIMEOUT", 600))
            host = environment["MS_SCHED_HOST"]
        except (KeyError, ValueError) as error:
            raise SetupError(
                f"MS_ROLE is {role}, but other variables of msrun are missing or wrong ({error}): start with msrun, or "
                "unset MS_ROLE",
                code="msrun_variables_invalid",
            ) from error
        if ranks < 1 or (rank is not None and not 0 <= rank < ranks):
            raise SetupError(
                f"MS_NODE_ID is {rank}, but MS_WORKER_NUM is {ranks}: start with msrun, or unset MS_ROLE",
                code="msrun_variables_invalid",
            )
        return cls(role == "MS_SCHED", rank, ranks, host, port, seconds if seconds >= 0 else float("inf"))
