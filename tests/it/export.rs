//! Whatever a store holds of its merchants, an export read back into an empty one holds as well.
//! `EXPORT_CASES` says how many stores are tried.

use std::sync::Arc;

use alipay_sidecar::admin::export::sealed_page;
use alipay_sidecar::admin::import::{ImportMode, import};
use alipay_sidecar::admin::sealing::Opener;
use alipay_sidecar::clock::ManualClock;
use alipay_sidecar::model::authorization::{
    Authorization, Doubt, Evidence, Rank, Refusal, Revocation, Source,
};
use alipay_sidecar::model::id::{Alias, AppId, AuthAppId, Pid};
use alipay_sidecar::model::merchant::{Merchant, MerchantStatus};
use alipay_sidecar::model::token::AppAuthToken;
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::simulator::DEFAULT_APP_ID;
use alipay_sidecar::store::embedded::{EmbeddedStore, OpenOptions};
use alipay_sidecar::store::seal::StoreKey;
use alipay_sidecar::store::{Change, Directory, Store};
use http::Method;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use crate::authorizations::{FIRST, ask, check_refused, post};
use crate::store::{authorization, authorize};
use crate::support::{TestSidecar, json as parsed, keys, text};

const NOW: i64 = 1_795_335_630_000;
const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZg==";

/// One thing that happens to a merchant.
#[derive(Debug, Clone)]
enum Step {
    Authorize {
        token: u8,
        refresh: bool,
        time: Option<i64>,
        named: bool,
        reference: Option<String>,
        expiry: Option<i64>,
        key: bool,
    },
    /// When, and whether only by when.
    Cancel {
        time: Option<i64>,
        by: bool,
    },
    FetchKey,
    Refuse {
        token: u8,
        doubt: Doubt,
        at: i64,
        evidence: Evidence,
    },
    Work(u8),
}

fn refuse() -> impl Strategy<Value = Step> {
    let doubt = prop_oneof![
        Just(Doubt::NewTokenRefused),
        Just(Doubt::RefreshTokenRefused),
        Just(Doubt::TokenRefused),
    ];
    let evidence = prop_oneof![1 => Just(Evidence::Invalid), 3 => Just(Evidence::None)];
    (any::<u8>(), doubt, 1_i64..50, evidence).prop_map(|(token, doubt, at, evidence)| {
        Step::Refuse {
            token: token % 4,
            doubt,
            at: NOW + at,
            evidence,
        }
    })
}

fn step() -> impl Strategy<Value = Step> {
    let time = || prop::option::of(1_i64..50);
    let authorize = (
        (any::<u8>(), any::<bool>(), time(), any::<bool>()),
        (
            prop::option::of("[^\u{0}-\u{1f}\u{7f}-\u{9f}]{1,12}"),
            time(),
            any::<bool>(),
        ),
    );
    let authorize = authorize.prop_map(
        |((token, refresh, time, named), (reference, expiry, key))| Step::Authorize {
            token: token % 4,
            refresh,
            time,
            named,
            reference,
            expiry,
            key,
        },
    );
    prop_oneof![
        4 => authorize,
        1 => (time(), any::<bool>()).prop_map(|(time, by)| Step::Cancel { time, by }),
        1 => Just(Step::FetchKey),
        3 => refuse(),
        2 => any::<u8>().prop_map(|token| Step::Work(token % 4)),
    ]
}

fn ids(merchant: usize) -> (AppId, AuthAppId) {
    let app_id = AppId::new("2021000000000001").expect("id");
    let auth_app_id = AuthAppId::new(&format!("202100000000{merchant:04}")).expect("id");
    (app_id, auth_app_id)
}

fn secret(name: &str, merchant: usize, token: u8) -> Secret<String> {
    Secret::new(format!("{name}-{merchant}-{token}"))
}

