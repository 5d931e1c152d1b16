"""The secrets of a test's configuration, and the texts in which none may show: logs, metrics, statuses, errors, argv.

A secret is looked for as it is, as JSON and `repr` write it, and in base64. Short ones are refused, because to find one
would mean nothing; a test gives none that is a word of ours (`password`) either.
"""

import base64
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

SHORTEST: Final = 6
_FIELDS: Final = frozenset({"passwords", "verifiers", "mockKey"})
_VERIFIER: Final = re.compile(r"SCRAM-SHA-256\$\d+:[^$]+\$([^:]+):(.+)")
_PRIVATE_KEY: Final = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----\s*(.*?)\s*-----END", re.DOTALL)


class SecretShownError(AssertionError):
    """A secret of the configuration is where everybody can read it; the text says where, and not what."""


class Secrets:
    """All secrets of the configurations that one process was given."""

    def __init__(self) -> None:
        self._forms: dict[str, str] = {}  # what may not show -> whose it is

    def learn(self, content: Mapping[str, bytes]) -> None:
        """Takes in the secrets of some files; what is no JSON has none that a pooler could have read."""
        for name, data in content.items():
            try:
                value = json.loads(data)
            except ValueError:
                continue
            self._walk(name, value)

    def check(self, texts: Mapping[str, str]) -> None:
        """SecretShownError when one of the texts, by their names, shows a secret."""
        for where, text in texts.items():
            for form, whose in self._forms.items():
                if form in text:
                    raise SecretShownError(f"{where} shows a secret: {whose}")

    def _walk(self, path: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                if key in _FIELDS:
                    self._add(f"{path}.{key}", inner if isinstance(inner, list) else [inner])
                else:
                    self._walk(f"{path}.{key}", inner)
        elif isinstance(value, list):
            for i, inner in enumerate(value):
                self._walk(f"{path}[{i}]", inner)
        elif isinstance(value, str):
            for body in _PRIVATE_KEY.findall(value):
                self._add(path, [line for line in body.split() if len(line) >= 32])

    def _add(self, path: str, secrets: Iterable[Any]) -> None:
        for secret in secrets:
            if not isinstance(secret, str):
                continue  # a configuration that is wrong on purpose
            match = _VERIFIER.fullmatch(secret)
            for part in match.groups() if match else (secret,):
                if len(part) < SHORTEST:
                    raise ValueError(
                        f"{path}: give a secret of {SHORTEST} characters, so that finding it means something"
                    )
                for form in _forms(part):
                    self._forms[form] = path


def _forms(secret: str) -> set[str]:
    raw = secret.encode("utf-8", "surrogatepass")
    in_base64 = base64.b64encode(raw).decode().rstrip("=")[:-1]  # the last character depends on what follows
    return {secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], in_base64}


class Watch:
    """One test's: the secrets of all its poolers, and what error messages told its clients."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """A test begins: what was before it is forgotten."""
        self.secrets = Secrets()
        self.told: list[str] = []

    def check(self) -> None:
        """SecretShownError when an error message showed a secret."""
        self.secrets.check({"an error message": "\n".join(self.told)})


# `Pooler` adds secrets to it, `messages.error_fields` texts.
WATCH: Final = Watch()
