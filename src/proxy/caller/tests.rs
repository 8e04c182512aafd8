//! Who is believed to call, and what follows from each caller's rules.

use http::Request;
use prometheus::Registry;

use super::*;
use crate::config::caller::MerchantRule;
use crate::delivery::whose::Owner;
use crate::model::id::AuthAppId;
use crate::model::selector::Selector;
use crate::protocol::charset::Charset;
use crate::protocol::key::AppPrivateKey;
use crate::protocol::params::Params;
use crate::protocol::sign_content;
use crate::protocol::signature::SignType;
use crate::proxy::route::Action;

fn config(name: &str, identity: CallerIdentity, mode: CallerMode) -> CallerConfig {
    CallerConfig {
        name: name.to_owned(),
        identity,
        merchants: Vec::new(),
        methods: vec!["alipay.trade.*".to_owned()],
        mode,
        events: false,
    }
}

/// A program with a token, one known by its uid, an SDK, and a second program.
fn callers() -> Callers {
    let token = |text| CallerIdentity::Token(TokenDigest::of(text));
    let sdk = CallerIdentity::PublicKey(AppPrivateKey::of_vectors("app1024").public_key().clone());
    let configured = [
        ("program", token("t0ken")),
        ("uid", CallerIdentity::Uid(1000)),
        ("sdk", sdk),
        ("other", token("other")),
    ]
    .map(|(name, identity)| config(name, identity, CallerMode::Enforce));
    Callers::new(&configured, &metrics())
}

fn metrics() -> ProxyMetrics {
    ProxyMetrics::register(&Registry::new()).expect("the first")
}

fn v2() -> Target {
    Target::V2 {
        method: "alipay.trade.pay".to_owned(),
        action: Action::Call,
    }
}

fn v3() -> Target {
    Target::V3 {
        path: "/v3/alipay/trade/pay".to_owned(),
    }
}

fn head(authorization: &[&str], peer: Option<Peer>) -> Parts {
    let mut request = Request::new(());
    for value in authorization {
        let value = value.parse().expect("a header");
        request.headers_mut().append(AUTHORIZATION, value);
    }
    if let Some(peer) = peer {
        request.extensions_mut().insert(peer);
    }
    request.into_parts().0
}

/// Whom `Authorization` proves; an error by its code.
fn bearer(
    callers: &Callers,
    authorization: &[&str],
    target: &Target,
) -> Result<Option<String>, ErrorCode> {
    let found = callers.of_bearer(&head(authorization, None).headers, target);
    let name = |caller: Arc<Caller>| caller.name().to_string();
    found
        .map(|found| found.map(name))
        .map_err(|error| error.code)
}

/// A signature by a key of the vectors.
fn signed_by(key: &str) -> SdkSignature {
    let mut params = Params::new();
    params.set("method", "alipay.trade.query");
    let content = sign_content::v2_request(&params);
    let sign = AppPrivateKey::of_vectors(key).sign(SignType::Rsa2, content.as_bytes());
    params.set("sign", sign.expect("signed"));
    SdkSignature::of_v2(&params, Charset::Utf8).expect("a signature")
}

/// Whom all proofs together prove.
fn settled(
    callers: &Callers,
    (token, uid, key): (Option<&str>, Option<u32>, Option<&str>),
) -> Result<String, ErrorCode> {
    let peer = Peer::Unix { uid };
    let authorization = token.map(|token| format!("Bearer {token}"));
    let authorization: Vec<_> = authorization.iter().map(String::as_str).collect();
    let head = head(&authorization, Some(peer));
    let bearer = callers
        .of_bearer(&head.headers, &v2())
        .map_err(|error| error.code)?;
    let signature = key.map(signed_by);
    let who = callers.settle(&head, bearer, signature.as_ref());
    let who = who.map_err(|error| error.code)?;
    Ok(who
        .name()
        .map_or_else(|| "anyone".to_owned(), |name| name.to_string()))
}

const UNAUTHENTICATED: ErrorCode = ErrorCode::CallerUnauthenticated;

/// A host's own configuration may have got past the check of it.
#[test]
fn no_token_at_all_is_nobodys_whatever_is_configured() {
    let nothing = CallerIdentity::Token(TokenDigest::of(""));
    let configured = [config("empty", nothing, CallerMode::Enforce)];
    let callers = Callers::new(&configured, &metrics());
    for given in ["Bearer ", "Bearer", "bearer   ", ""] {
        let found = bearer(&callers, &[given], &v2());
        assert_eq!(found, Err(UNAUTHENTICATED), "{given:?}");
    }
}

