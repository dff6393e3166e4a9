"""What the READMEs show is what was measured: the suite's ratios and JSON, and that tables and pictures are those of the JSON."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import publish  # noqa: E402
import sass  # noqa: E402
import suite  # noqa: E402


def test_tables_and_pictures_are_those_of_the_results() -> None:
    subprocess.run([sys.executable, "benchmarks/publish.py", "--check"], cwd=ROOT, check=True)


def test_readmes_show_all_pictures_and_only_those_that_are_made_from_results_or_by_examples() -> None:
    made = {path.name for path, *_ in publish.pictures(publish.RESULTS)}
    by_examples = {"ligru-stability.png", "sru-char-lm.png", "rnnt_loss-occupancies.png", "rnnt_loss-spoken-digits.png"}
    by_examples |= {"mingru-memory-maze.png", "qrnn-word-lm.png"}
    shown = {name for readme in publish.READMES for name in re.findall(r"results/([\w.-]+\.png)", readme.read_text())}
    assert shown == made | by_examples == {path.name for path in publish.RESULTS.glob("*.png")}


def test_every_family_is_in_the_root_readme_and_has_pictures_and_a_table_of_its_own() -> None:
    families = {path.parent.name for path in ROOT.glob("packages/*/setup.py")}
    assert {row.package for row in publish.HEADLINES} == families
    for family in families:
        readme = (ROOT / "packages" / family / "README.md").read_text()
        assert f"<!-- benchmarks/publish.py: {family}-cpu" in readme
        assert f"api/{family}" in (ROOT / "docs" / "contents.md").read_text()


def test_a_change_of_a_number_is_noticed_and_every_picture_can_be_drawn_again(tmp_path: Path) -> None:
    for path in publish.RESULTS.glob("*-cpu.json"):
        (tmp_path / path.name).write_text(path.read_text())
    made = [path for path, *_ in publish.pictures(tmp_path)]
    assert publish.stale(tmp_path) == made
    publish.publish(tmp_path)
    assert publish.stale(tmp_path) == []
    changed = tmp_path / "qrnn-cpu.json"
    changed.write_text(changed.read_text().replace('"median": ', '"median": 1', 1))
    assert publish.stale(tmp_path) == [path for path in made if path.name.startswith("qrnn")]


def test_a_readme_takes_its_table_from_the_json() -> None:
    text = (ROOT / "packages" / "mingru" / "README.md").read_text()
    (first,) = re.findall(r"\n\| \*\*minGRU\*\* .+\n", text)[:1]
    assert publish.tables(text.replace(first, "\n| **minGRU** | 1 ms |\n")) == text


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """A measurement of ours beside a peer, which needs 8 MiB, a broken one, and a limit."""
    calls = dict.fromkeys(("ours", "peer", "limit", "broken"), 0)

    def run(name: str) -> suite.Run:
        def count() -> None:
            calls[name] += 1
            if name == "broken":
                raise RuntimeError("no kernel")
            torch.ones(1 << 21 if name == "peer" else 1)

        return count

    group = suite.Group("layer", "training step", {"B": 2}, lambda: {name: run(name) for name in calls}, ["ours"], "limit")
    monkeypatch.setattr(sys, "argv", ["bench", "--device", "cpu", "--seconds", "0", "--folder", str(tmp_path)])
    monkeypatch.setattr(sys.modules["__main__"], "__file__", suite.__file__, raising=False)  # not there under xdist
    suite.peer("nobody==1", lambda: __import__("nobody"))
    suite.main("toy", lambda device: [group])
    assert min(calls["ours"], calls["peer"], calls["limit"]) >= 5
    document: dict[str, object] = json.loads((tmp_path / "toy-cpu.json").read_text())
    return document


def test_a_result_names_the_hardware_the_versions_and_the_commit(measured: dict[str, dict[str, str]]) -> None:
    assert measured["hardware"]["cpu"]
    assert re.fullmatch(r"[0-9a-f]{40}\+?", measured["hardware"]["commit"])
    assert "rnnkit-common" in measured["versions"]
    assert measured["peers"]["nobody==1"].startswith("not measured: ModuleNotFoundError")


def test_every_candidate_has_spread_memory_and_both_ratios(
    measured: dict[str, list[dict[str, dict[str, dict[str, float]]]]],
) -> None:
    (group,) = measured["groups"]
    assert group["failed"] == {"broken": "RuntimeError: no kernel"}
    assert set(group["candidates"]) == {"ours", "peer", "limit"}
    for times in group["candidates"].values():
        assert times["quartile1"] <= times["median"] <= times["quartile3"]
        assert times["over ours"] == pytest.approx(times["median"] / group["candidates"]["ours"]["median"])
        assert times["over limit"] == pytest.approx(times["median"] / group["candidates"]["limit"]["median"])
    assert group["candidates"]["peer"]["peak memory, MB"] == pytest.approx(8.4, abs=1)


def test_a_failure_of_ours_ends_the_measurement() -> None:
    group = suite.Group("layer", "training step", {}, lambda: {"ours": lambda: 1 / 0}, ["ours"])
    with pytest.raises(ZeroDivisionError):
        group.measure(0, "cpu")


def test_instructions_are_counted_along_the_way_of_a_full_tile() -> None:
    """Of a loop that loads one word of 4 bytes, or two of 2 bytes, and does more where a mark is set."""
    code = """
        Function : _Z6kernelv
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/              @!P0 BRA 0x50 ;
        /*0020*/                   LDG.E.U16 R4, desc[UR4][R2.64] ;
        /*0030*/                   LDG.E.U16 R6, desc[UR4][R2.64+0x2] ;
        /*0040*/                   BRA 0x60 ;
        /*0050*/                   LDG.E R4, desc[UR4][R2.64] ;
        /*0060*/               @P1 BRA 0x90 ;
        /*0070*/                   FADD R5, R8, 1 ;
        /*0080*/                   STL [R1+0x8], R5 ;
        /*0090*/                   FADD R5, R4, R5 ;
        /*00a0*/               @P2 BRA 0x10 ;
        /*00b0*/                   EXIT ;
        /*00c0*/                   BRA 0xc0 ;
    """
    (kernel,) = sass.parse(code)
    assert [hex(one.address) for one in kernel.steady] == ["0x10", "0x50", "0x60", "0x90", "0xa0"]
    assert (kernel.local, kernel.wait) == (0, 2)


def test_code_that_was_moved_to_the_end_is_no_loop() -> None:
    """It jumps back, but to where others come from, too."""
    code = """
        Function : _Z6kernelv
        /*0000*/               @P0 BRA 0x40 ;
        /*0010*/                   FADD R5, R4, R5 ;
        /*0020*/               @P1 BRA 0x10 ;
        /*0030*/                   EXIT ;
        /*0040*/                   MOV R4, RZ ;
        /*0050*/                   BRA 0x10 ;
    """
    (kernel,) = sass.parse(code)
    assert [hex(one.address) for one in kernel.steady] == ["0x10", "0x20"]
