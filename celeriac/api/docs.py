"""The interactive documentation, from files of ours: it works without the Internet."""

from importlib import resources

from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

PATH = "/docs"
_FILES = "/docs/files"


def install(app: FastAPI) -> None:
    """Serve `/docs` and what it is made of."""
    router = APIRouter(include_in_schema=False)

    @router.get(PATH)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url=str(app.openapi_url),
            title=app.title,
            swagger_js_url=f"{_FILES}/swagger-ui-bundle.js",
            swagger_css_url=f"{_FILES}/swagger-ui.css",
            swagger_favicon_url=f"{_FILES}/favicon.png",
        )

    app.include_router(router)
    files = resources.files("fastapi_offline") / "static"
    app.mount(_FILES, StaticFiles(directory=str(files)), name="docs-files")
