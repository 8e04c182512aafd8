//! The protocol core against the vectors that the official SDKs made (`tests/vectors/`).
//!
//! Each case is a test of its own, compares the sign content first, then bytes, then the
//! signature; each list covers its file exactly (`vectors.rs` counts them).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "clippy knows only functions marked as tests; these are their helpers"
)]

use std::{collections::BTreeSet, fs, path::Path};

use alipay_sidecar::protocol::{
    charset::{Charset, label_of_form},
    envelope::{Envelope, Verification},
    error::{EnvelopeError, ProtocolError},
    key::{AppPrivateKey, RsaPublicKey},
    notification::UnverifiedNotification,
    params::Params,
    request::SignedParams,
    sign_content::{self, Scheme},
    signature::SignType,
    timestamp, token_reply,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;

pub(crate) fn file(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/vectors/{name}.json"));
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn case(name: &str, id: &str) -> Value {
    let file = file(name);
    let mut cases = file["cases"].as_array().unwrap().iter();
    cases.find(|case| case["id"] == id).unwrap().clone()
}

pub(crate) fn text<'a>(case: &'a Value, member: &str) -> &'a str {
    case[member]
        .as_str()
        .unwrap_or_else(|| panic!("{member} of {}", case["id"]))
}

pub(crate) fn bytes(case: &Value, member: &str) -> Vec<u8> {
    STANDARD.decode(text(case, member)).unwrap()
}

fn pairs(list: &Value) -> Vec<(String, String)> {
    serde_json::from_value(list.clone()).unwrap()
}

fn charset(case: &Value) -> Charset {
    Charset::from_label(text(case, "charset")).unwrap()
}

fn params(list: &Value) -> Params {
    let mut params = Params::new();
    for (name, value) in pairs(list) {
        params.push(name, value).unwrap();
    }
    params
}

fn sorted(params: &Params) -> BTreeSet<(String, String)> {
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    params.iter().map(owned).collect()
}

pub(crate) fn private_key(name: &str) -> AppPrivateKey {
    AppPrivateKey::from_text(text(&file("keys")["keys"][name], "pkcs8_bare")).unwrap()
}

pub(crate) fn public_key(name: &str) -> RsaPublicKey {
    RsaPublicKey::from_text(text(&file("keys")["keys"][name], "spki_bare")).unwrap()
}

fn covers(name: &str, run: &[&str]) {
    let file = file(name);
    let cases = file["cases"].as_array().unwrap();
    let expected: BTreeSet<_> = cases.iter().map(|case| text(case, "id")).collect();
    assert_eq!(expected, run.iter().copied().collect());
    assert_eq!(cases.len(), run.len());
}

