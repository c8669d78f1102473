"""RAPL counters in a constructed /sys/class/powercap."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from hyperpower_runner.errors import MeterError
from hyperpower_runner.hardware.meters.rapl import RaplMeter

RANGE_UJ = 262_143_328_850


def make_domain(root: Path, folder: str, name: str, energy_uj: int, range_uj: int | None = RANGE_UJ) -> Path:
    path = root / folder
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "energy_uj").write_text(f"{energy_uj}\n")
    if range_uj is not None:
        (path / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return path / "energy_uj"


def joules(meter: RaplMeter) -> float:
    energy = meter.sample().energy_j
    assert energy is not None
    return energy


def test_the_packages_are_added_up_without_their_parts_and_what_holds_them(tmp_path: Path) -> None:
    first = make_domain(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    second = make_domain(tmp_path, "intel-rapl:1", "package-1", 5_000_000)
    others = [
        make_domain(tmp_path, "intel-rapl:2", "psys", 0),
        make_domain(tmp_path, "intel-rapl:0:0", "core", 0),
        make_domain(tmp_path, "intel-rapl:0:1", "dram", 0),
        make_domain(tmp_path, "intel-rapl-mmio:0", "package-0", 0),
    ]
    meter = RaplMeter(tmp_path)
    meter.preflight()
    begin = joules(meter)
    first.write_text("3000000")
    second.write_text("5500000")
    for other in others:
        other.write_text("999000000")
    assert joules(meter) - begin == pytest.approx(2.5)
    assert meter.platform["domains"] == ["package-0", "package-1"]
    assert meter.platform["meter"] == "rapl"
    assert meter.metrics == {"power_w", "memory_bytes"}
    assert meter.sample().power_w is None
    meter.close()


def test_a_counter_that_goes_round_counts_on(tmp_path: Path) -> None:
    counter = make_domain(tmp_path, "intel-rapl:0", "package-0", RANGE_UJ - 2_000_000)
    meter = RaplMeter(tmp_path)
    seen = [joules(meter)]
    for energy_uj in (RANGE_UJ - 1_000_000, 1_000_000, 4_000_000, RANGE_UJ, 500_000):
        counter.write_text(str(energy_uj))
        seen.append(joules(meter))
    steps = [later - earlier for earlier, later in pairwise(seen)]
    assert steps == pytest.approx([1, 2, 3, RANGE_UJ / 1e6 - 4, 0.5])


def test_the_memory_is_that_of_the_process_attached(tmp_path: Path) -> None:
    make_domain(tmp_path, "intel-rapl:0", "package-0", 0)
    meter = RaplMeter(tmp_path)
    assert meter.sample().memory_bytes is None
    meter.attach(os.getpid())
    assert (meter.sample().memory_bytes or 0) > 1e6 or not Path("/proc").is_dir()


def test_without_a_package_it_says_what_to_do(tmp_path: Path) -> None:
    make_domain(tmp_path, "intel-rapl:0", "psys", 0)
    (tmp_path / "intel-rapl:1").mkdir()
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(MeterError, match=r"no processor package .* choose another meter"):
            RaplMeter(root)


def test_a_counter_for_root_only_says_how_to_grant_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_domain(tmp_path, "intel-rapl:0", "package-0", 0)
    read_text = Path.read_text

    def refuse(path: Path, *args: Any, **kwargs: Any) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return read_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", refuse)  # because tests may run as root
    with pytest.raises(MeterError, match=r"may be read by root only") as caught:
        RaplMeter(tmp_path)
    assert f'"sudo chmod a+r {tmp_path}/intel-rapl*/energy_uj"' in str(caught.value)
    assert "udev" in str(caught.value)


@pytest.mark.parametrize("content", ["", "many"])
def test_a_counter_that_goes_away_or_is_no_number_is_an_error(tmp_path: Path, content: str) -> None:
    counter = make_domain(tmp_path, "intel-rapl:0", "package-0", 0)
    meter = RaplMeter(tmp_path)
    counter.write_text(content)
    with pytest.raises(MeterError, match="cannot be read as a number"):
        meter.sample()
    counter.unlink()
    with pytest.raises(MeterError, match="cannot be read as a number"):
        meter.preflight()


def test_a_package_without_a_range_is_an_error_rather_than_a_wrong_wrap(tmp_path: Path) -> None:
    make_domain(tmp_path, "intel-rapl:0", "package-0", 0, range_uj=None)
    with pytest.raises(MeterError, match="max_energy_range_uj cannot be read"):
        RaplMeter(tmp_path)
