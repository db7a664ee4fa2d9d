"""What the entry point makes of the ways in which a command can end."""

import sys

import pytest

from influbench.cli import listing
from influbench.cli.main import main
from influbench.errors import UserError


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (UserError("expected this,\n got that"), 2, "influbench: expected this, got that\n"),
        (UserError("y" * 99999 + ": do that"), 2, "influbench: yyyy"),
        (KeyboardInterrupt(), 130, "influbench: stopped; what was finished is kept"),
        (RuntimeError("oops"), 1, "influbench: this is a bug of influbench: RuntimeError: oops"),
    ],
)
def test_ends_with_one_line_and_the_right_code(monkeypatch, capsys, raised, code, said):
    def ending(*_):
        raise raised

    monkeypatch.setattr(listing, "estimator_table", ending)
    monkeypatch.setattr(sys, "argv", ["influbench", "estimators"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == code
    error = capsys.readouterr().err
    assert error.startswith(said)
    assert len(error) < 1300
    assert error.count("\n") == 1
