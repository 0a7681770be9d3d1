"""HTTP: OpenAI's routes for models of one's own, classification, and the web page; the engine works in a process of its own."""
