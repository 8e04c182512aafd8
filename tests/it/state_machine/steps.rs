//! Random histories: commits of few things with few names, so that they meet often.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::model::DAY_MS;

pub(super) const ALIASES: u8 = 2;
pub(super) const APPS: u8 = 2;
pub(super) const CONTENTS: u8 = 4;
pub(super) const MEMOS: u8 = 3;
pub(super) const MERCHANTS: u8 = 3;
pub(super) const PIDS: u8 = 2;
pub(super) const TOKENS: u8 = 5;
/// How many names each of calls, keys, certificates and users there are.
pub(super) const NAMES: u8 = 2;
/// How many merchants have users.
pub(super) const USED: u8 = 2;
const NOTIFY_IDS: u8 = 8;
const ORDERS: u8 = 2;
const HOUR_MS: i64 = 3_600_000;

/// What happens between two comparisons.
#[derive(Debug, Clone)]
pub(super) enum Op {
    Commit(Vec<Step>),
    /// The clock goes on, or back.
    Jump(i64),
    /// What is older than this is forgotten.
    Prune(i64),
    /// The last commit, once more.
    Repeat,
}

/// One change of a commit, as a rule; times are from now on, entries are numbered.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// What was refused is taken after all.
    Accept(usize),
    Accompany,
    /// The same entry once more.
    Again(usize),
    Authorize {
        merchant: u8,
        token: u8,
        /// Which rank, and its time.
        rank: (u8, i64),
        alias: Option<u8>,
        pid: Option<u8>,
        key: Option<u8>,
        source: u8,
        told: Told,
    },
    Claim {
        which: Which,
        by: i64,
    },
    Doubt {
        merchant: u8,
        /// The one in force, or another.
        token: Option<u8>,
        doubt: u8,
        evidence: u8,
        told: Told,
    },
    Extend {
        which: Which,
        by: i64,
    },
    FetchedKey {
        merchant: u8,
        key: u8,
    },
    FillPid {
        merchant: u8,
        pid: u8,
    },
    ForgetUser {
        user: User,
        /// Only this token, or the one in force.
        only: Option<Option<u8>>,
        /// Only what was obtained this long ago.
        before: Option<i64>,
    },
    KeepCertificate {
        app: u8,
        sn: u8,
    },
    KeepUser {
        user: User,
        other_name: Option<u8>,
        token: u8,
        /// Only in the place of this token, or the one in force.
        replaces: Option<Option<u8>>,
        by: i64,
    },
    KeepVariant {
        which: usize,
        content: u8,
    },
    Name {
        merchant: u8,
        alias: Option<u8>,
    },
    /// What is learned, together with the last authorisation before it.
    OfAuthorization {
        in_force: bool,
        step: Box<Self>,
    },
    PutApp(u8),
    PutOff {
        which: usize,
        by: i64,
        parked: bool,
    },
    Receive {
        notify: Option<u8>,
        order: Option<(u8, u8)>,
    },
    RecordCalls {
        /// Their names, and whether each is an old one.
        calls: Vec<(Option<u8>, bool)>,
        /// For how many there is room.
        room: u64,
    },
    Refuse {
        content: u8,
        kind: u8,
        again: bool,
    },
    Rejudge {
        which: usize,
        kind: u8,
    },
    Release(usize),
    ReleaseContent(usize),
    Remember {
        key: u8,
        value: u8,
        by: i64,
    },
    Remove {
        merchant: u8,
    },
    RemoveApp(u8),
    Replay {
        which: Which,
    },
    Revoke {
        merchant: u8,
        at: Option<i64>,
        /// Only this token, or the one in force.
        only: Option<Option<u8>>,
        told: Told,
    },
    Settle {
        which: Which,
        /// `None`: delivered; `Some(None)`: given up.
        end: Option<Option<i64>>,
        pulled: bool,
        /// Whether it was begun for what is owed now; `None`: nobody says.
        owed: Option<bool>,
    },
    Unremember(u8),
    Used {
        merchant: u8,
        token: Option<u8>,
        /// It worked, or Alipay says that it holds.
        worked: bool,
    },
}

/// The entry that goes with it, if any, and its `notify_id`, if any.
pub(super) type Told = Option<Option<u8>>;

