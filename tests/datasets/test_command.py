"""`equifast canonicalize` over folders and archives: nothing lost, nothing twice, whenever it is killed."""

import contextlib
import io
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import torch

import equifast
from equifast import command, scores

from ..distributed.processes import PATIENCE, context
from . import networks
from .served import serve

pytest.importorskip("PIL.Image")

from equifast.datasets import pictures, sources  # noqa: E402
from equifast.datasets.manifest import Journal  # noqa: E402

from .test_pictures import picture, saved  # noqa: E402

SIZE = "16"
ROOT = Path(equifast.__file__).parents[1]


def canonicalize(source, output, *options, network="classifier", group="C4"):
    """The exit status of the command."""
    arguments = ["canonicalize", str(source), str(output), "--network", f"tests.datasets.networks:{network}"]
    arguments += ["--size", SIZE, "--workers", "0", *(["--group", group] if group else []), *options]
    return command.main(arguments)


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def archive(files):
    """A tar archive with members that have a date, an owner and names beyond ASCII."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as opened:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.mode, member.uname = len(content), 1234567890, 0o640, "søren"
            opened.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def noise(count, kind="PNG", seed=0):
    return {f"{i:03}.{kind.lower()}": saved(picture("RGB", 9 + i % 3, 9, seed + i), kind) for i in range(count)}


def lines(folder):
    """Every line of the manifest, of images that are files and of archives."""
    return [json.loads(line) for path in sorted(folder.rglob("*.jsonl")) for line in path.read_text().splitlines()]


def tree(folder):
    """The content of every file but the manifest."""
    paths = [path for path in folder.rglob("*") if path.is_file() and ".json" not in path.suffix]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def shown(raw):
    return pictures.values(pictures.opened(raw))


@pytest.mark.parametrize("group", ["C4", "D4", "C8"])
def test_each_image_is_turned_as_canonicalize_says(tmp_path, group):
    files = {f"{'ab'[i % 2]}/{name}": raw for i, (name, raw) in enumerate(noise(10).items())}
    write(tmp_path / "in", files)
    assert canonicalize(tmp_path / "in", tmp_path / "out", group=group) == 0
    network, g = networks.classifier().eval(), equifast.as_group(group)
    views = torch.stack([pictures.view(raw, int(SIZE)) for raw in files.values()])
    form = equifast.canonicalize(views, network, group=group, score=scores.confidence)
    assert len(form.element.unique()) > 1
    found = {line["file"]: line for line in lines(tmp_path / "out")}
    outputs = tree(tmp_path / "out")
    assert found.keys() == outputs.keys() == files.keys()
    for i, (name, raw) in enumerate(files.items()):
        assert found[name]["element"] == form.element[i] and not found[name]["tied"]
        torch.testing.assert_close(torch.tensor(found[name]["scores"]), form.activations[i], rtol=1e-4, atol=1e-5)
        assert outputs[name] == pictures.canonical(raw, form.element[i].item(), g)


@pytest.mark.parametrize("size", [(9, 9), (8, 14), (15, 9)])
def test_all_orientations_of_an_image_become_one(tmp_path, size):
    group, image = equifast.as_group("D4"), picture("RGB", *size)
    write(tmp_path / "in", {f"{e}.png": saved(pictures.undo(image, e, group), "PNG") for e in range(8)})
    canonicalize(tmp_path / "in", tmp_path / "out", group="D4")
    assert len({shown(raw).numpy().tobytes() for raw in tree(tmp_path / "out").values()}) == 1
    assert len({line["element"] for line in lines(tmp_path / "out")}) == 8


NETWORKS = {
    "classifier": lambda x: equifast.canonicalize(x, networks.classifier().eval(), group="C4", score=scores.margin),
    "network": lambda x: equifast.canonicalize(x, networks.network.eval(), group="C4", score=scores.margin),
    "canonicalizer": lambda x: networks.canonicalizer().eval()(x),
    "direct": lambda x: equifast.canonicalize(x, group="C4", activations=networks.direct().eval()(x)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_network_chooses(tmp_path, name):
    files = noise(6)
    write(tmp_path / "in", files)
    has_group = name in ("canonicalizer", "direct")
    options = [
        "--mean",
        "0.4",
        "0.5",
        "0.6",
        "--std",
        "0.2",
        "0.3",
        "0.4",
        *([] if has_group else ["--score", "margin"]),
    ]
    canonicalize(tmp_path / "in", tmp_path / "out", *options, network=name, group=None if has_group else "C4")
    mean, std = torch.tensor([0.4, 0.5, 0.6])[:, None, None], torch.tensor([0.2, 0.3, 0.4])[:, None, None]
    views = torch.stack([(pictures.view(raw, int(SIZE)) - mean) / std for raw in files.values()])
    with torch.no_grad():
        expected = NETWORKS[name](views)
    assert [line["element"] for line in lines(tmp_path / "out")] == expected.element.tolist()


def test_an_exported_program_is_a_network(tmp_path):
    files = noise(5)
    write(tmp_path / "in", files)
    shape = {0: torch.export.Dim("N", min=2)}
    program = torch.export.export(networks.classifier().eval(), (torch.rand(8, 3, 16, 16),), dynamic_shapes=(shape,))
    torch.export.save(program, tmp_path / "network.pt2")
    canonicalize(tmp_path / "in", tmp_path / "expected")
    arguments = ["canonicalize", str(tmp_path / "in"), str(tmp_path / "out"), "--size", SIZE, "--workers", "0"]
    command.main([*arguments, "--network", str(tmp_path / "network.pt2"), "--group", "C4"])
    assert tree(tmp_path / "out") == tree(tmp_path / "expected")


BROKEN = {
    "broken/empty.png": b"",
    "broken/text.jpg": b"no image",
    "broken/cut.jpg": saved(picture("RGB", 60, 60), "JPEG")[:500],
    "broken/frames.gif": saved(picture("P"), "GIF", save_all=True, append_images=[picture("P", seed=1)]),
}


def test_broken_images_are_listed_and_stay_as_they_are(tmp_path):
    write(tmp_path / "in", noise(3) | BROKEN | {"notes.txt": b"no image, by its name"})
    write(tmp_path / "in", {"a.tar": archive(BROKEN), "b.tar": archive(noise(3))[:2500], "c.tar": b"no archive"})
    (tmp_path / "in" / "vanished.png").symlink_to(tmp_path / "nowhere")
    assert canonicalize(tmp_path / "in", tmp_path / "out") == 0
    found = lines(tmp_path / "out")
    assert sorted(line["file"] for line in found if "error" in line) == sorted(
        [*BROKEN, *BROKEN, "b.tar", "c.tar", "vanished.png"]
    )
    outputs = tree(tmp_path / "out")
    assert outputs.keys() == noise(3).keys() | BROKEN.keys() | {"a.tar"}
    assert {name: outputs[name] for name in BROKEN} == BROKEN
    with tarfile.open(tmp_path / "out" / "a.tar") as opened:
        assert {member.name: opened.extractfile(member).read() for member in opened} == BROKEN
    before = tree(tmp_path / "out"), found
    assert canonicalize(tmp_path / "in", tmp_path / "out") == 0
    assert (tree(tmp_path / "out"), lines(tmp_path / "out")) == before


def test_an_archive_keeps_its_members_their_order_and_their_headers(tmp_path):
    images = noise(7)
    samples = {}
    for i, (name, raw) in enumerate(images.items()):
        samples |= {
            f"kéy/{name}": raw,
            f"kéy/{name[:3]}.cls": str(i).encode(),
            f"kéy/{'long' * 40}{name[:3]}.json": b"{}",
        }
    write(tmp_path / "in", {"shards/0.tar": archive(samples), "empty.tar": archive({"only.cls": b"1"})} | images)
    canonicalize(tmp_path / "in", tmp_path / "out", "--batch-size", "3")
    turned = tree(tmp_path / "out")
    with tarfile.open(tmp_path / "out/shards/0.tar") as opened:
        found = opened.getmembers()
        assert [member.name for member in found] == list(samples)
        assert {(member.mtime, member.mode, member.uname) for member in found} == {(1234567890, 0o640, "søren")}
        contents = {member.name: opened.extractfile(member).read() for member in found}
    assert {name: contents[f"kéy/{name}"] for name in images} == {name: turned[name] for name in images}
    assert all(contents[name] == raw for name, raw in samples.items() if not name.endswith("png"))
    own = [json.loads(line)["file"] for line in (tmp_path / "out/shards/0.tar.jsonl").read_text().splitlines()]
    assert own == [f"kéy/{name}" for name in images]
    assert (tmp_path / "out/empty.tar.jsonl").read_text() == "" and (tmp_path / "out/empty.tar").exists()
    canonicalize(tmp_path / "in/shards/0.tar", tmp_path / "alone")
    assert tree(tmp_path / "alone")["0.tar"] == turned["shards/0.tar"]


def test_an_archive_that_is_cut_off_anywhere_is_broken(tmp_path):
    whole, path = archive(noise(3)), tmp_path / "cut.tar"
    path.write_bytes(whole)
    assert len(sources.members(path)) == 3
    end = sources.members(path)[-1].offset_data + 512
    for cut in [*range(0, end, 100), *range(512, end, 512)]:
        path.write_bytes(whole[:cut])
        with pytest.raises((tarfile.TarError, OSError)):
            sources.members(path)


def refused(capsys, *arguments, **options):
    with pytest.raises(SystemExit) as caught:
        canonicalize(*arguments, **options)
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_what_can_not_be_done_is_said(tmp_path, capsys):
    source, output = tmp_path / "in", tmp_path / "out"
    assert "expected a folder or a .tar archive" in refused(capsys, source, output)
    source.mkdir()
    assert "expected images or .tar archives, found none" in refused(capsys, source, output)
    write(source, noise(2))
    assert "expected a folder outside" in refused(capsys, source, source / "out")
    assert "--group: needed" in refused(capsys, source, output, group=None)
    assert "'C<n>' or 'D<n>'" in refused(capsys, source, output, group="E8")
    assert "the network is made for D4" in refused(capsys, source, output, network="canonicalizer")
    assert "expected none" in refused(capsys, source, output, "--score", "margin", network="canonicalizer", group=None)
    assert "has no attribute 'nothing'" in refused(capsys, source, output, network="nothing")
    assert not output.exists()
    canonicalize(source, output)
    assert "begun with group C4, now D4" in refused(capsys, source, output, group="D4")
    journal = Journal(output, 0)
    assert "another process writes" in refused(capsys, source, output)
    journal.close()
    assert canonicalize(source, output) == 0


def start(source, output, size, workers):
    """The command in ``size`` processes, as torchrun starts them."""
    options = ["--network", "tests.datasets.networks:classifier", "--group", "D4", "--size", SIZE, "--batch-size", "4"]
    arguments = ["canonicalize", str(source), str(output), "--workers", str(workers), *options]
    processes = []
    for rank in range(size):
        variables = {"RANK": str(rank), "WORLD_SIZE": str(size)}
        processes.append(context.Process(target=serve, args=(arguments, variables)))
        processes[-1].start()
    return processes


def finish(processes):
    for process in processes:
        process.join(PATIENCE)
    return [process.exitcode for process in processes]


def outputs(folder):
    """How many images and archives have appeared."""
    return sum(1 for path in folder.rglob("*") if path.suffix in (".png", ".tar"))


def test_killed_at_random_nothing_is_lost_and_nothing_done_twice(tmp_path, record_property):
    seed = int(os.environ.get("EQUIFAST_KILL_SEED", "20261130"))
    record_property("seed", seed)
    chance = random.Random(seed)
    files = {f"{'abc'[i % 3]}/{name}": raw for i, (name, raw) in enumerate(noise(50).items())} | BROKEN
    shards = {f"{i}.tar": archive(noise(6, seed=i) | {"a.cls": b"1"}) for i in range(5)}
    write(tmp_path / "in", files | shards)
    assert finish(start(tmp_path / "in", tmp_path / "expected", 1, 0)) == [0]
    output, partial, total = tmp_path / "out", set(), outputs(tmp_path / "expected")
    for _ in range(6):
        processes = start(tmp_path / "in", output, chance.choice([1, 1, 2]), chance.choice([0, 0, 1]))
        target, end = outputs(output) + chance.randrange(1, 10), time.monotonic() + PATIENCE
        while outputs(output) < target and any(p.is_alive() for p in processes) and time.monotonic() < end:
            time.sleep(0.001)
        time.sleep(chance.random() * 0.02)
        for process in chance.sample(processes, len(processes)):
            process.kill()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.join()
        partial.add(outputs(output))
    assert len([count for count in partial if 0 < count < total]) > 2  # it was killed in between
    assert finish(start(tmp_path / "in", output, 2, 0)) == [0, 0]
    assert tree(output) == tree(tmp_path / "expected")  # so nothing unfinished is left, either
    expected = lines(tmp_path / "expected")
    assert len(expected) == len(files) + 6 * len(shards)
    # Scores may differ in the last digit where an image was in another batch.
    told = [sorted(str(line | {"scores": None}) for line in some) for some in (lines(output), expected)]
    assert told[0] == told[1]


def test_a_line_that_was_cut_off_is_written_anew(tmp_path):
    """At every byte of the last line, and in the file of a process that isn't there any more."""
    write(tmp_path / "in", noise(4))
    canonicalize(tmp_path / "in", tmp_path / "out")
    whole = (tmp_path / "out" / "manifest-0.jsonl").read_bytes()
    last = len(whole.splitlines(keepends=True)[-1])
    for cut, rank in itertools.product(range(1, last + 1, 17), (0, 5)):
        for path in (tmp_path / "out").glob("manifest-*.jsonl"):
            path.unlink()
        (tmp_path / "out" / f"manifest-{rank}.jsonl").write_bytes(whole[:-cut])
        canonicalize(tmp_path / "in", tmp_path / "out")
        assert sorted(map(str, lines(tmp_path / "out"))) == sorted(map(str, map(json.loads, whole.splitlines())))


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)


def test_pillow_is_imported_when_images_are(tmp_path):
    """`import equifast` stays fast, and where Pillow is missing the command says so."""
    new = python(
        "import sys, torch; before = set(sys.modules); import equifast.command; print(*set(sys.modules) - before)"
    )
    assert new.returncode == 0 and "equifast.command" in new.stdout.split(), new.stderr
    assert not {name.partition(".")[0] for name in new.stdout.split()} & {"PIL", "tqdm"}
    arguments = ["canonicalize", "IN", "OUT", "--network", "torch:nn", "--group", "C4"]
    told = python(f"import sys; sys.modules['PIL'] = None; import equifast.command as c; c.main({arguments})")
    assert told.returncode == 2 and "PIL is missing: pip install 'equifast[data]'" in told.stderr


def test_other_commands(capsys):
    assert command.main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["versions"]["equifast"] == equifast.__version__
    with pytest.raises(SystemExit):
        command.main(["--version"])
    assert capsys.readouterr().out.strip() == equifast.__version__
