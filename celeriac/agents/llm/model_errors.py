"""From what a run of the model library raises to our errors."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
from pydantic_ai import exceptions as ai

from celeriac.agents.gateway.calls import ModelCalls
from celeriac.agents.gateway.completions import AnswerError
from celeriac.agents.gateway.errors import (
    SHOWN,
    CallFailure,
    FailureSource,
    content_filtered,
    error_of,
)
from celeriac.agents.models import ModelRef
from celeriac.domain.errors import ModelCallLimitError, OutputInvalidError
from celeriac.kit.text import clip


@contextmanager
def translated(choice: ModelRef, calls: ModelCalls, *, max_model_calls: int) -> Iterator[None]:
    """Raise what the library raises inside the block as one of our `ExecutionError`s.

    The gateway knows why a call failed: the library's own error says less.
    """
    try:
        yield
    except (ai.ModelAPIError, AnswerError, httpx2.HTTPError) as error:
        failure = calls.failure or CallFailure(None, str(error))
        # Not chained: a traceback would show the body as it is, and some servers repeat the key.
        raise error_of(failure, FailureSource(choice)) from None
    except ai.UsageLimitExceeded as error:
        raise ModelCallLimitError(
            f"The agent would need more calls of {choice} than max_model_calls={max_model_calls}. "
            "Raise the limit, or make the task's prompt and output schema simpler.",
            max_model_calls=max_model_calls,
        ) from error
    except ai.ContentFilterError as error:
        raise content_filtered(choice) from error
    except ai.UnexpectedModelBehavior as error:
        raise OutputInvalidError(
            f"{choice} gave no usable answer: {clip(error.message, SHOWN)}"
        ) from error
