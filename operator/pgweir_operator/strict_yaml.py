"""YAML as Kubernetes reads it: no tags, no timestamps, no key twice; errors that quote nothing of it."""

import re
from typing import Any

import yaml

_TIMESTAMP = "tag:yaml.org,2002:timestamp"

# PyYAML quotes single characters and its own `<token>` names, which are harmless, and pieces of the text.
_QUOTED = re.compile(r"""(['"])(?!<|.\1).*\1""", re.DOTALL)


class NotYaml(Exception):
    """A text is not YAML as we take it; the message says where and repeats no value: it may be a password."""


class _Loader(yaml.SafeLoader):
    """The safe loader, but a key given twice is an error and timestamps stay texts, as in Kubernetes."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own attribute
        first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be a text", problem_mark=key.start_mark)
            if key.value in seen and key.value != "<<":
                raise yaml.MarkedYAMLError(problem="a key is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_documents(text: str) -> list[object]:
    """The documents of a text; NotYaml when one of them cannot be read."""
    try:
        return list(yaml.load_all(text, _Loader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise NotYaml(_problem(error)) from None


def _problem(error: Exception) -> str:
    # str(error) quotes the text around the mistake, error.problem tags and aliases: all may be passwords.
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        what = _QUOTED.sub("…", error.problem or "")
        return f"line {mark.line + 1}, column {mark.column + 1}: not valid YAML: {what}"
    return "not valid YAML"
