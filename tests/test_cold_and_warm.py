"""What a GPU's L2 cache holds when a call is timed, with a GPU that isn't there; and the limit."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import __main__ as cli
from benchmarks.harness import cache, clocks, eager, floor, limits, measure, nvidia_smi, report, results
from benchmarks.harness.measure import Case, Contender, Options, run
from benchmarks.harness.settings import Setting
from benchmarks.harness.timings import Timings, Work
from benchmarks.pipeline import canonicalize
from equifast import backends

from .fake_cuda import HIT, FakeCuda

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
L2 = 1 << 16


@pytest.fixture
def gpu(monkeypatch) -> FakeCuda:
    # As many repeats as there are for calls of 10 µs; the fake's take seconds.
    monkeypatch.setattr(measure, "BLOCK_MS", 1e12)
    return FakeCuda(L2).install(monkeypatch)


def reader(gpu: FakeCuda, name: str, index: int, out_bytes: int = 0) -> Contender:
    """Reads one of the inputs, and writes an output."""

    def bind(*inputs):
        def thunk():
            out = gpu.empty(out_bytes)
            gpu.touch(inputs[index], out)
            return out

        return thunk

    return Contender(name, lambda: bind, checked=False)


def case(contenders: list[Contender], *sizes: int, clock: str = "stream") -> Case:
    def inputs(generator):
        return tuple(torch.zeros(size, dtype=torch.uint8) for size in sizes)

    return Case("trial", Setting("C4"), inputs, contenders, "", lambda *_: None, clock=clock)


@pytest.mark.parametrize("clock", ["stream", "graph"])
@pytest.mark.parametrize("repeats", [1, 2, 7, 200])
@pytest.mark.parametrize(
    ("sizes", "out_bytes"),
    [
        ((L2 // 4,), 100),
        ((L2 // 4, L2 // 16), L2 // 4),
        ((L2 * 3, L2 * 2), 0),
        ((1024, 640), 100),
        ((L2 // 3, 100), L2 // 2),
    ],
)
def test_a_cold_call_finds_nothing_in_the_cache_and_a_warm_one_all_that_fits(
    gpu, monkeypatch, clock, repeats, sizes, out_bytes
):
    """Even if it reads a single one of the inputs, but for the small ones."""
    monkeypatch.setattr(measure, "MAX_REPEATS", repeats)
    large = [i for i, size in enumerate(sizes) if size * 64 >= max(sizes)]
    found = run(case([reader(gpu, str(i), i, out_bytes) for i in large], *sizes, clock=clock), Options(CUDA, 3))
    for i in large:
        touched = sizes[i] + out_bytes
        assert found.times[str(i)] == pytest.approx([touched] * 3)
        if touched <= L2:
            assert found.warm.times[str(i)] == pytest.approx([HIT * touched] * 3)
    assert gpu.flushed == 3 * len(large)


@given(st.lists(st.integers(0, 3 * L2), max_size=4))
def test_as_many_bytes_as_the_cache_has_pass_twice_between_two_uses(sizes):
    with pytest.MonkeyPatch.context() as patch:
        FakeCuda(L2).install(patch)
        inputs = (*(torch.empty(size, dtype=torch.uint8) for size in sizes), 3, None)
        count = cache.copies_needed(inputs, CUDA)
    counted = [size for size in sizes if size and 64 * size >= max(sizes)]
    assert count == 1 or (count - 1) * min(counted) >= 2 * L2
    assert (count == 1) == (not counted)
    assert all((count - 2) * size < 2 * L2 for size in counted[:1] if size == min(counted))


def test_copies_are_the_inputs_elsewhere():
    x = torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)
    copies = cache.copied((x, 3, None, [1]), 4)
    assert len({copy[0].data_ptr() for copy in copies}) == 4 and copies[0][0] is x
    for copy, *rest in copies:
        assert torch.equal(copy, x) and copy.stride() == x.stride() and rest == [3, None, [1]]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_outputs_are_kept_until_it_is_their_turn_again(count):
    made = []

    def thunk(index):
        out = torch.zeros(8)
        made.append((index, out.data_ptr()))
        return out

    turn = cache.in_turn([partial(thunk, i) for i in range(count)])
    for _ in range(3 * count):
        turn()
    assert [index for index, _ in made] == 3 * list(range(count))
    for i in range(len(made) - count + 1):
        assert len({address for _, address in made[i : i + count]}) == count


def test_the_cache_is_read_over_twice_to_flush_it(monkeypatch):
    monkeypatch.setattr(cache, "l2_bytes", lambda device: L2)
    cache._elsewhere.cache_clear()
    assert cache._elsewhere(CPU).nbytes == 2 * L2
    cache.flush(CPU)
    cache._elsewhere.cache_clear()


class OnGpu(torch.Tensor):
    """A tensor on the CPU that says it were on a GPU."""

    device = CUDA


@pytest.mark.parametrize(("share", "chosen"), [(1.2, "elsewhere"), (1.3, "twice")])
def test_the_quickest_way_is_the_one_with_cold_inputs(gpu, share, chosen):
    """Reading cold inputs twice costs as much as reading 1.25 of them elsewhere; of warm ones, half of them."""
    x = torch.zeros(L2 // 4, dtype=torch.uint8).as_subclass(OnGpu)
    assert 1.2 < 1 + HIT < 1.3

    def twice(x):
        gpu.touch(x, x)

    def elsewhere(x):
        gpu.run(next(gpu.addresses), int(share * x.nbytes))

    assert eager.quickest({"twice": twice, "elsewhere": elsewhere}, x)[0] == chosen


def test_the_time_of_the_host_is_neither_cold_nor_warm(gpu):
    found = run(case([reader(gpu, "a", 0)], 100, clock="host"), Options(CUDA, 2))
    assert len(found.times["a"]) == 2 and found.warm is None and not gpu.flushed


def test_on_a_cpu_there_is_one_kind():
    found = run(case([Contender("a", lambda: lambda x: x.clone, checked=False)], 100), Options(CPU, 2))
    assert len(found.times["a"]) == 2 and found.warm is None


def test_who_fails_has_neither_time(gpu):
    def bind(x):
        def thunk():
            if gpu.flushed > 1:
                raise RuntimeError("out of memory")
            gpu.touch(x)

        return thunk

    found = run(case([Contender("a", lambda: bind, checked=False), reader(gpu, "b", 0)], 100), Options(CUDA, 3))
    assert set(found.times) == set(found.warm.times) == {"b"} and "out of memory" in found.errors["a"]


@pytest.mark.parametrize("moved", [L2 // 2, 1 << 12])
def test_the_limit_is_as_cold_as_what_it_limits(gpu, monkeypatch, moved):
    """Each copy moves the bytes that it should, half of them read."""

    def copy(source):
        out = gpu.empty(source.nbytes)
        gpu.touch(source, out)
        return out

    monkeypatch.setattr(backends, "INTERPRETING", True)
    monkeypatch.setattr(limits, "COPIES", {"clone": copy, "slow": lambda source: [copy(source), copy(source)]})
    found = run(case(limits.copies(moved, CPU, torch.clone), moved // 2), Options(CUDA, 2))
    assert found.times == {"limit": pytest.approx([moved] * 2)}
    assert found.warm.times == {"limit": pytest.approx([HIT * moved] * 2)}
    assert found.notes == {"limit": "clone"}


@pytest.mark.parametrize("way", limits.COPIES.keys() - {"copy kernel"})  # tests/triton has that
def test_each_way_copies(way):
    x = torch.rand(1000)
    assert torch.equal(limits.COPIES[way](x), x)


def test_on_a_cpu_the_limit_is_the_plain_copy():
    (only,) = limits.copies(100, CPU, lambda x: x + 1)
    assert only.name == "limit: copy" and not only.checked
    assert torch.equal(only.build()(torch.ones(2))(), torch.full((2,), 2.0))


def test_a_plain_copy_with_a_name_competes_on_a_gpu(monkeypatch):
    monkeypatch.setattr(backends, "INTERPRETING", True)
    assert [c.name for c in limits.copies(8, CPU, torch.clone)] == [f"limit: {way}" for way in limits.COPIES]
    assert limits.copies(8, CPU, torch.clone, "repeat")[-1].name == "limit: repeat"


times = st.floats(0.1, 10.0)


@given(st.dictionaries(st.sampled_from(["clone", "x + 0", "copy kernel"]), times), st.none() | times)
def test_the_limit_is_the_quickest_copy_or_the_product_if_that_takes_longer(copies, product):
    given_ = {f"limit: {name}": [time] for name, time in copies.items()}
    given_ |= {"limit: product": [product]} if product is not None else {}
    errors = {f"limit: {name}": "failed" for name in ("clone", "x + 0", "copy kernel") if name not in copies}
    found = Timings(given_ | {"eager": [1.0]}, dict(errors), work=Work(1, 1, 2, 3)).settle()
    candidates = [min(copies.values(), default=None), product]
    expected = max((time for time in candidates if time is not None), default=None)
    assert found.times == {"eager": [1.0]} | ({"limit": [expected]} if expected is not None else {})
    assert found.errors == ({} if copies else errors)
    if expected is not None:
        by_product = product is not None and product > min(copies.values(), default=0.0)
        assert (found.work.limit_moved, found.work.limit_flops) == ((0, 3) if by_product else (2, 0))
        assert (found.notes.get("limit") == "product") == (by_product and bool(copies))


def both(cold: dict, warm: dict, **given_) -> Timings:
    return Timings(cold, warm=Timings(warm, **given_), **given_)


def test_each_kind_is_reckoned_with_its_own():
    cold = {"eager": [100.0], "eager: network": [40.0], "equifast-cuda": [50.0], "equifast-cuda: network": [45.0]}
    warm = {name: [time / 2 + i] for i, (name, [time]) in enumerate(cold.items())}
    cold, warm = cold | {"limit": [2.0]}, warm | {"limit": [1.0]}
    together = canonicalize.split(both(cold, warm))
    for kind, given_ in ((lambda part: part, cold), (lambda part: part.warm, warm)):
        assert [kind(part).times for part in together] == [part.times for part in canonicalize.split(Timings(given_))]
    tagged = both({"a|C4": [1.0], "a|C8": [2.0]}, {"a|C4": [3.0], "a|C8": [4.0]}).only("C8")
    assert (tagged.times, tagged.warm.times) == ({"a": [2.0]}, {"a": [4.0]})


@pytest.mark.parametrize("failed", [False, True])
def test_the_floor_has_both_kinds(failed):
    setting = replace(Setting("C4", batch=1), resize=32, layers=2, vector=8)
    parts = {name: [1.0] for name in [*floor.layers(setting), floor.COPY]}
    errors = {}
    found = Timings(parts, errors, warm=Timings({name: [0.5] for name in parts}, errors))
    if failed:
        errors[floor.COPY] = "no memory"
        del found.times[floor.COPY], found.warm.times[floor.COPY]
    floor.put(setting, found)
    if failed:
        assert (found.times, found.warm.times, found.errors) == ({}, {}, {floor.FLOOR: "no memory"})
    else:
        assert found.warm.times[floor.FLOOR][0] == pytest.approx(found.times[floor.FLOOR][0] / 2)


@pytest.fixture
def rows() -> list[results.Row]:
    cold = {"eager": [8.0, 8.0], "equifast-cuda": [4.0, 4.0], "limit": [2.0, 2.0]}
    warm = {"eager": [1.0, 1.0], "equifast-cuda": [2.0, 2.0], "limit": [0.5, 0.5]}
    work = Work(8_000_000, 0, 8_000_000)
    return json.loads(json.dumps(results.rows("act, exact", Setting("C4"), both(cold, warm, work=work))))


def test_a_row_has_both_kinds_and_ratios_of_like_with_like(rows):
    eager, ours, limit = rows
    assert (eager["median"], eager["ratio"]["median"]) == (8.0, 2.0)
    assert (eager["warm"]["median"], eager["warm"]["ratio"]["median"]) == (1.0, 0.5)
    assert (ours["of limit"], ours["warm"]["of limit"]) == (0.5, 0.25)
    assert (limit["GB/s"], limit["warm"]["GB/s"]) == (4.0, 16.0)


def test_the_tables_have_both_kinds_and_so_have_the_losses(rows):
    text = report.contenders(rows)
    assert "| setting | contender | cold | multiple of ours | warm | multiple of ours | note |" in text
    assert "| eager | 8 ms | 2× | 1 ms | 0.5× | 1 GB/s, 25 % of the limit; warm: 8 GB/s, 50 % of the limit |" in text
    losses = report.losses({"rows": rows})
    assert losses.startswith("1 of 2 rows") and "it needs 0.5× of our time with warm inputs" in losses
    assert report.contenders([{k: v for k, v in row.items() if k != "warm"} for row in rows]).startswith(
        "| setting | contender | time or size | multiple of ours | note |"
    )


def test_targets_are_judged_by_cold_times(rows):
    found = both({"equifast-cuda": [1.1], "limit": [1.0]}, {"equifast-cuda": [9.0], "limit": [1.0]})
    (verdict,) = results.verdicts("act, exact", Setting("C4"), found, "cuda")
    assert verdict["met"] and verdict["median"] == pytest.approx(1.1)


def test_a_run_on_a_gpu_tells_its_state_before_and_after_each_measure(gpu, monkeypatch, tmp_path, capsys):
    told = iter(["345 MHz", "1980 MHz", "1755 MHz"])
    monkeypatch.setattr(
        nvidia_smi,
        "fields",
        lambda uuid: dict.fromkeys(nvidia_smi.FIELDS, nvidia_smi.NOT_TOLD) | {"clocks.sm": next(told), "pstate": uuid},
    )
    nothing = SimpleNamespace(measure=lambda options: [])
    monkeypatch.setattr(cli, "MEASURES", {"act": nothing, "orbit": nothing})
    assert cli.main(["--device", "cuda", "--only", "act,orbit", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "fake-gpu.json").read_text())
    assert [state["when"] for state in found["states"]] == ["before", "after act", "after orbit"]
    assert all(state["at"].endswith("UTC") for state in found["states"])
    assert found["conditions"]["gpu"]["l2_mib"] == round(L2 / 2**20, 1)
    page = capsys.readouterr().out
    assert (
        "clocks.sm 345 MHz to 1980 MHz" in page and "pstate 12-34" in page and "not told: name, driver_version" in page
    )


def test_a_graph_is_replayed_as_often_as_it_takes(gpu):
    calls = []
    found = clocks.graph_ms([lambda: lambda: calls.append(gpu.touch(torch.zeros(10, dtype=torch.uint8)))], 200, CUDA)
    assert found > 0 and len(calls) == 3 + clocks.GRAPH_CALLS
