//! The strings that get signed, side by side.

use super::params::{Params, is_blank, name};

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
    join_sorted(
        params
            .iter()
            .filter(|&(key, value)| key != name::SIGN && !is_blank(value)),
    )
}

/// Writes the sign content of a notification under one of the readings in use.
///
/// Protocol: 异步通知, “验签”.
#[must_use]
pub fn notification(params: &Params, scheme: Scheme, empty_values: EmptyValues) -> String {
    join_sorted(params.iter().filter(|&(key, value)| {
        let left_out = key == name::SIGN || (scheme == Scheme::V1 && key == name::SIGN_TYPE);
        !left_out && (empty_values == EmptyValues::Kept || !is_blank(value))
    }))
}

fn join_sorted<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut pairs: Vec<_> = pairs.collect();
    pairs.sort_unstable_by_key(|&(key, _)| key);
    let mut content = String::new();
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
        assert_eq!(v2_request(&Params::new()), "");
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
