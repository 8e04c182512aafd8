//! The operator's side of authorisations through the admin API: links, invitations, subscriptions,
//! tokens by hand, records proved.

use alipay_sidecar::model::authorization::{Authorization, Doubt, Rank, Refusal, Source};
use alipay_sidecar::model::id::{AppId, AuthAppId};
use alipay_sidecar::model::merchant::{Merchant, MerchantStatus};
use alipay_sidecar::model::token::AppAuthToken;
use alipay_sidecar::net::client::Reply;
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::simulator::{
    DEFAULT_APP_ID, FIRST_APP_AUTH_TOKEN, FIRST_APP_REFRESH_TOKEN, FIRST_AUTH_APP_ID, FIRST_PID,
    Fault, FaultKind, SECOND_APP_AUTH_TOKEN, SECOND_AUTH_APP_ID, SECOND_PID,
};
use alipay_sidecar::store::{Change, MerchantKey};
use http::{Method, Request};
use serde_json::{Value, json};

use crate::support::{TestSidecar, add_merchant, header, json as parsed, merchant, text};

pub(crate) const FIRST: &str = "/api/merchants/2021000000000001/2021000000001001";
const SECOND: &str = "/api/merchants/2021000000000001/2021000000001002";
const LINKS: &str = "/api/apps/2021000000000001/links";
const SUBSCRIPTIONS: &str = "/api/apps/2021000000000001/subscriptions";
const CANCELLED: &str = "alipay.open.auth.appauth.cancelled";

pub(crate) async fn ask(sidecar: &TestSidecar, method: Method, path: &str, body: Value) -> Reply {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let reply = sidecar.admin(method, path, body).await;
    for secret in [
        FIRST_APP_AUTH_TOKEN,
        FIRST_APP_REFRESH_TOKEN,
        SECOND_APP_AUTH_TOKEN,
    ] {
        assert!(!text(&reply).contains(secret), "{path}: {}", text(&reply));
    }
    reply
}

pub(crate) async fn post(sidecar: &TestSidecar, path: &str, body: Value) -> Value {
    let reply = ask(sidecar, Method::POST, path, body).await;
    assert_eq!(reply.status, 200, "{path}: {}", text(&reply));
    parsed(&reply)
}

pub(crate) async fn check_refused(
    sidecar: &TestSidecar,
    path: &str,
    body: Value,
    expected: (u16, &str),
) {
    let reply = ask(sidecar, Method::POST, path, body).await;
    let code = header(&reply, "alipay-sidecar-error");
    assert_eq!(
        (reply.status.as_u16(), code),
        expected,
        "{path}: {}",
        text(&reply)
    );
}

/// A sidecar that calls itself by a name of the world, before Alipay's production pages.
async fn production() -> TestSidecar {
    TestSidecar::start_with(|config| {
        config.webhook.public_url = Some("https://isv.example.com".to_owned());
        config.upstream.authorize = Some("https://openauth.alipay.com".to_owned());
    })
    .await
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let mut digit = || {
            char::from(rest.next().expect("two digits"))
                .to_digit(16)
                .expect("hex")
        };
        bytes.push(match byte {
            b'%' => u8::try_from(digit() * 16 + digit()).expect("a byte"),
            other => other,
        });
    }
    String::from_utf8(bytes).expect("UTF-8")
}

/// The text between `before` and `after`.
fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let (_, rest) = text
        .split_once(before)
        .unwrap_or_else(|| panic!("no {before} in {text}"));
    rest.split_once(after).map_or(rest, |(found, _)| found)
}

const REDIRECT: &str = "https%3A%2F%2Fisv.example.com%2Falipay%2Fauth";

