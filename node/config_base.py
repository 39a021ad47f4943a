"""The base of everything that a file declares. Declarations only: nothing but pydantic enters."""

import reprlib

from pydantic import BaseModel, ConfigDict, ValidationError

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


class ConfigModel(BaseModel):
    """Never changes once read; a misspelt key is an error, and so is a number that is not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def first_problem(error: ValidationError) -> str:
    """Return the first of pydantic's complaints about a file that a program wrote, as ``key=value: bound``, one line.

    The experiment file, which people write, has more helpful texts of its own.
    """
    problems = error.errors(include_url=False)
    first = problems[0]
    key = ".".join(str(part) for part in first["loc"]) or "content"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    match first["type"]:
        case "missing":
            return f"{key}: missing{more}"
        case "extra_forbidden":
            return f"{key}: unknown key{more}"
        case "value_error":
            bound = " ".join(str(first.get("ctx", {}).get("error", first["msg"])).split())
            if "=" in bound.split(":")[0]:  # it names a key of its own
                return f"{key}.{bound}{more}"
        case "model_type" | "dict_type":
            bound = "must hold keys and values"
        case _:
            bound = (
                first["msg"]
                .replace("Input should", "must")
                .replace("String should", "must")
                .replace("Tuple should", "must")
            )
    return f"{key}={one_line_of(first['input'])}: {bound}{more}"


def one_line_of(value: object) -> str:
    """A value in at most one short line, however large it is."""
    return " ".join(_SHORT.repr(value).split())
