"""What a reader does with the page of ``influbench report``, done in Chromium."""

import json

import pytest
from chromium import chromium, opened
from PIL import Image

from influbench.data.records import Score
from influbench.report import page
from influbench.report.comparison import CompareConfig
from influbench.report.page.texts import Texts
from influbench.results.score_files import ScoreFile, write

pytest.importorskip("plotly")
pytestmark = pytest.mark.browser

HOSTILE = (
    "<script>document.title = 'taken'; alert(1)</script></script><img src=x onerror=alert(2)>"
    "<!-- \u2028 ]]> <svg onload=alert(3)>"
)
MANY = 5000
TIMED = """([id, property, value, event]) => {
  const node = document.getElementById(id);
  const start = performance.now();
  node[property] = value;
  node.dispatchEvent(new Event(event));
  document.body.offsetHeight;
  return performance.now() - start;
}"""
"""Milliseconds from an act to the new layout."""
IDS = (
    """all => all.map(row => [parseFloat(row.style.top), row.querySelector('.sub').textContent])"""
)


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Twelve candidates in three groups, the first with a text that means harm."""
    return made(tmp_path_factory.mktemp("small"), 12, HOSTILE)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    # Without an oracle, whose bootstrap takes far longer than the page.
    return made(tmp_path_factory.mktemp("large"), MANY, "first", " and words" * 60, oracle="")


def made(folder, count, first, more="", oracle="exact"):
    names = [f"pair-{i:05d}" for i in range(count)]
    rows = [
        {"id": name, "instruction": f"Question {i}", "response": f"Answer {i} of {count}{more}"}
        for i, name in enumerate(names)
    ]
    rows[0] |= {"instruction": first, "response": first}
    data = folder / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    groups = {name: f"seed-{i // 4}" for i, name in enumerate(names)}
    values = {
        "exact": lambda i: i / count - 0.5,
        "first_order": lambda i: i / count - 0.4,
        "turned": lambda i: -abs(i - 1.0),
        HOSTILE[:40].replace("/", ""): lambda i: float(i % 3),
    }
    files = []
    for name, value in values.items():
        scores = [Score(id=n, value=value(i), stderr=0.05) for i, n in enumerate(names)]
        files.append(folder / f"{name}.jsonl")
        write(files[-1], ScoreFile(name=name, scores=scores, groups=groups))
    out = folder / "report.html"
    page.write(
        out,
        page.page_of(
            list(map(str, files)),
            texts=Texts(candidates=data),
            against=CompareConfig(oracle=oracle),
        ),
    )
    return out


def ids(found):
    """Ids of the rows in sight, from above."""
    rows = found.page.locator("#list .row")
    tops = rows.evaluate_all(IDS)
    return [name.split(" ")[0] for _, name in sorted(tops)]


def clean(found):
    assert not found.complaints
    assert not found.requests


def test_opens_without_an_error_or_a_request(browser, small):
    with opened(browser, small) as found:
        found.page.locator(".agreement .main-svg").first.wait_for()
        assert found.page.locator("#count").inner_text() == "12 of 12 candidates"
        assert ids(found)[:2] == ["pair-00011", "pair-00010"]
        clean(found)


def test_a_candidate_with_script_tags_does_nothing(browser, small):
    with opened(browser, small) as found:
        found.page.select_option("#order", "1")
        found.page.locator("#list .row").first.click()
        shown = found.page.locator("#details pre").first
        assert shown.inner_text().startswith("<script>document.title")
        assert found.page.locator("#details img, #details script, #details svg").count() == 0
        assert found.page.locator("th:has-text('<script>')").count()
        assert found.page.title().startswith("influbench: ")
        clean(found)


def test_sorts_by_any_estimator_and_by_where_two_disagree(browser, small):
    with opened(browser, small) as found:
        found.page.select_option("#sort", "turned")
        assert ids(found)[0] == "pair-00001"
        found.page.select_option("#sort", "exact")
        found.page.select_option("#other", "first_order")
        assert "places 0 % apart" in found.page.locator("#list .row").first.inner_text()
        found.page.select_option("#other", "turned")
        # exact has pair 11 first, turned has it last.
        assert ids(found)[0] == "pair-00011"
        assert "places 100 % apart" in found.page.locator("#list .row").first.inner_text()
        clean(found)


def test_filters_by_text_and_by_doubt(browser, small):
    with opened(browser, small) as found:
        found.page.fill("#search", "ANSWER 7 of")
        assert found.page.locator("#count").inner_text() == "1 of 12 candidates"
        assert ids(found) == ["pair-00007"]
        found.page.fill("#search", "")
        found.page.select_option("#only", "score below its standard error")
        assert ids(found) == ["pair-00006"]
        found.page.fill("#search", "nowhere")
        assert found.page.locator("#count").inner_text() == "0 of 12 candidates"
        clean(found)


def test_the_keyboard_alone_searches_opens_and_goes_back(browser, small):
    with opened(browser, small) as found:
        press = found.page.keyboard.press
        press("/")
        found.page.keyboard.type("answer")
        press("Escape")
        for key in ("Home", "ArrowDown", "ArrowDown", "Enter"):
            press(key)
        assert found.page.locator("#details h3").inner_text() == "pair-00009"
        siblings = found.page.locator(".sibling button").all_inner_texts()
        assert siblings == ["pair-00011", "pair-00010", "pair-00009", "pair-00008"]
        press("Escape")
        assert found.page.locator("#details").is_hidden()
        assert found.page.evaluate("document.activeElement.id") == "list"
        clean(found)


def test_a_column_sorts_its_table_both_ways(browser, small):
    with opened(browser, small) as found:
        table = found.page.locator("table.sortable").first
        title = table.locator("thead button").nth(1)
        values = "all => all.map(cell => Number(cell.dataset.value))"
        title.click()
        down = table.locator("tbody tr td:nth-child(2)[data-value]").evaluate_all(values)
        title.click()
        up = table.locator("tbody tr td:nth-child(2)[data-value]").evaluate_all(values)
        assert down == sorted(down, reverse=True)
        assert up == sorted(up)
        assert len(down) > 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_fits_the_window_in_light_and_dark(browser, small, scheme, width, tmp_path):
    with opened(browser, small, width, scheme) as found:
        found.page.locator("#list .row").first.click()
        assert found.page.evaluate("document.documentElement.scrollWidth") <= width
        shot = tmp_path / "page.png"
        found.page.screenshot(path=shot)
        with Image.open(shot) as image:
            grey = image.convert("L").resize((1, 1)).tobytes()[0]
        assert (grey < 90) == (scheme == "dark")
        clean(found)


def test_five_thousand_candidates_stay_fluid(browser, large):
    """Only the rows in sight exist; each act is done well within what a reader notices."""
    with opened(browser, large) as found:
        assert found.page.locator("#count").inner_text() == "5,000 of 5,000 candidates"
        acts = {
            "sort": ("sort", "value", "turned", "change"),
            "disagree": ("other", "value", "exact", "change"),
            "search": ("search", "value", "answer 49", "input"),
            "clear": ("search", "value", "", "input"),
            "scroll": ("list", "scrollTop", 140000, "scroll"),
        }
        spent = {name: found.page.evaluate(TIMED, list(act)) for name, act in acts.items()}
        # Kept for docs/LOG.md: pytest -s shows it.
        print(f"{large.stat().st_size:,} bytes;", {k: round(ms, 1) for k, ms in spent.items()})
        assert found.page.locator("#list .row").count() < 60
        assert max(spent.values()) < 500, spent  # on a busy machine
        clean(found)
