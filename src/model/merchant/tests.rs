//! What changes a record, and what doesn't.

use super::*;

fn authorization(token: &str, rank: Rank) -> Authorization {
    Authorization {
        app_id: AppId::new("2021000000000001").expect("id"),
        auth_app_id: AuthAppId::new("2021000000000101").expect("id"),
        pid: None,
        alias: None,
        reference: None,
        token: AppAuthToken {
            app_auth_token: Secret::new(token.to_owned()),
            app_refresh_token: None,
            stated_expiry: None,
        },
        rank,
        source: Source::Push,
        bound: true,
        is_plugin: true,
        agent_app_id: None,
        renews: None,
        trigger: None,
        error: None,
        encrypt_key: None,
    }
}

fn stored(token: &str, auth_time: i64) -> Merchant {
    match Merchant::authorize(
        Before::Nothing,
        &authorization(token, Rank::AuthTime(auth_time)),
        0,
    ) {
        Authorized::Applied(merchant) => *merchant,
        _ => panic!("nothing is stored that could be newer"),
    }
}

fn token_after(stored: &Merchant, rank: Rank, now: i64) -> String {
    match Merchant::authorize(Before::Record(stored), &authorization("new", rank), now) {
        Authorized::Applied(merchant) => merchant.token.app_auth_token.expose().clone(),
        _ => stored.token.app_auth_token.expose().clone(),
    }
}

#[test]
fn the_newest_auth_time_wins_not_the_latest_arrival() {
    let merchant = stored("old", 1000);
    assert_eq!(token_after(&merchant, Rank::AuthTime(999), 5000), "old");
    assert_eq!(token_after(&merchant, Rank::AuthTime(1000), 5000), "old");
    assert_eq!(token_after(&merchant, Rank::AuthTime(1001), 5000), "new");
}

#[test]
fn an_exchange_always_ranks_after_what_is_stored() {
    let merchant = stored("old", 9000);
    assert_eq!(token_after(&merchant, Rank::AfterStored, 5000), "new");
}

#[test]
fn a_newer_authorisation_revives_a_cancelled_merchant_and_an_older_does_not() {
    let cancelled = stored("old", 1000)
        .revoke(&Revocation::new(&stored("old", 1000), Some(2000)), 2000)
        .expect("newer than the authorisation");
    assert_eq!(cancelled.status, MerchantStatus::Revoked { at: 2000 });
    assert_eq!(token_after(&cancelled, Rank::AuthTime(1500), 3000), "old");
    assert_eq!(token_after(&cancelled, Rank::AuthTime(2500), 3000), "new");
}

#[test]
fn a_cancellation_known_to_hold_ranks_last_whatever_the_clock_says() {
    let merchant = stored("old", 9000);
    let revoked = |now| {
        let revocation = Revocation::new(&merchant, None);
        merchant.revoke(&revocation, now).map(|after| after.status)
    };
    assert_eq!(revoked(5000), Some(MerchantStatus::Revoked { at: 9001 }));
    assert_eq!(revoked(9500), Some(MerchantStatus::Revoked { at: 9500 }));
}

#[test]
fn a_cancellation_older_than_the_authorisation_changes_nothing() {
    let merchant = stored("old", 1000);
    assert!(
        merchant
            .revoke(&Revocation::new(&merchant, Some(1000)), 5000)
            .is_none()
    );
}

fn refusal(merchant: &Merchant, doubt: Doubt, evidence: Evidence) -> Refusal {
    Refusal {
        evidence,
        ..Refusal::new(merchant, doubt, 2000)
    }
}

