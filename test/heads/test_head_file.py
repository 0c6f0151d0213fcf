"""The file of a head: what goes in comes out, and whatever is wrong is named."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from vla_retrieval.errors import EncoderError, HeadError, HeadMismatchError, InvalidInputError
from vla_retrieval.heads import (
    METHODS,
    HashHead,
    JointHead,
    MetricHead,
    WeightedHead,
    load_head,
    read_record,
    save_head,
)
from vla_retrieval.types import Fingerprint, Modality

ENCODER = Fingerprint("made-up", "sha256:" + "1" * 64, "64 px", 16)
HEADS = {
    "joint": JointHead.identity(ENCODER),
    "metric": MetricHead.identity(ENCODER),
    "hash": HashHead.initial(ENCODER, 128),
}
ALL = pytest.mark.parametrize("method", list(METHODS))


def changed(head: WeightedHead) -> WeightedHead:
    rng = np.random.default_rng(5)
    return type(head)(
        ENCODER,
        {n: a + rng.standard_normal(a.shape).astype(np.float32) for n, a in head.weights.items()},
    )


def write(path: Path, **metadata: str) -> Path:
    """Writes a head's arrays under other metadata; None leaves a key out."""
    head = HEADS["joint"]
    usual = {
        "format": "vla_retrieval.head",
        "format_version": "1",
        "method": "joint",
        "digest": head.digest,
        "encoder": json.dumps(asdict(ENCODER)),
        "record": "{}",
    }
    kept = {k: v for k, v in (usual | metadata).items() if v is not None}
    save_file(dict(head.weights), path, kept)
    return path


@ALL
def test_saved_head_is_loaded_bit_for_bit(method: str, tmp_path: Path) -> None:
    head = changed(HEADS[method])
    save_head(head, tmp_path / "head.safetensors", {"curve": [1, 2.5], "words": "杯子"})
    loaded = load_head(tmp_path / "head.safetensors", ENCODER)
    rows = np.random.default_rng(0).standard_normal((30, 16)).astype(np.float32)

    assert (loaded.method, loaded.digest, loaded.encoder) == (method, head.digest, ENCODER)
    assert (loaded.dim, loaded.bits) == (head.dim, head.bits)
    for modality in Modality:
        np.testing.assert_array_equal(loaded.project(rows, modality), head.project(rows, modality))
        if head.bits:
            np.testing.assert_array_equal(loaded.codes(rows, modality), head.codes(rows, modality))
    assert read_record(tmp_path / "head.safetensors") == {"curve": [1, 2.5], "words": "杯子"}


