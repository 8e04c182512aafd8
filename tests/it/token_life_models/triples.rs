//! The triple: every source, times in any order, cancellations, refusals, conflicts.
//!
//! The model is written from the contract (§2 and §4), not from `Merchant`: who owns a token, what
//! ranks highest, what is suspect.

use std::collections::HashMap;

use alipay_sidecar::clock::Clock as _;
use alipay_sidecar::model::authorization::{
    Authorization, Doubt, Evidence, Purchase, Rank, Refusal, Revocation, Source,
};
use alipay_sidecar::model::merchant::MerchantStatus;
use alipay_sidecar::model::token::AppAuthToken;
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::store::error::StoreError;
use alipay_sidecar::store::{Change, Effect, MerchantKey};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::sequences;
use crate::store::{Fixture, START, app, authorization, merchant_app};

const DAY: i64 = 24 * 3600 * 1000;
const MERCHANTS: u32 = 2;

/// One thing that happens. Times are milliseconds from the start.
#[derive(Debug, Clone)]
enum Step {
    Authorize {
        merchant: u32,
        source: Source,
        rank: Rank,
        token: u8,
        refresh_token: Option<u8>,
        /// The token that a refresh bought it for.
        renews: Option<u8>,
    },
    Later(i64),
    Refused {
        merchant: u32,
        token: u8,
        doubt: Doubt,
        /// When it was refused, or Alipay asked.
        at: i64,
        evidence: Evidence,
    },
    Remove(u32),
    Revoke {
        merchant: u32,
        at: Option<i64>,
        estimated: bool,
    },
    Trust {
        merchant: u32,
        token: u8,
    },
    Worked {
        merchant: u32,
        token: u8,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let merchant = || 0..MERCHANTS;
    let time = || prop_oneof![8 => 0..40_i64, 1 => Just(400 * DAY), 1 => Just(DAY - 20)];
    let source = prop_oneof![
        Just(Source::Callback),
        Just(Source::Import),
        Just(Source::Push),
        Just(Source::Refresh)
    ];
    let purchase = prop_oneof![
        Just(Purchase::Exchange),
        Just(Purchase::Renewal),
        Just(Purchase::Revival)
    ];
    let bought = (purchase, time(), prop::option::of(time()));
    let bought = bought.prop_map(|(purchase, at, over)| Rank::Bought {
        purchase,
        at: START + at,
        over: over.map(|over| START + over),
    });
    let rank = prop_oneof![
        5 => time().prop_map(|at| Rank::AuthTime(START + at)),
        2 => time().prop_map(|at| Rank::EstimatedTime(START + at)),
        3 => (time(), time()).prop_map(|(at, over)| Rank::Proved {
            auth_time: START + at,
            over: START + over,
        }),
        2 => Just(Rank::AfterStored),
        1 => Just(Rank::Unranked),
        3 => bought,
    ];
    let doubt = prop_oneof![
        Just(Doubt::NewTokenRefused),
        Just(Doubt::RefreshTokenRefused),
        Just(Doubt::TokenRefused)
    ];
    let evidence = prop_oneof![
        2 => Just(Evidence::Invalid),
        2 => Just(Evidence::None),
        1 => Just(Evidence::WorkedSince),
    ];
    let refresh_token = prop::option::weighted(0.7, 0..3_u8);
    let renews = prop::option::of(0..5_u8);
    let authorize = (merchant(), source, rank, 0..5_u8, (refresh_token, renews)).prop_map(
        |(merchant, source, rank, token, (refresh_token, renews))| Step::Authorize {
            merchant,
            source,
            rank,
            token,
            refresh_token,
            renews: renews.filter(|_| is_refresh(rank)),
        },
    );
    let refused = (merchant(), 0..5_u8, doubt, (time(), evidence)).prop_map(
        |(merchant, token, doubt, (at, evidence))| Step::Refused {
            merchant,
            token,
            doubt,
            at,
            evidence,
        },
    );
    let trust = (merchant(), 0..5_u8).prop_map(|(merchant, token)| Step::Trust { merchant, token });
    let revoke = (merchant(), prop::option::of(time()), any::<bool>());
    prop_oneof![
        6 => authorize,
        3 => refused,
        3 => revoke.prop_map(|(merchant, at, estimated)| Step::Revoke {
            merchant,
            at,
            estimated,
        }),
        3 => (merchant(), 0..5_u8).prop_map(|(merchant, token)| Step::Worked { merchant, token }),
        2 => trust,
        3 => (1..15_i64).prop_map(Step::Later),
        1 => merchant().prop_map(Step::Remove),
    ]
}

fn is_refresh(rank: Rank) -> bool {
    match rank {
        Rank::Bought { purchase, .. } => purchase != Purchase::Exchange,
        _ => false,
    }
}

/// What the backend and the proxy may rely on, of one merchant.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    token: u8,
    refresh_token: Option<u8>,
    previous: Option<u8>,
    time: i64,
    estimated: bool,
    state: State,
    /// Its cancellation only says by when it was.
    by: bool,
    /// It counts as cancelled because its token was refused.
    inferred: bool,
    refresh_refused: bool,
    source: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Authorized,
    Revoked(i64),
    Suspect,
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Applied,
    Conflict,
    Missing,
    Stale,
}

