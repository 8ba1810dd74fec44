"""Trees of topics: the subscriptions that a topic matches, and the retained messages that a filter matches (section 4.7)."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from muxwsgi_iot.mqtt.text import split_shared

if TYPE_CHECKING:
    from muxwsgi_iot.message import Message
    from muxwsgi_iot.session import Subscriber, Subscription

__all__ = ["Group", "RetainedTree", "SubscriptionTree", "matches"]


def matches(topic_filter: str, topic: str) -> bool:
    """Whether `topic` matches a filter that is not shared."""
    if topic.startswith("$") and topic_filter[:1] in ("+", "#"):  # [MQTT-4.7.2-1]
        return False
    levels = topic.split("/")
    wanted = topic_filter.split("/")
    for at, level in enumerate(wanted):
        if level == "#":
            return True
        if at >= len(levels) or level not in ("+", levels[at]):
            return False
    return len(levels) == len(wanted)


class Group:
    """The members of one shared subscription, and whose turn it is."""

    __slots__ = ("members", "turn")

    def __init__(self) -> None:
        self.members: dict["Subscriber", "Subscription"] = {}
        self.turn = 0


class _Node:
    __slots__ = ("children", "groups", "members")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.members: dict["Subscriber", "Subscription"] = {}
        self.groups: dict[str, Group] = {}

    @property
    def is_empty(self) -> bool:
        return not (self.children or self.members or self.groups)


class SubscriptionTree:
    """Subscriptions by their filters, one level of a filter for each level of the tree."""

    def __init__(self) -> None:
        self._root = _Node()

    def add(self, text: str, subscriber: "Subscriber", subscription: "Subscription") -> None:
        """Replaces the subscription of this subscriber to the same filter [MQTT-3.8.4-3]."""
        share, topic_filter = split_shared(text)
        node = self._root
        for level in topic_filter.split("/"):
            child = node.children.get(level)
            if child is None:
                child = node.children[level] = _Node()
            node = child
        if share is None:
            node.members[subscriber] = subscription
        else:
            node.groups.setdefault(share, Group()).members[subscriber] = subscription

    def remove(self, text: str, subscriber: "Subscriber") -> None:
        """Nodes that are empty afterwards are dropped."""
        share, topic_filter = split_shared(text)
        path: list[tuple[_Node, str]] = []
        node = self._root
        for level in topic_filter.split("/"):
            path.append((node, level))
            found = node.children.get(level)
            if found is None:
                return
            node = found
        if share is None:
            node.members.pop(subscriber, None)
        elif share in node.groups:
            node.groups[share].members.pop(subscriber, None)
            if not node.groups[share].members:
                del node.groups[share]
        for parent, level in reversed(path):
            if not parent.children[level].is_empty:
                return
            del parent.children[level]

    def match(self, topic: str) -> Iterator[_Node]:
        """The nodes of the filters that `topic` matches. Each has `members` and `groups`."""
        levels = topic.split("/")
        last = len(levels)
        special = topic.startswith("$")
        stack = [(self._root, 0)]
        while stack:
            node, at = stack.pop()
            children = node.children
            wild = not (special and at == 0)  # [MQTT-4.7.2-1]
            if wild and "#" in children:  # also of the parent level (section 4.7.1.2)
                yield children["#"]
            if at == last:
                yield node
                continue
            if levels[at] in children:
                stack.append((children[levels[at]], at + 1))
            if wild and "+" in children:
                stack.append((children["+"], at + 1))


class _Kept:
    __slots__ = ("children", "message")

    def __init__(self) -> None:
        self.children: dict[str, _Kept] = {}
        self.message: "Message | None" = None


class RetainedTree:
    """Retained messages by their topics. `count` and `size` (bytes of topics and payloads) are of all."""

    def __init__(self) -> None:
        self._root = _Kept()
        self.count = 0
        self.size = 0

    def get(self, topic: str) -> "Message | None":
        node: _Kept | None = self._root
        for level in topic.split("/"):
            if node is None:
                return None
            node = node.children.get(level)
        return None if node is None else node.message

    def put(self, message: "Message") -> None:
        self.remove(message.topic)
        node = self._root
        for level in message.topic.split("/"):
            child = node.children.get(level)
            if child is None:
                child = node.children[level] = _Kept()
            node = child
        node.message = message
        self.count += 1
        self.size += message.size

    def remove(self, topic: str) -> None:
        path: list[tuple[_Kept, str]] = []
        node = self._root
        for level in topic.split("/"):
            path.append((node, level))
            found = node.children.get(level)
            if found is None:
                return
            node = found
        if node.message is None:
            return
        self.count -= 1
        self.size -= node.message.size
        node.message = None
        for parent, level in reversed(path):
            child = parent.children[level]
            if child.children or child.message is not None:
                return
            del parent.children[level]

    def match(self, topic_filter: str) -> list["Message"]:
        """In no particular order."""
        levels = topic_filter.split("/")
        found: list["Message"] = []
        stack = [(self._root, 0)]
        while stack:
            node, at = stack.pop()
            if at == len(levels):
                if node.message is not None:
                    found.append(node.message)
                continue
            level = levels[at]
            if level == "#":
                if node.message is not None:
                    found.append(node.message)
                stack += [(child, at) for name, child in node.children.items() if at or not name.startswith("$")]
            elif level == "+":
                stack += [(child, at + 1) for name, child in node.children.items() if at or not name.startswith("$")]
            elif level in node.children:
                stack.append((node.children[level], at + 1))
        return found