/// Which delivery: one that is fit for it, or any.
#[derive(Debug, Clone, Copy)]
pub(super) struct Which {
    pub(super) fit: bool,
    pub(super) number: usize,
}

/// The user of a merchant, or of the app itself, by one of two kinds of name.
#[derive(Debug, Clone, Copy)]
pub(super) struct User {
    pub(super) merchant: Option<u8>,
    pub(super) is_open: bool,
    pub(super) name: u8,
}

/// The first authorisation of a merchant, with the token of its number.
pub(super) fn merchant(n: u8) -> Step {
    Step::Authorize {
        merchant: n,
        token: n,
        rank: (0, 0),
        alias: None,
        pid: None,
        key: None,
        source: 1,
        told: None,
    }
}

/// A whole history.
pub(super) fn history() -> impl Strategy<Value = Vec<Op>> {
    vec(op(), 1..40)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => vec(step(), 1..2).prop_map(Op::Commit),
        4 => vec(step(), 2..4).prop_map(Op::Commit),
        1 => imported().prop_map(Op::Commit),
        3 => jump().prop_map(Op::Jump),
        1 => (0..2 * DAY_MS).prop_map(Op::Prune),
        1 => Just(Op::Repeat),
    ]
}

/// A line of an export, or one that comes again.
fn imported() -> impl Strategy<Value = Vec<Step>> {
    let told = (any::<bool>(), learned()).prop_map(|(in_force, step)| Step::OfAuthorization {
        in_force,
        step: Box::new(step),
    });
    let authorized = (0..MERCHANTS, 0..TOKENS, 0..2_u8, -3..3_i64);
    (authorized, vec(told, 1..3)).prop_map(|((merchant, token, rank, at), told)| {
        let authorized = Step::Authorize {
            merchant,
            token,
            rank: ([1, 2][usize::from(rank)], at),
            alias: None,
            pid: None,
            key: None,
            source: 0,
            told: None,
        };
        std::iter::once(authorized).chain(told).collect()
    })
}

fn jump() -> impl Strategy<Value = i64> {
    prop_oneof![
        4 => 1..1000_i64,
        3 => 1..3 * HOUR_MS,
        2 => -4 * HOUR_MS..0,
        1 => 1..40 * DAY_MS,
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (option::of(0..NOTIFY_IDS), option::of((0..MERCHANTS, 0..ORDERS)))
            .prop_map(|(notify, order)| Step::Receive { notify, order }),
        1 => any::<usize>().prop_map(Step::Again),
        9 => delivery(),
        2 => memo(),
        6 => merchants(),
        5 => learned(),
        2 => (any::<bool>(), prop_oneof![4 => learned(), 1 => merchants()])
            .prop_map(|(in_force, step)| Step::OfAuthorization { in_force, step: Box::new(step) }),
        6 => quarantine(),
        6 => kept(),
    ]
}

fn which() -> impl Strategy<Value = Which> {
    (prop::bool::weighted(0.8), any::<usize>()).prop_map(|(fit, number)| Which { fit, number })
}

fn delivery() -> impl Strategy<Value = Step> {
    let by = || 1..HOUR_MS;
    let retry = by().prop_map(|by| Some(Some(by)));
    let end = prop_oneof![3 => Just(None), 1 => Just(Some(None)), 2 => retry];
    let owed = option::of(prop::bool::weighted(0.7));
    prop_oneof![
        6 => (which(), end, any::<bool>(), owed).prop_map(|(which, end, pulled, owed)| {
            Step::Settle { which, end, pulled, owed }
        }),
        4 => (which(), by()).prop_map(|(which, by)| Step::Claim { which, by }),
        2 => (which(), by()).prop_map(|(which, by)| Step::Extend { which, by }),
        3 => (any::<usize>(), by(), any::<bool>())
            .prop_map(|(which, by, parked)| Step::PutOff { which, by, parked }),
        2 => which().prop_map(|which| Step::Replay { which }),
    ]
}

fn memo() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..MEMOS, any::<u8>(), 1..DAY_MS)
            .prop_map(|(key, value, by)| Step::Remember { key, value, by }),
        2 => (0..MEMOS).prop_map(Step::Unremember),
    ]
}

fn told() -> impl Strategy<Value = Told> {
    option::of(option::of(0..NOTIFY_IDS))
}