#[test]
fn a_bearer_token_proves_its_caller_and_a_wrong_one_is_never_none() {
    let callers = callers();
    let check = |authorization: &[&str], expected: Result<Option<&str>, ErrorCode>| {
        let found = bearer(&callers, authorization, &v2());
        assert_eq!(
            found.as_ref().map(Option::as_deref),
            expected.as_ref().copied(),
            "{authorization:?}"
        );
    };
    check(&[], Ok(None));
    check(&["Bearer t0ken"], Ok(Some("program")));
    check(&["bEARER  t0ken "], Ok(Some("program")));
    check(&["Bearer other"], Ok(Some("other")));
    for wrong in [
        "Bearer",
        "Bearer ",
        "Bearer t0ke",
        "Bearer T0ken",
        "t0ken",
        "Basic t0ken",
        "Bearerx t0ken",
        "",
    ] {
        check(&[wrong], Err(UNAUTHENTICATED));
    }
    check(&["Bearer t0ken", "Bearer t0ken"], Err(UNAUTHENTICATED));
    check(&["ALIPAY-SHA256withRSA app_id=1"], Err(UNAUTHENTICATED));
}

#[test]
fn on_v3_a_signature_stands_where_the_token_would() {
    let callers = callers();
    let found = |value: &str| bearer(&callers, &[value], &v3());
    assert_eq!(found("alipay-sha256withrsa app_id=1,sign=x"), Ok(None));
    assert_eq!(found("Bearer t0ken"), Ok(Some("program".to_owned())));
    assert_eq!(found("Basic t0ken"), Err(UNAUTHENTICATED));
}

#[test]
fn where_no_caller_is_configured_nothing_is_asked_for() {
    let nobody = Callers::new(&[], &metrics());
    assert_eq!(bearer(&nobody, &["Basic x"], &v2()), Ok(None));
    assert_eq!(
        settled(&nobody, (None, None, None)),
        Ok("anyone".to_owned())
    );
    assert!(!nobody.looks_at_signatures(&head(&[], None), &Target::Gateway));
}

#[test]
fn all_proofs_must_prove_the_same_caller() {
    let callers = callers();
    let check = |proofs, expected: Result<&str, ErrorCode>| {
        let found = settled(&callers, proofs);
        assert_eq!(
            found.as_deref().map_err(|code| *code),
            expected,
            "{proofs:?}"
        );
    };
    check((Some("t0ken"), None, None), Ok("program"));
    check((None, Some(1000), None), Ok("uid"));
    check((None, None, Some("app1024")), Ok("sdk"));
    // What proves nobody takes nothing from what proves somebody.
    check((Some("t0ken"), Some(0), Some("app2048")), Ok("program"));
    check((None, None, None), Err(UNAUTHENTICATED));
    check((None, Some(1001), Some("app2048")), Err(UNAUTHENTICATED));
    check((Some("t0ken"), Some(1000), None), Err(UNAUTHENTICATED));
    check((Some("t0ken"), None, Some("app1024")), Err(UNAUTHENTICATED));
    check((None, Some(1000), Some("app1024")), Err(UNAUTHENTICATED));
}

#[test]
fn a_uid_is_that_of_a_unix_socket() {
    let callers = callers();
    let peer = Peer::Tcp(([127, 0, 0, 1], 1000).into());
    let error = callers
        .settle(&head(&[], Some(peer)), None, None)
        .expect_err("nobody");
    assert_eq!(error.code, UNAUTHENTICATED);
}

#[test]
fn signatures_are_looked_at_where_sdks_send_them() {
    let callers = callers();
    let looks = |authorization: &[&str], target: &Target| {
        callers.looks_at_signatures(&head(authorization, None), target)
    };
    assert!(looks(&[], &Target::Gateway));
    assert!(looks(&["ALIPAY-SHA256withRSA app_id=1"], &v3()));
    assert!(!looks(&[], &v3()));
    for bearer in ["Bearer t0ken", "bearer x"] {
        assert!(!looks(&[bearer], &v3()), "{bearer}");
    }
    assert!(!looks(&[], &v2()));
    let token = CallerIdentity::Token(TokenDigest::of("t"));
    let without = Callers::new(&[config("a", token, CallerMode::Enforce)], &metrics());
    assert!(!without.looks_at_signatures(&head(&[], None), &Target::Gateway));
}

/// A caller with these rules, and the metric of what it breaks.
fn with_rules(config: CallerConfig) -> (Who, impl Fn() -> Vec<String>) {
    let registry = Registry::new();
    let metrics = ProxyMetrics::register(&registry).expect("the first");
    let Callers(callers) = Callers::new(&[config], &metrics);
    let broken = move || {
        let families = registry.gather();
        let ours = families
            .iter()
            .filter(|family| family.name().contains("caller_violations"));
        let rules = ours.flat_map(|family| family.get_metric());
        let rules = rules.filter(|metric| metric.get_counter().get_value() > 0.0);
        rules
            .map(|metric| metric.get_label()[0].value().to_owned())
            .collect()
    };
    let caller = callers.first().expect("one");
    (Who::Known(Arc::clone(caller)), broken)
}

