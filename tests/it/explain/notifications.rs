//! Notifications, each harmed in one way (or two).

use super::*;

const PARAMS: [(&str, &str); 12] = [
    ("notify_time", "2026-11-22 10:20:30"),
    ("notify_type", "trade_status_sync"),
    ("notify_id", "ac05099524730693a8b330c5ecf72da9786"),
    ("app_id", "2021000122671080"),
    ("auth_app_id", "2021000122671080"),
    ("charset", "utf-8"),
    ("version", "1.0"),
    ("sign_type", "RSA2"),
    ("out_trade_no", "20150320010101001"),
    ("total_amount", "88.88"),
    ("subject", "大乐透 A+B <\"x\" & 'y'>"),
    ("passback_params", "merchant%3d3C%26SECRET%3d1"),
];

pub(super) fn params() -> Params {
    of(&PARAMS)
}

fn of(pairs: &[(&str, &str)]) -> Params {
    let mut params = Params::new();
    for &(name, value) in pairs {
        params.push(name, value).unwrap();
    }
    params
}

fn content(params: &Params) -> String {
    sign_content::notification(params, Scheme::V1, EmptyValues::Dropped)
}

pub(super) fn signed_as(params: &Params, content: &[u8], key: &str, how: SignType) -> Params {
    let mut signed = params.clone();
    signed.set("sign", private_key(key).sign(how, content).unwrap());
    signed
}

pub(super) fn signed(params: &Params) -> Params {
    signed_as(
        params,
        content(params).as_bytes(),
        "alipay2048",
        SignType::Rsa2,
    )
}

fn form(params: &Params) -> String {
    params.to_form(Charset::Utf8).unwrap()
}

fn explain(body: impl AsRef<[u8]>) -> Explanation {
    diagnosis::notification(
        Some("application/x-www-form-urlencoded"),
        body.as_ref(),
        &keys(),
    )
}

/// What was signed arrives as `arrived` makes it.
fn check_changed(arrived: impl Fn(Params) -> Params, causes: &[&str], texts: &[&str]) {
    check(&explain(form(&arrived(signed(&params())))), causes, texts);
}

fn with(name: &'static str, change: impl Fn(&str) -> String) -> impl Fn(Params) -> Params {
    move |mut params| {
        let value = change(params.get(name).unwrap());
        params.set(name, value);
        params
    }
}

fn all(change: impl Fn(&str) -> String) -> impl Fn(Params) -> Params {
    move |params| {
        let mut changed = Params::new();
        for (name, value) in params.iter() {
            let value = if name == "sign" {
                value.to_owned()
            } else {
                change(value)
            };
            changed.push(name, value).unwrap();
        }
        changed
    }
}

#[test]
fn a_good_one_holds() {
    let explanation = explain(form(&signed(&params())));
    check_holds(&explanation, &[]);
    assert_eq!(
        explanation.signed_content().unwrap(),
        content(&params()).as_bytes()
    );
}

#[test]
fn the_apps_own_public_key_in_place_of_alipays() {
    let body = form(&signed(&params()));
    let own = Keys::new(&[public_key("app2048")], &[public_key("app2048")]);
    let explanation = diagnosis::notification(None, body.as_bytes(), &own);
    check(
        &explanation,
        &["own-public-key"],
        &["应用公钥", "支付宝公钥"],
    );
}

#[test]
fn the_apps_own_key_on_both_sides() {
    let own = Keys::new(&[public_key("app2048")], &[public_key("app2048")]);
    let content = content(&params());
    let ours = signed_as(&params(), content.as_bytes(), "app2048", SignType::Rsa2);
    let good = diagnosis::notification(None, form(&ours).as_bytes(), &own);
    check_holds(&good, &["own-public-key"]);
    let changed = with("total_amount", |_| "0.01".to_owned())(ours);
    let explanation = diagnosis::notification(None, form(&changed).as_bytes(), &own);
    check(&explanation, &["own-public-key"], &[]);
}

#[test]
fn signed_with_the_apps_own_key() {
    let content = content(&params());
    let forged = signed_as(&params(), content.as_bytes(), "app2048", SignType::Rsa2);
    check(
        &explain(form(&forged)),
        &["signed-by-own-key"],
        &["own private key"],
    );
}

#[test]
fn another_platform_key() {
    let content = content(&params());
    let other = signed_as(
        &params(),
        content.as_bytes(),
        "alipay2048_other",
        SignType::Rsa2,
    );
    check(
        &explain(form(&other)),
        &["wrong-key"],
        &["sandbox", "copy 支付宝公钥"],
    );
}

