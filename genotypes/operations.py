"""The vocabulary of candidate operations: which names a genotype may use, and how a picture labels them."""

OPERATIONS: dict[str, str] = {
    "none": "zero",
    "skip_connect": "identity",
    "neg_skip_connect": "neg. identity",
    "max_pool_3x3": "max pool 3x3",
    "avg_pool_3x3": "avg pool 3x3",
    "sep_conv_3x3": "sep conv 3x3",
    "sep_conv_5x5": "sep conv 5x5",
    "sep_conv_7x7": "sep conv 7x7",
    "dil_conv_3x3": "dil conv 3x3",
    "dil_conv_5x5": "dil conv 5x5",
    "conv_7x1_1x7": "conv 7x1, 1x7",
    "noise": "noise",
}
"""Operation name, as the literature spells it -> short label for pictures."""

_LONGEST_NAME = 40  # keeps pictures legible, and bounds the length of a genotype's text


def declare_operation(name: str, label: str) -> None:
    """Add an operation to the vocabulary, so that genotypes may name it.

    Raises ValueError if the name is taken or is not 1 to 40 printable ASCII characters, or if the label is
    empty or not printable.
    """
    if name in OPERATIONS:
        raise ValueError(f"operation {name!r} is already declared; choose another name")
    if not (name and name.isascii() and name.isprintable() and len(name) <= _LONGEST_NAME):
        raise ValueError(f"operation name {name!r} must be 1 to {_LONGEST_NAME} printable ASCII characters")
    if not (label and label.isprintable()):
        raise ValueError(f"label {label!r} of operation {name!r} must be non-empty printable text")
    OPERATIONS[name] = label
