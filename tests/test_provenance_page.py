"""The provenance page lists the records of all files, links them, and draws the chart of the stages."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline_lib import provenance
from pipeline_lib.runtime.files import read_json, sha256, write_json
from pipeline_lib.stages.provenance_page import BOX, draw_chain, layers, read_files, write_provenance_page


def make(stage, outputs, inputs, **settings):
    """Write files with records, as a stage does."""
    with provenance.making(stage, outputs, inputs, **settings):
        for path in outputs:
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{path.name} by {stage} with {settings}")


def edit(path, **values):
    """Change entries in the record of the file at `path`."""
    write_json(provenance.record_path(path), read_json(provenance.record_path(path)) | values)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run with two volumes; the working directory is the one of its jobs."""
    monkeypatch.chdir(tmp_path)
    folder = type(tmp_path)("results")
    (tmp_path / "raw.tif").write_bytes(b"raw")
    raw = type(tmp_path)("raw.tif")
    datasets = [folder / f"dataset/{name}.h5" for name in "ab"]
    folder.mkdir()
    for dataset, sections in zip(datasets, ("0-1", "2"), strict=True):
        make("build_dataset", [dataset], [raw], sections=sections, channels=1)
        edit(dataset, seconds=2.5, peak_memory=200_000_000)
    together = [folder / "model/model.pt", folder / "model/history.csv"]
    make("train", together, datasets, training={"tile": 80, "device": "auto"}, seed=7)
    for path in together:
        edit(path, seconds=100.0, peak_memory=3e9, device="cuda", threads=4)
    make("evaluate", [folder / "scores.csv"], [*datasets, together[0]])
    make("report", [folder / "report.html"], [folder / "scores.csv", *together], title="<b>A & B</b>")
    make("segment", [folder / "a_labels.tif"], [together[0]])
    for name in ("scores.csv", "report.html", "a_labels.tif"):
        edit(folder / name, seconds=1.0)
    return folder


def write(folder):
    write_provenance_page(
        [folder / "report.html", folder / "a_labels.tif"], folder / "provenance.html", title="A & B"
    )
    return Page((folder / "provenance.html").read_text())


class Page(HTMLParser):
    """Rows of tables by id (texts of their cells), ids, links and text. Fails if tags do not match."""

    VOID = frozenset({"meta", "wbr"})

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.html, self.open, self.ids, self.links, self.rows, self.text = html, [], [], [], {}, ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        assert tag not in ("script", "link", "img", "iframe")
        if tag not in self.VOID:
            self.open.append(tag)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag == "a":
            self.links.append(attributes["href"])
        if tag == "tr":
            self.row = self.rows.setdefault(attributes.get("id"), [])
        if tag in ("td", "th"):
            self.row.append("")

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text += data
        if "td" in self.open or "th" in self.open:
            self.row[-1] += data

    def of(self, name):
        """Return the cells of the file that is shown as `name`."""
        (row,) = (row for row in self.rows.values() if row and re.match(re.escape(name) + r"( |$)", row[0]))
        return [" ".join(cell.split()) for cell in row]


def test_every_file_is_listed_with_sha256_inputs_settings_and_costs(run):
    page = write(run)
    model = page.of("model/model.pt")
    assert model[1:3] == [sha256(run / "model/model.pt"), "dataset/a.h5, dataset/b.h5"]
    assert model[-2:] == ["1 min 40 s", "3.0 GB"]
    assert page.of("raw.tif") == ["raw.tif", sha256("raw.tif")]
    # `sections` differs between the files, so it has a column.
    assert page.of("dataset/b.h5")[2:] == ["raw.tif", "2", "2.5 s", "200 MB"]
    text = " ".join(page.text.split())
    for setting in ("channels 1", "training.tile 80", "seed 7", "device cuda", "threads 4"):
        assert setting in text  # settings that all files of a stage share
    assert sum(name.startswith("f") and name[1:].isdigit() for name in page.ids) == 8


def test_the_time_of_files_made_together_counts_once(run):
    text = " ".join(write(run).text.split())
    assert "7 files made from 1 raw file. All stages together took 1 min 48 s." in text
    assert "train 2 files 1 min 40 s 3.0 GB" in text
    assert "build dataset 2 files 5.0 s 200 MB" in text


