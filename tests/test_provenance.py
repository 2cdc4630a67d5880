import hashlib
import json
import re
import subprocess

import pipeline_lib
from pipeline_lib import layout, provenance


def test_version_names_release_and_commit():
    found = provenance.version()
    assert found.startswith(pipeline_lib.__version__)
    if (provenance.ROOT / ".git").exists():
        command = ["git", "-C", provenance.ROOT, "rev-parse", "HEAD"]
        head = subprocess.run(command, capture_output=True, text=True)
        commit = re.search(r"\(([0-9a-f]+)(-dirty)?\)", found)[1]
        assert head.stdout.startswith(commit)


def test_a_record_is_plain_and_names_each_input_by_its_bytes(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"raw")
    record = provenance.record([tmp_path / "a.tif"], sigma=5.0)
    assert record["inputs"] == {str(tmp_path / "a.tif"): hashlib.sha256(b"raw").hexdigest()}
    assert record["settings"] == {"sigma": 5.0}
    assert json.loads(json.dumps(record)) == record == provenance.record([tmp_path / "a.tif"], sigma=5.0)


def test_what_many_jobs_share_is_told_by_its_own_record_and_not_read(tmp_path):
    def shared(name, **settings):
        with layout.create(tmp_path / name, provenance.record([], **settings)) as file:
            layout.add(file, layout.LABELS, (1, 4, 4))
        return provenance.record([], [tmp_path / name])["records"][str(tmp_path / name)]

    assert shared("a.h5", sigma=5) == shared("b.h5", sigma=5) != shared("c.h5", sigma=6)
