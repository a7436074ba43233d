"""YAML text -> plain data, and where each piece of it stands.

Reads YAML 1.1 as PyYAML's safe loader does, with two differences. Nothing is guessed behind the writer's
back: a base-60 or octal number, a key that is not text or a key given twice is a problem at its place. And
the text is not trusted: depth, size and what aliases unfold to are bounded before anything recurses.

Knows nothing of what the file means. No message carries a value: it may be a secret.
"""

import math
import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

from gateway.config.problems import Path, Problem, dotted, quoted, tidy

MOST_CHARACTERS = 2**21
MOST_DEPTH = 50
MOST_NODES = 50_000

_TAG = "tag:yaml.org,2002:"
_TEXT = (_TAG + "str", _TAG + "timestamp", _TAG + "value")
_NOT_YAML = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NUMBER_TRAP = re.compile(r"[-+]?\d[\d_]*:|[-+]?0[0-9_]+$|[-+]?0[bx]")
_KINDS = {"bool": "true or false", "int": "a number", "float": "a number", "null": "nothing"}
_BOOLEANS = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}
_TOO_LARGE = 2**63
_BAD_TAG = "has a YAML tag (`!…`) that means nothing here; leave the tag out"
_NOTHING: Any = None
ABSENT: Any = object()


class Place(NamedTuple):
    """Line and column, both from 1."""

    line: int
    column: int


class NotYaml(Exception):
    """The text has no reading at all."""

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.place = place


@dataclass(slots=True)
class Tree:
    """What the text says.

    data:      dicts with text keys, lists, str, int, float, bool, None
    keys:      place of the key (of the item, in a list) by path
    values:    place of the value by path
    raw:       scalars as written, by path
    plain:     paths of the scalars written without quotes
    spoiled:   paths whose problem has been told; their None in `data` means nothing
    """

    file: str
    data: Any = None
    keys: dict[Path, Place] = field(default_factory=dict)
    values: dict[Path, Place] = field(default_factory=dict)
    raw: dict[Path, str] = field(default_factory=dict)
    plain: set[Path] = field(default_factory=set)
    spoiled: set[Path] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)

    def at_key(self, path: Path) -> Place:
        """Where the key at `path` stands, or the nearest thing around it that exists."""
        while path and path not in self.keys:
            path = path[:-1]
        return self.keys.get(path, Place(1, 1))

    def at_value(self, path: Path) -> Place:
        """Where the value at `path` stands, or the nearest thing around it that exists."""
        return self.values[path] if path in self.values else self.at_key(path)

    def problem(self, place: Place, path: Path, message: str) -> None:
        """Note a problem."""
        self.problems.append(Problem(self.file, place.line, place.column, dotted(path), tidy(message)))

    def is_spoiled(self, path: Path) -> bool:
        """True when this piece, or one around it, has had its problem told."""
        return any(path[:length] in self.spoiled for length in range(len(path) + 1))

    def get(self, path: Path) -> Any:
        """The data at `path`, None where there is none."""
        found = self.data
        for part in path:
            found = step(found, part)
        return None if found is ABSENT else found


def step(data: object, part: str | int) -> Any:
    """What stands under one key or list position of `data`, or ABSENT."""
    if isinstance(data, dict):
        return data.get(part, ABSENT)
    if isinstance(data, list) and isinstance(part, int) and part < len(data):
        return data[part]
    return ABSENT


def read_tree(text: str, file: str) -> Tree:
    """The data of `text`. Raises NotYaml where it has no reading; smaller problems are in the Tree."""
    if len(text) > MOST_CHARACTERS:
        raise NotYaml(Place(1, 1), f"is longer than {MOST_CHARACTERS:,} characters; that is no configuration")
    if bad := _NOT_YAML.search(text):
        place = place_in(text, bad.start())
        raise NotYaml(place, f"character U+{ord(bad[0]):04X} cannot stand in YAML; is this a text file?")
    try:
        _bound_depth(text)
        root = yaml.compose(text, Loader=yaml.CSafeLoader)
    except yaml.MarkedYAMLError as error:
        raise _not_yaml(error, text) from None
    except yaml.YAMLError:
        raise NotYaml(Place(1, 1), "is not YAML") from None
    tree = Tree(file)
    if root is None:
        raise NotYaml(Place(1, 1), "is empty; a configuration begins with `version: 1`")
    tree.keys[()] = Place(1, 1)
    _Builder(tree).build(root)
    return tree


def place_in(text: str, offset: int) -> Place:
    """The place of the character at `offset`."""
    return Place(text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset))


def _bound_depth(text: str) -> None:
    """The composer recurses once per level, in C: 100,000 brackets would end the process."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MOST_DEPTH:
                raise NotYaml(_place(event.start_mark), f"is nested deeper than {MOST_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _not_yaml(error: yaml.MarkedYAMLError, text: str) -> NotYaml:
    """The parser's complaint, without the names it quotes: `*abc` may be a secret without its quotes."""
    mark = error.problem_mark or error.context_mark
    what = error.problem or error.context or "cannot be read"
    if "alias" in what:
        what = "an alias (`*name`) without its anchor (`&name`); put text that begins with * in quotes"
    elif "tag" in what:
        what = "an unknown tag (`!name`); put text that begins with ! in quotes"
    elif "anchor" in what:
        what = "the same anchor (`&name`) twice; put text that begins with & in quotes"
    elif "another document" in what:
        what = "a second YAML document begins here; a configuration is one document"
    elif mark is not None and text[mark.index : mark.index + 1] == "\t":
        what = "a tab; YAML indents with spaces"
    elif error.context and error.context_mark is not None:
        what = f"{what} ({error.context} that begins in line {error.context_mark.line + 1})"
    return NotYaml(_place(mark), f"is not YAML: {what}")