fn change(merchant: usize, step: &Step) -> Change {
    let (app_id, auth_app_id) = ids(merchant);
    match step {
        Step::Authorize {
            token,
            refresh,
            time,
            named,
            reference,
            expiry,
            key,
        } => {
            let secret = |name: &str| secret(name, merchant, *token);
            let pid = Pid::new(&format!("208800000000{merchant:04}")).expect("a PID");
            let alias = Alias::new(&format!("shop-{merchant}")).expect("an alias");
            let authorization = Authorization {
                app_id,
                auth_app_id,
                pid: named.then_some(pid),
                alias: named.then_some(alias),
                reference: reference.clone(),
                token: AppAuthToken {
                    app_auth_token: secret("token"),
                    app_refresh_token: refresh.then(|| secret("refresh")),
                    stated_expiry: *expiry,
                },
                rank: time.map_or(Rank::AfterStored, |time| Rank::AuthTime(NOW + time)),
                source: Source::Push,
                bound: true,
                is_plugin: false,
                agent_app_id: None,
                renews: None,
                trigger: None,
                error: None,
                encrypt_key: key.then(|| Secret::new(KEY.to_owned())),
            };
            Change::Authorize {
                authorization: Box::new(authorization),
                entry: None,
            }
        }
        Step::Cancel { time, by } => Change::Revoke {
            revocation: Revocation {
                app_id,
                auth_app_id,
                at: time.map(|time| NOW + time),
                estimated: *by && time.is_some(),
                only: None,
            },
            entry: None,
        },
        Step::FetchKey => Change::FetchedKey {
            app_id,
            auth_app_id,
            encrypt_key: Secret::new(KEY.to_owned()),
        },
        Step::Refuse {
            token,
            doubt,
            at,
            evidence,
        } => Change::Doubt {
            refusal: Refusal {
                app_id,
                auth_app_id,
                app_auth_token: secret("token", merchant, *token),
                doubt: *doubt,
                at: *at,
                evidence: *evidence,
            },
            entry: None,
        },
        Step::Work(token) => Change::Worked {
            app_id,
            auth_app_id,
            app_auth_token: secret("token", merchant, *token),
        },
    }
}

fn store(directory: &std::path::Path) -> EmbeddedStore {
    let (path, key) = (directory.join("s.redb"), StoreKey::generate());
    EmbeddedStore::create(&path, &key).expect("a new store");
    let options = OpenOptions {
        path,
        key,
        cache_bytes: 1 << 20,
        clock: Arc::new(ManualClock::new(NOW)),
    };
    EmbeddedStore::open(options).expect("opened")
}

/// Everything of a record that an export carries: all but where it came from, when it was changed,
/// and how long the pair before it was said to hold.
fn carried(merchant: &Merchant) -> String {
    let pair = |token: &AppAuthToken| {
        let refresh = token.app_refresh_token.as_ref().map(|t| t.expose().clone());
        (token.app_auth_token.expose().clone(), refresh)
    };
    let (token, previous) = (&merchant.token, merchant.previous_token.as_ref());
    let key = merchant
        .encrypt_key
        .as_ref()
        .map(|key| key.expose().clone());
    let names = (&merchant.pid, &merchant.alias, &merchant.reference);
    let tokens = (pair(token), token.stated_expiry, previous.map(pair));
    let times = (
        merchant.auth_time,
        merchant.auth_time_estimated,
        merchant.status,
        merchant.revoked_at_estimated,
    );
    let ids = (&merchant.app_id, &merchant.auth_app_id);
    let doubts = (merchant.doubt, merchant.refresh_refused);
    format!(
        "{ids:?} {names:?} {tokens:?} {times:?} {doubts:?} {key:?} {}",
        merchant.encrypt_key_fetched
    )
}

async fn all(store: &EmbeddedStore) -> Vec<String> {
    let merchants = store.merchants(None, 1000).await.expect("read");
    merchants.iter().map(carried).collect()
}

async fn export(store: &EmbeddedStore, opener: &Opener) -> Vec<u8> {
    let (mut after, mut part, mut plain) = (None, 1, Vec::new());
    loop {
        let body = json!({"public_key": keys::public("app2048"), "export": "e", "part": part});
        let body = body.to_string();
        let page = sealed_page(store, after.as_deref(), 2, body.as_bytes())
            .await
            .expect("sealed");
        let (header, opened) = opener.open(&page.sealed).expect("opened");
        assert_eq!((header.part, header.last), (part, page.next.is_none()));
        plain.extend_from_slice(&opened);
        part += 1;
        match page.next {
            Some(next) => after = Some(next),
            None => return plain,
        }
    }
}

