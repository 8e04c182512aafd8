//! v2 requests and order strings.

use super::*;

const PARAMS: [(&str, &str); 8] = [
    ("app_id", "2021000122671080"),
    ("method", "alipay.trade.query"),
    ("format", "JSON"),
    ("charset", "utf-8"),
    ("sign_type", "RSA2"),
    ("timestamp", "2026-11-22 10:20:30"),
    ("version", "1.0"),
    (
        "biz_content",
        "{\"out_trade_no\":\"20150320010101001\",\"subject\":\"中 a+b\"}",
    ),
];

fn params() -> Params {
    let mut params = Params::new();
    for (name, value) in PARAMS {
        params.push(name, value).unwrap();
    }
    params
}

fn signed_over(params: &Params, content: &str, key: &str) -> Params {
    notifications::signed_as(params, content.as_bytes(), key, SignType::Rsa2)
}

fn signed(params: &Params) -> Params {
    signed_over(params, &sign_content::v2_request(params), "app2048")
}

fn explain(params: &Params) -> Explanation {
    let form = params.to_form(Charset::Utf8).unwrap();
    diagnosis::request(form.as_bytes(), b"", None, &keys(), NOW)
}

#[test]
fn a_good_one_holds() {
    check_holds(&explain(&signed(&params())), &[]);
    for case in file("v2-wire")["cases"].as_array().unwrap() {
        if text(case, "id").ends_with("multipart") {
            continue;
        }
        let target = text(case, "raw_target");
        let (_, query) = target.split_once('?').unwrap();
        let body = bytes(case, "raw_body_b64");
        let found = diagnosis::request(query.as_bytes(), &body, None, &keys(), NOW);
        assert!(found.holds(), "{}: {found}", case["id"]);
    }
}

#[test]
fn sign_type_dropped() {
    let mut bare = params();
    bare.remove("sign_type");
    let content = sign_content::v2_request(&bare);
    let explanation = explain(&signed_over(&params(), &content, "app2048"));
    check(
        &explanation,
        &["sign-type-dropped"],
        &["in requests it takes part"],
    );
}

#[test]
fn empty_values_kept() {
    let mut empty = params();
    empty.set("notify_url", "");
    let content = sign_content::notification(&empty, Scheme::V2, EmptyValues::Kept);
    let explanation = explain(&signed_over(&empty, &content, "app2048"));
    check(&explanation, &["empty-values-kept"], &["leave them out"]);
}

#[test]
fn not_sorted_or_sorted_otherwise() {
    let joined = |pairs: Vec<(&str, &str)>| -> String {
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        pairs.join("&")
    };
    let params = params();
    let content = joined(params.iter().collect());
    check(
        &explain(&signed_over(&params, &content, "app2048")),
        &["not-sorted"],
        &[],
    );
    let mut capital = params.clone();
    capital.set("Zone", "x");
    let mut pairs: Vec<_> = capital.iter().collect();
    pairs.sort_by_key(|(name, _)| name.to_lowercase());
    let signed = signed_over(&capital, &joined(pairs), "app2048");
    check(&explain(&signed), &["sorted-by-letters"], &[]);
}

#[test]
fn encoded_values_signed() {
    let mut encoded = params();
    for (name, value) in PARAMS {
        let mut one = Params::new();
        one.push("", value).unwrap();
        encoded.set(name, &one.to_form(Charset::Utf8).unwrap()[1..]);
    }
    let content = sign_content::v2_request(&encoded);
    let explanation = explain(&signed_over(&params(), &content, "app2048"));
    check(
        &explanation,
        &["signed-encoded"],
        &["over the decoded ones"],
    );
}

#[test]
fn the_query_alone_signed() {
    let mut query = params();
    let body = query.remove("biz_content").unwrap();
    let query = signed(&query).to_form(Charset::Utf8).unwrap();
    let mut form = Params::new();
    form.push("biz_content", body).unwrap();
    let form = form.to_form(Charset::Utf8).unwrap();
    let explanation = diagnosis::request(query.as_bytes(), form.as_bytes(), None, &keys(), NOW);
    check(&explanation, &["query-alone"], &[]);
}

