"""The supernet: a stack of cells whose edges mix all candidate operations. README.md says how it is computed."""

from nas.supernet.cell import LeavingEdges, SearchCell
from nas.supernet.supernet import Supernet, SupernetConfig, from_per_edge_state_dict

__all__ = ["LeavingEdges", "SearchCell", "Supernet", "SupernetConfig", "from_per_edge_state_dict"]
