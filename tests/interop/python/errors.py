"""Errors of a sidecar that signs anew, as the official Python SDK, unmodified, reads them: verified,
by their code."""
import base64
import json
import os
import sys

from Crypto.PublicKey import RSA
from alipay.aop.api.AlipayClientConfig import AlipayClientConfig
from alipay.aop.api.DefaultAlipayClient import DefaultAlipayClient
from alipay.aop.api.request.AlipayTradeQueryRequest import AlipayTradeQueryRequest

ENV = os.environ


def bare(name, **form):
    """One line of base64, as the SDK wants its keys."""
    with open(ENV[name], encoding="utf-8") as file:
        key = RSA.import_key(file.read())
    return base64.b64encode(key.export_key(format="DER", **form)).decode()


def sub_code(token):
    config = AlipayClientConfig()
    config.server_url = ENV["ALIPAY_GATEWAY"]
    config.app_id = ENV["APP_ID"]
    config.app_private_key = bare("APP_PRIVATE_KEY", pkcs=1)
    config.alipay_public_key = bare("ALIPAY_PUBLIC_KEY")
    request = AlipayTradeQueryRequest()
    request.biz_content = {"out_trade_no": "1"}
    if token:
        request.add_other_text_param("app_auth_token", token)
    return json.loads(DefaultAlipayClient(config).execute(request)).get("sub_code")


def main():
    failed = 0
    cases = {"merchant-unknown": "merchant:nobody", "merchant-required": None}
    for code, token in cases.items():
        try:
            found = sub_code(token)
            assert found == f"sidecar.{code}", found
            print(f"ok      python errors: {code}")
        except Exception as error:
            failed += 1
            print(f"FAILED  python errors: {code}: {type(error).__name__} {str(error)[:600]}")
    print(f"python errors: passed={len(cases) - failed} failed={failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
