use proptest::prelude::*;

use super::*;
use crate::protocol::{
    key::AppPrivateKey,
    sign_content::{self, EmptyValues},
};

/// Alipay's key in these tests, read once.
fn alipay() -> &'static AppPrivateKey {
    static KEY: std::sync::OnceLock<AppPrivateKey> = std::sync::OnceLock::new();
    KEY.get_or_init(|| AppPrivateKey::of_vectors("alipay1024"))
}

/// Signs a form by V1 and posts it.
fn post(form: &str) -> Result<Notification, ProtocolError> {
    let mut params = Params::from_form(form.as_bytes(), Charset::Utf8)?;
    let content = sign_content::notification(&params, Scheme::V1, EmptyValues::Dropped);
    params.set("sign", alipay().sign(SignType::Rsa2, content.as_bytes())?);
    verify(&params.to_form(Charset::Utf8)?)
}

fn verify(form: &str) -> Result<Notification, ProtocolError> {
    let keys = [alipay().public_key().clone()];
    UnverifiedNotification::parse(None, form.as_bytes())?.verify(&keys, SignType::Rsa2)
}

fn post_json(head: &str, biz_content: &str) -> Notification {
    let mut params = Params::from_form(head.as_bytes(), Charset::Utf8).unwrap();
    params.set("biz_content", biz_content);
    post(&params.to_form(Charset::Utf8).unwrap()).unwrap()
}

const PUSH: &str =
    "notify_type=open_app_auth_notify&status=execute_auth&app_id=1&auth_app_id=outer";

fn push(biz_content: &str) -> Result<AuthorizationPush, ProtocolError> {
    post_json(PUSH, biz_content).authorization().unwrap()
}

#[test]
fn what_is_signed_is_taken_with_its_fields() {
    let taken = post("notify_type=trade_status_sync&notify_id=n&app_id=1&auth_app_id=2&out_trade_no=o&sign_type=RSA2&empty=").unwrap();
    assert_eq!(taken.event_type(), "trade_status_sync");
    assert_eq!(taken.notify_id(), Some("n"));
    assert_eq!(taken.app_id(), Some("1"));
    assert_eq!(taken.auth_app_id().as_deref(), Some("2"));
    assert_eq!(taken.out_trade_no().as_deref(), Some("o"));
    assert_eq!(taken.scheme(), Scheme::V1);
    assert!(taken.authorization().is_none() && taken.cancellation().is_none());
    assert!(!taken.holds_secret());
}

#[test]
fn what_is_claimed_is_what_it_says() {
    let claimed = unverified("app_id=1&alipay_cert_sn=5a7c&notify_id=n");
    assert_eq!(claimed.claimed_app_id(), Some("1"));
    assert_eq!(claimed.alipay_cert_sn(), Some("5a7c"));
    assert_eq!(claimed.claimed_notify_id(), Some("n"));
    let bare = unverified("a=1");
    assert_eq!((bare.claimed_app_id(), bare.alipay_cert_sn()), (None, None));
}

#[test]
fn what_else_alipay_signs_is_no_notification() {
    for (form, expected) in [
        ("a=1", true),
        ("notify_id=n&a=1", true),
        ("method=alipay.trade.page.pay.return&out_trade_no=1", false),
        ("method=spi.x&utc_timestamp=1", false),
        ("method=m&notify_id=", false),
        ("method=m&notify_id=n", true),
        ("method=m&notify_type=t", true),
        ("method=m&msg_method=t", true),
        ("method=m&service=s", true),
        ("method=&a=1", true),
        // A `notify_id` within the value before it, which nothing escapes.
        ("m=1%26notify_id=n", false),
        ("m=1%26notify_id=n&notify_id=o", true),
        ("m=1%26notify_ie=n", true),
        // Or one that holds what comes behind it.
        ("notify_id=n%26notify_time=1&a=1", false),
        ("notify_id=n%3D1&a=1", true),
        // A message's time within the value before it.
        ("msg_method=m&notify_id=n%26utc_timestamp=1", false),
        (
            "msg_method=m&notify_id=n&user_id=1%26utc_timestamp=1",
            false,
        ),
        (
            "msg_method=m&notify_id=n&subject=1%26utc_timestamp=1&utc_timestamp=1",
            true,
        ),
        ("notify_id=n&passback_params=1%26utc_timestamp=1", true),
        // And a `method`.
        ("charset%3Dutf-8%26method=m", false),
        ("charset%3Dutf-8%26method=m&notify_id=n", true),
        ("charset%3Dutf-8%26methods=m", true),
        // What is blank isn't signed: anybody can add it.
        ("method=m&notify_id=%20", false),
        ("method=m&notify_id=%E3%80%80%09", false),
        ("method=m&notify_type=%20", false),
        ("m=1%26notify_id=n&notify_id=%20", false),
    ] {
        assert_eq!(post(form).unwrap().is_genuine(), expected, "{form}");
    }
}