def test_all_links_have_a_target_and_one_leads_to_the_report(run):
    page = write(run)
    assert len(page.ids) == len(set(page.ids))
    assert {link for link in page.links if not link.startswith("#")} == {"report.html"}
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert "url(" not in page.html.replace("url(#arrow)", "") and "@import" not in page.html


def test_titles_and_settings_are_escaped(run):
    page = write(run)
    assert "Provenance: A & B" in page.text
    assert "title <b>A & B</b>" in " ".join(page.text.split())
    assert "<b>A & B</b>" not in page.html


def test_files_by_another_version_are_marked(run):
    version = provenance.version()
    page = write(run)
    assert "different versions of bordure" not in page.text
    assert page.text.count(version) == 1
    packages = read_json(provenance.record_path(run / "scores.csv"))["packages"]
    edit(run / "scores.csv", version="0.0.9 (abc)", packages=packages | {"numpy": "1.0"})
    page = write(run)
    text = " ".join(page.text.split())
    assert f"made by different versions of bordure: 6 files by {version}, 1 file by 0.0.9 (abc)." in text
    assert page.of("scores.csv")[0].endswith("bordure 0.0.9 (abc)")
    assert "1.0 for 1 file" in text
    assert page.text.count("1.0 for 1 file") == 1


def test_a_note_explains_uncommitted_code(run):
    for path in run.rglob(".provenance/*.json"):
        edit(path.parents[1] / path.stem, version="1.0 (abc-dirty)")
    assert "not committed" in write(run).text
    for path in run.rglob(".provenance/*.json"):
        edit(path.parents[1] / path.stem, version="1.0 (abc)")
    assert "not committed" not in write(run).text


def test_files_with_changed_inputs_are_listed(run):
    assert "changed since" not in write(run).text
    make("train", [run / "model/model.pt"], [], seed=8)
    page = write(run)
    assert "3 files made from inputs that have changed since" in " ".join(page.text.split())
    assert page.of("scores.csv")[2].endswith("model/model.pt has changed since")
    assert "changed" not in page.of("dataset/a.h5")[2]
    make("build_dataset", [run / "dataset/a.h5"], [], sections="0-1", channels=1)  # the same bytes again
    assert "changed" not in write(run).of("model/history.csv")[2]


def test_a_raw_file_that_changed_between_its_uses_is_marked(run):
    (run.parent / "raw.tif").write_bytes(b"edited")
    make("build_dataset", [run / "dataset/b.h5"], [run.parent / "raw.tif"], sections="2", channels=1)
    page = write(run)
    assert "changed between uses" in page.of("raw.tif")[1]


def test_missing_files_are_marked(run):
    (run / "a_labels.tif").unlink()
    assert "no longer exists" in write(run).of("a_labels.tif")[0]


def test_a_duration_of_zero_is_shown(run):
    edit(run / "scores.csv", seconds=0.0)
    assert write(run).of("scores.csv")[3] == "0 ms"
    for path in run.rglob(".provenance/*.json"):
        edit(path.parents[1] / path.stem, seconds=0.0)
    assert write(run).of("scores.csv")[3] == "0 ms"


def test_a_result_without_a_record_is_listed(run):
    assert "without a provenance record" not in write(run).text
    provenance.record_path(run / "dataset/a.h5").unlink()
    text = " ".join(write(run).text.split())
    assert "1 file in the results folder without a provenance record, shown as a raw file below" in text
    assert write(run).of("dataset/a.h5")[1] == sha256(run / "dataset/a.h5")


def test_long_lists_of_files_are_folded(run):
    assert write(run).html.count('<details class="stage"') == write(run).html.count(" open>")
    for number in range(80):
        make("evaluate", [run / f"scores-{number}.csv"], [])
    make("report", [run / "report.html"], [run / f"scores-{number}.csv" for number in range(80)])
    page = write(run)
    assert " open>" not in page.html
    assert page.of("report.html")[2].startswith("80 files")


