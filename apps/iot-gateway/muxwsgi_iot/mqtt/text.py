"""UTF-8 strings, topic names and topic filters (sections 1.5.4, 4.7 and 4.8)."""

from muxwsgi_iot.mqtt.reasons import MQTTError, Reason

__all__ = ["check_filter", "check_topic", "decode_text", "split_shared"]

#: What a topic name may not contain [MQTT-3.3.2-2]. NUL is refused in each string.
_WILDCARDS = "+#"


def decode_text(data: bytes) -> str:
    """A UTF-8 string. Surrogates [MQTT-1.5.4-1] and NUL [MQTT-1.5.4-2] are malformed; a BOM is kept [MQTT-1.5.4-3]."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise MQTTError(Reason.MALFORMED_PACKET, "a string is not UTF-8") from None
    if "\0" in text:
        raise MQTTError(Reason.MALFORMED_PACKET, "a string contains U+0000")
    return text


def check_topic(topic: str, max_levels: int) -> None:
    """Raises `MQTTError` unless `topic` is a topic name: no wildcards [MQTT-3.3.2-2], one character at least [MQTT-4.7.3-1]."""
    if not topic:
        raise MQTTError(Reason.TOPIC_NAME_INVALID, "a topic name is empty")
    if "+" in topic or "#" in topic:
        raise MQTTError(Reason.TOPIC_NAME_INVALID, "a topic name contains a wildcard")
    if topic.count("/") >= max_levels:
        raise MQTTError(Reason.TOPIC_NAME_INVALID, f"a topic name has more than {max_levels} levels")


def check_filter(text: str, max_levels: int) -> None:
    """Raises `MQTTError` unless `text` is a topic filter, shared or not."""
    _, topic_filter = split_shared(text)
    if not topic_filter:
        raise MQTTError(Reason.TOPIC_FILTER_INVALID, "a topic filter is empty")  # [MQTT-4.7.3-1]
    levels = topic_filter.split("/")
    if len(levels) > max_levels:
        raise MQTTError(Reason.TOPIC_FILTER_INVALID, f"a topic filter has more than {max_levels} levels")
    for at, level in enumerate(levels):
        if "#" in level and (level != "#" or at != len(levels) - 1):  # [MQTT-4.7.1-1]
            raise MQTTError(Reason.TOPIC_FILTER_INVALID, "'#' is not alone at the end of a topic filter")
        if "+" in level and level != "+":  # [MQTT-4.7.1-2]
            raise MQTTError(Reason.TOPIC_FILTER_INVALID, "'+' is not alone in a level of a topic filter")


def split_shared(text: str) -> tuple[str | None, str]:
    """The share name of `$share/NAME/FILTER` and the filter; None and the text for other filters. Raises `MQTTError` for a share name that
    is empty or has a wildcard [MQTT-4.8.2-1], and where the filter is missing [MQTT-4.8.2-2]."""
    if not text.startswith("$share/"):
        return None, text
    name, slash, topic_filter = text[7:].partition("/")
    if not name or not slash or not topic_filter or any(character in name for character in _WILDCARDS):
        raise MQTTError(Reason.TOPIC_FILTER_INVALID, "a shared subscription is not $share/NAME/FILTER")
    return name, topic_filter
