"""Reading the raters' files: raters of known skill, broken and doubled files, attention checks, the report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training import study_perception
from training.metrics.agreement import fleiss_kappa


def answers(known: dict, rater: str, singles, sets, milliseconds: float = 2000) -> dict:
    """A file's content; `singles(item, kind)` and `sets(item, options)` choose."""
    chosen = {item: singles(item, each["kind"]) for item, each in known["singles"].items()}
    chosen |= {item: sets(item, each["options"]) for item, each in known["sets"].items()}
    for item, each in known["singles"].items():
        if each["kind"] == "check":
            chosen[item] = "generated"
    for item, each in known["sets"].items():
        if each["check"]:
            chosen[item] = "o0"
    return {
        "format": "perception study answers",
        "version": 1,
        "study": known["study"],
        "rater": rater,
        "complete": True,
        "answers": [{"item": i, "choice": choice, "milliseconds": milliseconds} for i, choice in chosen.items()],
    }


def option_of(options: dict, method: str) -> str:
    return next(name for name, of in options.items() if of == method)


def truthful(known: dict, rater: str = "1") -> dict:
    return answers(known, rater, lambda _, kind: kind, lambda _, options: option_of(options, "ours"))


def put(folder: Path, name: str, content: object) -> None:
    folder.mkdir(exist_ok=True)
    if content is None:
        return (folder / name).mkdir()
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def read(study, folder: Path, *more: str) -> dict:
    command = ["read", "--key", str(study.key), "--answers", str(folder), "--out", str(folder / "out"), *more]
    assert study_perception.main(command) == 0
    return json.loads((folder / "out" / "results.json").read_text())


def test_raters_of_known_skill_give_it_back(study, tmp_path):
    """A hundred raters who err on so many pictures, and prefer each method so often, in a fixed pattern."""
    r2g, g2r, jab = 0.25, 0.62, {"ours": 0.82, "theirs": 0.11, "a third": 0.07}
    reals = [item for item, each in study.known["singles"].items() if each["kind"] == "real"]
    fakes = [item for item, each in study.known["singles"].items() if each["kind"] == "generated"]
    rng = np.random.default_rng(0)
    wrong = {item: rng.permutation(100) < 100 * r2g for item in reals}
    wrong |= {item: rng.permutation(100) < 100 * g2r for item in fakes}
    other = {"real": "generated", "generated": "real"}
    prefer = np.repeat(list(jab), [round(100 * share) for share in jab.values()])
    best = {item: rng.permutation(prefer) for item in study.known["sets"]}
    for n in range(100):
        data = answers(
            study.known,
            f"rater {n}",
            lambda item, kind, n=n: other.get(kind, kind) if kind in other and wrong[item][n] else kind,
            lambda item, options, n=n: option_of(options, best[item][n]),
            1000 + 10 * n,
        )
        put(tmp_path, f"answers-{n}.json", data)
    found = read(study, tmp_path, "--name", "RePoseDM")
    assert found["raters"] == 100 and not found["failed_checks"] and not found["files_left_out"]
    assert found["r2g"]["share"] == r2g and found["r2g"]["of"] == 400
    assert found["g2r"]["share"] == g2r and found["g2r"]["of"] == 300
    assert {method: cell["share"] for method, cell in found["jab"].items()} == jab
    assert found["g2r"]["low"] < g2r < found["g2r"]["high"]
    expected = fleiss_kappa([[75, 25]] * 4 + [[62, 38]] * 3)
    assert found["kappa_singles"] == pytest.approx(expected, abs=1e-6)
    assert found["seconds"]["singles"][1] == pytest.approx(1.495, abs=1e-3)
    report = (tmp_path / "out" / "results.md").read_text()
    assert "RePoseDM taken for real | 62.0% [" in report and "(186 of 300)" in report
    assert np.asarray(Image.open(tmp_path / "out" / "perception.png").convert("L")).std() > 20
    assert (tmp_path / "out" / "perception.pdf").read_bytes().startswith(b"%PDF")


def test_inattentive_raters_are_named_and_left_out_on_request_only(study, tmp_path):
    put(tmp_path, "a.json", truthful(study.known, "careful"))
    careless = truthful(study.known, "careless")
    for entry in careless["answers"]:
        if entry["item"].startswith("s"):
            entry["choice"] = "real"
    put(tmp_path, "b.json", careless)
    both = read(study, tmp_path)
    assert both["raters"] == 2 and both["failed_checks"] == ["'careless' (b.json): 1 of 2"]
    assert both["g2r"]["share"] == 0.5 and "counted all the same" in (tmp_path / "out" / "results.md").read_text()
    one = read(study, tmp_path, "--leave-out-failed")
    assert one["raters"] == 1 and one["g2r"]["share"] == 0 and one["failed_checks"] == both["failed_checks"]
    (tmp_path / "a.json").unlink()
    command = ["read", "--key", str(study.key), "--answers", str(tmp_path), "--out", str(tmp_path / "none")]
    assert study_perception.main([*command, "--leave-out-failed"]) == 2 and not (tmp_path / "none").exists()


