"""Password hashes that `htpasswd` and `openssl passwd` make: finds the scheme of a hash, and checks a password.

bcrypt comes from the package. apr1 (Apache's variant of MD5-crypt: apr_md5.c), sha256-crypt and sha512-crypt (Ulrich Drepper, "Unix crypt
using SHA-256 and SHA-512", version 0.6) are written here over hashlib. Python had them in `crypt`, which 3.13 dropped. The package libpass
has them, but it installs itself over passlib. {SHA} is base64 of SHA-1.

`is_password` takes 1 to 250 ms and may run in a thread.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Callable

import bcrypt

__all__ = ["is_password", "what_is_wrong"]

#: The base64 alphabet of all these schemes.
_ALPHABET = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

_BCRYPT = re.compile(r"\$2[aby]\$(?:0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{53}")
_APR1 = re.compile(r"\$apr1\$([^$:]{0,8})\$([./0-9A-Za-z]{22})")
_SHA256 = re.compile(r"\$5\$(?:rounds=([1-9][0-9]{0,8})\$)?([^$:]{0,16})\$([./0-9A-Za-z]{43})")
_SHA512 = re.compile(r"\$6\$(?:rounds=([1-9][0-9]{0,8})\$)?([^$:]{0,16})\$([./0-9A-Za-z]{86})")
_SHA1 = re.compile(r"\{SHA\}([A-Za-z0-9+/]{27}=)")

#: Bytes of a password that bcrypt uses; `htpasswd` drops the rest too.
_BCRYPT_BYTES = 72

#: Rounds of SHA-crypt: the default without `rounds=`, and the least; a smaller number is raised to it (section 3 of its text).
_ROUNDS, _FEWEST_ROUNDS = 5000, 1000

#: The bytes of the digest that are written together, the most significant first.
_APR1_ORDER = ((0, 6, 12), (1, 7, 13), (2, 8, 14), (3, 9, 15), (4, 10, 5), (11,))


def _sha_order(size: int, step: int, last: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """SHA-crypt writes the digest in groups of three columns. The first column of a group moves on by `step` with each group."""
    third = size // 3
    rows = []
    for row in range(third):
        columns = (row, third + row, 2 * third + row)
        turn = row * step % 3
        rows.append(columns[turn:] + columns[:turn])
    return (*rows, last)


_SHA256_ORDER = _sha_order(32, 2, (31, 30))
_SHA512_ORDER = _sha_order(64, 1, (63,))

#: Other schemes that such files contain, by their first characters.
_OTHERS = (
    (re.compile(r"[./0-9A-Za-z]{13}"), "DES-crypt, of which 8 characters count"),
    (re.compile(r"_[./0-9A-Za-z]{19}"), "extended DES-crypt"),
    (re.compile(r"\$1\$.*"), "MD5-crypt ($1$)"),
    (re.compile(r"\$2x?\$.*"), "an old bcrypt with known faults ($2$ or $2x$)"),
    (re.compile(r"\$3\$.*"), "an NT hash ($3$)"),
    (re.compile(r"\$7\$.*|\$scrypt\$.*|scrypt:.*"), "scrypt"),
    (re.compile(r"\$g?y\$.*"), "yescrypt"),
    (re.compile(r"\$argon2.*|argon2\$.*"), "Argon2"),
    (re.compile(r"\$sha1\$.*"), "sha1-crypt ($sha1$)"),
    (re.compile(r"\$pbkdf2.*|pbkdf2[_:].*"), "PBKDF2"),
    (re.compile(r"\{SSHA\}.*"), "salted SHA-1 ({SSHA})"),
    (re.compile(r"\{(?!SHA\})[A-Za-z0-9._-]+\}.*"), "a scheme of LDAP"),
)

#: The prefixes of the supported schemes, to report a broken hash.
_OURS = (("$2a$", "bcrypt"), ("$2b$", "bcrypt"), ("$2y$", "bcrypt"), ("$apr1$", "apr1"), ("$5$", "sha256-crypt"), ("$6$", "sha512-crypt"))


def what_is_wrong(hashed: str) -> str | None:
    """Why `hashed` cannot be used, in words that do not contain it; None if it can."""
    if any(pattern.fullmatch(hashed) for pattern in (_BCRYPT, _APR1, _SHA256, _SHA512, _SHA1)):
        return None
    for begin, name in (*_OURS, ("{SHA}", "{SHA}")):
        if hashed.startswith(begin):
            return f"broken: it begins like {name}, but the rest does not fit"
    for pattern, name in _OTHERS:
        if pattern.fullmatch(hashed):
            return f"in a scheme that is not supported: {name}"
    return "in an unknown scheme, or not hashed"


def is_password(password: bytes, hashed: str) -> bool:
    """Whether `password`, which has no NUL, fits `hashed`. Compares in constant time. False for a hash that cannot be used."""
    if _BCRYPT.fullmatch(hashed):
        try:
            return bcrypt.checkpw(password[:_BCRYPT_BYTES], hashed.encode("ascii"))
        except ValueError:  # a salt that the package does not decode
            return False
    if match := _APR1.fullmatch(hashed):
        return _same(_md5_crypt(password, match[1].encode(), b"$apr1$"), match[2])
    for pattern, made, order in ((_SHA256, hashlib.sha256, _SHA256_ORDER), (_SHA512, hashlib.sha512, _SHA512_ORDER)):
        if match := pattern.fullmatch(hashed):
            rounds = max(int(match[1]), _FEWEST_ROUNDS) if match[1] else _ROUNDS
            return _same(_encode(_sha_crypt(made, password, match[2].encode(), rounds), order), match[3])
    if match := _SHA1.fullmatch(hashed):
        return hmac.compare_digest(hashlib.sha1(password, usedforsecurity=False).digest(), base64.b64decode(match[1]))
    return False


def _same(made: str, hashed: str) -> bool:
    return hmac.compare_digest(made.encode("ascii"), hashed.encode("ascii"))


def _encode(digest: bytes, order: tuple[tuple[int, ...], ...]) -> str:
    """6 bits for each character, the least significant first."""
    text = []
    for places in order:
        value = int.from_bytes(bytes(digest[at] for at in places), "big")
        for _ in range((8 * len(places) + 5) // 6):
            text.append(_ALPHABET[value & 63])
            value >>= 6
    return "".join(text)


def _repeated(digest: bytes, length: int) -> bytes:
    """`digest` repeated, cut to `length` bytes."""
    return digest * (length // len(digest)) + digest[: length % len(digest)]


def _md5_crypt(password: bytes, salt: bytes, magic: bytes) -> str:
    def md5(data: bytes) -> bytes:
        return hashlib.md5(data, usedforsecurity=False).digest()

    data = password + magic + salt + _repeated(md5(password + salt + password), len(password))
    bits = len(password)
    while bits:
        data += b"\0" if bits & 1 else password[:1]
        bits >>= 1
    digest = md5(data)
    for turn in range(1000):
        first, last = (password, digest) if turn & 1 else (digest, password)
        digest = md5(first + (salt if turn % 3 else b"") + (password if turn % 7 else b"") + last)
    return _encode(digest, _APR1_ORDER)


def _sha_crypt(made: Callable[[bytes], "hashlib._Hash"], password: bytes, salt: bytes, rounds: int) -> bytes:
    """The digest of SHA-crypt; the names are those of its text (sections 2 to 21)."""
    b = made(password + salt + password).digest()
    data = password + salt + _repeated(b, len(password))
    bits = len(password)
    while bits:
        data += b if bits & 1 else password
        bits >>= 1
    a = made(data).digest()
    p = _repeated(made(password * len(password)).digest(), len(password))
    s = _repeated(made(salt * (16 + a[0])).digest(), len(salt))
    for turn in range(rounds):
        first, last = (p, a) if turn & 1 else (a, p)
        a = made(first + (s if turn % 3 else b"") + (p if turn % 7 else b"") + last).digest()
    return a
