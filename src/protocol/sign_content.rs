//! The strings that get signed, side by side.

use super::{
    authorization::AuthString,
    params::{Params, is_blank, name},
};

/// Says whether a notification's `sign_type` takes part in its sign content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `sign` and `sign_type` are left out (`rsaCheckV1`): nearly everything.
    V1,
    /// `sign` alone is left out (`rsaCheckV2`): life accounts and some old products.
    V2,
}

/// Says whether parameters with an empty value take part in a notification's sign content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EmptyValues {
    /// They are left out, as the current Java SDK does.
    Dropped,
    /// They stand as `name=`, as Node, Go and the Java SDK of 2017 do.
    Kept,
}

/// Writes the sign content of a v2 request: all but `sign` and the empty ones, sorted by the
/// bytes of the names, joined as `name=value&…`, values decoded and untouched.
///
/// Protocol: 签名专区, “自行实现签名”. `sign_type` takes part in requests.
#[must_use]
pub fn v2_request(params: &Params) -> String {
    join_sorted(params, |key, value| key != name::SIGN && !is_blank(value))
}

/// Writes the sign content of a notification under one of the readings in use.
///
/// Protocol: 异步通知, “验签”.
#[must_use]
pub fn notification(params: &Params, scheme: Scheme, empty_values: EmptyValues) -> String {
    notification_without(params, scheme, empty_values, None)
}

/// The same without one parameter more.
pub(super) fn notification_without(
    params: &Params,
    scheme: Scheme,
    empty_values: EmptyValues,
    without: Option<&str>,
) -> String {
    join_sorted(params, |key, value| {
        let left_out = key == name::SIGN
            || (scheme == Scheme::V1 && key == name::SIGN_TYPE)
            || without == Some(key);
        !left_out && (empty_values == EmptyValues::Kept || !is_blank(value))
    })
}

/// Holds what the signature of a v3 request covers.
#[derive(Clone, Copy)]
pub struct V3Request<'a> {
    /// The `Authorization` header without its scheme and `sign`.
    pub auth_string: &'a AuthString,
    /// The HTTP method.
    pub method: &'a str,
    /// Path and query exactly as on the wire, percent-encoded, without the host.
    pub target: &'a str,
    /// The body as it is sent; of a multipart body the text of the part `data` alone; of an
    /// encrypted one the ciphertext.
    pub body: &'a [u8],
    /// The header `alipay-app-auth-token`, if it is sent (an empty one isn't).
    pub app_auth_token: Option<&'a str>,
}

/// Writes the sign content of a v3 request: four lines, and a fifth with the token.
///
/// `None` if the method, the target or the token holds a control character: a line break there
/// would let one request pass for another. Protocol: 开放平台 V3 协议, “签名规则”; vectors
/// `v3-request.json`.
#[must_use]
pub fn v3_request(request: &V3Request<'_>) -> Option<Vec<u8>> {
    let token = request.app_auth_token.unwrap_or_default();
    let parts = [request.method, request.target, token];
    if parts.into_iter().any(|part| !is_one_line(part)) {
        return None;
    }
    let method = request.method.to_ascii_uppercase();
    let mut content = Vec::new();
    for line in [
        request.auth_string.as_str().as_bytes(),
        method.as_bytes(),
        request.target.as_bytes(),
        request.body,
    ] {
        push_line(&mut content, line);
    }
    if !token.is_empty() {
        push_line(&mut content, token.as_bytes());
    }
    Some(content)
}

/// Writes the sign content of a v3 response: timestamp, nonce and the body as it came.
///
/// `None` if the timestamp or the nonce holds a control character: a part of the body could be
/// moved there. Protocol: 开放平台 V3 协议, “验签规则”; vectors `v3-response.json`.
#[must_use]
pub fn v3_response(timestamp: &str, nonce: &str, body: &[u8]) -> Option<Vec<u8>> {
    if !is_one_line(timestamp) || !is_one_line(nonce) {
        return None;
    }
    let mut content = Vec::with_capacity(timestamp.len() + nonce.len() + body.len() + 3);
    for line in [timestamp.as_bytes(), nonce.as_bytes(), body] {
        push_line(&mut content, line);
    }
    Some(content)
}

