//! Replies of the v2 gateway.

use super::*;

pub(super) const METHOD: &str = "alipay.trade.query";
pub(super) const NODE: &str = r#"{"code":"10000","msg":"Success","subject":"中文","url":"https://a/b","total_amount":"88.88"}"#;

fn sign(content: &[u8], key: &str) -> String {
    private_key(key).sign(SignType::Rsa2, content).unwrap()
}

fn body(node: &str, sign: &str) -> String {
    format!("{{\"alipay_trade_query_response\":{node},\"sign\":\"{sign}\"}}")
}

/// A reply whose node was `signed` and arrived as `node`.
pub(super) fn reply(signed: &str, node: &str) -> String {
    body(node, &sign(signed.as_bytes(), "alipay2048"))
}

fn explain(body: impl AsRef<[u8]>) -> Explanation {
    diagnosis::reply(body.as_ref(), Some(METHOD), Charset::Utf8, &keys())
}

#[test]
fn a_good_one_holds_with_and_without_its_method() {
    check_holds(&explain(reply(NODE, NODE)), &[]);
    let unnamed = diagnosis::reply(reply(NODE, NODE).as_bytes(), None, Charset::Utf8, &keys());
    check_holds(&unnamed, &[]);
    check_holds(
        &explain(reply(NODE, &NODE.replace('/', "\\/"))),
        &["json-slashes"],
    );
}

