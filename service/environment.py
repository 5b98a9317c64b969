"""Variables of the environment, and the error for those that are missing or malformed."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError


class SettingsError(Exception):
    """A setting is missing or malformed; the message names its variable and what is expected."""


def variable(environment: Mapping[str, str], name: str) -> str | None:
    """The value of `name`, or what the file holds that `<name>_FILE` names. Raises SettingsError."""
    if (file := environment.get(f"{name}_FILE")) is None:
        return environment.get(name)
    if name in environment:
        raise SettingsError(f"{name} and {name}_FILE are both set. Set one of them.")
    return secret_file(f"{name}_FILE", file)


def secret_file(setting: str, file: str) -> str:
    """What the file holds that `setting` names. Raises SettingsError."""
    try:
        return Path(file).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{setting} names {file}, which cannot be read: {error}.") from error


def explained(error: ValidationError, prefix: str = "", *, upper: bool = True) -> SettingsError:
    """The error of a model, a line for each bad setting, by its name after `prefix`."""
    lines = []
    for problem in error.errors(include_input=False, include_url=False):
        name = str(problem["loc"][0]) if problem["loc"] else "settings"
        lines.append(f"{prefix}{name.upper() if upper else name}: {problem['msg'].removeprefix('Value error, ')}")
    return SettingsError("\n".join(lines))
