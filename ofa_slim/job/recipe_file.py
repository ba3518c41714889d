"""Reading a recipe's YAML file, strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ofa_slim.errors import RecipeError


def read_yaml(path: Path) -> dict[str, object]:
    """The mapping of a YAML file; raises RecipeError that names the line of what is none."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise RecipeError(f"{path}: cannot read the recipe ({error.strerror})") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RecipeError(f"{path}, line {line}: not valid YAML ({error.problem})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # no text, or values such as 2024-13-45
        raise RecipeError(f"{path}: not a YAML text file ({str(error).splitlines()[0]})") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise RecipeError(f"{path}: a recipe is a list of lines 'key: value'")
    return values


class _Loader(yaml.SafeLoader):
    """Plain values alone: a key that occurs twice and an alias, which can stand for billions of values, are errors."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """The next node; raises ComposerError for an alias."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "a recipe has no aliases (*name)", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """A dictionary; raises ConstructorError for a key that occurs twice."""
        keys = [key.value for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
        for number, key in enumerate(keys):
            if isinstance(key, str) and key in keys[:number]:
                mark = node.value[number][0].start_mark
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} occurs twice", mark)
        return super().construct_mapping(node, deep)
