"""The command doctor: a set of posed images, checked before training."""

import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from nfields.chart import save
from nfields.config import compose
from nfields.config_check import raise_problems
from nfields.doctor.examination import Examination, examine, gather
from nfields.doctor.finding import Finding
from nfields.doctor.mend import Mended, mend, mend_sizes
from nfields.doctor.patient import Patient, admit
from nfields.doctor.pictures import camera_picture, score_picture
from nfields.doctor.said_sizes import check_said_sizes, problem
from nfields.errors import ConfigError, DataError
from nfields.key_values import option_problems, sort_words
from nfields.run_folder import write_json

HELP = """\
usage: doctor.py data.path=FOLDER [data=...] [key=value ...]

Checks a set of posed images before training: says what is wrong, and writes a mended data set that
train.py reads. Nothing of yours is changed. Words that are not below are those of train.py.
  out=FOLDER       doctor.json, pictures, mended/; else outputs/doctor/<name of the data set>
  max_images=100   pictures looked at; of more, so many are taken, evenly spaced
  mend=true        false: only look
  seed=0           decides what is left to chance

Checked: axes and meaning of the poses, field of view, single poses, scene box, alpha, sizes,
duplicates, missing and unlisted pictures, blur, exposure. What is said about cameras is scored by
matches between pictures, found without the poses; where these are too few, nothing is said.
Exit code: 0, 1 if there is an error among the findings, 2 if there was nothing to look at."""

_COLORS = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def command_options(
    *, out: str | None = None, max_images: int = 100, mend: bool = True, seed: int = 0
) -> dict[str, Any]:
    """The options of doctor with their defaults; other words are those of train.py."""
    return {"out": out, "max_images": max_images, "mend": mend, "seed": seed}


def main(words: Sequence[str]) -> None:
    """The command doctor: prints findings, writes doctor.json, pictures and mended data."""
    console = Console(soft_wrap=True, highlight=False, markup=False)
    if not words or set(words) & {"-h", "--help", "help"}:
        console.print(HELP)
        return
    options, overrides = read(words)
    findings = diagnose(options, overrides, console)
    if any(finding.severity == "error" for finding in findings):
        sys.exit(1)


