"""Accept-Encoding (RFC 9110 section 12.5.3): which content codings a client takes. Nothing else reads this field for responses of ours."""

from functools import lru_cache

__all__ = ["accepted_codings"]


@lru_cache(maxsize=256)  # real clients send a few values
def accepted_codings(accept_encoding: str, codings: tuple[str, ...]) -> tuple[str, ...]:
    """Those of `codings` that a client with this Accept-Encoding takes and likes at least as well as no coding, the best first. Of those
    that it likes equally, the order is that of `codings`.

    A coding whose weight is malformed is not taken. An empty value, or a request without the field, takes none: it may be an old client.
    """
    weights: dict[str, float] = {}
    for member in accept_encoding.lower().split(","):
        name, *parameters = (part.strip(" \t") for part in member.split(";"))
        weight = 1.0
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip(" \t") == "q":
                weight = _weight(value.strip(" \t"))
        weights["gzip" if name == "x-gzip" else name] = weight
    others = weights.get("*", 0.0)
    identity = weights.get("identity", 0.0)
    found = [(weights.get(coding, others), coding) for coding in codings]
    found.sort(key=lambda each: -each[0])
    return tuple(coding for weight, coding in found if weight > 0 and weight >= identity)


def _weight(text: str) -> float:
    """A qvalue (RFC 9110 section 12.4.2). A malformed one counts as 0: not acceptable."""
    if len(text) > 5 or not text.replace(".", "", 1).isdigit() or not text.isascii():
        return 0.0
    return float(text) if float(text) <= 1 else 0.0
