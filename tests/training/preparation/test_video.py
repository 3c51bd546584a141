"""A video becomes tracks of single people: on drawn people whose ways are known, and on real pedestrians."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reposedm_core.errors import InputError
from training.adapters.video import Video, cut, read_frames
from training.data.people_set import People
from training.preparation.plan import Shares
from training.preparation.reading import Reading
from training.preparation.tracking import WARM_UP, follow, overlap
from training.prepare import prepare

av = pytest.importorskip("av")
VTEST = Path(__file__).parents[3] / ".host/vtest.avi"
SIZE = 192, 256  # height, width of the drawn videos


def walkers(
    ways: list[tuple[tuple[int, int], tuple[float, float], tuple[int, int, int]]], frames: int, start: int = WARM_UP
) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
    """Frames in which boxes of 36×14 pixels walk over a noisy floor: (x, y) at first, speed and colour of each; and
    where each is in every frame, (left, top, right, bottom), None before `start`."""
    rng = np.random.default_rng(0)
    floor = rng.integers(90, 140, (*SIZE, 3))
    pictures, boxes = [], []
    for n in range(frames):
        picture, there = floor + rng.integers(-2, 3, (*SIZE, 3)), []
        for (x, y), (dx, dy), colour in ways:
            left, top = round(x + dx * (n - start)), round(y + dy * (n - start))
            if n >= start:
                picture[max(0, top) : top + 36, max(0, left) : left + 14] = colour
            there.append(np.array([left, top, left + 14, top + 36], float))
        pictures.append(picture.clip(0, 255).astype(np.uint8))
        boxes.append(there)
    return pictures, boxes


RED, BLUE, GREEN = (230, 20, 20), (20, 20, 230), (20, 220, 20)


def test_two_people_on_ways_of_their_own_are_two_tracks():
    frames, truth = walkers([((20, 20), (2, 0), RED), ((200, 130), (-2, 0), BLUE)], 70)
    tracks = follow(frames)
    assert len(tracks) == 2
    for person, track in enumerate(sorted(tracks, key=lambda t: t.boxes[0][1])):
        assert len(track.frames) > 40 and np.diff(track.frames).max() <= 3
        overlaps = [overlap(box, truth[n][person]) for n, box in zip(track.frames, track.boxes, strict=True)]
        assert min(overlaps) > 0.4 and np.mean(overlaps) > 0.75
        pictures = track.pictures(every=5)
        assert len(pictures) >= 8 and np.diff([frame for frame, _ in pictures]).min() >= 5


def test_people_who_meet_are_not_mixed_up():
    """They pass through one another half-way; afterwards, no track shows both colours."""
    frames, truth = walkers([((20, 60), (3, 0), RED), ((200, 62), (-3, 0), BLUE)], 90)
    tracks = follow(frames)
    assert len(tracks) >= 3, "who comes out of the meeting is somebody else"
    for track in tracks:
        colours = set()
        for frame, box in track.pictures(every=1):
            near = [overlap(box, there) for there in truth[frame]]
            colours.add(int(np.argmax(near)))
            assert min(near) == 0, "both are in the picture"
        assert len(colours) <= 1


def test_what_stands_still_or_is_no_person_s_shape_is_no_track():
    frames, _ = walkers([((100, 60), (0, 0), RED)], 60)
    assert follow(frames) == [], "something put down"
    rng = np.random.default_rng(0)
    wide = [np.clip(rng.integers(100, 104, (*SIZE, 3)), 0, 255).astype(np.uint8) for _ in range(60)]
    for n in range(WARM_UP, 60):
        wide[n][80:100, 3 * n - 40 : 3 * n + 20] = GREEN
    assert follow(wide) == [], "a car"


def test_a_crop_has_the_aspect_and_the_person_in_its_middle():
    picture = np.zeros((*SIZE, 3), np.uint8)
    picture[60:110, 100:120] = RED
    crop = cut(picture, (100, 60, 120, 110), (128, 96))
    assert crop.shape[0] == pytest.approx(50 * 1.24, abs=1)
    assert crop.shape[1] / crop.shape[0] == pytest.approx(0.75, abs=0.03)
    y, x = np.nonzero(crop[..., 0] == 230)
    assert y.mean() == pytest.approx(crop.shape[0] / 2, abs=1) and x.mean() == pytest.approx(crop.shape[1] / 2, abs=1)
    assert cut(picture, (0, 0, 20, 50), (128, 96)).shape[0] < 50 * 1.24, "as far as the frame reaches"


def save_video(path: Path, frames: list[np.ndarray], rate: int = 15) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=rate)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuvj420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def test_a_folder_of_videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    frames, _ = walkers([((20, 20), (2, 0), RED), ((200, 130), (-2, 0), BLUE)], 60)
    save_video(folder / "b.avi", frames)
    save_video(folder / "a.avi", frames[:58])
    (folder / "broken.avi").write_bytes(b"RIFF no video")
    (folder / "notes.txt").write_text("x")
    (folder / "link.mp4").symlink_to(tmp_path)
    plan = Video().plan(folder, Shares(0.25, 0.25), tmp_path / "set")
    assert [(skip.name, skip.reason) for skip in plan.skipped] == [("broken.avi", "corrupt video")]
    assert plan.items[0].name.startswith("a.avi, person 0, frame ")
    assert plan.items[-1].name.startswith("b.avi, person 1, frame ")
    identity = [item.identity for item in plan.items]
    assert np.unique(identity).tolist() == [0, 1, 2, 3] and (np.diff(identity) >= 0).all()
    assert {item.split for item in plan.items} == {"train", "val", "test"}
    rows = dict(Video().rows(plan, range(len(plan.items)), Reading((64, 48), "letterbox", "none"), 1))
    assert sorted(rows) == list(range(len(plan.items)))
    assert {row.reason for row in rows.values()} == {"no keypoints"}, "nothing was to find joints"
    with pytest.raises(InputError, match="cannot be read as a video"):
        prepare("video", folder / "broken.avi", tmp_path / "other")
    assert len(list(read_frames(folder / "a.avi"))) == 58


@pytest.fixture(scope="module")
def pedestrians(tmp_path_factory) -> tuple[Path, Path, dict]:
    """The first 16 seconds of vtest.avi as a video of its own, and the set that it gives."""
    if not VTEST.is_file():
        pytest.skip(
            f"NO VIDEO OF REAL PEOPLE at {VTEST}: nothing was tried on real pedestrians; run "
            ".ci/system-packages.sh video (Debian's opencv-doc)"
        )
    folder = tmp_path_factory.mktemp("video")
    with av.open(str(VTEST)) as source, av.open(str(folder / "short.avi"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(source.streams.video[0])):
            if number == 160 or packet.dts is None:
                break
            packet.stream = stream
            target.mux(packet)
    return (
        folder / "short.avi",
        folder / "set",
        prepare("video", folder / "short.avi", folder / "set", shares=Shares(0.1, 0.1)),
    )


def test_real_pedestrians(pedestrians):
    """Measured on the whole video: 77 tracks, 798 pictures, 12 thousand pairs."""
    _, out, report = pedestrians
    assert report["written"] > 60 and all(report["splits"][split]["people"] for split in ("train", "val", "test"))
    people = People(out, "train")
    assert len(people.identities) > 5 and len(people) > 300
    joints = np.load(out / "joints.npy")
    ankles, eyes = joints[:, 15:17, 1].max(1), joints[:, :5, 1].max(1)
    assert (ankles > eyes + 40).mean() > 0.9, "people stand upright in their crops"
    # Upper and lower clothes of one track are alike, and differ between tracks.
    pictures, labels = np.load(out / "pictures.npy").astype(float), np.load(out / "identity.npy")
    clothes = np.concatenate([pictures[:, 38:60, 42:54].mean((1, 2)), pictures[:, 70:95, 42:54].mean((1, 2))], 1)
    means = np.array([clothes[labels == label].mean(0) for label in np.unique(labels)])
    within = np.linalg.norm(clothes - means[np.searchsorted(np.unique(labels), labels)], axis=1).mean()
    between = np.linalg.norm(means[:, None] - means[None], axis=-1).mean()
    assert within < 0.5 * between


def test_an_interrupted_video_goes_on_without_tracking_again(pedestrians, monkeypatch):
    video, out, report = pedestrians
    whole = {name: np.load(out / f"{name}.npy") for name in ("pictures", "joints", "openpose", "done")}
    half = np.arange(len(whole["done"])) % 2 == 0
    for name, value in whole.items():
        changed = value.copy()
        changed[half] = 0
        np.save(out / f"{name}.npy", changed)
    monkeypatch.setattr("training.adapters.video.find_people", lambda path: pytest.fail("tracked again"))
    assert prepare("video", video, out, shares=Shares(0.1, 0.1)) == report
    for name, value in whole.items():
        assert np.array_equal(np.load(out / f"{name}.npy"), value), name
