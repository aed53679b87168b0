"""Conversion of chat requests for the engine: sampling parameters, messages, and unsupported or ignored fields."""

import math
from collections.abc import Iterator
from typing import Any

from mindnlp_ocr.sampling.params import SMALLEST_TEMPERATURE, SamplingParams
from mindnlp_ocr.server.errors import ApiError
from mindnlp_ocr.server.protocol import ChatRequest, ImageUrl, Message, Part

# Unsupported fields that would change the answer, with the values that are accepted because they have no effect.
REFUSED: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "audio": (),
    "modalities": (["text"],),
    "prediction": (),
    "web_search_options": (),
    "logit_bias": ({},),
    "best_of": (1,),
    "use_beam_search": (False,),
    "length_penalty": (1,),
    "early_stopping": (False,),
    "echo": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "chat_template": (),
    "documents": ([],),
    "mm_processor_kwargs": ({},),
    "truncate_prompt_tokens": (),
    "allowed_token_ids": ([],),
    "prompt_logprobs": (0,),
    "guided_choice": ([],),
    "guided_grammar": ("",),
    "return_tokens_as_token_ids": (False,),
    "logits_processors": ([],),
}
# Fields that have no effect here and are not reported as ignored.
SILENT = {
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls",
    "spaces_between_special_tokens",
}  # fmt: skip


def ignored(asked: ChatRequest) -> list[str]:
    """Return the names of ignored fields, to be reported to the client.

    Raises:
        ApiError: a field is not supported and would change the answer.
    """
    names = []
    for name, value in (asked.model_extra or {}).items():
        if value is None or name in SILENT:
            continue
        if name in REFUSED:
            if value not in REFUSED[name]:
                raise ApiError(f"{name} is not supported by this server: leave it out", param=name, code="unsupported_field")
            continue
        if name == "chat_template_kwargs" and isinstance(value, dict) and value.get("add_vision_id"):
            raise ApiError(
                "chat_template_kwargs requests add_vision_id, which is not supported by this server: leave it out",
                param=name,
                code="unsupported_field",
            )
        names.append(name)
    names += [f"vllm_xargs.{name}" for name in asked.vllm_xargs or {} if name != "no_repeat_ngram_size"]
    if asked.stream_options and (more := asked.stream_options.model_extra):
        names += [f"stream_options.{name}" for name, value in more.items() if value]
    if asked.structured_outputs and (more := asked.structured_outputs.model_extra):
        given = [name for name, value in more.items() if value is not None]
        if given:
            raise ApiError(
                f"structured_outputs.{given[0]} is not supported by this server: use json or regex",
                param="structured_outputs",
                code="unsupported_field",
            )
    addresses = [part.image_url for part in _parts(asked)]
    if any(isinstance(address, ImageUrl) and address.detail not in (None, "auto") for address in addresses):
        names.append("image_url.detail")
    return names


def _parts(asked: ChatRequest) -> Iterator[Part]:
    for message in asked.messages:
        if isinstance(message.content, list):
            yield from message.content


def sampling(asked: ChatRequest, most: int) -> SamplingParams:
    """Return the sampling parameters of the first choice.

    Args:
        most: maximum number of tokens of an answer, also used if the request sets no limit.

    Raises:
        PageError: a value is out of range.
    """
    given: dict[str, Any] = {
        name: getattr(asked, name)
        for name in (
            "temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty", "frequency_penalty", "repetition_penalty",
            "stop", "stop_token_ids", "include_stop_str_in_output", "ignore_eos", "skip_special_tokens", "bad_words",
            "repetition_guard", "logprobs", "top_logprobs",
        )
    }  # fmt: skip
    limit = asked.max_completion_tokens if asked.max_completion_tokens is not None else asked.max_tokens
    given["max_new_tokens"] = most if limit is None else min(limit, most)
    given["min_new_tokens"] = asked.min_tokens
    given["no_repeat_ngram_size"] = asked.no_repeat_ngram_size
    if asked.vllm_xargs and given["no_repeat_ngram_size"] is None:
        given["no_repeat_ngram_size"] = asked.vllm_xargs.get("no_repeat_ngram_size")
    temperature = asked.temperature
    if temperature is not None and 0 < temperature < SMALLEST_TEMPERATURE:  # as in vLLM
        given["temperature"] = 0.0
    schema, expression = _grammar(asked)
    given |= {"json_schema": schema, "regex": expression}
    return SamplingParams(**{name: value for name, value in given.items() if value is not None})


