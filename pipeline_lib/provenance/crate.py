"""Pack the results of a run as a Workflow Run RO-Crate: a ZIP file that repositories and people can read."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from pipeline_lib.provenance.chain import Link, chain
from pipeline_lib.provenance.record import FOLDER, find_record, record_path, version
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import replacing, sha256
from pipeline_lib.runtime.types import Json

METADATA = "ro-crate-metadata.json"
#: Results that a crate contains, as patterns in the results folder, with their meaning.
RESULTS = {
    "report.html": "report: scores, sections with cells and errors, methods, settings",
    "check.html": "comparison of images and annotations before the training",
    "provenance.html": "from which files and with which settings each file was made",
    "comparison.html": "comparison of the variants of a study",
    "scores*.csv": "scores of the network and of the baselines",
    "counts.csv": "number of detections in each section",
    "detections.csv": "detections in all volumes",
    "statistics.json": "statistics of the training volumes",
    "postprocessing/*.json": "threshold and further settings, chosen on the validation volumes",
    "model.pt": "trained model, for `bordure predict`",
    "segmentation/*_labels.tif": "cells, numbered",
    "segmentation/*_cells.csv": "measurements of each cell",
    "segmentation/*_classes.tif": "class of each pixel",
    "detection/*_detections.csv": "detections in one volume",
    "detection/*_rois.zip": "detections for ImageJ and Fiji",
    "detection/*_detections.geojson": "detections for QuPath",
}
TYPES = {
    ".html": "text/html",
    ".csv": "text/csv",
    ".json": "application/json",
    ".tif": "image/tiff",
    ".zip": "application/zip",
    ".geojson": "application/geo+json",
    ".pt": "application/octet-stream",
    ".yaml": "application/yaml",
}
_PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": ("Workflow RO-Crate", "1.0"),
}


_SNAKEMAKE = "https://snakemake.readthedocs.io"


def write_crate(results: str | Path, output: str | Path, workflow: str | Path) -> int:
    """Write the results of a complete run and their description as a Workflow Run RO-Crate (ZIP).

    The crate contains the report, scores, model and segmentations, and the main file of the workflow. Raw
    images are named with their SHA-256, but not contained. The same results give the same bytes.

    Parameters
    ----------
    results : str or Path
        Results folder of the run.
    output : str or Path
        ZIP file to write.
    workflow : str or Path
        Main file of the workflow.

    Returns
    -------
    int
        Number of files in the crate.

    Raises
    ------
    InputError
        If the run is not complete, or a file has changed since it was made.

    References
    ----------
    https://www.researchobject.org/workflow-run-crate/profiles/workflow_run_crate
    """
    results = Path(results)
    report = results / "report.html"
    if not report.exists():
        raise InputError(
            f"{results}: has no report.html, so the run is not complete. Run the workflow first, or name its "
            "results folder."
        )
    volumes = (find_record(report) or {}).get("settings", {}).get("volume_names")
    files = [
        (path, meaning) for pattern, meaning in RESULTS.items() for path in _made(results, pattern, volumes)
    ]
    links = chain(report, *(path for path, _ in files if path != report and find_record(path)))
    _require_valid(results, [path for path, _ in files], links)
    described = _describe(results, files, links, Path(workflow))
    with replacing(output) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        _add(archive, METADATA, json.dumps(described, indent=1, ensure_ascii=False).encode())
        _add(archive, f"workflow/{Path(workflow).name}", Path(workflow).read_bytes())
        for path, _ in files:
            _add(archive, _inside(results, path), path)
    return len(files) + 1


def _add(archive: zipfile.ZipFile, name: str, content: bytes | Path) -> None:
    """Add a file without its date, so that the bytes are the same each time."""
    entry = zipfile.ZipInfo(name)
    entry.compress_type = zipfile.ZIP_DEFLATED
    if isinstance(content, bytes):
        archive.writestr(entry, content)
        return
    with archive.open(entry, "w", force_zip64=True) as target, content.open("rb") as source:
        while part := source.read(2**20):
            target.write(part)


def _inside(results: Path, path: Path) -> str:
    """Return the path of a result in the crate."""
    return f"results/{path.relative_to(results).as_posix()}"


def _made(results: Path, pattern: str, volumes: Sequence[str] | None) -> list[Path]:
    """Return the files of a pattern, with those that are missing but have a record.

    Files of other volumes are left out: their rows were removed from the table since.
    """
    folder = results / Path(pattern).parent
    names = {path.name for path in results.glob(pattern)}
    names |= {path.stem for path in (folder / FOLDER).glob(f"{Path(pattern).name}.json")}
    if volumes is not None and folder.name in ("segmentation", "detection"):
        names &= {Path(pattern).name.replace("*", volume) for volume in volumes}
    return [folder / name for name in sorted(names)]


def _require_valid(results: Path, files: Sequence[Path], links: dict[str, Link]) -> None:
    """Raise if a result is missing, or if it or a file that it was made from has changed."""
    if missing := next((path for path in files if not path.exists()), None):
        raise InputError(
            f"{missing}: is missing, so the run is not complete. Run the workflow again. If you removed "
            f"the file, delete its record {record_path(missing)}, too."
        )
    for link in links.values():
        if link.state == "changed" or (link.state == "missing" and _is_result(results, link.path)):
            what = "has changed since it was written" if link.state == "changed" else "is missing"
            raise InputError(
                f"{link.path}: {what}, so the results do not belong together. Run the workflow again."
            )
    for link in links.values():
        if other := next((source for source, same in link.inputs.items() if not same), None):
            raise InputError(
                f"{link.path}: was made from another version of {other}, so the results do not belong "
                "together. Run the workflow again. If the file is from an earlier run, delete it."
            )


def _is_result(results: Path, path: Path) -> bool:
    """Return whether a file is one of those that a crate contains."""
    return any(path.resolve().match(str(results.resolve() / pattern)) for pattern in RESULTS)


def _describe(
    results: Path, files: Sequence[tuple[Path, str]], links: dict[str, Link], workflow: Path
) -> Json:
    """Return the content of the metadata file."""
    record = links[next(iter(links))].record or {}
    times = [_times(link.record) for link in links.values() if link.record and "finished" in link.record]
    main = f"workflow/{workflow.name}"
    inputs = [*_inputs(links)]
    outputs = [*_outputs(results, files)]
    settings = [
        {
            "@id": f"#setting-{name}",
            "@type": "PropertyValue",
            "name": name,
            "value": value if isinstance(value, str) else json.dumps(value),
        }
        for name, value in sorted(record.get("settings", {}).items())
    ]
    title = record.get("settings", {}).get("report", {}).get("title", "Segmentation")
    action = {
        "@id": "#run",
        "@type": "CreateAction",
        "name": f"Run of bordure {record.get('version', version())}",
        "instrument": {"@id": main},
        "actionStatus": {"@id": "http://schema.org/CompletedActionStatus"},
        "description": "From raw images to scored segmentations; the settings are among its objects",
        "startTime": min(start for start, _ in times).isoformat(timespec="seconds"),
        "endTime": max(end for _, end in times).isoformat(timespec="seconds"),
        "object": [{"@id": entity["@id"]} for entity in (*inputs, *settings)],
        "result": [{"@id": entity["@id"]} for entity in outputs],
    }
    return {
        "@context": [
            "https://w3id.org/ro/crate/1.1/context",
            "https://w3id.org/ro/terms/workflow-run/context",
        ],
        "@graph": [
            {
                "@id": METADATA,
                "@type": "CreativeWork",
                "about": {"@id": "./"},
                "conformsTo": [
                    {"@id": "https://w3id.org/ro/crate/1.1"},
                    {"@id": "https://w3id.org/workflowhub/workflow-ro-crate/1.0"},
                ],
            },
            {
                "@id": "./",
                "@type": "Dataset",
                "name": title,
                "description": "Results of a run of bordure: scored segmentations of microscope images, the "
                "trained model, and how they were made.",
                "datePublished": max(end for _, end in times).date().isoformat(),
                "license": "The owner of the images decides on the licence of the results.",
                "conformsTo": [{"@id": name} for name in _PROFILES],
                "mainEntity": {"@id": main},
                "hasPart": [{"@id": main}, *({"@id": entity["@id"]} for entity in outputs)],
                "mentions": {"@id": "#run"},
            },
            *(
                {"@id": name, "@type": "CreativeWork", "name": words, "version": number}
                for name, (words, number) in _PROFILES.items()
            ),
            {
                "@id": main,
                "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow"],
                "name": "bordure",
                "description": "From raw microscope images to scored segmentations, reproducibly",
                "version": record.get("version", version()),
                "license": "https://spdx.org/licenses/MIT",
                "encodingFormat": "text/plain",
                "conformsTo": {"@id": "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"},
                "programmingLanguage": {"@id": _SNAKEMAKE},
                "sha256": sha256(workflow),
            },
            {
                "@id": _SNAKEMAKE,
                "@type": "ComputerLanguage",
                "name": "Snakemake",
                "url": {"@id": _SNAKEMAKE},
                "identifier": {"@id": "https://doi.org/10.1093/bioinformatics/bts480"},
            },
            action,
            *inputs,
            *settings,
            *outputs,
        ],
    }


def _inputs(links: dict[str, Link]) -> Iterator[Json]:
    """Yield the files that bordure did not write: raw images and annotations."""
    recorded: dict[str, str] = {}
    for link in links.values():
        recorded |= (link.record or {}).get("inputs", {})
    for number, (name, link) in enumerate(sorted(links.items()), 1):
        if link.record is None:
            yield {
                "@id": f"#input-{number}",
                "@type": "CreativeWork",
                "name": Path(name).name,
                "description": "input of the run, which is not contained in this crate",
                **({"sha256": recorded[name]} if name in recorded else {}),
            }


def _outputs(results: Path, files: Sequence[tuple[Path, str]]) -> Iterator[Json]:
    """Yield the files in the crate."""
    for path, meaning in files:
        yield {
            "@id": _inside(results, path),
            "@type": "File",
            "name": path.name,
            "description": meaning,
            "encodingFormat": TYPES.get(path.suffix, "application/octet-stream"),
            "contentSize": str(path.stat().st_size),
            "sha256": sha256(path),
        }


def _times(record: Json) -> tuple[datetime, datetime]:
    """Return when a file was begun and finished."""
    end = datetime.fromisoformat(record["finished"])
    return end - timedelta(seconds=float(record.get("seconds", 0))), end
