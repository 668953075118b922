"""Do both loops carry a small round all the way, and is nothing shown of a round that fails?"""

from pathlib import Path

import pytest

from bench import comparison, gate, report
from bench.comparison import Size, compare
from bench.pipeline import Broken, Round
from cli.__main__ import main


def rounds(loop: str, *app_us: int, foreign: float = 0.01) -> list[Round]:
    return [
        Round(
            loop=loop,
            transactions=1_000,
            seconds=2.0,
            ns={"app": us * 1_000_000, "postgres": 100_000_000, "broker": 0, "load_generator": 50_000_000},
            foreign_share=foreign,
        )
        for us in app_us
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The user that root lends to Postgres must pass through."""
    tmp_path.chmod(0o711)
    return tmp_path


@pytest.mark.timeout(180)
async def test_both_loops_pass_the_gate_with_the_same_work(folder: Path) -> None:
    played = await compare(folder, Size(rounds=1, transactions=40, warming=10), lambda _: None)

    assert [it.loop for it in played] == ["ours", "raw"]
    assert all(it.transactions == 40 and min(it.ns.values()) > 0 for it in played)
    assert all(it.wrote["wal_bytes"] > 5_000 and it.wrote["kafka_bytes"] > 500 for it in played)
    assert all(0 < it.wrote["commits"] < 9 for it in played)


def test_the_fraction_is_the_limit_over_ours_by_medians() -> None:
    said = report.summary([*rounds("ours", 500, 300, 340), *rounds("raw", 100, 120, 900)])

    assert said["ours"]["cpu_ms_per_bt"]["total"] == {"median": 0.44, "min": 0.4, "max": 0.6}
    assert said["ours"]["bt_per_s"]["median"] == 500
    assert said["roofline_fraction"] == 0.5
    assert "roofline fraction (raw CPU ÷ ours): 0.50" in report.as_text(said)


def test_disturbed_rounds_do_not_count_while_there_are_others() -> None:
    ours = [*rounds("ours", 100), *rounds("ours", 900, foreign=0.3)]
    said = report.summary([*ours, *rounds("raw", 100)])

    assert said["ours"]["disturbed"] == 1
    assert said["roofline_fraction"] == 1.0
    assert not said["noisy"]
    assert report.summary([*rounds("ours", 100, foreign=0.3), *rounds("raw", 100)])["noisy"]


def test_a_broken_round_prints_no_figure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def broken(*_: object) -> list[Round]:
        raise Broken("\n".join(gate.faults({"bills settled": 0}, {"bills settled": 99}, 100)[:1]))

    monkeypatch.setattr(comparison, "compare", broken)

    assert main(["bench", "pipeline", "--quick", "--json"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "no figure: bills settled: 99, expected 100" in err


def test_it_measures_its_own_servers_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CANBAO_KAFKA", "elsewhere:9092")

    assert main(["bench", "pipeline"]) == 2
    assert "unset CANBAO_KAFKA" in capsys.readouterr().err
