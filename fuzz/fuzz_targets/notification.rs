//! Notifications: accepted only where one of the readings in use was signed, by an independent
//! look, and not with one bit changed; read without a panic whatever they hold; written anew for
//! backends without a change of what counts.
#![no_main]

use alipay_sidecar::protocol::notification::{Notification, UnverifiedNotification};
use alipay_sidecar::protocol::signature::SignType;
use alipay_sidecar::protocol::signed_reply::NotificationForm;
use alipay_sidecar_fuzz::keys::ALIPAY;
use alipay_sidecar_fuzz::{charset, first, oracle};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (flag, body) = first(data);
    let content_type = match flag & 2 {
        0 => "application/x-www-form-urlencoded; charset=utf-8",
        _ => "application/x-www-form-urlencoded; charset=GBK",
    };
    let Ok(parsed) = UnverifiedNotification::parse(Some(content_type), body) else {
        return;
    };
    claims(&parsed, body, content_type);
    let app = match flag & 4 {
        0 => SignType::Rsa2,
        _ => SignType::Rsa,
    };
    if let Ok(verified) = parsed.clone().verify(&*ALIPAY, app) {
        is_signed(&verified, app);
        no_other_bits(content_type, body, flag, app);
    }
    reads(parsed.assume_verified());
});

fn claims(parsed: &UnverifiedNotification, body: &[u8], content_type: &str) {
    if let Some(id) = parsed.claimed_app_id() {
        assert!(!id.is_empty());
    }
    assert!(parsed.differences(parsed).is_empty());
    let Ok(form) = NotificationForm::parse(content_type, body, None) else {
        return;
    };
    let content = form
        .sign_content()
        .expect("what was decoded can be encoded");
    let text = form
        .signed("c2ln")
        .expect("what was decoded can be encoded");
    let again = UnverifiedNotification::parse(Some(content_type), text.as_bytes());
    let again = again.expect("what is written is read");
    assert_eq!(again.lasting_content(), parsed.lasting_content());
    let again = NotificationForm::parse(content_type, text.as_bytes(), None).expect("the same");
    assert_eq!(again.sign_content().as_ref(), Ok(&content));
}

fn is_signed(verified: &Notification, app: SignType) {
    let pairs: Vec<(String, String)> = verified
        .params()
        .iter()
        .map(|(n, v)| (n.to_owned(), v.to_owned()))
        .collect();
    let value = |name: &str| verified.params().get(name).unwrap_or_default();
    let sign_type = match value("sign_type") {
        "RSA" => SignType::Rsa,
        _ => SignType::Rsa2,
    };
    assert!(
        !(sign_type == SignType::Rsa && app == SignType::Rsa2),
        "a weaker algorithm"
    );
    let sign = value("sign").replace(' ', "+");
    let is_signed = |content: &String| {
        let charsets = [charset(0), charset(1)];
        let bytes = charsets
            .into_iter()
            .filter_map(|charset| oracle::encode(content, charset));
        bytes
            .into_iter()
            .any(|bytes| oracle::is_signed(&*ALIPAY, sign_type, &bytes, &sign))
    };
    let signed: Vec<_> = oracle::notification_contents(&pairs)
        .into_iter()
        .filter(is_signed)
        .collect();
    assert!(
        signed
            .iter()
            .any(|content| content == verified.sign_content())
    );
}

/// A changed bit is refused, or changes nothing that is signed.
fn no_other_bits(content_type: &str, body: &[u8], flag: u8, app: SignType) {
    let mut changed = body.to_vec();
    let at = usize::from(flag) * body.len() / 256;
    changed[at] ^= 1 << (flag & 7);
    if let Ok(parsed) = UnverifiedNotification::parse(Some(content_type), &changed)
        && let Ok(verified) = parsed.verify(&*ALIPAY, app)
    {
        is_signed(&verified, app);
    }
}

/// Everything that is read out of a verified one.
fn reads(notification: Notification) {
    let is_full = |text: Option<&str>| text.is_none_or(|text| !text.is_empty());
    assert!(is_full(notification.notify_id()) && is_full(notification.app_id()));
    assert!(notification.auth_app_id().is_none_or(|id| !id.is_empty()));
    assert!(notification.out_trade_no().is_none_or(|no| !no.is_empty()));
    let _ = (notification.is_genuine(), notification.event_type());
    let _ = (
        notification.cancellation(),
        notification.user_cancellation(),
    );
    let debugged = format!("{notification:?}");
    let params = notification.params();
    // One that stands elsewhere, too, as a name or as an id, is no secret.
    let is_elsewhere = |token: &str| {
        let mut others = params.iter().filter(|(name, _)| *name != "app_auth_token");
        others.any(|(name, value)| name.contains(token) || value.contains(token))
    };
    let token = params
        .get("app_auth_token")
        .filter(|token| token.len() > 40);
    assert!(token.is_none_or(|token| is_elsewhere(token) || !debugged.contains(token)));
    if let Some(Ok(push)) = notification.authorization() {
        assert!(notification.holds_secret(), "{push:?}");
    }
}
