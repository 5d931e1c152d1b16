"""Limits against those who try passwords, or connect and say nothing. All of them count by address."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from pgweir_contract.durations import PositiveDuration
from pgweir_contract.json_form import ContractModel

NaturalNumber = Annotated[int, Field(ge=0, le=1_000_000)]


class FailedLogins(ContractModel):
    """When an address is refused at a tenant for its failed logins there, and for how long."""

    max: NaturalNumber = 10  # failures within the window; 0: nobody is ever refused for them
    window: PositiveDuration = 150.0
    block: PositiveDuration = 60.0  # the first time; twice as long each further time
    max_block: PositiveDuration = 3600.0

    @model_validator(mode="after")
    def _first_block_fits(self) -> Self:
        if self.block > self.max_block:
            raise ValueError("block must not be longer than maxBlock")
        return self


class LoginRate(ContractModel):
    """How fast connections may come from one address: a token bucket."""

    per_second: Annotated[int, Field(ge=1, le=1_000_000)]
    burst: Annotated[int, Field(ge=1, le=1_000_000)]  # at once, after a time of rest