#[test]
fn what_claims_to_come_from_years_ahead_ranks_as_now() {
    let merchant = stored("old", 1000);
    let absurd = Rank::AuthTime(9000 + 400 * AHEAD_MS);
    let given = authorization("new", absurd);
    let Authorized::Applied(after) = Merchant::authorize(Before::Record(&merchant), &given, 9000)
    else {
        panic!("it is newer");
    };
    assert_eq!((after.auth_time, after.auth_time_estimated), (9000, true));
    // The same again brings nothing new, and a true time still outranks it.
    let again = Merchant::authorize(Before::Record(&after), &given, 9500);
    assert!(matches!(again, Authorized::Stale));
    assert_eq!(token_after(&after, Rank::AuthTime(9001), 9600), "new");
    assert_eq!(
        token_after(&merchant, Rank::AuthTime(9000 + AHEAD_MS), 9000),
        "new"
    );
    let revocation = Revocation::new(&merchant, Some(i64::MAX));
    let revoked = merchant.revoke(&revocation, 9000).expect("newer");
    assert_eq!(revoked.status, MerchantStatus::Revoked { at: 9000 });
}

#[test]
fn what_was_cancelled_before_it_arrived_is_stale() {
    let authorize = |rank| {
        let given = authorization("t", rank);
        Merchant::authorize(Before::Cancelled(2000), &given, 5000)
    };
    assert!(matches!(authorize(Rank::AuthTime(2000)), Authorized::Stale));
    assert!(matches!(
        authorize(Rank::AuthTime(2001)),
        Authorized::Applied(_)
    ));
    assert!(matches!(
        authorize(Rank::AfterStored),
        Authorized::Applied(_)
    ));
}

#[test]
fn a_refused_token_makes_suspect_once_and_a_working_call_clears_it() {
    let merchant = stored("t", 1000);
    let refused = refusal(&merchant, Doubt::TokenRefused, Evidence::None);
    let suspect = merchant.doubted(&refused, 2000).expect("new");
    assert_eq!(suspect.status, MerchantStatus::Suspect { at: 2000 });
    assert!(suspect.doubted(&refused, 3000).is_none());
    assert!(
        suspect
            .worked(&Secret::new("other".to_owned()), 3000)
            .is_none()
    );
    let worked = suspect.worked(&suspect.token.app_auth_token, 3000);
    let worked = worked.expect("new");
    assert_eq!(
        (worked.status, worked.doubt),
        (MerchantStatus::Authorized, None)
    );
    assert!(worked.worked(&worked.token.app_auth_token, 4000).is_none());
}

#[test]
fn a_token_that_holds_clears_a_suspicion_and_keeps_the_pair_before() {
    let mut merchant = stored("t", 1000);
    merchant.previous_token = Some(stored("before", 1).token);
    let held = merchant.token.app_auth_token.clone();
    assert!(merchant.trusted(&held, 3000).is_none());
    let refused = refusal(&merchant, Doubt::NewTokenRefused, Evidence::None);
    let suspect = merchant.doubted(&refused, 2000).expect("new");
    let other = Secret::new("other".to_owned());
    assert!(suspect.trusted(&other, 3000).is_none());
    let trusted = suspect.trusted(&held, 3000).expect("new");
    assert_eq!(
        (trusted.status, trusted.doubt),
        (MerchantStatus::Authorized, None)
    );
    assert!(trusted.previous_token.is_some());
    let revoked = suspect.revoke(&Revocation::new(&suspect, None), 3000);
    assert!(revoked.expect("newer").trusted(&held, 4000).is_none());
}

#[test]
fn a_time_that_was_estimated_elsewhere_ranks_and_stays_estimated() {
    let merchant = stored("old", 1000);
    let after = |at, now| {
        let given = authorization("new", Rank::EstimatedTime(at));
        match Merchant::authorize(Before::Record(&merchant), &given, now) {
            Authorized::Applied(merchant) => {
                Some((merchant.auth_time, merchant.auth_time_estimated))
            }
            _ => None,
        }
    };
    assert_eq!(after(1000, 9000), None);
    assert_eq!(after(1001, 9000), Some((1001, true)));
    assert_eq!(after(9001 + AHEAD_MS, 9000), Some((9000, true)));
}

