"""The bench's arithmetic on fixed input, and one real round; its timings are never asserted."""

import json
import os
from pathlib import Path

import pytest
from bench import proxies
from bench.__main__ import main
from bench.idle import idle_kib_per_client
from bench.measurement import (
    Report,
    Round,
    Spread,
    can_prepare,
    cpu_ticks,
    log_latencies_ms,
    percentile,
    progress_tps,
    ratios,
)
from bench.programs import MissingProgramError, find_or_install
from bench.rounds import MIN_SECONDS, PgbenchError, prepare, run_round

from harness.databases import Database
from pgweir_operator.local_postgres import embedded_bin_dir

PGBENCH = embedded_bin_dir() / "pgbench"


def _round(proxy: str, cpu_us: float, clients: int = 16) -> Round:
    return Round(proxy, "simple", clients, cpu_us, 1000.0, 1.0, 2.0)


def test_progress_lines_of_both_pgbench_versions_are_read() -> None:
    assert progress_tps("progress: 1.0 s, 21345.3 tps, lat 0.749 ms stddev 0.254\n") == 21345.3
    assert progress_tps("progress: 2.0 s, 9.0 tps, lat 0.7 ms stddev 0.2, 0 failed\n") == 9.0
    assert progress_tps("pgbench (15.20)\n") is None


def test_failed_transactions_spoil_a_round() -> None:
    with pytest.raises(ValueError, match="failed"):
        progress_tps("progress: 2.0 s, 9.0 tps, lat 0.7 ms stddev 0.2, 3 failed\n")


def test_log_lines_give_milliseconds() -> None:
    assert log_latencies_ms(["0 199 2241 0 1175850568 995598", "", "1 5 150 0 1 2"]) == [2.241, 0.15]


def test_percentiles_by_rank() -> None:
    values = [float(i) for i in range(100, 0, -1)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([], 0.5)) == (51.0, 100.0, 0.0)


def test_cpu_ticks_survive_a_name_with_blanks_and_brackets() -> None:
    stat = "42 (a ) b) S 1 42 42 0 -1 4194560 1 2 3 4 70 30 0 0 20 0 1 0 5 6 7"
    assert cpu_ticks(stat) == 100
    assert cpu_ticks(Path(f"/proc/{os.getpid()}/stat").read_text()) > 0


def test_ratios_compare_round_by_round() -> None:
    rounds = [_round("a", 10), _round("b", 5), _round("a", 30), _round("b", 10), _round("a", 8), _round("b", 8)]
    assert ratios(rounds, "cpu_us", "a", "b") == Spread(2.0, 1.0, 3.0)


def test_a_missing_pair_is_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratios([_round("a", 10), _round("b", 5), _round("a", 30)], "cpu_us", "a", "b")


def test_the_report_shows_every_group_and_survives_json() -> None:
    rounds = (_round("a", 10), _round("b", 5), _round("a", 9, 64), _round("b", 6, 64))
    report = Report(rounds, {"a": 3.0, "b": 1.5}, {"a": "1"}, "a", "b")
    table = report.markdown()
    assert "| simple | 16 | CPU of the proxy, µs/query | 10.0 (10.0–10.0) | 5.0 (5.0–5.0) | 2.00" in table
    assert "| simple | 64 | CPU of the proxy, µs/query | 9.0 (9.0–9.0) | 6.0 (6.0–6.0) | 1.50" in table
    assert "| – | idle | RSS per client, KiB | 3.00 | 1.50 | 2.00 |" in table
    decoded = json.loads(json.dumps(report.as_json()))
    assert [group["ratios"]["cpu_us"]["median"] for group in decoded["summary"]] == [2.0, 1.5]
    assert len(decoded["rounds"]) == 4


def test_what_is_missing_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(MissingProgramError, match=r"as root: apt-get install -y .* pgbouncer"):
        find_or_install()


def test_a_missing_program_is_one_line_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    monkeypatch.setattr("sys.argv", ["bench"])
    assert main() == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_too_short_rounds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["bench", "--seconds", "2"])
    with pytest.raises(SystemExit):
        main()


async def test_one_round_and_some_idle_clients_through_pgweir(database18: Database) -> None:
    prepare(PGBENCH, database18.address.environment)
    with proxies.pgweir(database18) as proxy:
        kib = await idle_kib_per_client(proxy, 30)
        done = run_round(PGBENCH, proxy, clients=2, mode="extended", seconds=MIN_SECONDS)
    assert (done.proxy, done.mode, done.clients) == ("pgweir", "extended", 2)
    assert min(done.cpu_us, done.queries_per_s, done.p50_ms) > 0
    assert done.p50_ms <= done.p99_ms
    assert kib < 1024


def test_pgbench_s_own_error_is_shown(database18: Database) -> None:
    proxy = proxies.Proxy("direct", os.getpid(), database18.address)
    with pytest.raises(PgbenchError, match="pgbench -i"):
        run_round(PGBENCH, proxy, clients=1, mode="simple", seconds=MIN_SECONDS)


@pytest.mark.parametrize(("text", "expected"), [("1.18.0", False), ("1.21.0", True), ("2.0", True), ("unknown", False)])
def test_which_pgbouncer_keeps_prepared_statements(text: str, expected: bool) -> None:
    assert can_prepare(text) is expected