def _place(mark: Any) -> Place:
    return Place(mark.line + 1, mark.column + 1) if mark is not None else Place(1, 1)


class _Builder:
    """Nodes to data, once, with the guard against aliases that unfold without end."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._open: set[int] = set()
        self._nodes = 0

    def build(self, root: yaml.Node) -> None:
        self._tree.data = self._value(root, ())

    def _value(self, node: yaml.Node, path: Path) -> Any:
        tree = self._tree
        place = tree.values[path] = _place(node.start_mark)
        self._count(place)
        if id(node) in self._open:
            return self._spoil(path, "is an alias of something that contains it")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
                return self._sequence(node, path)
        finally:
            self._open.discard(id(node))
        return self._spoil(path, _BAD_TAG)

    def _count(self, place: Place) -> None:
        self._nodes += 1
        if self._nodes > MOST_NODES:
            raise NotYaml(place, f"holds more than {MOST_NODES:,} values once its aliases are unfolded")

    def _spoil(self, path: Path, message: str) -> Any:
        """Tell the problem; the None that stands in for the value is not looked at again."""
        self._tree.spoiled.add(path)
        self._tree.problem(self._tree.values[path], path, message)
        return _NOTHING

    def _sequence(self, node: yaml.SequenceNode, path: Path) -> list[Any]:
        items = []
        for index, item in enumerate(node.value):
            self._tree.keys[*path, index] = _place(item.start_mark)
            items.append(self._value(item, (*path, index)))
        return items

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        """Own keys first: what `<<` brings in never replaces them."""
        data: dict[str, Any] = {}
        brought: list[tuple[yaml.Node, yaml.Node]] = []
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                brought += self._merged(value_node, _place(key_node.start_mark), path)
            elif (key := self._key(key_node, path)) is not None:
                self._entry(data, key, key_node, value_node, path)
        for key_node, value_node in brought:
            if (key := self._key(key_node, path)) is not None and key not in data:
                self._entry(data, key, key_node, value_node, path)
        return data

    def _entry(self, data: dict[str, Any], key: str, at: yaml.Node, value: yaml.Node, path: Path) -> None:
        place, here = _place(at.start_mark), (*path, key)
        if key in data:
            first = self._tree.keys[here].line
            self._tree.problem(place, here, f"is given twice; the first is in line {first}; keep one")
            return
        self._tree.keys[here] = place
        data[key] = None
        data[key] = self._value(value, here)

    def _merged(self, node: yaml.Node, place: Place, path: Path) -> list[tuple[yaml.Node, yaml.Node]]:
        """The entries of `<<: *defaults`, or of a list of such; the first to bring a key wins."""
        pairs: list[tuple[yaml.Node, yaml.Node]] = []
        for source in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            self._count(place)
            if not isinstance(source, yaml.MappingNode) or id(source) in self._open:
                self._tree.problem(place, path, "has `<<` with something that is not another mapping")
                continue
            self._open.add(id(source))
            for key_node, value_node in source.value:
                if key_node.tag == _TAG + "merge":
                    pairs += self._merged(value_node, _place(key_node.start_mark), path)
                else:
                    pairs.append((key_node, value_node))
            self._open.discard(id(source))
        return pairs

    def _key(self, node: yaml.Node, path: Path) -> str | None:
        place = _place(node.start_mark)
        if not isinstance(node, yaml.ScalarNode):
            self._tree.problem(place, path, "has a mapping or a list as a key; a key is text")
        elif node.tag in _TEXT:
            return str(node.value)
        elif (kind := node.tag.removeprefix(_TAG)) in _KINDS:
            name = quoted(node.value)
            read = _KINDS[kind]
            self._tree.problem(place, path, f"has a key {name} that YAML reads as {read}; put it in quotes")
        else:
            self._tree.problem(place, path, "has a key with a YAML tag (`!…`) that means nothing here")
        return None

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        text, kind = node.value, node.tag.removeprefix(_TAG)
        self._tree.raw[path] = text
        if not node.style:
            self._tree.plain.add(path)
        if node.tag in _TEXT:
            return str(text)
        if kind == "null":
            return None
        if kind == "bool" and text.lower() in _BOOLEANS:
            return _BOOLEANS[text.lower()]
        if kind in ("int", "float"):
            if _NUMBER_TRAP.match(text):
                read = "in base 60" if ":" in text else "in another base than 10"
                return self._spoil(
                    path, f"is a number that YAML reads {read}; put it in quotes or write it plainly"
                )
            try:
                number = (int if kind == "int" else float)(text.replace("_", ""))
            except ValueError:
                number = math.nan
            if abs(number) < _TOO_LARGE:  # false for infinities and nan
                return number
            return self._spoil(path, "is a number too large to be meant, or not finite")
        return self._spoil(path, _BAD_TAG)