#[derive(Default)]
struct Model {
    merchants: HashMap<u32, Known>,
    cancelled: HashMap<u32, i64>,
    owners: HashMap<u8, u32>,
}

impl Model {
    fn newest(&self, merchant: u32) -> Option<i64> {
        match self.merchants.get(&merchant) {
            None => self.cancelled.get(&merchant).copied(),
            Some(known) => match known.state {
                State::Revoked(at) => Some(at.max(known.time)),
                State::Authorized | State::Suspect => Some(known.time),
            },
        }
    }

    fn apply(&mut self, step: &Step, now: i64) -> Outcome {
        match step {
            Step::Authorize { .. } => self.authorize(step, now),
            Step::Later(_) => Outcome::Applied,
            Step::Refused {
                merchant,
                token,
                doubt,
                at,
                evidence,
            } => self.refused((*merchant, *token), *doubt, (START + at, *evidence), now),
            Step::Remove(merchant) => {
                self.owners.retain(|_, owner| owner != merchant);
                match self.merchants.remove(merchant) {
                    Some(_) => Outcome::Applied,
                    None => Outcome::Missing,
                }
            }
            Step::Revoke {
                merchant,
                at,
                estimated,
            } => self.revoke((*merchant, *estimated), at.map(|at| START + at), now),
            Step::Trust { merchant, token } => self.trusted(*merchant, *token),
            Step::Worked { merchant, token } => self.worked(*merchant, *token),
        }
    }

