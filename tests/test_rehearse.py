"""The stand-in of Fashionpedia's size, tiny here; what the notebooks read and decode of it."""

import json
from collections import Counter
from pathlib import Path

import nbformat
import pytest

from benchmarks import stand_in
from benchmarks.rehearse import Cell, Rehearsal, Sample, read_cells
from benchmarks.stand_in import build
from clothseg_utils.core import files
from clothseg_utils.data import audit as audit_module
from clothseg_utils.data import coco as coco_module
from clothseg_utils.data.audit import audit
from clothseg_utils.data.coco import annotation_path, images_dir, read_annotations
from clothseg_utils.data.photos import check_photo
from clothseg_utils.workflow.pipeline import notebook_path

SHARE = 0.001
N_PHOTOS = {"train": 46, "val": 1}
N_ANNOTATIONS = {"train": 333, "val": 9}


@pytest.fixture(scope="module")
def tiny(synthetic_root, tmp_path_factory):
    """A thousandth of Fashionpedia, made of the drawn dataset. Read only."""
    root = tmp_path_factory.mktemp("rehearse") / "data"
    built = build(synthetic_root, root, share=SHARE)
    assert (built.photos, built.annotations) == (N_PHOTOS, N_ANNOTATIONS)
    return root


@pytest.mark.parametrize("split", ["train", "val"])
def test_stand_in_is_a_sound_dataset_of_the_promised_size(tiny, split):
    coco = read_annotations(annotation_path(tiny, split))
    report = audit(coco, image_dir=images_dir(tiny, split))
    assert report.problems == []
    assert report.n_images == N_PHOTOS[split]
    assert report.n_annotations == N_ANNOTATIONS[split]
    assert len(list(images_dir(tiny, split).iterdir())) == N_PHOTOS[split]


def test_stand_in_has_records_as_long_as_the_official_ones(tiny):
    n_bytes = annotation_path(tiny, "train").stat().st_size
    assert n_bytes / N_ANNOTATIONS["train"] > 1049  # 350 MB for all of Fashionpedia