/// The token in force, as a rule.
fn token() -> impl Strategy<Value = Option<u8>> {
    option::weighted(0.2, 0..TOKENS)
}

fn merchants() -> impl Strategy<Value = Step> {
    let alias = || option::weighted(0.3, 0..ALIASES);
    let who = (0..MERCHANTS, 0..TOKENS, 0..8_u8, -3..3_i64, 0..3_u8);
    let what = (
        alias(),
        option::of(0..PIDS),
        option::weighted(0.2, 0..NAMES),
        told(),
    );
    let cancelled = (
        0..MERCHANTS,
        option::of(-3..3_i64),
        option::of(token()),
        told(),
    );
    prop_oneof![
        5 => (who, what).prop_map(|(who, what)| {
            let (merchant, token, rank, at, source) = who;
            let (alias, pid, key, told) = what;
            let rank = (rank, at);
            Step::Authorize { merchant, token, rank, alias, pid, key, source, told }
        }),
        3 => cancelled.prop_map(|(merchant, at, only, told)| {
            Step::Revoke { merchant, at, only, told }
        }),
        2 => (0..MERCHANTS, alias()).prop_map(|(merchant, alias)| Step::Name { merchant, alias }),
        1 => (0..MERCHANTS).prop_map(|merchant| Step::Remove { merchant }),
        1 => Just(Step::Accompany),
    ]
}

fn learned() -> impl Strategy<Value = Step> {
    let doubt = (0..MERCHANTS, token(), 0..3_u8, 0..4_u8, told());
    prop_oneof![
        4 => doubt.prop_map(|(merchant, token, doubt, evidence, told)| {
            Step::Doubt { merchant, token, doubt, evidence, told }
        }),
        7 => (0..MERCHANTS, token(), prop::bool::weighted(0.45))
            .prop_map(|(merchant, token, worked)| Step::Used { merchant, token, worked }),
        2 => (0..MERCHANTS, 0..NAMES)
            .prop_map(|(merchant, key)| Step::FetchedKey { merchant, key }),
        3 => (0..MERCHANTS, 0..PIDS).prop_map(|(merchant, pid)| Step::FillPid { merchant, pid }),
    ]
}

fn quarantine() -> impl Strategy<Value = Step> {
    let refused = (0..CONTENTS, 0..5_u8, prop::bool::weighted(0.1));
    prop_oneof![
        4 => refused.prop_map(|(content, kind, again)| Step::Refuse { content, kind, again }),
        1 => (any::<usize>(), 0..5_u8).prop_map(|(which, kind)| Step::Rejudge { which, kind }),
        1 => any::<usize>().prop_map(Step::Release),
        1 => any::<usize>().prop_map(Step::ReleaseContent),
        1 => any::<usize>().prop_map(Step::Accept),
        2 => (any::<usize>(), 0..6_u8)
            .prop_map(|(which, content)| Step::KeepVariant { which, content }),
    ]
}

fn user() -> impl Strategy<Value = User> {
    let parts = (option::of(0..USED), any::<bool>(), 0..NAMES);
    parts.prop_map(|(merchant, is_open, name)| User {
        merchant,
        is_open,
        name,
    })
}

fn kept() -> impl Strategy<Value = Step> {
    let calls = vec((option::of(0..NAMES), prop::bool::weighted(0.2)), 1..4);
    let only = || option::weighted(0.4, token());
    let kept = (
        user(),
        option::of(0..NAMES),
        0..TOKENS,
        only(),
        1..3 * DAY_MS,
    );
    prop_oneof![
        3 => (calls, 0..6_u64).prop_map(|(calls, room)| Step::RecordCalls { calls, room }),
        4 => kept.prop_map(|(user, other_name, token, replaces, by)| {
            Step::KeepUser { user, other_name, token, replaces, by }
        }),
        3 => (user(), only(), option::weighted(0.4, 0..2 * DAY_MS)).prop_map(
            |(user, only, before)| Step::ForgetUser { user, only, before }
        ),
        2 => (0..APPS).prop_map(Step::PutApp),
        2 => (0..APPS).prop_map(Step::RemoveApp),
        2 => (0..APPS, 0..NAMES).prop_map(|(app, sn)| Step::KeepCertificate { app, sn }),
    ]
}