#[test]
fn a_token_that_alipay_calls_invalid_revokes_unless_it_was_replaced() {
    let merchant = stored("t", 1000);
    let refused = refusal(&merchant, Doubt::TokenRefused, Evidence::Invalid);
    let revoked = merchant.doubted(&refused, 2500).expect("new");
    // What was authorised while Alipay was asked is newer.
    assert_eq!(revoked.status, MerchantStatus::Revoked { at: 2000 });
    assert_eq!(token_after(&revoked, Rank::AuthTime(2001), 3000), "new");
    // As is what was authorised before, and of which we hear only now: it is about another token.
    assert_eq!(token_after(&revoked, Rank::AuthTime(1001), 3000), "new");
    assert_eq!(token_after(&revoked, Rank::Since(1001), 3000), "new");
    for rank in [Rank::AuthTime(1000), Rank::Since(1000)] {
        assert_eq!(token_after(&revoked, rank, 3000), "t");
    }
    let same = authorization("t", Rank::AuthTime(1500));
    let same = Merchant::authorize(Before::Record(&revoked), &same, 3000);
    assert!(matches!(same, Authorized::Stale));
    // The message of the cancellation itself says when it was.
    let said = revoked.revoke(&Revocation::new(&revoked, Some(1500)), 3000);
    let said = said.expect("told apart");
    assert_eq!(said.status, MerchantStatus::Revoked { at: 1500 });
    assert_eq!(token_after(&said, Rank::AuthTime(1400), 3000), "t");
    assert!(
        revoked
            .revoke(&Revocation::new(&revoked, Some(1000)), 3000)
            .is_none()
    );
    let cancelled = merchant.revoke(&Revocation::new(&merchant, Some(2000)), 2500);
    let cancelled = cancelled.expect("new");
    assert_eq!(token_after(&cancelled, Rank::AuthTime(1001), 3000), "t");
    let early = Refusal {
        at: 500,
        ..refused.clone()
    };
    let early = merchant.doubted(&early, 2500).expect("new");
    assert_eq!(early.status, MerchantStatus::Revoked { at: 1001 });
    let absurd = Refusal {
        at: i64::MAX,
        ..refused.clone()
    };
    let absurd = merchant.doubted(&absurd, 2500).expect("new");
    assert_eq!(absurd.status, MerchantStatus::Revoked { at: 2500 });
    assert!(revoked.doubted(&refused, 3000).is_none());
    assert!(
        revoked
            .worked(&revoked.token.app_auth_token, 3000)
            .is_none()
    );
    assert!(stored("newer", 2000).doubted(&refused, 3000).is_none());
}

#[test]
fn a_refused_refresh_token_stays_refused_until_there_is_another() {
    let mut merchant = stored("t", 1000);
    merchant.token.app_refresh_token = Some(Secret::new("r".to_owned()));
    let refused = refusal(&merchant, Doubt::RefreshTokenRefused, Evidence::None);
    let suspect = merchant.doubted(&refused, 2000).expect("new");
    let worked = suspect.worked(&suspect.token.app_auth_token, 3000);
    assert!(worked.as_ref().is_some_and(|m| m.refresh_refused));
    let renewed = |refresh_token: &str| {
        let mut given = authorization("t", Rank::AfterStored);
        given.token.app_refresh_token = Some(Secret::new(refresh_token.to_owned()));
        match Merchant::authorize(Before::Record(&suspect), &given, 4000) {
            Authorized::Applied(merchant) => merchant.refresh_refused,
            other => panic!("{other:?}"),
        }
    };
    assert!(renewed("r") && !renewed("other"));
}