def test_head_is_loaded_without_torch(tmp_path: Path) -> None:
    save_head(HEADS["joint"], tmp_path / "head.safetensors")
    code = (
        "import sys; from pathlib import Path; from vla_retrieval.heads import load_head;"
        f"load_head(Path({str(tmp_path / 'head.safetensors')!r}));"
        "print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "False"


def test_head_of_another_encoder_is_refused_with_both_fingerprints(tmp_path: Path) -> None:
    save_head(HEADS["joint"], tmp_path / "head.safetensors")
    other = replace(ENCODER, weights="sha256:" + "2" * 64)

    with pytest.raises(HeadMismatchError) as caught:
        load_head(tmp_path / "head.safetensors", other)

    assert str(ENCODER) in str(caught.value)
    assert str(other) in str(caught.value)
    assert not isinstance(caught.value, EncoderError)


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    save_head(HEADS["joint"], tmp_path / "head.safetensors")

    with pytest.raises(InvalidInputError, match="does not exist yet"):
        save_head(HEADS["metric"], tmp_path / "head.safetensors")
    assert load_head(tmp_path / "head.safetensors").method == "joint"


@pytest.mark.parametrize("kind", ["absent", "folder", "name too long"])
def test_no_file_is_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / ("h" * 300 if kind == "name too long" else "head.safetensors")
    if kind == "folder":
        path.mkdir()

    with pytest.raises(HeadError, match="No head at"):
        load_head(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("heads") / "head.safetensors"
    save_head(changed(HEADS["metric"]), path)
    return path.read_bytes()


@given(share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_truncated_file_is_refused(share: float, whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(whole[: int(share * len(whole))])

    with pytest.raises(HeadError, match=r"cut\.safetensors"):
        load_head(path)


@given(at=st.integers(0, 10**6), bit=st.integers(0, 7))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_never_gives_another_head(
    at: int, bit: int, whole: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "flipped.safetensors"
    flipped = bytearray(whole)
    flipped[at % len(whole)] ^= 1 << bit
    path.write_bytes(flipped)
    expected = changed(HEADS["metric"]).digest

    try:
        digest = load_head(path, ENCODER).digest
    except HeadError:
        return
    assert digest == expected


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", pickle.dumps({"a": 1})])
def test_a_foreign_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    path.write_bytes(content)

    with pytest.raises(HeadError, match="damaged"):
        load_head(path)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"format": None}, "is no head"),
        ({"format": "pt"}, "is no head"),
        ({"format_version": "2"}, "expected format version 1, got 2"),
        ({"method": "alchemy"}, "expected a method of joint, metric, hash, got 'alchemy'"),
        ({"method": "metric"}, "Not a metric head"),
        ({"method": None}, "damaged"),
        ({"digest": "sha256:0"}, "damaged"),
        ({"encoder": "{"}, "damaged"),
        ({"encoder": "[]"}, "damaged"),
        ({"encoder": '{"model": "only"}'}, "damaged"),
        ({"encoder": json.dumps(asdict(replace(ENCODER, dim=8)))}, "expected instruction.bias"),
    ],
    ids=str,
)
def test_metadata_that_do_not_fit_are_named(
    metadata: dict[str, str], said: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "head.safetensors", **metadata)

    with pytest.raises(HeadError, match=said):
        load_head(path)


def write_raw(path: Path, kind: str, size_bytes: int, head: WeightedHead, **shapes: list) -> Path:
    """Writes zeros of a type or in shapes that numpy would not write."""
    parts = {}
    end = 0
    for name, array in head.weights.items():
        shape = shapes.get(name.replace(".", "_"), list(array.shape))
        start, end = end, end + size_bytes * int(np.prod(shape))
        parts[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    metadata = {
        "format": "vla_retrieval.head", "format_version": "1", "method": head.method,
        "digest": head.digest, "encoder": json.dumps(asdict(ENCODER)), "record": "{}",
    }  # fmt: skip
    header = json.dumps({"__metadata__": metadata, **parts}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(end))
    return path


@pytest.mark.parametrize(("kind", "size_bytes"), [("BF16", 2), ("F8_E4M3", 1), ("F64", 8)])
def test_numbers_of_another_type_are_refused(kind: str, size_bytes: int, tmp_path: Path) -> None:
    path = write_raw(tmp_path / "head.safetensors", kind, size_bytes, HEADS["joint"])

    with pytest.raises(HeadError, match=r"head\.safetensors"):
        load_head(path)


@pytest.mark.parametrize(("method", "name"), [("metric", "weight"), ("hash", "scene_threshold")])
def test_a_number_in_place_of_an_array_is_refused(method: str, name: str, tmp_path: Path) -> None:
    path = write_raw(tmp_path / "head.safetensors", "F32", 4, HEADS[method], **{name: []})

    with pytest.raises(HeadError, match=f"Not a {method} head"):
        load_head(path)


@pytest.mark.parametrize(
    ("field", "value"), [("weights", 5), ("dim", 16.0), ("normalized", 1), ("head", None)]
)
def test_a_fingerprint_of_other_types_is_damage(field: str, value: object, tmp_path: Path) -> None:
    encoder = json.dumps(asdict(ENCODER) | {field: value})
    path = write(tmp_path / "head.safetensors", encoder=encoder)

    with pytest.raises(HeadError, match=f"a fingerprint as encoder, got {field}: expected"):
        load_head(path, ENCODER)


def test_metadata_nested_without_end_are_damage(tmp_path: Path) -> None:
    deep = "[" * 200_000
    path = write(tmp_path / "head.safetensors", encoder=deep, record=deep)

    for read in (load_head, read_record):
        with pytest.raises(HeadError, match="is damaged"):
            read(path)