def _grammar(asked: ChatRequest) -> tuple[Any, str | None]:
    schemas: list[Any] = []
    form = asked.response_format
    if form is not None and form.type == "json_schema":
        if form.json_schema is None or form.json_schema.schema_ is None:
            raise ApiError(
                "response_format.json_schema contains no schema: use "
                "{'type': 'json_schema', 'json_schema': {'schema': ...}}",
                param="response_format",
                code="json_schema_missing",
            )
        schemas.append(form.json_schema.schema_)
    elif form is not None and form.type == "json_object":
        schemas.append({"type": "object"})
    outputs = asked.structured_outputs
    schemas += [schema for schema in (asked.guided_json, outputs.json_ if outputs else None) if schema is not None]
    expressions = [text for text in (asked.guided_regex, outputs.regex if outputs else None) if text is not None]
    if len(schemas) + len(expressions) > 1:
        raise ApiError(
            "several fields restrict the text (response_format, guided_json, guided_regex, structured_outputs): use only "
            "one",
            param="response_format",
            code="grammar_conflict",
        )
    return schemas[0] if schemas else None, expressions[0] if expressions else None


def sources(asked: ChatRequest) -> list[str]:
    """Return the URLs of all images in order."""
    return [_address(part) for part in _parts(asked) if part.image_url is not None]


def messages(asked: ChatRequest, images: list[bytes]) -> list[dict[str, Any]]:
    """Return the messages in the engine's format. Images are bytes, never names, so that no file is opened.

    Raises:
        ApiError: a role or a part is not supported.
    """
    left = iter(images)
    return [{"role": _role(message), "content": _content(message, left)} for message in asked.messages]


def _role(message: Message) -> str:
    if message.role in ("tool", "function"):
        raise ApiError(
            f"a message has the role {message.role!r}, which is not supported by this server: use system, user or assistant",
            param="messages",
            code="unsupported_field",
        )
    if extra := message.model_extra:
        for name in ("tool_calls", "function_call", "audio"):
            if extra.get(name):
                raise ApiError(
                    f"a message contains {name}, which is not supported by this server: leave it out",
                    param="messages",
                    code="unsupported_field",
                )
    return "system" if message.role == "developer" else message.role


def _content(message: Message, images: Iterator[bytes]) -> str | list[dict[str, Any]]:
    if message.content is None:
        if message.role != "assistant":
            raise ApiError(
                f"a message of the role {message.role!r} has no content: pass a text or parts",
                param="messages",
                code="message_empty",
            )
        return ""
    if isinstance(message.content, str):
        return message.content
    parts: list[dict[str, Any]] = []
    for part in message.content:
        if part.image_url is not None:
            parts.append({"type": "image", "image": next(images)})
        elif part.text is not None and part.type in (None, "text", "input_text", "output_text"):
            parts.append({"type": "text", "text": part.text})
        else:
            raise ApiError(
                f"a part of a message has the type {part.type!r:.40}, which is not supported by this server or lacks its "
                "content: pass text, or image_url with a data URL",
                param="messages",
                code="unsupported_field",
            )
    return parts


def check_parts(asked: ChatRequest) -> None:
    """Check the messages before any image is decoded.

    Raises:
        ApiError: a role or a part is not supported.
    """
    messages(asked, [b""] * len(sources(asked)))


def _address(part: Part) -> str:
    return part.image_url if isinstance(part.image_url, str) else part.image_url.url  # type: ignore[union-attr]


def finite(value: float) -> float:
    """Return a log-probability that JSON can represent: at least -9999, as in vLLM."""
    return max(value, -9999.0) if math.isfinite(value) else -9999.0
