"""The checks themselves, as data: their names, what they cite, and how they are chosen."""

from __future__ import annotations

import re

import pytest
from holdfast_conformance import needs, registry, requirements, schemas
from holdfast_conformance.ambient import RULES
from holdfast_conformance.case import Check, check
from holdfast_conformance.collect import NoMatchError, everything, select
from holdfast_conformance.probe import CANARY
from holdfast_conformance.vectors import checks as vector_checks

KNOWN = requirements.published()
ALL = everything()
WRITTEN = [made for made in ALL if not made.data_driven]


def test_names_are_stable_words() -> None:
    """Ids are area and words, never twice, and those of the ambient rules are not used again."""
    ids = [made.id for made in ALL] + list(RULES) + [CANARY.id]
    assert len(ids) == len(set(ids))
    assert not [id for id in ids if re.fullmatch(r"[a-z]+(-[a-z]+)*/[a-z0-9]+(-[a-z0-9]+)*", id) is None]


def test_written_checks_belong_to_the_area_of_their_first_requirement() -> None:
    """The area of a check is one of the specification's."""
    areas = {requirement.area.lower() for requirement in KNOWN}
    assert {made.area for made in WRITTEN} <= areas


@pytest.mark.parametrize("made", ALL, ids=lambda made: made.id)
def test_every_check_cites_sentences_that_bind_a_server(made: Check) -> None:
    """No check covers an id that the specification lacks, or one that binds clients alone."""
    for id in made.covers:
        found = KNOWN.get(id)
        assert found is not None, f"{made.id} covers {id}, which is not in the specification"
        assert found.subject in ("server", "endpoint")


def test_every_need_is_known() -> None:
    """Each need is a profile, a plain need, or of a known kind."""
    profiles = registry.published().needs.keys()
    for made in ALL:
        for need in made.needs:
            kind, _, name = need.partition(":")
            assert (
                (kind in needs.NEEDS or kind == "no") if name else (kind in profiles or kind in needs.PLAIN)
            ), need


def test_every_vector_file_fits_its_schema() -> None:
    """What checks are made from is valid data."""
    for path in schemas.vector_files():
        document = schemas.load(path)
        assert isinstance(document, dict)
        assert schemas.meta_fault("patterns" if "rows" in document else "vectors", document) is None


def test_each_vector_is_one_check() -> None:
    """Every vector, and every pattern of the table, is there."""
    vectors, patterns = 0, set()
    for path in schemas.vector_files():
        document = schemas.load(path)
        assert isinstance(document, dict)
        vectors += len(document.get("vectors", []))
        patterns |= {row["pattern"] for row in document.get("rows", [])}
    assert len(vector_checks()) == vectors + len(patterns)


def test_a_check_needs_a_docstring_and_a_free_id() -> None:
    """Mistakes in the definition of a check show when its module is imported."""

    async def silent(t: object) -> None:
        pass

    with pytest.raises(ValueError, match="lacks a docstring"):
        check("env/made-up", covers="ENV-01")(silent)
    with pytest.raises(ValueError, match="the id is taken"):
        check(WRITTEN[0].id, covers="ENV-01")(silent)


def test_selection_by_id_area_requirement_and_pattern() -> None:
    """Each form of a pattern selects what it says; skipping wins."""
    one = select(ALL, KNOWN, only=["rpc/result-carries-the-value"])
    assert [made.id for made in one] == ["rpc/result-carries-the-value"]
    assert {made.area for made in select(ALL, KNOWN, only=["rpc"])} == {"rpc"}
    assert all("ENV-17" in made.covers for made in select(ALL, KNOWN, only=["ENV-17"]))
    assert {made.area for made in select(ALL, KNOWN, only=["framing/*", "env"], skip=["env/*"])} == {
        "framing"
    }


def test_selection_by_level() -> None:
    """`must` leaves out what only a SHOULD asks for."""
    levels = {
        level: {id for made in select(ALL, KNOWN, level=level) for id in made.covers}
        for level in ("must", "should", "all")
    }
    assert "TRN-04" not in levels["must"]
    assert "TRN-04" in levels["should"]
    assert levels["must"] < levels["should"] <= levels["all"]


def test_a_pattern_that_matches_nothing_names_its_neighbours() -> None:
    """A typing error is answered with what was probably meant."""
    for pattern, close in (
        ("rpc/result-caries-the-value", "rpc/result-carries-the-value"),
        ("result-carries-the-value", "rpc/result-carries-the-value"),
    ):
        with pytest.raises(NoMatchError) as caught:
            select(ALL, KNOWN, only=[pattern])
        assert close in caught.value.close
