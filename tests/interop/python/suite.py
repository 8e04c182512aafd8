"""The official Python SDK, unmodified, against the gateway that the environment names."""
import base64
import json
import os
import queue
import sys
import threading
import time
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import import_module

from Crypto.PublicKey import RSA
from alipay.aop.api.AlipayClientConfig import AlipayClientConfig
from alipay.aop.api.DefaultAlipayClient import DefaultAlipayClient
from alipay.aop.api.FileItem import FileItem
from alipay.aop.api.util.SignatureUtils import get_sign_content, verify_with_rsa

ENV = os.environ
MODE = ENV["MODE"]
ORDERS = f"python-{MODE}-{time.time_ns()}-"


def read(name):
    with open(ENV[name], encoding="utf-8") as file:
        return file.read()


def bare(key, **form):
    """One line of base64, as the SDK wants its keys."""
    return base64.b64encode(RSA.import_key(key).export_key(format="DER", **form)).decode()


CONFIG = AlipayClientConfig()
CONFIG.server_url = ENV["ALIPAY_GATEWAY"]
CONFIG.app_id = ENV["APP_ID"]
CONFIG.app_private_key = bare(read("APP_PRIVATE_KEY"), pkcs=1)
CONFIG.alipay_public_key = bare(read("ALIPAY_PUBLIC_KEY"))
CONFIG.timeout = 15
CLIENT = DefaultAlipayClient(CONFIG)


def request(name):
    """Makes the SDK's request object of an API, tagged with the merchant."""
    made = getattr(import_module(f"alipay.aop.api.request.{name}"), name)()
    made.add_other_text_param("app_auth_token", ENV["MERCHANT_TOKEN"])
    return made


def call(name, biz_content=None, **fields):
    made = request(name)
    if biz_content is not None:
        made.biz_content = biz_content
    for field, value in fields.items():
        setattr(made, field, value)
    reply = json.loads(CLIENT.execute(made))
    # A signed error of the sidecar's own is no reply.
    if str(reply.get("sub_code", "")).startswith("sidecar."):
        raise RuntimeError(reply["sub_code"])
    return reply


def control(verb, path, body=None):
    data = json.dumps(body).encode() if body is not None else None
    url = f"{ENV['SIMULATOR']}/simulator/{path}"
    asked = urllib.request.Request(url, data=data, method=verb)
    with urllib.request.urlopen(asked) as answer:
        return json.load(answer)


class Backend(BaseHTTPRequestHandler):
    """Takes notifications as a merchant's backend would."""

    received = queue.Queue()

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        Backend.received.put(dict(urllib.parse.parse_qsl(body, strict_parsing=True)))
        self.send_response(200)
        self.send_header("Content-Length", "7")
        self.end_headers()
        self.wfile.write(b"success")

    def log_message(self, *_):
        pass


def verifies(form):
    signed = {k: v for k, v in form.items() if k not in ("sign", "sign_type")}
    content = get_sign_content(signed).encode("utf-8")
    try:
        return verify_with_rsa(CONFIG.alipay_public_key, content, form["sign"])
    except Exception:
        return False


ORDER = {
    "out_trade_no": f"{ORDERS}1",
    "total_amount": "88.88",
    "subject": '中文+&=% "商品" <b>',
}


def create():
    """trade.create is accepted and its reply verifies"""
    reply = call("AlipayTradeCreateRequest", ORDER, notify_url=ENV["NOTIFY_URL"])
    assert reply["code"] == "10000", reply


def query():
    """trade.query sees the trade"""
    reply = call("AlipayTradeQueryRequest", {"out_trade_no": ORDER["out_trade_no"]})
    assert reply["trade_status"] == "WAIT_BUYER_PAY", reply


def payment():
    """the notification of a payment verifies"""
    control("POST", "pay", {"out_trade_no": ORDER["out_trade_no"]})
    form = Backend.received.get(timeout=10)
    assert form["trade_status"] == "TRADE_SUCCESS", form["trade_status"]
    assert form["subject"] == ORDER["subject"], form["subject"]
    assert verifies(form)
    assert not verifies({**form, "total_amount": "0.01"})


