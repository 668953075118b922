"""Do the READMEs draw what the transition tables say?"""

import pytest

from tests.diagram import TABLES, drawn, readme


@pytest.mark.parametrize(("service", "aggregate"), TABLES)
def test_the_readme_draws_the_states_as_the_table_has_them(service: str, aggregate: str) -> None:
    text = readme(service).read_text(encoding="utf-8")

    assert f"<!-- states: {aggregate} -->" in text
    assert text == drawn(text, aggregate, TABLES[service, aggregate]), "run: python -m tests.diagram"
