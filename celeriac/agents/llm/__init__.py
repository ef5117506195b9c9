"""The `llm` runner: language models behind OpenAI-compatible endpoints."""