def refund():
    """a partial refund is booked, found, and notified"""
    part = {"out_trade_no": ORDER["out_trade_no"], "out_request_no": "r1"}
    reply = call("AlipayTradeRefundRequest", {**part, "refund_amount": "8.80"})
    assert (reply["fund_change"], reply["refund_fee"]) == ("Y", "8.80"), reply
    found = call("AlipayTradeFastpayRefundQueryRequest", part)
    assert found["refund_status"] == "REFUND_SUCCESS", found
    form = Backend.received.get(timeout=10)
    assert form["refund_fee"] == "8.80", form["refund_fee"]
    assert verifies(form)


def failure():
    """a business failure is signed and passed on"""
    reply = call("AlipayTradeQueryRequest", {"out_trade_no": f"{ORDERS}none"})
    assert (reply["code"], reply["sub_code"]) == ("40004", "ACQ.TRADE_NOT_EXIST"), reply


def login():
    """an auth_code becomes a user token, and that the profile"""
    code = control("POST", "auth-code", {"auth_app_id": ENV["AUTH_APP_ID"]})["auth_code"]
    fields = {"grant_type": "authorization_code", "code": code}
    token = call("AlipaySystemOauthTokenRequest", **fields)
    assert "code" not in token and token["access_token"].startswith("authusrB"), token
    made = request("AlipayUserInfoShareRequest")
    made.add_other_text_param("auth_token", token["access_token"])
    share = json.loads(CLIENT.execute(made))
    assert (share["code"], share["nick_name"]) == ("10000", "模拟买家"), share
    if MODE == "direct":
        again = call("AlipaySystemOauthTokenRequest", **fields)
        assert again["sub_code"] == "isv.code-invalid", again
        return
    # A sidecar doesn't send a spent code a second time.
    try:
        again = call("AlipaySystemOauthTokenRequest", **fields)
    except Exception as refused:
        assert "sidecar.parameter-invalid" in str(refused), refused
    else:
        raise AssertionError(again)


def exchange():
    """an app_auth_code is exchanged"""
    second = ENV["SECOND_AUTH_APP_ID"]
    code = control("POST", "app-auth-code", {"auth_app_id": second})["app_auth_code"]
    made = request("AlipayOpenAuthTokenAppRequest")
    made.udf_params = {}
    made.biz_content = {"grant_type": "authorization_code", "code": code}
    reply = json.loads(CLIENT.execute(made))
    assert reply["tokens"][0]["auth_app_id"] == second, reply


def upload():
    """an upload signs its text fields alone"""
    fields = {"image_type": "png", "image_name": "海底捞"}
    image = FileItem("a.png", b"PNG\r\n--x", "image/png")
    reply = call("AlipayOfflineMaterialImageUploadRequest", image_content=image, **fields)
    assert reply["code"] == "10000", reply


def absolute_form():
    """the gateway has seen this SDK's absolute-form targets"""
    assert any(seen["absolute_form"] for seen in control("GET", "requests")["items"])


def self_invocation():
    """a third-party app without a token is told so"""
    made = request("AlipayTradeQueryRequest")
    made.udf_params = {}
    made.biz_content = {"out_trade_no": ORDER["out_trade_no"]}
    reply = json.loads(CLIENT.execute(made))
    assert reply["sub_code"] == "isv.self-invoke-forbidden", reply


def refused(fault):
    def body():
        # More than once: a sidecar sends a pure query again after a reset.
        control("POST", "fault", {"name": fault, "count": 5})
        try:
            reply = call("AlipayTradeQueryRequest", {"out_trade_no": ORDER["out_trade_no"]})
        except Exception:
            return
        finally:
            control("DELETE", "fault")
        raise AssertionError(f"the reply was accepted: {reply}")

    body.__doc__ = f"the SDK refuses a reply that is {fault}"
    return body


def main():
    host, port = ENV["NOTIFY_LISTEN"].split(":")
    backend = HTTPServer((host, int(port)), Backend)
    threading.Thread(target=backend.serve_forever, daemon=True).start()
    tests = [create, query, payment, refund, failure, login, exchange, upload]
    faults = ("tampered", "tampered-sign", "unsigned", "html", "reset")
    tests += [refused(fault) for fault in faults]
    if MODE == "direct":
        tests += [absolute_form, self_invocation]
    failed = 0
    for test in tests:
        try:
            test()
            print(f"ok      python {MODE}: {test.__doc__}")
        except Exception as error:
            failed += 1
            print(f"FAILED  python {MODE}: {test.__doc__}: {type(error).__name__} {str(error)[:600]}")
    print(f"python {MODE}: passed={len(tests) - failed} failed={failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