#[test]
fn a_token_given_again_keeps_the_refresh_token_that_is_not_said_and_another_does_not() {
    let pair = |token: &str, refresh_token: Option<&str>, stated_expiry| AppAuthToken {
        app_auth_token: Secret::new(token.to_owned()),
        app_refresh_token: refresh_token.map(|text| Secret::new(text.to_owned())),
        stated_expiry,
    };
    let mut merchant = stored("t", 1000);
    merchant.token = pair("t", Some("r"), Some(9000));
    merchant.refresh_refused = true;
    let revocation = Revocation::new(&merchant, None);
    let revoked = merchant.revoke(&revocation, 1500).expect("newer");
    for (given, expected, is_refused) in [
        (("t", None, None), (Some("r"), Some(9000)), true),
        (
            ("t", Some("other"), None),
            (Some("other"), Some(9000)),
            false,
        ),
        (("t", None, Some(8000)), (Some("r"), Some(8000)), true),
        (("new", None, None), (None, None), false),
        (("new", Some("other"), None), (Some("other"), None), false),
    ] {
        for (before, rank) in [
            (&merchant, Rank::AfterStored),
            (&merchant, Rank::AuthTime(1001)),
            (&revoked, Rank::AuthTime(1600)),
        ] {
            let given = Authorization {
                token: pair(given.0, given.1, given.2),
                ..authorization("", rank)
            };
            let after = match Merchant::authorize(Before::Record(before), &given, 2000) {
                Authorized::Applied(merchant) => *merchant,
                other => panic!("{other:?}"),
            };
            let refresh_token = after.token.app_refresh_token.as_ref();
            let refresh_token = refresh_token.map(|token| token.expose().as_str());
            let found = (
                (refresh_token, after.token.stated_expiry),
                after.refresh_refused,
            );
            assert_eq!(found, (expected, is_refused), "{given:?}");
        }
    }
}

#[test]
fn only_a_refresh_leaves_something_to_fall_back_to() {
    let merchant = stored("old", 1000);
    let after = |source| {
        let given = Authorization {
            source,
            ..authorization("new", Rank::AfterStored)
        };
        match Merchant::authorize(Before::Record(&merchant), &given, 2000) {
            Authorized::Applied(merchant) => *merchant,
            other => panic!("{other:?}"),
        }
    };
    assert!(after(Source::Push).fallback().is_none());
    let refreshed = after(Source::Refresh);
    assert_eq!(
        refreshed.fallback().map(Secret::expose),
        Some(&"old".to_owned())
    );
    let worked = refreshed.worked(&refreshed.token.app_auth_token, 3000);
    assert!(worked.expect("new").fallback().is_none());
    let revocation = Revocation::new(&refreshed, None);
    let revoked = refreshed.revoke(&revocation, 3000).expect("newer");
    assert!(revoked.fallback().is_none());
}

#[test]
fn a_learned_token_replaces_nothing_that_stands() {
    let merchant = stored("t", 1000);
    let learned = authorization("learned", Rank::Unranked);
    let authorize = |before| Merchant::authorize(before, &learned, 5000);
    assert!(matches!(
        authorize(Before::Record(&merchant)),
        Authorized::Known
    ));
    assert!(matches!(authorize(Before::Nothing), Authorized::Applied(_)));
    assert!(matches!(
        authorize(Before::Cancelled(9000)),
        Authorized::Applied(_)
    ));
    let revoked = merchant.revoke(&Revocation::new(&merchant, None), 5000);
    let revoked = revoked.expect("newer");
    assert!(matches!(
        authorize(Before::Record(&revoked)),
        Authorized::Known
    ));
    // Nor is a pair replaced that is only doubted, or a cancellation undone by an older token.
    let refusal = Refusal::new(&merchant, Doubt::TokenRefused, 2000);
    let suspect = merchant.doubted(&refusal, 2000).expect("new");
    assert!(matches!(
        authorize(Before::Record(&suspect)),
        Authorized::Known
    ));
    for (since, is_known) in [(4999, true), (5000, true), (5001, false)] {
        let learned = authorization("learned", Rank::Since(since));
        let learned = Merchant::authorize(Before::Record(&revoked), &learned, 6000);
        assert_eq!(matches!(learned, Authorized::Known), is_known, "{since}");
    }
}