    fn authorize(&mut self, step: &Step, now: i64) -> Outcome {
        let Step::Authorize {
            merchant,
            source,
            rank,
            token,
            refresh_token,
            renews,
        } = step
        else {
            unreachable!("only called with one");
        };
        let before = self.merchants.get(merchant).cloned();
        let is_foreign = self
            .owners
            .get(token)
            .is_some_and(|owner| owner != merchant);
        // A token that was only learned replaces no pair, and undoes no cancellation.
        let is_known = before.is_some();
        let newest = self.newest(*merchant);
        let is_revoked = |known: &Known| matches!(known.state, State::Revoked(_));
        // A refresh makes no record, and the sidecar's own undoes no cancellation.
        let is_over = match rank {
            Rank::Bought { purchase, .. } => match (purchase, &before) {
                (Purchase::Exchange, _) => false,
                (_, None) => true,
                (Purchase::Renewal, Some(known)) => is_revoked(known),
                (Purchase::Revival, Some(_)) => false,
            },
            _ => false,
        };
        if is_over {
            return Outcome::Stale;
        }
        // Nobody buys in days to come.
        let bought_at = match rank {
            Rank::Bought { at, .. } if *at <= now + DAY => *at,
            _ => now,
        };
        let said = match rank {
            // The pair that it goes on with stands, or another has replaced it.
            Rank::Bought { .. } if renews.is_some() => {
                let stands = before.as_ref().map(|k| k.token) == *renews;
                (!stands).then_some(bought_at)
            }
            Rank::Bought {
                over: Some(over), ..
            } => Some(bought_at.max(over + 1)),
            Rank::Unranked if is_known && is_foreign => return Outcome::Conflict,
            Rank::Unranked if is_known => {
                self.owners.insert(*token, *merchant);
                return Outcome::Applied;
            }
            // Nobody's clock is a day ahead.
            Rank::AuthTime(at) | Rank::EstimatedTime(at) | Rank::Proved { auth_time: at, .. }
                if *at <= now + DAY =>
            {
                Some(*at)
            }
            Rank::AuthTime(_) | Rank::EstimatedTime(_) | Rank::Proved { .. }
                if before.as_ref().is_some_and(|k| k.token == *token) =>
            {
                return Outcome::Stale;
            }
            _ => None,
        };
        let is_proved = |known: &Known| match rank {
            Rank::Proved { over, .. } => known.by && known.state == State::Revoked(*over),
            _ => false,
        };
        let against = match &before {
            Some(known) if (known.inferred || is_proved(known)) && known.token != *token => {
                Some(known.time)
            }
            _ => newest,
        };
        // Alipay says of the token in force just what was guessed, and may bring what it lacks.
        let is_dated = match (rank, &before) {
            (Rank::AuthTime(at) | Rank::Proved { auth_time: at, .. }, Some(known)) => {
                let is_guess = known.estimated && known.time == *at;
                is_guess
                    && known.refresh_token.is_none()
                    && known.token == *token
                    && !is_revoked(known)
            }
            _ => false,
        };
        if !is_dated && said.is_some_and(|at| against.is_some_and(|against| at <= against)) {
            return Outcome::Stale;
        }
        if is_foreign {
            return Outcome::Conflict;
        }
        let previous = before.as_ref().and_then(|k| match k.token == *token {
            true => k.previous,
            false => Some(k.token),
        });
        // Of the same token, what isn't said is kept.
        let same = before.as_ref().filter(|k| k.token == *token);
        let refresh_token = refresh_token.or(same.and_then(|k| k.refresh_token));
        let known = Known {
            token: *token,
            refresh_token,
            previous,
            time: said
                .unwrap_or_else(|| newest.map_or(bought_at, |newest| bought_at.max(newest + 1))),
            estimated: said.is_none() || !matches!(rank, Rank::AuthTime(_) | Rank::Proved { .. }),
            state: State::Authorized,
            by: false,
            inferred: false,
            refresh_refused: before
                .as_ref()
                .is_some_and(|k| k.refresh_refused && k.refresh_token == refresh_token),
            source: source.as_str(),
        };
        // The same again, without a time of Alipay's, is no newer than it was.
        let is_repeated = before.is_some_and(|k| {
            let time = k.time;
            k.estimated
                && known.estimated
                && k == Known {
                    time,
                    ..known.clone()
                }
        });
        if is_repeated {
            return Outcome::Applied;
        }
        self.owners.insert(*token, *merchant);
        self.merchants.insert(*merchant, known);
        Outcome::Applied
    }

    fn revoke(&mut self, (merchant, by): (u32, bool), at: Option<i64>, now: i64) -> Outcome {
        let newest = self.newest(merchant);
        let at = at.map(|at| if at <= now + DAY { at } else { now });
        let Some(known) = self.merchants.get_mut(&merchant) else {
            if let Some(at) = at {
                let first = self.cancelled.entry(merchant).or_insert(at);
                *first = at.max(*first);
            }
            return Outcome::Missing;
        };
        let newest = newest.expect("it has a record");
        let at = match (at, known.state) {
            (None, State::Revoked(_)) => return Outcome::Stale,
            (None, _) => now.max(newest + 1),
            (Some(at), _) if known.inferred && at > known.time => at,
            (Some(at), _) if at <= newest => return Outcome::Stale,
            (Some(at), _) => at,
        };
        known.state = State::Revoked(at);
        (known.inferred, known.by) = (false, by);
        Outcome::Applied
    }