def test_few_photos_have_many_annotations_and_items_of_all_sizes(tiny):
    coco = read_annotations(annotation_path(tiny, "train"))
    counts = sorted(Counter(a.image_id for a in coco.packed).values())
    assert counts[-1] > 2 * counts[len(counts) // 2]
    areas = [annotation.area for annotation in coco.packed]
    assert min(areas) < 0.02 * max(areas)


def test_same_source_gives_the_same_files(tiny, synthetic_root, tmp_path):
    build(synthetic_root, tmp_path / "again", share=SHARE)
    paths = [path.relative_to(tiny) for path in sorted(tiny.rglob("*")) if path.is_file()]
    assert len(paths) == sum(N_PHOTOS.values()) + 2
    for path in paths:
        assert (tmp_path / "again" / path).read_bytes() == (tiny / path).read_bytes()


def test_photos_are_links_to_copies_of_the_sources(tiny, synthetic_root):
    photos = list(images_dir(tiny, "train").iterdir())
    sources = {path.stat().st_ino for path in images_dir(synthetic_root, "train").iterdir()}
    inodes = {path.stat().st_ino for path in photos}
    assert len(inodes) == len(sources) < len(photos)
    assert not inodes & sources


def test_photos_are_copied_where_links_fail(synthetic_root, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr(stand_in.os, "link", refuse)
    build(synthetic_root, tmp_path / "copies", share=SHARE)
    photos = list(images_dir(tmp_path / "copies", "train").iterdir())
    assert len({path.stat().st_ino for path in photos}) == N_PHOTOS["train"]


def test_run_lengths_become_outlines_where_they_are_scaled(tmp_path):
    """A source that has nothing but RLE: an area, and a speck of one pixel."""
    source = tmp_path / "source"
    for split in ("train", "val"):
        images_dir(source, split).mkdir(parents=True)
        (images_dir(source, split) / "a.jpg").write_bytes(b"never decoded here")
        counts = [[12, 3, 7, 3, 75], [99, 1]]
        file = {
            "images": [{"id": 1, "file_name": "a.jpg", "width": 10, "height": 10}],
            "categories": [{"id": 0, "name": "coat", "supercategory": "upperbody"}],
            "annotations": [
                {
                    "id": n,
                    "image_id": 1,
                    "category_id": 0,
                    "segmentation": {"size": [10, 10], "counts": runs},
                    "area": sum(runs[1::2]),
                    "bbox": [1, 2, 2, 3] if n == 0 else [9, 9, 1, 1],
                }
                for n, runs in enumerate(counts)
            ],
        }
        annotation_path(source, split).write_text(json.dumps(file))
    build(source, tmp_path / "out", share=SHARE)
    coco = read_annotations(annotation_path(tmp_path / "out", "train"))
    assert coco.problems == ()
    assert {annotation.n_parts for annotation in coco.packed} == {0, 1}


@pytest.mark.parametrize("share", [0, -1])
def test_share_must_be_above_zero(synthetic_root, tmp_path, share):
    with pytest.raises(ValueError, match="expected a number above 0"):
        build(synthetic_root, tmp_path / "out", share=share)
    assert not (tmp_path / "out").exists()


def test_source_without_annotations_is_refused(synthetic_root, tmp_path):
    path = annotation_path(tmp_path, "train")
    content = json.loads(annotation_path(synthetic_root, "train").read_text())
    path.write_text(json.dumps(content | {"annotations": []}))
    with pytest.raises(ValueError, match="no annotated photo"):
        build(tmp_path, tmp_path / "out", share=SHARE)


# --- what the notebooks do with it ---------------------------------------------------------------


@pytest.fixture
def run_cells(tiny, tmp_path, monkeypatch):
    """Run a notebook's code in this process, up to the cell that sets a name."""
    monkeypatch.setattr(files, "repo_root", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)

    def run(notebook: str, until: str) -> None:
        namespace: dict[str, object] = {}
        for cell in nbformat.read(notebook_path(notebook), as_version=4).cells:
            if cell.cell_type != "code" or until in namespace:
                continue
            exec(cell.source, namespace)
            if "parameters" in cell.metadata.get("tags", []):
                namespace |= {"data_root": str(tiny), "run_name": "tiny", "image_size": 32}
        assert until in namespace

    return run


def test_notebooks_decode_each_photo_once_and_parse_each_json_once(run_cells, monkeypatch):
    decoded, parsed = Counter(), Counter()

    def decode(path):
        decoded[path.name] += 1
        return check_photo(path)

    def parse(data):
        parsed[len(data)] += 1
        return decode_file(data)

    decode_file = coco_module._decode_typed
    monkeypatch.setattr(audit_module, "check_photo", decode)
    monkeypatch.setattr(coco_module, "_decode_typed", parse)
    run_cells("01_data_exploration", until="audits")
    assert len(decoded) == sum(N_PHOTOS.values())
    parsed.clear()
    run_cells("02_mask_rasterization", until="hidden_share")
    assert list(parsed.values()) == [1, 1]  # train and val
    parsed.clear()
    run_cells("03_training", until="val_split")
    assert list(parsed.values()) == [1, 1]
    assert set(decoded.values()) == {1}


# --- what is measured ----------------------------------------------------------------------------


def test_cells_have_their_heading_and_their_time(tmp_path):
    code = nbformat.v4.new_code_cell("coco = 1\nmore = 2")
    code.metadata["papermill"] = {
        "start_time": "2026-01-01T00:00:00.500000+00:00",
        "end_time": "2026-01-01T00:00:02.000000+00:00",
    }
    never_run = nbformat.v4.new_code_cell("x = 1")
    never_run.metadata["papermill"] = {"start_time": None, "end_time": None}
    cells = [nbformat.v4.new_markdown_cell("# Title\n\n## Read\n\ntext"), code, never_run]
    path = Path(tmp_path / "01_data.ipynb")
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    (cell,) = read_cells(path)
    assert (cell.notebook, cell.title, cell.seconds) == ("01_data", "Read: `coco = 1`", 1.5)


def test_peaks_and_silences_are_those_of_the_span():
    samples = [
        Sample(when=when, pid=pid, role=role, rss_mb=rss, peak_mb=peak, cpu_seconds=cpu)
        for when, pid, role, rss, peak, cpu in (
            (1, 10, "pipeline", 90, 95, 2),
            (2, 11, "kernel", 700, 700, 1),
            (3, 11, "kernel", 500, 950, 1.5),
            (3, 12, "worker", 60, 80, 4),
            (4, 12, "worker", 60, 80, 4.25),
        )
    ]
    found = Rehearsal([Cell("01", "a", 0, 4)], samples, said=[0.0, 1.0, 1.5, 9.0])
    assert found.peak_mb(0, 4) == 700
    assert found.peak_mb(2.5, 4) == 500
    assert found.peak_mb(0, 4, "worker") == 60
    assert found.largest().peak_mb == 950
    assert found.cpu_seconds(0, 4) == 0.75
    assert found.longest_silence(0, 4) == 2.5
    assert found.longest_silence(0, 9) == 7.5
    assert found.longest_pause() == 1
