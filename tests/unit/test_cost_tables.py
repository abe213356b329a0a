"""docs/cost.md is what its command writes, and its figures meet the papers'."""

import pathlib

import pytest

from effvid_jax.cost import tables

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "cost.md"
# Every figure that the three papers print for a static network.
PUBLISHED = {
    tables.RESKD: [65.9, 28.3, 17.4, 12.1, 8.3, 4.8, 8.7, 1260, 332, 1639, 421],
    tables.DYNAMIC: [52, 62.31, 33, 65, 64, 29.12, 48.12,
                     500, 10.7, 33,
                     11.1, 555, 8.0,
                     145.7, 35.33,
                     5925, 35.2,
                     64, 47.5,
                     189.29, 310.50, 33.16, 52.15, 53],
    tables.VARED: [27.7, 55.2, 110.5, 56.0, 112.0, 6.20, 6.42, 43.9, 5.75, 10.6, 28.5, 56.8, 60.8],
}


def test_page_is_up_to_date_and_rows_are_within_one_percent():
    found = tables.differences()
    assert PAGE.read_text(encoding="utf-8") == tables.page(found), (
        "docs/cost.md is out of date: python -m effvid_jax.cost.tables --write docs/cost.md")
    for row, ours, difference in found:
        print(f"{row.paper}, {row.what}: {ours:.3f} for {row.published} ({difference:+.2%})")
        met = abs(difference) <= tables.TOLERANCE
        assert met != row.unresolved, row.what
        assert not row.unresolved or row.remark


@pytest.mark.parametrize("paper", PUBLISHED)
def test_no_figure_is_left_out(paper):
    assert [row.published for row in tables.ROWS if row.paper == paper] == PUBLISHED[paper]


def test_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tables, "ROWS", tables.ROWS[:1])
    tables.main([])
    tables.main(["--write", str(tmp_path / "cost.md")])
    assert capsys.readouterr().out == (tmp_path / "cost.md").read_text(encoding="utf-8")
