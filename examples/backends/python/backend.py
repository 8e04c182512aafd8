"""A plugin's backend behind alipay-sidecar, with the standard library alone.

Routes and environment: ../README.md. Orders are kept in memory here; keep yours in a database, and commit
before you answer `success`.
"""

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import HTTPError
from urllib.parse import parse_qsl, quote, urlencode, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

SIDECAR = os.environ.get("SIDECAR", "http://127.0.0.1:2088")
MERCHANT = os.environ.get("MERCHANT", "shop")

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
            node = json.load(reply)
    except HTTPError as error:
        raise Failed(error.headers["Alipay-Sidecar-Error"], error.headers["Alipay-Sidecar-Outcome"]) from error
    except OSError as error:
        raise Failed("sidecar-unreachable", "unknown") from error
    # Alipay leaves `code` out of some successes (alipay.system.oauth.token).
    if node.get("code", "10000") != "10000":
        raise Refused(node)
    return node


def login(code):
    token = call("alipay.system.oauth.token", grant_type="authorization_code", code=code)
    return token.get("user_id") or token["open_id"]


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
        orders.setdefault(order, {"order": order, "amount": amount, "trade_no": None, "paid": False})
    try:
        trade = call("alipay.trade.create", biz, notify_url=f"/orders/{quote(order)}")
    except Failed as failed:
        if failed.outcome != "unknown":
            raise
        # Bytes had left, so the trade may be there: ask, and never assume.
        trade = call("alipay.trade.query", {"out_trade_no": order})
    with lock:
        orders[order]["trade_no"] = trade["trade_no"]
        return dict(orders[order])


def event(kind, form):
    """Takes what Alipay told; the sidecar verified it. May come twice, so it only ever says “is so”."""
    if kind != "trade_status_sync" or form.get("trade_status") not in ("TRADE_SUCCESS", "TRADE_FINISHED"):
        return True
    with lock:
        order = orders.get(form.get("out_trade_no"))
        if order is None or form.get("total_amount") != order["amount"]:
            return False
        order["paid"], order["trade_no"] = True, form["trade_no"]
        return True


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        url = urlsplit(self.path)
        if url.path == "/login":
            self.answer(lambda: {"user": login(dict(parse_qsl(url.query))["code"])})
        elif url.path.startswith("/orders/") and (order := orders.get(url.path.removeprefix("/orders/"))):
            self.send(200, json.dumps(order))
        else:
            self.send(404, "{}")

    def do_POST(self):
        url, body = urlsplit(self.path), self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if url.path == "/alipay/events":
            # In the charset that Content-Type names; UTF-8 where calls are made in UTF-8, as here.
            taken = event(self.headers["Alipay-Event-Type"], dict(parse_qsl(body.decode())))
            self.send(200 if taken else 500, "success" if taken else "fail", "text/plain")
        elif url.path.startswith("/orders/"):
            asked = dict(parse_qsl(url.query))
            order = url.path.removeprefix("/orders/")
            self.answer(lambda: create(order, asked["amount"], asked["user"]))
        else:
            self.send(404, "{}")

    def answer(self, work):
        try:
            self.send(200, json.dumps(work()))
        except KeyError as error:
            self.send(400, json.dumps({"error": f"{error} is missing"}))
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
