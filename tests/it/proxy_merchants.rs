//! Which merchant a request is for: every way to say it.

use alipay_sidecar::config::token::UnknownToken;
use alipay_sidecar::model::authorization::{Authorization, Rank, Revocation};
use alipay_sidecar::model::id::AppId;
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::simulator::{
    DEFAULT_APP_ID, FIRST_APP_AUTH_TOKEN, FIRST_AUTH_APP_ID, FIRST_PID, SECOND_APP_AUTH_TOKEN,
    SECOND_AUTH_APP_ID, SECOND_PID,
};
use alipay_sidecar::store::{Change, MerchantKey};
use http::{Method, Request};

use crate::proxy::watched;
use crate::support::upstream::{Answer, FakeAlipay};
use crate::support::{ALIAS, TestSidecar, add_merchant, app, header, merchant, text};

/// The second app of a sidecar with two.
const SECOND_APP_ID: &str = "2021000000000002";
/// The merchant's token of the second app.
const SECOND_APPS_TOKEN: &str = "202611BB00000000000000000000000000002001";

/// What a request carries besides its method.
#[derive(Default)]
struct Tagged<'a> {
    prefix: &'a str,
    query: &'a str,
    headers: &'a [(&'a str, &'a str)],
}

/// Calls `/gateway.do` and tells with which `app_id` and `app_auth_token` Alipay was called.
async fn called(
    (alipay, sidecar): (&FakeAlipay, &TestSidecar),
    tagged: &Tagged<'_>,
) -> (String, String) {
    let uri = format!(
        "{}/gateway.do?method=alipay.trade.query{}",
        tagged.prefix, tagged.query
    );
    let mut request = Request::builder().method(Method::POST).uri(uri);
    for (name, value) in tagged.headers {
        request = request.header(*name, *value);
    }
    let reply = sidecar.proxy(request, "").await;
    let refused = reply.headers.get("alipay-sidecar-error");
    assert!(
        refused.is_none(),
        "{} {} {:?}: {}",
        tagged.prefix,
        tagged.query,
        tagged.headers,
        text(&reply)
    );
    let arrived = alipay.next().await;
    (arrived.param("app_id"), arrived.param("app_auth_token"))
}

async fn check(both: (&FakeAlipay, &TestSidecar), tagged: Tagged<'_>, expected: (&str, &str)) {
    let found = called(both, &tagged).await;
    assert_eq!(
        (found.0.as_str(), found.1.as_str()),
        expected,
        "{} {} {:?}",
        tagged.prefix,
        tagged.query,
        tagged.headers
    );
}

fn of_second_app() -> Authorization {
    Authorization {
        app_id: AppId::new(SECOND_APP_ID).expect("id"),
        ..merchant(FIRST_AUTH_APP_ID, FIRST_PID, SECOND_APPS_TOKEN, Some(ALIAS))
    }
}

async fn with_two_apps() -> (FakeAlipay, TestSidecar) {
    let alipay = FakeAlipay::start().await;
    let sidecar = TestSidecar::start_with(|config| {
        config.upstream.gateway = Some(alipay.gateway());
        config.apps.push(app(SECOND_APP_ID));
    })
    .await;
    add_merchant(&*sidecar.sidecar.store(), of_second_app()).await;
    (alipay, sidecar)
}

#[tokio::test]
async fn a_header_a_path_or_a_token_names_the_merchant() {
    let (alipay, sidecar) = watched().await;
    let expected = (DEFAULT_APP_ID, FIRST_APP_AUTH_TOKEN);
    let pid = format!("pid:{FIRST_PID}");
    let auth_app_id = format!("app:{FIRST_AUTH_APP_ID}");
    for selector in [
        ALIAS,
        "alias:shop",
        FIRST_PID,
        &pid,
        FIRST_AUTH_APP_ID,
        &auth_app_id,
    ] {
        let both = (&alipay, &sidecar);
        let headers = [("alipay-merchant", selector)];
        check(
            both,
            Tagged {
                headers: &headers,
                ..Tagged::default()
            },
            expected,
        )
        .await;
        let prefix = format!("/m/{selector}");
        check(
            both,
            Tagged {
                prefix: &prefix,
                ..Tagged::default()
            },
            expected,
        )
        .await;
        let prefix = format!("/m/{}", selector.replace(':', "%3A"));
        check(
            both,
            Tagged {
                prefix: &prefix,
                ..Tagged::default()
            },
            expected,
        )
        .await;
        let query = format!("&app_auth_token=merchant:{selector}");
        check(
            both,
            Tagged {
                query: &query,
                ..Tagged::default()
            },
            expected,
        )
        .await;
    }
}