#[test]
fn a_ciphertext_is_opened_once_and_only_where_it_says_so() {
    let key = ContentKey::from_base64("AAAAAAAAAAAAAAAAAAAAAA==").unwrap();
    let plain = r#"{"out_trade_no":"o"}"#;
    let ciphertext = key.encrypt(plain.as_bytes()).unwrap();
    for (head, encrypted) in [
        ("encrypt_type=AES&app_id=1", true),
        ("encrypt_type=aes&app_id=1", false),
        ("app_id=1", false),
    ] {
        let closed = post_json(head, &ciphertext);
        assert_eq!(closed.is_encrypted(), encrypted, "{head}");
        assert_eq!(closed.opened_content(), None);
        let opened = closed.open(&key).unwrap();
        assert!(!opened.is_encrypted());
        assert_eq!(
            opened.opened_content(),
            encrypted.then_some(plain),
            "{head}"
        );
        let expected = encrypted.then(|| "o".to_owned());
        assert_eq!(opened.out_trade_no(), expected, "{head}");
        assert_eq!(opened.clone().open(&key).unwrap().params(), opened.params());
    }
    assert!(!post("encrypt_type=AES&app_id=1").unwrap().is_encrypted());
}

#[test]
fn a_users_cancellation_names_whom_it_can() {
    let head = "msg_method=alipay.open.auth.userauth.cancelled&user_id=top&auth_app_id=";
    let read = |content: &str| post_json(head, content).user_cancellation().unwrap();
    let found = read(r#"{"auth_app_id":"2","open_id":"o"}"#);
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(found.auth_app_id, text("2"));
    assert_eq!(found.user_id, text("top"));
    assert_eq!(found.open_id, text("o"));
    assert_eq!(read("none").auth_app_id, None);
    let other = "msg_method=alipay.open.auth.appauth.cancelled&user_id=1";
    assert!(post(other).unwrap().user_cancellation().is_none());
}

#[test]
fn the_merchant_of_a_push_stands_in_its_detail() {
    let push = |content: &str| post_json(PUSH, content).auth_app_id();
    let inner = r#"{"auth_app_id":"wrong","detail":{"auth_app_id":"inner"}}"#;
    assert_eq!(push(inner).as_deref(), Some("inner"));
    assert_eq!(push(r#"{"auth_app_id":"wrong"}"#).as_deref(), Some("outer"));
    let other = post_json(
        "notify_type=t&auth_app_id=outer",
        r#"{"auth_app_id":"inner"}"#,
    );
    assert_eq!(other.auth_app_id().as_deref(), Some("inner"));
}

#[test]
fn unsigned_and_forged_notifications_are_refused() {
    for (form, kind) in [
        ("", "sign-missing"),
        ("a=1", "sign-missing"),
        ("a=1&sign=", "sign-missing"),
        ("a=1&sign=%2a", "sign-malformed"),
        ("a=1&sign=AAAA", "signature-mismatch"),
        ("a=1&sign=AAAA&sign_type=SM2", "sign-type-unknown"),
        ("a=1&sign=AAAA&sign_type=RSA", "sign-type-weaker"),
        ("a=1&sign=AAAA&sign=BBBB", "parameter-duplicate"),
        ("a=1&s%69gn=AAAA&sign=BBBB", "parameter-duplicate"),
        ("a=%", "parameter-invalid"),
        ("a=%ff", "charset-malformed"),
        ("a=1&charset=Big5", "charset-unsupported"),
        ("a=%80&%63harset=GBK", "charset-malformed"),
    ] {
        assert_eq!(verify(form).unwrap_err().kind(), kind, "{form}");
    }
}

#[test]
fn nothing_may_be_added_changed_or_taken_away() {
    let good = post("app_id=1&total_amount=1.00&x=y").unwrap();
    let change = |edit: &dyn Fn(&mut Params)| {
        let mut params = good.params().clone();
        edit(&mut params);
        verify(&params.to_form(Charset::Utf8).unwrap())
    };
    assert!(change(&|_| ()).is_ok());
    for edit in [
        &(|params: &mut Params| params.set("total_amount", "9.00")) as &dyn Fn(&mut Params),
        &|params| params.set("more", "1"),
        &|params| params.set("x", "y "),
        &|params| params.set("sign_type", "RSA"),
        &|params| drop(params.remove("x")),
        &|params| drop(params.remove("sign")),
    ] {
        assert!(change(edit).is_err());
    }
}

#[test]
fn a_hosts_default_charset_says_nothing() {
    for host in ["iso-8859-1", "US-ASCII", "windows-1252"] {
        let content_type = format!("application/x-www-form-urlencoded; charset={host}");
        assert_eq!(charset(Some(&content_type), b"a=1"), Ok(Charset::Utf8));
        assert!(charset(Some(&content_type), b"a=1&charset=latin1").is_err());
    }
}

#[test]
fn the_charset_is_the_parameters_then_the_headers() {
    let parse = |content_type, body: &str| {
        UnverifiedNotification::parse(content_type, body.as_bytes()).map(drop)
    };
    assert!(
        parse(
            Some("application/x-www-form-urlencoded; charset=GBK"),
            "charset=utf-8"
        )
        .is_ok()
    );
    assert!(
        parse(
            Some("application/x-www-form-urlencoded; charset=\"UTF-8\""),
            "a=1"
        )
        .is_ok()
    );
    assert!(parse(Some("application/x-www-form-urlencoded"), "a=1").is_ok());
    assert!(
        parse(
            Some("application/x-www-form-urlencoded; Charset = GBK"),
            "a=%80"
        )
        .is_err()
    );
    assert!(parse(Some("x; charset=gbk"), "charset=&a=%d6%d0").is_ok());
    assert!(parse(Some("x; charset=utf-8"), "charset=gbk&a=%d6%d0").is_ok());
    assert!(parse(Some("x; charset=gbk"), "charset=utf-8&a=%d6%d0").is_err());
}

#[test]
fn a_push_is_read_from_its_detail() {
    let read = push(
        r#"{"notify_context":{"trigger":"appstore","trigger_context":"{}"},"error":{ },
            "detail":{"app_id":"p","auth_app_id":"inner","app_auth_token":"t","app_refresh_token":"r",
            "app_auth_code":"c","auth_time":"1587573752655","user_id":2088,"agent_app_id":"a"}}"#,
    )
    .unwrap();
    assert_eq!(
        (read.app_id.as_str(), read.auth_app_id.as_str()),
        ("p", "inner")
    );
    assert_eq!(read.auth_time, Some(1_587_573_752_655));
    assert_eq!(read.user_id.as_deref(), Some("2088"));
    assert_eq!(read.trigger.as_deref(), Some("appstore"));
    assert_eq!(read.error, None);
    assert!(read.is_plugin && read.version_supported);
    assert!(!format!("{read:?}").contains("\"t\""));
}

#[test]
fn a_push_falls_back_to_the_top_level() {
    let read = push(r#"{"detail":{"app_auth_token":"t"},"error":{"appstore_online_pay":"FAIL"}}"#);
    let read = read.unwrap();
    assert_eq!(
        (read.app_id.as_str(), read.auth_app_id.as_str()),
        ("1", "outer")
    );
    assert_eq!(
        read.error.as_deref(),
        Some(r#"{"appstore_online_pay":"FAIL"}"#)
    );
    assert!(!read.is_plugin);
}

#[test]
fn an_unusable_push_is_an_error() {
    for biz_content in [
        "",
        "{}",
        "[]",
        "x",
        r#"{"detail":null}"#,
        r#"{"detail":{}}"#,
        r#"{"detail":["a","t"]}"#,
        r#"{"detail":{"app_auth_token":""}}"#,
        r#"{"detail":{"app_auth_token":["t"]}}"#,
    ] {
        assert!(push(biz_content).is_err(), "{biz_content}");
    }
}

#[test]
fn only_executed_authorisations_of_version_1_0_carry_a_token() {
    let json = r#"{"detail":{"app_auth_token":"t"}}"#;
    let head = "notify_type=open_app_auth_notify&app_id=1&auth_app_id=2";
    assert!(post_json(head, json).authorization().is_none());
    assert!(
        post_json(&format!("{head}&status=other"), json)
            .authorization()
            .is_none()
    );
    for (version, supported) in [("", true), ("1.0", true), ("1.1", false), ("2.0", false)] {
        let taken = post_json(&format!("{PUSH}&version={version}"), json);
        let read = taken.authorization().unwrap().unwrap();
        assert_eq!(read.version_supported, supported, "{version}");
    }
}

#[test]
fn a_cancellation_is_read_leniently_and_never_guessed() {
    let head = "msg_method=alipay.open.auth.appauth.cancelled&app_id=1&utc_timestamp=1700000000000";
    let check = |head: &str, json: &str, auth_app_id: Option<&str>, at: Option<i64>| {
        let read = post_json(head, json).cancellation().unwrap();
        assert_eq!(
            (read.auth_app_id.as_deref(), read.at),
            (auth_app_id, at),
            "{json}"
        );
        // The time of sending never passes for that of the cancellation: it may be a resend.
        assert_eq!(read.sent_at, Some(1_700_000_000_000));
    };
    let exact = r#"{"auth_app_id":"2","auth_time":5}"#;
    check(head, exact, Some("2"), Some(5));
    let unreadable = r#"{"auth_app_id":2,"auth_time":"x"}"#;
    check(head, unreadable, Some("2"), None);
    check(head, r#"{"app_id":"2"}"#, None, None);
    check(head, "not json", None, None);
    check(head, r#"["2",5]"#, None, None);
    check(&format!("{head}&auth_app_id=3"), "[]", Some("3"), None);
    assert!(
        post_json("msg_method=alipay.open.auth.userauth.cancelled", "{}")
            .cancellation()
            .is_none()
    );
}

#[test]
fn bodies_with_secrets_are_known() {
    for json in [
        r#"{"detail":{"app_auth_token":"t"}}"#,
        r#"{"a":[{"app_auth_code":"c"}]}"#,
        r#"{"app\u005fauth_token":"t"}"#,
        r#"{"a":"{\"app_auth_token\":\"t\"}"}"#,
    ] {
        assert!(post_json("a=1", json).holds_secret(), "{json}");
    }
    assert!(post("app_auth_code=c").unwrap().holds_secret());
    assert!(!post_json("auth_app_id=1", r#"{"auth_token":"t"}"#).holds_secret());
    assert!(SECRETS.iter().all(|secret| secret.starts_with("app_")));
    let harmless = r#"{"app_id":"app_token","app_auth":"code"}"#;
    assert!(!post_json("app_id=1", harmless).holds_secret());
}

#[test]
fn the_app_of_a_life_account_stands_in_its_xml() {
    for (xml, expected) in [
        ("<XML><AppId><![CDATA[2021]]></AppId></XML>", Some("2021")),
        ("<XML><AppId> 2021 </AppId></XML>", Some("2021")),
        ("<XML></XML>", None),
        ("<AppId></AppId>", None),
        ("<AppId>1</AppId><AppId>2</AppId>", None),
        ("<AppId><b></AppId>", None),
    ] {
        assert_eq!(app_id_of_xml(xml), expected, "{xml}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_signed_is_verified(
        pairs in proptest::collection::btree_map("[a-z]{1,3}", ".{0,9}", 0..6),
        kept: bool,
        scheme in prop_oneof![Just(Scheme::V1), Just(Scheme::V2)],
    ) {
        let mut params = Params::new();
        for (key, value) in &pairs {
            params.push(key, value).unwrap();
        }
        params.set("sign_type", "RSA2");
        let empty_values = if kept { EmptyValues::Kept } else { EmptyValues::Dropped };
        let content = sign_content::notification(&params, scheme, empty_values);
        params.set("sign", alipay().sign(SignType::Rsa2, content.as_bytes()).unwrap());
        let taken = verify(&params.to_form(Charset::Utf8).unwrap()).unwrap();
        prop_assert_eq!(taken.scheme(), scheme);
        prop_assert_eq!(taken.sign_content(), content);
    }

    #[test]
    fn reading_never_panics(body in proptest::collection::vec(any::<u8>(), 0..80), json in ".{0,60}") {
        let _ = UnverifiedNotification::parse(None, &body);
        let notification = Notification {
            charset: Charset::Utf8,
            is_opened: false,
            params: [("biz_content", json.as_str()), ("notify_type", "open_app_auth_notify"), ("status", "execute_auth")]
                .into_iter()
                .fold(Params::new(), |mut params, (key, value)| { params.set(key, value); params }),
            scheme: Scheme::V1,
            sign_content: String::new(),
        };
        let _ = notification.authorization();
        let _ = Cancellation::read(notification.params());
        let _ = (notification.auth_app_id(), notification.holds_secret(), notification.out_trade_no());
    }
}

fn unverified(form: &str) -> UnverifiedNotification {
    UnverifiedNotification::parse(None, form.as_bytes()).unwrap()
}

#[test]
fn attempts_of_one_notification_have_one_lasting_content() {
    let first = unverified("notify_id=1&a=2&notify_time=3&sign=4&sign_type=RSA2&e=");
    let again = unverified(
        "a=2&notify_id=1&notify_time=9&sign=8&sign_type=RSA&utc_timestamp=7&alipay_cert_sn=6",
    );
    assert_eq!(first.lasting_content(), again.lasting_content());
    assert!(first.differences(&again).is_empty());
    for (other, differs) in [
        ("notify_id=1&a=3", &["a"][..]),
        ("notify_id=1&b=2", &["a", "b"]),
        ("notify_id=1&a=2&Sign=4", &["Sign"]),
    ] {
        let other = unverified(other);
        assert_ne!(first.lasting_content(), other.lasting_content());
        assert_eq!(first.differences(&other), differs);
    }
}

#[test]
fn what_is_signed_alike_has_no_lasting_content_in_common() {
    let one = unverified("a=1%26b%3D2");
    let two = unverified("a=1&b=2");
    assert_ne!(one.lasting_content(), two.lasting_content());
}

#[test]
fn a_claim_is_read_as_the_verified_one_is() {
    let claimed = unverified("notify_id=1&notify_type=x&msg_method=y&app_id=2");
    assert_eq!(claimed.claimed_notify_id(), Some("1"));
    assert_eq!(claimed.claimed_event_type(), "y");
    assert_eq!(unverified("notify_id=").claimed_notify_id(), None);
}

#[test]
fn a_secret_is_found_behind_escapes_and_an_escape_is_none() {
    for (value, expected) in [
        ("app_auth_token", true),
        (r#"{"\u0061pp_auth_token":"x"}"#, true),
        (r#"{"app":"\u4e2d"}"#, false),
        (r#"{"app":"x"}"#, false),
        (r"\u0061pp", false),
    ] {
        assert_eq!(mentions_secret(value), expected, "{value}");
    }
}