#[test]
fn written_anew_in_every_way() {
    let spaced = NODE.replace("\":", "\": ").replace(",\"", ", \"");
    let escaped = NODE.replace("中文", "\\u4e2d\\u6587");
    let order = NODE.replace(r#""code":"10000","msg":"Success","#, "");
    let order = order.replace('}', r#","msg":"Success","code":"10000"}"#);
    for (signed, arrived, causes) in [
        (NODE, spaced.as_str(), &["json-spacing"][..]),
        (spaced.as_str(), NODE, &["json-spacing"]),
        (NODE, &escaped, &["json-escapes"]),
        (&escaped, NODE, &["json-escapes"]),
        (&NODE.replace('/', "\\/"), NODE, &["json-slashes"]),
        (NODE, &order, &["json-order"]),
        (&escaped, &spaced, &["json-spacing", "json-escapes"]),
    ] {
        check(&explain(reply(signed, arrived)), causes, &["written anew"]);
    }
    let pretty = serde_json::from_str::<serde_json::Value>(NODE).unwrap();
    let pretty = serde_json::to_string_pretty(&pretty).unwrap();
    check(
        &explain(reply(NODE, &pretty)),
        &["json-order", "json-spacing"],
        &[],
    );
}

#[test]
fn html_escapes() {
    let escaped = reply(NODE, NODE).replace('"', "&quot;");
    check(&explain(escaped), &["html-escaped"], &[]);
    let node = NODE.replace("中文", "a&b");
    check(
        &explain(reply(&node, &node.replace('&', "&amp;"))),
        &["html-escaped"],
        &[],
    );
}

#[test]
fn charsets_mixed_up() {
    let gbk = Charset::Gbk.encode(NODE).unwrap();
    let sign = sign(&gbk, "alipay2048");
    let body = Charset::Gbk.encode(&body(NODE, &sign)).unwrap();
    check(
        &explain(&body),
        &["charset-misread"],
        &["the text is GBK, but was read as utf-8"],
    );
    let good = diagnosis::reply(&body, Some(METHOD), Charset::Gbk, &keys());
    check_holds(&good, &[]);
    let converted = Charset::Gbk.decode(&body).unwrap();
    check(
        &explain(converted),
        &["charset-converted"],
        &["signed in GBK"],
    );
}

#[test]
fn another_methods_root() {
    let other = reply(NODE, NODE).replace("trade_query", "trade_pay");
    check(
        &explain(other),
        &["other-method"],
        &["`alipay_trade_pay_response`"],
    );
}

#[test]
fn unsigned_errors_and_unsigned_successes() {
    let error = r#"{"error_response":{"code":"40002","sub_code":"isv.invalid-app-id"}}"#;
    check(
        &explain(error),
        &["unsigned-error"],
        &["outcome of the call is unknown"],
    );
    check(&explain(body(NODE, "")), &["unsigned"], &["isn't signed"]);
}

#[test]
fn encrypted_nodes_and_their_quotes() {
    let node = "\"c2VjcmV0IGJ5dGVz\"";
    check_holds(&explain(reply(node, node)), &[]);
    check(
        &explain(reply(node, node.trim_matches('"'))),
        &["quotes-stripped"],
        &["quotes"],
    );
    let unquoted = reply(node.trim_matches('"'), node);
    check(
        &explain(unquoted),
        &["signed-without-quotes"],
        &["simulator"],
    );
}

#[test]
fn members_given_twice() {
    let twice = reply(NODE, NODE).replacen('{', &format!("{{\"sign\":\"{}\",", "x"), 1);
    check(
        &explain(twice),
        &["member-duplicate", "sign-not-base64"],
        &["`sign`"],
    );
}

#[test]
fn bodies_that_are_no_reply() {
    let good = reply(NODE, NODE);
    check(&explain(""), &["empty"], &[]);
    check(&explain("<html></html>"), &["html-page"], &[]);
    check(&explain(b"\x1f\x8b\x08"), &["compressed"], &[]);
    check(&explain(&good[..good.len() - 20]), &["truncated"], &[]);
    check(&explain("[]"), &["not-the-message"], &[]);
    check(&explain("{}"), &["not-the-message"], &["neither"]);
    check(
        &explain(format!("{good}{good}")),
        &["not-the-message"],
        &["behind the end"],
    );
    check(
        &explain(format!("\u{feff}{good}")),
        &["byte-order-mark"],
        &[],
    );
    check_holds(&explain(format!("{good}\n")), &[]);
}

#[test]
fn keys_that_are_wrong() {
    let own = body(NODE, &sign(NODE.as_bytes(), "app2048"));
    check(&explain(own), &["signed-by-own-key"], &[]);
    let other = body(NODE, &sign(NODE.as_bytes(), "alipay2048_other"));
    check(&explain(other), &["wrong-key"], &[]);
    let swapped = Keys::new(&[public_key("app2048")], &[public_key("app2048")]);
    let body = reply(NODE, NODE);
    let explanation = diagnosis::reply(body.as_bytes(), Some(METHOD), Charset::Utf8, &swapped);
    check(&explanation, &["own-public-key"], &[]);
}

#[test]
fn a_tampered_node() {
    let node = NODE.replace("88.88", "88.89");
    check(&explain(reply(NODE, &node)), &["content-changed"], &[]);
}

#[test]
fn every_vector_is_judged_as_expected() {
    for case in file("v2-response")["cases"].as_array().unwrap() {
        let platform = [public_key(text(case, "alipay_key"))];
        let sign_type = text(case, "sign_type").parse().unwrap();
        let keys = Keys::new(&platform, &[public_key("app2048")]).with_sign_type(sign_type);
        let charset = Charset::from_label(text(case, "charset")).unwrap();
        let body = bytes(case, "body_b64");
        let method = Some(text(case, "api_method"));
        let explanation = diagnosis::reply(&body, method, charset, &keys);
        let outcome = case["expect"]["outcome"].as_str().unwrap();
        assert_eq!(
            explanation.holds(),
            outcome == "verified",
            "{}: {explanation}",
            case["id"]
        );
        let cause = explanation.cause().map(Cause::kind);
        let expected = match text(case, "id") {
            "tampered-node" => Some("content-changed"),
            "wrong-key" => Some("wrong-key"),
            "signed-with-app-key" => Some("signed-by-own-key"),
            "slash-unescaped-body-signed-escaped" => Some("json-slashes"),
            "encrypted-node-signed-without-quotes" => Some("signed-without-quotes"),
            "duplicate-root" | "duplicate-sign" => Some("member-duplicate"),
            "wrong-root" => Some("other-method"),
            "empty-body" => Some("empty"),
            _ => cause,
        };
        assert_eq!(cause, expected, "{}: {explanation}", case["id"]);
    }
}
