//! Users' access tokens: kept, injected for `Alipay-User`, refreshed; and codes sent once.

use std::sync::Arc;
use std::time::Duration;

use alipay_sidecar::clock::{Clock, ManualClock, SystemClock};
use alipay_sidecar::config::Config;
use alipay_sidecar::model::id::{AppId, AuthAppId};
use alipay_sidecar::model::user_token::{UserKey, UserName};
use alipay_sidecar::net::client::Reply;
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::proxy::error::ErrorCode;
use alipay_sidecar::sidecar::Sidecar;
use alipay_sidecar::simulator::{
    DEFAULT_APP_ID, DEFAULT_USER_ID, Event, FIRST_AUTH_APP_ID, Fault, FaultKind,
    SECOND_APP_AUTH_TOKEN, SECOND_AUTH_APP_ID, SECOND_PID, TriggerOptions,
};
use alipay_sidecar::store::Change;
use alipay_sidecar::token::TOKEN_METHOD;
use http::{Method, Request};

use crate::support::brittle::{BrittleSigner, BrittleStore, Failing};
use crate::support::upstream::{Answer, FakeAlipay};
use crate::support::{ALIAS, PATIENCE, TestSidecar, add_merchant, header, json, merchant, text};

const LOGIN: &str = "alipay.system.oauth.token";
const SHARED: &str = "alipay.user.info.share";
const SHARE: &str = "/v2/alipay.user.info.share";
const SHARE_V3: &str = "/v3/alipay/user/info/share";
const DAY: i64 = 24 * 3_600_000;
/// The life of the simulator's access tokens.
const LIFE: i64 = 15 * DAY;
const REFRESHED: &str = r#"alipay_sidecar_user_token_refreshes_total{outcome="refreshed"}"#;

fn remembering(config: &mut Config) {
    config.tokens.remember_users = true;
}

async fn started() -> TestSidecar {
    TestSidecar::start_with(remembering).await
}

/// A sidecar whose merchants' tokens Alipay takes no longer.
async fn timed_out() -> TestSidecar {
    let sidecar = started().await;
    sidecar
        .simulator
        .time_out_tokens(None, None)
        .expect("tokens");
    sidecar
}

/// A sidecar whose clock the test moves.
async fn clocked() -> (TestSidecar, ManualClock) {
    let clock = ManualClock::new(SystemClock.now_ms());
    let told = clock.clone();
    let built = TestSidecar::start_built(remembering, |_, b| b.clock(Arc::new(told))).await;
    (built, clock)
}

impl TestSidecar {
    fn user_code(&self) -> String {
        self.simulator.auth_code(None, None).expect("a code")
    }

    async fn send_code(&self, code: &str) -> Reply {
        let path = format!("/v2/{LOGIN}?grant_type=authorization_code&code={code}");
        self.post(&path, "").await
    }

    /// Logs the default user in, and gives the reply.
    async fn logged_in(&self) -> serde_json::Value {
        let reply = self.send_code(&self.user_code()).await;
        let told = json(&reply);
        assert!(told["access_token"].is_string(), "{}", text(&reply));
        told
    }

    /// Makes a call for a user.
    async fn for_user(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header("alipay-merchant", ALIAS);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.proxy(request, "").await
    }

    async fn share(&self) -> Reply {
        self.for_user(SHARE, &[("alipay-user", DEFAULT_USER_ID)])
            .await
    }

    fn asked(&self, method: &str) -> usize {
        let requests = self.simulator.requests();
        requests.iter().filter(|r| r.method == method).count()
    }
}

fn check_shared(reply: &Reply) {
    assert_eq!(json(reply)["user_id"], DEFAULT_USER_ID, "{}", text(reply));
}

fn check_refused(reply: &Reply, code: &str) {
    assert_eq!(
        header(reply, "alipay-sidecar-error"),
        code,
        "{}",
        text(reply)
    );
    assert_eq!(header(reply, "alipay-sidecar-outcome"), "not-sent");
}