fn named(mode: CallerMode) -> CallerConfig {
    config("shop", CallerIdentity::Uid(1), mode)
}

#[test]
fn what_no_rule_allows_is_refused() {
    let (who, broken) = with_rules(named(CallerMode::Enforce));
    let code = |checked: Result<(), ProxyError>| checked.expect_err("refused").code;
    assert!(who.check_method(Called::V2("alipay.trade.pay")).is_ok());
    let refused = who.check_method(Called::V2("alipay.user.info.share"));
    assert_eq!(code(refused), ErrorCode::CallerForbidden);
    assert_eq!(code(who.check_events()), ErrorCode::CallerForbidden);
    assert_eq!(code(who.refuse_merchant()), ErrorCode::CallerForbidden);
    assert!(broken().is_empty());
    let (who, _) = with_rules(CallerConfig {
        events: true,
        ..named(CallerMode::Enforce)
    });
    assert!(who.check_events().is_ok());
}

#[test]
fn where_it_is_only_reported_it_is_counted_by_the_rule_that_it_breaks() {
    let (who, broken) = with_rules(named(CallerMode::Report));
    assert!(who.check_method(Called::V2("alipay.trade.pay")).is_ok());
    assert!(broken().is_empty());
    assert!(
        who.check_method(Called::V2("alipay.user.info.share"))
            .is_ok()
    );
    assert_eq!(broken(), ["method"]);
    assert!(who.check_events().is_ok() && who.refuse_merchant().is_ok());
    assert_eq!(broken(), ["events", "merchant", "method"]);
}

#[test]
fn events_are_those_of_the_merchants_that_the_rules_name() {
    let of = |id: &str| AuthAppId::new(id).expect("an id");
    let (ours, others) = (of("2021000000001001"), of("2021000000001002"));
    let rule = MerchantRule::Selected(Selector::AuthAppId(ours.clone()));
    let gives = |whose: Option<Whose>, id: &AuthAppId| match whose {
        None => panic!("nothing is said"),
        Some(Whose::Everybodys) => true,
        Some(Whose::Of(gives)) => gives(&Owner {
            auth_app_id: Some(id),
            pid: None,
            alias: None,
        }),
    };
    let rules = |mode, merchants: &[MerchantRule]| {
        let merchants = merchants.to_vec();
        with_rules(CallerConfig {
            merchants,
            ..named(mode)
        })
        .0
    };
    let one = std::slice::from_ref(&rule);
    let enforced = rules(CallerMode::Enforce, one);
    assert!(gives(Some(enforced.whose()), &ours) && !gives(Some(enforced.whose()), &others));
    assert!(enforced.whose_by_rule().is_none());
    // Reported alone: it gets everybody's, and what it would get is known.
    let reported = rules(CallerMode::Report, one);
    assert!(gives(Some(reported.whose()), &others));
    assert!(gives(reported.whose_by_rule(), &ours) && !gives(reported.whose_by_rule(), &others));
    let all = rules(CallerMode::Enforce, &[MerchantRule::All]);
    assert!(gives(Some(all.whose()), &others));
    let all = rules(CallerMode::Report, &[MerchantRule::All]);
    assert!(all.whose_by_rule().is_none());
}

#[test]
fn callers_that_are_not_told_apart_have_no_rules() {
    let anyone = Who::Anyone;
    assert!(anyone.name().is_none() && anyone.grant().is_none() && anyone.places().is_none());
    assert!(
        anyone
            .check_method(Called::V2("alipay.open.auth.token.app"))
            .is_ok()
    );
    assert!(anyone.check_events().is_ok() && anyone.refuse_merchant().is_ok());
    assert!(matches!(anyone.whose(), Whose::Everybodys) && anyone.whose_by_rule().is_none());
    let (known, _) = with_rules(named(CallerMode::Enforce));
    assert_eq!(known.name().as_deref(), Some("shop"));
    assert!(known.grant().is_some() && known.places().is_some());
}

#[test]
fn a_caller_keeps_its_places_over_a_reload_and_nobody_elses() {
    let before = callers();
    let configured = ["new", "other", "sdk", "uid"]
        .map(|name| config(name, CallerIdentity::Uid(1), CallerMode::Enforce));
    let after = before.reconfigured(&configured, &metrics());
    let places = |callers: &Callers, name: &str| {
        let caller = callers.0.iter().find(|caller| &*caller.name == name);
        Arc::clone(&caller.expect("a caller").places)
    };
    for name in ["other", "sdk", "uid"] {
        let (was, is) = (places(&before, name), places(&after, name));
        assert!(Arc::ptr_eq(&was, &is), "{name}");
    }
    let new = places(&after, "new");
    assert!(
        before
            .0
            .iter()
            .all(|caller| !Arc::ptr_eq(&caller.places, &new))
    );
}
