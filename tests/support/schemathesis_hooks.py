"""What Schemathesis cannot know of these services; its command line imports this module (SCHEMATHESIS_HOOKS).

With SCHEMATHESIS_KEYS (JSON, role → API key) every request bears the key of the next role.
"""

import itertools
import json
import os
from typing import Any

import orjson
import schemathesis
from schemathesis import Case, HookContext
from schemathesis.core.failures import Failure
from schemathesis.core.transport import Response
from schemathesis.openapi.checks import RejectedPositiveData

KEYS: list[str] = list(json.loads(os.environ.get("SCHEMATHESIS_KEYS", "{}")).values())
_turns = itertools.cycle(KEYS)


@schemathesis.hook
def filter_failure(context: HookContext, failure: Failure, case: "Case[Any]", response: Response) -> bool:
    """Keep every failure but one: well-formed data that the rules refuse.

    A document says what is well formed. Which codes the policy pack knows, whether a key was used before, which ticket
    another may be merged into: those are the rules', and they answer 422 with a code of their own. `invalid_request`
    is the code of the form, and there well-formed data may never end.
    """
    refused = isinstance(failure, RejectedPositiveData) and response.status_code == 422
    return not refused or orjson.loads(response.content)["code"] == "invalid_request"


if KEYS:

    @schemathesis.hook
    def before_call(context: HookContext, case: "Case[Any]", kwargs: dict[str, Any]) -> None:
        case.headers["Authorization"] = f"Bearer {next(_turns)}"
