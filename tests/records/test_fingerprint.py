"""JA3 and JA4 against what others have published, and against what varies from one hello of the same software to the next."""

import pytest

from muxwsgi.protocols.tls import ClientHello
from muxwsgi.records.fingerprint import ja3, ja4

#: Chrome, as in FoxIO's "JA4: TLS Client Fingerprinting", with GREASE where Chrome puts it.
CHROME = ClientHello(
    sni="example.com",
    alpn=("h2", "http/1.1"),
    versions=(0x3A3A, 0x0304, 0x0303),
    ciphers=(
        0x1A1A, 0x1301, 0x1302, 0x1303, 0xC02B, 0xC02F, 0xC02C, 0xC030, 0xCCA9, 0xCCA8, 0xC013, 0xC014, 0x009C, 0x009D, 0x002F, 0x0035,
    ),
    extensions=(
        0x2A2A, 0x001B, 0x0000, 0x0033, 0x0010, 0x4469, 0x0017, 0x002D, 0x000D, 0x0005, 0x0023, 0x0012, 0x002B, 0xFF01, 0x000B, 0x000A,
        0x4A4A, 0x0015,
    ),
    groups=(0x5A5A, 29, 23, 24),
    point_formats=(0,),
    signature_algorithms=(0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601),
    legacy_version=0x0303,
)


def hello(ciphers: tuple[int, ...], extensions: tuple[int, ...], groups: tuple[int, ...], points: tuple[int, ...]) -> ClientHello:
    return ClientHello(
        sni=None,
        alpn=(),
        versions=(0x0301,),
        ciphers=ciphers,
        extensions=extensions,
        groups=groups,
        point_formats=points,
        signature_algorithms=(),
        legacy_version=0x0301,
    )


@pytest.mark.parametrize(
    ("said", "digest"),
    [  # both from the README of salesforce/ja3
        (
            hello((47, 53, 5, 10, 49161, 49162, 49171, 49172, 50, 56, 19, 4), (0, 10, 11), (23, 24, 25), (0,)),
            "ada70206e40642a3e4461f35503241d5",
        ),
        (hello((4, 5, 10, 9, 100, 98, 3, 6, 19, 18, 99), (), (), ()), "de350869b8c85de67a350c8d186f11e6"),
    ],
)
def test_ja3_is_what_its_inventors_say(said: ClientHello, digest: str) -> None:
    assert ja3(said) == digest


def test_ja4_is_what_its_inventors_say() -> None:
    assert ja4(CHROME) == "t13d1516h2_8daaf6152771_e5627efa2ab1"


def test_ja4_does_not_follow_the_shuffled_order_of_extensions_and_ja3_does() -> None:
    shuffled = CHROME._replace(extensions=CHROME.extensions[::-1])
    assert ja4(shuffled) == ja4(CHROME) and ja3(shuffled) != ja3(CHROME)


def test_grease_counts_for_nothing() -> None:
    other = CHROME._replace(
        versions=(0xFAFA, *CHROME.versions[1:]),
        ciphers=(0x8A8A, *CHROME.ciphers[1:]),
        extensions=(0x9A9A, *CHROME.extensions[1:]),
        groups=CHROME.groups[1:],
    )
    assert (ja3(other), ja4(other)) == (ja3(CHROME), ja4(CHROME))


@pytest.mark.parametrize(
    ("changed", "first"),
    [
        ({"sni": None}, "t13i1516h2"),
        ({"alpn": ()}, "t13d151600"),
        ({"alpn": ("http/1.1",)}, "t13d1516h1"),
        ({"alpn": ("h",)}, "t13d1516hh"),
        ({"alpn": ("\xab\xcd",)}, "t13d1516ad"),
        ({"versions": (0x0303,)}, "t12d1516h2"),
        ({"versions": ()}, "t00d1516h2"),
        ({"ciphers": (0x1301,) * 120}, "t13d9916h2"),
    ],
)
def test_the_first_part_of_ja4_can_be_read(changed: dict[str, object], first: str) -> None:
    assert ja4(CHROME._replace(**changed)).partition("_")[0] == first  # type: ignore[arg-type]


def test_lists_that_are_empty_have_no_digest() -> None:
    empty = CHROME._replace(ciphers=(), extensions=(), signature_algorithms=())
    assert ja4(empty) == "t13d0000h2_000000000000_000000000000"
