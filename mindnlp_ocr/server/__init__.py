"""HTTP: OpenAI's API, documents, metrics and a web page; feeds the scheduler and nothing else. Needs the extra ``serve``."""