async fn check(merchants: &[Vec<Step>], opener: &Opener) -> Result<(), TestCaseError> {
    let (here, there) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let (here, there) = (store(here.path()), store(there.path()));
    for (merchant, steps) in merchants.iter().enumerate() {
        for step in steps {
            here.commit(vec![change(merchant, step)])
                .await
                .expect("committed");
        }
    }
    let plain = export(&here, opener).await;
    let before = all(&here).await;
    let report = import(&there, NOW, &plain, ImportMode::Store)
        .await
        .expect("imported");
    prop_assert_eq!((report.imported, report.stale), (before.len(), 0));
    prop_assert_eq!(all(&there).await, before);
    Ok(())
}

#[test]
fn an_export_read_back_equals_what_was_exported() {
    let cases = std::env::var("EXPORT_CASES")
        .ok()
        .and_then(|n| n.parse().ok());
    let config = Config {
        cases: cases.unwrap_or(24),
        failure_persistence: None,
        ..Config::default()
    };
    let opener = Opener::from_text(&keys::private("app2048")).expect("a key");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let merchants = prop::collection::vec(prop::collection::vec(step(), 1..6), 0..6);
    TestRunner::new(config)
        .run(&merchants, |merchants| {
            runtime.block_on(check(&merchants, &opener))
        })
        .expect("every store comes back");
}

#[tokio::test]
async fn an_older_export_leaves_alone_what_came_since() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = store(directory.path());
    let line = |merchant: usize, token: &str, more: Value| {
        let (app_id, auth_app_id) = ids(merchant);
        let mut line = json!({"app_id": app_id.as_str(), "auth_app_id": auth_app_id.as_str(),
            "app_auth_token": format!("{token}-{merchant}"), "auth_time": NOW - 5000});
        let more = more.as_object().expect("an object").clone();
        line.as_object_mut().expect("an object").extend(more);
        line.to_string()
    };
    let key = |byte: u8| {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode([byte; 16])
    };
    let fetched = |byte| json!({"encrypt_key": key(byte), "encrypt_key_fetched": true});
    // What an earlier export says: ended by a refusal, spent, suspect, with a key of then, and all at once.
    let older = [
        line(
            0,
            "t",
            json!({"revoked_at": NOW - 4000, "doubt": "token-refused"}),
        ),
        line(
            1,
            "t",
            json!({"app_refresh_token": "r1", "refresh_refused": true}),
        ),
        line(
            2,
            "t",
            json!({"suspect_at": NOW - 4000, "doubt": "token-refused"}),
        ),
        line(3, "t", fetched(1)),
        line(4, "t", json!({"revoked_at": i64::MAX})),
        line(
            5,
            "t",
            json!({"revoked_at": NOW - 2000, "revoked_at_estimated": true}),
        ),
    ];
    let newer = [
        line(0, "t", json!({"auth_time": NOW - 3000})),
        line(
            1,
            "t",
            json!({"auth_time": NOW - 3000, "app_refresh_token": "r2"}),
        ),
        line(2, "t", json!({"auth_time": NOW - 3000})),
        line(
            3,
            "t",
            fetched(2)
                .as_object()
                .map(|key| {
                    let mut all = key.clone();
                    all.insert("auth_time".to_owned(), json!(NOW - 3000));
                    Value::Object(all)
                })
                .expect("an object"),
        ),
        line(4, "t", json!({"auth_time": NOW + 1000})),
    ];
    // What Alipay confirmed although it is older than a cancellation of which is only known by when it was.
    let proved = async || {
        let mut given = authorization(5, "proved", Rank::AuthTime(0));
        (given.app_id, given.auth_app_id) = ids(5);
        given.rank = Rank::Proved {
            auth_time: NOW - 2500,
            over: NOW - 2000,
        };
        store
            .commit(vec![authorize(given, None)])
            .await
            .expect("committed");
    };
    let (older, newer) = (older.join("\n"), newer.join("\n"));
    let read = async |lines: &str, mode| {
        let report = import(&store, NOW, lines.as_bytes(), mode)
            .await
            .expect("read");
        (report.imported, report.stale)
    };
    assert_eq!(read(&older, ImportMode::Store).await, (6, 0));
    let first = store.merchants(None, 10).await.expect("read");
    assert!(first[1].refresh_refused && first[2].doubt.is_some());
    assert_eq!(first[0].status, MerchantStatus::Revoked { at: NOW - 4000 });
    assert_eq!(read(&newer, ImportMode::DryRun).await, (5, 0));
    assert_eq!(read(&newer, ImportMode::Store).await, (5, 0));
    proved().await;
    let before = all(&store).await;
    for merchant in store.merchants(None, 10).await.expect("read") {
        assert_eq!(merchant.status, MerchantStatus::Authorized);
        assert!(!merchant.refresh_refused && merchant.doubt.is_none());
    }
    for mode in [ImportMode::DryRun, ImportMode::Store] {
        assert_eq!(read(&older, mode).await, (0, 6));
        assert_eq!(all(&store).await, before);
    }
}