def test_a_training_that_starts_from_an_earlier_model_has_stages_of_both_runs(tmp_path, monkeypatch):
    """Of two earlier runs, each with a dataset that all use; the model leads from run to run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw.tif").write_bytes(b"raw")
    here = type(tmp_path)("")
    make("build_dataset", [here / "shared/a.h5"], [here / "raw.tif"])
    model = []
    for number in range(3):
        folder = here / f"results{number}"
        make("train", [folder / "trained.pt"], [here / "shared/a.h5", *model])
        make("predict", [folder / "a.h5"], [here / "shared/a.h5", folder / "trained.pt"])
        make("package", [folder / "model.pt"], [folder / "trained.pt", folder / "a.h5"])
        model = [folder / "model.pt"]
        make("report", [folder / "report.html"], [folder / "a.h5", *model])
    files = read_files([here / "results2/report.html"])
    stages = {file.path: file.stage for file in files.values()}
    assert stages["shared/a.h5"] == "build_dataset, 2 runs before"  # the first run that used it
    assert stages["results2/trained.pt"] == "train" and stages["results2/model.pt"] == "package"
    assert stages["results1/model.pt"] == "package, run before"
    assert stages["results1/a.h5"] == "predict, run before"
    assert stages["results0/trained.pt"] == "train, 2 runs before"
    order = [*dict.fromkeys(file.stage for file in files.values())]
    assert order.index("train, 2 runs before") < order.index("package, run before") < order.index("train")
    write_provenance_page([here / "results2/report.html"], here / "results2/provenance.html", title="A")
    text = Page((here / "results2/provenance.html").read_text()).text
    assert "predict, run before" in text and "predict, 2 runs before" in text


def test_stages_are_in_the_order_of_the_workflow(run):
    stages = list(dict.fromkeys(file.stage for file in read_files([run / "report.html"]).values()))
    assert stages == ["raw files", "build_dataset", "train", "evaluate", "report"]


# the chart


@st.composite
def graphs(draw):
    """For each stage, earlier stages that made its inputs."""
    count = draw(st.integers(1, 9))
    return {
        str(n): draw(st.sets(st.sampled_from([str(m) for m in range(n)]))) if n else set()
        for n in range(count)
    }


def reach(links, start):
    found = set()
    for end in links.get(start, ()):
        found |= {end} | reach(links, end)
    return found


ROUNDED = 0.1  # px; lines are written with six digits


@given(graphs())
@example({str(n): set() for n in range(6)} | {"6": {"0"}, "7": {"0"}, "8": {*"0123456"}})  # a wide chart
@example(
    {
        "0": set(),
        "1": {"0"},
        "2": set(),
        "3": {"1"},
        "4": {"0", "1"},
        "5": {"0"},
        "6": {"0", "4"},
        "7": {"2"},
        "8": {"2", "1"},
    }
)  # the arrow from 2 to 8 passes to the right of all boxes
def test_the_chart_shows_all_connections_without_redundant_arrows(inputs):
    boxes, lines, (width, height) = draw_chain(inputs)
    layer = layers(inputs)
    for stage, (x, y) in boxes.items():
        assert 0 <= x <= width - BOX[0] + 1e-6 and 0 <= y <= height - BOX[1]
        for other, (x1, y1) in boxes.items():
            assert other == stage or y1 != y or abs(x1 - x) >= BOX[0] + 1  # side by side
        assert all(layer[source] < layer[stage] for source in inputs[stage])

    def at(x, y):
        (stage,) = (
            stage
            for stage, (left, top) in boxes.items()
            if abs(left + BOX[0] / 2 - x) < ROUNDED and top <= y <= top + BOX[1]
        )
        return stage

    drawn = {}
    for line in lines:
        numbers = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", line)]
        points = list(zip(numbers[::2], numbers[1::2], strict=True))
        assert all(-ROUNDED <= x <= width + ROUNDED for x, _ in points)
        source, target = at(*points[0]), at(*points[-1])
        drawn.setdefault(target, set()).add(source)
        # the arrow passes between the boxes of other rows
        for (x, y), (x1, y1) in zip(points[3:-1:4], points[4::4], strict=True):
            assert x == x1 and y < y1
            assert not any(y == top and left <= x <= left + BOX[0] for left, top in boxes.values())
    for stage in inputs:
        assert reach(drawn, stage) == reach(inputs, stage)
        for source in drawn.get(stage, ()):
            assert source in inputs[stage]
            assert not any(source in reach(inputs, other) for other in inputs[stage] - {source})
