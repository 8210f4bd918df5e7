"""Search spaces: what can be searched. See `spaces.space` for what a space is, `spaces.registry` for the list."""

from genotypes.registry import discover, import_modules
from spaces.ops import OPERATIONS, TABLE_6, build_operation, is_parameter_free, operation
from spaces.registry import SpaceConfig, build, get, load_installed, names, register
from spaces.space import KINDS, Kind, Mixing, SearchSpace, Topology, fully_connected

__all__ = [
    "KINDS",
    "OPERATIONS",
    "TABLE_6",
    "Kind",
    "Mixing",
    "SearchSpace",
    "SpaceConfig",
    "Topology",
    "build",
    "build_operation",
    "fully_connected",
    "get",
    "import_modules",
    "is_parameter_free",
    "load_installed",
    "names",
    "operation",
    "register",
]

discover("spaces")