#[test]
fn what_is_learned_again_ranks_by_when_it_began_so_that_its_own_message_still_counts() {
    let apply = |before: Before<'_>, given: &Authorization| match Merchant::authorize(
        before, given, 9000,
    ) {
        Authorized::Applied(merchant) => Some(*merchant),
        _ => None,
    };
    let cancelled = |auth_time, estimated| {
        let merchant = Merchant {
            auth_time_estimated: estimated,
            ..stored("t", auth_time)
        };
        let refusal = Refusal {
            evidence: Evidence::Invalid,
            ..Refusal::new(&merchant, Doubt::TokenRefused, 8000)
        };
        merchant.doubted(&refusal, 8000).expect("news")
    };
    let learned = authorization("learned", Rank::Since(5000));
    for (revoked, is_taken) in [
        (cancelled(1000, false), true),
        (cancelled(5000, false), false),
        // When that was given, nobody knows.
        (cancelled(7000, true), true),
    ] {
        let found = apply(Before::Record(&revoked), &learned);
        assert_eq!(
            found.as_ref().map(|m| m.auth_time),
            is_taken.then_some(5000)
        );
        for auth_time in found.iter().flat_map(|_| [5000, 5400]) {
            let given = Authorization {
                token: AppAuthToken {
                    app_refresh_token: Some(Secret::new("refresh".to_owned())),
                    ..learned.token.clone()
                },
                rank: Rank::AuthTime(auth_time),
                ..learned.clone()
            };
            let known = found.as_ref().expect("taken");
            let pushed = apply(Before::Record(known), &given).expect("news");
            assert!(pushed.token.app_refresh_token.is_some());
            assert!(!pushed.auth_time_estimated);
            assert!(apply(Before::Record(&pushed), &given).is_none(), "again");
        }
    }
    let time = |before, since| {
        let learned = authorization("learned", Rank::Since(since));
        apply(before, &learned).map(|m| m.auth_time)
    };
    assert_eq!(time(Before::Nothing, 5000), Some(5000));
    assert_eq!(time(Before::Nothing, 9001 + AHEAD_MS), Some(9000));
    assert_eq!(time(Before::Cancelled(4000), 5000), Some(5000));
    assert_eq!(time(Before::Cancelled(6000), 5000), Some(6001));
}

fn bought(purchase: Purchase, at: i64, over: Option<i64>) -> Rank {
    Rank::Bought { purchase, at, over }
}

const PURCHASES: [Purchase; 3] = [Purchase::Exchange, Purchase::Renewal, Purchase::Revival];

#[test]
fn a_refresh_of_the_sidecars_own_undoes_no_cancellation() {
    let merchant = stored("t", 1000);
    let revoked = merchant.revoke(&Revocation::new(&merchant, None), 5000);
    let revoked = revoked.expect("newer");
    for purchase in PURCHASES {
        let undoes = purchase != Purchase::Renewal;
        for over in [None, Some(5000)] {
            let rank = bought(purchase, 5500, over);
            assert_eq!(token_after(&merchant, rank, 6000), "new", "{rank:?}");
            let found = token_after(&revoked, rank, 6000);
            assert_eq!(found == "new", undoes, "{rank:?}");
        }
        // What came after it was bought, while the store failed, stands in any case.
        let rank = bought(purchase, 4000, Some(1000));
        assert_eq!(token_after(&revoked, rank, 6000), "t", "{rank:?}");
    }
}

#[test]
fn a_refresh_makes_no_record_where_there_is_none() {
    for purchase in PURCHASES {
        for before in [Before::Nothing, Before::Cancelled(1000), Before::Damaged] {
            let is_expected = purchase == Purchase::Exchange || matches!(before, Before::Damaged);
            for over in [None, Some(2000)] {
                let given = authorization("new", bought(purchase, 5000, over));
                let after = Merchant::authorize(before, &given, 6000);
                let is_made = matches!(after, Authorized::Applied(_));
                assert_eq!(is_made, is_expected, "{given:?} {before:?}");
            }
        }
    }
}

#[test]
fn what_was_bought_ranks_by_when_that_was_however_late_it_is_stored() {
    let after = |merchant: &Merchant, rank| match Merchant::authorize(
        Before::Record(merchant),
        &authorization("new", rank),
        9000,
    ) {
        Authorized::Applied(merchant) => Some((merchant.auth_time, merchant.auth_time_estimated)),
        _ => None,
    };
    let merchant = stored("old", 5000);
    for purchase in PURCHASES {
        for (at, over, expected) in [
            (6000, None, Some(6000)),
            // Whatever the two clocks say.
            (4000, None, Some(5001)),
            (4000, Some(5000), Some(5001)),
            // The store has failed since, and 5000 came meanwhile.
            (6000, Some(3000), Some(6000)),
            (5000, Some(3000), None),
            (4000, Some(i64::MIN), None),
            (9001 + AHEAD_MS, None, Some(9000)),
            (9001 + AHEAD_MS, Some(3000), Some(9000)),
        ] {
            let rank = bought(purchase, at, over);
            let expected = expected.map(|at| (at, true));
            assert_eq!(after(&merchant, rank), expected, "{rank:?}");
        }
    }
}