    fn refused(
        &mut self,
        (merchant, token): (u32, u8),
        doubt: Doubt,
        (at, evidence): (i64, Evidence),
        now: i64,
    ) -> Outcome {
        let newest = self.newest(merchant);
        let Some(known) = self.merchants.get_mut(&merchant) else {
            return Outcome::Missing;
        };
        if known.token != token || matches!(known.state, State::Revoked(_)) {
            return Outcome::Stale;
        }
        let before = known.clone();
        known.refresh_refused |= doubt == Doubt::RefreshTokenRefused;
        let at = if at <= now + DAY { at } else { now };
        known.state = match evidence {
            Evidence::Invalid => State::Revoked(at.max(newest.expect("a record") + 1)),
            Evidence::None => State::Suspect,
            Evidence::WorkedSince => known.state,
        };
        known.inferred = evidence == Evidence::Invalid;
        match *known == before {
            true => Outcome::Stale,
            false => Outcome::Applied,
        }
    }

    fn trusted(&mut self, merchant: u32, token: u8) -> Outcome {
        let Some(known) = self.merchants.get_mut(&merchant) else {
            return Outcome::Missing;
        };
        if known.token != token || known.state != State::Suspect {
            return Outcome::Stale;
        }
        known.state = State::Authorized;
        Outcome::Applied
    }

    fn worked(&mut self, merchant: u32, token: u8) -> Outcome {
        let Some(known) = self.merchants.get_mut(&merchant) else {
            return Outcome::Missing;
        };
        let is_news = known.previous.is_some() || known.state == State::Suspect;
        if known.token != token || matches!(known.state, State::Revoked(_)) || !is_news {
            return Outcome::Stale;
        }
        known.previous = None;
        known.state = State::Authorized;
        Outcome::Applied
    }
}

fn text(kind: &str, sequence: u32, n: u8) -> Secret<String> {
    Secret::new(format!("{kind}-{sequence}-{n}"))
}

/// The merchants of a sequence: each has its own, so that one store serves all.
fn id(sequence: u32, merchant: u32) -> u32 {
    10 * sequence + merchant
}

fn change(sequence: u32, step: &Step) -> Change {
    let of = |merchant: u32| (app(), merchant_app(id(sequence, merchant)));
    match step {
        Step::Authorize {
            merchant,
            source,
            rank,
            token,
            refresh_token,
            renews,
        } => Change::Authorize {
            authorization: Box::new(Authorization {
                token: AppAuthToken {
                    app_auth_token: text("t", sequence, *token),
                    app_refresh_token: refresh_token.map(|n| text("r", sequence, n)),
                    stated_expiry: None,
                },
                source: *source,
                renews: renews.map(|n| text("t", sequence, n)),
                ..authorization(id(sequence, *merchant), "replaced", *rank)
            }),
            entry: None,
        },
        Step::Later(_) => unreachable!("not the store's business"),
        Step::Refused {
            merchant,
            token,
            doubt,
            at,
            evidence,
        } => {
            let (app_id, auth_app_id) = of(*merchant);
            let refusal = Refusal {
                app_id,
                auth_app_id,
                app_auth_token: text("t", sequence, *token),
                doubt: *doubt,
                at: START + at,
                evidence: *evidence,
            };
            Change::Doubt {
                refusal,
                entry: None,
            }
        }
        Step::Remove(merchant) => {
            let (app_id, auth_app_id) = of(*merchant);
            Change::RemoveMerchant(app_id, auth_app_id)
        }
        Step::Revoke {
            merchant,
            at,
            estimated,
        } => {
            let (app_id, auth_app_id) = of(*merchant);
            Change::Revoke {
                revocation: Revocation {
                    app_id,
                    auth_app_id,
                    at: at.map(|at| START + at),
                    estimated: *estimated,
                    only: None,
                },
                entry: None,
            }
        }
        Step::Trust { merchant, token } => {
            let (app_id, auth_app_id) = of(*merchant);
            Change::Trust {
                app_id,
                auth_app_id,
                app_auth_token: text("t", sequence, *token),
            }
        }
        Step::Worked { merchant, token } => {
            let (app_id, auth_app_id) = of(*merchant);
            Change::Worked {
                app_id,
                auth_app_id,
                app_auth_token: text("t", sequence, *token),
            }
        }
    }
}

