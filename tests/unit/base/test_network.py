"""Files of open_clip's tags: from the cache without a network, and where no server answers, one line at once."""

import logging
import socket
import time

import pytest

from antidote.base import network
from antidote.base.errors import UserError
from antidote.base.network import NotFetched
from antidote.clip import weights

TAG = {"hf_hub": "timm/resnet50_clip.openai/"}


@pytest.fixture(autouse=True)
def hub(monkeypatch, tmp_path):
    """An empty cache, and a hub that nobody serves; conftest.py sets HF_HUB_OFFLINE."""
    ask = network._unreachable
    ask.cache_clear()
    assert network.open_clip.list_pretrained()  # importing takes its time
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    yield
    ask.cache_clear()


@pytest.fixture
def silent():
    """Return the port of a server that accepts and says nothing."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_hub_that_does_not_answer_is_told_at_once(capfd, caplog):
    caplog.set_level(logging.DEBUG)
    start = time.monotonic()
    for _ in range(5):
        with pytest.raises(NotFetched, match=r"^http://127\.0\.0\.1:\d+ does not answer: "):
            network.pretrained(TAG)
    assert time.monotonic() - start < 5
    shown = capfd.readouterr()
    assert shown.err == shown.out == "" and not [r for r in caplog.records if r.name.startswith("huggingface_hub")]


@pytest.mark.parametrize("tag", [TAG, {"url": "URL/model.pt"}])
def test_a_server_that_is_silent_is_given_up(monkeypatch, tmp_path, silent, tag):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(network, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{silent}")
    start = time.monotonic()
    with pytest.raises(NotFetched, match="does not answer"):
        network.pretrained({key: value.replace("URL", f"http://127.0.0.1:{silent}") for key, value in tag.items()})
    assert time.monotonic() - start < 10


def test_what_is_in_the_cache_is_not_asked_for(tmp_path, monkeypatch):
    snapshot = tmp_path / "models--timm--resnet50_clip.openai" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    (snapshot / "open_clip_model.safetensors").write_bytes(b"x")
    monkeypatch.setattr(network, "_unreachable", lambda url: pytest.fail("asked for"))
    assert network.pretrained(TAG) == snapshot / "open_clip_model.safetensors"
    found = weights.find("RN50", "openai", True, {"quick_gelu": False})
    assert found.pretrained == str(snapshot / "open_clip_model.safetensors") and len(found.preprocess["mean"]) == 3
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".cache" / "clip").mkdir(parents=True)
    (tmp_path / ".cache" / "clip" / "model.pt").write_bytes(b"x")
    assert network.pretrained({"url": "https://nowhere.invalid/model.pt"}) == tmp_path / ".cache/clip/model.pt"


def test_a_user_who_wants_no_network_is_told_so(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match=r"'openai' cannot be downloaded \(HF_HUB_OFFLINE is set\); put the weights file"
    ):
        weights.find("RN50", "openai", True, {"quick_gelu": False})


def test_downloads_of_other_libraries_give_up_on_silence(monkeypatch):
    before = socket.getdefaulttimeout()
    with network.limited():
        assert socket.getdefaulttimeout() == network.SILENT_SECONDS
    assert socket.getdefaulttimeout() == before