#[tokio::test]
async fn a_token_ever_held_selects_its_merchant_and_the_current_one_is_sent() {
    let (alipay, sidecar) = watched().await;
    let mut renewed = merchant(FIRST_AUTH_APP_ID, FIRST_PID, "renewed", None);
    renewed.rank = Rank::AfterStored;
    renewed.token.app_refresh_token = Some(Secret::new("renewed-refresh".to_owned()));
    add_merchant(&*sidecar.sidecar.store(), renewed).await;
    for token in [FIRST_APP_AUTH_TOKEN, "renewed"] {
        let query = format!("&app_auth_token={token}");
        let tagged = Tagged {
            query: &query,
            ..Tagged::default()
        };
        check((&alipay, &sidecar), tagged, (DEFAULT_APP_ID, "renewed")).await;
    }
}

#[tokio::test]
async fn several_tags_may_agree() {
    let (alipay, sidecar) = watched().await;
    let headers = [("alipay-merchant", ALIAS), ("alipay-app", DEFAULT_APP_ID)];
    let prefix = format!("/m/{FIRST_PID}");
    let query = format!("&app_auth_token={FIRST_APP_AUTH_TOKEN}&app_id=2021999999999999");
    let tagged = Tagged {
        prefix: &prefix,
        query: &query,
        headers: &headers,
    };
    check(
        (&alipay, &sidecar),
        tagged,
        (DEFAULT_APP_ID, FIRST_APP_AUTH_TOKEN),
    )
    .await;
}

#[tokio::test]
async fn a_second_tag_settles_which_application_a_pid_means() {
    let (alipay, sidecar) = watched().await;
    let other = merchant("2021000000001009", FIRST_PID, "other", Some("other"));
    add_merchant(&*sidecar.sidecar.store(), other).await;
    let headers = [("alipay-merchant", FIRST_PID)];
    let tagged = Tagged {
        prefix: "/m/other",
        headers: &headers,
        ..Tagged::default()
    };
    check((&alipay, &sidecar), tagged, (DEFAULT_APP_ID, "other")).await;
}

#[tokio::test]
async fn self_is_the_isv_without_a_token() {
    let (alipay, sidecar) = watched().await;
    let both = (&alipay, &sidecar);
    let headers = [("alipay-merchant", "self")];
    check(
        both,
        Tagged {
            headers: &headers,
            ..Tagged::default()
        },
        (DEFAULT_APP_ID, ""),
    )
    .await;
    check(
        both,
        Tagged {
            prefix: "/m/self",
            ..Tagged::default()
        },
        (DEFAULT_APP_ID, ""),
    )
    .await;
    let query = "&app_auth_token=merchant:self";
    check(
        both,
        Tagged {
            query,
            ..Tagged::default()
        },
        (DEFAULT_APP_ID, ""),
    )
    .await;
    // Said twice, it is the same.
    let twice = Tagged {
        prefix: "/m/self",
        query,
        headers: &headers,
    };
    check(both, twice, (DEFAULT_APP_ID, "")).await;
}

