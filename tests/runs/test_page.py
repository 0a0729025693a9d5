"""Elements of a page: what they hold is legible, escaped, theirs alone, and says what it shows."""

from __future__ import annotations

import base64
import io
import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from markupsafe import Markup
from PIL import Image

from gaekit.runs.page import (
    SMALLEST,
    Band,
    Cell,
    Encoding,
    Interval,
    Point,
    Series,
    curves_svg,
    definitions,
    figure,
    image_tag,
    intervals_svg,
    scatter_svg,
    table,
)
from gaekit.runs.page.plots import is_logarithmic
from gaekit.runs.page.svg import COLOURS

STEPS = list(range(1, 2001))
FALLING = Series("loss/l1", STEPS, [math.exp(-step / 300) + 0.01 for step in STEPS])
RISING = Series("psnr", STEPS, [20.0 + step / 500 for step in STEPS])


def svg_of(markup: str) -> ElementTree.Element:
    return ElementTree.fromstring(markup[markup.index("<svg") : markup.index("</svg>") + len("</svg>")])


def texts(markup: str) -> list[str]:
    return [element.text or "" for element in svg_of(markup).iter() if element.tag.rpartition("}")[2] == "text"]


def ids(markup: str) -> list[str]:
    return re.findall(r'\sid="([^"]+)"', markup)


@pytest.fixture(scope="module")
def curves() -> str:
    return curves_svg([FALLING, RISING], title="losses <of> a run", x_label="step", marks=[(500, "best")])


def test_letters_are_text_in_the_page_s_own_colours(curves: str) -> None:
    assert {"step", "best", "0", "1000"} <= set(texts(curves))
    assert not re.search(r"#0[ab]0[ab]", curves)
    assert not re.search(r"(fill|stroke): #", curves), "a colour that does not follow the theme"
    assert set(re.findall(r"var\(--([\w-]+)\)", curves)) <= set(COLOURS)
    sizes = [float(size) for size in re.findall(r"font-size: ([\d.]+)px", curves)]
    assert min(sizes) >= 10
    assert svg_of(curves).get("viewBox") == "0 0 340 200"


def test_a_curve_is_told_in_words_to_those_who_do_not_see_it(curves: str) -> None:
    label = svg_of(curves).get("aria-label")
    assert label == "losses <of> a run: loss/l1 from 1.007 to 0.01127; psnr from 20 to 24"


def test_no_two_plots_share_an_id_and_every_reference_has_its_target(curves: str) -> None:
    again = curves_svg([FALLING, RISING], title="losses <of> a run", x_label="step", marks=[(500, "best")])
    both = ids(curves) + ids(again)
    assert len(set(both)) == len(both) > 0
    for one in (curves, again):
        assert set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', one)) <= {(i, "") for i in ids(one)} | {
            ("", i) for i in ids(one)
        }


def test_a_long_curve_keeps_its_extremes_and_becomes_small() -> None:
    values = [1.0] * 20_000
    values[12_345] = 9.0
    drawn = curves_svg([Series("spike", list(range(20_000)), values)], title="spike", log_y=False)
    assert len(drawn) < 20_000
    told = [float(y) for y in re.findall(r"L [\d.]+ ([\d.]+)", drawn)]
    flat = max(told, key=told.count)
    assert any(y < flat - 100 for y in told), "the spike is not drawn"


def test_gaps_bands_and_single_points_are_drawn() -> None:
    gap = Series("a", [1, 2, 3, 4], [1.0, math.nan, 3.0, math.inf], Band([0, 0, 2, 2], [2, 2, 4, 4]))
    drawn = curves_svg([gap, Series("b", [2], [2.5]), Series("c", [], [])], title="odd", log_x=True)
    assert "a from 1 to 3; b from 2.5 to 2.5" in drawn
    assert "nan" not in drawn
    assert "inf" not in drawn.lower().replace("interval", "")