#[test]
fn no_key_at_all() {
    let body = form(&signed(&params()));
    let none = Keys::new(&[], &[]);
    let explanation = diagnosis::notification(None, body.as_bytes(), &none);
    check(&explanation, &["key-missing"], &["支付宝公钥"]);
}

#[test]
fn html_escapes() {
    let escape = |value: &str| {
        value
            .replace('&', "&amp;")
            .replace('"', "&quot;")
            .replace('\'', "&#39;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
    };
    check_changed(all(escape), &["html-escaped"], &["&amp;"]);
    let body = form(&signed(&params())).replace('&', "&amp;");
    check(&explain(body), &["html-escaped"], &[]);
}

#[test]
fn plus_turned_into_space_in_sign() {
    let (lost, name) = (form(&signed(&params())).replace("%2B", "+"), "subject");
    let kept = lost.replace("A+B", "A%2BB");
    check_holds(&explain(&kept), &["sign-plus-as-space"]);
    check(
        &explain(lost),
        &["plus-as-space", "sign-plus-as-space"],
        &[name],
    );
}

#[test]
fn plus_turned_into_space_in_a_value() {
    let change = with("subject", |value| value.replace('+', " "));
    check_changed(change, &["plus-as-space"], &["in `subject`", "%2B"]);
}

#[test]
fn space_turned_into_plus() {
    let change = with("notify_time", |value| value.replace(' ', "+"));
    check_changed(change, &["space-as-plus"], &["in `notify_time`"]);
}

#[test]
fn values_decoded_twice() {
    let change = with("passback_params", |value| {
        value.replace("%3d", "=").replace("%26", "&")
    });
    check_changed(
        change,
        &["decoded-twice"],
        &["in `passback_params`", "decode once"],
    );
}

#[test]
fn values_encoded_twice() {
    let body = form(&signed(&params()));
    let twice = body.replace('%', "%25");
    check(&explain(twice), &["encoded-twice"], &["once too often"]);
    let whole = body
        .replace('%', "%25")
        .replace('=', "%3D")
        .replace('&', "%26");
    check(&explain(whole), &["encoded-twice"], &[]);
}

#[test]
fn a_form_that_is_decoded_already() {
    let plain = signed(&of(&[
        ("app_id", "1"),
        ("subject", "a+b 大"),
        ("sign_type", "RSA2"),
    ]));
    let pairs: Vec<_> = plain
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let explanation = explain(pairs.join("&"));
    assert_eq!(
        kinds(explanation.causes())[0],
        "decoded-twice",
        "{explanation}"
    );
    assert!(explanation.signed_content().is_some());
}

fn gbk() -> Params {
    let mut params = params();
    params.set("charset", "GBK");
    let content = Charset::Gbk.encode(&content(&params)).unwrap();
    signed_as(&params, &content, "alipay2048", SignType::Rsa2)
}

#[test]
fn the_charset_parameter_renamed() {
    let spelled = with("charset", |_| "UTF-8".to_owned());
    check_changed(spelled, &["charset-renamed"], &["signed as `utf-8`"]);
    let body = gbk().to_form(Charset::Gbk).unwrap();
    let misnamed = body.replace("charset=GBK", "charset=utf-8");
    check(
        &explain(&misnamed),
        &["charset-misread", "charset-renamed"],
        &["signed as `GBK`"],
    );
}

#[test]
fn gbk_read_as_utf_8() {
    let body = gbk().to_form(Charset::Gbk).unwrap();
    check_holds(&explain(&body), &[]);
    let mut undeclared = params();
    undeclared.remove("charset");
    let content = Charset::Gbk.encode(&content(&undeclared)).unwrap();
    let signed = signed_as(&undeclared, &content, "alipay2048", SignType::Rsa2);
    let explanation = explain(signed.to_form(Charset::Gbk).unwrap());
    check(
        &explanation,
        &["charset-misread"],
        &["the text is GBK, but was read as utf-8"],
    );
}

#[test]
fn utf_8_read_as_gbk() {
    let mut undeclared = params();
    undeclared.remove("charset");
    let body = form(&signed(&undeclared));
    let content_type = "application/x-www-form-urlencoded; charset=GBK";
    let explanation = diagnosis::notification(Some(content_type), body.as_bytes(), &keys());
    check(
        &explanation,
        &["charset-misread"],
        &["the text is utf-8, but was read as GBK"],
    );
}

#[test]
fn text_converted_on_the_way() {
    let mut undeclared = params();
    undeclared.remove("charset");
    let content = Charset::Gbk.encode(&content(&undeclared)).unwrap();
    let signed = signed_as(&undeclared, &content, "alipay2048", SignType::Rsa2);
    check(
        &explain(form(&signed)),
        &["charset-converted"],
        &["signed in GBK, but arrived in utf-8"],
    );
    let latin = |value: &str| value.bytes().map(char::from).collect::<String>();
    check_changed(all(latin), &["charset-misread"], &["ISO-8859-1"]);
}

#[test]
fn characters_lost_for_good() {
    let change = with("subject", |value| value.replace('大', "\u{fffd}"));
    check_changed(change, &["characters-lost"], &["in `subject`"]);
}

#[test]
fn a_charset_nobody_knows() {
    let mut unknown = params();
    unknown.set("charset", "latin1");
    check(
        &explain(form(&signed(&unknown))),
        &["charset-unknown"],
        &["latin1"],
    );
}

fn added(names: &[&str]) -> impl Fn(Params) -> Params {
    move |mut params| {
        for name in names {
            params.push(*name, "x").unwrap();
        }
        params
    }
}

#[test]
fn parameters_added_by_an_ingress() {
    check_changed(
        added(&["utm_source"]),
        &["parameter-added"],
        &["not signed: `utm_source`"],
    );
    let three = ["route", "s", "utm_source"];
    check_changed(
        added(&three),
        &["parameter-added"],
        &["`route`, `s`, `utm_source`"],
    );
    // Names that are Alipay's own are found, too, one or two of them.
    check_changed(added(&["scene"]), &["parameter-added"], &["`scene`"]);
    check_changed(
        added(&["scene", "pid"]),
        &["parameter-added"],
        &["`scene`, `pid`"],
    );
}

#[test]
fn a_parameter_dropped() {
    let without = |name: &'static str| {
        move |mut params: Params| {
            params.remove(name);
            params
        }
    };
    check_changed(
        without("charset"),
        &["parameter-dropped"],
        &["`charset` was signed"],
    );
    check_changed(
        without("auth_app_id"),
        &["parameter-dropped"],
        &["`auth_app_id`"],
    );
    check_changed(
        without("out_trade_no"),
        &["content-changed"],
        &["the key is right"],
    );
}