#[tokio::test]
async fn a_call_for_tokens_is_the_isvs_own_whatever_its_tags_say() {
    let (alipay, sidecar) = with_two_apps().await;
    let of_second = format!("&app_auth_token={SECOND_APPS_TOKEN}");
    let of_first = format!("&app_auth_token={FIRST_APP_AUTH_TOKEN}");
    // Some clients send parameters that they have nothing for.
    let empty = format!("{of_first}&encrypt_type=");
    for (code, tag, app_id) in [
        ("4b2d", of_second, SECOND_APP_ID),
        ("4b2d", of_first, DEFAULT_APP_ID),
        ("4b2e", empty, DEFAULT_APP_ID),
    ] {
        let uri = format!("/gateway.do?method=alipay.open.auth.token.app{tag}");
        let request = Request::builder().method(Method::POST).uri(uri);
        let asked = format!(r#"biz_content={{"grant_type":"authorization_code","code":"{code}"}}"#);
        let reply = sidecar.proxy(request, asked).await;
        let refused = header(&reply, "alipay-sidecar-outcome");
        assert_ne!(refused, "not-sent", "{}", text(&reply));
        let arrived = alipay.next().await;
        assert_eq!(arrived.param("app_id"), app_id);
        assert_eq!(arrived.param("app_auth_token"), "");
    }
}

/// Exchanges a code with those tags; gives the sidecar's refusal, or nothing.
async fn exchanged(sidecar: &TestSidecar, prefix: &str, query: &str) -> String {
    let method = "alipay.open.auth.token.app";
    let uri = format!("{prefix}/gateway.do?method={method}{query}");
    let request = Request::builder().method(Method::POST).uri(uri);
    let asked = r#"biz_content={"grant_type":"authorization_code","code":"4b2d"}"#;
    let reply = sidecar.proxy(request, asked).await;
    header(&reply, "alipay-sidecar-error").to_owned()
}

#[tokio::test]
async fn a_call_for_tokens_is_stopped_by_no_state_of_whom_it_is_tagged_with() {
    const NORTH: &str = "2021000000002011";
    const SOUTH: &str = "2021000000002012";
    const GONE: &str = "2021000000002013";
    const PID: &str = "2088000000002010";
    let (alipay, sidecar) = with_two_apps().await;
    let store = sidecar.sidecar.store();
    let of_second = |auth_app_id: &str, pid: &str| Authorization {
        app_id: AppId::new(SECOND_APP_ID).expect("id"),
        ..merchant(auth_app_id, pid, auth_app_id, None)
    };
    for (auth_app_id, pid) in [(NORTH, PID), (SOUTH, PID), (GONE, "2088000000002013")] {
        add_merchant(&*store, of_second(auth_app_id, pid)).await;
    }
    let gone = store
        .find(MerchantKey::AuthAppId(GONE.parse().expect("id")))
        .await;
    let revoke = Change::Revoke {
        revocation: Revocation::new(&gone.expect("readable")[0], None),
        entry: None,
    };
    store.commit(vec![revoke]).await.expect("stored");
    let query = format!("/m/{GONE}/v2/alipay.trade.query");
    let refused = sidecar.proxy(Request::post(query), "{}").await;
    assert_eq!(
        header(&refused, "alipay-sidecar-error"),
        "merchant-unauthorized"
    );
    let token_of_gone = format!("&app_auth_token={GONE}");
    for (prefix, query) in [
        (&*format!("/m/{GONE}"), ""),
        ("", &*token_of_gone),
        (&*format!("/m/pid:{PID}"), ""),
    ] {
        let code = exchanged(&sidecar, prefix, query).await;
        assert_ne!(code, "merchant-unauthorized", "{prefix} {query}");
        assert_ne!(code, "merchant-ambiguous", "{prefix} {query}");
        let arrived = alipay.next().await;
        assert_eq!(arrived.param("app_id"), SECOND_APP_ID, "{prefix} {query}");
        assert_eq!(arrived.param("app_auth_token"), "");
    }
    // Where they leave two apps, nothing is guessed.
    for (prefix, query, code) in [
        ("/m/shop", "", "app-required"),
        ("/m/self", "", "app-required"),
        ("/m/nobody", "", "merchant-unknown"),
        ("", "", "app-required"),
    ] {
        assert_eq!(exchanged(&sidecar, prefix, query).await, code, "{prefix}");
    }
    assert!(alipay.is_quiet().await);
}

#[tokio::test]
async fn a_selector_in_the_path_is_decoded_once_and_as_a_whole() {
    let (alipay, sidecar) = watched().await;
    for prefix in [
        "/m/shop&x=1",
        "/m/shop%26x=1",
        "/m/sh%256Fp",
        "/m/%FF",
        "/m/",
        "/m/shop;a",
    ] {
        let uri = format!("{prefix}/gateway.do?method=alipay.trade.query");
        let reply = sidecar.proxy(Request::builder().uri(uri), "").await;
        assert_eq!(
            reply.headers["alipay-sidecar-error"], "merchant-unknown",
            "{prefix}"
        );
    }
    assert!(alipay.is_quiet().await);
    let tagged = Tagged {
        prefix: "/m/sh%6Fp",
        ..Tagged::default()
    };
    check(
        (&alipay, &sidecar),
        tagged,
        (DEFAULT_APP_ID, FIRST_APP_AUTH_TOKEN),
    )
    .await;
}

#[tokio::test]
async fn of_several_apps_the_header_or_the_requests_own_app_id_chooses() {
    let (alipay, sidecar) = with_two_apps().await;
    let both = (&alipay, &sidecar);
    let first = (DEFAULT_APP_ID, FIRST_APP_AUTH_TOKEN);
    let second = (SECOND_APP_ID, SECOND_APPS_TOKEN);
    for (app_id, expected) in [(DEFAULT_APP_ID, first), (SECOND_APP_ID, second)] {
        let headers = [("alipay-merchant", ALIAS), ("alipay-app", app_id)];
        check(
            both,
            Tagged {
                headers: &headers,
                ..Tagged::default()
            },
            expected,
        )
        .await;
        let headers = [("alipay-merchant", ALIAS)];
        let query = format!("&app_id={app_id}");
        check(
            both,
            Tagged {
                query: &query,
                headers: &headers,
                ..Tagged::default()
            },
            expected,
        )
        .await;
        let headers = [("alipay-merchant", "self"), ("alipay-app", app_id)];
        check(
            both,
            Tagged {
                headers: &headers,
                ..Tagged::default()
            },
            (app_id, ""),
        )
        .await;
    }
    // A token belongs to one record, which decides.
    let query = format!("&app_auth_token={SECOND_APPS_TOKEN}");
    check(
        both,
        Tagged {
            query: &query,
            ..Tagged::default()
        },
        second,
    )
    .await;
}

#[tokio::test]
async fn of_several_apps_the_merchants_own_record_decides() {
    let (alipay, sidecar) = with_two_apps().await;
    let only = merchant(
        SECOND_AUTH_APP_ID,
        SECOND_PID,
        SECOND_APP_AUTH_TOKEN,
        Some("only"),
    );
    add_merchant(&*sidecar.sidecar.store(), only).await;
    let tagged = Tagged {
        prefix: "/m/only",
        ..Tagged::default()
    };
    check(
        (&alipay, &sidecar),
        tagged,
        (DEFAULT_APP_ID, SECOND_APP_AUTH_TOKEN),
    )
    .await;
}

/// The routes of a call, each with what it tags by besides.
const ROUTES: [&str; 5] = [
    "/gateway.do?method=alipay.trade.query",
    "/v2/alipay.trade.query",
    "/v2/alipay.trade.app.pay/order-string",
    "/v2/alipay.trade.page.pay/page-url",
    "/v3/alipay/trade/query",
];

#[tokio::test]
async fn the_header_of_the_token_is_passed_over_on_no_route() {
    let sidecar = TestSidecar::start_with(|config| {
        config.proxy.default_merchant = Some(ALIAS.parse().expect("a selector"));
    })
    .await;
    let added = merchant(SECOND_AUTH_APP_ID, SECOND_PID, SECOND_APP_AUTH_TOKEN, None);
    add_merchant(&*sidecar.sidecar.store(), added).await;
    let second = format!("merchant:{SECOND_AUTH_APP_ID}");
    let shop = format!("merchant:{ALIAS}");
    let asked = async |path: &str, headers: &[(&str, &str)]| {
        let mut request = Request::builder().method(Method::POST).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let reply = sidecar.proxy(request, "").await;
        header(&reply, "alipay-sidecar-error").to_owned()
    };
    const HEADER: &str = "alipay-app-auth-token";
    let doubled = [(HEADER, shop.as_str()), (HEADER, &second)];
    for path in ROUTES {
        for (headers, code) in [
            (&[(HEADER, "merchant:nobody")][..], "merchant-unknown"),
            (&[(HEADER, "never-held")], "token-unknown"),
            (&doubled, "merchant-conflict"),
            (
                &[(HEADER, &second), ("alipay-merchant", ALIAS)],
                "merchant-conflict",
            ),
        ] {
            assert_eq!(asked(path, headers).await, code, "{path} {headers:?}");
        }
        assert_eq!(
            asked(&format!("/m/shop{path}"), &[(HEADER, &second)]).await,
            "merchant-conflict"
        );
    }
    assert_eq!(sidecar.simulator.requests().len(), 0);
    let of_both = format!("{}&app_auth_token={shop}", ROUTES[0]);
    assert_eq!(
        asked(&of_both, &[(HEADER, &second)]).await,
        "merchant-conflict"
    );
    for path in [
        "/gateway.do?method=alipay.trade.query",
        "/v2/alipay.trade.query",
        "/v3/alipay/trade/query",
    ] {
        for tag in [&second, SECOND_APP_AUTH_TOKEN] {
            asked(path, &[(HEADER, tag)]).await;
            let seen = sidecar.simulator.requests().pop().expect("a request");
            assert_eq!(
                seen.auth_app_id.as_deref(),
                Some(SECOND_AUTH_APP_ID),
                "{path}"
            );
        }
    }
    let token = format!("{}&app_auth_token={SECOND_APP_AUTH_TOKEN}", ROUTES[0]);
    assert_ne!(
        asked(&token, &[(HEADER, &second)]).await,
        "merchant-conflict"
    );
}

#[tokio::test]
async fn an_untagged_request_is_the_default_merchants() {
    let alipay = FakeAlipay::start().await;
    let sidecar = TestSidecar::start_with(|config| {
        config.upstream.gateway = Some(alipay.gateway());
        config.proxy.default_merchant = Some(ALIAS.parse().expect("a selector"));
    })
    .await;
    let expected = (DEFAULT_APP_ID, FIRST_APP_AUTH_TOKEN);
    check((&alipay, &sidecar), Tagged::default(), expected).await;
    let headers = [("alipay-merchant", "self")];
    let tagged = Tagged {
        headers: &headers,
        ..Tagged::default()
    };
    check((&alipay, &sidecar), tagged, (DEFAULT_APP_ID, "")).await;
}

#[tokio::test]
async fn a_tag_spelled_in_another_case_is_not_overlooked() {
    let alipay = FakeAlipay::start().await;
    let sidecar = TestSidecar::start_with(|c| {
        c.upstream.gateway = Some(alipay.gateway());
        c.proxy.default_merchant = Some(ALIAS.parse().expect("a selector"));
    })
    .await;
    let query = "/gateway.do?method=alipay.trade.query&App_Auth_Token=merchant:nobody";
    let reply = sidecar.proxy(Request::builder().uri(query), "").await;
    assert_eq!(header(&reply, "alipay-sidecar-error"), "merchant-unknown");
    let query = "/gateway.do?method=alipay.trade.query&Notify_Url=/orders/1&Sign=x";
    sidecar.proxy(Request::builder().uri(query), "").await;
    let sent = alipay.next().await;
    let notify_url = format!("{}/alipay/notify/orders/1", sidecar.webhook);
    assert_eq!(sent.param("notify_url"), notify_url);
}

#[tokio::test]
async fn a_call_for_tokens_is_never_signed_for_somebody_else_to_make() {
    let sidecar = TestSidecar::start().await;
    for action in ["order-string", "page-url", "page-form"] {
        let path = format!("/v2/alipay.open.auth.token.app/{action}");
        let reply = sidecar.post(&path, "{}").await;
        assert_eq!(header(&reply, "alipay-sidecar-error"), "method-invalid");
    }
}

#[tokio::test]
async fn a_token_that_alipay_doesnt_describe_is_an_unknown_one() {
    let alipay = FakeAlipay::start().await;
    let sidecar = TestSidecar::start_with(|config| {
        config.upstream.gateway = Some(alipay.gateway());
        config.tokens.unknown = UnknownToken::Learn;
    })
    .await;
    for (n, code, sub_code, expected) in [
        (1, "40004", "APP_AUTH_TOKEN_NOT_EXIST", "token-unknown"),
        (2, "40002", "isv.invalid-parameter", "token-unknown"),
        // These say nothing of the token.
        (4, "40002", "isv.invalid-signature", "upstream-invalid"),
        (5, "40004", "ACQ.SYSTEM_ERROR", "upstream-invalid"),
        (
            3,
            "40006",
            "isv.insufficient-isv-permissions",
            "upstream-invalid",
        ),
    ] {
        let node = format!(r#"{{"code":"{code}","msg":"no","sub_code":"{sub_code}"}}"#);
        alipay.answer(Answer::Node(node));
        let uri = format!("/gateway.do?method=alipay.trade.query&app_auth_token=never-held-{n}");
        let request = Request::builder().method(Method::POST).uri(uri);
        let reply = sidecar.proxy(request, "").await;
        assert_eq!(
            header(&reply, "alipay-sidecar-error"),
            expected,
            "{}",
            text(&reply)
        );
        assert_eq!(
            alipay.next().await.param("method"),
            "alipay.open.auth.token.app.query"
        );
    }
}
