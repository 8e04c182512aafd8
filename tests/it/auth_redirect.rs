//! The authorisation callback and the links that lead to it.

use std::time::Duration;

use alipay_sidecar::clock::Clock as _;
use alipay_sidecar::config::webhook::WebhookConfig;
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::simulator::{
    DEFAULT_APP_ID, FIRST_AUTH_APP_ID, Fault, FaultKind, SECOND_AUTH_APP_ID,
};
use alipay_sidecar::store::{Change, MemoKey, Store as _};
use alipay_sidecar::token::{ExchangeContext, TOKEN_METHOD};
use bytes::Bytes;
use http::header::LOCATION;
use http::{Response, StatusCode};
use http_body_util::Full;

use crate::parts::{Parts, Setting, whole};

/// 64 characters that no state can carry.
const LONG: (&str, usize) = ("%E5%95%86", 64);
/// How long a link lives, and for how much longer a `ref` that is kept.
const LINK_MS: i64 = 30 * 60 * 1000;
const DAY_MS: i64 = 24 * 3600 * 1000;
/// How long a slow exchange takes.
const SLOW: Duration = Duration::from_secs(1);
/// From a public network, and from another.
const ONE: &str = "203.0.113.7";
const OTHER: &str = "203.0.113.8";
/// How many bad codes, and how many states bound for nothing, a public network has at once.
const SHARE: u64 = 8;
/// An app that the simulator doesn't know.
const UNKNOWN_APP_ID: &str = "2021000199999999";

fn config() -> WebhookConfig {
    WebhookConfig {
        public_url: Some("https://isv.example.com".to_owned()),
        auth_return_url: Some("https://isv.example.com/done?x=1".to_owned()),
        ..WebhookConfig::default()
    }
}

async fn parts(change: impl FnOnce(&mut WebhookConfig)) -> Parts {
    let mut webhook = config();
    change(&mut webhook);
    Parts::new(Setting {
        webhook,
        ..Setting::default()
    })
    .await
}

fn location(answer: &Response<Full<Bytes>>) -> String {
    assert_eq!(answer.status(), StatusCode::FOUND);
    let location = answer.headers().get(LOCATION).expect("a location");
    location.to_str().expect("ASCII").to_owned()
}

fn parameter<'a>(url: &'a str, name: &str) -> Option<&'a str> {
    let (_, query) = url.split_once('?')?;
    query
        .split('&')
        .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

impl Parts {
    /// A state out of a link.
    async fn state(&self, reference: &str) -> String {
        let link = self
            .get(&format!("/alipay/auth/start?ref={reference}"))
            .await;
        let link = location(&link);
        parameter(&link, "state").expect("a state").to_owned()
    }

    /// What a browser of that network is told that opens a link with a `ref` of 64 Chinese characters.
    async fn start_long(&self, network: &str, more: &str) -> StatusCode {
        let (character, times) = LONG;
        let path = format!("/alipay/auth/start?ref={}{more}", character.repeat(times));
        self.get_from(network, &path).await.status()
    }

    /// How many such a browser of that network may open at once.
    async fn room(&self, network: &str) -> usize {
        let mut opened = 0;
        while self.start_long(network, "").await == StatusCode::FOUND {
            opened += 1;
        }
        opened
    }

    /// How many memos will have expired so long from now; they are gone from the store. The clock stays, so
    /// nobody gets any room by that.
    async fn prunable_memos(&self, ahead_ms: i64) -> u64 {
        let then = self.clock.now_ms() + ahead_ms;
        let pruned = self.store.prune(then, 0).await;
        pruned.expect("pruned").memos
    }

    fn auth_code(&self) -> String {
        let code = self.simulator.app_auth_code(None, &[FIRST_AUTH_APP_ID]);
        code.expect("a merchant")
    }

    async fn callback(&self, code: &str, state: Option<&str>) -> Response<Full<Bytes>> {
        self.get(&path_back(DEFAULT_APP_ID, code, state)).await
    }

    /// The same from a public network.
    async fn callback_from(
        &self,
        network: &str,
        (code, state): (&str, &str),
    ) -> Response<Full<Bytes>> {
        let path = path_back(DEFAULT_APP_ID, code, Some(state));
        self.get_from(network, &path).await
    }