#[test]
fn a_value_trimmed() {
    let mut padded = params();
    padded.set("subject", "tea ");
    let mut arrived = signed(&padded);
    arrived.set("subject", "tea");
    check(&explain(form(&arrived)), &["value-trimmed"], &["`subject`"]);
}

#[test]
fn a_value_padded() {
    let change = with("subject", |value| format!("{value}\n"));
    check_changed(change, &["value-padded"], &[]);
}

#[test]
fn line_breaks_converted() {
    let mut lines = params();
    lines.set("subject", "a\nb");
    let mut arrived = signed(&lines);
    arrived.set("subject", "a\r\nb");
    check(&explain(form(&arrived)), &["line-endings"], &["CRLF"]);
}

#[test]
fn the_word_null() {
    let mut empty = params();
    empty.set("body", "");
    let mut arrived = signed(&empty);
    arrived.set("body", "null");
    let explanation = explain(form(&arrived));
    // Leaving it out explains it as well, and names it.
    assert!(
        ["null-word", "parameter-added"].contains(&explanation.causes()[0].kind()),
        "{explanation}"
    );
}

#[test]
fn sign_type_kept_is_a_remark() {
    let content = sign_content::notification(&params(), Scheme::V2, EmptyValues::Dropped);
    let kept = signed_as(&params(), content.as_bytes(), "alipay2048", SignType::Rsa2);
    check_holds(&explain(form(&kept)), &["sign-type-kept"]);
}

#[test]
fn empty_values_dropped_or_kept_are_a_remark() {
    let mut empty = params();
    empty.set("body", "");
    check_holds(&explain(form(&signed(&empty))), &["empty-values-dropped"]);
    let content = sign_content::notification(&empty, Scheme::V1, EmptyValues::Kept);
    let kept = signed_as(&empty, content.as_bytes(), "alipay2048", SignType::Rsa2);
    check_holds(&explain(form(&kept)), &["empty-values-kept"]);
}

#[test]
fn alipay_cert_sn_left_out_is_a_remark() {
    let mut arrived = signed(&params());
    arrived.set("alipay_cert_sn", "02941eef3187dddf3d3b83462e1dfcf6");
    check_holds(&explain(form(&arrived)), &["certificate-serial-left-out"]);
}

