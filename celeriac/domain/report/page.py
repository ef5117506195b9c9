"""A report as a page: its Markdown as HTML that loads nothing, links nowhere and runs nothing."""

import hashlib
from base64 import b64encode
from html import escape

from markdown_it import MarkdownIt

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem }
pre { background: #f4f4f2; padding: .75rem; overflow-x: auto; white-space: pre-wrap }
table { border-collapse: collapse; font-size: .9em; margin: 1rem 0 }
th, td { border: 1px solid #ddd; padding: .25rem .5rem; text-align: left; vertical-align: top }
td, li { overflow-wrap: anywhere }
"""
_STYLE_HASH = b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

CONTENT_SECURITY_POLICY = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'"
"""What a browser may do with a page: nothing but its own style. The page says it itself, too: as a
file it has no headers."""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="referrer" content="no-referrer">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}</body>
</html>
"""


def html(markdown: str, *, title: str) -> str:
    """Return the page of a report that was written by `celeriac.domain.report.markdown`.

    Reports have no links, images or HTML of their own, so none is made of anything in them.
    """
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    reader.disable(["link", "image", "autolink", "html_inline", "html_block", "reference"])
    return _PAGE.format(
        policy=escape(CONTENT_SECURITY_POLICY, quote=True).replace("&#x27;", "'"),
        title=escape(title),
        style=_STYLE,
        body=reader.render(markdown),
    )
