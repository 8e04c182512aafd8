"""A plugin's backend behind alipay-sidecar, with the standard library alone.

Routes and environment: ../README.md. Orders are kept in memory here; keep yours in a database, and commit
before you answer `success`.
"""

import base64
import hashlib
import hmac
import json
import os
import re
import threading
import time
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import HTTPError
from urllib.parse import parse_qsl, quote, urlencode, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

SIDECAR = os.environ.get("SIDECAR", "http://127.0.0.1:2088")
MERCHANT = os.environ.get("MERCHANT", "shop")
WEBHOOK_SECRET = os.environ.get("WEBHOOK_SECRET", "").strip()

# The sidecar is beside us: no proxy of the environment may come between.
local = build_opener(ProxyHandler({}))
orders, lock = {}, threading.Lock()


class Failed(Exception):
    """A call that brought no verified answer; `outcome` says whether Alipay may have acted on it."""

    def __init__(self, code, outcome):
        super().__init__(f"{code} ({outcome})")
        self.code, self.outcome = code, outcome


class Refused(Exception):
    """Alipay's own, verified no."""

    def __init__(self, node):
        super().__init__(f"{node.get('sub_code')}: {node.get('sub_msg')}")
        self.code = node.get("sub_code") or node.get("code")


class Conflict(Exception):
    """The order is known, with another amount."""


def call(method, biz=None, **params):
    """Calls Alipay for the merchant: unsigned; what comes back is verified."""
    request = Request(
        f"{SIDECAR}/v2/{method}?{urlencode(params)}",
        data=json.dumps(biz).encode() if biz else b"",
        headers={"Alipay-Merchant": MERCHANT, "Content-Type": "application/json"},
    )
    try:
        # Longer than the sidecar's own deadline (15 s): it knows better what became of a call.
        with local.open(request, timeout=20) as reply:
            node, verified = json.load(reply), reply.headers["Alipay-Sidecar-Verified"]
    except HTTPError as error:
        told = error.headers
        raise Failed(told["Alipay-Sidecar-Error"], told["Alipay-Sidecar-Outcome"] or "unknown") from error
    except OSError as error:
        raise Failed("sidecar-unreachable", "unknown") from error
    except (HTTPException, ValueError) as error:
        # A reply that was cut off: it may have been a success.
        raise Failed("reply-lost", "unknown") from error
    # `unsigned-error`: nobody knows who said it.
    if verified != "true":
        raise Failed(verified, "unknown")
    # Alipay leaves `code` out of some successes (alipay.system.oauth.token). 10003 is one, too: under way,
    # and not finished, which a notification or a query tells.
    code, sub_code = node.get("code", "10000"), node.get("sub_code", "")
    if code in ("10000", "10003"):
        return node
    # Alipay stumbled, and may have acted all the same.
    if code == "20000" or sub_code.endswith(".SYSTEM_ERROR") or sub_code.startswith("isp."):
        raise Failed(sub_code or code, "unknown")
    raise Refused(node)


def login(code):
    token = call("alipay.system.oauth.token", grant_type="authorization_code", code=code)
    user = token.get("user_id") or token.get("open_id")
    if not user:
        raise Failed("user-missing", "unknown")
    return user


def fen(amount):
    """An amount in fen, None where it is none: Alipay says `8.80` of what was ordered as `8.8`."""
    parts = re.fullmatch(r"([0-9]{1,9})(?:\.([0-9]{1,2}))?", amount or "")
    return int(parts[1] + (parts[2] or "").ljust(2, "0")) if parts else None


def create(order, amount, user):
    biz = {
        "out_trade_no": order,
        "total_amount": amount,
        "subject": f"order {order}",
        "buyer_id": user,
        "product_code": "JSAPI_PAY",
    }
    # Known before it can be paid: the notification may be quicker than the reply.
    with lock:
        known = orders.setdefault(order, {"order": order, "amount": amount, "trade_no": None, "paid": False})
    if fen(known["amount"]) != fen(amount):
        raise Conflict
    try:
        trade = call("alipay.trade.create", biz, notify_url=f"/orders/{quote(order)}")
    except Failed as failed:
        if failed.outcome != "unknown":
            raise
        trade = query(order)
    # A reply may leave it out, as while a payment is under way; what is known stays. Without any, no
    # notification would ever be taken for this order's own.
    if not (trade.get("trade_no") or known["trade_no"]):
        trade = query(order)
        if not trade.get("trade_no"):
            raise Failed("trade-no-missing", "unknown")
    with lock:
        known["trade_no"] = trade.get("trade_no") or known["trade_no"]
        return dict(known)