macro_rules! vectors {
    ($module:ident = $file:literal, $check:path, {$($test:ident = $id:literal,)*}) => {
        pub(crate) mod $module {
            pub(crate) const RUN: &[&str] = &[$($id),*];

            $(#[test] fn $test() { $check(&super::case($file, $id)); })*

            #[test]
            fn every_case_of_the_file_is_listed() {
                super::covers($file, RUN);
            }
        }
    };
}

/// Parameters → sign content → bytes → signature.
fn check_v2_sign(case: &Value) {
    let content = sign_content::v2_request(&params(&case["params"]));
    assert_eq!(content, text(case, "sign_string"));
    let charset = Charset::from_label(text(case, "encode_sign_string_as")).unwrap();
    let content = charset.encode(&content).unwrap();
    assert_eq!(content, bytes(case, "sign_string_bytes_b64"));
    let sign_type: SignType = text(case, "sign_type").parse().unwrap();
    let key = private_key(text(case, "key"));
    assert_eq!(key.sign(sign_type, &content).unwrap(), text(case, "sign"));
    key.public_key()
        .verify(sign_type, &content, text(case, "sign"))
        .unwrap();
}

/// What an SDK sent: query and body decode, and their union carries the SDK's signature.
fn check_v2_wire(case: &Value) {
    let query = text(case, "raw_target").split_once('?').unwrap().1;
    let charset = charset(case);
    let named = label_of_form(query.as_bytes()).unwrap();
    assert_eq!(Charset::from_label(&named), Ok(charset));
    let mut union = Params::from_form(query.as_bytes(), charset).unwrap();
    assert_eq!(sorted(&union), sorted(&params(&case["query_params"])));
    // The body of a multipart call is read by `proxy`; here its text parts come from the vector.
    let body = match case["files"].as_array().unwrap().is_empty() {
        true => Params::from_form(&bytes(case, "raw_body_b64"), charset).unwrap(),
        false => params(&case["body_params"]),
    };
    assert_eq!(sorted(&body), sorted(&params(&case["body_params"])));
    for (name, value) in body.iter() {
        // An SDK may send the same parameter in both places, with one value.
        assert!(union.get(name).is_none_or(|known| known == value));
        union.set(name, value);
    }
    let content = sign_content::v2_request(&union);
    assert_eq!(content, text(case, "union_sign_string"));
    let sign = union.get("sign").unwrap();
    assert_eq!(sign, text(case, "sign"));
    let content = charset.encode(&content).unwrap();
    let key = public_key("app2048");
    key.verify(SignType::Rsa2, &content, sign).unwrap();
    timestamp::parse_v2(union.get("timestamp").unwrap()).unwrap();
}

fn check_v2_response(case: &Value) {
    let keys = [public_key(text(case, "alipay_key"))];
    let sign_type = text(case, "sign_type").parse().unwrap();
    let (body, method) = (bytes(case, "body_b64").into(), text(case, "api_method"));
    let charset = charset(case);
    let verdict = Envelope::parse_in(body, method, charset)
        .and_then(|envelope| envelope.verify(&keys, sign_type));
    let expected = &case["expect"];
    let verified = match (verdict, text(expected, "outcome")) {
        (Ok(verified), "verified" | "unsigned") => verified,
        (Err(EnvelopeError::SignatureMismatch { .. }), "bad_signature") => return,
        (Err(EnvelopeError::Unsigned), "unsigned") if expected["must_reject"] == true => return,
        (Err(EnvelopeError::Ambiguous { .. }), "ambiguous") => return,
        (Err(EnvelopeError::NodeMissing { .. }), "missing_node") => return,
        (Err(EnvelopeError::Malformed(_)), "malformed") => return,
        (verdict, outcome) => panic!("{outcome}, but found {verdict:?}"),
    };
    assert_ne!(expected["must_reject"], true);
    let unsigned = text(expected, "outcome") == "unsigned";
    assert_eq!(
        verified.verification() == Verification::UnsignedError,
        unsigned
    );
    if let Some(content) = expected["signed_content"].as_str() {
        let content = charset.encode(content).unwrap();
        assert_eq!(verified.signed_content(), content.as_slice());
        let retried = verified.signed_content() != verified.node().as_ref();
        assert_eq!(retried, expected["retry"] == "slash-unescape");
    }
    let is_error = verified
        .code()
        .is_some_and(|code| code != "10000" && code != "10003");
    assert_eq!(is_error, expected["is_error"] == true);
    let known = |member: &str, found: Option<&str>| {
        let wanted = expected[member].as_str();
        assert!(wanted.is_none() || wanted == found, "{member}: {found:?}");
    };
    known("code", verified.code());
    known("sub_code", verified.sub_code());
    known("node_key", Some(verified.node_key()));
    known("alipay_cert_sn", verified.alipay_cert_sn());
    assert_eq!(verified.is_ciphertext(), expected["encrypted"] == true);
    if let Some(count) = expected["tokens"].as_u64() {
        let granted = token_reply::parse(&verified.node()).unwrap();
        assert_eq!(u64::try_from(granted.len()).unwrap(), count);
    }
}

fn check_notify(case: &Value) {
    let expected = &case["expect"];
    let verify = |app| {
        let body = bytes(case, "raw_body_b64");
        UnverifiedNotification::parse(case["content_type"].as_str(), &body)?
            .verify(&[public_key(text(case, "alipay_key"))], app)
    };
    if expected["policy"].is_string() {
        let error = verify(SignType::Rsa2).unwrap_err();
        assert!(matches!(error, ProtocolError::SignTypeWeaker { .. }));
    }
    let verdict = verify(SignType::Rsa);
    if expected["valid"] == false {
        assert!(verdict.is_err(), "{verdict:?}");
        return;
    }
    // `optional` ones are accepted here through the repairs that are allowed.
    let taken = verdict.unwrap();
    let decoded = params(&case["decoded_params"]);
    if expected["valid"] == true {
        assert_eq!(sorted(taken.params()), sorted(&decoded));
        let scheme = match taken.scheme() {
            Scheme::V1 => "v1",
            Scheme::V2 => "v2",
        };
        assert_eq!(scheme, text(expected, "scheme"));
    }
    if let Some(content) = expected["sign_string"].as_str() {
        assert_eq!(taken.sign_content(), content);
    }
}

/// Our own layout of the vector's parameters: the shapes differ, the parameters don't.
fn check_page(case: &Value) {
    // One Java version writes `sign` twice, with one value.
    let mut theirs = Params::new();
    for (name, value) in pairs(&case["query_params"]) {
        assert!(theirs.get(&name).is_none_or(|known| known == value));
        theirs.set(name, value);
    }
    for (name, value) in pairs(&case["hidden_fields"]) {
        theirs.push(name, value).unwrap();
    }
    let content = sign_content::v2_request(&theirs);
    assert_eq!(content, text(case, "sign_string"));
    let mut unsigned = theirs.clone();
    let their_sign = unsigned.remove("sign").unwrap();
    let charset = charset(case);
    let our_sign = private_key("app2048")
        .sign(SignType::Rsa2, &charset.encode(&content).unwrap())
        .unwrap();
    assert_eq!(our_sign, their_sign);
    let signed = SignedParams::new(unsigned, our_sign)
        .in_charset(charset)
        .unwrap();
    let gateway = text(&case["input"], "gateway");
    let decoded = match text(case, "kind") {
        "sdk-string" => read_query(&signed.order_string(), charset),
        "page-get" => read_query(
            signed
                .page_url(gateway)
                .strip_prefix(&format!("{gateway}?"))
                .unwrap(),
            charset,
        ),
        "page-post" => read_form(&signed.page_form(gateway), gateway, charset),
        other => panic!("unknown kind {other}"),
    };
    assert_eq!(sorted(&decoded), sorted(&theirs));
}

fn read_query(query: &str, charset: Charset) -> Params {
    Params::from_form(query.as_bytes(), charset).unwrap()
}

/// Reads a form as a browser would submit it.
fn read_form(html: &str, gateway: &str, charset: Charset) -> Params {
    let attribute = |text: &str, name: &str| -> String {
        let value = text.split_once(&format!("{name}=\"")).unwrap().1;
        let value = value.split_once('"').unwrap().0;
        assert!(!value.contains(['<', '>', '\'']), "{value}");
        value
            .replace("&quot;", "\"")
            .replace("&#39;", "'")
            .replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&amp;", "&")
    };
    let action = attribute(html, "action");
    let mut found = read_query(
        action.strip_prefix(&format!("{gateway}?")).unwrap(),
        charset,
    );
    for field in html.split("<input type=\"hidden\" ").skip(1) {
        found
            .push(attribute(field, "name"), attribute(field, "value"))
            .unwrap();
    }
    found
}

vectors!(v2_sign = "v2-sign", super::check_v2_sign, {
    ascii_query_rsa2 = "ascii-query-rsa2",
    ascii_query_rsa1_1024 = "ascii-query-rsa1-1024",
    ascii_query_rsa2_4096 = "ascii-query-rsa2-4096",
    rsa2_1024 = "rsa2-1024",
    chinese_utf8 = "chinese-utf8",
    emoji_utf8 = "emoji-utf8",
    special_characters = "special-characters",
    nested_json = "nested-json",
    biz_content_pretty = "biz-content-pretty",
    biz_content_escapes = "biz-content-escapes",
    app_auth_token = "app-auth-token",
    app_auth_token_node = "app-auth-token-node",
    auth_token_user_info = "auth-token-user-info",
    oauth_token_toplevel = "oauth-token-toplevel",
    oauth_token_refresh = "oauth-token-refresh",
    open_auth_token_app = "open-auth-token-app",
    notify_and_return_url = "notify-and-return-url",
    empty_values_dropped = "empty-values-dropped",
    whitespace_only_value = "whitespace-only-value",
    key_order_bytes = "key-order-bytes",
    value_contains_sign_word = "value-contains-sign-word",
    cert_mode = "cert-mode",
    encrypted_biz_content = "encrypted-biz-content",
    long_biz_content = "long-biz-content",
    gbk_charset = "gbk-charset",
    gbk_charset_rsa1 = "gbk-charset-rsa1",
    gb2312_charset = "gb2312-charset",
});

vectors!(v2_response = "v2-response", super::check_v2_response, {
    simple = "simple",
    sign_first = "sign-first",
    tampered_node = "tampered-node",
    tampered_sign = "tampered-sign",
    wrong_key = "wrong-key",
    signed_with_app_key = "signed-with-app-key",
    chinese = "chinese",
    slash_escaped_signed_raw = "slash-escaped-signed-raw",
    slash_escaped_signed_unescaped = "slash-escaped-signed-unescaped",
    slash_unescaped_body_signed_escaped = "slash-unescaped-body-signed-escaped",
    pretty_printed = "pretty-printed",
    nested_sign_key = "nested-sign-key",
    braces_in_strings = "braces-in-strings",
    trailing_backslash = "trailing-backslash",
    sign_escaped_slash = "sign-escaped-slash",
    cert_sn_after = "cert-sn-after",
    cert_sn_last = "cert-sn-last",
    error_node_unsigned = "error-node-unsigned",
    error_node_signed = "error-node-signed",
    error_response_unsigned = "error_response-unsigned",
    error_response_signed = "error_response-signed",
    error_response_empty_sign = "error_response-empty-sign",
    success_without_sign = "success-without-sign",
    success_empty_sign = "success-empty-sign",
    duplicate_root = "duplicate-root",
    duplicate_sign = "duplicate-sign",
    root_name_in_string_first = "root-name-in-string-first",
    wrong_root = "wrong-root",
    rsa1 = "rsa1",
    not_json = "not-json",
    empty_body = "empty-body",
    encrypted_node = "encrypted-node",
    encrypted_node_signed_without_quotes = "encrypted-node-signed-without-quotes",
    encrypted_node_escaped = "encrypted-node-escaped",
    auth_token_app_new = "auth-token-app-new",
    auth_token_app_mixed = "auth-token-app-mixed",
    oauth_token_no_code = "oauth-token-no-code",
    token_timeout = "token-timeout",
    invalid_signature_node = "invalid-signature-node",
    chinese_gbk = "chinese-gbk",
});

vectors!(v2_wire = "v2-wire", super::check_v2_wire, {
    node_exec = "node-exec",
    node_exec_oauth = "node-exec-oauth",
    node_multipart = "node-multipart",
    java_execute_utf_8 = "java-execute-utf-8",
    java_multipart = "java-multipart",
    python_execute_utf_8 = "python-execute-utf-8",
    python_oauth = "python-oauth",
    python_multipart = "python-multipart",
    java_execute_gbk = "java-execute-gbk",
    python_execute_gbk = "python-execute-gbk",
});

vectors!(notify = "notify", super::check_notify, {
    trade_success = "trade-success",
    trade_success_other_order = "trade-success-other-order",
    tampered_amount = "tampered-amount",
    extra_param_injected = "extra-param-injected",
    query_string_must_not_be_merged = "query-string-must-not-be-merged",
    wrong_key = "wrong-key",
    missing_sign = "missing-sign",
    empty_sign = "empty-sign",
    sign_type_kept = "sign-type-kept",
    sign_type_downgrade = "sign-type-downgrade",
    rsa1_1024 = "rsa1-1024",
    empty_value_dropped = "empty-value-dropped",
    empty_value_kept = "empty-value-kept",
    plus_lost_in_sign = "plus-lost-in-sign",
    percent_in_passback = "percent-in-passback",
    plugin_auth = "plugin-auth",
    isv_auth = "isv-auth",
    plugin_auth_strings = "plugin-auth-strings",
    servicemarket_order = "servicemarket-order",
    ant_message = "ant-message",
    ant_message_with_cert_sn = "ant-message-with-cert-sn",
    gbk = "gbk",
    gbk_header_absent = "gbk-header-absent",
    ant_message_gbk = "ant-message-gbk",
    service_check = "service-check",
});

vectors!(page_and_sdk = "page-and-sdk", super::check_page, {
    node_get = "node-get",
    node_post = "node-post",
    node_sdk = "node-sdk",
    java_get_utf_8 = "java-get-utf-8",
    java_post_utf_8 = "java-post-utf-8",
    java_sdk_utf_8 = "java-sdk-utf-8",
    py_get_utf_8 = "py-get-utf-8",
    py_post_utf_8 = "py-post-utf-8",
    py_sdk_utf_8 = "py-sdk-utf-8",
    java_get_gbk = "java-get-GBK",
    java_post_gbk = "java-post-GBK",
    java_sdk_gbk = "java-sdk-GBK",
    py_get_gbk = "py-get-GBK",
    py_post_gbk = "py-post-GBK",
    py_sdk_gbk = "py-sdk-GBK",
});

/// Every spelling of a private key loads as the same key; every broken one fails.
fn check_key(name: &str) {
    let file = file("keys");
    let key = &file["keys"][name];
    let public = RsaPublicKey::from_text(text(key, "spki_pem")).unwrap();
    assert_eq!(
        public.bits(),
        usize::try_from(key["bits"].as_u64().unwrap()).unwrap()
    );
    assert_eq!(public.to_bare_base64(), text(key, "spki_bare"));
    for form in ["spki_bare", "rsa_public_pem"] {
        assert_eq!(
            RsaPublicKey::from_text(text(key, form)).unwrap(),
            public,
            "{form}"
        );
    }
    let spellings = ["pkcs1_pem", "pkcs8_pem", "pkcs1_bare", "pkcs8_bare"];
    let plain = spellings.map(|form| (form, &key[form]));
    let variants = key["variants_private_ok"].as_object().unwrap();
    let variants = variants.iter().map(|(form, text)| (form.as_str(), text));
    for (form, text) in plain.into_iter().chain(variants) {
        let read = AppPrivateKey::from_text(text.as_str().unwrap());
        let read = read.unwrap_or_else(|error| panic!("{form}: {error}"));
        assert_eq!(read.public_key(), &public, "{form}");
    }
    for (form, text) in key["variants_private_bad"].as_object().unwrap() {
        assert!(
            AppPrivateKey::from_text(text.as_str().unwrap()).is_err(),
            "{form}"
        );
    }
}

macro_rules! keys {
    ($($name:ident,)*) => {
        pub(crate) mod keys {
            pub(crate) const RUN: &[&str] = &[$(stringify!($name)),*];

            $(#[test] fn $name() { super::check_key(stringify!($name)); })*

            #[test]
            fn every_key_of_the_file_is_listed() {
                let file = super::file("keys");
                let expected: Vec<_> = file["keys"].as_object().unwrap().keys().collect();
                let mut listed = RUN.to_vec();
                listed.sort_unstable();
                assert_eq!(expected, listed);
            }
        }
    };
}

keys!(
    alipay1024,
    alipay2048,
    alipay2048_other,
    app1024,
    app2048,
    app4096,
);
