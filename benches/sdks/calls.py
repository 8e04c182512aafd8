"""Calls a second of a Python backend, by the official SDK or through a sidecar, one at a time.

python calls.py sdk|sidecar SECONDS
"""
import http.client
import json
import os
import sys
import time

HOW, SECONDS = sys.argv[1], float(sys.argv[2])
ENV = os.environ
CONTENT = {
    "out_trade_no": "20261122180000000001",
    "query_options": ["trade_settle_info"],
}


def sdk():
    """The SDK signs, sends and verifies."""
    import base64
    from alipay.aop.api.AlipayClientConfig import AlipayClientConfig
    from alipay.aop.api.DefaultAlipayClient import DefaultAlipayClient
    from alipay.aop.api.request.AlipayTradeQueryRequest import AlipayTradeQueryRequest
    from Crypto.PublicKey import RSA

    def bare(name, **form):
        with open(ENV[name], encoding="utf-8") as file:
            text = file.read()
        key = RSA.import_key(text if "-----" in text else base64.b64decode(text))
        return base64.b64encode(key.export_key(format="DER", **form)).decode()

    config = AlipayClientConfig()
    # It fails where a port is named, and heeds none but that of the scheme.
    config.server_url = ENV["GATEWAY"].replace(":80/", "/")
    config.app_id = ENV["APP_ID"]
    config.app_private_key = bare("APP_PRIVATE_KEY", pkcs=1)
    config.alipay_public_key = bare("ALIPAY_PUBLIC_KEY")
    client = DefaultAlipayClient(config)

    def call():
        made = AlipayTradeQueryRequest()
        made.add_other_text_param("app_auth_token", "202611BB00000000000000000000000000000000")
        made.biz_content = CONTENT
        reply = json.loads(client.execute(made))
        assert reply["code"] == "10000", reply

    return call


def sidecar():
    """The sidecar does; Python only asks."""
    connection = http.client.HTTPConnection(ENV["SIDECAR_URL"].removeprefix("http://"))
    headers = {"alipay-merchant": "shop", "content-type": "application/json"}

    def call():
        connection.request("POST", "/v2/alipay.trade.query", json.dumps(CONTENT), headers)
        answer = connection.getresponse()
        reply = json.loads(answer.read())
        assert answer.headers["alipay-sidecar-verified"] == "true", reply
        assert reply["code"] == "10000", reply

    return call


def calls_a_second(call, seconds):
    began, calls = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        call()
        calls += 1
    return calls / (time.monotonic() - began)


CALL = {"sdk": sdk, "sidecar": sidecar}[HOW]()
calls_a_second(CALL, SECONDS / 4)
print(calls_a_second(CALL, SECONDS))
