"""Who of a tenant's clients is let in: networks that they may come from, and whether they may come at all."""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from pgweir_contract.json_form import ContractModel
from pgweir_contract.timestamps import Timestamp


def _line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be one line without control characters")
    return text


class Access(ContractModel):
    """Whether clients of the tenant are let in; a rejection may say why, and end by itself."""

    mode: Literal["Open", "Reject"] = "Open"
    reason: Annotated[str, Field(max_length=256), AfterValidator(_line)] = ""  # clients with the right password read it
    until: Timestamp | None = None  # None: until somebody says Open

    @model_validator(mode="after")
    def _says_nothing_in_vain(self) -> Self:
        if self.mode == "Open" and (self.reason or self.until is not None):
            raise ValueError("reason and until are for the mode Reject")
        return self

    def rejects(self, now: datetime) -> bool:
        """Whether clients are sent away at this moment (with its zone)."""
        return self.mode == "Reject" and (self.until is None or now < self.until)