#[test]
fn a_refresh_goes_on_with_the_token_it_was_bought_for_whatever_the_times_say() {
    let after = |merchant: &Merchant, purchase, at| {
        let renews = Some(Secret::new("renewed".to_owned()));
        let given = Authorization {
            renews,
            ..authorization("new", bought(purchase, at, None))
        };
        match Merchant::authorize(Before::Record(merchant), &given, 9000) {
            Authorized::Applied(merchant) => Some(merchant.auth_time),
            _ => None,
        }
    };
    for purchase in [Purchase::Renewal, Purchase::Revival] {
        // Given again while the refresh was under way, it still is what the refresh goes on with.
        for (at, expected) in [(4000, 5001), (6000, 6000), (9001 + AHEAD_MS, 9000)] {
            let found = after(&stored("renewed", 5000), purchase, at);
            assert_eq!(found, Some(expected), "{purchase:?} {at}");
        }
        // Another that was authorised after the refresh was sent is newer.
        for (at, expected) in [(4999, None), (5000, None), (5001, Some(5001))] {
            let found = after(&stored("authorised", 5000), purchase, at);
            assert_eq!(found, expected, "{purchase:?} {at}");
        }
    }
}

#[test]
fn a_confirmed_cancellation_ends_the_token_asked_about_and_no_other() {
    let asked = stored("asked", 1000);
    let confirmed = Revocation::confirmed(&asked, 900);
    let status = asked.revoke(&confirmed, 5000).map(|m| m.status);
    assert_eq!(status, Some(MerchantStatus::Revoked { at: 1001 }));
    assert!(stored("other", 1000).revoke(&confirmed, 5000).is_none());
}

#[test]
fn a_cancellation_that_only_says_by_when_outranks_no_token_that_is_proved() {
    let merchant = stored("t", 1000);
    let revoked = |estimated| {
        let revocation = Revocation {
            estimated,
            ..Revocation::new(&merchant, Some(3000))
        };
        merchant.revoke(&revocation, 3500).expect("newer")
    };
    let question = |merchant: &Merchant, token, auth_time| {
        merchant.rank_if_proved(&authorization(token, Rank::AuthTime(auth_time)))
    };
    let by = revoked(true);
    for (auth_time, is_question) in [(1000, false), (1001, true), (3000, true), (3001, false)] {
        let over = 3000;
        let rank = is_question.then_some(Rank::Proved { auth_time, over });
        assert_eq!(question(&by, "new", auth_time), rank);
        assert_eq!(question(&by, "t", auth_time), None, "that one ended");
        assert_eq!(question(&revoked(false), "new", auth_time), None);
        assert_eq!(question(&merchant, "new", auth_time), None);
        // Unasked, it stays cancelled.
        let is_newer = auth_time > over;
        assert_eq!(
            token_after(&by, Rank::AuthTime(auth_time), 4000) == "new",
            is_newer
        );
    }
    let proved = |auth_time, over| Rank::Proved { auth_time, over };
    for (rank, token) in [
        (proved(1000, 3000), "t"),
        (proved(1001, 3000), "new"),
        (proved(1001, 2999), "t"),
        (proved(1001, 3001), "t"),
    ] {
        assert_eq!(token_after(&by, rank, 4000), token, "{rank:?}");
        assert_eq!(token_after(&revoked(false), rank, 4000), "t", "{rank:?}");
    }
    let given = authorization("new", proved(1001, 3000));
    let Authorized::Applied(after) = Merchant::authorize(Before::Record(&by), &given, 4000) else {
        panic!("it is proved");
    };
    let found = (after.auth_time, after.auth_time_estimated, after.status);
    assert_eq!(found, (1001, false, MerchantStatus::Authorized));
    assert!(!after.revoked_at_estimated);
}
