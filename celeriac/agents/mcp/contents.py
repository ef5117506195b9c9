"""What a tool answered, as text."""

from mcp_types import (
    AudioContent,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)

from celeriac.agents.mcp.results import clean, readable
from celeriac.kit.jsontypes import dumps


def text_of(result: CallToolResult, *, note: str = "") -> str:
    """Return a tool's answer as text; what is no text is named and measured, not shown.

    `note` says what is wrong with its form; the tool has worked all the same.
    """
    parts = [_block(block) for block in result.content]
    if not parts and result.structured_content is not None:
        parts.append(dumps(clean(result.structured_content)))
    if note:
        said = "This is what the tool answered" if parts else "The tool answered with nothing"
        parts.append(f"[{said}; {note}.]")
    elif not parts:
        parts.append("[The tool answered with nothing.]")
    return readable("\n".join(parts))


def _block(block: ContentBlock) -> str:
    match block:
        case TextContent():
            return block.text
        case ImageContent() | AudioContent():
            return f"[{block.type} {block.mime_type}, {len(block.data)} characters of base64]"
        case EmbeddedResource(resource=TextResourceContents() as resource):
            return resource.text
        case EmbeddedResource(resource=resource):
            return f"[resource {resource.uri}]"
        case ResourceLink():
            return f"[resource {block.name}: {block.uri}]"