def read(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Options of doctor and words for train.py; every mistake at once."""
    given, problems = sort_words(words, inspect.signature(command_options).parameters)
    problems += option_problems(given.options, [command_options], "doctor")
    raise_problems(problems)
    options = command_options(**given.options)
    if options["max_images"] < 2:
        raise ConfigError(f"max_images={options['max_images']} must be at least 2")
    return options, given.overrides


def diagnose(options: dict[str, Any], words: list[str], console: Console) -> list[Finding]:
    """All findings about the data set of some words for train.py, printed and written."""
    node = compose(["task=nerf", *words]).data
    path = node.get("path")
    if path is not None and not Path(path).exists():
        raise DataError(f"data.path={path} does not exist (looked in {Path.cwd()}).")
    out = _new_folder(options["out"], "generated" if path is None else Path(path).resolve().name)
    findings: list[Finding] = []
    resized_to: Mended | None = None
    try:
        resized = None
        if path is not None:
            resized = check_said_sizes(Path(path), allow_outside=node.get("allow_outside", False))
        if resized is not None:
            findings.append(resized.finding)
            resized_to = mend_sizes(resized, words, out / "sizes")
            words = resized_to.words
            node = compose(["task=nerf", *words]).data
        patient = admit(node)
        console.print(f"{patient.source}: {len(patient)} pictures")
        looks, evidence = gather(
            patient, max_images=options["max_images"], seed=options["seed"], say=console.print
        )
    except DataError as error:
        findings.append(problem(error))
        write_json(out / "doctor.json", _record(path, words, findings, None, None, None))
        _print_findings(findings, console)
        console.print(f"\nwritten to {out}; training would stop at this too")
        return findings
    console.print("3/3 trying hypotheses")
    result = examine(patient, looks, evidence)
    findings += result.findings
    name = out.name if path is None else Path(path).resolve().name
    flagged = {patient.names.index(f) for x in findings for f in x.frames if f in patient.names}
    pictures = [save(camera_picture(result, flagged, name), out / "cameras.png")]
    if evidence.is_enough:
        pictures.append(save(score_picture(result, name), out / "scores.png"))
    mended = resized_to
    if options["mend"] and patient.path is not None and not result.remedy.is_empty:
        mended = mend(patient, result.remedy, words, out / "mended")
        with_checks = compose(["task=nerf", *mended.words])
        admit(with_checks.data)  # what was written can be read
    write_json(out / "doctor.json", _record(path, words, findings, patient, result, mended))
    _print_report(result, findings, console)
    _print_end(findings, mended, words, out, [picture.name for picture in pictures], console)
    return findings


def _new_folder(given: str | None, name: str) -> Path:
    """A folder that is empty; the default gets a number where there is one already."""
    if given is not None:
        folder = Path(given)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(
                f"out={given} is not empty; give another folder, nothing is overwritten"
            )
    else:
        base, number = Path("outputs", "doctor"), 1
        folder = base / name
        while folder.exists():
            number += 1
            folder = base / f"{name}_{number}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"out={folder} cannot be written: {error.strerror}") from error
    return folder


def _record(
    path: str | None,
    words: list[str],
    findings: list[Finding],
    patient: Patient | None,
    result: Examination | None,
    mended: Mended | None,
) -> dict[str, Any]:
    """doctor.json."""
    record: dict[str, Any] = {
        "data": path,
        "words": words,
        "is_healthy": not any(f.severity in ("error", "warning") for f in findings),
        "findings": [finding.to_dict() for finding in findings],
        "mended": None if mended is None else {"path": str(mended.path), "words": mended.words},
    }
    if patient is not None and result is not None:
        evidence = result.evidence
        record |= {
            "source": patient.source,
            "pictures": len(patient),
            "looked_at": [patient.names[i] for i in evidence.chosen],
            "pairs": len(evidence.matches.pairs),
            "matches": len(evidence.matches),
            "score": round(result.score, 4) if evidence.is_enough else None,
            "view_scores": {patient.names[v]: round(s, 3) for v, s in result.scores.items()},
            "readings": [
                {"name": reading.name, "score": round(reading.score, 4)}
                for reading in result.readings[:8]
            ],
            "points": len(result.points),
            "reader_notes": patient.notes,
        }
    return record


def _print_report(result: Examination, findings: list[Finding], console: Console) -> None:
    evidence = result.evidence
    console.print(
        f"\n{len(evidence.matches):,} matches in {len(evidence.matches.pairs)} pairs of pictures"
        + (f"; {result.score:.0%} agree with the cameras" if evidence.is_enough else "")
        + (" as mended" if result.remedy.changes_poses or result.remedy.intrinsics else "")
    )
    _print_findings(findings, console)


def _print_findings(findings: list[Finding], console: Console) -> None:
    if not findings:
        console.print("no finding: nothing that was checked is wrong")
    for finding in findings:
        console.print()
        console.print(Text(f"{finding.severity}: {finding.code}", style=_COLORS[finding.severity]))
        console.print(f"  {finding.what}")
        if finding.fix:
            console.print(f"  fix: {finding.fix}")


def _print_end(
    findings: list[Finding],
    mended: Mended | None,
    words: list[str],
    out: Path,
    pictures: list[str],
    console: Console,
) -> None:
    counts = [
        f"{num} {name}{'s' * (num > 1)}"
        for name in ("error", "warning", "note")
        if (num := sum(finding.severity == name for finding in findings))
    ]
    if counts:
        console.print(f"\n{', '.join(counts)}")
    console.print(f"written to {out}: doctor.json, {', '.join(pictures)}")
    if mended is not None:
        console.print(
            f"train on the mended data: python train.py task=nerf {' '.join(mended.words)}"
        )
    elif not any(finding.severity == "error" for finding in findings):
        console.print(f"train on it: python train.py task=nerf {' '.join(words)}")
