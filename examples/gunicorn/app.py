"""A WSGI application. Nothing in it knows of baton."""

import os
import time


def app(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        time.sleep(0.3)
    body = b"hello from gunicorn\n"
    start_response("200 OK", [
        ("Content-Type", "text/plain"),
        ("Content-Length", str(len(body))),
        ("X-Generation", os.environ.get("BATON_GENERATION", "")),
    ])
    return [body]