#[test]
fn a_byte_order_mark_and_a_newline_of_an_editor() {
    let body = form(&signed(&params()));
    let marked = [b"\xef\xbb\xbf", body.as_bytes()].concat();
    check(&explain(marked), &["byte-order-mark"], &["BOM"]);
    check(
        &explain(format!("{body}\n")),
        &["outer-white-space"],
        &["editor"],
    );
}

#[test]
fn lines_wrapped_by_a_terminal() {
    let body = form(&signed(&params()));
    let wrapped: Vec<_> = body
        .as_bytes()
        .chunks(80)
        .map(|line| line.to_vec())
        .collect();
    check(&explain(wrapped.join(&b'\n')), &["lines-wrapped"], &[]);
    check(&explain(body.replace('&', "\r\n")), &["lines-wrapped"], &[]);
}

#[test]
fn json_in_a_value_written_anew() {
    let json = r#"{"a":"x/y","b":"中"}"#;
    let mut message = params();
    message.set("biz_content", json);
    for (arrived, cause) in [
        ("{\"a\": \"x/y\", \"b\": \"中\"}", "json-spacing"),
        (r#"{"a":"x\/y","b":"中"}"#, "json-slashes"),
        (r#"{"a":"x/y","b":"\u4e2d"}"#, "json-escapes"),
        (r#"{"b":"中","a":"x/y"}"#, "json-order"),
    ] {
        let mut changed = signed(&message);
        changed.set("biz_content", arrived);
        check(
            &explain(form(&changed)),
            &[cause],
            &["in `biz_content`", "written anew"],
        );
    }
}

#[test]
fn members_of_a_list_of_objects_in_another_order() {
    let mut message = params();
    let signed_list = r#"[{"fundChannel":"ALIPAYACCOUNT","amount":"88.88"},{"fundChannel":"POINT","amount":"1"}]"#;
    message.set("fund_bill_list", signed_list);
    let mut changed = signed(&message);
    let sorted = r#"[{"amount":"88.88","fundChannel":"ALIPAYACCOUNT"},{"amount":"1","fundChannel":"POINT"}]"#;
    changed.set("fund_bill_list", sorted);
    check(
        &explain(form(&changed)),
        &["json-order"],
        &["in `fund_bill_list`"],
    );
}

#[test]
fn the_other_algorithm() {
    let content = content(&params());
    let sha_1 = signed_as(&params(), content.as_bytes(), "alipay2048", SignType::Rsa);
    check(
        &explain(form(&sha_1)),
        &["sign-type-other"],
        &["made as RSA", "RSA2 is declared"],
    );
}

#[test]
fn a_weaker_algorithm_than_the_apps() {
    let mut weaker = params();
    weaker.set("sign_type", "RSA");
    let content = content(&weaker);
    let signed = signed_as(&weaker, content.as_bytes(), "alipay2048", SignType::Rsa);
    check(&explain(form(&signed)), &["sign-type-weaker"], &["SHA-1"]);
    let rsa = keys().with_sign_type(SignType::Rsa);
    let explanation = diagnosis::notification(None, form(&signed).as_bytes(), &rsa);
    check_holds(&explanation, &[]);
}

#[test]
fn a_signature_cut_short_or_of_another_length() {
    let change = with("sign", |sign| sign[..200].to_owned());
    check_changed(change, &["signature-length"], &["150 bytes", "256"]);
    let content = content(&params());
    let small = signed_as(&params(), content.as_bytes(), "alipay1024", SignType::Rsa2);
    check(
        &explain(form(&small)),
        &["signature-length"],
        &["128 bytes", "256"],
    );
}

#[test]
fn a_signature_that_is_no_base64() {
    let change = with("sign", |_| "not base64!".to_owned());
    check_changed(change, &["sign-not-base64"], &[]);
    let url_safe = with("sign", |sign| sign.replace('+', "-").replace('/', "_"));
    check_changed(url_safe, &["sign-url-safe"], &["URL-safe"]);
    let wrapped = with("sign", |sign| format!("{}\n{}", &sign[..76], &sign[76..]));
    check_changed(wrapped, &["sign-white-space"], &[]);
}

#[test]
fn no_signature() {
    let body = form(&params());
    check(&explain(&body), &["sign-missing"], &["missing or empty"]);
    check(&explain(format!("{body}&sign=")), &["sign-missing"], &[]);
}

#[test]
fn a_parameter_given_twice() {
    let body = form(&signed(&params()));
    check(
        &explain(format!("{body}&total_amount=1.00")),
        &["parameter-duplicate"],
        &["`total_amount`"],
    );
}

#[test]
fn a_body_cut_short() {
    let mut params = Params::new();
    for (name, value) in signed(&notifications::params())
        .iter()
        .collect::<Vec<_>>()
        .iter()
        .rev()
    {
        params.push(*name, *value).unwrap();
    }
    let body = form(&params);
    check(
        &explain(&body[..body.len() - 30]),
        &["content-changed"],
        &["the key is right"],
    );
    let end = body.rfind('%').unwrap() + 2;
    check(
        &explain(&body[..end]),
        &["truncated"],
        &["read the whole body"],
    );
}

#[test]
fn other_things_than_a_form() {
    check(&explain(""), &["empty"], &[]);
    check(
        &explain("<html><body>502</body></html>"),
        &["html-page", "sign-missing"],
        &[],
    );
    check(
        &explain(b"\x1f\x8b\x08\0\0\0"),
        &["compressed", "sign-missing"],
        &[],
    );
    check(
        &explain("a=%zz&sign=x"),
        &["percent-invalid", "sign-not-base64"],
        &["byte 2"],
    );
}

#[test]
fn a_form_dumped_as_json() {
    for message in [signed(&params()), gbk()] {
        let members: std::collections::BTreeMap<_, _> = message.iter().collect();
        let dumped = serde_json::to_string(&members).unwrap();
        let explanation = explain(dumped);
        check(&explanation, &["not-the-message"], &["a JSON object"]);
        assert!(explanation.signed_content().is_some());
    }
}

#[test]
fn two_changes_at_once() {
    let change = |params: Params| {
        let escaped = all(|value| value.replace('&', "&amp;").replace('"', "&quot;"))(params);
        added(&["utm_source"])(escaped)
    };
    check_changed(
        change,
        &["html-escaped", "parameter-added"],
        &["`utm_source`"],
    );
}

#[test]
fn a_change_that_nobody_knows() {
    let change = with("total_amount", |_| "0.01".to_owned());
    check_changed(
        change,
        &["content-changed"],
        &["the key is right", "before any middleware"],
    );
    let explanation = explain(form(&with("total_amount", |_| "1".into())(signed(
        &params(),
    ))));
    let seal = explanation.seal().unwrap();
    assert_eq!(seal.key_fingerprint, public_key("alipay2048").fingerprint());
    assert_eq!(seal.digest.len(), 64);
    assert!(
        (100..=5_000).contains(&explanation.tried()),
        "{}",
        explanation.tried()
    );
}

#[test]
fn every_vector_is_judged_as_expected() {
    for case in file("notify")["cases"].as_array().unwrap() {
        let key = public_key(text(case, "alipay_key"));
        let expected = &case["expect"]["valid"];
        let is_weak = case["id"] == "sign-type-downgrade";
        let is_rsa = is_weak || case["id"] == "rsa1-1024";
        let sign_type = if is_rsa {
            SignType::Rsa
        } else {
            SignType::Rsa2
        };
        let keys = Keys::new(&[key], &[public_key("app2048")]).with_sign_type(sign_type);
        let body = bytes(case, "raw_body_b64");
        let explanation = diagnosis::notification(case["content_type"].as_str(), &body, &keys);
        if expected == "optional" {
            continue;
        }
        assert_eq!(
            explanation.holds(),
            expected == true,
            "{}: {explanation}",
            case["id"]
        );
        assert_eq!(
            explanation.causes().is_empty(),
            explanation.holds(),
            "{}",
            case["id"]
        );
    }
}

#[test]
fn the_hostile_vectors_have_their_causes() {
    for (id, cause) in [
        ("tampered-amount", "content-changed"),
        ("extra-param-injected", "parameter-added"),
        ("wrong-key", "wrong-key"),
        ("missing-sign", "sign-missing"),
        ("empty-sign", "sign-missing"),
    ] {
        let cases = file("notify");
        let mut cases = cases["cases"].as_array().unwrap().iter();
        let case = cases.find(|case| case["id"] == id).unwrap();
        let explanation = explain(bytes(case, "raw_body_b64"));
        assert_eq!(
            explanation.cause().map(Cause::kind),
            Some(cause),
            "{id}: {explanation}"
        );
    }
}

#[test]
fn a_large_one_is_given_up_in_time() {
    let mut large = params();
    large.set("body", "大 +&<>\"".repeat(60_000));
    for number in 0..200 {
        large.set(format!("p{number}"), "x y");
    }
    let mut body = form(&signed(&large));
    body.push_str("&total=1&z=2&y=3");
    let explanation = explain(body);
    assert!(!explanation.holds());
    assert!(
        (1..=40).contains(&explanation.tried()),
        "{}",
        explanation.tried()
    );
}
