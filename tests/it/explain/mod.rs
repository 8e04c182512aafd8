//! The diagnosis names the right cause: one test for each, with real signatures, and every hostile
//! vector besides.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "clippy knows only functions marked as tests; these are their helpers"
)]

mod gateway;
mod hostile;
mod key_texts;
mod notifications;
mod replies;
mod requests;
mod v3;

use std::sync::LazyLock;

use alipay_sidecar::protocol::{
    charset::Charset,
    diagnosis::{self, Cause, Explanation, Keys, V3Message},
    params::Params,
    sign_content::{self, EmptyValues, Scheme},
    signature::SignType,
    timestamp,
};
use proptest::prelude::*;

use crate::protocol::{bytes, file, private_key, public_key, text};

/// 2026-11-22 10:20:30 at UTC+8.
const NOW: i64 = 1_795_314_030_000;

fn keys() -> Keys {
    static KEYS: LazyLock<Keys> =
        LazyLock::new(|| Keys::new(&[public_key("alipay2048")], &[public_key("app2048")]));
    KEYS.clone()
}

fn kinds(causes: &[Cause]) -> Vec<&'static str> {
    causes.iter().map(Cause::kind).collect()
}

/// The signature doesn't hold, for these causes and no other; the line says each of `texts` and
/// shows no value.
fn check(explanation: &Explanation, causes: &[&str], texts: &[&str]) {
    let line = explanation.to_string();
    assert!(!explanation.holds(), "{line}");
    assert_eq!(kinds(explanation.causes()), causes, "{line}");
    for text in texts {
        assert!(line.contains(text), "no `{text}` in: {line}");
    }
    assert!(!line.contains('\n'), "{line}");
    for value in ["SECRET", "88.88", "20150320010101001"] {
        assert!(!line.contains(value), "{line}");
        assert!(!format!("{explanation:?}").contains(value));
    }
}

fn check_holds(explanation: &Explanation, remarks: &[&str]) {
    assert!(explanation.holds(), "{explanation}");
    assert_eq!(kinds(explanation.remarks()), remarks, "{explanation}");
    assert_eq!(explanation.causes(), []);
}

proptest! {
    #[test]
    fn diagnosing_never_panics(raw in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = diagnosis::notification(None, &raw, &keys()).to_string();
        let _ = diagnosis::request(&raw, &raw, None, &keys(), NOW).to_string();
        let _ = diagnosis::reply(&raw, Some("a.b"), Charset::Gbk, &keys()).to_string();
        let _ = diagnosis::reply(&raw, None, Charset::Utf8, &keys()).to_string();
        let headers = [
            ("alipay-timestamp".to_owned(), b"1".to_vec()),
            ("alipay-nonce".to_owned(), raw.clone()),
            ("alipay-signature".to_owned(), b"abcd".to_vec()),
            ("authorization".to_owned(), raw.clone()),
        ];
        let message = V3Message { headers: &headers, body: &raw };
        let _ = diagnosis::v3_response(200, message, &keys()).to_string();
        let _ = diagnosis::v3_request("GET", "/v3/x", message, &keys(), NOW).to_string();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Whatever happens to a signed message, the search ends within its bounds. Where nothing
    /// happened to it, it holds.
    #[test]
    fn harmed_messages_are_explained_within_bounds(
        at in 0_usize..2_000,
        length in 0_usize..9,
        put in proptest::collection::vec(any::<u8>(), 0..9),
    ) {
        let form = notifications::signed(&notifications::params());
        let form = form.to_form(Charset::Utf8).unwrap().into_bytes();
        let body = replies::reply(replies::NODE, replies::NODE).into_bytes();
        let harmed = |mut bytes: Vec<u8>| {
            let start = at % bytes.len();
            let end = (start + length).min(bytes.len());
            bytes.splice(start..end, put.clone());
            bytes
        };
        for explanation in [
            diagnosis::notification(None, &harmed(form.clone()), &keys()),
            diagnosis::request(&harmed(form), b"", None, &keys(), NOW),
            diagnosis::reply(&harmed(body), Some(replies::METHOD), Charset::Utf8, &keys()),
        ] {
            prop_assert!(explanation.tried() <= 5_000);
            prop_assert!(explanation.holds() == explanation.causes().is_empty());
        }
    }
}
