"""The signature of the sidecar's deliveries, checked by the PyPI package of Standard Webhooks,
unmodified, as a backend would."""
import json
import os
import queue
import secrets
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

from standardwebhooks import Webhook, WebhookVerificationError

ENV = os.environ
FORMAT = ENV["ALIPAY_SIDECAR_DELIVERY__FORMAT"]


class Backend(BaseHTTPRequestHandler):
    """Keeps what is delivered, and takes it."""

    received = queue.Queue()

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.received.put((dict(self.headers.items()), body))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"success")

    def log_message(self, *_):
        pass


def delivered(event, mark):
    """Lets the simulator send `event`, and gives what the backend got: the delivery that has `mark`.
    What comes besides, such as the events of imported merchants, must verify, too."""
    asked = urllib.request.Request(
        f"{ENV['SIMULATOR']}/simulator/trigger/{event}", data=b"{}", method="POST"
    )
    urllib.request.urlopen(asked).close()
    while True:
        headers, body = Backend.received.get(timeout=20)
        verified(headers, body)
        if mark in body:
            return {name.lower(): value for name, value in headers.items()}, body


def verified(headers, body, secret=None):
    Webhook(secret or ENV["WEBHOOK_SECRET"]).verify(body, headers, json_parse=False)


def refused(*given):
    try:
        verified(*given)
    except WebhookVerificationError:
        return
    raise AssertionError("it passed")


def payment():
    headers, body = delivered("payment", b"trade_status_sync")
    if FORMAT == "json":
        assert json.loads(body)["id"] == headers["webhook-id"], body
    else:
        assert b"notify_id=" in body and not body.startswith(b"{"), body


def authorisation():
    headers, body = delivered("plugin-order", b'"source":"push"')
    assert json.loads(body)["id"] == headers["webhook-id"], body


def another_body_or_secret():
    headers, body = delivered("payment", b"trade_status_sync")
    refused(headers, body + b" ")
    refused(headers, body, "whsec_" + secrets.token_hex(32))
    refused({**headers, "webhook-id": "another"}, body)
    refused({**headers, "webhook-timestamp": "1700000000"}, body)


def main():
    host, _, port = ENV["NOTIFY_LISTEN"].rpartition(":")
    server = HTTPServer((host, int(port)), Backend)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    failed = 0
    cases = [payment, authorisation, another_body_or_secret]
    for case in cases:
        try:
            case()
            print(f"ok      standardwebhooks, {FORMAT}: {case.__name__}")
        except Exception as error:
            failed += 1
            text = f"{type(error).__name__} {str(error)[:600]}"
            print(f"FAILED  standardwebhooks, {FORMAT}: {case.__name__}: {text}")
    print(f"standardwebhooks, {FORMAT}: passed={len(cases) - failed} failed={failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
