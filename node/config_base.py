"""The base of everything that an experiment file declares. Declarations only: nothing but pydantic enters."""

from pydantic import BaseModel, ConfigDict


class ConfigModel(BaseModel):
    """Never changes once read; a misspelt key is an error, and so is a number that is not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