    /// Waits until Alipay has been asked about so many codes.
    async fn until_asked(&self, times: usize) {
        let asked = async {
            while self.asked(TOKEN_METHOD) < times {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let asked = tokio::time::timeout(Duration::from_secs(20), asked).await;
        asked.expect("asked");
    }

    /// An operator exchanges a code himself.
    async fn operator(&self, code: &str) {
        let context = ExchangeContext {
            reference: Some("shop".to_owned()),
            bound: true,
        };
        let code = Secret::new(code.to_owned());
        let merchants = self.tokens.exchange(&self.app(), &code, context).await;
        assert_eq!(merchants.expect("exchanged").len(), 1);
    }

    /// A state and a code that is bound to it, and wasn't exchanged.
    async fn bound_pair(&self) -> (String, String) {
        let (own, code) = (self.state("own").await, self.auth_code());
        self.simulator.fault(Fault::once(FaultKind::Html));
        let failed = self.callback(&code, Some(&own)).await;
        assert_eq!(failed.status(), StatusCode::BAD_GATEWAY);
        (own, code)
    }

    async fn is_refused(&self, code: &str, state: Option<&str>) {
        let (status, location, _) = told(self.callback(code, state).await).await;
        assert_eq!((status, location), (StatusCode::BAD_REQUEST, None));
    }
}

/// Where a browser comes back to.
fn path_back(app_id: &str, code: &str, state: Option<&str>) -> String {
    let state = state.map(|s| format!("&state={s}")).unwrap_or_default();
    format!("/alipay/auth?app_id={app_id}&source=alipay_app_auth&app_auth_code={code}{state}")
}

#[tokio::test]
async fn a_link_leads_through_alipay_to_a_bound_authorisation() {
    let (character, times) = LONG;
    let (long, dotted) = (character.repeat(times), "a.".repeat(32));
    for (reference, returned) in [
        ("shop-17", "shop-17"),
        ("%E5%95%86%E5%AE%B6%201", "%E5%95%86%E5%AE%B6%201"),
        // What no state can carry.
        (&*long, &*long),
        (&*dotted, &*dotted),
    ] {
        let parts = parts(|_| ()).await;
        let state = parts.state(reference).await;
        assert!(state.len() <= 100);
        let code = parts.auth_code();
        let done = location(&parts.callback(&code, Some(&state)).await);
        assert_eq!(
            done,
            format!(
                "https://isv.example.com/done?x=1&result=ok&app_id={DEFAULT_APP_ID}\
                 &auth_app_id={FIRST_AUTH_APP_ID}&ref={returned}"
            )
        );
        let event = parts.inbox().await.remove(0).0.event.expect("an event");
        assert!(event.bound && event.reference.is_some());
        // Reloaded, even after the link has expired: the same answer, no second exchange.
        parts.clock.advance_ms(3_600_000);
        assert_eq!(location(&parts.callback(&code, Some(&state)).await), done);
        assert_eq!(parts.asked(TOKEN_METHOD), 1);
    }
}

#[tokio::test]
async fn a_used_expired_or_forged_state_is_refused_without_asking_alipay() {
    let parts = parts(|_| ()).await;
    let used = parts.state("a").await;
    parts.callback(&parts.auth_code(), Some(&used)).await;
    let expired = parts.state("a").await;
    let stateless = parts.auth_code();
    let refused = |state: String| {
        let (parts, code) = (&parts, parts.auth_code());
        async move { parts.callback(&code, Some(&state)).await.status() }
    };
    assert_eq!(refused(used.clone()).await, StatusCode::BAD_REQUEST);
    assert_eq!(refused("A".repeat(36)).await, StatusCode::BAD_REQUEST);
    assert_eq!(refused(format!("{used}x")).await, StatusCode::BAD_REQUEST);
    parts.clock.advance_ms(30 * 60 * 1000);
    assert_eq!(refused(expired).await, StatusCode::BAD_REQUEST);
    assert_eq!(parts.asked(TOKEN_METHOD), 1);
    let none = parts.callback(&stateless, None).await;
    assert_eq!(none.status(), StatusCode::FOUND);
    let last = parts.inbox().await.pop().expect("an event").0;
    assert!(!last.event.expect("an event").bound);
}

#[tokio::test]
async fn of_two_codes_that_come_at_once_with_one_state_one_is_exchanged() {
    let parts = parts(|_| ()).await;
    for n in 1..=4 {
        let state = parts.state("shop").await;
        let (one, other) = (parts.auth_code(), parts.auth_code());
        let (one, other) = tokio::join!(
            parts.callback(&one, Some(&state)),
            parts.callback(&other, Some(&state))
        );
        let mut found = [one.status(), other.status()];
        found.sort();
        assert_eq!(found, [StatusCode::FOUND, StatusCode::BAD_REQUEST]);
        assert_eq!(parts.asked(TOKEN_METHOD), n);
    }
}

#[tokio::test]
async fn without_a_state_nothing_is_exchanged_where_that_is_configured() {
    let parts = parts(|webhook| webhook.accept_stateless_auth = false).await;
    let refused = parts.callback(&parts.auth_code(), None).await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    assert_eq!(parts.asked(TOKEN_METHOD), 0);
}

#[tokio::test]
async fn a_bad_code_is_400_and_an_alipay_that_cannot_be_asked_502() {
    let parts = parts(|_| ()).await;
    let bad = parts.callback("no-such-code", None).await;
    assert_eq!(bad.status(), StatusCode::BAD_REQUEST);
    let state = parts.state("a").await;
    let code = parts.auth_code();
    // Html: nothing was executed, so the code is still good.
    parts.simulator.fault(Fault::once(FaultKind::Html));
    let failed = parts.callback(&code, Some(&state)).await;
    assert_eq!(failed.status(), StatusCode::BAD_GATEWAY);
    assert!(failed.headers().get(LOCATION).is_none());
    let again = parts.callback(&code, Some(&state)).await;
    assert_eq!(again.status(), StatusCode::FOUND);
}

#[tokio::test]
async fn what_alipay_refuses_for_another_reason_is_502_and_bounded_as_bad_codes_are() {
    for (code, sub_code, status) in [
        ("40005", "isv.app-call-limited", StatusCode::BAD_GATEWAY),
        (
            "40006",
            "isv.insufficient-isv-permissions",
            StatusCode::BAD_GATEWAY,
        ),
        ("40002", "isv.invalid-signature", StatusCode::BAD_GATEWAY),
        ("40004", "isv.something-new", StatusCode::BAD_REQUEST),
    ] {
        let parts = parts(|_| ()).await;
        let node = format!(r#"{{"code":"{code}","msg":"no","sub_code":"{sub_code}"}}"#);
        parts.simulator.answer(TOKEN_METHOD, node);
        for number in 0..40 {
            let answer = parts.callback(&format!("{code}-{number}"), None).await;
            let expected = match number >= 30 {
                true => StatusCode::SERVICE_UNAVAILABLE,
                false => status,
            };
            assert_eq!(answer.status(), expected, "{sub_code} {number}");
        }
        assert_eq!(parts.asked(TOKEN_METHOD), 30, "{sub_code}");
    }
}

#[tokio::test]
async fn a_bad_state_is_400_however_many_codes_were_bad() {
    let parts = parts(|_| ()).await;
    let mut last = StatusCode::BAD_REQUEST;
    for number in 0..100 {
        let state = parts.state("a").await;
        let refused = parts.callback(&format!("bad-{number}"), Some(&state)).await;
        last = refused.status();
    }
    assert_eq!(last, StatusCode::SERVICE_UNAVAILABLE, "no more are sent");
    let asked = parts.asked(TOKEN_METHOD);
    let refused = parts.callback("another", Some("not-ours")).await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    assert_eq!(parts.asked(TOKEN_METHOD), asked);
}

#[tokio::test]
async fn pages_are_inert_and_show_no_token() {
    let parts = parts(|webhook| webhook.auth_return_url = None).await;
    let page = parts.callback(&parts.auth_code(), None).await;
    for (name, expected) in [
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-store"),
        ("content-type", "text/html; charset=utf-8"),
    ] {
        assert_eq!(page.headers()[name], expected);
    }
    let csp = page.headers()["content-security-policy"].to_str();
    assert!(csp.expect("ASCII").starts_with("default-src 'none'"));
    let merchant = parts.merchant(FIRST_AUTH_APP_ID).await.expect("stored");
    let (status, html) = whole(page).await;
    assert_eq!(status, StatusCode::OK);
    assert!(html.contains("授权成功") && html.contains("Authorised"));
    assert!(!html.contains(merchant.token.app_auth_token.expose().as_str()));
    let attack = parts.callback("%3Cscript%3E", Some("%3Cscript%3E")).await;
    assert!(!whole(attack).await.1.contains("<script"));
}

#[tokio::test]
async fn a_users_code_goes_on_as_it_came() {
    let mut parts = parts(|webhook| {
        webhook.user_auth_return_url = Some("https://isv.example.com/user".to_owned());
    })
    .await;
    let query = "app_id=1&source=alipay_wallet&scope=auth_user&auth_code=a%2Bb&state=x";
    let sent_on = parts.get(&format!("/alipay/auth?{query}")).await;
    assert_eq!(
        location(&sent_on),
        format!("https://isv.example.com/user?{query}")
    );
    // Either of both tells that a user comes: who said no has no code.
    for either in [
        "source=alipay_wallet&state=x",
        "auth_code=a&state=x",
        "error_scope=auth_user&state=x",
    ] {
        let sent_on = parts.get(&format!("/alipay/auth?{either}")).await;
        assert_eq!(
            location(&sent_on),
            format!("https://isv.example.com/user?{either}")
        );
    }
    // A merchant's code is never sent on.
    for theirs in [
        "app_auth_code=bad&error_scope=auth_user",
        "error_scope=&state=x",
    ] {
        let page = parts.get(&format!("/alipay/auth?{theirs}")).await;
        assert_eq!(page.status(), StatusCode::BAD_REQUEST, "{theirs}");
    }
    parts.reconfigure_webhook(&WebhookConfig::default());
    let nowhere = parts.get(&format!("/alipay/auth?{query}")).await;
    assert_eq!(nowhere.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn links_open_alipays_pages() {
    let mut parts = parts(|_| ()).await;
    let redirect = "redirect_uri=https%3A%2F%2Fisv.example.com%2Falipay%2Fauth";
    for (query, path) in [
        ("", "/oauth2/appToAppBatchAuth.htm?"),
        (
            "page=batch&types=TINYAPP,WEBAPP",
            "/oauth2/appToAppBatchAuth.htm?",
        ),
        ("page=single", "/oauth2/appToAppAuth.htm?"),
    ] {
        let link = location(&parts.get(&format!("/alipay/auth/start?{query}")).await);
        assert!(link.contains(path) && link.contains(redirect), "{link}");
        assert_eq!(parameter(&link, "app_id"), Some(DEFAULT_APP_ID));
    }
    let specified = parts.get("/alipay/auth/start?page=specified").await;
    let specified = location(&specified);
    assert!(
        specified.contains("/page/message/tasksDetail?bizData=%7B%22platformCode%22%3A%22O%22")
    );
    for bad in ["page=other", "types=OTHER", "app_id=1", "a=%zz"] {
        let refused = parts.get(&format!("/alipay/auth/start?{bad}")).await;
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{bad}");
    }
    for long in ["x".repeat(65), "%E5%95%86".repeat(65), "%0A".to_owned()] {
        let long = format!("/alipay/auth/start?ref={long}");
        assert_eq!(parts.get(&long).await.status(), StatusCode::BAD_REQUEST);
    }
    parts.reconfigure_webhook(&WebhookConfig::default());
    let unset = parts.get("/alipay/auth/start").await;
    assert_eq!(unset.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn one_network_has_only_so_many_refs_kept_and_leaves_the_others_room() {
    let mut parts = parts(|_| ()).await;
    assert_eq!(parts.room(ONE).await, 60);
    let path = format!("/alipay/auth/start?ref={}", LONG.0.repeat(LONG.1));
    let full = parts.get_from(ONE, &path).await;
    assert_eq!(full.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(full.headers()["retry-after"], "80");
    assert_eq!(
        parts.count("alipay_sidecar_browsers_total", "too-many-refs"),
        2.0
    );
    for _ in 0..20 {
        let full = parts.start_long(ONE, "").await;
        assert_eq!(full, StatusCode::SERVICE_UNAVAILABLE);
    }
    assert_eq!(parts.prunable_memos(2 * DAY_MS).await, 60);
    // What a state carries needs no room, and others have theirs.
    let short = parts.get_from(ONE, "/alipay/auth/start?ref=shop-17").await;
    assert_eq!(short.status(), StatusCode::FOUND);
    assert_eq!(parts.start_long(OTHER, "").await, StatusCode::FOUND);
    // Another configuration makes nothing of it.
    parts.reconfigure_webhook(&config());
    assert_eq!(parts.room(ONE).await, 0);
    parts.clock.advance_ms(80_000);
    assert_eq!(parts.room(ONE).await, 1);
}

#[tokio::test]
async fn a_link_that_is_refused_takes_no_room_for_its_ref() {
    let mut parts = parts(|_| ()).await;
    for more in ["%E5%95%86", "%0A", "&types=OTHER", "&page=other"] {
        for _ in 0..10 {
            let refused = parts.start_long(ONE, more).await;
            assert_eq!(refused, StatusCode::BAD_REQUEST, "{more}");
        }
    }
    parts.reconfigure_webhook(&WebhookConfig::default());
    for _ in 0..10 {
        let nowhere = parts.start_long(ONE, "").await;
        assert_eq!(nowhere, StatusCode::SERVICE_UNAVAILABLE);
    }
    assert_eq!(parts.prunable_memos(2 * DAY_MS).await, 0);
    parts.reconfigure_webhook(&config());
    assert_eq!(parts.room(ONE).await, 60);
    assert_eq!(parts.prunable_memos(2 * DAY_MS).await, 60);
}

#[tokio::test]
async fn a_ref_that_is_kept_outlives_a_restart_and_not_its_day() {
    let mut parts = parts(|_| ()).await;
    let long = LONG.0.repeat(LONG.1);
    let state = parts.state(&long).await;
    parts.room(ONE).await;
    parts.restart_webhook(&config());
    assert_eq!(parts.start_long(ONE, "").await, StatusCode::FOUND);
    let done = parts.callback(&parts.auth_code(), Some(&state)).await;
    assert!(location(&done).ends_with(&format!("&ref={long}")));
    let late = parts.state(&long).await;
    parts.clock.advance_ms(LINK_MS);
    let refused = parts.callback(&parts.auth_code(), Some(&late)).await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    // A day later the store forgets all of them at once, and there is room for as many.
    parts.clock.advance_ms(DAY_MS);
    let of_the_callback = 2;
    assert_eq!(parts.prunable_memos(0).await, of_the_callback);
    assert_eq!(parts.prunable_memos(1).await, 63);
    assert_eq!(parts.room(ONE).await, 60);
}

#[tokio::test]
async fn a_state_is_bound_to_nothing_while_no_exchange_can_be_made() {
    let parts = parts(|_| ()).await;
    let state = parts.state("shop").await;
    let slots: Vec<_> = std::iter::from_fn(|| parts.tokens.slot().ok()).collect();
    assert_eq!(slots.len(), 16);
    let full = parts.callback("rubbish", Some(&state)).await;
    assert_eq!(full.status(), StatusCode::SERVICE_UNAVAILABLE);
    drop(slots);
    let done = parts.callback(&parts.auth_code(), Some(&state)).await;
    assert_eq!(done.status(), StatusCode::FOUND);
}

#[tokio::test]
async fn what_cannot_be_a_code_binds_no_state() {
    let parts = parts(|_| ()).await;
    let long = "x".repeat(257);
    let state = parts.state("shop").await;
    for bad in ["%20", "a%20b", "%E4%BB%A3", &long] {
        let refused = parts.callback(bad, Some(&state)).await;
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{bad}");
    }
    let prunable = parts.prunable_memos(2 * DAY_MS).await;
    assert_eq!((prunable, parts.asked(TOKEN_METHOD)), (0, 0));
    let done = parts.callback(&parts.auth_code(), Some(&state)).await;
    assert_eq!(done.status(), StatusCode::FOUND);
}

#[tokio::test]
async fn states_that_are_bound_while_alipay_cannot_be_asked_are_bounded() {
    let parts = parts(|_| ()).await;
    parts
        .simulator
        .fault(Fault::once(FaultKind::Html).times(60));
    let mut pairs = Vec::new();
    for number in 0..100 {
        let (state, code) = (parts.state("a").await, parts.auth_code());
        let failed = parts.callback(&code, Some(&state)).await;
        let expected = match number >= 60 {
            true => StatusCode::SERVICE_UNAVAILABLE,
            false => StatusCode::BAD_GATEWAY,
        };
        assert_eq!(failed.status(), expected, "{number}");
        pairs.push((state, code));
    }
    // What is bound goes on as soon as Alipay can be asked; what isn't has to wait.
    for (state, code) in pairs.iter().take(10) {
        let done = parts.callback(code, Some(state)).await;
        assert_eq!(done.status(), StatusCode::FOUND);
    }
    let (state, code) = pairs.last().expect("some");
    let expected = [StatusCode::SERVICE_UNAVAILABLE, StatusCode::FOUND];
    for expected in expected {
        let answer = parts.callback(code, Some(state)).await;
        assert_eq!(answer.status(), expected);
        parts.clock.advance_ms(1000);
    }
    assert_eq!(parts.prunable_memos(2 * DAY_MS).await, 61 + 11);
}

#[tokio::test]
async fn one_pair_that_comes_twice_at_once_counts_once() {
    let parts = parts(|_| ()).await;
    parts
        .simulator
        .fault(Fault::once(FaultKind::Html).times(100));
    for number in 0..=SHARE {
        let (state, code) = (parts.state("a").await, parts.auth_code());
        let (one, other) = tokio::join!(
            parts.callback_from(ONE, (&code, &state)),
            parts.callback_from(ONE, (&code, &state)),
        );
        let expected = match number == SHARE {
            true => StatusCode::SERVICE_UNAVAILABLE,
            false => StatusCode::BAD_GATEWAY,
        };
        let found = [one.status(), other.status()];
        assert_eq!(found, [expected; 2], "{number}");
    }
    assert_eq!(parts.prunable_memos(2 * DAY_MS).await, SHARE);
}

#[tokio::test]
async fn a_page_that_is_reloaded_while_alipay_cannot_be_asked_costs_nobody_anything() {
    let parts = parts(|_| ()).await;
    parts
        .simulator
        .fault(Fault::once(FaultKind::Html).times(100));
    let (state, code) = (parts.state("a").await, parts.auth_code());
    for _ in 0..100 {
        let failed = parts.callback(&code, Some(&state)).await;
        assert_eq!(failed.status(), StatusCode::BAD_GATEWAY);
    }
    let done = parts.callback(&code, Some(&state)).await;
    assert_eq!(done.status(), StatusCode::FOUND);
}

#[tokio::test]
async fn a_code_that_alipay_refused_is_not_sent_again_for_a_while() {
    let parts = parts(|_| ()).await;
    let mut pages = Vec::new();
    for _ in 0..3 {
        pages.push(whole(parts.callback("rubbish", None).await).await);
    }
    assert_eq!(parts.asked(TOKEN_METHOD), 1);
    assert!(pages.iter().all(|page| *page == pages[0]), "{pages:?}");
    parts.clock.advance_ms(600_000);
    parts.callback("rubbish", None).await;
    assert_eq!(parts.asked(TOKEN_METHOD), 2);
}

/// All that a browser is told by.
async fn told(answer: Response<Full<Bytes>>) -> (StatusCode, Option<String>, String) {
    let location = answer.headers().get(LOCATION);
    let location = location.map(|to| to.to_str().expect("ASCII").to_owned());
    let (status, page) = whole(answer).await;
    (status, location, page)
}

#[tokio::test]
async fn a_code_is_answered_again_to_the_state_alone_that_it_came_with() {
    let mut parts = parts(|_| ()).await;
    let (own, other) = (parts.state("own").await, parts.state("other").await);
    let code = parts.auth_code();
    let done = told(parts.callback(&code, Some(&own)).await).await;
    assert_eq!(done.0, StatusCode::FOUND);
    for _ in 0..2 {
        for state in [Some(&*other), None] {
            let refused = told(parts.callback(&code, state).await).await;
            assert_eq!((refused.0, refused.1), (StatusCode::BAD_REQUEST, None));
        }
        let again = told(parts.callback(&code, Some(&own)).await).await;
        assert_eq!(again, done);
        parts.restart_webhook(&config());
        parts.clock.advance_ms(DAY_MS / 3);
    }
    let of_the_callback = 2;
    assert_eq!(parts.prunable_memos(2 * DAY_MS).await, of_the_callback);
    assert_eq!(parts.asked(TOKEN_METHOD), 1);
}

#[tokio::test]
async fn a_code_that_came_without_a_state_names_nobody_by_a_later_one() {
    let parts = parts(|_| ()).await;
    let (state, code) = (parts.state("shop").await, parts.auth_code());
    let done = told(parts.callback(&code, None).await).await;
    assert_eq!(done.0, StatusCode::FOUND);
    let refused = parts.callback(&code, Some(&state)).await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    assert_eq!(told(parts.callback(&code, None).await).await, done);
    // The state was bound to nothing by that.
    let good = parts.callback(&parts.auth_code(), Some(&state)).await;
    assert!(location(&good).ends_with("&ref=shop"));
}

#[tokio::test]
async fn who_joins_an_exchange_is_judged_as_who_comes_later() {
    let parts = parts(|_| ()).await;
    for (is_bound, asked) in [(true, 1), (false, 2)] {
        let slow = Fault::once(FaultKind::Slow);
        parts.simulator.fault(slow.delay(SLOW));
        let (own, other) = (parts.state("own").await, parts.state("other").await);
        let (own, code) = (is_bound.then_some(&*own), parts.auth_code());
        let meanwhile = |state| {
            let (parts, code) = (&parts, &code);
            async move {
                parts.until_asked(asked).await;
                told(parts.callback(code, state).await).await
            }
        };
        let third = parts.state("third").await;
        let elsewhere = (!is_bound).then_some(&*third);
        let (first, joined, foreign, without) = tokio::join!(
            parts.callback(&code, own),
            meanwhile(own),
            meanwhile(Some(&*other)),
            meanwhile(elsewhere),
        );
        let first = told(first).await;
        assert_eq!(first.0, StatusCode::FOUND);
        assert_eq!(joined, first);
        for refused in [foreign, without] {
            assert_eq!((refused.0, refused.1), (StatusCode::BAD_REQUEST, None));
        }
    }
    // Two exchanges, and one state.
    assert_eq!(parts.prunable_memos(2 * DAY_MS).await, 3);
    assert_eq!(parts.asked(TOKEN_METHOD), 2);
}

#[tokio::test]
async fn of_those_who_come_at_once_with_one_code_one_is_answered() {
    let parts = parts(|_| ()).await;
    for n in 1..=4 {
        let (one, other) = (parts.state("one").await, parts.state("other").await);
        let code = parts.auth_code();
        parts.clock.advance_ms(1);
        let (one, other, none) = tokio::join!(
            parts.callback(&code, Some(&one)),
            parts.callback(&code, Some(&other)),
            parts.callback(&code, None),
        );
        let answers = [one, other, none];
        let mut found: Vec<_> = answers.iter().map(Response::status).collect();
        found.sort();
        let refused = StatusCode::BAD_REQUEST;
        assert_eq!(found, [StatusCode::FOUND, refused, refused]);
        assert_eq!(parts.asked(TOKEN_METHOD), n);
        let event = parts.inbox().await.pop().expect("an event").0;
        let reference = event.event.expect("an event").reference;
        let answer = answers.iter().find(|a| a.status() == StatusCode::FOUND);
        let answer = location(answer.expect("one"));
        assert_eq!(parameter(&answer, "ref"), reference.as_deref());
    }
}

#[tokio::test]
async fn of_two_states_that_come_at_once_with_one_code_the_one_that_is_answered_is_bound() {
    let parts = parts(|_| ()).await;
    for n in 1..=8 {
        let (one, other) = (parts.state("one").await, parts.state("other").await);
        let code = parts.auth_code();
        // Of one moment events have no order.
        parts.clock.advance_ms(1);
        let answers = tokio::join!(
            parts.callback(&code, Some(&one)),
            parts.callback(&code, Some(&other)),
        );
        let (won, lost, done) = match answers.0.status() {
            StatusCode::FOUND => (("one", one), (other, answers.1), answers.0),
            _ => (("other", other), (one, answers.0), answers.1),
        };
        let (lost, refused) = lost;
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
        assert_eq!(parts.asked(TOKEN_METHOD), n);
        let ((reference, won), done) = (won, location(&done));
        assert_eq!(parameter(&done, "ref"), Some(reference));
        let event = parts.inbox().await.pop().expect("an event").0;
        let event = event.event.expect("an event");
        assert_eq!(event.reference.as_deref(), Some(reference));
        assert!(event.bound);
        parts.is_refused(&code, Some(&lost)).await;
        assert_eq!(location(&parts.callback(&code, Some(&won)).await), done);
    }
}

#[tokio::test]
async fn a_state_that_was_bound_to_the_code_of_another_counts() {
    let parts = parts(|_| ()).await;
    let mut exchanged = 0;
    loop {
        let (one, other) = (parts.state("one").await, parts.state("other").await);
        let code = parts.auth_code();
        let (one, other) = tokio::join!(
            parts.callback_from(ONE, (&code, &one)),
            parts.callback_from(ONE, (&code, &other)),
        );
        let found = [one.status(), other.status()];
        if found.contains(&StatusCode::SERVICE_UNAVAILABLE) {
            break;
        }
        exchanged += 1;
        assert!(exchanged <= 50, "none of those who lost was counted");
    }
    // Of each exchange its memo and the state that won.
    let bound = parts.prunable_memos(2 * DAY_MS).await - 2 * exchanged;
    assert_eq!(bound, SHARE);
}

#[tokio::test]
async fn what_an_operator_exchanged_is_answered_to_the_state_that_was_bound_before() {
    let mut parts = parts(|_| ()).await;
    let (own, code) = parts.bound_pair().await;
    let other = parts.state("other").await;
    parts.operator(&code).await;
    for _ in 0..2 {
        let done = location(&parts.callback(&code, Some(&own)).await);
        assert!(done.ends_with("&ref=own"));
        parts.is_refused(&code, Some(&other)).await;
        let done = location(&parts.callback(&code, None).await);
        assert_eq!(parameter(&done, "ref"), None);
        parts.restart_webhook(&config());
        parts.clock.advance_ms(LINK_MS);
    }
    let failed_and_done = 2;
    assert_eq!(parts.asked(TOKEN_METHOD), failed_and_done);
}

#[tokio::test]
async fn who_joins_an_operators_exchange_is_answered_by_the_state_that_was_bound_before() {
    let parts = parts(|_| ()).await;
    let (own, code) = parts.bound_pair().await;
    let other = parts.state("other").await;
    let slow = Fault::once(FaultKind::Slow);
    parts.simulator.fault(slow.delay(SLOW));
    let meanwhile = async {
        let failed_and_slow = 2;
        parts.until_asked(failed_and_slow).await;
        parts.is_refused(&code, Some(&other)).await;
        location(&parts.callback(&code, Some(&own)).await)
    };
    let ((), done) = tokio::join!(parts.operator(&code), meanwhile);
    assert!(done.ends_with("&ref=own"));
    assert_eq!(location(&parts.callback(&code, Some(&own)).await), done);
    parts.is_refused(&code, Some(&other)).await;
}

#[tokio::test]
async fn an_operator_gets_what_came_with_a_state_and_takes_nothing_from_it() {
    let parts = parts(|_| ()).await;
    let (own, code) = (parts.state("own").await, parts.auth_code());
    let done = location(&parts.callback(&code, Some(&own)).await);
    parts.operator(&code).await;
    assert_eq!(location(&parts.callback(&code, Some(&own)).await), done);
    parts.is_refused(&code, None).await;
}

#[tokio::test]
async fn a_code_that_came_without_a_state_is_refused_while_none_may() {
    let mut parts = parts(|_| ()).await;
    let (state, code) = (parts.state("shop").await, parts.auth_code());
    let done = location(&parts.callback(&code, None).await);
    parts.reconfigure_webhook(&WebhookConfig {
        accept_stateless_auth: false,
        ..config()
    });
    parts.is_refused(&code, None).await;
    parts.is_refused(&code, Some(&state)).await;
    parts.reconfigure_webhook(&config());
    assert_eq!(location(&parts.callback(&code, None).await), done);
    assert_eq!(parts.asked(TOKEN_METHOD), 1);
}

#[tokio::test]
async fn a_code_is_known_to_its_app_alone() {
    let parts = parts(|_| ()).await;
    let (own, code) = (parts.state("own").await, parts.auth_code());
    let done = location(&parts.callback(&code, Some(&own)).await);
    parts.add_app(UNKNOWN_APP_ID);
    let link = format!("/alipay/auth/start?ref=own&app_id={UNKNOWN_APP_ID}");
    let link = location(&parts.get(&link).await);
    let theirs = parameter(&link, "state").expect("a state");
    for (app_id, state, asked) in [
        (DEFAULT_APP_ID, theirs, 1),
        (UNKNOWN_APP_ID, &*own, 1),
        (UNKNOWN_APP_ID, theirs, 2),
    ] {
        let path = path_back(app_id, &code, Some(state));
        let refused = parts.get(&path).await;
        assert!(refused.headers().get(LOCATION).is_none(), "{path}");
        assert_eq!(parts.asked(TOKEN_METHOD), asked, "{path}");
    }
    assert_eq!(location(&parts.callback(&code, Some(&own)).await), done);
}

#[tokio::test]
async fn a_code_that_was_not_exchanged_goes_on_with_its_state_and_then_with_no_other() {
    let parts = parts(|_| ()).await;
    let (own, other) = (parts.state("own").await, parts.state("other").await);
    let code = parts.auth_code();
    parts.simulator.fault(Fault::once(FaultKind::Html).times(2));
    for _ in 0..2 {
        let failed = parts.callback(&code, Some(&own)).await;
        assert_eq!(failed.status(), StatusCode::BAD_GATEWAY);
    }
    let done = location(&parts.callback(&code, Some(&own)).await);
    assert!(done.ends_with("&ref=own"));
    let refused = parts.callback(&code, Some(&other)).await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn what_was_remembered_without_its_state_is_answered_to_what_is_bound_to_it() {
    let parts = parts(|_| ()).await;
    let both = [FIRST_AUTH_APP_ID, SECOND_AUTH_APP_ID];
    let code = parts.simulator.app_auth_code(None, &both);
    parts.callback(&code.expect("merchants"), None).await;
    for ids in [&both[..1], &both] {
        let (own, other) = (parts.state("own").await, parts.state("other").await);
        let code = format!("of-the-version-before-{}", ids.len());
        let MemoKey(digest) = MemoKey::new("auth-code", &[&code]);
        let remember = |key, value: &[u8]| Change::Remember {
            key,
            value: Secret::new(value.to_vec()),
            expires_at: parts.clock.now_ms() + DAY_MS,
        };
        let kept = vec![
            remember(MemoKey::new("auth-state", &[&own]), &digest),
            remember(
                MemoKey::new("exchange", &[DEFAULT_APP_ID, &code]),
                ids.join(" ").as_bytes(),
            ),
        ];
        parts.store.commit(kept).await.expect("kept");
        let expected = format!("&auth_app_id={}", ids.join("%2C"));
        for _ in 0..2 {
            let done = location(&parts.callback(&code, Some(&own)).await);
            assert!(done.ends_with(&format!("{expected}&ref=own")), "{done}");
            let done = location(&parts.callback(&code, None).await);
            assert!(done.ends_with(&expected), "{done}");
            parts.is_refused(&code, Some(&other)).await;
        }
    }
    assert_eq!(parts.asked(TOKEN_METHOD), 1);
}