fn is_one_line(text: &str) -> bool {
    !text.contains(char::is_control)
}

fn push_line(content: &mut Vec<u8>, line: &[u8]) {
    content.extend_from_slice(line);
    content.push(b'\n');
}

fn join_sorted(params: &Params, takes_part: impl Fn(&str, &str) -> bool) -> String {
    let mut pairs = Vec::with_capacity(params.len());
    pairs.extend(params.iter().filter(|&(key, value)| takes_part(key, value)));
    pairs.sort_unstable_by_key(|&(key, _)| key);
    let length = pairs.iter().map(|(key, value)| key.len() + value.len() + 2);
    let mut content = String::with_capacity(length.sum());
    for (key, value) in pairs {
        if !content.is_empty() {
            content.push('&');
        }
        content.push_str(key);
        content.push('=');
        content.push_str(value);
    }
    content
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::charset::Charset;

    fn params(form: &str) -> Params {
        Params::from_form(form.as_bytes(), Charset::Utf8).unwrap()
    }

    #[test]
    fn a_request_is_sorted_by_bytes_without_sign_and_empties() {
        let given =
            params("sign=x&b=%26%3D&a1=1&a_b=2&A=3&_=4&sign_type=RSA2&e=&w=%20&signature=5");
        let expected = "A=3&_=4&a1=1&a_b=2&b=&=&sign_type=RSA2&signature=5";
        assert_eq!(v2_request(&given), expected);
        // Made at once: a sign content that grew would be copied.
        assert_eq!(v2_request(&given).capacity(), expected.len() + 1);
        assert_eq!(v2_request(&Params::new()), "");
    }

    #[test]
    fn a_v3_request_has_four_lines_or_five() {
        let auth_string = AuthString::new("1", None, "0123456789abcdef", 2).unwrap();
        let request = V3Request {
            auth_string: &auth_string,
            method: "get",
            target: "/v3/a?b=%20",
            body: b"",
            app_auth_token: None,
        };
        let first = format!("{auth_string}\nGET\n/v3/a?b=%20\n\n");
        assert_eq!(v3_request(&request).unwrap(), first.as_bytes());
        let app_auth_token = Some("t");
        let with_token = v3_request(&V3Request {
            app_auth_token,
            ..request
        });
        assert_eq!(with_token.unwrap(), format!("{first}t\n").as_bytes());
        for bad in ["a\nb", "a\r", "\0"] {
            let token = Some(bad);
            assert_eq!(
                v3_request(&V3Request {
                    app_auth_token: token,
                    ..request
                }),
                None
            );
            assert_eq!(
                v3_request(&V3Request {
                    target: bad,
                    ..request
                }),
                None
            );
            assert_eq!(
                v3_request(&V3Request {
                    method: bad,
                    ..request
                }),
                None
            );
        }
    }

    #[test]
    fn a_part_of_a_v3_body_cannot_move_into_a_header() {
        assert_eq!(v3_response("1", "n", b"a\n").unwrap(), b"1\nn\na\n\n");
        assert_eq!(v3_response("1", "n\na", b""), None);
        assert_eq!(v3_response("1\rn", "a", b""), None);
    }

    #[test]
    fn a_notification_is_read_in_four_ways() {
        use {EmptyValues::*, Scheme::*};
        let given = params("z=&sign=x&sign_type=RSA2&a=1");
        for (scheme, empty_values, expected) in [
            (V1, Dropped, "a=1"),
            (V1, Kept, "a=1&z="),
            (V2, Dropped, "a=1&sign_type=RSA2"),
            (V2, Kept, "a=1&sign_type=RSA2&z="),
        ] {
            assert_eq!(notification(&given, scheme, empty_values), expected);
        }
    }
}
