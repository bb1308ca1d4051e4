"""The page in a real browser, over runs of a real process: what it draws and lets people do, and what it never does."""

import http.client
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import matplotlib.image
import pytest
from dashboard.conftest import SECONDS, Served, Viewer
from dashboard.runs import append, finish, held, make_experiment, make_run, row, win_rate
from service.pages.browsing import OLD_BROWSER

View = Callable[..., Viewer]
RUN = "main/lexicon/sea/seed-0"
FORMATTED = "Take **this** code:\n\n```\nx\n```\n\n$$x^2$$"
SCRIPT = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment, an old run with texts that would be markup, and directories that are broken."""
    root = tmp_path_factory.mktemp("runs")
    make_experiment(root / "main", ("passive", "sea", "uniform"), seeds=4, rounds=24)
    make_run(root / "old" / "sea", "sea", seed=1, rounds=3)
    with sqlite3.connect(root / "old" / "sea" / "ledger.sqlite") as ledger:
        ledger.execute("UPDATE responses SET text = ? WHERE side = 'first'", (SCRIPT,))
        ledger.execute("UPDATE duels SET prompt = ?", (SCRIPT,))
    make_run(root / "formatted" / "sea", "sea", seed=2, rounds=1)
    with sqlite3.connect(root / "formatted" / "sea" / "ledger.sqlite") as ledger:
        ledger.execute("UPDATE responses SET text = ? WHERE side = 'first'", (FORMATTED,))
        ledger.execute("UPDATE responses SET text = ? WHERE side = 'second'", ("Take **this** code:",))
    broken = root / "broken"
    make_run(broken / "metrics", rounds=1).joinpath("metrics.jsonl").write_text("x\n")
    make_run(broken / "config", rounds=1).joinpath("config.yaml").write_text("a: [")
    make_run(broken / "failed", rounds=1, finished=False).joinpath("error.txt").write_text("ValueError: no\n")
    (broken / "pipe").mkdir()
    (broken / "pipe" / "summary.json").mkdir()
    (root / "link").symlink_to("/", target_is_directory=True)
    return root


@pytest.fixture(scope="module")
def served(root: Path, serve: Callable[..., Served]) -> Served:
    return serve(root)


@pytest.fixture
def main(view: View, served: Served) -> Viewer:
    """The page over the experiment."""
    viewer = view()
    viewer.open(served.url, runs="main")
    return viewer


def chart(viewer: Viewer, panel: str) -> dict[str, Any]:
    """What the chart library was given for a panel: values by curve, and the distribution of the x axis."""
    return viewer.page.evaluate(
        """(panel) => {
            const {plot, drawing} = document.querySelector(`#${panel} .chart`).chart;
            const curves = drawing.curves.map(({name, x, y, low, high}) => ({name, x, y, low, high}));
            return {curves, data: plot.data.map((column) => Array.from(column)), log: plot.scales.x.distr === 3,
                    names: plot.series.slice(1).map(({label}) => label)};
        }""",
        panel,
    )


def pixel(viewer: Viewer, panel: str, x: float, y: float) -> list[int]:
    """The colour of a chart at a place of its axes."""
    return viewer.page.evaluate(
        """([panel, x, y]) => {
            const {plot} = document.querySelector(`#${panel} .chart`).chart;
            const at = [plot.valToPos(x, "x", true), plot.valToPos(y, "y", true)].map(Math.round);
            const read = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
            read.drawImage(plot.ctx.canvas, ...at, 1, 1, 0, 0, 1, 1);
            return Array.from(read.getImageData(0, 0, 1, 1).data);
        }""",
        [panel, x, y],
    )


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_the_page_shows_the_numbers_of_the_command_line(
    main: Viewer, root: Path, sea_agent: Callable[..., Any]
) -> None:
    assert sea_agent("compare", root / "main", "--out", "compared").code == 0
    (group,) = json.loads(Path("compared/comparison.json").read_text())["groups"]
    for one in group["methods"]:
        cells = main.page.locator(f'#targets tr[data-method="{one["method"]}"] td').all_inner_texts()
        queries, factor = one["queries"], one["factor"]
        assert f"{queries['mean']:.0f}" in cells[0]
        assert f"[{queries['low']:.0f}, {queries['high']:.0f}]" in cells[0]
        assert ("≥" in cells[0]) == bool(one["censored"])
        if factor is not None:
            mark = {">=": "≥", "<=": "≤", "?": "?", "": ""}[factor["bound"]]
            assert cells[1].replace("\u2009", "").startswith(f"{mark}{factor['mean']:.2f}×")
            assert f"[{factor['low']:.1f}, {factor['high']:.1f}]" in cells[1]
    (sea,) = (one for one in group["methods"] if one["method"] == "sea")
    assert main.text("#tile-win-rate .figure") == f"{sea['final']['win_rate']['mean']:.3f}"
    assert f"{sea['factor']['mean']:.2f}×" in main.text("#tile-saved .figure")


def test_a_band_is_drawn_over_seeds(main: Viewer) -> None:
    drawn = chart(main, "win-rate")
    assert set(drawn["names"]) == {"passive", "sea", "uniform"}
    (sea,) = (curve for curve in drawn["curves"] if curve["name"] == "sea")
    assert sea["x"] == [8.0 * number for number in range(25)]
    seeds = [[win_rate("sea", seed, 8 * number) for seed in range(4)] for number in range(25)]
    assert sea["y"] == pytest.approx([sum(values) / 4 for values in seeds], abs=1e-5)
    for low, values, high in zip(sea["low"], seeds, sea["high"], strict=True):
        assert min(values) - 1e-6 <= low <= high <= max(values) + 1e-6
    place = 5
    line = pixel(main, "win-rate", sea["x"][place], sea["y"][place])
    nothing = pixel(main, "win-rate", sea["x"][place] - 3, 0.86)
    assert line != nothing
    edge = (sea["high"][place] + sea["y"][place]) / 2
    assert pixel(main, "win-rate", sea["x"][place], edge) not in (line, nothing), "the band is there, and paler"


def test_one_seed_has_no_band_over_seeds(view: View, served: Served) -> None:
    """The control: the band of a single run is the interval over prompts."""
    viewer = view()
    viewer.open(served.url, runs="old")
    (curve,) = chart(viewer, "win-rate")["curves"]
    assert curve["low"] == pytest.approx([rate - 0.03 for rate in curve["y"]], abs=1e-4)
    assert "over prompts, one run" in viewer.text("#tile-win-rate")


def test_the_log_axis_begins_after_the_first_evaluation(main: Viewer) -> None:
    assert chart(main, "win-rate")["log"] is False
    main.changes(lambda: main.page.get_by_label("log axis").check())
    drawn = chart(main, "win-rate")
    assert drawn["log"] is True
    assert drawn["data"][0][0] == 8.0
    assert "log=1" in main.page.url


def test_another_axis_is_drawn_on_request(main: Viewer) -> None:
    main.changes(lambda: main.page.locator("#x").select_option("samples"))
    assert chart(main, "win-rate")["data"][0][-1] == 128 * 24


def test_picking_another_baseline_changes_the_headline(main: Viewer) -> None:
    before = main.text("#tile-saved")
    assert "sea against passive" in before
    main.changes(lambda: main.page.locator("#baseline").select_option("sea"))
    assert "passive against sea" in main.text("#tile-saved")
    main.changes(lambda: main.page.locator("#method").select_option("uniform"))
    assert "uniform against sea" in main.text("#tile-saved")
    main.changes(lambda: main.page.locator("#method").select_option("sea"))
    assert "sea is the baseline; pick another method" in main.text("#tile-saved")
    assert "baseline=sea" in main.page.url


def test_another_target_changes_the_queries_to_it(main: Viewer) -> None:
    cell = '#targets tr[data-method="sea"] td >> nth=0'
    before = main.text(cell)

    def aim(level: str) -> None:
        main.page.locator("#level").fill(level)
        main.page.locator("#level").press("Enter")

    main.changes(lambda: aim("0.6"))
    assert main.text(cell) != before
    assert "first reaches 0.60" in main.text("#targets .note")
    aim("7")
    assert main.page.locator("#level").input_value() == "0.6", "what is no win rate is not taken"


def test_a_method_can_be_hidden_and_shown(main: Viewer) -> None:
    chip = main.page.get_by_role("button", name="uniform")
    main.changes(chip.click)
    assert "uniform" not in chart(main, "win-rate")["names"]
    assert chip.get_attribute("aria-pressed") == "false"
    main.changes(chip.click)
    assert "uniform" in chart(main, "win-rate")["names"]


def test_an_address_shows_the_same_view_elsewhere(main: Viewer, view: View) -> None:
    main.changes(lambda: main.page.locator("#baseline").select_option("uniform"))
    main.changes(lambda: main.page.get_by_label("log axis").check())
    other = view()
    other.page.goto(main.page.url)
    other.loaded()
    assert other.text("#tile-saved") == main.text("#tile-saved")
    assert chart(other, "win-rate") == chart(main, "win-rate")


def test_each_panel_tells_what_it_shows_and_of_how_many_and_has_its_data(main: Viewer) -> None:
    panels = main.page.locator("section.panel")
    for panel in panels.all():
        name = panel.get_attribute("id")
        if name == "annotators":
            continue
        assert len(panel.locator(".note").inner_text()) > 60, name
        assert panel.locator(".note .n").count() == 1, name
        for kind in ("CSV", "JSON"):
            link = panel.locator(".tools a", has_text=kind)
            answer = main.page.request.get(
                urlsplit(main.page.url)._replace(fragment="").geturl() + str(link.get_attribute("href"))
            )
            assert answer.ok, (name, kind)
    assert panels.count() == 10


def test_a_chart_is_saved_as_a_picture(main: Viewer) -> None:
    with main.page.expect_download() as waiting:
        main.page.get_by_role("button", name="Win rate: PNG").click()
    assert waiting.value.suggested_filename == "win-rate.png"
    picture = matplotlib.image.imread(waiting.value.path(), format="png")
    assert picture.shape[1] >= 640
    assert picture.std() > 0.01, "something is drawn"


# --- live ------------------------------------------------------------------------------------------------------------


def test_a_run_appears_and_grows_without_a_reload(tmp_path: Path, serve: Callable[..., Served], view: View) -> None:
    served = serve(tmp_path)
    viewer = view()
    viewer.open(served.url)
    assert viewer.page.get_by_text("No run yet").count() == 1, "once"
    assert "sea-agent run sea --out" in viewer.text("#empty")
    assert not viewer.page.locator("#targets").is_visible()
    viewer.page.evaluate("window.same = true")
    run = make_run(tmp_path / "live", "sea", rounds=1, finished=False)
    with held(run):
        viewer.until("document.querySelector('#pick').innerText.includes('1 running')")
        viewer.until("document.querySelector('#tile-win-rate .figure').innerText !== '–'")
        first = viewer.text("#tile-win-rate .figure")
        append(run, row(2, 16, 0.777))
        viewer.until("document.querySelector('#tile-win-rate .figure').innerText === '0.777'")
        assert first != "0.777"
        assert "so far" in viewer.text("#tile-win-rate")
    viewer.until("document.querySelector('#pick').innerText.includes('1 dead')")
    finish(run, 16)
    viewer.until("document.querySelector('#pick').innerText.includes('1 finished')")
    assert viewer.page.evaluate("window.same") is True


def test_the_page_says_when_its_server_is_gone_and_goes_on_when_it_is_back(
    tmp_path: Path, serve: Callable[..., Served], view: View
) -> None:
    run = make_run(tmp_path / "run", "sea", rounds=2, finished=False)
    first = serve(tmp_path)
    viewer = view()
    viewer.open(first.url)
    viewer.until("document.querySelector('#live').innerText === 'live'")
    first.process.end()
    viewer.until("document.querySelector('#live').innerText === 'not connected'")
    viewer.page.get_by_label("log axis").check()
    viewer.until("document.querySelector('#message').innerText.includes('does not answer')")
    append(run, row(3, 24, 0.789))
    serve(tmp_path, "--port", str(first.port))
    viewer.until("document.querySelector('#tile-win-rate .figure').innerText === '0.789'")
    viewer.until("document.querySelector('#message').hidden")
    assert viewer.text("#live") == "live"
    assert all("net::ERR_" in fault for fault in viewer.faults), "the browser tells of the lost connection"
    viewer.faults.clear()


# --- duels -----------------------------------------------------------------------------------------------------------


def test_duels_are_filtered_and_read(main: Viewer) -> None:
    listed = main.page.locator("#duels .duel-list a")
    everything = main.text("#duels .pages span")
    main.changes(lambda: main.page.get_by_label("Outcome").select_option("second"))
    assert set(main.page.locator("#duels .duel-list .outcome").all_inner_texts()) == {"second won"}
    assert main.text("#duels .pages span") != everything
    main.changes(lambda: main.page.get_by_label("Outcome").select_option(""))
    main.changes(lambda: main.page.get_by_label("Text").fill("number 7.3?"))
    assert listed.count() == 1
    main.changes(lambda: listed.first.click())
    detail = main.text("#duels .duel")
    for words in (
        "How do I bake bread number 7.3?",
        "The rule sea_ee chose it for the oracle in round 7",
        "standard deviation",
    ):
        assert words in detail
    assert "duel=duel-0-7-3" in main.page.url


def test_a_link_to_a_duel_opens_it(main: Viewer, served: Served, view: View) -> None:
    main.changes(lambda: main.page.locator("#duels .duel-list a").nth(3).click())
    link = main.page.get_by_role("link", name="Link to this duel").get_attribute("href")
    other = view()
    other.page.goto(served.url + str(link))
    other.loaded()
    other.until("document.querySelector('#duels .duel').innerText.includes('Why this pair')")
    other.page.locator("#duels .duel").scroll_into_view_if_needed()
    for viewer in (main, other):
        viewer.until("document.querySelectorAll('#duels .duel .rendered').length === 3")
    assert other.text("#duels .duel") == main.text("#duels .duel")


def test_an_old_browser_shows_a_duel_with_its_differences(served: Served, view: View) -> None:
    old = view()
    old.context.add_init_script(OLD_BROWSER)
    old.open(served.url, runs="main")
    assert old.page.evaluate("typeof Intl.Segmenter") == "undefined"
    assert old.page.locator("#stalled").count() == 0
    old.changes(lambda: old.page.locator("#duels .duel-list a").first.click())
    old.until("document.querySelector('#duels .duel').innerText.includes('Why this pair')")


def test_a_page_whose_scripts_do_not_start_says_so(served: Served, view: View) -> None:
    viewer = view(reduced_motion="reduce")
    viewer.page.route("**/static/state.js", lambda route: route.abort())
    viewer.page.goto(served.url)
    viewer.until("getComputedStyle(document.getElementById('stalled')).opacity === '1'")
    assert "has not started" in viewer.text("#stalled")
    viewer.faults.clear()


def test_a_duel_is_rendered_once_it_is_seen_and_shown_raw_on_demand(view: View, served: Served) -> None:
    viewer = view(viewport={"width": 1280, "height": 600})
    viewer.open(served.url, runs="formatted")
    detail = viewer.page.locator("#duels .duel")
    viewer.until("document.querySelector('#duels .duel').innerText.includes('**')")
    assert not any("text.js" in url or "temml" in url for url in viewer.asked)
    detail.scroll_into_view_if_needed()
    viewer.until("document.querySelector('#duels .duel strong, #duels .duel math')")
    assert detail.locator("math").count() == detail.locator("pre code").count() == 1
    assert detail.locator("pre mark").inner_text() == "x"
    detail.get_by_role("button", name="Show raw").click()
    viewer.until("document.querySelectorAll('#duels .duel .rendered').length === 0")
    assert FORMATTED in detail.locator(".text").all_inner_texts()
    assert detail.locator("mark").count() > 0
    detail.get_by_role("button", name="Show rendered").click()
    viewer.until("document.querySelector('#duels .duel math')")


def test_duels_are_paged(main: Viewer) -> None:
    first = main.page.locator("#duels .duel-list a").first.get_attribute("data-duel")
    main.changes(lambda: main.page.get_by_role("button", name="Next →").click())
    assert main.text("#duels .pages span") == "21–40 of 192"
    assert main.page.locator("#duels .duel-list a").first.get_attribute("data-duel") != first
    main.changes(lambda: main.page.get_by_role("button", name="← Before").click())
    assert main.page.locator("#duels .duel-list a").first.get_attribute("data-duel") == first


def test_the_page_is_used_with_the_keyboard_alone(main: Viewer) -> None:
    keys = main.page.keyboard
    main.page.locator("#duels .duel-list a").first.focus()
    ids = main.page.locator("#duels .duel-list a").evaluate_all("(links) => links.map((link) => link.dataset.duel)")
    for expected in ids[1:3]:
        main.changes(lambda: keys.press("ArrowDown"))
        assert main.page.evaluate("document.activeElement.dataset.duel") == expected
        main.until(f"document.querySelector('#duels .duel').innerText.includes('{expected}')")
    main.page.locator("#win-rate .chart").focus()
    keys.press("ArrowRight")
    keys.press("ArrowRight")
    assert "8 oracle queries" in main.text("#win-rate .tip")
    keys.press("Escape")
    main.page.locator("#pick").focus()
    keys.press("Enter")
    assert main.page.locator("#picker").is_visible()
    keys.press("Escape")
    assert main.page.locator("#picker").is_hidden()
    assert main.page.evaluate("document.activeElement.id") == "pick"


# --- configuration and runs ------------------------------------------------------------------------------------------


def test_the_difference_of_two_runs_is_shown(main: Viewer) -> None:
    main.changes(lambda: main.page.locator("#configuration select").select_option("main/lexicon/sea/seed-2"))
    keys = main.page.locator("#configuration tbody th").all_inner_texts()
    assert keys == ["seed"]
    assert main.page.locator("#configuration tbody td").all_inner_texts() == ["0", "2"]


def test_broken_directories_are_listed_with_what_is_wrong_and_break_nothing_else(view: View, served: Served) -> None:
    viewer = view()
    viewer.open(served.url, runs=["broken", "main"])
    assert chart(viewer, "win-rate")["names"]
    viewer.page.locator("#pick").click()
    viewer.page.locator("#picker input[type=search]").fill("broken")
    listed = viewer.text("#picker .picker-list")
    for words in (
        "metrics.jsonl: not the metrics of a run",
        "config.yaml: not valid YAML",
        "failed",
        "a link to a directory",
    ):
        assert words in listed
    viewer.page.get_by_role("button", name="Done").click()
    viewer.changes(lambda: viewer.page.locator("#run").select_option("broken/failed"))
    assert "ValueError: no" in viewer.text("#configuration .trouble")
    viewer.changes(lambda: viewer.page.locator("#run").select_option("broken/pipe"))
    assert "config.yaml: leads nowhere" in viewer.text("#configuration .fault")
    assert all("the server responded with a status of 422" in fault for fault in viewer.faults)
    viewer.faults.clear()


def test_runs_are_picked_in_the_dialog(main: Viewer) -> None:
    main.page.locator("#pick").click()
    main.changes(lambda: main.page.get_by_label("Show old").check())
    main.changes(lambda: main.page.get_by_label("Show main").uncheck())
    main.page.get_by_role("button", name="Done").click()
    assert main.page.url.partition("#")[2].startswith("runs=old")
    assert chart(main, "win-rate")["names"] == ["sea_ee"], "a run without an experiment is named after its rule"


# --- what the page never does ----------------------------------------------------------------------------------------


def test_text_of_a_model_is_shown_as_text(view: View, served: Served) -> None:
    viewer = view()
    viewer.open(served.url, runs="old")
    viewer.page.locator("#duels .duel").scroll_into_view_if_needed()
    viewer.until("document.querySelector('#duels .duel .rendered')?.innerText.includes('onerror')")
    assert SCRIPT in viewer.page.locator("#duels .duel .text").first.inner_text()
    assert viewer.page.title() != "owned"
    assert viewer.page.locator("#duels img, #duels script").count() == 0


def test_markup_would_be_found_and_its_scripts_do_not_run(view: View, served: Served) -> None:
    """The control: the same text as markup makes an image, and the policy of the page still runs nothing of it."""
    viewer = view()
    viewer.open(served.url, runs="old")
    viewer.page.evaluate("(text) => { document.querySelector('#duels .duel').innerHTML = text; }", SCRIPT)
    assert viewer.page.locator("#duels img, #duels script").count() == 2
    viewer.until("document.querySelector('#duels img').complete")
    assert viewer.page.title() != "owned"
    assert any("Content Security Policy" in fault for fault in viewer.faults)
    viewer.faults.clear()


def test_nothing_is_asked_of_another_host(main: Viewer, served: Served) -> None:
    main.changes(lambda: main.page.get_by_label("log axis").check())
    assert len(main.asked) > 20
    assert {urlsplit(url).netloc for url in main.asked} == {f"127.0.0.1:{served.port}"}


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_the_page_needs_no_sideways_scrolling(width: int, view: View, served: Served) -> None:
    viewer = view(viewport={"width": width, "height": 800})
    viewer.open(served.url, runs="main", against=RUN.replace("seed-0", "seed-1"))
    wide = viewer.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide[0] == wide[1] == width


def test_tables_that_go_on_to_the_side_are_shaded_and_reached_by_keyboard(view: View, served: Served) -> None:
    viewer = view(viewport={"width": 320, "height": 800}, color_scheme="dark")
    viewer.open(served.url, runs="main")
    region = viewer.page.get_by_role("region", name="Queries to the target").locator("[tabindex='0']")
    region.focus()
    assert region.evaluate("(e) => document.activeElement === e")
    assert region.evaluate("(e) => getComputedStyle(e).backgroundImage.split('linear-gradient').length") == 5
    assert viewer.page.locator(".scroll:not([role=region][tabindex='0'][aria-label])").count() == 0
    raw = viewer.page.get_by_role("button", name="Show raw")
    assert raw.evaluate("(e) => getComputedStyle(e).backgroundColor") == "rgb(23, 32, 35)", (
        "on the card, as all buttons"
    )


@pytest.mark.parametrize(
    "path",
    [
        "/dashboard/static/../index.html",
        "/dashboard/static/../../app.py",
        "/dashboard/static/..%2f..%2fapp.py",
        "/dashboard/static/%2e%2e/%2e%2e/app.py",
        "/dashboard/static//etc/passwd",
        "/dashboard/api/configuration?run=..%2f..%2fetc",
        "/dashboard/api/configuration?run=link%2fetc",
    ],
)
def test_no_path_leads_out(path: str, served: Served) -> None:
    """Sent as it stands: a browser would tidy it up first."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=SECONDS)
    connection.request("GET", path)
    assert connection.getresponse().status == 404
    connection.close()