#[tokio::test]
async fn classic_links_are_written_as_alipay_documents_them() {
    let sidecar = production().await;
    for (page, types, expected) in [
        (
            "single",
            "",
            "https://openauth.alipay.com/oauth2/appToAppAuth.htm?app_id=2021000000000001",
        ),
        (
            "batch",
            "TINYAPP,WEBAPP",
            "https://openauth.alipay.com/oauth2/appToAppBatchAuth.htm?app_id=2021000000000001&application_type=TINYAPP%2CWEBAPP",
        ),
    ] {
        let link = post(
            &sidecar,
            LINKS,
            json!({"page": page, "types": types, "ref": "shop-17"}),
        )
        .await;
        let url = link["url"].as_str().expect("a URL");
        let state = between(url, "&state=", "&");
        assert_eq!(
            url,
            format!("{expected}&redirect_uri={REDIRECT}&state={state}")
        );
        assert!(state.len() <= 100 && state.ends_with("shop-17"), "{state}");
        assert_eq!(link["redirect_uri"], "https://isv.example.com/alipay/auth");
        assert_eq!(
            (&link["ref"], &link["app_id"]),
            (&json!("shop-17"), &json!(DEFAULT_APP_ID))
        );
    }
}

/// The JSON that Alipay's page gets, and its state.
fn check_biz_data(data: &str) -> String {
    let parsed: Value = serde_json::from_str(data).expect(data);
    let state = parsed["agentOpParam"]["state"]
        .as_str()
        .expect("a state")
        .to_owned();
    assert!(state.len() <= 100, "{state}");
    let expected = format!(
        r#"{{"platformCode":"O","taskType":"INTERFACE_AUTH","agentOpParam":{{"redirectUri":"https://isv.example.com/alipay/auth","appTypes":["TINYAPP"],"isvAppId":"2021000000000001","state":"{state}"}}}}"#
    );
    assert_eq!(data, expected);
    state
}

#[tokio::test]
async fn links_for_specified_applications_are_encoded_once_and_in_the_app_twice() {
    let sidecar = production().await;
    let made = |page: &str| json!({"page": page, "types": "TINYAPP", "ref": "\u{5546}\u{5bb6}"});
    let link = post(&sidecar, LINKS, made("specified")).await;
    let url = link["url"].as_str().expect("a URL");
    let data = url.strip_prefix("https://b.alipay.com/page/message/tasksDetail?bizData=");
    let data = data.unwrap_or_else(|| panic!("{url}"));
    assert!(
        data.starts_with("%7B%22platformCode%22%3A%22O%22%2C"),
        "{data}"
    );
    check_biz_data(&decoded(data));

    let link = post(&sidecar, LINKS, made("in-app")).await;
    let url = link["url"].as_str().expect("a URL");
    let page = url.strip_prefix("alipays://platformapi/startapp?appId=2021003130652097&page=");
    let page = page.unwrap_or_else(|| panic!("{url}"));
    assert!(
        page.starts_with("pages%2Fauthorize%2Findex%3FbizData%3D%257B%2522platformCode%2522%253A"),
        "{page}"
    );
    let once = decoded(page);
    let data = once
        .strip_prefix("pages/authorize/index?bizData=")
        .expect("the mini program's page");
    check_biz_data(&decoded(data));
}

#[tokio::test]
async fn the_way_back_is_the_registered_address() {
    let sidecar = TestSidecar::start_with(|config| {
        config.webhook.public_url = None;
        config.webhook.auth_redirect_uri = Some("https://www.example.com/old/auth".to_owned());
    })
    .await;
    let link = post(&sidecar, LINKS, json!({})).await;
    assert_eq!(link["page"], "batch");
    assert!(
        link["url"]
            .as_str()
            .expect("a URL")
            .contains("redirect_uri=https%3A%2F%2Fwww.example.com%2Fold%2Fauth&")
    );
    let nowhere = TestSidecar::start_with(|config| config.webhook.public_url = None).await;
    check_refused(&nowhere, LINKS, json!({}), (409, "public-url-missing")).await;
}

#[tokio::test]
async fn links_that_make_no_sense_are_refused() {
    let sidecar = TestSidecar::start().await;
    let long = "x".repeat(65);
    for body in [
        json!({"page": "other"}),
        json!({"types": "OTHER"}),
        json!({"ref": long}),
        json!({"ref": "a\nb"}),
        json!({"lifetime_s": 0}),
        json!({"lifetime_s": 86_401}),
        json!({"auth_app_id": FIRST_AUTH_APP_ID}),
        json!({"page": "invite"}),
        json!({"unknown": 1}),
    ] {
        check_refused(&sidecar, LINKS, body, (400, "body-invalid")).await;
    }
    let other = "/api/apps/2021000000000099/links";
    check_refused(&sidecar, other, json!({}), (400, "app-unknown")).await;
}

