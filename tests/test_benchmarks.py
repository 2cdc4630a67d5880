"""The command that runs the benchmarks, on modules of our own that measure nothing."""

import json

import pytest

from benchmarks import __main__ as benchmarks

ROW = {
    "what": "a step",
    "anchor": "a slow step",
    "value": 0.5,
    "unit": "x the time",
    "aim": 1.0,
    "higher_is_better": False,
    "details": {},
    "reached": True,
}
MACHINE = {"processor": "AMD EPYC 9B14 (KVM)", "cores": 2, "gpu": None, "python": "3.11.7"}


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the command on modules {name: code}; returns its exit status, what it printed and what it kept."""
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.setattr(benchmarks, "FOLDER", folder)
    monkeypatch.setattr(benchmarks.harness, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(benchmarks.harness, "machine", lambda: MACHINE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def call(modules, *names):
        for name, code in modules.items():
            (folder / f"bench_{name}.py").write_text(code)
        status = benchmarks.main(names)
        files = [*(tmp_path / "results").glob("*")]
        kept = json.loads(files[0].read_text()) if files else {}
        assert [file.name for file in files] in ([], ["amd-epyc-9b14-kvm-2-cores.json"])
        return status, capsys.readouterr(), kept

    return call


def telling(**changes):
    """A module that measures one row."""
    return f"import json, sys; assert sys.argv[1:] == ['--json']; print({json.dumps([ROW | changes])!r})"


def test_all_rows_are_printed_and_kept_with_their_origin(run):
    status, said, kept = run({"one": telling(), "two": telling(what="a leap", value=2.0, reached=False)})
    assert status == 0
    assert [line.split()[:2] for line in said.out.splitlines()[:2]] == [["a", "step"], ["a", "leap"]]
    assert "MISSED" in said.out
    assert list(kept) == ["one", "two"]
    assert kept["one"]["rows"] == [ROW]
    assert kept["one"]["machine"] == MACHINE
    assert kept["one"]["command"] == "python -m benchmarks.bench_one"
    assert "benchmarks.bench_one ... " in said.err


def test_what_is_not_measured_again_stays_and_what_is_no_more_goes(run):
    run({"one": telling(), "two": telling(), "gone": telling()})
    (benchmarks.FOLDER / "bench_gone.py").unlink()
    status, said, kept = run({"one": telling(value=0.7), "two": "raise SystemExit('not asked for')"}, "one")
    assert status == 0
    assert {name: entry["rows"][0]["value"] for name, entry in kept.items()} == {"one": 0.7, "two": 0.5}
    assert len(said.out.splitlines()) == 2  # the row measured, and where it is kept


def test_a_failing_module_is_told_and_the_others_run(run):
    status, said, kept = run({"one": "raise RuntimeError('no such GPU')", "two": telling()})
    assert status == 1
    assert said.err.splitlines()[-1] == "RuntimeError: no such GPU"
    assert "error: one: " in said.err
    assert list(kept) == ["two"] and "a step" in said.out


def test_output_that_is_no_row_is_a_failure(run):
    status, said, kept = run({"one": "print('hello')", "two": telling()})
    assert status == 1 and "error: one: " in said.err and list(kept) == ["two"]


def test_an_unknown_name_is_answered_with_those_there_are(run):
    status, said, kept = run({"one": telling()}, "won")
    assert status == 1 and kept == {}
    assert said.err == "error: no benchmark won. There are one.\n"


def test_a_gpu_is_part_of_the_name():
    assert benchmarks.slug(MACHINE | {"gpu": "NVIDIA H200"}) == "amd-epyc-9b14-kvm-2-cores-nvidia-h200"
