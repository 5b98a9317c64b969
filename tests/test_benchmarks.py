"""What can be tested of the benchmarks without measuring: the report and its charts."""

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.benchmarks.__main__ import PARTS, parser
from tests.benchmarks.chart import HEIGHT, WIDTH, line_chart, short
from tests.benchmarks.report import Report

SVG = "{http://www.w3.org/2000/svg}"


def places(svg: str) -> list[list[tuple[float, float]]]:
    """The points of each line as they are drawn."""
    lines = ET.fromstring(svg).iter(f"{SVG}polyline")  # noqa: S314 - our own
    return [
        [(float(x), float(y)) for x, _, y in (p.partition(",") for p in line.attrib["points"].split())]
        for line in lines
    ]


def test_a_chart_is_well_formed_whatever_its_texts_hold() -> None:
    svg = line_chart('p99 < 5 ms & "more"', "a < b", "c & d", {"<one>": [(1, 2)]})
    texts = [text.text for text in ET.fromstring(svg).iter(f"{SVG}text")]  # noqa: S314 - our own
    assert {'p99 < 5 ms & "more"', "a < b", "c & d", "<one>"} <= set(texts)


@pytest.mark.parametrize("log", [False, True])
def test_every_point_lies_within_the_picture_and_more_is_higher(*, log: bool) -> None:
    points = [(1, 0.3), (4, 17.0), (16, 220.0), (256, 4321.0)]
    [line] = places(line_chart("t", "x", "y", {"one": points}, log_x=log, log_y=log))
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in line)
    assert sorted(line) == line
    assert sorted((y for _, y in line), reverse=True) == [y for _, y in line]


def test_on_a_logarithmic_axis_equal_ratios_are_equal_distances() -> None:
    [line] = places(line_chart("t", "x", "y", {"one": [(1, 1), (10, 10), (100, 100)]}, log_x=True, log_y=True))
    (x1, y1), (x2, y2), (x3, y3) = line
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert y2 - y1 == pytest.approx(y3 - y2, abs=0.2)


def test_a_chart_of_nothing_but_zeros_or_of_one_point_is_drawn() -> None:
    assert places(line_chart("t", "x", "y", {"one": [(1, 0), (2, 0)], "two": [(1, 0)]}))


@pytest.mark.parametrize(
    ("number", "text"), [(10_000_000, "10 M"), (2500, "2,500"), (12.34, "12.3"), (0.0512, "0.0512"), (2.7e-13, "0")]
)
def test_numbers_are_short(number: float, text: str) -> None:
    assert short(number) == text


def test_a_report_has_its_tables_and_charts_even_if_the_run_is_cut_short(tmp_path: Path) -> None:
    report = Report(tmp_path / "new")
    report.table(["case", "per s"], [["ours", 12345.6], ["control", None]])
    report.chart("speed", "Speed", "x", "y", {"ours": [(1, 2), (2, 3)]})
    report.sum_up("speed", "2 a second", "twice the control")
    assert (tmp_path / "new/report.md").read_text() == (
        "| case | per s |\n| --- | ---: |\n| ours | 12,346 |\n| control |  |\n\n![Speed](speed.svg)\n"
    )
    assert len(places((tmp_path / "new/speed.svg").read_text())) == 1
    report.finish()
    assert (tmp_path / "new/report.md").read_text().endswith("| speed | 2 a second | twice the control |\n")


def test_parts_are_chosen_by_name_and_another_name_is_answered_with_the_list(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert parser().parse_args(["listener", "http", "--quick"]).parts == ["listener", "http"]
    assert parser().parse_args([]).parts == []
    with pytest.raises(SystemExit):
        parser().parse_args(["speed"])
    said = capsys.readouterr().err
    assert all(part in said for part in PARTS)