#[tokio::test]
async fn a_users_token_is_kept_and_put_into_calls_by_either_name() {
    let sidecar = started().await;
    let told = sidecar.logged_in().await;
    check_shared(&sidecar.share().await);
    let open_id = told["open_id"].as_str().expect("an open_id");
    let gateway = "/gateway.do?method=alipay.user.info.share";
    for path in [SHARE, SHARE_V3] {
        for user in [DEFAULT_USER_ID, open_id] {
            check_shared(&sidecar.for_user(path, &[("alipay-user", user)]).await);
        }
    }
    let reply = sidecar.for_user(gateway, &[("alipay-user", open_id)]).await;
    assert_eq!(
        json(&reply)["alipay_user_info_share_response"]["user_id"],
        DEFAULT_USER_ID
    );
    let reply = sidecar
        .sidecar
        .request("alipay.user.info.share")
        .merchant(ALIAS)
        .user(open_id)
        .send()
        .await;
    assert_eq!(reply.expect("shared").code(), Some("10000"));
    for request in sidecar.simulator.requests().iter().skip(1) {
        let names = request.query.iter().chain(&request.body);
        assert_eq!(names.filter(|name| *name == "auth_token").count(), 1);
    }
}

#[tokio::test]
async fn a_login_on_any_route_is_kept() {
    for path in ["/gateway.do", "/v3/alipay/system/oauth/token"] {
        let sidecar = started().await;
        let code = sidecar.user_code();
        let reply = if path == "/gateway.do" {
            let path = format!("{path}?method={LOGIN}&grant_type=authorization_code&code={code}");
            sidecar.post(&path, "").await
        } else {
            let body = format!(r#"{{"grant_type":"authorization_code","code":"{code}"}}"#);
            sidecar.post(path, body).await
        };
        assert!(text(&reply).contains("access_token"), "{}", text(&reply));
        check_shared(&sidecar.share().await);
    }
}

#[tokio::test]
async fn a_token_of_one_merchants_user_is_no_other_merchants() {
    let sidecar = started().await;
    sidecar.logged_in().await;
    let second = merchant(
        SECOND_AUTH_APP_ID,
        SECOND_PID,
        SECOND_APP_AUTH_TOKEN,
        Some("other"),
    );
    add_merchant(&*sidecar.sidecar.store(), second).await;
    for tag in ["other", "self"] {
        let request = Request::builder()
            .method(Method::POST)
            .uri(SHARE)
            .header("alipay-merchant", tag)
            .header("alipay-user", DEFAULT_USER_ID);
        let reply = sidecar.proxy(request, "").await;
        check_refused(&reply, "token-unknown");
        assert_eq!(reply.status, 404);
    }
    assert_eq!(sidecar.asked("alipay.user.info.share"), 0);
}

#[tokio::test]
async fn what_the_header_may_not_say_is_refused_and_nothing_is_sent() {
    let sidecar = started().await;
    let told = sidecar.logged_in().await;
    let token = told["access_token"].as_str().expect("a token");
    let user = ("alipay-user", DEFAULT_USER_ID);
    let with_token = |path: &str| format!("{path}?auth_token={token}");
    let upper = format!("{SHARE}?Auth_Token={token}");
    for (path, headers, code) in [
        (SHARE, vec![user, user], "parameter-duplicate"),
        (SHARE, vec![("alipay-user", "")], "parameter-invalid"),
        (SHARE, vec![("alipay-user", "a b")], "parameter-invalid"),
        (SHARE, vec![("alipay-user", "nobody")], "token-unknown"),
        (&with_token(SHARE), vec![user], "parameter-duplicate"),
        (&upper, vec![user], "parameter-duplicate"),
        (&with_token(SHARE_V3), vec![user], "parameter-duplicate"),
        (&format!("/v2/{LOGIN}"), vec![user], "parameter-invalid"),
        (
            &format!("{SHARE}/page-url"),
            vec![user],
            "parameter-invalid",
        ),
    ] {
        let reply = sidecar.for_user(path, &headers).await;
        check_refused(&reply, code);
        assert!(!text(&reply).contains(token));
    }
    assert_eq!(sidecar.asked("alipay.user.info.share"), 0);
    let off = TestSidecar::start().await;
    check_refused(&off.share().await, "parameter-invalid");
}

#[tokio::test]
async fn a_route_on_which_a_user_means_nothing_says_so() {
    for sidecar in [started().await, TestSidecar::start().await] {
        for (method, path) in [
            (Method::POST, "/verify/return"),
            (Method::POST, "/verify/app-result"),
            (Method::POST, "/m/shop/v2/client-data/decrypt"),
            (Method::GET, "/calls?x_request_id=1"),
            (Method::POST, "/events/claim"),
        ] {
            for user in [DEFAULT_USER_ID, ""] {
                let request = Request::builder().method(method.clone()).uri(path);
                let request = request.header("alipay-user", user);
                let reply = sidecar.proxy(request, "").await;
                assert_eq!(reply.status, 400, "{path}");
                check_refused(&reply, "parameter-invalid");
                assert!(text(&reply).contains("/v2/{method}"), "{}", text(&reply));
            }
        }
    }
}

#[tokio::test]
async fn a_due_token_is_refreshed_once_before_its_end_for_all_who_ask() {
    let (sidecar, clock) = clocked().await;
    let told = sidecar.logged_in().await;
    clock.advance_ms(LIFE - DAY);
    check_shared(&sidecar.share().await);
    assert_eq!(sidecar.asked(LOGIN), 1, "it isn't due yet");
    clock.advance_ms(DAY - 1000);
    let open_id = told["open_id"].as_str().expect("an open_id");
    let by_open_id = [("alipay-user", open_id)];
    let (first, second, third) = tokio::join!(
        sidecar.share(),
        sidecar.for_user(SHARE, &by_open_id),
        sidecar.share()
    );
    for reply in [first, second, third] {
        check_shared(&reply);
    }
    assert_eq!(sidecar.asked(LOGIN), 2);
    assert!((sidecar.metric(REFRESHED).await - 1.0).abs() < 0.1);
    check_shared(&sidecar.share().await);
    assert_eq!(sidecar.asked(LOGIN), 2);
}

#[tokio::test]
async fn a_refresh_does_not_move_the_end_and_after_it_the_user_logs_in_again() {
    let (sidecar, clock) = clocked().await;
    sidecar.logged_in().await;
    clock.advance_ms(LIFE);
    check_shared(&sidecar.share().await);
    clock.advance_ms(LIFE);
    let reply = sidecar.share().await;
    check_refused(&reply, "token-unknown");
    assert!(text(&reply).contains("log the user in"), "{}", text(&reply));
    assert_eq!(sidecar.asked(LOGIN), 2);
    sidecar.logged_in().await;
    check_shared(&sidecar.share().await);
}

#[tokio::test]
async fn a_lost_answer_to_a_refresh_leaves_the_user_to_log_in_again() {
    let (sidecar, clock) = clocked().await;
    sidecar.logged_in().await;
    clock.advance_ms(LIFE);
    sidecar
        .simulator
        .fault(Fault::once(FaultKind::Reset).on(LOGIN));
    for _ in 0..2 {
        let reply = sidecar.share().await;
        check_refused(&reply, "token-unknown");
        assert!(text(&reply).contains("was lost"), "{}", text(&reply));
    }
    assert_eq!(
        (
            sidecar.asked(LOGIN),
            sidecar.asked("alipay.user.info.share")
        ),
        (2, 0)
    );
    sidecar.logged_in().await;
    check_shared(&sidecar.share().await);
}

#[tokio::test]
async fn a_refused_refresh_forgets_the_user() {
    let (sidecar, clock) = clocked().await;
    sidecar.logged_in().await;
    sidecar.simulator.forget_users();
    clock.advance_ms(LIFE);
    let refused = sidecar.share().await;
    check_refused(&refused, "token-unknown");
    assert!(text(&refused).contains("refused"), "{}", text(&refused));
    let unknown = sidecar.share().await;
    assert!(
        text(&unknown).contains("no access token"),
        "{}",
        text(&unknown)
    );
    assert_eq!(sidecar.asked(LOGIN), 2);
}

#[tokio::test]
async fn a_refresh_that_was_not_executed_costs_nobody_a_login() {
    let (sidecar, clock) = clocked().await;
    sidecar.logged_in().await;
    clock.advance_ms(LIFE - 60_000);
    sidecar
        .simulator
        .fault(Fault::once(FaultKind::InvalidSignature).on(LOGIN));
    let asked = sidecar.asked(LOGIN);
    // A refresh that failed isn't tried again with each call.
    for _ in 0..3 {
        check_shared(&sidecar.share().await);
    }
    assert_eq!(sidecar.asked(LOGIN), asked + 1);
    assert!(sidecar.metric(REFRESHED).await < 0.1);
    // The merchant's own token is renewed first, where that is why.
    clock.advance_ms(60_000);
    sidecar
        .simulator
        .time_out_tokens(None, None)
        .expect("tokens");
    check_shared(&sidecar.share().await);
    assert!((sidecar.metric(REFRESHED).await - 1.0).abs() < 0.1);
}

#[tokio::test]
async fn a_token_that_alipay_says_has_timed_out_is_refreshed_and_the_call_sent_again() {
    for path in [SHARE, SHARE_V3] {
        let sidecar = started().await;
        sidecar.logged_in().await;
        assert_eq!(sidecar.simulator.time_out_user_tokens(), 1);
        let user = [("alipay-user", DEFAULT_USER_ID)];
        check_shared(&sidecar.for_user(path, &user).await);
        assert_eq!(sidecar.asked(LOGIN), 2);
        check_shared(&sidecar.for_user(path, &user).await);
        assert_eq!(sidecar.asked(LOGIN), 2);
    }
}

#[tokio::test]
async fn where_both_tokens_have_timed_out_the_call_is_sent_once_more_for_each() {
    for path in [SHARE, SHARE_V3] {
        let sidecar = started().await;
        sidecar.logged_in().await;
        assert_eq!(sidecar.simulator.time_out_user_tokens(), 1);
        sidecar
            .simulator
            .time_out_tokens(None, None)
            .expect("tokens");
        let shared = sidecar
            .for_user(path, &[("alipay-user", DEFAULT_USER_ID)])
            .await;
        check_shared(&shared);
        let asked = [TOKEN_METHOD, LOGIN].map(|method| sidecar.asked(method));
        assert_eq!(asked, [1, 2], "{path}");
        assert_eq!(sidecar.simulator.requests().len(), 3 + 1 + 2, "{path}");
    }
}

/// An Alipay that answers as it is told, and a sidecar that holds [`USER_TOKEN`] of it.
async fn scripted() -> (FakeAlipay, TestSidecar) {
    let alipay = FakeAlipay::start().await;
    let sidecar = TestSidecar::start_with(|config| {
        remembering(config);
        config.upstream.gateway = Some(alipay.gateway());
    })
    .await;
    alipay.answer(Answer::Node(USER_TOKEN.to_owned()));
    sidecar.send_code("c").await;
    alipay.next().await;
    (alipay, sidecar)
}

/// Whether a call for a user was answered with success after these nodes, one a request.
async fn served_after(nodes: &[&str]) -> (bool, Vec<String>) {
    let (alipay, sidecar) = scripted().await;
    for node in nodes {
        alipay.answer(Answer::Node((*node).to_owned()));
    }
    let reply = sidecar.share().await;
    sidecar.sidecar.tokens().idle().await;
    let arrived = alipay.arrived().await;
    let methods = arrived
        .iter()
        .map(|arrived| arrived.param("method"))
        .collect();
    (json(&reply)["code"] == "10000", methods)
}

const USER_TOKEN: &str = r#"{"access_token":"u","refresh_token":"r","user_id":"2088000000002001","expires_in":1296000,"re_expires_in":2592000}"#;
const OTHER_USER_TOKEN: &str = r#"{"access_token":"v","refresh_token":"s","user_id":"2088000000002001","expires_in":1296000,"re_expires_in":2592000}"#;
const MERCHANT_TOKEN: &str = r#"{"code":"10000","msg":"Success","app_auth_token":"m","app_refresh_token":"n","auth_app_id":"2021000000001001","user_id":"2088000000001001","expires_in":99,"re_expires_in":99}"#;
const USER_TIMED_OUT: &str = r#"{"code":"20001","msg":"x","sub_code":"aop.auth-token-time-out"}"#;
const TIMED_OUT: &str = r#"{"code":"20001","msg":"x","sub_code":"aop.app-auth-token-time-out"}"#;

const USER_INVALID: &str = r#"{"code":"20001","msg":"x","sub_code":"aop.invalid-auth-token"}"#;

#[tokio::test]
async fn a_call_refused_while_the_token_is_refreshed_goes_on_with_the_new_one() {
    let (alipay, sidecar) = scripted().await;
    alipay.answer(Answer::HeldNode(USER_INVALID.to_owned()));
    alipay.answer(Answer::Node(USER_TIMED_OUT.to_owned()));
    alipay.answer(Answer::HeldNode(OTHER_USER_TOKEN.to_owned()));
    let refused = sidecar.share();
    let refreshed = async {
        assert_eq!(alipay.next().await.param("method"), SHARED);
        let alipays = async {
            while alipay.next().await.param("method") != LOGIN {}
            // It has ended the old token, and the answer with the new one is still under way.
            alipay.release();
            tokio::time::sleep(Duration::from_millis(300)).await;
            alipay.release();
        };
        tokio::join!(sidecar.share(), alipays).0
    };
    let (refused, refreshed) = tokio::join!(refused, refreshed);
    for reply in [&refused, &refreshed] {
        assert_eq!(json(reply)["code"], "10000", "{}", text(reply));
    }
    alipay.arrived().await;
    sidecar.share().await;
    assert_eq!(alipay.next().await.param("auth_token"), "v");
}

#[tokio::test]
async fn each_cause_is_worth_one_resend_in_either_order_and_no_more() {
    let (served, methods) =
        served_after(&[USER_TIMED_OUT, OTHER_USER_TOKEN, TIMED_OUT, MERCHANT_TOKEN]).await;
    assert!(served, "{methods:?}");
    assert_eq!(methods, [SHARED, LOGIN, SHARED, TOKEN_METHOD, SHARED]);
    // A refreshed token that is refused at once is the end of it, and the first reply is given.
    for nodes in [
        [TIMED_OUT, MERCHANT_TOKEN, TIMED_OUT],
        [USER_TIMED_OUT, OTHER_USER_TOKEN, USER_TIMED_OUT],
    ] {
        let (served, methods) = served_after(&nodes).await;
        assert!(!served);
        assert_eq!(methods.len(), 3, "{methods:?}");
    }
    let (served, methods) = served_after(&[
        TIMED_OUT,
        MERCHANT_TOKEN,
        USER_TIMED_OUT,
        OTHER_USER_TOKEN,
        TIMED_OUT,
    ])
    .await;
    assert!(!served);
    assert_eq!(methods, [SHARED, TOKEN_METHOD, SHARED, LOGIN, SHARED]);
}

#[tokio::test]
async fn a_login_whose_merchants_token_has_timed_out_is_sent_once_and_the_next_one_works() {
    let sidecar = timed_out().await;
    let code = sidecar.user_code();
    let refused = sidecar.send_code(&code).await;
    assert_eq!(
        header(&refused, "alipay-sub-code"),
        "aop.app-auth-token-time-out"
    );
    // A code is good for one call, whatever comes of it; the merchant's token is renewed meanwhile.
    assert_eq!((sidecar.asked(LOGIN), sidecar.asked(TOKEN_METHOD)), (1, 1));
    check_refused(&sidecar.send_code(&code).await, "parameter-invalid");
    assert_eq!(sidecar.asked(LOGIN), 1);
    sidecar.logged_in().await;
    assert_eq!((sidecar.asked(LOGIN), sidecar.asked(TOKEN_METHOD)), (2, 1));
    check_shared(&sidecar.share().await);
}

#[tokio::test]
async fn nor_is_a_login_on_v3_sent_twice() {
    const LOGIN_V3: &str = "/v3/alipay/system/oauth/token";
    let sidecar = timed_out().await;
    let code = sidecar.user_code();
    let body = format!(r#"{{"grant_type":"authorization_code","code":"{code}"}}"#);
    let refused = sidecar.post(LOGIN_V3, body).await;
    assert!(refused.status.is_client_error(), "{}", text(&refused));
    let asked = [LOGIN_V3, TOKEN_METHOD].map(|method| sidecar.asked(method));
    assert_eq!(asked, [1, 1]);
}

#[tokio::test]
async fn a_token_that_alipay_calls_invalid_is_forgotten_and_its_reply_handed_on() {
    for path in [SHARE, SHARE_V3] {
        let sidecar = started().await;
        sidecar.logged_in().await;
        sidecar.simulator.forget_users();
        let user = [("alipay-user", DEFAULT_USER_ID)];
        let reply = sidecar.for_user(path, &user).await;
        assert_eq!(header(&reply, "alipay-sidecar-verified"), "true");
        assert!(
            text(&reply).contains("invalid-auth-token"),
            "{}",
            text(&reply)
        );
        check_refused(&sidecar.for_user(path, &user).await, "token-unknown");
        assert_eq!(sidecar.asked(LOGIN), 1);
    }
}

#[tokio::test]
async fn the_users_of_a_merchant_whose_token_alipay_calls_invalid_are_forgotten() {
    let sidecar = started().await;
    sidecar.logged_in().await;
    sidecar
        .simulator
        .revoke(None, Some(FIRST_AUTH_APP_ID))
        .expect("a grant");
    let refused = sidecar.share().await;
    assert!(
        text(&refused).contains("aop.invalid-app-auth-token"),
        "{}",
        text(&refused)
    );
    sidecar.sidecar.tokens().idle().await;
    check_refused(&sidecar.share().await, "merchant-unauthorized");
    let key = UserKey {
        app_id: AppId::new(DEFAULT_APP_ID).expect("an id"),
        auth_app_id: Some(AuthAppId::new(FIRST_AUTH_APP_ID).expect("an id")),
        name: UserName::new(DEFAULT_USER_ID).expect("a name"),
    };
    let kept = sidecar.sidecar.store().user(key).await;
    assert!(kept.expect("readable").is_none());
}

/// What tells that the user of [`TestSidecar::logged_in`] has cancelled.
fn by_user() -> [(&'static str, String); 2] {
    let user = format!(r#"{{"user_id":"{DEFAULT_USER_ID}","auth_app_id":"{FIRST_AUTH_APP_ID}"}}"#);
    let method = "alipay.open.auth.userauth.cancelled";
    [("msg_method", method.to_owned()), ("biz_content", user)]
}

impl TestSidecar {
    /// Has the user log in, and a cancellation come after it.
    async fn cancelled(&self, event: Event, params: &[(&str, String)]) {
        self.logged_in().await;
        check_shared(&self.share().await);
        let mut options = TriggerOptions {
            wait: true,
            attempts: Some(1),
            ..TriggerOptions::default()
        };
        let params = params.iter().map(|(n, v)| ((*n).to_owned(), v.clone()));
        options.params.extend(params);
        let sent = self.simulator.trigger(event, &options).await.expect("sent");
        assert_eq!(sent.attempts.last().and_then(|a| a.status), Some(200));
    }
}

#[tokio::test]
async fn a_cancellation_sent_before_the_login_is_not_about_it() {
    let sidecar = started().await;
    for (minutes_ago, is_meant) in [(11, false), (9, true)] {
        let sent_at = SystemClock.now_ms() - minutes_ago * 60_000;
        let [method, content] = by_user();
        let late = [method, content, ("utc_timestamp", sent_at.to_string())];
        sidecar.cancelled(Event::FeaturePackage, &late).await;
        match is_meant {
            true => check_refused(&sidecar.share().await, "token-unknown"),
            false => check_shared(&sidecar.share().await),
        }
    }
}

#[tokio::test]
async fn a_user_or_a_merchant_who_cancels_is_forgotten() {
    let sidecar = started().await;
    sidecar.cancelled(Event::FeaturePackage, &by_user()).await;
    check_refused(&sidecar.share().await, "token-unknown");
    sidecar.cancelled(Event::Cancel, &[]).await;
    check_refused(&sidecar.share().await, "merchant-unauthorized");
    let key = UserKey {
        app_id: AppId::new(DEFAULT_APP_ID).expect("an id"),
        auth_app_id: Some(AuthAppId::new(FIRST_AUTH_APP_ID).expect("an id")),
        name: UserName::new(DEFAULT_USER_ID).expect("a name"),
    };
    let kept = sidecar.sidecar.store().user(key).await;
    assert!(kept.expect("readable").is_none());
}

#[tokio::test]
async fn no_token_shows_in_records_or_the_admin_api() {
    let sidecar = started().await;
    let told = sidecar.logged_in().await;
    let reply = sidecar.share().await;
    check_shared(&reply);
    let mut shown = String::new();
    let id = header(&reply, "alipay-sidecar-request-id");
    let record = Request::builder().uri(format!("/calls/{id}"));
    shown += &text(&sidecar.proxy(record, "").await);
    for path in ["/api/merchants", "/api/inbox", "/api/config", "/metrics"] {
        shown += &text(&sidecar.admin(Method::GET, path, "").await);
    }
    let debug = format!("{:?}", sidecar.sidecar.tokens().users());
    for name in ["access_token", "refresh_token"] {
        let token = told[name].as_str().expect("a token");
        assert!(!shown.contains(token) && !debug.contains(token), "{name}");
        let file = std::fs::read(&sidecar.config.store.path).expect("a file");
        let stands = |secret: &str| file.windows(secret.len()).any(|w| w == secret.as_bytes());
        assert!(
            !stands(token) && !stands(DEFAULT_USER_ID),
            "{name} in the store"
        );
    }
}

#[tokio::test]
async fn a_code_is_sent_once_and_those_who_send_it_meanwhile_get_the_same_reply() {
    for remember in [true, false] {
        let sidecar =
            TestSidecar::start_with(|config| config.tokens.remember_users = remember).await;
        let slow = Fault::once(FaultKind::Slow).delay(Duration::from_millis(300));
        sidecar.simulator.fault(slow.on(LOGIN));
        let code = sidecar.user_code();
        let (first, second) = tokio::join!(sidecar.send_code(&code), sidecar.send_code(&code));
        assert!(json(&first)["access_token"].is_string(), "{}", text(&first));
        assert_eq!(first.body, second.body);
        let later = sidecar.send_code(&code).await;
        check_refused(&later, "parameter-invalid");
        assert!(
            text(&later).contains("sent to Alipay before"),
            "{}",
            text(&later)
        );
        assert_eq!(sidecar.asked(LOGIN), 1);
    }
}

#[tokio::test]
async fn a_code_that_the_store_took_no_note_of_in_time_is_neither_sent_nor_spent() {
    let (sidecar, brittle) = crate::calls::brittle_with(|config| {
        remembering(config);
        config.upstream.timeout = Duration::from_secs(1);
    })
    .await;
    let code = sidecar.user_code();
    brittle.stop_commits();
    let late = sidecar.send_code(&code).await;
    assert_eq!(header(&late, "alipay-sidecar-error"), "store-unavailable");
    assert_eq!(header(&late, "alipay-sidecar-outcome"), "not-sent");
    brittle.heal();
    // What is noted at last is given back.
    let sent = async {
        while json(&sidecar.send_code(&code).await)["access_token"].is_null() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, sent).await;
    waited.expect("the code is good");
    assert_eq!(sidecar.asked(LOGIN), 1);
}

#[tokio::test]
async fn a_code_that_never_left_is_given_back_however_long_the_store_takes() {
    let (sidecar, brittle) = crate::calls::brittle_with(|config| {
        remembering(config);
        config.upstream.timeout = Duration::from_secs(1);
        config.upstream.gateway = Some("http://127.0.0.1:9/gateway.do".to_owned());
    })
    .await;
    brittle.stop_returns();
    let began = std::time::Instant::now();
    let failed = tokio::time::timeout(PATIENCE, sidecar.send_code("c")).await;
    check_refused(&failed.expect("not held up"), "upstream-unreachable");
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "within its deadline"
    );
    let noted = sidecar.send_code("c").await;
    check_refused(&noted, "store-unavailable");
    brittle.heal();
    let sent = async {
        loop {
            let again = sidecar.send_code("c").await;
            if header(&again, "alipay-sidecar-error") == "upstream-unreachable" {
                break;
            }
            check_refused(&again, "store-unavailable");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, sent).await;
    waited.expect("the code is good");
}

#[tokio::test]
async fn a_code_whose_call_hung_before_it_left_is_good_again_when_that_is_told() {
    let mut brittle = None;
    let change = |config: &mut Config| {
        remembering(config);
        config.upstream.timeout = Duration::from_secs(1);
    };
    let sidecar = TestSidecar::start_built(change, |config, builder| {
        let store = BrittleStore::open(config);
        brittle = Some(store.clone());
        let builder = builder.store(Arc::new(store));
        builder.signers(Arc::new(BrittleSigner(Failing::Hang)))
    })
    .await;
    let brittle = brittle.expect("built");
    brittle.stop_returns();
    let healed = async {
        tokio::time::sleep(Duration::from_millis(1300)).await;
        brittle.heal();
    };
    let (late, ()) = tokio::join!(sidecar.send_code("c"), healed);
    check_refused(&late, "upstream-timeout");
    assert_eq!(header(&late, "alipay-sidecar-outcome"), "not-sent");
    check_refused(&sidecar.send_code("c").await, "upstream-timeout");
}

#[tokio::test]
async fn a_code_that_a_bug_kept_from_being_given_back_counts_as_sent() {
    let (sidecar, brittle) = crate::calls::brittle_with(|config| {
        remembering(config);
        config.upstream.gateway = Some("http://127.0.0.1:9/gateway.do".to_owned());
    })
    .await;
    brittle.panic_on_returns();
    check_refused(&sidecar.send_code("c").await, "upstream-unreachable");
    check_refused(&sidecar.send_code("c").await, "parameter-invalid");
}

#[tokio::test]
async fn a_login_of_v3_may_have_its_code_in_the_query() {
    let sidecar = started().await;
    let code = sidecar.user_code();
    let query = format!("grant_type=authorization_code&code={code}");
    let target = format!("/v3/alipay/system/oauth/token?{query}");
    let get = || Request::get(&target).header("alipay-merchant", ALIAS);
    sidecar.simulator.fault(Fault::once(FaultKind::Reset));
    let lost = sidecar.proxy(get(), "").await;
    assert_eq!(header(&lost, "alipay-sidecar-outcome"), "unknown");
    assert_eq!(sidecar.simulator.requests().len(), 1, "not repeated");
    check_refused(&sidecar.proxy(get(), "").await, "parameter-invalid");
    assert_eq!(sidecar.simulator.requests().len(), 1);
}

#[tokio::test]
async fn a_code_whose_call_failed_is_spent_and_one_that_never_left_is_not() {
    let sidecar = started().await;
    let code = sidecar.user_code();
    sidecar
        .simulator
        .fault(Fault::once(FaultKind::Reset).on(LOGIN));
    let lost = sidecar.send_code(&code).await;
    assert_eq!(header(&lost, "alipay-sidecar-outcome"), "unknown");
    check_refused(&sidecar.send_code(&code).await, "parameter-invalid");
    assert_eq!(sidecar.asked(LOGIN), 1);
    let unreachable = TestSidecar::start_with(|config| {
        remembering(config);
        config.upstream.gateway = Some("http://127.0.0.1:9/gateway.do".to_owned());
    })
    .await;
    for _ in 0..2 {
        check_refused(&unreachable.send_code("c").await, "upstream-unreachable");
    }
}

#[tokio::test]
async fn a_code_is_not_sent_again_after_a_crash_between_its_memo_and_the_call() {
    let alipay = FakeAlipay::start().await;
    let first = TestSidecar::start_with(|config| {
        remembering(config);
        config.upstream.gateway = Some(alipay.gateway());
    })
    .await;
    let app_id = AppId::new(DEFAULT_APP_ID).expect("an id");
    let tokens = first.sidecar.tokens();
    let code = Secret::new("the-code".to_owned());
    let spending = tokens
        .users()
        .codes()
        .spend(&app_id, &code)
        .await
        .expect("new");
    // What a crash right now would leave.
    let directory = tempfile::tempdir().expect("a directory");
    let mut config = first.config.clone();
    config.store.path = directory.path().join("crashed.redb");
    config.telemetry.audit_file = None;
    std::fs::copy(&first.config.store.path, &config.store.path).expect("copied");
    drop(spending);
    let second = Sidecar::builder(config).build().await.expect("a sidecar");
    let send = |code: &str| {
        let request = second.request(LOGIN).merchant(ALIAS);
        request
            .param("grant_type", "authorization_code")
            .param("code", code)
            .send()
    };
    let refused = send("the-code").await.expect_err("spent");
    assert_eq!(refused.code, ErrorCode::ParameterInvalid);
    assert!(alipay.is_quiet().await);
    let node = r#"{"access_token":"a","user_id":"2088102146225135"}"#;
    alipay.answer(Answer::Node(node.to_owned()));
    send("another").await.expect("sent");
    assert_eq!(alipay.next().await.param("code"), "another");
}

#[tokio::test]
async fn a_callers_own_refresh_is_kept_too() {
    let sidecar = started().await;
    let told = sidecar.logged_in().await;
    let refresh_token = told["refresh_token"].as_str().expect("a token");
    let path = format!("/v2/{LOGIN}?grant_type=refresh_token&refresh_token={refresh_token}");
    let reply = sidecar.post(&path, "").await;
    assert!(json(&reply)["access_token"].is_string(), "{}", text(&reply));
    check_shared(&sidecar.share().await);
    assert_eq!(sidecar.asked(LOGIN), 2);
}

#[tokio::test]
async fn a_login_that_waits_for_the_disk_undoes_no_newer_one_and_no_cancellation() {
    tokio::join!(overtaken_login(false), overtaken_login(true));
}

/// A login whose tokens wait for the disk, while the user logs in again or is forgotten.
async fn overtaken_login(is_forgotten: bool) {
    let (sidecar, brittle) = crate::calls::brittle_with(remembering).await;
    let first = sidecar.logged_in().await;
    let late = Fault::once(FaultKind::Slow)
        .delay(Duration::from_millis(500))
        .on(LOGIN);
    sidecar.simulator.fault(late);
    let breaking = async {
        while sidecar.asked(LOGIN) < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        brittle.break_commits();
    };
    let (second, ()) = tokio::join!(sidecar.logged_in(), breaking);
    assert_ne!(second["access_token"], first["access_token"]);
    // Its caller has the reply; the next try is seconds away.
    brittle.heal();
    let key = UserKey {
        app_id: AppId::new(DEFAULT_APP_ID).expect("an app_id"),
        auth_app_id: AuthAppId::new(FIRST_AUTH_APP_ID).ok(),
        name: UserName::new(DEFAULT_USER_ID).expect("a name"),
    };
    let store = sidecar.sidecar.store();
    let expected = if is_forgotten {
        let forget = Change::ForgetUser {
            key: key.clone(),
            only: None,
            obtained_until: None,
        };
        store.commit(vec![forget]).await.expect("stored");
        None
    } else {
        let third = sidecar.logged_in().await;
        third["access_token"].as_str().map(str::to_owned)
    };
    tokio::time::sleep(Duration::from_secs(4)).await;
    let kept = store.user(key).await.expect("readable");
    let kept = kept.map(|user| user.access_token.expose().clone());
    assert_eq!(kept, expected, "forgotten: {is_forgotten}");
}
