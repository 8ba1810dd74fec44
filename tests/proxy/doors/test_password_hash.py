"""Password hashes: published vectors, and what other programs make."""

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muxwsgi.proxy.doors.password_hash import is_password, what_is_wrong

#: From the texts that define the schemes, and from Apache's page on password formats.
PUBLISHED = [
    ("Hello world!", "$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5"),
    ("This is just a test", "$5$rounds=5000$toolongsaltstrin$Un/5jzAHMgOGZ5.mWJpuVolil07guHPvOW8mGRcvxa5"),
    ("Hello world!", "$5$rounds=10000$saltstringsaltst$3xv.VbSHBb41AL9AvLeujZkZRBAwqFMz2.opqey6IcA"),
    ("Hello world!", "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1"),
    (
        "Hello world!",
        "$6$rounds=10000$saltstringsaltst$OW1/O6BYHV6BcXZu8QVeXbDWra3Oeqh0sbHbbMCVNSnCM/UrjmM0Dp8vOuZeHBy/YTBmSK6H9qs/y3RnOaw5v.",
    ),
    (
        "This is just a test",
        "$6$rounds=5000$toolongsaltstrin$lQ8jolhgVRVhY4b5pZKaysCLi0QBxGoNeKQzQ3glMhwllF7oGDZxUhx1yxdYcz/e1JSbq3y6JMxxl8audkUEm0",
    ),
    ("myPassword", "$apr1$r31.....$HqJZimcKQFAMYayBlzkrA/"),
    ("myPassword", "{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE="),
    ("myPassword", "$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC"),
]


@pytest.mark.parametrize(("password", "hashed"), PUBLISHED)
def test_published_hashes_are_those_of_their_passwords(password: str, hashed: str) -> None:
    assert what_is_wrong(hashed) is None
    assert is_password(password.encode(), hashed)
    for wrong in (password + "x", password[1:], password.swapcase(), ""):
        assert not is_password(wrong.encode(), hashed)


def made(scheme: str, password: str, *options: str) -> str:
    done = subprocess.run(
        ["openssl", "passwd", scheme, *options, "-stdin"], input=password + "\n", capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is missing")
@settings(max_examples=20, deadline=None)
@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0"), min_size=1, max_size=40),
    st.text("./0123456789abcxyzABCXYZ", min_size=1, max_size=8),
    st.sampled_from(["-apr1", "-5", "-6"]),
    st.sampled_from(["", "rounds=1000$", "rounds=1234$"]),
)
def test_what_openssl_makes_is_understood(password: str, salt: str, scheme: str, rounds: str) -> None:
    hashed = made(scheme, password, "-salt", salt if scheme == "-apr1" else rounds + salt)
    assert what_is_wrong(hashed) is None
    assert is_password(password.encode(), hashed)
    assert not is_password(password.encode() + b"x", hashed)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is missing")
@pytest.mark.parametrize("length", [1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 200])
@pytest.mark.parametrize("scheme", ["-apr1", "-5", "-6"])
def test_passwords_as_long_as_a_digest_and_longer_are_understood(scheme: str, length: int) -> None:
    assert is_password(b"x" * length, made(scheme, "x" * length))


@given(st.text(max_size=120), st.sampled_from(["", "$2y$05$", "$apr1$", "$5$", "$6$rounds=", "{SHA}", "$1$"]))
def test_anything_else_has_an_explanation_that_does_not_contain_it_and_no_password(text: str, begin: str) -> None:
    hashed = begin + text
    wrong = what_is_wrong(hashed)
    if wrong is None:
        return  # a whole one by chance
    assert len(text) < 8 or text not in wrong
    assert not is_password(b"x", hashed)