async fn play(fixture: &Fixture, sequence: u32, steps: &[Step]) {
    fixture.clock.advance_ms(START - fixture.clock.now_ms());
    let mut model = Model::default();
    for step in steps {
        if let Step::Later(time) = step {
            fixture.clock.advance_ms(*time);
            continue;
        }
        let expected = model.apply(step, fixture.clock.now_ms());
        let found = fixture.store.commit(vec![change(sequence, step)]).await;
        let found = match found {
            Err(StoreError::TokenConflict { .. }) => Outcome::Conflict,
            Err(other) => panic!("{other}"),
            Ok(effects) => match effects.first() {
                Some(Effect::Applied) => Outcome::Applied,
                Some(Effect::Missing) => Outcome::Missing,
                Some(Effect::Stale) => Outcome::Stale,
                other => panic!("{other:?}"),
            },
        };
        assert_eq!(found, expected, "{step:?}");
        for merchant in 0..MERCHANTS {
            let known = known(fixture, sequence, merchant).await;
            assert_eq!(known.as_ref(), model.merchants.get(&merchant), "{step:?}");
        }
    }
    for token in 0..5 {
        let key = MerchantKey::Token(text("t", sequence, token));
        let found = fixture.store.find(key).await.expect("readable").pop();
        let owner = model.owners.get(&token);
        let owner = owner.map(|merchant| merchant_app(id(sequence, *merchant)));
        assert_eq!(found.map(|m| m.auth_app_id), owner, "token {token}");
    }
}

async fn known(fixture: &Fixture, sequence: u32, merchant: u32) -> Option<Known> {
    let key = MerchantKey::Exact(app(), merchant_app(id(sequence, merchant)));
    let found = fixture.store.find(key).await.expect("readable").pop()?;
    let number = |secret: &Secret<String>| {
        let digits = secret.expose().rsplit('-').next();
        digits.and_then(|n| n.parse().ok()).expect("a number")
    };
    let refresh_token = found.token.app_refresh_token.as_ref();
    Some(Known {
        token: number(&found.token.app_auth_token),
        refresh_token: refresh_token.map(number),
        previous: found
            .previous_token
            .as_ref()
            .map(|pair| number(&pair.app_auth_token)),
        time: found.auth_time,
        inferred: matches!(found.status, MerchantStatus::Revoked { .. }) && found.doubt.is_some(),
        estimated: found.auth_time_estimated,
        by: found.revoked_at_estimated,
        state: match found.status {
            MerchantStatus::Authorized => State::Authorized,
            MerchantStatus::Revoked { at } => State::Revoked(at),
            MerchantStatus::Suspect { .. } => State::Suspect,
        },
        refresh_refused: found.refresh_refused,
        source: found.source.as_str(),
    })
}

#[test]
fn a_triple_does_what_its_model_does() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let fixture = Fixture::embedded();
    let sequence = std::cell::Cell::new(0);
    let config = Config {
        cases: sequences(300),
        failure_persistence: None,
        ..Config::default()
    };
    let steps = prop::collection::vec(step(), 1..24);
    let result = TestRunner::new(config).run(&steps, |steps| {
        sequence.set(sequence.get() + 1);
        runtime.block_on(play(&fixture, sequence.get(), &steps));
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
}