def query(order):
    """Asks for a trade whose making has an unknown outcome: bytes had left, so it may be there."""
    try:
        return call("alipay.trade.query", {"out_trade_no": order})
    except (Failed, Refused) as error:
        # Of the query, and not of the making; a trade that isn't there yet may still come to be.
        raise Failed(error.code, "unknown") from error


def is_from_sidecar(headers, body):
    """Whether the sidecar sent this (Standard Webhooks): whoever reaches this port may claim to be it."""
    id, sent, signature = (headers.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature"))
    # More than five minutes off: somebody kept it, and sends it again.
    if not re.fullmatch("[0-9]{1,12}", sent) or abs(time.time() - int(sent)) > 300:
        return False
    key = webhook_key()
    mac = hmac.new(key, f"{id}.{sent}.".encode() + body, hashlib.sha256).digest()
    return bool(key) and hmac.compare_digest(signature.encode(), b"v1," + base64.b64encode(mac))


def webhook_key():
    """What delivery.signing_secret means: base64 behind `whsec_`, else the text itself."""
    if not WEBHOOK_SECRET.startswith("whsec_"):
        return WEBHOOK_SECRET.encode()
    encoded = WEBHOOK_SECRET.removeprefix("whsec_")
    return base64.b64decode(encoded + "=" * (-len(encoded) % 4))


def event(kind, form):
    """Takes what Alipay told; the sidecar verified it. May come twice, so it only ever says “is so”."""
    if kind != "trade_status_sync" or form.get("trade_status") not in ("TRADE_SUCCESS", "TRADE_FINISHED"):
        return True
    with lock:
        order = orders.get(form.get("out_trade_no"))
        if order is None or fen(form.get("total_amount")) != fen(order["amount"]):
            return False
        # Another merchant may have an order of this name. Before the reply told the trade, let it come again.
        if form.get("trade_no", "") != order["trade_no"]:
            return False
        order["paid"] = True
        return True


def order_of(path):
    """The order that a path names, by what needs no escapes; None where it is none."""
    named = re.fullmatch("/orders/([A-Za-z0-9_-]{1,64})", path)
    return named and named[1]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        url = urlsplit(self.path)
        if url.path == "/login":
            self.answer(lambda: {"user": login(dict(parse_qsl(url.query))["code"])})
        elif order := orders.get(order_of(url.path)):
            self.send(200, json.dumps(order))
        else:
            self.send(404, "{}")

    def do_POST(self):
        url, body = urlsplit(self.path), self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.command != "POST":
            self.send(404, "{}")
        elif url.path == "/alipay/events" and not is_from_sidecar(self.headers, body):
            self.send(401, "not signed with WEBHOOK_SECRET", "text/plain")
        elif url.path == "/alipay/events":
            # In the charset that Content-Type names; UTF-8 where calls are made in UTF-8, as here.
            taken = event(self.headers["Alipay-Event-Type"], dict(parse_qsl(body.decode(errors="replace"))))
            self.send(200 if taken else 500, "success" if taken else "fail", "text/plain")
        elif order := order_of(url.path):
            asked = dict(parse_qsl(url.query))
            if fen(asked.get("amount")):
                self.answer(lambda: create(order, asked["amount"], asked["user"]))
            else:
                self.send(400, json.dumps({"error": "amount is missing, or none"}))
        else:
            self.send(404, "{}")

    do_DELETE = do_PATCH = do_PUT = do_POST

    def answer(self, work):
        try:
            self.send(200, json.dumps(work()))
        except KeyError as error:
            self.send(400, json.dumps({"error": f"{error} is missing"}))
        except Conflict:
            self.send(409, json.dumps({"error": "the order has another amount"}))
        except Refused as refused:
            self.send(422, json.dumps({"error": refused.code}))
        except Failed as failed:
            self.send(502, json.dumps({"error": failed.code, "outcome": failed.outcome}))

    def send(self, status, body, kind="application/json"):
        body = body.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "3000"))), Handler).serve_forever()