def test_an_axis_is_logarithmic_where_positive_values_span_more_than_a_decade() -> None:
    assert is_logarithmic([1, 21])
    assert not is_logarithmic([1, 19])
    assert not is_logarithmic([0, 100])
    assert not is_logarithmic([])
    assert "0.01" in texts(curves_svg([FALLING], title="x"))
    assert "0.2" not in texts(curves_svg([FALLING], title="x"))


def test_ticks_are_whole_where_steps_are_and_keep_their_digits() -> None:
    drawn = texts(curves_svg([Series("a", [1, 2, 3, 4], [0.821, 0.826, 0.829, 0.8235])], title="x"))
    assert [text for text in drawn if "." not in text] == ["1", "2", "3", "4"]
    assert len(set(drawn)) == len(drawn)
    assert "0.822" in drawn


def test_intervals_stand_with_their_numbers() -> None:
    drawn = intervals_svg([Interval("psnr", 26.8, 26.1, 27.2), Interval("fid", 3.0)], title="numbers")
    assert {"psnr", "26.8  [26.1, 27.2]", "fid", "3"} <= set(texts(drawn))


def test_numbers_that_are_read_keep_all_their_digits() -> None:
    drawn = intervals_svg([Interval("psnr", 0.7234, text="0.723 ± 0.016"), Interval("x 1.2345", 1.0)], title="numbers")
    assert {"0.723 ± 0.016", "x 1.2345"} <= set(texts(drawn))


def test_points_have_colours_by_group_and_a_legend() -> None:
    drawn = scatter_svg([Point("a", 1, 2, None, (1, 3), "one"), Point("b", 2, 3, (1, 4), None, "two")],
                        title="cost and quality", x_label="hours", y_label="FID")  # fmt: skip
    assert {"hours", "FID", "a", "b"} <= set(texts(drawn))
    assert re.findall(r"</svg>(\w+)</li>", drawn) == ["one", "two"]
    assert "var(--series-1)" in drawn
    assert "var(--series-2)" in drawn


def decoded(tag: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(tag.split("base64,")[1].split('"')[0])))


def test_a_picture_has_its_size_and_words_and_small_ones_are_exact() -> None:
    pixels = np.arange(32 * 16 * 3, dtype=np.uint8).reshape(16, 32, 3)
    tag = image_tag(pixels, 'a "ramp" & more', width=64)
    assert 'width="64" height="32" alt="a &#34;ramp&#34; &amp; more" class="pixels"' in tag
    assert np.array_equal(np.asarray(decoded(tag)), pixels)
    with pytest.raises(ValueError, match="words"):
        image_tag(pixels, "")


def test_large_pictures_shrink_to_what_is_asked() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (300, 600, 3), dtype=np.uint8)
    tags = [image_tag(pixels, "noise", encoding=encoding) for encoding in SMALLEST]
    assert [len(tag) for tag in tags] == sorted((len(tag) for tag in tags), reverse=True)
    small = image_tag(pixels, "noise", encoding=Encoding(96, 35))
    assert decoded(small).size == (96, 48)
    assert 'width="600" height="300"' in small


def test_what_a_table_holds_is_escaped_and_it_scrolls_within_itself() -> None:
    html = table(["metric", "value"], [["<script>", Cell("1.0", number=True, strong=True)]], caption="numbers")
    assert '<div class="scroll" role="region" tabindex="0" aria-label="numbers">' in html
    assert '<th scope="row">&lt;script&gt;</th><td class="number strong">1.0</td>' in html
    assert '<th scope="col" class="number">value</th>' in html
    assert "<dt>a</dt><dd>&lt;b&gt;</dd>" in definitions([("a", "<b>")])


def test_long_names_break_behind_their_strokes() -> None:
    drawn = str(figure(Markup("<i></i>"), title="samples/frechet_<x>"))
    assert "samples/<wbr>frechet_<wbr>&lt;x&gt;</p>" in drawn
    assert "<b>whole_</b></p>" in str(figure(Markup("<i></i>"), title=Markup("<b>whole_</b>")))
