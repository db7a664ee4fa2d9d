import importlib.util

import pytest

from influbench import errors
from influbench.errors import UserError
from influbench.loop import reading, sets


def test_a_package_of_an_extra_that_is_missing_is_named_before_any_work(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "peft" else found(name)
    )
    with pytest.raises(UserError, match=r"a run of the loop needs peft: .*influbench\[loop\]"):
        sets.check(reading.load_run("tiny"))


@pytest.mark.parametrize("extra", errors.EXTRAS)
def test_extras_that_are_installed_are_not_refused(extra):
    errors.require(extra, "this")
