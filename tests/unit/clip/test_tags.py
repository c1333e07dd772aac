"""open_clip's tags, read without open_clip."""

import subprocess
import sys

import open_clip

from antidote.clip.tags import tag, tags


def test_open_clips_tags_are_read_without_torch():
    code = "import sys; from antidote.clip.tags import tag; assert tag('RN50', 'openai'); print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "open_clip", "safetensors.torch", "huggingface_hub"} & set(done.stdout.split())


def test_open_clips_tags_are_its_own():
    assert tags("RN50") == open_clip.list_pretrained_tags_by_model("RN50") and tags("tiny-rn") == []
    for name, known in (("RN50", "openai"), ("ViT-B-32", "laion400m-e32"), ("ViT-B-32-quickgelu", "openai")):
        assert tag(name, known) == open_clip.get_pretrained_cfg(name, known)
    assert tag("RN50", "x") is None and tag("x", "openai") is None