#[tokio::test]
async fn a_newer_export_tells_what_became_of_the_same_authorisations() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = store(directory.path());
    let line = |merchant: usize, more: &[(&str, Value)]| {
        let (app_id, auth_app_id) = ids(merchant);
        let mut line = json!({"app_id": app_id.as_str(), "auth_app_id": auth_app_id.as_str(),
            "app_auth_token": format!("t-{merchant}"), "app_refresh_token": "r",
            "auth_time": NOW - 5000});
        for (name, value) in more {
            line[*name] = value.clone();
        }
        line.to_string()
    };
    let doubt = ("doubt", json!("token-refused"));
    let ended = ("revoked_at", json!(NOW - 4000));
    let by = ("revoked_at_estimated", json!(true));
    let lines: [&[(&str, Value)]; 6] = [
        &[ended.clone(), doubt.clone()],
        &[("refresh_refused", json!(true))],
        &[ended.clone(), by],
        &[ended],
        // It may have worked since: whether it did, nobody says.
        &[("suspect_at", json!(NOW - 4000)), doubt],
        // By a clock that is wrong.
        &[("revoked_at", json!(i64::MAX))],
    ];
    let text = |lines: &[&[(&str, Value)]]| {
        let lines = lines.iter().enumerate();
        let lines: Vec<String> = lines.map(|(merchant, more)| line(merchant, more)).collect();
        lines.join("\n")
    };
    let read = async |text: String, mode| {
        let report = import(&store, NOW, text.as_bytes(), mode).await;
        let report = report.expect("read");
        (report.imported, report.stale)
    };
    let nothing: [&[(&str, Value)]; 6] = [&[]; 6];
    assert_eq!(read(text(&nothing), ImportMode::Store).await, (6, 0));
    assert_eq!(read(text(&lines), ImportMode::DryRun).await, (5, 1));
    assert_eq!(read(text(&lines), ImportMode::Store).await, (5, 1));
    let now = store.merchants(None, 10).await.expect("read");
    let revoked = MerchantStatus::Revoked { at: NOW - 4000 };
    let statuses: Vec<_> = now.iter().map(|merchant| merchant.status).collect();
    let active = MerchantStatus::Authorized;
    let by_us = MerchantStatus::Revoked { at: NOW };
    assert_eq!(statuses, [revoked, active, revoked, revoked, active, by_us]);
    assert!(now[1].refresh_refused && now[2].revoked_at_estimated);
    // And again: nothing is new.
    for mode in [ImportMode::DryRun, ImportMode::Store] {
        assert_eq!(read(text(&lines), mode).await, (0, 6));
    }
}