#[tokio::test]
async fn an_invited_merchant_comes_back_with_its_ref() {
    let sidecar = TestSidecar::start().await;
    let body = json!({"page": "invite", "auth_app_id": FIRST_AUTH_APP_ID, "ref": "shop-17"});
    let link = post(&sidecar, LINKS, body).await;
    let url = link["url"].as_str().expect("a URL");
    let data: Value = serde_json::from_str(&decoded(between(url, "bizData=", "&"))).expect("JSON");
    let state = data["agentOpParam"]["state"].as_str().expect("a state");
    assert!(
        state.len().is_multiple_of(4) && state.bytes().all(|b| b.is_ascii_alphanumeric()),
        "{state}"
    );
    let page = url.replace("https://b.alipay.com", &sidecar.simulator.url());
    let away = get(&page).await;
    let back = header(&away, "location");
    assert!(
        back.starts_with(&format!("{}/alipay/auth?", sidecar.webhook)),
        "{back}"
    );
    assert_eq!(get(back).await.status, 200);
    let shown = parsed(&ask(&sidecar, Method::GET, FIRST, Value::Null).await);
    assert_eq!(
        (&shown["ref"], &shown["source"]),
        (&json!("shop-17"), &json!("callback"))
    );

    let stranger = json!({"page": "invite", "auth_app_id": "2021000000009999"});
    check_refused(&sidecar, LINKS, stranger, (422, "alipay-refused")).await;
}

async fn get(url: &str) -> Reply {
    let request = Request::get(url)
        .body(http_body_util::Full::default())
        .expect("a request");
    crate::support::client()
        .send(request, crate::support::PATIENCE)
        .await
        .expect("an answer")
}

#[tokio::test]
async fn a_link_may_live_longer_and_dies_then() {
    let sidecar = TestSidecar::start().await;
    let before = post(&sidecar, LINKS, json!({})).await;
    let after = post(&sidecar, LINKS, json!({"lifetime_s": 86_400})).await;
    let at = |link: &Value| link["expires_at"].as_i64().expect("a time");
    let longer = at(&after) - at(&before);
    assert!((84_600_000..84_660_000).contains(&longer), "{longer}");
}

async fn record(sidecar: &TestSidecar, auth_app_id: &str) -> Merchant {
    let app_id = AppId::new(DEFAULT_APP_ID).expect("id");
    let auth_app_id = AuthAppId::new(auth_app_id).expect("id");
    let found = sidecar
        .sidecar
        .store()
        .find(MerchantKey::Exact(app_id, auth_app_id))
        .await;
    found.expect("read").pop().expect("a record")
}

#[tokio::test]
async fn a_proved_record_learns_its_pid() {
    let sidecar = TestSidecar::start().await;
    let path = format!("{SECOND}/verify");
    let nameless = Authorization {
        pid: None,
        ..merchant(SECOND_AUTH_APP_ID, SECOND_PID, SECOND_APP_AUTH_TOKEN, None)
    };
    add_merchant(&*sidecar.sidecar.store(), nameless).await;
    let seen = post(&sidecar, &format!("{path}?dry_run=true"), Value::Null).await;
    assert_eq!(
        (&seen["verdict"], &seen["user_id"]),
        (&json!("valid"), &Value::Null)
    );
    assert_eq!(seen["said_user_id"], SECOND_PID);
    let proved = post(&sidecar, &path, Value::Null).await;
    assert_eq!(
        (&proved["verdict"], &proved["pid_filled"]),
        (&json!("valid"), &json!(true))
    );
    assert_eq!(proved["user_id"], SECOND_PID);
    let again = post(&sidecar, &path, Value::Null).await;
    assert_eq!(
        (&again["verdict"], &again["pid_filled"]),
        (&json!("valid"), &json!(false))
    );
    let stored = record(&sidecar, SECOND_AUTH_APP_ID).await;
    assert_eq!((stored.auth_time, stored.auth_time_estimated), (1, false));
}