#[test]
fn what_stands_in_query_and_body_alike_counts_once() {
    let again = "timestamp=2026-11-22%2010:20:30&app_id=2021000122671080";
    let explain = |params: &Params, body: &str| {
        let query = params.to_form(Charset::Utf8).unwrap();
        diagnosis::request(query.as_bytes(), body.as_bytes(), None, &keys(), NOW)
    };
    check_holds(&explain(&signed(&params()), again), &[]);
    let mut bare = params();
    bare.remove("sign_type");
    let without = signed_over(&params(), &sign_content::v2_request(&bare), "app2048");
    let explanation = explain(&without, again);
    check(&explanation, &["sign-type-dropped"], &[]);
    let rule = sign_content::v2_request(&params());
    assert_eq!(explanation.rule_content(), Some(rule.as_bytes()));
    let other = again.replace("10:20:30", "10:20:31");
    let explanation = explain(&signed(&params()), &other);
    check(&explanation, &["parameter-duplicate"], &["timestamp"]);
}

#[test]
fn the_two_keys_swapped() {
    let content = sign_content::v2_request(&params());
    let explanation = explain(&signed_over(&params(), &content, "alipay2048"));
    check(&explanation, &["keys-swapped"], &["swapped"]);
}

#[test]
fn another_private_key() {
    let content = sign_content::v2_request(&params());
    let explanation = explain(&signed_over(&params(), &content, "alipay2048_other"));
    check(&explanation, &["wrong-private-key"], &["应用公钥"]);
    let form = signed(&params()).to_form(Charset::Utf8).unwrap();
    let none = Keys::new(&[], &[]);
    let explanation = diagnosis::request(form.as_bytes(), b"", None, &none, NOW);
    check(&explanation, &["key-missing"], &["the app's own key"]);
}

#[test]
fn a_sign_that_was_not_encoded() {
    let form = signed(&params()).to_form(Charset::Utf8).unwrap();
    let (_, sign) = form.split_once("&sign=").unwrap();
    let raw = sign.replace("%2B", "+");
    assert_ne!(raw, sign);
    let form = form.replace(sign, &raw);
    let explanation = diagnosis::request(form.as_bytes(), b"", None, &keys(), NOW);
    check(
        &explanation,
        &["sign-plus-as-space"],
        &["percent-encode it"],
    );
}

#[test]
fn biz_content_written_anew() {
    let mut arrived = signed(&params());
    let spaced = arrived
        .get("biz_content")
        .unwrap()
        .replace("\":", "\": ")
        .replace(",\"", ", \"");
    arrived.set("biz_content", spaced);
    check(&explain(&arrived), &["json-spacing"], &["in `biz_content`"]);
}

#[test]
fn a_clock_in_another_zone_or_wrong() {
    let at = |ms: i64| {
        let mut params = params();
        params.set("timestamp", timestamp::v2(ms));
        explain(&signed(&params))
    };
    let hour = 3_600_000;
    check_holds(&at(NOW), &[]);
    check_holds(&at(NOW - 8 * hour), &["clock-zone"]);
    assert!(at(NOW - 8 * hour).to_string().contains("-8 hours off"));
    check_holds(&at(NOW + 40 * 60_000), &["clock-off"]);
    let mut unpadded = params();
    unpadded.set("timestamp", "2026-1-2 3:4:5");
    check_holds(&explain(&signed(&unpadded)), &["timestamp-form"]);
}

#[test]
fn charset_missing_from_the_query() {
    let form = signed(&params()).to_form(Charset::Utf8).unwrap();
    let explanation = diagnosis::request(b"", form.as_bytes(), None, &keys(), NOW);
    check_holds(&explanation, &["charset-not-in-query"]);
}

#[test]
fn declared_gbk_but_sent_and_signed_in_utf_8() {
    let mut params = params();
    params.set("charset", "GBK");
    let explanation = explain(&signed(&params));
    assert_eq!(
        explanation.causes()[0].kind(),
        "charset-misread",
        "{explanation}"
    );
}
