"""What MindSpore keeps of a graph that was compiled: all of it, with its weights and slots, as long as the process lives or
until it is told to forget it. The names are MindSpore's own and not public (2.7.2 to 2.10)."""

from mindspore._c_expression import JitExecutor_
from mindspore.common import api


def phases() -> set[str]:
    """The names of all graphs that this process has compiled."""
    return set(api.ms_compile_cache)


def forget(names: set[str]) -> None:
    """Free these graphs, and empty the set. Whoever calls one of them again compiles it again."""
    if names:
        api._cell_graph_executor.del_net_res(None, names)
        JitExecutor_.get_instance().del_net_res(None, names)
        api.ms_compile_cache.difference_update(names)
        names.clear()
