from __future__ import annotations

import logging

import pytest

from vla_retrieval.errors import EncoderError

torch = pytest.importorskip("torch")

from vla_retrieval.encoders.devices import (  # noqa: E402
    choose_device,
    set_threads,
    why_no_cuda,
)


@pytest.fixture
def _no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def _two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.usefixtures("_no_cuda")
def test_auto_that_lands_on_the_cpu_says_so_loudly_and_why(caplog, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    assert choose_device("auto") == torch.device("cpu")
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "ENCODING ON THE CPU" in record.getMessage()
    assert "is a build without CUDA" in record.getMessage()


@pytest.mark.usefixtures("_no_cuda")
def test_cpu_that_was_asked_for_is_no_news(caplog):
    assert choose_device("cpu") == torch.device("cpu")
    assert not caplog.records


@pytest.mark.usefixtures("_no_cuda")
@pytest.mark.parametrize("wanted", ["cuda", "cuda:1"])
def test_cuda_never_becomes_the_cpu(wanted):
    with pytest.raises(EncoderError, match=rf"expected a CUDA device for '{wanted}', got none: "):
        choose_device(wanted)


@pytest.mark.usefixtures("_two_gpus")
def test_index_beyond_the_last_device_is_refused():
    with pytest.raises(EncoderError, match="expected cuda:0 to cuda:1, got 'cuda:2'"):
        choose_device("cuda:2")


@pytest.mark.usefixtures("_two_gpus")
@pytest.mark.parametrize(("wanted", "index"), [("auto", 0), ("cuda", 0), ("cuda:1", 1)])
def test_cuda_device_always_has_its_index(wanted, index):
    assert choose_device(wanted) == torch.device("cuda", index)


def test_hidden_devices_are_the_reason_where_the_build_has_cuda(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert why_no_cuda() == "CUDA_VISIBLE_DEVICES='' hides every device"


def test_reason_is_torchs_own_where_there_is_a_build_but_no_driver(monkeypatch):
    def fail() -> None:
        raise RuntimeError("Found no NVIDIA driver on your system. Please check that you have")

    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "init", fail)
    assert why_no_cuda().endswith("says: Found no NVIDIA driver on your system")


def test_threads_are_set_and_zero_leaves_them():
    before = torch.get_num_threads()
    try:
        set_threads(1)
        assert torch.get_num_threads() == 1
        set_threads(0)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
