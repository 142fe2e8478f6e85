"""Text from outside, as a terminal may show it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from thalweg.runtime.terminal import print_on_stderr, printable

RAW = "\x00\x07\x08\t\n\r\x1b\x7f\x80\x9b\x85\xad\u061c"
RAW += "\u200b\u200e\u202a\u202e\u2028\u2029\u2066\u2069\ufeff\udc80\U000e0041"


def test_what_prints_stays() -> None:
    for text in ("", "plain (text) \\ ~", "Grüße, 日本, العربية, 😀"):
        assert printable(text) is text


@pytest.mark.parametrize("one", RAW)
def test_every_other_character_is_an_escape(one: str) -> None:
    found = printable(f"a{one}b")
    assert found.isascii()
    assert found.isprintable()
    assert found.startswith("a\\")
    assert found.endswith("b")
    assert found.encode().decode("unicode_escape") == f"a{one}b"
    assert printable(one, keep=one) == one


def test_an_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_on_stderr("error: \x1b[2J\nerror: forged")
    assert capsys.readouterr().err == "error: \\x1b[2J\\nerror: forged\n"


@pytest.mark.parametrize("place", ["raise ValueError(text)", "threading.Thread(target=fail).start()"])
def test_a_traceback_is_escaped(place: str) -> None:
    code = (
        "import threading\nfrom thalweg.runtime.terminal import escape_tracebacks\nescape_tracebacks()\n"
        f"text = 'host \\x1b[2J\\u202e'\ndef fail(): raise ValueError(text)\n{place}\n"
    )
    err = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr
    assert err.endswith("ValueError: host \\x1b[2J\\u202e\n")
    assert err.replace("\n", "").isprintable()