#[tokio::test]
async fn what_alipay_calls_invalid_is_marked_and_told() {
    let sidecar = TestSidecar::start().await;
    let path = format!("{FIRST}/verify");
    sidecar
        .simulator
        .revoke(None, Some(FIRST_AUTH_APP_ID))
        .expect("a grant");
    let seen = post(&sidecar, &format!("{path}?dry_run=true"), Value::Null).await;
    assert_eq!(
        (&seen["verdict"], &seen["marked"]),
        (&json!("invalid"), &json!(false))
    );
    assert_eq!(
        record(&sidecar, FIRST_AUTH_APP_ID).await.status,
        MerchantStatus::Authorized
    );
    let proved = post(&sidecar, &path, Value::Null).await;
    assert_eq!(
        (&proved["verdict"], &proved["marked"]),
        (&json!("invalid"), &json!(true))
    );
    assert_eq!(proved["status"], "revoked");
    let told = sidecar.backend.next().await;
    let event: Value = serde_json::from_slice(&told.body).expect("JSON");
    assert_eq!(event["type"], "merchant.revoked");
    assert_eq!(event["auth_app_id"], FIRST_AUTH_APP_ID);
    let again = post(&sidecar, &path, Value::Null).await;
    assert_eq!(
        (&again["verdict"], &again["marked"]),
        (&json!("invalid"), &json!(false))
    );
    let call = sidecar
        .post("/v2/alipay.trade.query", r#"{"out_trade_no":"1"}"#)
        .await;
    assert_eq!(
        header(&call, "alipay-sidecar-error"),
        "merchant-unauthorized"
    );
}

#[tokio::test]
async fn a_suspect_is_cleared_by_a_token_that_holds_and_revoked_by_one_that_does_not() {
    let sidecar = TestSidecar::start().await;
    let (path, store) = (format!("{FIRST}/verify"), sidecar.sidecar.store());
    let suspect = async || {
        let held = record(&sidecar, FIRST_AUTH_APP_ID).await;
        let doubt = Change::Doubt {
            refusal: Refusal::new(&held, Doubt::NewTokenRefused, held.auth_time),
            entry: None,
        };
        store.commit(vec![doubt]).await.expect("committed");
        record(&sidecar, FIRST_AUTH_APP_ID).await.status.as_str()
    };
    assert_eq!(suspect().await, "suspect");
    let seen = post(&sidecar, &format!("{path}?dry_run=true"), Value::Null).await;
    assert_eq!(
        (&seen["status"], &seen["cleared"]),
        (&json!("suspect"), &json!(false))
    );
    let proved = post(&sidecar, &path, Value::Null).await;
    assert_eq!(
        (&proved["verdict"], &proved["status"], &proved["cleared"]),
        (&json!("valid"), &json!("authorized"), &json!(true))
    );
    assert_eq!(record(&sidecar, FIRST_AUTH_APP_ID).await.doubt, None);

    assert_eq!(suspect().await, "suspect");
    sidecar
        .simulator
        .revoke(None, Some(FIRST_AUTH_APP_ID))
        .expect("a grant");
    let proved = post(&sidecar, &path, Value::Null).await;
    assert_eq!(
        (&proved["verdict"], &proved["marked"]),
        (&json!("invalid"), &json!(true))
    );
    let told = sidecar.backend.next().await;
    let event: Value = serde_json::from_slice(&told.body).expect("JSON");
    // As where the sidecar itself asks about a token that was refused.
    assert_eq!(
        (&event["type"], &event["trigger"]),
        (&json!("merchant.revoked"), &json!("token-refused"))
    );
}

#[tokio::test]
async fn a_token_that_has_timed_out_is_renewed_and_its_merchant_not_revoked() {
    let sidecar = TestSidecar::start().await;
    let path = format!("{FIRST}/verify");
    let before = record(&sidecar, FIRST_AUTH_APP_ID).await;
    sidecar
        .simulator
        .time_out_tokens(None, Some(FIRST_AUTH_APP_ID))
        .expect("tokens");
    let seen = post(&sidecar, &format!("{path}?dry_run=true"), Value::Null).await;
    assert_eq!(
        (&seen["verdict"], &seen["renewed"]),
        (&json!("invalid"), &json!(false))
    );
    let proved = post(&sidecar, &path, Value::Null).await;
    assert_eq!(
        (&proved["verdict"], &proved["renewed"], &proved["marked"]),
        (&json!("valid"), &json!(true), &json!(false))
    );
    let after = record(&sidecar, FIRST_AUTH_APP_ID).await;
    assert_eq!(after.status, MerchantStatus::Authorized);
    assert!(after.token.app_auth_token != before.token.app_auth_token);
}

#[tokio::test]
async fn a_merchant_whose_pair_before_holds_is_suspect_and_not_revoked() {
    let sidecar = TestSidecar::start().await;
    let path = format!("{FIRST}/verify");
    // A refresh whose token never holds, and that can't be made again.
    post(&sidecar, &format!("{FIRST}/refresh"), Value::Null).await;
    let held = record(&sidecar, FIRST_AUTH_APP_ID).await;
    let spoilt = Authorization {
        token: AppAuthToken {
            app_auth_token: Secret::new("never-worked".to_owned()),
            app_refresh_token: None,
            stated_expiry: None,
        },
        source: Source::Refresh,
        ..imported(&held)
    };
    let change = Change::Authorize {
        authorization: Box::new(spoilt),
        entry: None,
    };
    let store = sidecar.sidecar.store();
    store.commit(vec![change]).await.expect("committed");
    let proved = post(&sidecar, &path, Value::Null).await;
    assert_eq!(
        (&proved["verdict"], &proved["status"], &proved["marked"]),
        (&json!("invalid"), &json!("suspect"), &json!(false))
    );
    let suspect = record(&sidecar, FIRST_AUTH_APP_ID).await;
    assert_eq!(suspect.doubt, Some(Doubt::NewTokenRefused));
    sidecar
        .simulator
        .revoke(None, Some(FIRST_AUTH_APP_ID))
        .expect("a grant");
    let proved = post(&sidecar, &path, Value::Null).await;
    assert_eq!(
        (&proved["status"], &proved["marked"]),
        (&json!("revoked"), &json!(true))
    );
}

/// What would give the record of `held` again, by now.
fn imported(held: &Merchant) -> Authorization {
    Authorization {
        rank: Rank::AfterStored,
        ..merchant(held.auth_app_id.as_str(), FIRST_PID, "t", None)
    }
}

#[tokio::test]
async fn a_token_of_another_merchant_is_told_and_nothing_changed() {
    let sidecar = TestSidecar::start().await;
    let wrong = merchant(SECOND_AUTH_APP_ID, SECOND_PID, "t", None);
    let mut wrong = Authorization {
        pid: None,
        rank: Rank::AuthTime(2),
        ..wrong
    };
    // The first merchant's other token, filed under the second.
    let code = sidecar
        .simulator
        .app_auth_code(None, &[FIRST_AUTH_APP_ID])
        .expect("a merchant");
    let exchanged = post(
        &sidecar,
        "/api/apps/2021000000000001/exchange",
        json!({"code": code}),
    )
    .await;
    assert_eq!(exchanged["items"][0]["auth_app_id"], FIRST_AUTH_APP_ID);
    let held = record(&sidecar, FIRST_AUTH_APP_ID).await;
    ask(&sidecar, Method::DELETE, FIRST, Value::Null).await;
    wrong.token = held.token;
    add_merchant(&*sidecar.sidecar.store(), wrong).await;
    let seen = post(&sidecar, &format!("{SECOND}/verify"), Value::Null).await;
    assert_eq!(
        (&seen["verdict"], &seen["pid_filled"]),
        (&json!("differs"), &json!(false))
    );
    assert_eq!(
        (&seen["said_auth_app_id"], &seen["said_user_id"]),
        (&json!(FIRST_AUTH_APP_ID), &json!(FIRST_PID))
    );
    let stored = record(&sidecar, SECOND_AUTH_APP_ID).await;
    assert_eq!(
        (stored.pid, stored.status),
        (None, MerchantStatus::Authorized)
    );
}

#[tokio::test]
async fn an_alipay_that_cannot_be_asked_proves_and_marks_nothing() {
    let sidecar = TestSidecar::start().await;
    for kind in [FaultKind::Reset, FaultKind::Tampered, FaultKind::Unsigned] {
        sidecar.simulator.fault(Fault::once(kind).times(3));
        let seen = post(&sidecar, &format!("{FIRST}/verify"), Value::Null).await;
        assert_eq!(seen["verdict"], "unasked", "{seen}");
        assert!(seen["error"].is_string(), "{seen}");
        sidecar.simulator.clear_faults();
    }
    assert_eq!(
        record(&sidecar, FIRST_AUTH_APP_ID).await.status,
        MerchantStatus::Authorized
    );
    let stranger = "/api/merchants/2021000000000001/2021000000009999/verify";
    check_refused(&sidecar, stranger, Value::Null, (404, "merchant-unknown")).await;
}

#[tokio::test]
async fn tokens_are_asked_about_and_refreshed_by_hand() {
    let sidecar = TestSidecar::start().await;
    let path = format!("{FIRST}/token");
    let said = parsed(&ask(&sidecar, Method::GET, &path, Value::Null).await);
    assert_eq!(
        (&said["status"], &said["user_id"]),
        (&json!("valid"), &json!(FIRST_PID))
    );
    assert!(
        said["auth_methods"]
            .as_array()
            .is_some_and(|methods| !methods.is_empty())
    );
    let before = parsed(&ask(&sidecar, Method::GET, FIRST, Value::Null).await);
    let after = post(&sidecar, &format!("{FIRST}/refresh"), Value::Null).await;
    assert_ne!(before["token_fingerprint"], after["token_fingerprint"]);
    assert_eq!(after["source"], "refresh");
    let used = json!({"code": "rubbish"});
    let exchange = "/api/apps/2021000000000001/exchange";
    check_refused(&sidecar, exchange, used, (422, "token-refused")).await;
    check_refused(&sidecar, exchange, json!({}), (400, "body-invalid")).await;
}

#[tokio::test]
async fn subscriptions_are_made_for_the_app_and_for_merchants_and_again() {
    let sidecar = TestSidecar::start().await;
    let own = json!({"topics": [CANCELLED]});
    let merchants = json!({"topics": [CANCELLED, "alipay.open.auth.userauth.cancelled"], "auth_app_id": FIRST_AUTH_APP_ID});
    for (body, count) in [(&own, 1), (&merchants, 2), (&merchants, 2)] {
        let made = post(&sidecar, SUBSCRIPTIONS, body.clone()).await;
        let items = made["items"].as_array().expect("a list");
        assert_eq!(items.len(), count);
        assert!(
            items.iter().all(|item| item["subscribed"] == true),
            "{made}"
        );
    }
    let kept = sidecar.simulator.state();
    let entry = |topic: &str, merchant: Value| json!({"app_id": DEFAULT_APP_ID, "topic": topic, "comm_type": "HTTP", "auth_app_id": merchant});
    let expected = json!([
        entry(CANCELLED, Value::Null),
        entry(CANCELLED, json!(FIRST_AUTH_APP_ID)),
        entry(
            "alipay.open.auth.userauth.cancelled",
            json!(FIRST_AUTH_APP_ID)
        ),
    ]);
    assert_eq!(kept["subscriptions"], expected);
    sidecar
        .simulator
        .revoke(None, Some(FIRST_AUTH_APP_ID))
        .expect("a grant");
    let refused = post(&sidecar, SUBSCRIPTIONS, merchants).await;
    assert_eq!(refused["items"][0]["subscribed"], false);
    let error = refused["items"][0]["error"].as_str().expect("a reason");
    assert!(error.contains("aop.invalid-app-auth-token"), "{error}");
    for body in [
        json!({}),
        json!({"topics": ["a b"]}),
        json!({"topics": [1]}),
    ] {
        check_refused(&sidecar, SUBSCRIPTIONS, body, (400, "body-invalid")).await;
    }
}
