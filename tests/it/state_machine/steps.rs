//! Random histories: commits of few things with few names, so that they meet often.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::DAY_MS;

pub(super) const ALIASES: u8 = 2;
pub(super) const MEMOS: u8 = 3;
pub(super) const MERCHANTS: u8 = 3;
pub(super) const TOKENS: u8 = 5;
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

/// One change of a commit; times are from now on, entries are numbered.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// The same entry once more.
    Again(usize),
    Authorize {
        merchant: u8,
        token: u8,
        at: Option<i64>,
        alias: Option<u8>,
        /// The entry that goes with it, if any, and its `notify_id`, if any.
        told: Option<Option<u8>>,
    },
    Name {
        merchant: u8,
        alias: Option<u8>,
    },
    Postpone {
        which: usize,
        by: i64,
    },
    Receive {
        notify: Option<u8>,
        order: Option<(u8, u8)>,
    },
    Remember {
        key: u8,
        value: u8,
        by: i64,
    },
    Remove {
        merchant: u8,
    },
    Replay {
        which: usize,
    },
    Revoke {
        merchant: u8,
        at: Option<i64>,
        told: Option<Option<u8>>,
    },
    Settle {
        which: usize,
        /// `None`: delivered; `Some(None)`: given up.
        end: Option<Option<i64>>,
    },
}

/// A whole history.
pub(super) fn history() -> impl Strategy<Value = Vec<Op>> {
    vec(op(), 1..40)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => vec(step(), 1..2).prop_map(Op::Commit),
        3 => vec(step(), 2..4).prop_map(Op::Commit),
        3 => jump().prop_map(Op::Jump),
        1 => (0..2 * DAY_MS).prop_map(Op::Prune),
        1 => Just(Op::Repeat),
    ]
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
        6 => settle(),
        2 => (any::<usize>(), 1..HOUR_MS).prop_map(|(which, by)| Step::Postpone { which, by }),
        2 => any::<usize>().prop_map(|which| Step::Replay { which }),
        2 => (0..MEMOS, any::<u8>(), 1..DAY_MS)
            .prop_map(|(key, value, by)| Step::Remember { key, value, by }),
        4 => merchant(),
    ]
}

fn settle() -> impl Strategy<Value = Step> {
    let retry = (1..HOUR_MS).prop_map(|by| Some(Some(by)));
    let end = prop_oneof![3 => Just(None), 1 => Just(Some(None)), 2 => retry];
    (any::<usize>(), end).prop_map(|(which, end)| Step::Settle { which, end })
}

fn merchant() -> impl Strategy<Value = Step> {
    let at = || option::of(-3..3_i64);
    let told = || option::of(option::of(0..NOTIFY_IDS));
    let alias = || option::of(0..ALIASES);
    let given = (0..MERCHANTS, 0..TOKENS, at(), alias(), told());
    prop_oneof![
        4 => given.prop_map(|(merchant, token, at, alias, told)| Step::Authorize {
            merchant,
            token,
            at,
            alias,
            told,
        }),
        2 => (0..MERCHANTS, at(), told())
            .prop_map(|(merchant, at, told)| Step::Revoke { merchant, at, told }),
        1 => (0..MERCHANTS, alias()).prop_map(|(merchant, alias)| Step::Name { merchant, alias }),
        1 => (0..MERCHANTS).prop_map(|merchant| Step::Remove { merchant }),
    ]
}
