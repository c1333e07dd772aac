"""Packages that are imported at first use."""

import gc
import sys

import pytest

from antidote.base.lazy import _LazyModule


@pytest.mark.parametrize("collects", [True, False])
@pytest.mark.parametrize("fails", [False, True])
def test_no_garbage_is_collected_during_an_import_alone(tmp_path, monkeypatch, collects, fails):
    (tmp_path / "heavy_package.py").write_text("import gc\nduring = gc.isenabled()\n" + "1 / 0\n" * fails)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "heavy_package", raising=False)
    (gc.enable if collects else gc.disable)()
    try:
        if fails:
            with pytest.raises(ZeroDivisionError):
                _ = _LazyModule("heavy_package").during
        else:
            assert _LazyModule("heavy_package").during is False
        assert gc.isenabled() == collects
    finally:
        gc.enable()
        sys.modules.pop("heavy_package", None)
