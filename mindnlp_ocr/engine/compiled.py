"""Release of compiled graphs.

MindSpore keeps every compiled graph, with its weights and slots, until the process exits or the graph is released
explicitly. This module uses private names of MindSpore (2.7.2 to 2.10).
"""

from mindspore._c_expression import JitExecutor_
from mindspore.common import api


def phases() -> set[str]:
    """Return the names of all graphs that this process has compiled."""
    return set(api.ms_compile_cache)


def forget(names: set[str]) -> None:
    """Release these graphs, and empty the set. A later call of one of them compiles it again."""
    if names:
        api._cell_graph_executor.del_net_res(None, names)
        JitExecutor_.get_instance().del_net_res(None, names)
        api.ms_compile_cache.difference_update(names)
        names.clear()
