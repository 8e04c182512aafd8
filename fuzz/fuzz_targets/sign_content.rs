//! What is signed: as a plain second writing of the rules has it, whatever the order of the
//! parameters; and no line of a v3 content can be moved into another.
#![no_main]

use alipay_sidecar::protocol::authorization::AuthString;
use alipay_sidecar::protocol::params::Params;
use alipay_sidecar::protocol::sign_content::{self, EmptyValues, Scheme, V3Request};
use alipay_sidecar_fuzz::{first, oracle};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (flag, rest) = first(data);
    let Ok(text) = std::str::from_utf8(rest) else {
        return;
    };
    match flag & 1 {
        0 => v2(text),
        _ => v3(text),
    }
});

/// Names and values by turns, between NULs.
fn v2(text: &str) {
    let mut params = Params::new();
    let mut pieces = text.split('\0');
    while let (Some(name), Some(value)) = (pieces.next(), pieces.next()) {
        if params.push(name, value).is_err() {
            return;
        }
    }
    let expected = oracle::content(params.iter(), |name, value| {
        name != "sign" && !oracle::is_blank(value)
    });
    assert_eq!(sign_content::v2_request(&params), expected);
    let mut turned = Params::new();
    for (name, value) in params.iter().collect::<Vec<_>>().into_iter().rev() {
        turned.push(name, value).expect("each once");
    }
    turned.set("sign", "c2ln");
    assert_eq!(sign_content::v2_request(&turned), expected);
    for scheme in [Scheme::V1, Scheme::V2] {
        for empty in [EmptyValues::Dropped, EmptyValues::Kept] {
            let expected = oracle::content(params.iter(), |name, value| {
                name != "sign"
                    && !(scheme == Scheme::V1 && name == "sign_type")
                    && !(empty == EmptyValues::Dropped && oracle::is_blank(value))
            });
            assert_eq!(sign_content::notification(&params, scheme, empty), expected);
        }
    }
}

/// Method, target, token and body, between NULs.
fn v3(text: &str) {
    let mut parts = text.splitn(4, '\0');
    let mut part = || parts.next().unwrap_or_default();
    let (method, target, token, body) = (part(), part(), part(), part());
    let auth_string = AuthString::new("1", None, "0123456789abcdef", 1).expect("good parts");
    let request = V3Request {
        auth_string: &auth_string,
        method,
        target,
        body: body.as_bytes(),
        app_auth_token: Some(token).filter(|token| !token.is_empty()),
    };
    let is_plain = ![method, target, token]
        .iter()
        .any(|part| part.contains(char::is_control));
    let content = sign_content::v3_request(&request);
    assert_eq!(content.is_some(), is_plain);
    if let Some(content) = content {
        let head = format!("{auth_string}\n{}\n{target}\n", method.to_ascii_uppercase());
        let behind = content.strip_prefix(head.as_bytes()).expect("the head");
        let tail = match token {
            "" => "\n".to_owned(),
            token => format!("\n{token}\n"),
        };
        assert_eq!(behind.strip_suffix(tail.as_bytes()), Some(body.as_bytes()));
    }
    let response = sign_content::v3_response(method, target, body.as_bytes());
    let is_plain = ![method, target]
        .iter()
        .any(|part| part.contains(char::is_control));
    let expected = is_plain.then(|| format!("{method}\n{target}\n{body}\n").into_bytes());
    assert_eq!(response, expected);
}