def broken(known: dict) -> dict[str, tuple[object, str]]:
    """File → (content, what its line says)."""
    whole = truthful(known, "x")
    first, *rest = whole["answers"]
    return {
        "cut.json": (json.dumps(whole)[:200], "no whole JSON file"),
        "list.json": ([whole], "no file of answers"),
        "other.json": (whole | {"study": "0123"}, "answers the study '0123'"),
        "nobody.json": (whole | {"rater": " "}, "names no rater"),
        "empty.json": (whole | {"answers": []}, "it has no answer"),
        "twice.json": (whole | {"answers": [first, *rest, first]}, "a second one to"),
        "choice.json": (whole | {"answers": [first | {"choice": "maybe"}]}, "answer 1 chooses 'maybe'"),
        "unhashable.json": (whole | {"answers": [first | {"choice": ["real"]}]}, "answer 1 chooses ['real']"),
        "item.json": (whole | {"answers": [first | {"item": "s99"}]}, "for 's99', which the study does not offer"),
        "time.json": (whole | {"answers": [first | {"milliseconds": -1}]}, "answer 1 took -1 milliseconds"),
        "long.json": (whole | {"answers": [first | {"milliseconds": 10**400}]}, "answer 1 took 1000"),
        "never.json": (whole | {"answers": [first | {"milliseconds": float("nan")}]}, "answer 1 took nan"),
        "folder.json": (None, "folder.json: left out: "),
        "deep.json": ("[" * 200_000, "deep.json: left out: "),
    }


def test_broken_files_give_one_line_each_and_do_not_count(study, tmp_path, capsys):
    cases = broken(study.known)
    put(tmp_path, "whole.json", truthful(study.known))
    for name, (content, _) in cases.items():
        put(tmp_path, name, content)
    found = read(study, tmp_path)
    assert found["raters"] == 1 and len(found["files_left_out"]) == len(cases)
    lines = dict(line.split(": left out: ", 1) for line in found["files_left_out"])
    told = capsys.readouterr().err
    for name, (_, words) in cases.items():
        line = next(line for line in found["files_left_out"] if line.startswith(name))
        assert words in line and "\n" not in line and f"warning: {line}\n" in told
    assert set(lines) == set(cases)


def test_a_file_that_an_editor_saved_again_counts(study, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(truthful(study.known)), encoding="utf-8-sig")
    assert read(study, tmp_path)["raters"] == 1


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("study", 5),
        ("singles", []),
        ("sets", []),
        ("methods", ["ours"]),
        ("singles", {"s0": {}}),
        ("singles", {"s0": {"kind": "x"}}),
        ("sets", {"b0": {"check": False, "options": ["o0"]}}),
        ("sets", {"b0": {"options": {"o0": "ours", "o1": "theirs"}}}),
        ("sets", {"b0": {"check": True, "options": {"o0": "ours"}}}),
    ],
)
def test_a_damaged_key_is_told_in_one_line(study, tmp_path, capsys, part, value):
    put(tmp_path, "key.json", study.known | {part: value})
    put(tmp_path / "answers", "a.json", truthful(study.known))
    command = ["read", "--key", str(tmp_path / "key.json"), "--answers", str(tmp_path / "answers")]
    assert study_perception.main([*command, "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert "key.json is no key of a perception study" in told and told.count("\n") == 1


def test_of_doubled_files_the_fuller_one_counts(study, tmp_path):
    whole = truthful(study.known, "7")
    put(tmp_path, "a.json", whole | {"answers": whole["answers"][:3], "complete": False})
    put(tmp_path, "b.json", whole)
    shutil.copy(tmp_path / "b.json", tmp_path / "c.json")
    found = read(study, tmp_path)
    assert found["raters"] == 1 and not found["incomplete"] and found["r2g"]["of"] == 4
    assert found["files_left_out"] == [
        f"a.json: left out: rater '7' again, 3 answers against {len(whole['answers'])}; b.json counts",
        "c.json: left out: rater '7' again, the same answers; b.json counts",
    ]


def test_a_stopped_rater_counts_and_is_named(study, tmp_path):
    whole = truthful(study.known, "7")
    put(tmp_path, "a.json", whole | {"answers": whole["answers"][:3]})
    found = read(study, tmp_path)
    assert found["incomplete"] == ["'7' (a.json)"] and found["jab"]["ours"]["share"] is None
    assert "Stopped before the end" in (tmp_path / "out" / "results.md").read_text()


@pytest.mark.parametrize(
    ("key", "folder", "words"),
    [
        ("study.key.json", "nowhere", "there is no such folder"),
        ("study.key.json", ".", "nobody's answers to the study"),
        ("nothing.json", ".", "give the study.key.json"),
        ("answers.json", ".", "is no key of a perception study"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(study, tmp_path, capsys, key, folder, words):
    (tmp_path / "answers").mkdir()
    shutil.copy(study.key, tmp_path / "study.key.json")
    (tmp_path / "answers.json").write_text("{}")
    command = ["read", "--key", str(tmp_path / key), "--answers", str(tmp_path / "answers" / folder)]
    assert study_perception.main([*command, "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and words in told and told.count("\n") == 1
