"""What the fields of the configurations say about themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from genotypes.config import (
    AtLeast,
    Config,
    IsPath,
    KeptInCheckpoint,
    LessThan,
    MayDiffer,
    NoneMeans,
    flag,
    marked,
    texts,
)
from nas.evaluate import EvaluateConfig
from nas.methods.config import SearchConfig
from nas.networks.handmade.__main__ import Costs
from nas.study.compare import ResultsConfig
from nas.theory.__main__ import Check, Rates, Simulate
from nas.train import TrainConfig

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Sample(Config):
    part: Annotated[float | None, AtLeast(0), LessThan(1), NoneMeans("nothing")] = None
    sizes: tuple[Annotated[int, AtLeast(2)], ...] = (2,)
    kind: Literal["a", "b"] = "a"
    path: Annotated[str, IsPath] = ""


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"part": 1.0}, "--part is 1; it must be at least 0 and less than 1, or None: nothing"),
        ({"part": float("nan")}, "--part is nan; it must be"),
        ({"part": "x"}, "--part is 'x'; it must be a number or None"),
        ({"sizes": (3, 1)}, "--sizes has 1; each must be at least 2"),
        ({"sizes": (3, 2.5)}, "--sizes is (3, 2.5); it must be a tuple of which each is a whole number"),
        ({"kind": "c"}, "--kind is 'c'; it must be a or b"),
        ({"path": "a\0b"}, "--path is 'a\\x00b'; a path cannot hold a NUL character"),
        ({"path": "a\udcff"}, "--path is 'a\\xff', which is not UTF-8 text; rename it or link to it"),
    ],
)
def test_a_value_that_a_field_rules_out_is_refused_in_one_line(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(told)}"):
        Sample(**values)


def configurations(config: Any) -> Iterator[Any]:
    yield config
    for field in fields(config):
        if is_dataclass(value := getattr(config, field.name)):
            yield from configurations(value)


WHOLE = (SearchConfig(), TrainConfig(), EvaluateConfig(), Costs(), Simulate(), Rates(), Check(), ResultsConfig(runs=()))


@pytest.mark.parametrize("whole", WHOLE, ids=lambda whole: type(whole).__name__)
def test_every_field_is_explained(whole: Config) -> None:
    for config in configurations(whole):
        assert isinstance(config, Config)
        plain = {field.name for field in fields(config) if not is_dataclass(getattr(config, field.name))}
        assert plain <= texts(type(config)).keys()


def test_the_documents_name_the_flags_that_may_differ_with_resume() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    sentences = re.split(r"(?<=[.;:])\s", "\n".join(page.read_text() for page in pages))
    named = [set(re.findall(r"`(--[a-z-]+)`", sentence)) for sentence in sentences if "may differ" in sentence]
    marks = {flag(name) for config in (SearchConfig(), TrainConfig()) for name in marked(config, MayDiffer)}
    assert marks in named, f"no sentence says that {', '.join(sorted(marks))} may differ"
    assert marked(TrainConfig(), KeptInCheckpoint).keys() == {"arch"}
