//! The kinds of change a store takes, so that no proof can pass one over without a word.

use std::collections::BTreeSet;

use alipay_sidecar::store::Change;

macro_rules! kinds {
    ($($kind:ident)*) => {
        /// All there are.
        const ALL: &[&str] = &[$(stringify!($kind)),*];

        /// What kind of change it is. One that is new to the store must be named here to compile,
        /// and then be made by every proof that calls [`check_made`].
        pub(crate) fn kind(change: &Change) -> &'static str {
            match change {
                $(Change::$kind { .. } => stringify!($kind),)*
            }
        }
    };
}

kinds! {
    Accompany
    Authorize
    Claim
    Doubt
    Extend
    FetchedKey
    FillPid
    ForgetUser
    KeepCertificate
    KeepUserToken
    KeepVariant
    NameMerchant
    OfAuthorization
    Park
    Postpone
    PutApp
    Receive
    RecordCalls
    Refuse
    Rejudge
    Release
    ReleaseContent
    Remember
    RemoveApp
    RemoveMerchant
    Replay
    Revoke
    Settle
    Trust
    Unremember
    Worked
}

/// Fails unless `made`, and what is `left_out` and why, are all kinds there are.
pub(crate) fn check_made(made: &BTreeSet<&'static str>, left_out: &[(&'static str, &str)]) {
    let out: BTreeSet<_> = left_out.iter().map(|(kind, _)| *kind).collect();
    let neither = ALL
        .iter()
        .filter(|k| !made.contains(*k) && !out.contains(*k));
    let neither: Vec<_> = neither.collect();
    assert!(neither.is_empty(), "neither made nor left out: {neither:?}");
    let both: Vec<_> = made.intersection(&out).collect();
    assert!(both.is_empty(), "said to be left out, and made: {both:?}");
    let reasons = left_out.iter().all(|(_, why)| !why.is_empty());
    assert!(reasons, "why is {left_out:?} left out?");
}

#[test]
#[should_panic(expected = "neither made nor left out")]
fn a_kind_that_is_passed_over_is_noticed() {
    let made = ALL[1..].iter().copied().collect();
    check_made(&made, &[]);
}