#[tokio::test]
async fn an_export_read_back_makes_the_same_records() {
    let full = TestSidecar::start().await;
    let lines = [
        json!({"app_id": DEFAULT_APP_ID, "auth_app_id": "2021000000003001", "app_auth_token": "app-auth-token-1"}),
        json!({"app_id": DEFAULT_APP_ID, "auth_app_id": "2021000000003002", "user_id": "2088000000003002",
            "alias": "two", "ref": "\u{5546}\u{5bb6} 2", "app_auth_token": "app-auth-token-2", "app_refresh_token": "r2",
            "auth_time": 1_700_000_000_000_i64, "stated_expiry": 1_800_000_000_000_i64,
            "previous_app_auth_token": "p2", "previous_app_refresh_token": "q2",
            "encrypt_key": "MDEyMzQ1Njc4OWFiY2RlZg=="}),
        json!({"app_id": DEFAULT_APP_ID, "auth_app_id": "2021000000003003", "app_auth_token": "app-auth-token-3",
            "auth_time": 1_700_000_000_000_i64, "revoked_at": 1_700_000_000_001_i64}),
        json!({"app_id": DEFAULT_APP_ID, "auth_app_id": "2021000000003004", "app_auth_token": "app-auth-token-4",
            "auth_time": 5, "auth_time_estimated": true,
            "encrypt_key": "MDEyMzQ1Njc4OWFiY2RlZg==", "encrypt_key_fetched": true}),
    ];
    let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
    let imported = full
        .admin(Method::POST, "/api/merchants/import", lines.join("\n"))
        .await;
    assert_eq!(parsed(&imported)["imported"], 4, "{}", text(&imported));
    let opener = Opener::from_text(&keys::private("app2048")).expect("a key");

    let empty = TestSidecar::start().await;
    ask(&empty, Method::DELETE, FIRST, Value::Null).await;
    let (mut after, mut part, mut plain) = (String::new(), 1, Vec::new());
    loop {
        let body = json!({"public_key": keys::public("app2048"), "export": "e-1", "part": part});
        let page = post(
            &full,
            &format!("/api/merchants/export?limit=2{after}"),
            body,
        )
        .await;
        let sealed = page["sealed"].as_str().expect("a line");
        assert!(!sealed.contains("app-auth-token"), "sealed");
        let (header, opened) = opener.open(sealed).expect("opened");
        plain.extend_from_slice(&opened);
        assert_eq!((header.part, header.last), (part, page["next"].is_null()));
        let Some(next) = page["next"].as_str() else {
            break;
        };
        after = format!("&after={next}");
        part += 1;
    }
    let imported = empty
        .admin(Method::POST, "/api/merchants/import", plain.clone())
        .await;
    assert_eq!(parsed(&imported)["imported"], 5, "{}", text(&imported));
    let again = empty
        .admin(Method::POST, "/api/merchants/import", plain)
        .await;
    assert_eq!(
        (&parsed(&again)["imported"], &parsed(&again)["stale"]),
        (&json!(0), &json!(5))
    );
    let all = |sidecar: &TestSidecar| {
        let store = sidecar.sidecar.store();
        async move { store.merchants(None, 100).await.expect("read") }
    };
    let (here, there) = (all(&full).await, all(&empty).await);
    let (here, there): (Vec<_>, Vec<_>) = (
        here.iter().map(carried).collect(),
        there.iter().map(carried).collect(),
    );
    assert_eq!(here.len(), 5);
    assert_eq!(here, there);
}

#[tokio::test]
async fn an_export_goes_to_no_key_that_could_be_broken_and_to_no_private_one() {
    let sidecar = TestSidecar::start().await;
    let path = "/api/merchants/export";
    let body = |key: String| json!({"public_key": key, "export": "e", "part": 1});
    for wrong in [
        body(keys::public("app1024")),
        body(keys::private("app2048")),
        body("rubbish".to_owned()),
        json!({"public_key": keys::public("app2048"), "export": "e/1", "part": 1}),
        json!({"public_key": keys::public("app2048"), "export": "e", "part": 0}),
        json!({"public_key": keys::public("app2048"), "part": 1}),
        json!({}),
    ] {
        check_refused(&sidecar, path, wrong, (400, "body-invalid")).await;
    }
}

#[tokio::test]
async fn what_an_export_says_of_times_must_fit_them() {
    let sidecar = TestSidecar::start().await;
    for wrong in [
        json!({"revoked_at": 5}),
        json!({"auth_time": 5, "revoked_at": 5}),
        json!({"auth_time_estimated": true}),
        json!({"previous_app_auth_token": "p"}),
        json!({"auth_time": 5, "previous_app_refresh_token": "q"}),
        json!({"auth_time": 5, "auth_time_estimated": "yes"}),
        json!({"suspect_at": 6, "doubt": "token-refused"}),
        json!({"auth_time": 5, "suspect_at": 6}),
        json!({"auth_time": 5, "doubt": "token-refused"}),
        json!({"auth_time": 5, "suspect_at": 6, "doubt": "other"}),
        json!({"auth_time": 5, "suspect_at": 6, "revoked_at": 7, "doubt": "token-refused"}),
    ] {
        let mut line = json!({"app_id": DEFAULT_APP_ID, "auth_app_id": "2021000000003001", "app_auth_token": "a"});
        let members = line.as_object_mut().expect("an object");
        members.extend(wrong.as_object().expect("an object").clone());
        check_refused(
            &sidecar,
            "/api/merchants/import",
            line,
            (400, "body-invalid"),
        )
        .await;
    }
}
